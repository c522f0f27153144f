"""Tests of the command line that meets budgets."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.cli import calibrate
from dynashare_jax.infer import settings
from dynashare_jax.infer import strategy
from dynashare_jax.report.compare import several
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import results
from dynashare_jax.train import stages


def _train(folder, **values):
  """A finished run of a second."""
  config = configs.make(
    **{
      "gates__target_rates": (0.6, 0.6),
      "gates__init": "spread",
      **configs.SHORT,
      "policy__use": False,
      "eval__batch_size": 100,
      "data__validation": 200,
      "data__test": 100,
      **values,
    }
  )
  folder = workdir_lib.open_workdir(folder, config.to_dict())
  loop = loop_lib.Loop(main.build(config, jax.devices()[:1])[0], folder)
  results.finish(loop, stages.run(loop), {})
  return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  return _train(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(trained, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(trained, folder)
  return folder


def _error(capsys, *arguments):
  with pytest.raises(SystemExit) as found:
    calibrate.cli(arguments)
  assert found.value.code == 2
  return capsys.readouterr().err


def test_a_budget_is_written_beside_the_checkpoint(run, capsys):
  before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
  calibrate.cli([f"--workdir={run}", "--budget=0.8"])
  calibrate.cli([f"--workdir={run}", "--budget=0.7", "--unit=rate"])
  assert sorted(p.name for p in (run / "budgets").iterdir()) == [
    "flops-0.8.json",
    "rate-0.7.json",
  ]  # earlier ones stay
  assert before == {p: p.read_bytes() for p in before}
  path = run / "budgets" / "flops-0.8.json"
  saved = json.loads(path.read_text())
  assert saved["budget"] == 0.8 and saved["unit"] == "flops"
  assert saved["validation"]["flops"] == pytest.approx(0.8, rel=0.02)
  assert len(saved["thresholds"]) == 2 == len(saved["gated"])
  thresholds, target = settings.read(path)
  forward = jax.jit(main.load(str(run)).forward(threshold=thresholds, target_rate=target))
  trained = main.load(str(run))
  batch = trained.experiment.dataset.arrays("test")
  executed = forward(trained.variables, batch.inputs)[1].executed
  assert float(executed.mean()) == pytest.approx(saved["test"]["rate"])
  out = capsys.readouterr().out
  assert out.startswith("budget 0.8 flops: ") and "on test: " in out
  assert "flops-0.8.json (" in out


def test_a_curve_has_both_ends_and_says_what_is_left_out(run, capsys):
  calibrate.cli([f"--workdir={run}", "--curve", "--budgets=0.01,0.8,0.9"])
  out = capsys.readouterr().out
  assert out.startswith("left out: 0.01 flops; in reach are ")
  curve = json.loads((run / "budgets" / "curve.json").read_text())
  budgets = [s["budget"] for s in curve["settings"]]
  low, high = curve["reach"]
  assert budgets == [low, 0.8, 0.9, high] and high == 1.0
  assert curve["left_out"] == [0.01]
  assert curve["settings"][0]["test"]["flops"] == pytest.approx(low)
  assert curve["default"]["thresholds"] == [0.0, 0.0]
  for name in ("budget.md", "budget.csv", "figures/budget.png"):
    assert (run / name).stat().st_size > 200
  assert len(list((run / "budgets").iterdir())) == 5


def test_bad_arguments_are_one_line(run, capsys):
  text = _error(capsys, f"--workdir={run}", "--budget=0.001")
  assert text.startswith("error: A budget of 0.001 flops is below the lowest")
  text = _error(capsys, f"--workdir={run}")
  assert "error: Give one of --budget=VALUE, --curve and --tune=SIZES" in text
  text = _error(capsys, f"--workdir={run}", "--curve", "--budgets=a")
  assert "--budgets must be numbers" in text
  for sizes in ("1.5,2", "nan", "inf", "-1"):
    text = _error(capsys, f"--workdir={run}", f"--tune={sizes}")
    assert text == f"error: --tune must be whole numbers with commas, not {sizes!r}.\n"
  text = _error(capsys, f"--workdir={run}", "--budget=0")
  assert text == "error: A budget must be above 0, but is 0.0.\n"
  text = _error(capsys, f"--workdir={run / 'none'}", "--budget=1")
  assert "is no work directory" in text
  text = _error(capsys, f"--workdir={run}", "--budget=1", "--batch=999")
  assert "1 to 200 examples" in text
  assert not (run / "budgets").exists()


def test_a_run_without_gates_is_told_so(run, capsys, monkeypatch):
  trained = main.load(str(run))
  ungated = dataclasses.replace(trained, structure=trained.sharing.of(trained.route, False))
  monkeypatch.setattr(main, "load", lambda *_: ungated)
  text = _error(capsys, f"--workdir={run}", "--budget=0.5")
  assert text.startswith("error: ") and "without instance gates" in text


def test_tuning_is_kept_beside_the_checkpoint(run, capsys):
  calibrate.cli([f"--workdir={run}", "--tune=1,4"])
  saved = strategy.load(run)
  assert set(saved["choices"]) == {"1", "4"}
  assert set(saved["seconds"]["4"]) == {"masked", "rows", "buckets"}
  quickest = min(saved["seconds"]["4"], key=saved["seconds"]["4"].get)
  assert saved["choices"]["4"] == quickest
  assert f"batch 4: {quickest} is quickest" in capsys.readouterr().out
  assert strategy.choose(4, "cpu", saved) == strategy.WAYS[quickest]
  message = _error(capsys, f"--workdir={run}", "--tune=1,400")
  assert "batch sizes from 1 to 200, the size of the validation" in message


def test_several_runs_are_timed_and_compared(tmp_path, capsys, monkeypatch):
  folders = [str(tmp_path / name) for name in ("weak-0", "strong-0")]
  for folder in folders:
    (tmp_path / folder).mkdir()
  told = _error(capsys, f"--workdir={','.join(folders)}", "--budget=0.5")
  assert "give --curve" in told
  assert "give --curve" in _error(
    capsys, f"--workdir={','.join(folders)}", "--curve", "--budgets=1"
  )
  seen = []
  monkeypatch.setattr(
    calibrate.costs, "measure_all", lambda paths, settings, tell: seen.append((paths, settings))
  )
  written = lambda runs, where: seen.append(([str(run.path) for run in runs], where)) or where
  monkeypatch.setattr(several, "write", written)
  calibrate.cli([f"--workdir={','.join(folders)}", "--curve", "--batch=2"])
  (timed, settings), (compared, where) = seen
  assert timed == compared == folders and settings.batches == (2,) and where == tmp_path
