"""Tests of the quickstart notebook: its file, its cells, a real execution."""

from __future__ import annotations

import base64
import configparser
import fnmatch
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

import jax
import matplotlib
import nbformat
import numpy as np
from PIL import Image
import pytest

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart_tpu.ipynb"
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
  "learning-curves": "learning_curves",
  "policy": "policy",
  "gates": "execution",
  "predictions": "predictions",
  "budget": "budget_time",
}


@pytest.fixture(scope="module")
def notebook():
  return nbformat.read(NOTEBOOK, as_version=4)


def _cell(notebook, name):
  (found,) = (cell for cell in notebook.cells if cell.id == name)
  return found


def test_the_file_is_valid_and_has_no_outputs(notebook):
  nbformat.validate(notebook)
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  assert notebook.metadata.accelerator == "TPU"
  assert notebook.metadata.kernelspec.name == "python3"
  for cell in notebook.cells:
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None, cell.id
  # As nbformat writes it, so that a change shows in a diff as what it is.
  assert NOTEBOOK.read_text("utf-8") == nbformat.writes(notebook) + "\n"


def test_words_stand_before_every_code_cell(notebook):
  cells = notebook.cells
  assert cells[0].cell_type == "markdown" and "TPU" in cells[0].source
  for before, cell in itertools.pairwise(cells):
    if cell.cell_type == "code":
      assert before.cell_type == "markdown", cell.id


def test_the_page_shows_every_picture(notebook):
  page = (ROOT / "docs" / "notebook.md").read_text("utf-8")
  shown = set(re.findall(r"\(images/notebook-([a-z-]+)\.png\)", page))
  there = {
    p.stem.removeprefix("notebook-") for p in (ROOT / "docs" / "images").glob("notebook-*.png")
  }
  assert shown == there == set(PICTURES)


class Machine:
  """A machine without the package: records programs, runs none."""

  def __init__(self, monkeypatch, folder, devices=(), driver=""):
    self.commands = []
    self.failing = ""  # a program
    self.files = ("configs/rooms.py",)  # of what is cloned
    self._find = importlib.util.find_spec
    self._driver = driver
    monkeypatch.chdir(folder)
    monkeypatch.setattr("subprocess.run", self.run)
    monkeypatch.setattr("importlib.util.find_spec", self.find)
    monkeypatch.setattr("glob.glob", lambda pattern: fnmatch.filter(devices, pattern))
    monkeypatch.setattr("shutil.which", lambda name: name if self._driver else None)

  def find(self, name):
    return None if name == "dynashare_jax" else self._find(name)

  def run(self, command, **unused):
    if command[0] == "nvidia-smi":
      return python_types.SimpleNamespace(stdout=self._driver, returncode=0)
    self.commands.append(tuple(command))
    failed = command[0] == self.failing
    if command[0] == "git" and not failed:
      for name in self.files:
        path = pathlib.Path(command[-1], name)
        path.parent.mkdir(parents=True)
        path.write_text("")
    return python_types.SimpleNamespace(
      returncode=int(failed), stdout="", stderr="no network" * failed
    )


@pytest.fixture
def install(notebook):
  """Runs the install cell with a repository; returns its names."""

  def run(repository="https://example.org/copy"):
    names = {"REPOSITORY": repository}
    exec(_cell(notebook, "install").source, names)
    return names

  return run


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
def test_the_package_is_installed_for_the_device(
  install, monkeypatch, tmp_path, devices, driver, extra, capsys
):
  machine = Machine(monkeypatch, tmp_path, devices, driver)
  names = install()
  clone, pip = machine.commands
  assert clone == ("git", "clone", "--depth=1", "https://example.org/copy", "source")
  source = str(tmp_path.resolve() / "source")
  expected = (source, f"jax[{extra}]>=0.10.2") if extra else (source,)
  assert pip == (sys.executable, "-m", "pip", "install", *expected)
  assert names["SOURCE"] == tmp_path.resolve() / "source"
  assert capsys.readouterr().out == f"Installed: {', '.join(expected)}\n"
  # The bound is the package's own.
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  extras = setup["options.extras_require"]
  if extra in extras:
    assert extras[extra] == expected[1]


def test_without_an_address_one_error_says_what_to_do(install, monkeypatch, tmp_path):
  machine = Machine(monkeypatch, tmp_path)
  with pytest.raises(ValueError) as found:
    install("")
  assert str(found.value) == (
    "There is no copy of dynashare_jax here: set REPOSITORY in the cell above"
    " to the address of yours, such as https://github.com/YOU/dynashare_jax."
  )
  assert not machine.commands


def test_what_cannot_be_installed_is_told(install, monkeypatch, tmp_path):
  machine = Machine(monkeypatch, tmp_path)
  machine.failing = "git"
  with pytest.raises(RuntimeError, match="^git clone .*\nno network$"):
    install()
  machine.failing, machine.files = "", ()
  with pytest.raises(ValueError, match="example.org/copy is no copy of dyna"):
    install()
  machine.failing, machine.files = sys.executable, ("configs/rooms.py",)
  with pytest.raises(RuntimeError, match="-m pip install .*\nno network$"):
    install()


def test_a_loaded_package_that_pip_replaced_asks_for_a_restart(install, monkeypatch, tmp_path):
  Machine(monkeypatch, tmp_path)
  monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
  with pytest.raises(RuntimeError, match=r"replaced numpy.*Restart session"):
    install()


def test_the_second_time_nothing_is_cloned(install, monkeypatch, tmp_path):
  machine = Machine(monkeypatch, tmp_path)
  install()
  install("")
  assert [command[0] for command in machine.commands].count("git") == 1


@pytest.mark.parametrize("devices, batch", [(1, 16), (3, 15), (6, 18), (8, 16), (64, 64)])
def test_the_batch_fits_the_devices(notebook, monkeypatch, devices, batch):
  monkeypatch.delenv("DYNASHARE_NOTEBOOK", raising=False)
  names = {"SOURCE": ROOT, "jax": python_types.SimpleNamespace(device_count=lambda: devices)}
  exec(_cell(notebook, "config").source, names)
  assert names["config"].train.batch_size == batch
  assert names["config"].eval.batch_size == 2 * batch
  assert batch % devices == 0


def test_changes_come_from_the_environment(notebook, monkeypatch):
  monkeypatch.setenv("DYNASHARE_NOTEBOOK", json.dumps(SMALL))
  names = {"SOURCE": ROOT, "jax": jax}
  exec(_cell(notebook, "config").source, names)
  assert names["config"].model.widths == (4, 8)
  assert names["config"].gates.target_rates == (0.7, 0.7)
  monkeypatch.setenv("DYNASHARE_NOTEBOOK", '{"train.stepz": 1}')
  with pytest.raises(KeyError, match="stepz"):
    exec(_cell(notebook, "config").source, names)


def _render(folder, changes):
  """Executes the notebook in a process of its own, as one CPU device."""
  environment = os.environ | {
    "IPYTHONDIR": str(folder / "ipython"),
    "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
  }
  return subprocess.run(
    [
      sys.executable,
      str(RENDER),
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
  """The executed notebook and the run that it made."""

  def __init__(self, folder):
    done = _render(folder, json.dumps(SMALL))
    assert done.returncode == 0, done.stderr
    self.printed = [pathlib.Path(line) for line in done.stdout.split()]
    self.pictures = folder / "pictures"
    self.notebook = nbformat.read(folder / "here" / NOTEBOOK.name, as_version=4)
    self.run = workdir_lib.load(folder / "here" / "runs" / "quickstart")

  def text(self, name):
    """What a cell printed."""
    return "".join(
      output.text for output in _cell(self.notebook, name).outputs if output.get("name") == "stdout"
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
    """A cell's table: a dict a row."""
    head, _, *lines = self.data(name, "text/markdown").splitlines()
    cut = [[text.strip() for text in line.strip("|").split("|")] for line in (head, *lines)]
    return [dict(zip(cut[0], row, strict=True)) for row in cut[1:]]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
  return Executed(tmp_path_factory.mktemp("notebook"))


def test_nothing_is_installed_where_the_package_is(executed):
  assert executed.text("install") == ("The package is here; nothing to install.\n")
  assert not (executed.run.path.parents[1] / "source").exists()
  assert executed.text("devices").startswith("1 device(s): ")
  assert executed.text("config") == "8 pictures a step, 8 on each device\n"


def test_the_changes_were_trained(executed):
  assert executed.run.config["train"]["batch_size"] == 8
  assert executed.run.config["eval"]["batch_size"] == 16
  for task in TASKS:
    rows = workdir_lib.select(executed.run.lines, "train", f"loss/{task}")
    assert rows[-1]["step"] == STEPS and len(rows) >= 5
    assert all(math.isfinite(row["values"][f"loss/{task}"]) for row in rows)
  path = pathlib.Path("runs", "quickstart", "report.md")
  assert f"report: {path}" in executed.text("train")


def test_the_pictures_are_those_of_the_run(executed):
  assert executed.printed == [executed.pictures / f"notebook-{name}.png" for name in PICTURES]
  for name, figure in PICTURES.items():
    shown = base64.b64decode(executed.data(name, "image/png"))
    made = (executed.run.path / "figures" / f"{figure}.png").read_bytes()
    written = executed.pictures / f"notebook-{name}.png"
    assert shown == made == written.read_bytes()


@pytest.mark.parametrize("name", ["learning-curves", "budget"])
def test_every_task_has_its_curve(executed, name):
  data = base64.b64decode(executed.data(name, "image/png"))
  pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
  for place, task in enumerate(TASKS):
    colour = np.round(255 * np.asarray(matplotlib.colors.to_rgb(style.colour(place))))
    drawn = (np.abs(pixels - colour).max(axis=-1) <= 2).sum()
    assert drawn > 200, (task, drawn)


def test_the_table_has_the_test_metrics(executed):
  rows = executed.rows("metrics")
  expected = [(task, metric) for task in TASKS for metric in executed.run.task(task)["metrics"]]
  assert len(rows) == len(expected) == 12
  for row, (task, metric) in zip(rows, expected, strict=True):
    assert row["task"] == task
    assert row["metric"].split()[0] == metric["name"]
    assert row["metric"][-1] == "↓↑"[metric["higher_is_better"]]
    assert row["test"] == tables.format_entry(metric["test"])
    assert row["constant guess"] == tables.format_entry(metric["constant"])


def test_a_budget_leaves_work_out(executed):
  curve = json.loads((executed.run.path / "budgets" / "curve.json").read_text())
  (found,) = (s for s in curve["settings"] if s["budget"] == 0.6)
  assert found["unit"] == "flops" and max(map(abs, found["thresholds"])) > 0
  assert found["validation"]["flops"] == pytest.approx(0.6, abs=0.03)
  assert found["test"]["flops"] < 0.95
  assert found["test"]["rate"] < 1
  assert curve["settings"][-1]["test"]["flops"] == 1


def test_the_time_saved_is_told(executed):
  curve = json.loads((executed.run.path / "budgets" / "curve.json").read_text())
  rows = executed.rows("saved")
  assert len(rows) == len(curve["settings"]) >= 3
  times = [float(row["batch of 32 (ms)"]) for row in rows]
  for row, ms, setting in zip(rows, times, curve["settings"], strict=True):
    assert row["way"] in ("masked", "rows", "buckets")
    work = setting["test"]["flops"]
    assert float(row["work (%)"]) == pytest.approx(100 * work, rel=1e-3)
    assert 0 < ms < math.inf
    saved = float(row["saved (%)"].replace(tables.MINUS, "-"))
    assert saved == pytest.approx(100 - 100 * ms / times[-1], abs=0.2)
    for task in curve["tasks"]:
      name = task["metrics"][0]["name"]
      (title,) = (t for t in row if t.startswith(f"{task['name']} {name}"))
      assert row[title] == tables.format_entry(setting["test"]["metrics"][task["name"]][name])
  near = [row["budget"] for row in rows].index("0.6000")
  told = re.fullmatch(
    r"Budget 0.6: (\S+) ms; all gates open: (\S+) ms; full: (\S+) ms.\n", executed.text("saved")
  )
  some, every, full = map(float, told.groups())
  assert (some, every) == pytest.approx((times[near], times[-1]), rel=2e-3)
  assert 0 < full < math.inf


def test_a_cell_that_fails_leaves_no_pictures(tmp_path):
  done = _render(tmp_path, '{"train.stepz": 1}')
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
  done = _render(tmp_path, changes)
  assert done.returncode == 2 and done.stderr.startswith(message)
  assert not (tmp_path / "here").exists()
