"""Tests of the command line that tells costs."""

from __future__ import annotations

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.cli import cost
from dynashare_jax.infer import latency
from dynashare_jax.report.run import figures
from dynashare_jax.sharing import prices
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import results
from dynashare_jax.train import stages


def _train(folder, **values):
  """A finished run of a second."""
  config = configs.make(**values)
  folder = workdir_lib.open_workdir(folder, config.to_dict())
  loop = loop_lib.Loop(main.build(config, jax.devices()[:1])[0], folder)
  results.finish(loop, stages.run(loop), {})
  return folder


@pytest.fixture(scope="module", autouse=True)
def timed_once():
  """A route of one network is timed once for all tests: it is not what differs between them."""
  real, kept = latency.check, {}

  def check(model, inputs, route, repeats):
    name = (model.experiment.method.name, np.asarray(route).shape)
    if name not in kept or np.any(kept[name].plan.route != route):
      kept[name] = real(model, inputs, route, repeats)
    return kept[name]._replace(batch=len(jax.tree.leaves(inputs)[0]))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(latency, "check", check)
    yield


@pytest.fixture(scope="module")
def single(tmp_path_factory):
  return _train(tmp_path_factory.mktemp("single"), method="single")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  return _train(
    tmp_path_factory.mktemp("run"),
    gates__target_rates=(0.6, 0.6),
    policy__use=False,
    **configs.SHORT,
  )


@pytest.fixture
def run(trained, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(trained, folder)
  return folder


def _rows(folder):
  with open(folder / "cost.csv", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def _error(capsys, *arguments):
  with pytest.raises(SystemExit) as found:
    cost.cli(arguments)
  assert found.value.code == 2
  return capsys.readouterr().err


def test_a_run_tells_its_cost(run, single, capsys):
  before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
  cost.cli([f"--workdir={run}", "--batches=1,5", "--repeats=2", f"--baseline={single}"])
  shown = capsys.readouterr().out
  page = (run / "cost.md").read_text()
  assert shown.strip() == page.strip()
  assert "Run: dynashare on stripes, seed 0; 2 tasks, 2 blocks." in page
  assert "batch 1: one condition a row" in page
  assert "The route 11,11 at batch 1, without gates." in page
  assert (run / "figures" / "cost.png").is_file()
  assert before == {p: p.read_bytes() for p in before}  # nothing else changes
  rows = _rows(run)
  assert {row["batch"] for row in rows} == {"1", "5"}
  both = [row for row in rows if row["batch"] == "1"]
  assert {row["execution"] for row in both if row["scope"] == "all tasks"} == {
    "masked",
    "planned",
    "planned + gated",
    "single-task networks",
  }
  work = {r["execution"]: float(r["macs"]) for r in both if r["scope"] == "all tasks"}
  rate = np.asarray(json.loads((run / "results.json").read_text())["execution"]["rate"])
  # Every task executes every block: computed once on the plan. Two blocks with
  # a branch of 2 * 8 * 8; what gates close is left out.
  assert work["masked"] > work["planned"]
  assert work["planned"] - work["planned + gated"] == pytest.approx(128 * (2 - rate[0].sum()))
  values = json.loads((single / "results.json").read_text())["tasks"]
  for task in values:
    found = [
      r for r in both if r["scope"] == task["name"] and r["execution"] == "single-task networks"
    ]
    assert float(found[0]["metric_value"]) == task["metrics"][0]["test"]
    assert float(found[0]["gates"]) == 0


def test_a_baseline_that_is_gone_leaves_metrics_out(run):
  stored = json.loads((run / "config.json").read_text())
  stored["baseline"] = str(run / "gone")
  (run / "config.json").write_text(json.dumps(stored))
  cost.run([f"--workdir={run}", "--batches=2", "--repeats=1"])
  assert [
    r["metric_value"]
    for r in _rows(run)
    if r["scope"] == "a" and r["execution"] == "single-task networks"
  ] == [""]


def test_single_task_networks_are_their_own_baseline(single, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(single, folder)
  text = cost.run([f"--workdir={folder}", "--batches=1", "--repeats=1"])
  with pytest.raises(ValueError, match="--latency needs a model with routes"):
    cost.run([f"--workdir={folder}", "--batches=1", f"--latency={tmp_path / 'ms.json'}"])
  assert "## Blocks" not in text and "Masked:" not in text
  assert {row["execution"] for row in _rows(folder)} == {"single-task networks"}
  values = [row["metric_value"] for row in _rows(folder)]
  assert values[0] == "" and all(values[1:])


def test_a_run_whose_data_are_gone_is_measured_on_zeros(run, monkeypatch):
  workdir_lib.write_spec(run, main.load(run).experiment.dataset.spec)

  def gone(*unused):
    raise ValueError("The folder is gone")

  monkeypatch.setattr(main.find_dataset("stripes"), "build", gone)
  monkeypatch.setattr(figures, "write_figures", lambda run: ())
  (run / "report.md").write_text("A report is written anew.")
  text = cost.run([f"--workdir={run}", "--batches=1", "--repeats=1"])
  assert "cannot be opened (The folder is gone)." in text
  assert "Measured: planned + gated, batch 1" in (run / "report.md").read_text()
  with pytest.raises(ValueError, match="The folder is gone"):
    cost.run([f"--workdir={run}", "--batches=1", "--repeats=1", "--data_dir=x"])


@pytest.mark.parametrize("text", ["", "0", "1,1", "1,x", "1;2", "-3"])
def test_batch_sizes_that_are_none(text, capsys):
  assert _error(capsys, "--workdir=x", f"--batches={text}") == (
    f"error: --batches is {text!r}; give different numbers of at least 1 with"
    " commas, as in 1,8,32.\n"
  )


def test_other_errors_are_one_line(run, capsys, tmp_path):
  assert _error(capsys, "--workdir=x", "--repeats=0") == (
    "error: The rounds are 0; there must be at least 1.\n"
  )
  assert _error(capsys, f"--workdir={tmp_path / 'no'}").startswith(
    f"error: {tmp_path / 'no'} is no work directory"
  )
  assert _error(capsys, f"--workdir={run}", "--batches=25").endswith(
    "error: A batch of 25 cannot be taken from the 24 test examples: give a smaller one.\n"
  )
  assert "there is no" in _error(
    capsys, f"--workdir={run}", "--batches=1", f"--baseline={tmp_path}"
  )
  assert not (run / "cost.md").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_route_before_training(run, tmp_path, capsys, monkeypatch):
  stored = json.loads((run / "config.json").read_text())
  file = tmp_path / "tiny.py"
  file.write_text(
    "import json, ml_collections\n"
    f"get_config = lambda: ml_collections.ConfigDict(json.loads({json.dumps(stored)!r}))\n"
  )
  here = sorted(tmp_path.rglob("*"))
  cost.cli([f"--config={file}", "--route=11,10", "--batches=3", "--repeats=1"])
  shown = capsys.readouterr().out
  assert "The route 11,10 at batch 3, without gates." in shown
  assert "| together " in shown and "| apart " in shown
  assert "| block 1 " in shown and "| head of b " in shown
  assert sorted(tmp_path.rglob("*")) == here
  more = cost.run([f"--config={file}", "--config.model.width=4", "--repeats=1", "--batches=1"])
  assert "The route 11,11 at batch 1, without gates." in more
  # Blocks as small as these cannot always be told from noise.
  checked = latency.check
  told = prices.Prices(0.5, (0.0, 0.0), (0.0, 0.1), (0.0, 0.0), (0.1, 0.1))
  monkeypatch.setattr(latency, "check", lambda *a: checked(*a)._replace(latency=told))
  kept, like = tmp_path / "ms.json", ["--config.policy.budget_ms=1", "--config.policy.latency=none"]
  write = [f"--config={file}", "--batches=3", "--repeats=1", f"--latency={kept}"]
  assert "No block took time that 5 rounds could tell" in _error(capsys, *write)
  assert not kept.exists()
  told = told._replace(blocks=(0.25, 0.5))
  cost.run([f"--config={file}", "--repeats=1", "--batches=3", f"--latency={kept}", *like])
  config = configs.make()
  found = prices.read(str(kept), experiment_lib.identity(config, main.open_dataset(config).spec))
  assert found.batch == 3 and found.prices == told
  assert "there is no folder" in _error(capsys, f"--config={file}", f"--latency={tmp_path}/no/a")
  assert "but there are 2 tasks and 2 blocks" in _error(capsys, f"--config={file}", "--route=1,1")
  assert "Unexpected arguments: --bogus=1" in _error(capsys, f"--config={file}", "--bogus=1")


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    ([], "Give the --workdir of a finished run, or a --config"),
    (["--workdir=x", "--config=y"], "Give the --workdir of a finished run, or a --config"),
    (["--workdir=x", "--route=1,1"], "--route needs a --config"),
    (["--workdir=x", "--config.seed=1"], "Unexpected arguments: --config.seed=1"),
  ],
)
def test_a_run_or_a_configuration(arguments, told, capsys):
  assert told in _error(capsys, *arguments)
