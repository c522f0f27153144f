"""Tests of the command line that runs an artefact on files."""

from __future__ import annotations

import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from dynashare_jax import infer
from dynashare_jax.cli import predict
from dynashare_jax.infer import artefact


def _save(folder, inputs, tasks, run):
  """An artefact of a function of its inputs, for any batch."""
  (batch,) = jax.export.symbolic_shape("batch")
  shapes = {
    name: jax.ShapeDtypeStruct((batch, *a["shape"]), a["dtypes"][0])
    for name, a in inputs["arrays"].items()
  }
  call = lambda weights, arrays: (run(arrays), jnp.ones(()))
  code = jax.export.export(jax.jit(call))({}, shapes).serialize()
  manifest = {
    "platforms": ["cpu"],
    "jax": jax.__version__,
    "inputs": inputs,
    "tasks": [{"classes": [], "unit": "", **t} for t in tasks],
  }
  entry = {"role": "run", "platforms": ["cpu"], "smallest": 1}
  folder.mkdir()
  (folder / artefact.FILE).write_bytes(artefact.pack(manifest, {}, [(entry, bytes(code))]))
  return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
  """The brightest channel, brightness in metres, and a number an image."""
  inputs = {"kind": "image", "arrays": {"image": {"shape": [4, 6, 3], "dtypes": ["uint8"]}}}
  tasks = [
    {
      "name": "colour",
      "kind": "segmentation",
      "shape": ["batch", 4, 6],
      "classes": ["red", "green", "blue"],
    },
    {"name": "range", "kind": "depth", "shape": ["batch", 4, 6], "unit": "m"},
    {"name": "bright", "kind": "binary", "shape": ["batch"]},
  ]

  def run(arrays):
    x = arrays["image"].astype(jnp.float32) / 255
    return {
      "colour": jnp.argmax(x, -1).astype(jnp.int32),
      "range": 5 * x.mean(-1),
      "bright": x.mean((1, 2, 3)),
    }

  return _save(tmp_path_factory.mktemp("a") / "dense", inputs, tasks, run)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """Tells which code a row has and whether its numbers add up to more."""
  inputs = {
    "kind": "table",
    "arrays": {
      "categorical": {"shape": [1], "dtypes": ["int32"]},
      "numeric": {"shape": [2], "dtypes": ["float32"]},
    },
    "codes": {"categorical": [{"name": "job", "codes": 3}]},
    "numbers": {"numeric": ["age", "pay"]},
  }
  tasks = [
    {"name": "rich", "kind": "binary", "shape": ["batch"]},
    {"name": "job", "kind": "multiclass", "shape": ["batch"], "classes": ["none", "cook", "king"]},
    {"name": "many", "kind": "multilabel", "shape": ["batch", 2], "classes": ["x", "y"]},
  ]

  def run(arrays):
    total = arrays["numeric"].sum(-1)
    return {
      "rich": jax.nn.sigmoid(total),
      "job": arrays["categorical"][:, 0],
      "many": jnp.stack([total, -total], -1),
    }

  return _save(tmp_path_factory.mktemp("a") / "table", inputs, tasks, run)


def _picture(path, shade, size=(6, 4)):
  Image.new("RGB", size, shade).save(path)


def _error(capsys, artefact_, source, output):
  with pytest.raises(SystemExit) as found:
    predict.cli([f"--artefact={artefact_}", f"--input={source}", f"--output={output}"])
  assert found.value.code == 2
  return capsys.readouterr().err


def test_a_folder_of_images_is_drawn(dense, tmp_path, capsys):
  source = tmp_path / "in"
  source.mkdir()
  for number in range(10):  # more than a batch
    _picture(source / f"{number}.png", (25 * number, 0, 0))
  _picture(source / "3.JPG", (0, 0, 255), (12, 9))
  (source / "notes.txt").write_text("no image")
  predict.cli([f"--artefact={dense}", f"--input={source}", f"--output={tmp_path / 'out'}"])
  names = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names == sorted(
    [f"{n}-prediction.png" for n in range(10) if n != 3]
    + ["3-JPG-prediction.png", "3-png-prediction.png", "predictions.csv"]
  )
  out = capsys.readouterr().out
  assert "3.JPG: resized from 12x9 to 6x4, which the model reads" in out
  assert "9.png: resized" not in out
  with open(tmp_path / "out" / "predictions.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["file"] for row in rows][:4] == ["0.png", "1.png", "2.png", "3.JPG"]
  assert rows[-1]["file"] == "9.png"
  assert float(rows[-1]["bright"]) == pytest.approx(225 / 255 / 3, rel=1e-5)


def test_one_image_is_drawn(dense, tmp_path):
  _picture(tmp_path / "blue.png", (0, 0, 200))
  predict.run([f"--artefact={dense}", f"--input={tmp_path / 'blue.png'}", f"--output={tmp_path}"])
  with Image.open(tmp_path / "blue-prediction.png") as opened:
    drawn = np.asarray(opened)
  assert drawn.shape[1] > 1000
  assert (drawn[..., :3] == (0, 0, 200)).all(-1).sum() > 10_000  # the input


def test_grey_is_read_as_grey(tmp_path):
  inputs = {"kind": "image", "arrays": {"image": {"shape": [4, 6, 1], "dtypes": ["uint8"]}}}
  tasks = [{"name": "bright", "kind": "binary", "shape": ["batch"]}]
  run = lambda arrays: {"bright": arrays["image"].astype(jnp.float32).mean((1, 2, 3)) / 255}
  folder = _save(tmp_path / "grey", inputs, tasks, run)
  _picture(tmp_path / "photo.png", (51, 51, 51))
  predict.run([f"--artefact={folder}", f"--input={tmp_path / 'photo.png'}", f"--output={tmp_path}"])
  with open(tmp_path / "predictions.csv", newline="") as file:
    (row,) = csv.DictReader(file)
  assert float(row["bright"]) == pytest.approx(0.2, rel=1e-5)


def test_pictures_are_read_as_training_reads_them(dense, tmp_path):
  Image.fromarray(np.full((4, 6), 51 * 257, np.uint16)).save(tmp_path / "16.png")
  Image.fromarray(np.full((4, 6), 0.2, np.float32)).save(tmp_path / "float.tif")
  Image.new("P", (6, 4)).save(tmp_path / "palette.png")
  predict.run([f"--artefact={dense}", f"--input={tmp_path}", f"--output={tmp_path / 'out'}"])
  with open(tmp_path / "out" / "predictions.csv", newline="") as file:
    found = [float(row["bright"]) for row in csv.DictReader(file)]
  assert found == pytest.approx([0.2, 0.2, 0], rel=1e-5)
  Image.new("RGB", (6, 4)).save(tmp_path / "eps.png", "EPS")
  with pytest.raises(ValueError, match=r"Cannot read .*eps\.png"):
    predict.run([f"--artefact={dense}", f"--input={tmp_path}", f"--output={tmp_path / 'out'}"])


def test_a_table_becomes_a_table(table, tmp_path):
  source = tmp_path / "in.csv"
  source.write_text("id,age, job,pay\n7,1.5,2,-1\n8,0,0,0\n9,-3,1,1.0\n")
  predict.cli([f"--artefact={table}", f"--input={source}", f"--output={tmp_path / 'out'}"])
  with open(tmp_path / "out" / "predictions.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ["rich", "job", "many x", "many y"]
  assert [row["job"] for row in rows] == ["king", "none", "cook"]
  rich = [float(row["rich"]) for row in rows]
  np.testing.assert_allclose(rich, 1 / (1 + np.exp([-0.5, 0, 2])), rtol=1e-5)
  assert rows[2]["many x"] == "-2" and rows[2]["many y"] == "2"


def test_help_and_page_say_what_categorical_columns_hold(capsys):
  with pytest.raises(SystemExit):
    predict.run(["--help"])
  told = " ".join(capsys.readouterr().out.split())
  assert "columns hold the texts that manifest.json lists, codes only where it lists none" in told
  page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"
  words = " ".join(page.read_text(encoding="utf-8").split())
  assert "the texts that the manifest lists" in words and "codes only where it lists none" in words


def test_texts_become_the_codes_of_training(table, tmp_path):
  """Known texts are codes 1 and 2 in their order; any other is 0, unseen."""
  model = infer.load(table)
  column = model.manifest["inputs"]["codes"]["categorical"][0]
  column["values"] = ["0", "Prof school"]
  source = tmp_path / "in.csv"
  source.write_text("age,job,pay\n0,Prof school,0\n0, 0 ,0\n0,2,0\n")
  found, _ = predict._read_table(model, source)
  np.testing.assert_array_equal(found["categorical"], [[2], [1], [0]])
  source.write_text("age,pay,job\n0,0\n")
  with pytest.raises(ValueError, match="line 2: 2 cells, but the header has 3 names"):
    predict._read_table(model, source)


@pytest.mark.parametrize("mark", (",", ";", "\t", "|"))
@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig"))
def test_tables_follow_the_rules_of_csv(table, tmp_path, mark, encoding):
  model = infer.load(table)
  model.manifest["inputs"]["codes"]["categorical"][0]["values"] = ["K\u00f6nig, alt", "x\ny"]
  lines = (
    ["age", '"job"', "pay ", "note"],
    ["1", '"K\u00f6nig, alt"', "2", '"say ""a"""'],
    ["3", '"x\ny"', '"4"', ""],
  )
  source = tmp_path / "in.csv"
  source.write_text("\n".join(map(mark.join, lines)) + "\n\n", encoding, newline="")
  found, _ = predict._read_table(model, source)
  np.testing.assert_array_equal(found["categorical"], [[1], [2]])
  np.testing.assert_array_equal(found["numeric"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
  "content, message",
  [
    *(
      (f"age,job,pay\n0,1,0\n{cell},1,0", f"line 3, column 'age': '{cell}' is not a finite number")
      for cell in ("nan", "NaN", "inf", "-Infinity", "1e39", "-4e38", "x", "")
    ),
    ("age,job,pay\n0,1,0,9", "line 2: 4 cells, but the header has 3"),
    ("age,job,pay\n0,99999999999,0", "line 2, column 'job': '99999999999' is not a code"),
    ("age,job,pay\n0,-1,0", "line 2, column 'job': '-1' is not a code"),
    ("age,job,pay,age\n0,1,0,1", "line 1: the column age stands twice"),
    (b"age,job,pay\n0,1,0\n0,\xe4,0", "line 3: the byte 0xe4 is not UTF-8"),
  ],
  ids=str,
)
def test_serving_refuses_what_training_refuses(table, tmp_path, content, message):
  source = tmp_path / "in.csv"
  source.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=rf"in\.csv, {message}"):
    predict._read_table(infer.load(table), source)


def test_many_rows_keep_their_order(table, tmp_path, monkeypatch):
  monkeypatch.setitem(predict._BATCH, "table", 4)
  source = tmp_path / "in.csv"
  source.write_text("job,age,pay\n" + "".join(f"{i % 3},{i},0\n" for i in range(11)))
  predict.run([f"--artefact={table}", f"--input={source}", f"--output={tmp_path}"])
  with open(tmp_path / "predictions.csv", newline="") as file:
    found = [float(row["many x"]) for row in csv.DictReader(file)]
  assert found == list(range(11))


def test_a_series_is_read_from_an_array(tmp_path, capsys):
  inputs = {"kind": "series", "arrays": {"series": {"shape": [5], "dtypes": ["float32"]}}}
  model = _save(
    tmp_path / "m",
    inputs,
    [{"name": "s", "kind": "binary", "shape": ["batch"]}],
    lambda arrays: {"s": arrays["series"].mean(-1)},
  )
  np.save(tmp_path / "x.npy", np.full((2, 5), 0.25, np.float32))
  predict.run([f"--artefact={model}", f"--input={tmp_path / 'x.npy'}", f"--output={tmp_path}"])
  assert (tmp_path / "predictions.csv").read_text() == "s\n0.25\n0.25\n"
  np.save(tmp_path / "y.npy", np.zeros((2, 4), np.float32))
  assert "Wrong input shape: series is (2, 4)" in _error(
    capsys, model, tmp_path / "y.npy", tmp_path
  )
  np.save(tmp_path / "z.npy", np.float32(1))
  assert "holds no example; its shape is ()" in _error(capsys, model, tmp_path / "z.npy", tmp_path)
  np.save(tmp_path / "n.npy", np.full((2, 5), np.nan, np.float32))
  assert "numbers that are not finite" in _error(capsys, model, tmp_path / "n.npy", tmp_path)
  np.savez(tmp_path / "v.npz", series=np.zeros((2, 5), np.float32))
  assert "it holds several arrays" in _error(capsys, model, tmp_path / "v.npz", tmp_path)
  (tmp_path / "w.npy").write_text("x")
  assert "is no .npy file" in _error(capsys, model, tmp_path / "w.npy", tmp_path)


def test_what_cannot_be_read_is_one_line(dense, table, tmp_path, capsys):
  output = tmp_path / "out"
  empty = tmp_path / "empty"
  empty.mkdir()
  assert "There is no image in" in _error(capsys, dense, empty, output)
  assert "There is no" in _error(capsys, dense, tmp_path / "nothing", output)
  text = tmp_path / "text.png"
  text.write_text("no image")
  assert "Cannot read" in _error(capsys, dense, text, output)
  _picture(empty / "a.png", (1, 2, 3))
  assert "--output is the folder of --input" in _error(capsys, dense, empty, empty)
  assert "There is no artefact" in _error(capsys, tmp_path, empty, output)
  for content, wanted in (
    ("age,pay\n1,2\n", "has no column job. Its first line must name"),
    ("job,age,pay\n", "has no row below its header"),
    ("job,age,pay\n1,2,3\nx,2,3\n", "line 3, column 'job': 'x' is not a code"),
    ("job,age,pay\n1,2\n", "line 2: 2 cells, but the header has 3 names"),
    ("job,age,pay\n1,2,3\n3,2,3\n", "row 1 has 3 in the column 'job'"),
  ):
    source = tmp_path / "table.csv"
    source.write_text(content)
    assert wanted in _error(capsys, table, source, output)
  assert not output.exists()


def test_a_model_of_four_channels_refuses_files_of_pictures(tmp_path):
  inputs = {"kind": "image", "arrays": {"image": {"shape": [4, 6, 4], "dtypes": ["uint8"]}}}
  model = type("Model", (), {"manifest": {"inputs": inputs, "tasks": []}})()
  Image.fromarray(np.zeros((4, 6, 4), np.uint8)).save(tmp_path / "a.png")
  with pytest.raises(ValueError, match="The model reads 4 channels, but files of pictures"):
    predict.images(model, tmp_path / "a.png", tmp_path / "out")
