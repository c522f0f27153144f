"""A trunk that the package does not know goes through everything that a run is.

`tests/tiny/methods/stitched.py`: one column per task, mixed after every block.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import time

import jax
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import methods
from dynashare_jax import runs
from dynashare_jax.cli import cost as cost_command
from dynashare_jax.cli import export as export_command
from dynashare_jax.infer import artefact
from dynashare_jax.library import configs as command_configs
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.report.run import report
from dynashare_jax.train import experiment as experiment_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "tiny" / "methods"
VALUES = {"method": "stitched", "train__steps": 9}


@pytest.fixture(autouse=True, scope="module")
def found():
  """Lets the method be found by its name."""
  methods.__path__.append(str(FOLDER))
  yield
  methods.__path__.remove(str(FOLDER))


@pytest.fixture(scope="module")
def run(found, whole):
  return whole(**VALUES)


def test_it_is_forty_lines_and_those_of_the_page():
  text = (FOLDER / "stitched.py").read_text()
  assert 20 <= text.count("\n") <= 42
  assert f"```python\n{text}```" in (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_page_says_where_it_goes_and_its_command_runs_it(found):
  page = (ROOT / "docs" / "architecture.md").read_text().partition("### A method in 40 lines")[2]
  assert "`dynashare_jax/methods/stitched.py`" in page and "`pip install -e .`" in page
  (command,) = re.findall(
    r"^python -m dynashare_jax train --config=(\S+) --config\.(.+)$", page, re.M
  )
  config = command_configs.load(str(ROOT / command[0]), [command[1]])
  assert "stitched on rooms" in runs.describe(config)


def test_it_is_described(found):
  text = runs.describe(configs.make(**VALUES))
  assert "stitched on stripes" in text
  assert any(line.split() == ["stitches", "8"] for line in text.splitlines())
  assert "the whole network with heads" in text


def test_it_trains_what_it_says(run, same_bits):
  start = run.experiment.initial_state().params["network"]["trunk"]["stitches"]
  end = run.state.params["network"]["trunk"]["stitches"]
  assert (np.asarray(start) != np.asarray(end)).all()
  found = run.results
  assert found["parameters"]["stitches"] == 8 and found["parameters"]["gates"] == 0
  assert found["macs"]["stem"] is None and found["macs"]["total"] > 0
  assert found["execution"]["rate"] == [[1.0], [1.0]]
  assert [c["index"] for c in found["candidates"]] == [0] and "route" not in found["candidates"][0]
  assert not (run.folder / "policy.json").exists()
  first = next(line["values"] for line in run.lines if line["kind"] == "train")
  tasks = [t.weight * first[f"loss/{t.name}"] for t in run.experiment.tasks]
  assert first["loss/total"] == pytest.approx(sum(tasks) + first["penalty/drift"])


def test_all_columns_move_together(run):
  """Tasks share everything: one step is the best for all of them."""
  assert len(set(np.asarray(run.state.best.step).tolist())) == 1
  assert run.experiment.owner("trunk/columns_1/project/kernel") is None
  assert run.experiment.owner("heads_1/linear/kernel") == 1


def test_its_report(run):
  report.write_report(run.folder)
  text = (run.folder / "report.md").read_text()
  assert "stitches" in text and "stitched" in text


def test_its_cost(run, capsys):
  arguments = [f"--workdir={run.folder}", "--batches=1", "--repeats=1"]
  _written(run.folder)
  text = cost_command.run(arguments)
  rows = [line for line in text.splitlines() if "whole network" in line]
  assert [row.split("|")[1].strip() for row in rows][:3] == ["all tasks", "a", "b"]
  assert "stitches" in text


@pytest.mark.parametrize("tasks", [(), ("b",)])
def test_its_export(run, tasks, tmp_path):
  """Of all and of one task: the columns stay, the other heads go."""
  _written(run.folder)
  names = ",".join(tasks)
  file = export_command.run(
    [f"--workdir={run.folder}", f"--tasks={names}", f"--output={tmp_path}", "--platforms=cpu"]
  )
  inputs = np.asarray(run.experiment.dataset.arrays("test").inputs)[:5]
  trained = runs.load(str(run.folder))
  logits, _ = jax.jit(trained.forward())(trained.variables, inputs)
  got = artefact.load(file)(_named(file, inputs))
  assert set(got) == set(tasks or ("a", "b"))
  np.testing.assert_allclose(got["b"], _predicted(run, "b", logits["b"]), atol=1e-6)
  assert json.loads((tmp_path / "manifest.json").read_text())["plan"] is None


def _named(file, inputs):
  (name,) = json.loads((file.parent / "manifest.json").read_text())["inputs"]["arrays"]
  return {name: inputs}


def _predicted(run, task, logits):
  from dynashare_jax.objectives import kinds

  spec = next(t for t in run.experiment.tasks if t.name == task)
  return kinds.find(spec.kind).predict(spec, logits)


def _written(folder):
  """A work directory as the command leaves it."""
  config = configs.make(**VALUES)
  runs.open_workdir(config, folder)


def test_two_devices_find_the_same(run, train, tmp_path):
  got = train(tmp_path, devices=2, **VALUES)
  np.testing.assert_allclose(got.losses, run.losses, rtol=1e-5)


def test_a_stopped_run_goes_on(run, train, stopped, tmp_path, same_bits):
  stopped(tmp_path, 4, **VALUES, **configs.SAVES)
  starts = []
  got = train(
    tmp_path, before_chunk=lambda loop, step: starts.append(step), **VALUES, **configs.SAVES
  )
  assert 0 < starts[0] <= 4
  same_bits(got.state, run.state)
  assert got.results == run.results


def test_two_killed_processes_go_on_and_find_the_same(run, tmp_path):
  """Two processes of one device each, `kill -9` to both, and both again to the end."""
  from distributed.test_cluster import _end
  from distributed.test_cluster import _port
  from distributed.test_cluster import _start

  values = json.dumps(VALUES | configs.SAVES)
  environment = {"TINY_CONFIG": values, "TINY_DEVICES": "1"}
  port = _port()
  killed = [_start(tmp_path, port, 2, i, TINY_PAUSE="0.3", **environment) for i in range(2)]
  for _ in range(6000):
    if any(folder.name.isdigit() for folder in tmp_path.glob("checkpoints/*")):
      break
    assert killed[0].poll() is None, killed[0].communicate()[0]
    time.sleep(0.02)
  for process in killed:
    process.kill()
    process.communicate()
  port = _port(port + 1)
  codes, texts = _end(*(_start(tmp_path, port, 2, i, **environment) for i in range(2)))
  assert codes == [0, 0], texts
  assert "from step" in texts[0] and "from step 0" not in texts[0]
  found = json.loads((tmp_path / "results.json").read_text())
  for a, b in zip(found["tasks"], run.results["tasks"], strict=True):
    np.testing.assert_allclose(a["loss"]["test"], b["loss"]["test"], rtol=1e-5)


# What does not keep the contract ends before the first step, with one line.


def _build(change):
  """Builds the experiment of a method that `change` has spoilt."""
  method = methods.find("stitched").build
  config = configs.make(**VALUES)
  dataset = runs.open_dataset(config)
  return experiment_lib.build(config, dataset, lambda parts: change(method(parts)))


def _trunk(method, **changes):
  kind = type("Spoilt", (type(method.trunk),), changes)
  fields = {f: getattr(method.trunk, f) for f in ("columns", "units") if f not in changes}
  return dataclasses.replace(method, trunk=kind(**fields))


def test_a_trunk_without_rules_is_refused():
  class Bare:
    units = 1

  with pytest.raises(ValueError, match=r"trunk of the method 'stitched' \(Bare\) has no `leaves`"):
    _build(lambda m: dataclasses.replace(m, trunk=Bare()))


def test_a_leaf_without_a_rule_is_refused():
  leaves = lambda self: {"columns": trunks.Leaf("backbone")}
  with pytest.raises(ValueError, match="'stitched' has no rule for the leaf trunk/stitches"):
    _build(lambda m: _trunk(m, leaves=leaves))


def test_a_group_without_an_optimiser_is_refused():
  with pytest.raises(ValueError, match=r"'stitched' has no optimiser for the group 'stitches'"):
    _build(lambda m: dataclasses.replace(m, optimizers={}))


def test_gradients_of_a_frozen_phase_are_refused(monkeypatch):
  monkeypatch.setattr(
    balancing, "find", lambda settings, tasks: balancing.Balancer("steep", None, "gradients")
  )
  frozen = lambda m: dataclasses.replace(
    m, phases=(dataclasses.replace(m.phases[0], trainable=("heads",)),)
  )
  with pytest.raises(
    ValueError, match=r"'steep' asks for gradients .*phase retrain 0 .*'stitched'"
  ):
    _build(frozen)
  with pytest.raises(ValueError, match="'steep' asks for gradients .* method 'single'"):
    runs.build(configs.make(method="single"))
