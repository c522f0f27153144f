"""Tests of the notebooks: their files, the quickstart's cells, real executions."""

from __future__ import annotations

import ast
import base64
import configparser
import fnmatch
import html
import importlib.util
import io
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import types as python_types

from IPython.core import inputtransformer2
import jax
import matplotlib
import nbformat
import numpy as np
from PIL import Image
import pytest

import dynashare_jax as ds
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART, TABLES = (ROOT / "notebooks" / f"{n}.ipynb" for n in ("quickstart_tpu", "tables"))
RENDER = ROOT / "notebooks" / "render.py"

# A network of two small blocks that sees a few dozen pictures.
SMALL = {
  "data.height": 24,
  "data.width": 32,
  "data.train": 64,
  "data.validation": 32,
  "data.test": 32,
  "train.batch_size": 8,
  "model.widths": (4, 8),
  "model.blocks": (1, 1),
  "model.strides": (1, 2),
  "model.dilations": (1, 1),
  "gates.target_rates": (0.7, 0.7),
  "policy.init": "all",
  "policy.candidates": 1,
  "policy.halving": False,
  "policy.measure": 2,
  "train.warmup_steps": 8,
  "train.cycles": 1,
  "train.weight_steps": 2,
  "train.policy_steps": 2,
  "train.retrain_steps": 8,
  "train.execution": "planned",
  "train.log_every": 2,
  "train.eval_every": 4,
}
STEPS = 22
TASKS = ("segmentation", "depth", "normals")
# Cells that show a picture, and the figure of the run.
PICTURES = {
  "policy": "policy",
  "learning-curves": "learning_curves",
  "gates": "execution",
  "predictions": "predictions",
  "budget": "budget",
}
# A small network that knows few customers.
FEW = {
  "rows": 240,
  "method": "hard",
  "others": [],
  "seeds": 1,
  "fit": {"steps": 16, "settings": {"model.blocks": [2], "model.width": 8, "model.hidden": 8}},
}


def _read(path):
  return nbformat.read(path, as_version=4)


def _cell(notebook, name):
  (found,) = (cell for cell in notebook.cells if cell.id == name)
  return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_file_is_valid_and_has_no_outputs(path):
  notebook = _read(path)
  nbformat.validate(notebook)
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  assert notebook.metadata.kernelspec.name == "python3"
  assert notebook.metadata.colab.name == path.name
  assert notebook.metadata.get("accelerator") == ("TPU" if path == QUICKSTART else None)
  for before, cell in itertools.pairwise(notebook.cells):
    if cell.cell_type == "code":
      assert before.cell_type == "markdown", cell.id
      assert not cell.outputs and cell.execution_count is None, cell.id
  # As nbformat writes it, so that a change shows in a diff as what it is.
  assert path.read_text("utf-8") == nbformat.writes(notebook) + "\n"


def test_the_page_shows_every_picture():
  page = (ROOT / "docs" / "notebook.md").read_text("utf-8")
  shown = set(re.findall(r"\(images/notebook-([a-z-]+)\.png\)", page))
  there = {
    p.stem.removeprefix("notebook-") for p in (ROOT / "docs" / "images").glob("notebook-*.png")
  }
  assert shown == there == set(PICTURES)


class Machine:
  """A machine without the package: records what pip is told, installs nothing."""

  def __init__(self, monkeypatch, devices=(), driver=""):
    self.lines = []
    self._find = importlib.util.find_spec
    self._driver = driver
    monkeypatch.setattr("subprocess.run", self.run)
    monkeypatch.setattr("importlib.util.find_spec", self.find)
    monkeypatch.setattr("glob.glob", lambda pattern: fnmatch.filter(devices, pattern))
    monkeypatch.setattr("shutil.which", lambda name: name if self._driver else None)

  def find(self, name):
    return None if name == "dynashare_jax" else self._find(name)

  def run(self, command, **unused):
    assert command[0] == "nvidia-smi"
    return python_types.SimpleNamespace(stdout=self._driver)

  def install(self, path, repository="https://example.org/copy"):
    """Runs the install cell with a repository."""
    source = _cell(_read(path), "install").source
    source = source.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
    names = {}

    def magic(name, line):
      assert name == "pip"
      self.lines.append(line.format(**names))  # As IPython fills in.

    names["get_ipython"] = lambda: python_types.SimpleNamespace(run_line_magic=magic)
    exec(inputtransformer2.TransformerManager().transform_cell(source), names)


@pytest.mark.parametrize(
  "devices, driver, extra",
  [
    ((), "", ""),
    (("/dev/accel0", "/dev/accel1"), "", "tpu"),
    (("/dev/vfio/0",), "", "tpu"),
    (("/dev/vfio/vfio",), "580.95.05\n", "cuda13"),
    ((), "550.54.15\n", "cuda12"),
    ((), "NVIDIA-SMI has failed\n", ""),
  ],
)
def test_the_package_is_installed_for_the_device(monkeypatch, devices, driver, extra):
  machine = Machine(monkeypatch, devices, driver)
  machine.install(QUICKSTART)
  name = f"dynashare-jax[{extra}]" if extra else "dynashare-jax"
  assert machine.lines == [f'install --quiet "{name} @ git+https://example.org/copy"']
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  assert setup["metadata"]["name"] == "dynashare-jax"
  assert not extra or extra in setup["options.extras_require"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_an_address_one_error_says_what_to_do(monkeypatch, path):
  machine = Machine(monkeypatch)
  with pytest.raises(ValueError, match=r"[Ss]et REPOSITORY to the address of your copy"):
    machine.install(path, "")
  assert not machine.lines


def test_a_loaded_package_that_pip_replaced_asks_for_a_restart(monkeypatch):
  machine = Machine(monkeypatch)
  monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
  with pytest.raises(RuntimeError, match=r"replaced numpy.*Restart session"):
    machine.install(QUICKSTART)
  assert machine.lines


@pytest.mark.parametrize("count, batch", [(1, 16), (3, 15), (6, 18), (8, 16), (64, 64)])
def test_the_batch_fits_the_devices(monkeypatch, capsys, count, batch):
  monkeypatch.delenv("DYNASHARE_NOTEBOOK", raising=False)
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1] * count)
  names = {}
  exec(_cell(_read(QUICKSTART), "config").source, names)
  assert names["CHANGES"] == {"train.batch_size": batch, "eval.batch_size": 2 * batch}
  assert f"{batch} pictures a step, {batch // count} on each" in capsys.readouterr().out


def _render(path, folder, changes):
  """Executes a notebook in a process of its own, as one CPU device."""
  environment = os.environ | {
    "IPYTHONDIR": str(folder / "ipython"),
    "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
  }
  return subprocess.run(
    [
      sys.executable,
      str(RENDER),
      f"--notebook={path.name}",
      f"--folder={folder / 'here'}",
      f"--pictures={folder / 'pictures'}",
      f"--changes={changes}",
      "--cell_seconds=400",
    ],
    env=environment,
    cwd=folder,
    timeout=500,
    capture_output=True,
    text=True,
  )


class Executed:
  """An executed notebook."""

  def __init__(self, path, folder, changes):
    done = _render(path, folder, json.dumps(changes))
    assert done.returncode == 0, done.stderr
    self.printed = [pathlib.Path(line) for line in done.stdout.split()]
    self.pictures = folder / "pictures"
    self.runs = folder / "here" / "runs"
    self.notebook = _read(folder / "here" / path.name)

  def text(self, name, stream="stdout"):
    """What a cell printed."""
    return "".join(
      output.text for output in _cell(self.notebook, name).outputs if output.get("name") == stream
    )

  def data(self, name, kind):
    """What a cell displayed of one kind."""
    (found,) = (
      output.data[kind]
      for output in _cell(self.notebook, name).outputs
      if kind in output.get("data", {})
    )
    return found

  def rows(self, name):
    """A cell's first table: a dict a row."""
    lines = [line for line in self.data(name, "text/markdown").splitlines() if line[:1] == "|"]
    cut = [[text.strip() for text in line.strip("|").split("|")] for line in lines]
    body = itertools.takewhile(lambda row: len(row) == len(cut[0]), cut[2:])
    return [dict(zip(cut[0], row, strict=True)) for row in body]

  def picture(self, name):
    """The PNG that a cell shows, perhaps within HTML."""
    written = (self.pictures / f"notebook-{name}.png").read_bytes()
    data = json.dumps([output.get("data") for output in _cell(self.notebook, name).outputs])
    assert base64.b64encode(written).decode() in data.replace("\\n", "")
    return written


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
  return Executed(QUICKSTART, tmp_path_factory.mktemp("quickstart"), SMALL)


@pytest.fixture(scope="module")
def run(quickstart):
  return workdir_lib.load(quickstart.runs / "quickstart")


def test_nothing_is_installed_where_the_package_is(quickstart):
  assert quickstart.text("install") == "The package is here; nothing to install.\n"
  assert quickstart.text("config") == "1 device(s): cpu; 8 pictures a step, 8 on each\n"


def test_the_changes_were_trained(run):
  assert run.config["train"]["batch_size"] == 8
  assert run.config["eval"]["batch_size"] == 16
  for task in TASKS:
    rows = workdir_lib.select(run.lines, "train", f"loss/{task}")
    assert rows[-1]["step"] == STEPS and len(rows) >= 5
    assert all(math.isfinite(row["values"][f"loss/{task}"]) for row in rows)


def test_the_pictures_are_those_of_the_run(quickstart, run):
  assert quickstart.printed == [quickstart.pictures / f"notebook-{name}.png" for name in PICTURES]
  for name, figure in PICTURES.items():
    made = (run.path / "figures" / f"{figure}.png").read_bytes()
    assert quickstart.picture(name) == made


@pytest.mark.parametrize("name", ["learning-curves", "budget"])
def test_every_task_has_its_curve(quickstart, name):
  pixels = np.asarray(Image.open(io.BytesIO(quickstart.picture(name))).convert("RGB"))
  for place, task in enumerate(TASKS):
    colour = np.round(255 * np.asarray(matplotlib.colors.to_rgb(style.colour(place))))
    drawn = (np.abs(pixels - colour).max(axis=-1) <= 2).sum()
    assert drawn > 200, (task, drawn)


def test_the_table_has_the_test_metrics(quickstart, run):
  cells = re.findall(r"<td>(.*?)</td>", quickstart.data("policy", "text/html"))
  expected = [(task, metric) for task in TASKS for metric in run.task(task)["metrics"]]
  assert len(cells) == 4 * len(expected) == 48
  rows = [tuple(cells[i : i + 4]) for i in range(0, len(cells), 4)]
  for row, (task, metric) in zip(rows, expected, strict=True):
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    assert tuple(map(html.unescape, row[:2])) == (task, metric["name"] + unit)
    assert row[2:] == tuple(f"{metric[key]:.4g}" for key in ("test", "constant"))


def test_a_budget_leaves_work_out(quickstart, run):
  curve = json.loads((run.path / "budgets" / "curve.json").read_text())
  (found,) = (s for s in curve["settings"] if s["budget"] == 0.6)
  assert found["unit"] == "flops" and max(map(abs, found["thresholds"])) > 0
  assert found["validation"]["flops"] == pytest.approx(0.6, abs=0.03)
  assert found["test"]["flops"] < 0.95 and found["test"]["rate"] < 1
  assert curve["settings"][-1]["test"]["flops"] == 1
  told = f"budget 0.6 flops: {found['validation']['flops']:.4g} on validation, "
  assert quickstart.text("calibrate").startswith(told)
  assert told in quickstart.text("budget")


def test_the_time_saved_is_told(quickstart, run):
  curve = json.loads((run.path / "budgets" / "curve.json").read_text())
  text = quickstart.data("times", "text/markdown")
  full = float(re.search(r"every block for every task, (\S+) ms\.", text)[1])
  assert "Batch of 32, examples of the test split; cpu (cpu)" in text and 0 < full < math.inf
  rows = quickstart.rows("times")
  budgets = [tables.format_number(setting["budget"]) for setting in curve["settings"]]
  assert [row["budget"] for row in rows] == budgets and len(rows) >= 3
  for row in rows:
    ms = {way: float(row[f"{way} (ms)"]) for way in ("masked", "rows", "buckets")}
    assert 0 < ms[row["quickest"]] == min(ms.values())
    saved = float(row["saved (%)"].replace(tables.MINUS, "-"))
    assert saved == pytest.approx(100 - 100 * ms[row["quickest"]] / full, abs=0.2)


@pytest.fixture(scope="module")
def of_tables(tmp_path_factory):
  return Executed(TABLES, tmp_path_factory.mktemp("tables"), FEW)


def test_a_table_becomes_three_tasks_of_different_sizes(of_tables):
  told = of_tables.text("data")
  assert "train 144, validation 48, test 48; leaves (binary), spend (number), group (multi" in told
  assert "date columns, 1: since" in told and "training rows without a value" in told
  assert "|" not in of_tables.text("fit") and "<td>rmse (EUR)</td>" in of_tables.data(
    "fit", "text/html"
  )


def test_the_comparison_reuses_the_first_run(of_tables):
  assert not of_tables.text("compare", "stderr")
  (row,) = of_tables.rows("compare")
  assert row["method"] == "hard"
  assert {path.name for path in of_tables.runs.glob("tables/*-*")} == {"hard-0"}


def test_new_rows_are_predicted_and_what_is_new_is_told(of_tables):
  leaves, spend, group = of_tables.text("predict").splitlines()
  assert all(0 <= p <= 1 for p in np.fromstring(leaves.split("[")[1].strip("]"), sep=" "))
  assert len(spend.split()) == 4 and re.fullmatch(r"group \['[A-D]' '[A-D]' '[A-D]'\]", group)
  told = of_tables.text("predict", "stderr")
  assert "column 'city': 1 of 3 rows have categories" in told and "absl" not in told
  run = ds.load(of_tables.runs / "tables" / "hard-0")
  assert "'number'" in of_tables.text("export") and isinstance(run, ds.Run)
  assert (of_tables.runs / "tables" / "export" / "model.stablehlo").stat().st_size > 1000


def test_what_the_words_say_of_own_tables_is_python():
  (code,) = re.findall(r"```python\n(.*?)```", _cell(_read(TABLES), "own-words").source, re.DOTALL)
  assert {"ds.arrays", "pd.read_csv"} <= {
    ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)
  }


def test_a_cell_that_fails_leaves_no_pictures(tmp_path):
  done = _render(QUICKSTART, tmp_path, '{"train.stepz": 1}')
  assert done.returncode == 2
  assert "error: A cell failed." in done.stderr and "stepz" in done.stderr
  assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
  "changes, message",
  [
    ("{", "error: --changes is no JSON: "),
    ("3", 'error: --changes must be an object such as {"train.retrain_steps"'),
  ],
)
def test_bad_changes_are_one_line(tmp_path, changes, message):
  done = _render(QUICKSTART, tmp_path, changes)
  assert done.returncode == 2 and done.stderr.startswith(message)
  assert not (tmp_path / "here").exists()
