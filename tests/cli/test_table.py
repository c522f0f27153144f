"""Tables that are computed again: of runs with their predictions, and those of the docs."""

from __future__ import annotations

import csv
import json
import pathlib
import shutil

import pytest

from dynashare_jax.cli import table
from dynashare_jax.library import costs
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import comparison
from dynashare_jax.train import predictions

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


def test_a_table_of_a_run_is_computed_again(whole, tmp_path):
  folder = tmp_path / "ours-0"
  folder.mkdir()
  for name in ("results.json", predictions.FILE):
    shutil.copy(whole().folder / name, folder)
  path = comparison.write({"ours": [workdir_lib.load(folder)]}, tmp_path)
  before = {name.name: name.read_bytes() for name in tmp_path.iterdir() if name.is_file()}
  for name in before.keys() - {"table.json"}:
    (tmp_path / name).unlink()
  assert table.run([f"--source={tmp_path}"]) == f"table: {path}"
  assert {name.name: name.read_bytes() for name in tmp_path.iterdir() if name.is_file()} == before
  found = json.loads((folder / "results.json").read_text())
  found["tasks"][0]["metrics"][0]["test"] += 1e-9
  (folder / "results.json").write_text(json.dumps(found))
  with pytest.raises(ValueError, match=r"auc of a is .* in results\.json, but .* by evaluation"):
    table.run([f"--source={tmp_path}"])


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_tables_of_the_docs_are_what_their_raw_results_give(file):
  assert table.run([f"--source={file}", f"--page={file.with_suffix('.md')}"])


def test_there_is_such_a_table():
  assert PAGES


def test_cost_measures_the_runs_that_are_not_timed_yet(whole, tmp_path, monkeypatch):
  folder = tmp_path / "ours-0"
  folder.mkdir()
  shutil.copy(whole().folder / "results.json", folder)
  comparison.write({"ours": [workdir_lib.load(folder)]}, tmp_path)
  seen = []

  def measure(trained, settings, tell):
    seen.append((trained, settings.batches))
    rows = "all tasks,planned,3,0.004\na,planned,3,0.003\nb,planned,3,0.002\n"
    (folder / "cost.csv").write_text("scope,execution,batch,seconds_median\n" + rows)

  monkeypatch.setattr(costs, "measure", measure)
  monkeypatch.setattr(costs.runs, "load", lambda path: path)
  for _ in range(2):
    table.run([f"--source={tmp_path}", "--stored", "--cost=3,1"])
  assert seen == [(str(folder), (3, 1))]
  (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
  assert [row[f"cost/{serve} (ms)"] for serve in ("together", "apart")] == ["4", "5"]
  table.run([f"--source={tmp_path}", "--stored", "--cost=1"])  # of another batch size
  assert len(seen) == 2
  with pytest.raises(ValueError, match="--cost is '0'"):
    table.run([f"--source={tmp_path}", "--cost=0"])
  with pytest.raises(ValueError, match="is no folder"):
    table.run([f"--source={tmp_path / 'table.json'}", "--cost=1"])
