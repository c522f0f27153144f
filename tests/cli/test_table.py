"""Tables that are computed again: of runs with their predictions, and those of the docs."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from dynashare_jax.cli import table
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
