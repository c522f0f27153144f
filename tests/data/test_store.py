"""Converted copies: the same examples, bit for bit, and never half of them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import jax
import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import store_writer

SIZE = (6, 8)
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})

pytest.importorskip("array_record", reason="pip install dynashare-jax[tfds]")
pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def raw(tmp_path):
  """Twelve examples with five tasks; only every third has depth."""
  path = tmp_path / "raw"
  rng = np.random.default_rng(0)
  for part in ("images", "parts", "depth", "normals", "flow"):
    (path / part).mkdir(parents=True)
  for i in range(12):
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(image).save(path / "images" / f"{i}.jpg")
    Image.fromarray(rng.integers(0, 4, SIZE).astype(np.uint8)).save(path / "parts" / f"{i}.png")
    if i % 3 == 2:
      Image.fromarray(rng.integers(0, 9000, SIZE).astype(np.uint16)).save(
        path / "depth" / f"{i}.png"
      )
    normals = rng.normal(size=(*SIZE, 3)).astype(np.float16)
    np.save(path / "normals" / f"{i}.npy", normals)
    flow = rng.normal(size=(*SIZE, 2)).astype(">f8")
    flow[0, 0] = np.nan
    np.save(path / "flow" / f"{i}.npy", flow)
  (path / "dataset.yaml").write_text(
    yaml.safe_dump(
      {
        "pictures": "images",
        "tasks": {
          "parts": {
            "kind": "segmentation",
            "labels": "parts",
            "classes": ["a", "b", "c"],
            "map": {0: 2, 1: 1, 2: 0},
            "ignore": [3],
          },
          "depth": {"kind": "depth", "labels": "depth", "scale": 0.001},
          "normals": {"kind": "normals", "labels": "normals"},
          "flow": {"kind": "regression", "labels": "flow", "outputs": 2},
        },
        "splits": {"train": 0.75, "test": 0.25},
      },
      sort_keys=False,
    )
  )
  return path


def _config(**values):
  return ml_collections.ConfigDict({**folder.defaults(), "validation_share": 0.25, **values})


def _build(path, **values):
  return folder.build(_config(**values), SWITCHES, str(path), 0)


def _convert(raw, output, **values):
  original = folder.original(_config(**values), SWITCHES, str(raw))
  store_writer.convert(original, "folder", str(output))
  return output


def _same(one, other):
  assert one.spec.tasks == other.spec.tasks
  assert one.spec.sizes == other.spec.sizes
  for split in types.SPLITS:
    first, second = one.source(split), other.source(split)
    assert first.keys == second.keys
    for a, b in zip(first, second, strict=True):
      assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]
      jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_copy_gives_the_same_examples_in_the_same_order(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy")
  original, converted = _build(raw), _build(copy)
  assert original.spec.sizes == {"train": 7, "validation": 2, "test": 3}
  _same(original, converted)
  # Raw fields too, absent labels included.
  for key in original.source("train").keys:
    a, b = (d.source("train").read(key) for d in (original, converted))
    assert list(a) == list(b) and ("depth" in a) == (int(key) % 3 == 2)
    for name, array in a.items():
      assert array.dtype.newbyteorder("=") == b[name].dtype
      np.testing.assert_array_equal(array, b[name])
  assert (
    converted.spec.notes[0].startswith("found: converted copy of ")
    and "(9 train, 3 test)" in (converted.spec.notes[0])
  )


def test_options_still_count_on_a_copy(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy")
  for values in (
    dict(tasks=("normals", "parts")),
    dict(validation="test"),
    dict(height=3, width=4),
    dict(split_seed=5),
  ):
    _same(_build(raw, **values), _build(copy, **values))


def test_a_copy_of_a_size(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy", height=3, width=4)
  same = dict(height=3, width=4)
  _same(_build(raw, **same), _build(copy, **same))
  assert _build(copy).spec.input_shape == (3, 4, 3)  # as stored
  with pytest.raises(
    ValueError, match="is a converted copy at 3 x 4; config.data.height and width ask for 6 x 8"
  ):
    _build(copy, height=6, width=8)


def test_fields_that_were_left_out_are_missed(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy", tasks=("parts", "flow"))
  assert [t.name for t in _build(copy, tasks=("flow",)).spec.tasks] == ["flow"]
  with pytest.raises(
    ValueError,
    match="with image, parts, flow, but without depth, normals: convert again with these tasks",
  ):
    _build(copy)


def test_a_copy_is_a_tfds_data_set_without_tensorflow(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy")
  code = f"""
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory({str(copy)!r})
assert builder.info.splits["train"].num_examples == 9
assert builder.info.splits["test"].num_examples == 3
keys = set(builder.info.features)
assert keys == {{"name", "absent", "image", "parts", "depth", "normals",
                "flow"}}, keys
source = builder.as_data_source("train",
    decoders={{"image": tfds.decode.SkipDecoding()}})
assert source[2]["normals"].shape == (6, 8, 3)
assert source[2]["normals"].dtype == "float16"
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_sources_go_to_other_processes(raw, tmp_path):
  source = _build(_convert(raw, tmp_path / "copy")).source("train")
  wanted = source[3]  # files are open when it is pickled
  found = pickle.loads(pickle.dumps(source))[3]
  jax.tree.map(np.testing.assert_array_equal, wanted, found)
  file = tmp_path / "source.pkl"
  file.write_bytes(pickle.dumps(source))
  code = (
    f"import pickle; s = pickle.load(open({str(file)!r}, 'rb'));"
    " print(repr(float(s[3].inputs.sum())))"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
  )
  assert float(out.stdout) == float(wanted.inputs.sum())


def test_examples_in_several_splits_are_stored_once(raw, tmp_path):
  description = yaml.safe_load((raw / "dataset.yaml").read_text())
  description["splits"] = {
    "train": ["1", "2", "3"],
    "validation": ["3", "2"],
    "test": ["2", "4"],
    "overlap": True,
  }
  (raw / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
  copy = _convert(raw, tmp_path / "copy")
  _same(_build(raw), _build(copy))
  parts = {p.name for p in copy.iterdir() if "array_record" in p.name}
  assert parts == {
    "converted-train.array_record-00000",
    "converted-test.array_record-00000",
  }  # 3 + 1 records


class _Stop(BaseException):
  pass


@pytest.mark.parametrize("error", (_Stop, KeyboardInterrupt))
def test_an_interrupted_conversion_leaves_nothing(raw, tmp_path, error):
  original = folder.original(_config(), SWITCHES, str(raw))

  def stop(done):
    raise error

  with pytest.raises(error):
    store_writer.convert(original, "folder", str(tmp_path / "copy"), stop)
  assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_killed_conversion_looks_unfinished_and_can_be_repeated(raw, tmp_path):
  output = tmp_path / "copy"
  code = f"""
import os
import ml_collections
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.pictures import store_writer
config = ml_collections.ConfigDict(folder.defaults())
original = folder.original(config, None, {str(raw)!r})
store_writer.convert(original, "folder", {str(output)!r},
                     lambda done: os._exit(9))
"""
  done = subprocess.run([sys.executable, "-c", code], timeout=60)
  assert done.returncode == 9
  assert not output.exists() and (tmp_path / ".copy.partial").is_dir()
  assert not store.is_copy(tmp_path / ".copy.partial")
  _same(_build(raw), _build(_convert(raw, output)))
  assert not (tmp_path / ".copy.partial").exists()


def test_an_example_that_cannot_be_read_stops_it(raw, tmp_path):
  (raw / "parts" / "7.png").write_bytes(b"nothing")
  with pytest.raises(ValueError, match=r"Example '7': Cannot read .*7\.png"):
    _convert(raw, tmp_path / "copy")
  assert not (tmp_path / "copy").exists()


def test_a_field_of_two_types_is_refused(raw, tmp_path):
  np.save(raw / "flow" / "7.npy", np.zeros((*SIZE, 2), np.float32))
  with pytest.raises(
    ValueError,
    match=r"Example '7': its flow is float32 \[6,"
    r" 8, 2\], that of other examples float64",
  ):
    _convert(raw, tmp_path / "copy")


def test_a_full_folder_is_refused(raw, tmp_path):
  with pytest.raises(ValueError, match="raw is not empty and no converted"):
    _convert(raw, raw)
  copy = _convert(raw, tmp_path / "copy")
  with pytest.raises(ValueError, match="holds a converted copy already"):
    _convert(raw, copy)
  (tmp_path / "empty").mkdir()
  _same(_build(raw), _build(_convert(raw, tmp_path / "empty")))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"format": 0}, "was written by another version; convert again"),
    ({"dataset": "other", "facts": {}}, "is a converted copy of 'other', not of 'folder'"),
    ({"files": {"gone": 3}}, "is damaged: gone is missing; convert again"),
    ({"files": {"features.json": 3}}, "features.json has .* bytes, not 3"),
    ({"keys": None}, "is damaged: it lacks keys"),
  ],
  ids=str,
)
def test_a_foreign_or_damaged_copy_is_refused(raw, tmp_path, change, message):
  copy = _convert(raw, tmp_path / "copy", tasks=("parts",))
  path = copy / store.MARKER
  marker = {**json.loads(path.read_text()), **change}
  path.write_text(json.dumps({k: v for k, v in marker.items() if v is not None or k == "size"}))
  with pytest.raises(ValueError, match=message):
    _build(copy, tasks=("parts",))


def test_records_of_other_examples_are_noticed(raw, tmp_path):
  copy = _convert(raw, tmp_path / "copy", tasks=("parts",))
  path = copy / store.MARKER
  marker = json.loads(path.read_text())
  marker["keys"]["train"].reverse()
  path.write_text(json.dumps(marker))
  with pytest.raises(
    ValueError,
    match=r"is damaged: it has '\d+' in this"
    " place; convert again",
  ):
    _build(copy, tasks=("parts",))


def test_the_estimate_is_near_the_truth(tmp_path):
  size = (120, 160)
  (tmp_path / "images").mkdir()
  (tmp_path / "depth").mkdir()
  rows, columns = np.mgrid[: size[0], : size[1]]
  for i in range(10):
    noise = np.random.default_rng(i).normal(size=(*size, 3))
    image = 128 + 80 * np.sin(rows / 9 + i)[..., None] + 4 * noise
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
    np.save(
      tmp_path / "depth" / f"{i}.npy", (2 + columns / 80 + 0.01 * noise[..., 0]).astype(np.float32)
    )
  (tmp_path / "dataset.yaml").write_text(
    yaml.safe_dump(
      {
        "pictures": "images",
        "splits": {"train": 0.5, "test": 0.5},
        "tasks": {"depth": {"kind": "depth", "labels": "depth"}},
      }
    )
  )
  original = folder.original(_config(), SWITCHES, str(tmp_path))
  found = store_writer.estimate(original, str(tmp_path / "a" / "b"))
  store_writer.convert(original, "folder", str(tmp_path / "a" / "b"))
  length = sum(p.stat().st_size for p in (tmp_path / "a" / "b").iterdir())
  assert found.examples == 10
  assert 0.6 < found.needed / length < 1.6, (found, length)
  assert found.free > length
  assert str(store_writer.Estimate(3, 1234567, 10**12)) == ("3 examples, about 1.23 MB; free: 1 TB")


def test_fields_of_any_shape(tmp_path):
  def read(key):
    fields = {
      "image": np.full((4, 4, 3), int(key), np.uint8),
      "camera": np.array([0.2, 700.0]),
      "number": np.array(int(key), np.int32),
    }
    return fields if key != "1" else {**fields, "mask": np.eye(4, dtype=bool)}

  original = store.Original(
    "made",
    {"train": ("0", "1"), "test": ("2",)},
    read,
    {"a": [1]},
    ("image", "camera", "number", "mask"),
    None,
  )
  store_writer.convert(original, "made", str(tmp_path / "copy"))
  copy = store.open_copy(str(tmp_path / "copy"), "made", original.fields, None)
  assert copy.facts == {"a": [1]} and copy.keys == original.keys
  for key in ("0", "1", "2"):
    found, wanted = copy.read(key), read(key)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
      assert found[name].dtype == array.dtype
      np.testing.assert_array_equal(found[name], array)
  small = store.open_copy(str(tmp_path / "copy"), "made", original.fields, (2, 2)).read("1")
  np.testing.assert_array_equal(small["mask"], np.eye(2, dtype=bool))
  assert small["image"].shape == (2, 2, 3) and small["camera"].shape == (2,)


def test_which_fields_are_mixed_is_the_modules_choice(tmp_path):
  image = np.zeros((2, 4, 3), np.uint8)
  image[:, 2:] = 200
  original = store.Original(
    "made", {"train": ("0",)}, lambda key: {"image": image}, {}, ("image",), None
  )
  store_writer.convert(original, "made", str(tmp_path / "copy"))
  for mixed, value in ((("image",), 100), ((), 200)):
    copy = store.open_copy(str(tmp_path / "copy"), "made", ("image",), (1, 1), mixed)
    assert copy.read("0")["image"].tolist() == [[[value] * 3]]
