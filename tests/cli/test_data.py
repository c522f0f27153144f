"""`python -m dynashare_jax data`: what it finds, prints, writes and refuses."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.cli import data as data_command
from dynashare_jax.cli import data_check
from dynashare_jax.cli import data_statistics as statistics
from dynashare_jax.data import loader

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'folder.py'}"
SIZE = (12, 16)

# ml_collections reads configurations by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def raw(tmp_path):
  """Ten examples with 3 classes and depth, all of them good."""
  path = tmp_path / "raw"
  for part in ("images", "parts", "depth"):
    (path / part).mkdir(parents=True)
  for i in range(10):
    rng = np.random.default_rng(i)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(
      path / "images" / f"{i}.png"
    )
    ids = np.tile(np.arange(16, dtype=np.uint8) // 6, (12, 1))
    Image.fromarray(ids).save(path / "parts" / f"{i}.png")
    np.save(path / "depth" / f"{i}.npy", np.full(SIZE, 1 + i, np.float32))
  (path / "dataset.yaml").write_text(
    yaml.safe_dump(
      {
        "pictures": "images",
        "tasks": {
          "parts": {
            "kind": "segmentation",
            "labels": "parts",
            "classes": ["left", "middle", "right"],
          },
          "depth": {"kind": "depth", "labels": "depth"},
        },
        "splits": {"train": ["[0-5]"], "validation": ["6", "7"], "test": ["8", "9"]},
      },
      sort_keys=False,
    )
  )
  return path


def _check(raw, tmp_path, *more):
  status = data_command.run(
    [
      "check",
      CONFIG,
      f"--config.data_dir={raw}",
      "--config.data.crop=(8, 8)",
      f"--output={tmp_path / 'out'}",
      *more,
    ]
  )
  return status, json.loads((tmp_path / "out" / "check.json").read_text())


def test_a_good_data_set(raw, tmp_path, capsys):
  status, found = _check(raw, tmp_path)
  assert status == 0 and found["broken"] == []
  train = found["splits"]["train"]
  assert train["examples"] == train["checked"] == 6
  assert found["input_shape"] == [12, 16, 3]
  depth, parts = train["tasks"]["depth"], train["tasks"]["parts"]
  assert (depth["low"], depth["high"], depth["valid_share"]) == (1, 6, 1)
  assert depth["mean"] == [pytest.approx(3.5)]
  assert depth["std"] == [pytest.approx(np.std(range(6)), rel=1e-6)]
  # Columns 0-5, 6-11 and 12-15 of 16, in six examples of 12 rows.
  assert parts["classes"] == {"left": 432, "middle": 432, "right": 288}
  out = capsys.readouterr().out
  assert "train: 6 examples of 12 x 16 x 3" in out
  assert "37.50" in out and "25.00" in out
  for name in ("examples.png", "augmented.png"):
    with Image.open(tmp_path / "out" / name) as picture:
      assert min(picture.size) > 200


def test_all_that_is_broken_is_named_and_the_rest_is_checked(raw, tmp_path, capsys):
  for i in (1, 4):
    (raw / "parts" / f"{i}.png").write_bytes(b"broken")
  Image.fromarray(np.full(SIZE, 9, np.uint8)).save(raw / "parts" / "8.png")
  status, found = _check(raw, tmp_path)
  assert status == 2
  train, test = found["splits"]["train"], found["splits"]["test"]
  assert train["checked"] == 4 and len(train["unreadable"]) == 2
  assert [f"{i}.png" in text for i, text in zip((1, 4), train["unreadable"], strict=True)] == [
    True,
    True,
  ]
  assert "Example '8': its parts has the ids 9" in test["unreadable"][0]
  assert train["tasks"]["depth"]["examples_with_labels"] == 4
  out = " ".join(capsys.readouterr().out.split())
  assert "broken: train: Example '1': Cannot read" in out
  assert "BROKEN; check.json" in out


def test_warnings(raw, tmp_path):
  image = (raw / "images" / "0.png").read_bytes()
  (raw / "images" / "9.png").write_bytes(image)
  (raw / "images" / "1.png").write_bytes(image)
  ids = np.zeros(SIZE, np.uint8)
  for i in range(6):
    Image.fromarray(ids).save(raw / "parts" / f"{i}.png")
  for i in (0, 1):
    (raw / "depth" / f"{i}.npy").unlink()
  status, found = _check(raw, tmp_path)
  assert status == 0
  text = "\n".join(found["warnings"])
  assert "train and test have 1 equal inputs, of 2 in test: 0 = 9." in text
  assert "train: 1 inputs repeat another one of this split." in text
  assert "train: depth: 2 of 6 examples have no label." in text
  assert ("validation: parts has 2 class(es) that training never shows: middle, right.") in text


def test_a_task_without_labels_is_broken(raw, tmp_path):
  for i in (8, 9):
    (raw / "depth" / f"{i}.npy").unlink()
  status, found = _check(raw, tmp_path)
  assert status == 2
  assert found["broken"] == ["test: depth has no label in the 2 examples that were read."]


def test_a_few_examples_evenly_spread(raw, tmp_path):
  status, found = _check(raw, tmp_path, "--examples=3")
  assert status == 0
  assert found["splits"]["train"]["checked"] == 3
  depth = found["splits"]["train"]["tasks"]["depth"]
  assert (depth["low"], depth["high"]) == (1, 6)  # the first and the last


def test_convert_and_check_the_copy(raw, tmp_path, capsys):
  pytest.importorskip("tensorflow_datasets")
  copy = tmp_path / "copy"
  line = ["convert", CONFIG, f"--config.data_dir={raw}", f"--output={copy}"]
  assert data_command.run(line) == 0
  out = capsys.readouterr().out
  assert "10 examples, about" in out and "free:" in out
  assert f"--config.data_dir={copy}" in out
  _, of_raw = _check(raw, tmp_path)
  _, of_copy = _check(copy, tmp_path)
  assert of_raw["splits"] == of_copy["splits"]
  with pytest.raises(ValueError, match="is a converted copy already"):
    data_command.run(
      ["convert", CONFIG, f"--config.data_dir={copy}", f"--output={tmp_path / 'again'}"]
    )


@pytest.mark.parametrize("setting", ["", ":light"])
def test_rooms_and_what_is_no_files(setting, tmp_path, capsys):
  config = f"--config={ROOT / 'configs' / 'rooms.py'}{setting}"
  status = data_command.run(
    [
      "check",
      config,
      f"--output={tmp_path}",
      "--examples=2",
      "--config.data.height=16",
      "--config.data.width=16",
    ]
  )
  assert status == 0
  assert "train: 2048 examples of 16 x 16 x 3, 2 read" in (capsys.readouterr().out)
  assert (tmp_path / "examples.png").is_file()
  assert not (tmp_path / "augmented.png").exists()
  with pytest.raises(ValueError, match="'rooms' has no files of pictures"):
    data_command.run(["convert", config, f"--output={tmp_path / 'copy'}"])


def _tabular(**changes):
  """A table with 6 training and 2 other rows, one of which repeats."""
  numbers = np.arange(6, dtype=np.float32)[:, None]
  values = {"train": numbers, "validation": numbers[:1] + 10, "test": numbers[2:3], **changes}
  labels = {"train": [0, 1, 0, 1, 1, 0], "validation": [1], "test": [0]}

  def arrays(split):
    count = len(values[split])
    target = np.array(labels[split], np.float32)
    inputs = {"categorical": np.zeros((count, 1), np.int32), "numeric": values[split]}
    return types.Batch(
      inputs, {"paid": target}, {"paid": np.ones(count, bool)}, np.ones(count, bool)
    )

  spec = types.DatasetSpec(
    "table",
    (types.TaskSpec("paid", "binary", classes=("no", "yes")),),
    "table",
    (2,),
    {s: len(v) for s, v in values.items()},
  )
  return types.Dataset(spec, arrays, lambda split: None)


def test_a_table_is_checked_without_pictures():
  found = data_check.check(_tabular())
  figures = found.figures()["splits"]["train"]["tasks"]["paid"]
  assert figures["classes"] == {"no": 3, "yes": 3}
  assert found.warnings == ["train and test have 1 equal inputs, of 1 in test: 2 = 0."]
  odd = np.array([[np.inf]], np.float32)
  assert data_check.check(_tabular(test=odd)).broken == [
    "test: 1 numbers of the inputs are not finite."
  ]


class _Pictures:
  """Two pictures, the second with a label that the task cannot have."""

  keys = ("good", "bad")

  def __len__(self):
    return 2

  def __getitem__(self, index):
    target = np.full((2, 2), 3 * index, np.int32)
    return types.Batch(
      np.full((2, 2, 3), 1.5 * index, np.float32),
      {"parts": target},
      {"parts": np.ones((2, 2), bool)},
      np.ones((), bool),
    )


def test_wrong_labels_are_named():
  spec = types.DatasetSpec(
    "pictures",
    (types.TaskSpec("parts", "segmentation", 2),),
    "image",
    (2, 2, 3),
    dict.fromkeys(types.SPLITS, 2),
  )
  dataset = types.Dataset(spec, lambda split: loader.stack(_Pictures()), lambda split: _Pictures())
  found = data_check.check(dataset)
  assert found.broken[0].startswith(
    "train: Example 'bad': Task 'parts' has 4 labels in the split 'train'"
    " that a segmentation task cannot have: 3; allowed are class ids from 0"
    " to 1."
  )
  assert len(found.broken) == 3
  assert "train: inputs lie between 0 and 1.5, not in 0..1." in found.warnings


def test_normals_and_numbers_by_hand():
  task = types.TaskSpec("normals", "normals", 3)
  labels = statistics.Labels(task)
  labels.add(np.array([[[[0, 0, -1]], [[3, 0, 4]]]], np.float32), np.array([[[True], [False]]]))
  figures = labels.figures()
  assert figures["unusual"] == 0
  assert figures["valid_share"] == 0.5 and figures["mean"] == [0, 0, -1]
  numbers = statistics.Numbers()
  numbers.add(np.array([[1.0, 10.0], [3.0, 30.0]], np.float32))
  assert numbers.figures() == {
    "low": 1,
    "high": 30,
    "mean": [2, 20],
    "std": [1, 10],
    "non_finite": 0,
  }


@pytest.mark.parametrize(
  "line, message",
  [
    (["chek", CONFIG], "Name one command, check or convert, not chek. Did you mean 'check'"),
    ([CONFIG], "Name one command, check or convert, not none"),
    (["check"], "Name a configuration: --config=folder"),
    (["check", "--config=no.py"], "There is no configuration 'no.py'"),
    (["check", CONFIG, "--exampels=3"], "In the flags: .*exampels"),
    (["check", CONFIG, "--config.data.hight=3"], r"no config\.data\.hight .* 'data.height'"),
    (["convert", CONFIG], "Name a folder for the copy: --output=FOLDER"),
    (
      ["check", CONFIG, "--config.dataset=foldr"],
      "Unknown data set 'foldr'.* Did you mean 'folder'",
    ),
    (["check", CONFIG, "--config.dataset=rooms"], "config.data lacks kinds, noise,"),
  ],
  ids=str,
)
def test_command_lines_that_are_not_understood(line, message):
  with pytest.raises(ValueError, match=message):
    data_command.run(line)


def test_too_little_space_is_told_before(raw, tmp_path, monkeypatch):
  pytest.importorskip("tensorflow_datasets")
  from dynashare_jax.data.pictures import store_writer

  monkeypatch.setattr(
    store_writer, "estimate", lambda original, output: store_writer.Estimate(10, 10**9, 10**8)
  )
  with pytest.raises(
    ValueError, match="too little space in .*copy: 10 examples, about 1 GB; free: 100 MB"
  ):
    data_command.run(
      ["convert", CONFIG, f"--config.data_dir={raw}", f"--output={tmp_path / 'copy'}"]
    )
  assert not (tmp_path / "copy").exists()


def test_as_a_module_it_exits_with_two_and_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "dynashare_jax.data", "check", CONFIG, f"--config.data_dir={tmp_path}"],
    capture_output=True,
    text=True,
    timeout=100,
    cwd=ROOT,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: There is no file {tmp_path}/dataset.yaml that describes")
  assert "Traceback" not in done.stderr
  # What is drawn does not hang on the configuration's type.
  assert isinstance(data_command.parse(["check", CONFIG])[1].config, ml_collections.ConfigDict)
