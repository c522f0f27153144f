"""Conflict of a finished run: the cosines, and the command that tells them."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from tiny import configs

from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.cli import conflict as command
from dynashare_jax.data import loader
from dynashare_jax.infer import conflict
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.report.run import report
from dynashare_jax.train import forward as forward_lib

VALUES = {"method": "adashare", "compat__search": "corrected", "policy__measure": 2}
VALUES |= {"policy__halving": False, "policy__serve": "apart"}


def _restored(run):
  return trained_lib.restore(run.experiment, run.folder)


def _cosines(trained, batches):
  """Cosine of the two tasks' gradients at test, by a gradient of each: `[batches, blocks]`."""
  control = skip_trunk.Decisions(trained.structure.modes)

  def loss(network, batch, place):
    out, _ = trained.experiment.network.apply({"params": network}, batch.inputs, control, False)
    sums = forward_lib.task_losses(trained.tasks, out, batch)[place]
    return sums.total / sums.count

  flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
  slope = jax.jit(jax.grad(loss), static_argnums=2)
  found = np.zeros((len(batches), 2))
  for number, batch in enumerate(batches):
    slopes = [slope(trained.params, batch, t)["trunk"]["backbone"] for t in range(2)]
    for block in range(2):
      one, other = (flat(tree[f"block_{block}"]) for tree in slopes)
      length = np.linalg.norm(one) * np.linalg.norm(other)
      found[number, block] = one @ other / length if length else np.nan
  return found


def test_cosines_of_a_finished_run_against_a_slow_twin(whole):
  trained = _restored(whole(**VALUES))
  found = conflict.measure(trained, batches=3, batch_size=5)
  source = trained.experiment.dataset.source("validation")
  batches = [loader.stack([source[i] for i in range(5 * n, 5 * n + 5)]) for n in range(3)]
  each = _cosines(trained, batches)
  for block in range(2):
    if not all(row[block] for row in trained.structure.route):
      assert np.isnan(found.cosine[block, 0, 1])
      continue
    assert found.cosine[block, 0, 1] == pytest.approx(np.mean(each[:, block]), abs=1e-4)
    error = np.std(each[:, block], ddof=1) / 3**0.5
    assert found.error[block, 0, 1] == pytest.approx(error, abs=1e-3)


def test_what_cannot_be_measured(whole):
  trained = _restored(whole(**VALUES))
  with pytest.raises(ValueError, match="at least two are needed"):
    conflict.measure(trained, batch_size=10_000)
  with pytest.raises(ValueError, match="one task.*nothing can conflict"):
    conflict.measure(trained.only([0]))
  single = _restored(whole(method="single"))
  with pytest.raises(ValueError, match="'single' has no blocks that tasks share"):
    conflict.measure(single)


def test_the_command_takes_no_example_of_training(capsys):
  with pytest.raises(SystemExit):
    command.cli(["--workdir=none", "--split=train"])
  assert "--split is 'train'; it must be one of validation, test" in capsys.readouterr().err


def test_the_command_tells_writes_and_draws(whole, tmp_path, capsys):
  folder = shutil.copytree(whole(**VALUES).folder, tmp_path / "run")
  workdir_lib.write_json(folder / "config.json", configs.make(**VALUES).to_dict())
  command.cli([f"--workdir={folder}", "--batches=2"])
  told = capsys.readouterr().out
  assert "conflict" in told and "| a, b " in told
  saved = json.loads((folder / "conflict.json").read_text())
  assert saved["tasks"] == ["a", "b"] and saved["batches"] == 2
  assert np.shape(saved["cosine"]) == (2, 2, 2)
  assert (folder / "figures" / "conflict.png").stat().st_size > 5000


def test_the_report_asks_whether_tasks_conflict(whole, tmp_path):
  folder = shutil.copytree(whole(**VALUES).folder, tmp_path / "run")
  text = report.write_report(folder).read_text()
  assert "## Do these tasks conflict, and where?" in text
  assert "bit a decision" in text and "What moved it in the last cycle" in text
  assert (folder / "figures" / "conflict.png").is_file()
  # Two cycles leave the policy undecided: what is drawn from it would be a coin.
  assert "Alone it would draw nearly random routes" in text
  config = configs.make(**VALUES | {"policy__routes": "sampled"}).to_dict()
  workdir_lib.write_json(folder / "config.json", config)
  assert "These routes are nearly random" in report.write_report(folder).read_text()
