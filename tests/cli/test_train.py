"""Tests of the command line: one clear error, one run a work directory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import types as python_types

from absl import flags
import jax
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax import __main__ as top
from dynashare_jax import runs as main
from dynashare_jax import version
from dynashare_jax.checkpoints import lock
from dynashare_jax.cli import guard as command
from dynashare_jax.cli import train
from dynashare_jax.data import identity
from dynashare_jax.report import run as report_of_a_run
from dynashare_jax.sharing import prices
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]

_CASES = {
  "field": (
    ["--config=configs/rooms.py", "--config.train.stepz=3"],
    "There is no config.train.stepz in configs/rooms.py. Did you mean 'train.steps'?",
  ),
  "group": (["--config=configs/rooms.py", "--config.modle.width=3"], "Did you mean 'model.width'?"),
  "text for a number": (
    ["--config=configs/rooms.py", "--config.train.steps=many"],
    "error: config.train.steps must be an integer (int), but is 'many'.",
  ),
  "fraction for a number": (
    ["--config=configs/rooms.py", "--config.train.steps=1.5"],
    "error: config.train.steps must be an integer (int), but is '1.5'.",
  ),
  "number after a space": (
    ["--config=configs/rooms.py", "--config.train.batch_size", "big: 3"],
    "error: config.train.batch_size must be an integer (int), but is 'big: 3'.",
  ),
  "text for a fraction": (
    ["--config=configs/rooms.py", "--config.policy.budget=half"],
    "error: config.policy.budget must be a number (float), but is 'half'.",
  ),
  "route without describe": (
    ["--config=configs/rooms.py", "--route=11,11,11"],
    "error: --route goes with --describe",
  ),
  "two budgets": (
    ["--config=configs/rooms.py", "--config.policy.budget=0.5", "--config.policy.budget_ms=3.2"],
    "error: --config.policy.budget=0.5 and --config.policy.budget_ms=3.2 are two budgets: give one",
  ),
  "milliseconds of nothing": (
    ["--config=configs/rooms.py", "--config.policy.budget_ms=3.2"],
    "error: config.policy.budget_ms=3.2 needs the milliseconds of the network's parts",
  ),
  "milliseconds and samples": (
    [
      "--config=configs/rooms.py",
      "--config.policy.budget_ms=3.2",
      "--config.policy.latency=ms.json",
      "--config.compat.search=papers",
    ],
    "config.compat.search='papers' they are sampled without a budget: leave one of them out.",
  ),
  "milliseconds that are not there": (
    [
      "--config=configs/rooms.py",
      "--config.policy.budget_ms=3.2",
      "--config.policy.latency=none.json",
    ],
    "error: config.policy.latency='none.json': there is no such file. Write it with: python",
  ),
  "text for a truth value": (
    ["--config=configs/rooms.py", "--config.policy.use=maybe"],
    "error: config.policy.use must be true or false (bool), but is 'maybe'.",
  ),
  "text among numbers": (
    ["--config=configs/rooms.py", "--config.model.blocks=2,two"],
    "error: config.model.blocks must be numbers (tuple), as 2,2,2,2, but is '2,two'.",
  ),
  "text for a flag's number": (
    ["--config=configs/rooms.py", "--profile=few"],
    "error: --profile must be a non-negative integer (int), but is 'few'.",
  ),
  "argument": (["--config=configs/rooms.py", "twice"], "error: Unexpected arguments: twice."),
  "task in a list": (
    ["--config=configs/rooms.py", "--config.data.tasks=segmentation,dept"],
    "error: config.data.tasks has 'dept'",
  ),
  "flag": (["--config=configs/rooms.py", "--workdirr=x"], "Did you mean: workdir"),
  "file": (
    ["--config=configs/romms.py"],
    "no configuration 'configs/romms.py'. Did you mean 'configs/rooms.py'",
  ),
  "method": (
    ["--config=configs/rooms.py", "--config.method=dynashaer"],
    "error: Unknown method 'dynashaer' in config.method. Did you mean 'dynashare'",
  ),
  "data set": (
    ["--config=configs/rooms.py", "--config.dataset=room"],
    "error: Unknown data set 'room' in config.dataset. Did you mean 'rooms'",
  ),
  "task": (["--config=configs/rooms.py", "--config.data.tasks=('dept',)"], "'depth'"),
  "nothing": ([], "error: Name a configuration: --config=rooms"),
  "setting": (["--config=configs/nyuv2.py:5task"], "nyuv2.py:5task: choose one of 2task, 3task"),
  "no setting": (["--config=configs/taskonomy.py:large"], "configs/taskonomy.py has no settings"),
}


@pytest.fixture
def config(monkeypatch):
  """A run of two steps, and a report that costs nothing."""
  stub = python_types.ModuleType("dynashare_jax.report.run.report")
  stub.write_report = lambda folder: (folder / "report.md").write_text("# Run")
  monkeypatch.setitem(sys.modules, stub.__name__, stub)
  monkeypatch.setattr(report_of_a_run, "report", stub, raising=False)
  return configs.make(method="hard", train__steps=2, train__eval_every=2)


@pytest.fixture(scope="module")
def answers():
  """What the command line says to every case, with its exit status."""
  code = "from dynashare_jax import main; main.cli()"
  found = {}
  for case, (arguments, _) in _CASES.items():
    fork = forks.Fork("-c", code, *arguments)
    text, _ = fork.communicate(60)
    found[case] = f"{text}status {fork.returncode}"
  return found


@pytest.mark.parametrize("case", _CASES)
def test_wrong_flags_end_in_one_clear_message(answers, case):
  text = answers[case]
  assert _CASES[case][1] in text
  line, status, *more = text.splitlines()
  assert line.startswith("error: ") and status == "status 2" and not more


def test_a_run_writes_its_results_and_is_not_repeated(config, tmp_path, monkeypatch):
  found = main.run(config, str(tmp_path / "run"))
  assert found["finished"]
  assert (tmp_path / "run" / "report.md").is_file()
  log = (tmp_path / "run" / "logs" / "process-0.log").read_text()
  assert " start: 1 process, 4 devices" in log.splitlines()[0] and log.endswith(" end\n")
  monkeypatch.setattr(loop_lib.Loop, "train", None)
  assert main.run(config, str(tmp_path / "run")) == found
  text = main.summary(found, "run")
  assert "a: auc" in text and "b: accuracy" in text and "report.md" in text


def test_report_is_made_again_without_training(config, tmp_path, monkeypatch):
  """A run that was killed between its results and its report."""
  folder = tmp_path / "run"
  main.run(config, str(folder))
  before = json.loads((folder / "results.json").read_text())
  (folder / "report.md").unlink()

  def never(*unused):
    raise AssertionError("must not train")

  monkeypatch.setattr(loop_lib.Loop, "_advance", never)
  after = main.run(config, str(folder))
  assert (folder / "report.md").is_file()
  assert {k: v for k, v in after.items() if k != "timing"} == {
    k: v for k, v in before.items() if k != "timing"
  }


def test_work_directory_of_another_config_is_refused(config, tmp_path):
  folder = str(tmp_path / "run")
  (tmp_path / "run").mkdir()
  other = config.copy_and_resolve_references()
  other.seed = 7
  other.model.width = 16
  main.workdir_lib.open_workdir(folder, other.to_dict())
  with pytest.raises(ValueError) as error:
    main.run(config, folder)
  text = str(error.value)
  assert "model.width: 16 there, 8 now" in text
  assert "seed: 7 there, 0 now" in text
  assert "batch_size" not in text
  assert not (tmp_path / "run" / "logs").exists()


def test_a_second_start_writes_nothing(config, tmp_path):
  """Before the data are opened: they take a while."""
  config.dataset = "none that is known"
  with lock.held(tmp_path):
    before = (tmp_path / lock.LOCK).read_text()
    with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
      main.run(config, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]
    assert (tmp_path / lock.LOCK).read_text() == before
  with pytest.raises(ValueError, match="Unknown data set"):
    main.run(config, str(tmp_path / "new"))
  assert not list(tmp_path.iterdir())


def test_where_the_data_are_may_change(config, tmp_path):
  """A run may go on on another machine."""
  folder = str(tmp_path / "run")
  other = config.copy_and_resolve_references()
  other.data_dir = "/somewhere/else"
  other.train.threads = 9
  main.workdir_lib.open_workdir(folder, other.to_dict())
  assert main.run(config, folder)["finished"]


def test_a_run_that_an_older_version_began_goes_on(config, tmp_path):
  """Values that its folder lacks count as they were before there were any, and only there."""
  config.compat.sharing = "paper"
  stored = config.to_dict()
  del stored["eval"]["flip"], stored["optimizers"]["retrain"]["gate_lr"], stored["compat"]
  main.workdir_lib.open_workdir(tmp_path, stored)
  changed = config.copy_and_resolve_references()
  changed.eval.flip = True
  with pytest.raises(ValueError, match="eval.flip: false there, true now\n"):
    main.open_workdir(changed, tmp_path)
  assert main.run(config, str(tmp_path))["finished"]


def test_a_finished_run_knows_its_data_set(config, tmp_path):
  main.run(config, str(tmp_path))
  trained = main.load(str(tmp_path))
  dataset, opened = trained.experiment.dataset, main.build(config)[0].dataset
  assert dataset.spec == opened.spec and hash(dataset.spec.tasks) == hash(opened.spec.tasks)
  jax.tree.map(np.testing.assert_array_equal, dataset.arrays("test"), opened.arrays("test"))
  stored = json.loads((tmp_path / "config.json").read_text())
  stored["data"]["test"] = 25
  (tmp_path / "config.json").write_text(json.dumps(stored))
  with pytest.raises(ValueError, match="not those that this run began with: test had 24 examples"):
    main.load(str(tmp_path)).experiment.dataset.source("test")
  allowed = main.load(str(tmp_path), data_changed="allow").experiment.dataset
  assert len(allowed.source("test")) == 25
  before = json.loads((tmp_path / "data.json").read_text())
  found = json.loads((tmp_path / "results.json").read_text())["data"]
  assert found == {"identity": identity.digest(before), "examples": before["examples"]}
  (tmp_path / "data.json").unlink()  # of an older version
  with pytest.raises(ValueError, match="another one than that of the run: its sizes"):
    main.load(str(tmp_path)).experiment.dataset.source("test")


class Stop(Exception):
  """Raised in the middle of a run."""


def test_a_budget_in_milliseconds_outlives_its_file(config, tmp_path, monkeypatch):
  """A run that is killed, and whose file has gone, keeps the budget, and can be loaded."""
  config.method, config.compat.search = "affinity", "corrected"
  config.train.warmup_steps = config.train.retrain_steps = config.policy.measure = 2
  parts = prices.Prices(1.0, (1.0, 1.0), (0.5, 0.5), (0.0, 0.0), (0.0, 0.0))
  network = experiment_lib.identity(config, main.open_dataset(config).spec)
  file = tmp_path / "ms.json"
  told = prices.to_dict(prices.Timed(parts, 8, "a clock"), network, {})
  file.write_text(json.dumps(told))
  config.policy.latency, config.policy.budget_ms = str(file), 2.5
  folder = tmp_path / "run"
  advance = loop_lib.Loop._advance

  def stopped(self, index, offset, count, step, *rest):
    if step >= 3:  # The warm-up is done, and gradients are being compared: no route is made yet.
      raise Stop
    return advance(self, index, offset, count, step, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(loop_lib.Loop, "_advance", stopped)
    with pytest.raises(Stop):
      main.run(config, str(folder))
  file.unlink()
  found = main.run(config, str(folder))
  routes = json.loads((folder / "policy.json").read_text())["routes"]
  assert all(parts.predict(route) <= 2.5 for route in routes)
  assert found["served"]["together"]["ms"] == 2.0 and found["served"]["batch"] == 8
  said = "at most 2.5 ms a call of 8 examples, served together, as predicted from blocks timed on a"
  assert any(said in note for note in found["notes"])
  assert main.load(str(folder)).route.tolist() == routes[found["chosen"]]


def test_wrong_config_leaves_no_work_directory(config, tmp_path):
  """So that the corrected command is not refused."""
  config.gates.temperature = 0.0
  with pytest.raises(ValueError, match=r"gates\.temperature"):
    main.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_written(config, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="Cannot write to the work directory"):
    main.run(config, str(tmp_path / "file" / "run"))


def _end(monkeypatch, capsys, tmp_path, error):
  """Exit status and message when a run raises."""

  def run(config, workdir, profile):
    raise error

  monkeypatch.setattr(main, "run", run)
  monkeypatch.setattr(command, "use_compilation_cache", lambda: None)
  monkeypatch.setattr(train, "_CONFIG", python_types.SimpleNamespace(value={}))
  monkeypatch.setattr(train, "_WORKDIR", python_types.SimpleNamespace(value=str(tmp_path)))
  with pytest.raises(SystemExit) as stop:
    train._main(["main"])
  return stop.value.code, capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path):
  code, text = _end(monkeypatch, capsys, tmp_path, KeyboardInterrupt())
  assert code == 130
  assert "the same command goes on" in text and str(tmp_path) in text


def test_errors_are_one_line(monkeypatch, capsys, tmp_path):
  monkeypatch.delenv("DYNASHARE_TRACEBACK", raising=False)
  error = loop_lib.NonFiniteLossError("the loss of a is not finite")
  code, text = _end(monkeypatch, capsys, tmp_path, error)
  assert code == 2
  assert text == "error: the loss of a is not finite\n"


def test_summary_shows_undefined_metrics():
  metric = {"name": "auc", "test": None, "constant": None}
  found = {"tasks": [{"name": "a", "metrics": [metric]}], "execution": {"mean": 0.5}}
  assert "a: auc - (constant -)" in main.summary(found, "run")


def test_devices_of_the_tests():
  """The batch of this file's run is split over all of them."""
  assert jax.device_count() == 4


_LIGHT = """
import runpy, sys
sys.argv = ["dynashare_jax", "--help"]
runpy.run_module("dynashare_jax", run_name="__main__")
heavy = {"jax", "numpy", "matplotlib", "orbax", "grain"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for name in ("train", "benchmark", "calibrate", "cost", "data", "export", "predict"):
  __import__(f"dynashare_jax.cli.{name}").cli
heavy -= {"jax", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_commands_import_what_they_need_alone():
  """Matplotlib, Orbax and Grain take seconds, which every process would pay."""
  done = subprocess.run(
    [sys.executable, "-c", _LIGHT], cwd=ROOT, text=True, capture_output=True, check=False
  )
  assert not done.returncode, done.stderr
  assert "benchmark" in done.stdout


@pytest.mark.parametrize(
  ("command", "hint"),
  [
    ("benchmrak", "Did you mean 'benchmark'?"),
    ("describe", "It is an option: train --describe."),
    ("report", "train writes the report of a run"),
  ],
)
def test_an_unknown_command_says_which_is_meant(command, hint, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["dynashare_jax", command])
  with pytest.raises(SystemExit) as stop:
    top.main()
  assert stop.value.code == 2
  assert f"error: Unknown command {command!r}. {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("command", top.COMMANDS)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_every_command_lists_its_arguments(command, asked, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["dynashare_jax", command, asked])
  try:
    top.main()
  except SystemExit as stop:
    assert not stop.code
  text = capsys.readouterr().out
  assert f"python -m dynashare_jax {command} " in text
  assert re.search(r"^ .*--\w+", text, re.MULTILINE)


@pytest.mark.parametrize(
  "arguments", [["--help"], ["train", "-h"], ["export", "-h"], ["data", "-h"]]
)
def test_help_has_the_name_that_a_command_was_called_by(arguments, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["/bin/dynashare", *arguments])
  with contextlib.suppress(SystemExit):
    top.main()
  text = capsys.readouterr().out
  assert f"dynashare {'COMMAND' if len(arguments) == 1 else arguments[0]} " in text
  assert "python -m" not in text


def test_version_is_that_of_the_package(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["dynashare", "--version"])
  top.main()
  assert capsys.readouterr().out == f"dynashare_jax {version.__version__}\n"


@pytest.mark.parametrize("asked", ["--help", "-h", "--helpfull", "--helpshort"])
def test_help_lists_every_flag_of_training_and_none_of_absl(asked, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["main", "--config=configs/rooms.py", asked])
  with pytest.raises(SystemExit) as stop:
    train.cli()
  text = capsys.readouterr().out
  own = flags.FLAGS.flags_by_module_dict()[train.__name__]
  assert len(own) > 5 and stop.value.code == 0
  assert set(re.findall(r"^  --(\w+)", text, re.MULTILINE)) == {"config", *(f.name for f in own)}
  assert text.startswith("usage: python -m dynashare_jax train ")
  words = " ".join(text.split())
  assert all(" ".join(flag.help.split())[:20] in words for flag in own)
  assert "--config.NAME=VALUE" in words and "dynashare_jax/defaults.py" in words


def test_a_pipe_that_nobody_reads_is_no_failure():
  """A finished run that ended with a failure would be started again."""
  code = "from dynashare_jax.cli import guard; guard.say('rmse 0.1', 'report'); print('at the end')"
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
  os.close(write)
  assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_a_sign_gets_all_the_rest(monkeypatch):
  found = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(found, "ascii"))
  command.say("0.1 \u00b1 0.02", "report: runs/x")
  assert found.getvalue() == b"0.1 ? 0.02\nreport: runs/x\n"
