"""Fashion-MNIST in disjoint tasks: who has which label, and a training on the real files."""

from __future__ import annotations

import json
import pathlib
import runpy
from typing import Any

from data.multimnist import test_dataset as test_multimnist
import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.data import disjoint
from dynashare_jax.data.multimnist import originals
from dynashare_jax.data.split_fashion import dataset
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Forty pictures for training and ten for test, their labels 1, 2, ... 9, 0, 1, ..."""
  test_multimnist._write(tmp_path, dataset.NAME, 40, 10)
  return tmp_path


def _open(folder: pathlib.Path, **values: Any) -> types.Dataset:
  config = ConfigDict({**dataset.defaults(), "validation_share": 0.25, **values})
  return dataset.build(config, ConfigDict(), str(folder), 0)


def test_labels_of_disjoint_tasks_by_hand() -> None:
  targets, valid = disjoint.labels(np.array([3, 0, 7, 2]), {"a": (0, 3), "b": (2, 7)})
  assert {name: t.tolist() for name, t in targets.items()} == {"a": [1, 0, 0, 0], "b": [0, 0, 1, 0]}
  assert valid["a"].tolist() == [True, True, False, False]
  assert valid["b"].tolist() == [False, False, True, True]
  assert targets["a"].dtype == np.int32


@pytest.mark.parametrize("parts", dataset.PARTS)
def test_every_picture_has_its_label_in_one_task_and_one_split(
  folder: pathlib.Path, parts: int
) -> None:
  data = _open(folder, tasks=dataset.PARTS[parts])
  seen = []
  for split, size in (("train", 30), ("validation", 10), ("test", 10)):
    batch = data.arrays(split)
    assert len(batch.present) == size == data.spec.sizes[split] == len(data.source(split))
    assert batch.inputs.shape == (size, 28, 28, 1) and batch.inputs.dtype == np.float32
    shades = np.rint(255 * batch.inputs[:, 0, 0, 0]).astype(int)
    seen += shades.tolist()
    assert (np.sum(list(batch.valid.values()), 0) == 1).all()
    for name, known in batch.valid.items():
      own = np.array(dataset.TASKS[name])
      np.testing.assert_array_equal(own[batch.targets[name][known]], shades[known] % 10)
      assert known.sum() == size * len(own) / 10  # Every class has its share of each split.
  assert len(set(seen)) == len(seen) == 50
  assert data.spec.tasks[1].classes[0] == {5: "pullover", 2: "sandal"}[parts]


def test_the_seed_moves_validation_and_only_chosen_tasks_have_pictures(
  folder: pathlib.Path,
) -> None:
  one, same, other = _open(folder), _open(folder), _open(folder, split_seed=2)
  inputs = lambda data: data.arrays("validation").inputs
  np.testing.assert_array_equal(inputs(one), inputs(same))
  assert (inputs(one) != inputs(other)).any()
  few = _open(folder, tasks=("classes_89", "classes_01"))
  assert few.spec.sizes == {"train": 12, "validation": 4, "test": 4}
  assert [task.name for task in few.spec.tasks] == ["classes_89", "classes_01"]


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"tasks": ("classes_01", "classes_01234")}, "two tasks have a class in common"),
    ({"tasks": ("classes_12",)}, "config.data.tasks has 'classes_12'; split_fashion has"),
    ({"validation_share": 0.0}, "6000 training examples cannot be split with the fraction 1"),
    ({"weights": {}}, "no weight of 'classes_01'"),
  ],
)
def test_wrong_values_are_refused(
  folder: pathlib.Path, values: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    _open(folder, **values)


def test_without_files_it_is_told_where_they_are() -> None:
  with pytest.raises(FileNotFoundError, match="DIR/fashion_mnist.*https://"):
    dataset.build(ConfigDict(dataset.defaults()), ConfigDict(), None, 0)


def _config(kind: str) -> Any:
  return runpy.run_path(str(ROOT / "configs" / "multimnist.py"))["get_config"](kind)


def test_the_configurations_have_the_defaults_and_an_outline_without_data() -> None:
  for parts, names in dataset.PARTS.items():
    config = _config(f"disjoint{parts}")
    assert config.data.to_dict() == {**dataset.defaults(), "tasks": names}
    assert config.train.sampling == "tasks"
  spec = dataset.outline(config.data, config.compat)
  assert spec.sizes == {"train": 54_000, "validation": 6_000, "test": 10_000}


def test_training_on_real_files_lowers_the_loss_of_both_tasks(
  tmp_path: pathlib.Path, data_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  if not (data_folder / dataset.NAME).is_dir():
    pytest.skip(f"no {dataset.NAME} in {data_folder}")
  whole = originals.read(str(data_folder), dataset.NAME)
  counts = {part: np.bincount(each.labels).tolist() for part, each in whole.items()}
  assert counts == {part: [size] * 10 for part, size in dataset.SIZES.items()}
  small = lambda each: originals.Originals(each.pictures[:500, ::4, ::4], each.labels[:500])
  monkeypatch.setattr(originals, "SIDE", 7)
  monkeypatch.setattr(originals, "read", lambda *_: {p: small(each) for p, each in whole.items()})
  config = _config("disjoint2")
  config.method = "hard"
  config.model.update(blocks=(1,), widths=(8,), strides=(2,), dilations=(1,))
  config.optimizers.retrain.schedule = "constant"
  every = dict.fromkeys(("log_every", "steps_per_dispatch"), 10)
  config.train.update(batch_size=32, steps=30, eval_every=30, checkpoint_every=30, **every)
  config.eval.batch_size = 50
  loop = loop_lib.Loop(
    runs.build(config, jax.devices()[:1])[0],
    workdir_lib.open_workdir(tmp_path / "run", config.to_dict()),
  )
  stages.run(loop)
  lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
  first, *_, last = (line["values"] for line in lines if line["kind"] == "train")
  for task in config.data.tasks:
    assert last[f"loss/{task}"] < 0.9 * first[f"loss/{task}"] < 1.1 * np.log(5)
