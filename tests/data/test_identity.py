"""Data that changed between two starts of a run."""

from __future__ import annotations

import json
import shutil

import ml_collections
import numpy as np
from PIL import Image
import pytest

from dynashare_jax import types
from dynashare_jax.data import identity
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.pictures import store_writer

SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
YAML = """
pictures: images
table: labels.csv
tasks:
  depth: {kind: depth, labels: depth, scale: 0.001}
  age: {kind: number}
  kind: {kind: multiclass}
splits: {train: 0.6, test: 0.4}
"""


def _build(root, **values):
  config = ml_collections.ConfigDict({**folder.defaults(), "validation_share": 0.4, **values})
  return folder.build(config, SWITCHES, str(root), 0)


def _add(root, names):
  with open(root / "labels.csv", "a") as file:
    for i, name in enumerate(names):
      for part, stored in (("images", np.full((4, 6, 3), 9 * i, np.uint8)),) + (
        ("depth", np.full((4, 6), 1000 + i, np.uint16)),
      ):
        (root / part).mkdir(exist_ok=True)
        Image.fromarray(stored).save(root / part / f"{name}.png", compress_level=0)
      file.write(f"{name},{20 + i},{'ab'[i % 2]}\n")


@pytest.fixture
def root(tmp_path):
  """Ten pictures with depth, and a row each."""
  (tmp_path / "dataset.yaml").write_text(YAML)
  (tmp_path / "labels.csv").write_text("file,age,kind\n")
  _add(tmp_path, [f"{i:02}" for i in range(10)])
  return tmp_path


def _change(root, how):
  """Changes one thing; returns what is said of it."""
  table = root / "labels.csv"
  if how == "grown":
    _add(root, [f"new{i}" for i in range(5)])
    return "train had 4 examples and has 5"
  if how == "cell":
    table.write_text(table.read_text().replace("04,24,a", "04,24,b"))
    return "labels in tables differ"
  if how == "class":
    table.write_text(table.read_text().replace("04,24,a", "04,24,c"))
    return r'kind was .*"outputs": 2.* and is .*"outputs": 3'
  if how == "contents":
    for name in ("depth/00.png", "depth/01.png", "depth/02.png"):
      Image.fromarray(np.full((4, 6), 2500, np.uint16)).save(root / name, compress_level=0)
    return r"the example '0\d' of .*: its depth has other values .*, now \[2.5, 0.0\]"
  if how == "sizes":
    Image.fromarray(np.full((4, 6), 1003, np.uint16)).save(root / "depth/03.png", compress_level=9)
    return "sizes of files differ"
  if how == "damaged":
    for name in _build(root).source("test").keys:  # of training the first is read at once
      (root / "images" / f"{name}.png").write_bytes(b"")
    return "of test: it cannot be read"
  (root / "dataset.yaml").write_text(YAML.replace("0.001", "0.001, range: [0, 50]"))
  return "descriptions of the tasks differ"


def _before(root, **values):
  """The identity after a way through JSON, and the tasks."""
  dataset = _build(root, **values)
  return json.loads(json.dumps(identity.of(dataset))), dataset.spec.tasks


def test_the_same_data_are_the_same(root, tmp_path_factory):
  """Also at another place, as a copy, and with other words in the description."""
  before, tasks = _before(root)
  copy = tmp_path_factory.mktemp("copies") / "copy"
  config = ml_collections.ConfigDict(folder.defaults())
  store_writer.convert(folder.original(config, SWITCHES, str(root)), "folder", str(copy))
  elsewhere = copy.parent / "moved"
  shutil.copytree(root, elsewhere)
  (elsewhere / "dataset.yaml").write_text(f"# moved\nname: x\nroot: {elsewhere}{YAML}")
  for place in (root, copy, elsewhere):
    dataset = _build(place)
    assert not identity.differences(before, identity.of(dataset))
    assert identity.kept(dataset, before, tasks, "refuse", "there") is dataset
  # A part that an older version did not write is not compared.
  assert not identity.differences({"examples": before["examples"]}, before)


@pytest.mark.parametrize(
  "how", ["grown", "cell", "class", "contents", "sizes", "damaged", "description"]
)
def test_a_change_is_named_and_refused(root, how):
  before, tasks = _before(root)
  told = _change(root, how)
  dataset = _build(root)
  with pytest.raises(identity.ChangedError, match=f"(?s)data of there are not.*{told}.*=old"):
    identity.kept(dataset, before, tasks, "refuse", "there")
  if how == "class":  # no network has other outputs than it was made with
    with pytest.raises(identity.ChangedError, match=told):
      identity.kept(dataset, before, tasks, "allow", "there")
    return
  kept = identity.kept(dataset, before, tasks, "allow", "there")
  assert kept.spec.sizes == dataset.spec.sizes and kept.spec.tasks == tasks


def test_old_lists_are_kept(root):
  before, tasks = _before(root)
  old = {split: _build(root).source(split).keys for split in types.SPLITS}
  want = _build(root).arrays("train")
  _change(root, "grown")
  dataset = _build(root)
  assert {*dataset.source("test").keys} & {*old["train"], *old["validation"]}  # the danger
  assert dataset.spec.tasks[1].center != tasks[1].center
  kept = identity.kept(dataset, before, tasks, "old", "there")
  assert {split: kept.source(split).keys for split in types.SPLITS} == old
  assert kept.spec.sizes == {split: len(keys) for split, keys in old.items()}
  assert kept.spec.tasks == tasks and kept.augment == dataset.augment
  for task in want.targets:
    np.testing.assert_array_equal(kept.arrays("train").targets[task], want.targets[task])
  (root / "images" / f"{old['test'][0]}.png").unlink()
  with pytest.raises(identity.ChangedError, match=f"1 of them are gone, first '{old['test'][0]}'"):
    identity.kept(_build(root), before, tasks, "old", "there")


def test_private_values_are_not_told():
  secret = np.float32([[1.25, 2], [3, 4], [5, 6]])
  make = lambda array: types.Dataset(
    types.DatasetSpec(
      *("p", (types.TaskSpec("t", "binary"),), "series", (2,), {"train": 3}), private=True
    ),
    arrays=lambda split: None,
    source=lambda split: [
      types.Batch(row, {"t": np.float32(1)}, {"t": np.bool_(True)}, np.bool_(True)) for row in array
    ],
  )
  before = identity.of(make(secret))
  assert not any("." in str(value) or "[" in str(value) for value in before["sample"].values())
  secret = secret.copy()
  secret[2, 0] += 1e-3
  assert identity.differences(before, identity.of(make(secret))) == [
    "the example '2' of train: it has other contents"
  ]


def test_columns_of_a_table_are_compared():
  def of(values, numeric):
    table = types.TableSpec(("colour",), (3,), (numeric,), ((0.0, 1.0),), (values,))
    spec = types.DatasetSpec("t", (), "table", (2,), {}, table)
    return identity.of(types.Dataset(spec, lambda split: None, lambda split: []))

  first = of(("red", "blue"), "size")
  assert not identity.differences(first, of(("red", "blue"), "size"))
  (found,) = identity.differences(first, of(("red", "blue"), "width"))
  assert found == 'numeric was ["size"] and is ["width"]'
  (found,) = identity.differences(first, of(("blue", "red"), "size"))
  assert found.startswith("categories was ")


def test_data_that_grew_between_two_starts(data_folder, tmp_path):
  root = data_folder / "faults" / "grows_between_starts"
  if not root.is_dir():
    pytest.skip(f"no {root}")
  place = tmp_path / "data"
  shutil.copytree(root, place)
  before, tasks = _before(place)
  shutil.copytree(f"{root}_more", place, dirs_exist_ok=True)
  with pytest.raises(identity.ChangedError, match="test had 4 examples and has 6; .* new in"):
    identity.kept(_build(place), before, tasks, "refuse", str(place))
  kept = identity.kept(_build(place), before, tasks, "old", str(place))
  assert {s: list(kept.source(s).keys) for s in types.SPLITS} == before["names"]
