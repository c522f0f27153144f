"""Tests of the command line that exports."""

from __future__ import annotations

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import infer
from dynashare_jax import runs as main
from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.cli import export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished run that nobody trained: its weights are random."""
  config = configs.make(policy__candidates=1, gates__init="spread")
  folder = workdir_lib.open_workdir(tmp_path_factory.mktemp("run"), config.to_dict())
  experiment = main.build(config)[0]
  state = experiment.initial_state()
  state = experiment.with_optimizer(state, len(experiment.method.phases) - 1)
  state = state.replace(routes=jnp.ones_like(state.routes))
  with checkpoint.Checkpoints(folder / "checkpoints") as saved:
    saved.save(experiment.total_steps, state, {})
  metrics = [{"name": "m", "unit": "%", "higher_is_better": True, "validation": 3.0, "test": 2.0}]
  workdir_lib.write_json(
    folder / "results.json",
    {"tasks": [{"name": task.name, "metrics": metrics} for task in experiment.tasks]},
  )
  return folder


@pytest.fixture
def run(trained, tmp_path):
  return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def _error(capsys, *arguments):
  with pytest.raises(SystemExit) as found:
    export.cli(arguments)
  assert found.value.code == 2
  return capsys.readouterr().err


def test_a_run_is_exported_beside_its_checkpoint(run, capsys):
  before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
  export.cli([f"--workdir={run}", "--platforms=cpu"])
  assert capsys.readouterr().out.startswith(f"{run / 'export' / 'model.stablehlo'} (")
  assert before == {p: p.read_bytes() for p in before}
  model, whole = infer.load(run / "export"), main.load(run)
  inputs = np.asarray(whole.experiment.dataset.arrays("test").inputs)[:3]
  logits, signals = jax.jit(whole.forward())(whole.variables, inputs)
  found = model.run(inputs)
  np.testing.assert_allclose(found.predictions["a"], jax.nn.sigmoid(logits["a"][:, 0]), atol=1e-6)
  np.testing.assert_array_equal(found.predictions["b"], np.argmax(logits["b"], -1))
  np.testing.assert_array_equal(found.executed, signals.executed)
  assert [[m["test"] for m in task["metrics"]] for task in model.manifest["tasks"]] == [
    [2.0],
    [2.0],
  ]


def test_tasks_budget_and_folder_are_chosen(run, tmp_path, capsys):
  whole = main.load(run)
  file = tmp_path / "budget.json"
  file.write_text(
    json.dumps(
      {
        "thresholds": [0.0, 1e9],
        "target_rate": 0.5,
        "budget": 0.4,
        "unit": "flops",
        "step": whole.step,
        "route": whole.route.tolist(),
      }
    )
  )
  output = tmp_path / "elsewhere"
  export.cli(
    [f"--workdir={run}", "--platforms=cpu", "--tasks=b", f"--budget={file}", f"--output={output}"]
  )
  assert not (run / "export").exists()
  model = infer.load(output)
  assert model.tasks == ("b",) and model.manifest["budget"]["budget"] == 0.4
  inputs = np.asarray(whole.experiment.dataset.arrays("test").inputs)[:3]
  executed = np.asarray(model.run(inputs).executed)
  assert executed.shape == (1, 3, 2) and not executed[:, :, 1].any()


def test_errors_are_one_line(run, tmp_path, capsys):
  assert _error(capsys, f"--workdir={run}", "--tasks=bb,a") == (
    "error: A name in --tasks is 'bb'; it must be one of a, b. Did you mean 'b'?\n"
  )
  assert "Did you mean 'cuda'" in _error(capsys, f"--workdir={run}", "--platforms=cude")
  assert "holds no budget setting" in _error(
    capsys, f"--workdir={run}", f"--budget={tmp_path / 'none.json'}"
  )
  (run / "results.json").unlink()
  assert "holds no finished run" in _error(capsys, f"--workdir={run}")
  assert "is no work directory" in _error(capsys, f"--workdir={tmp_path}")
  assert not (run / "export").exists()


def test_a_run_of_an_older_version_is_read(trained, tmp_path):
  """Its configuration lacks what was added later, at any depth, even whole groups."""
  old = tmp_path / "old"
  shutil.copytree(trained, old)
  config = json.loads((old / "config.json").read_text())
  del config["eval"]["flip"], config["optimizers"]["retrain"]["gate_lr"]
  del config["data"]["images"], config["compat"], config["random"]
  (old / "config.json").write_text(json.dumps(config))
  first, second = main.load(trained), main.load(old)
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  assert first.plan == second.plan


def test_a_run_is_exported_without_its_data(run, capsys, monkeypatch):
  before = main.load(run)
  export.cli([f"--workdir={run}", "--platforms=cpu", f"--output={run / 'with'}"])
  workdir_lib.write_spec(run, before.experiment.dataset.spec)
  module = main.find_dataset("stripes")

  def gone(*unused):
    raise ValueError("The folder is gone.")

  monkeypatch.setattr(module, "build", gone)
  export.cli([f"--workdir={run}", "--platforms=cpu", f"--output={run / 'without'}"])
  manifests = [json.loads((run / n / "manifest.json").read_text()) for n in ("with", "without")]
  assert manifests[0] == manifests[1]
  found = main.load(run)
  assert found.experiment.dataset.spec == before.experiment.dataset.spec
  with pytest.raises(ValueError, match="The folder is gone"):
    found.experiment.dataset.arrays("test")
