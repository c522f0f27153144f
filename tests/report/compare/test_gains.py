"""Which baseline a Delta has, which it must not have, and what five seeds say."""

from __future__ import annotations

from collections.abc import Callable
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from dynashare_jax.cli import table as table_cli
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import comparison
from dynashare_jax.report.compare import gains
from dynashare_jax.report.compare import raw
from dynashare_jax.train import baselines

# Percent that each seed of a method gains over single on one of two tasks.
GAINS = {
  "hard": [(-10.0, 5.0), (-5.0, 0.0), (0.0, 2.0), (-20.0, 1.0), (-8.0, -3.0)],
  "ours": [(-4.0, 6.0), (2.0, 1.0), (0.0, -2.0), (-9.0, 12.0), (1.0, 4.0)],
}


def identity(seed: int, **parts: Any) -> dict[str, Any]:
  found = {
    "split": {"test": 24},
    "data": {"name": "toy", "tasks": {"seg": "1f", "edge": "2e"}},
    "backbone": {"width": 8},
    "schedule": {"steps": 100, "batch_size": 8},
    "evaluation": {"flip": False},
    "seed": seed,
    "version": "0.1.0",
  }
  return found | parts


def run(method: str, seed: int, values: tuple[float, float], **more: Any) -> workdir_lib.Run:
  metrics = [
    {"name": "seg", "kind": "a", "metrics": [_metric("miou", values[0])]},
    {"name": "edge", "kind": "b", "metrics": [_metric("f", values[1])]},
  ]
  results = {"dataset": "toy", "method": method, "seed": seed, "finished": True, "split": "test"}
  results |= {"tasks": metrics, "identity": identity(seed), "execution": {"mean": 1.0}} | more
  return workdir_lib.Run(pathlib.Path(f"runs/{method}-{seed}"), results, {}, {}, (), {})


def _metric(name: str, value: float) -> dict[str, Any]:
  return {"name": name, "higher_is_better": True, "unit": "%", "test": value}


def five(seeds: int = 5) -> dict[str, list[workdir_lib.Run]]:
  """Single has 50 and 80, plus the seed; the others gain what `GAINS` says."""
  single = {seed: (50.0 + seed, 80.0 + seed) for seed in range(seeds)}
  found = {"single": [run("single", seed, values) for seed, values in single.items()]}
  for label, each in GAINS.items():
    method = {"ours": "dynashare"}.get(label, label)
    found[label] = [
      run(method, s, (single[s][0] * (1 + a / 100), single[s][1] * (1 + b / 100)))
      for s, (a, b) in enumerate(each[:seeds])
    ]
  return found


def alone() -> dict[str, list[workdir_lib.Run]]:
  """The same without the single-task runs, whose numbers every run stored."""
  runs = five()
  single = runs.pop("single")
  for several in runs.values():
    for one, base in zip(several, single, strict=True):
      one.results["delta"] = {
        "baseline": f"stored/{one.results['seed']}.json",
        "identity": baselines.digest(base.results["identity"]),
        "differences": [],
        "values": gains.values(base),
        "overall": 1e9,  # Of the run; a table computes its own.
      }
  return runs


def cell(runs: dict[str, list[workdir_lib.Run]], label: str, title: str, **told: Any) -> Any:
  table = comparison.compare(runs, raw.Told(**told))
  place = [(c.group, c.title) for c in table.columns].index(("seeds", title))
  return next(row[place] for row in table.rows if row[0] == label)


def test_five_seeds_by_hand() -> None:
  """Of the ten numbers of a method the middle six count, and 25 pairs a task."""
  runs = five()
  mean = {label: np.mean(sorted(np.ravel(each))[2:-2]) for label, each in GAINS.items()}
  assert cell(runs, "hard", "IQM of Δ").value == pytest.approx(mean["hard"])
  assert cell(runs, "ours", "IQM of Δ").value == pytest.approx(mean["ours"])
  low, high = cell(runs, "ours", "IQM of Δ").interval
  assert -4 < low < mean["ours"] < high < 6
  wins = [
    np.mean([(a > b) + 0.5 * (a == b) for a, _ in GAINS["ours"] for b, _ in GAINS["hard"]]),
    np.mean([(a > b) + 0.5 * (a == b) for _, a in GAINS["ours"] for _, b in GAINS["hard"]]),
  ]
  found = cell(runs, "ours", "beats hard sharing").value
  # Gains of equal size may differ in the last digit: -2 against -2, 0 against 0, 1 against 1.
  assert found == pytest.approx(np.mean(wins), abs=0.5 / 25)
  assert math.isnan(cell(runs, "hard", "beats hard sharing").value)
  assert cell(runs, "single", "IQM of Δ") == tables.Cell(0.0, digits=2, signed=True)
  text = comparison.markdown(runs)
  assert f"+{mean['ours']:.2f} [" in text and "10,000 draws of a stratified bootstrap" in text


def test_four_seeds_are_too_few() -> None:
  groups = {column.group for column in comparison.compare(five(4)).columns}
  assert "seeds" not in groups and "Delta" in groups
  runs = five()
  del runs["hard"][0]
  assert math.isnan(cell(runs, "hard", "IQM of Δ").value)
  assert math.isnan(cell(runs, "ours", "beats hard sharing").value)


def test_trials_are_shown_where_they_are_told() -> None:
  assert cell(five(), "ours", "trials", trials={"ours": 12}) == 12
  assert cell(five(), "hard", "trials", trials={"ours": 12}) is None
  assert cell(five(2), "ours", "trials", trials={"ours": 12}) == 12
  text = comparison.markdown(five())
  row = next(line for line in text.splitlines() if line.startswith("| ours"))
  assert row.split("|")[7].strip() == "–"
  with pytest.raises(ValueError, match="Trials are told of 'hrd'"):
    comparison.compare(five(), raw.Told(trials={"hrd": 3}))


def test_every_delta_names_its_baseline() -> None:
  text = comparison.markdown(five(2))
  hashes = [baselines.digest(identity(seed)) for seed in (0, 1)]
  assert len(set(hashes)) == 2
  assert (
    f"Baselines of Δ: `single`, seed 0 ({hashes[0]}); `single`, seed 1 ({hashes[1]}).\n" in text
  )


def test_deltas_come_from_the_numbers_that_runs_stored() -> None:
  """And not from the Delta that a run wrote."""
  found = gains.over_single(alone())
  assert found["ours"]["seg"] == pytest.approx([g[0] for g in GAINS["ours"]])
  assert found["hard"][gains.ALL] == pytest.approx([np.mean(g) for g in GAINS["hard"]])
  text = comparison.markdown(alone())
  assert f"`stored/0.json` ({baselines.digest(identity(0))})" in text
  assert "no single-task runs" not in text
  runs = alone()
  runs["ours"][0].results["delta"] = {"baseline": "x", "tasks": {}, "overall": 3.0}  # older
  assert math.isnan(gains.over_single(runs)["ours"]["seg"][0])
  assert gains.over_single(runs)["ours"]["seg"][1] == pytest.approx(GAINS["ours"][1][0])


@pytest.mark.parametrize(
  ("part", "value", "words"),
  [
    ("schedule", {"steps": 50, "batch_size": 8}, "schedule.steps is 100 there and 50 here"),
    ("data", {"name": "toy", "tasks": {"seg": "0", "edge": "2e"}}, 'seg is "1f" there and "0"'),
    ("version", "0.2.0", 'version is "0.1.0" there and "0.2.0" here'),
    ("split", {"test": 23}, "split.test is 24 there and 23 here"),
    ("backbone", {"width": 16}, "backbone.width is 8 there and 16 here"),
  ],
)
def test_another_baseline_is_refused_unless_told_to(part: str, value: Any, words: str) -> None:
  runs = five(2)
  runs["ours"][1].results["identity"] = identity(1, **{part: value})
  with pytest.raises(ValueError) as error:
    comparison.compare(runs)
  told = str(error.value)
  assert words in told and f"--mixed={part} " in told and "\n" not in told
  assert "runs/single-1 and runs/dynashare-1 must not be compared" in told
  with pytest.raises(ValueError, match="must not be compared"):
    comparison.compare(runs, raw.Told(mixed=("seed",)))
  text = comparison.markdown(runs, raw.Told(mixed=(part,)))
  assert "**Mixed: ours and their baseline differ: " in text and words in text


def test_a_mix_that_a_run_was_allowed_is_asked_for_again() -> None:
  runs = alone()
  difference = "schedule.steps is 100 there and 50 here"
  runs["hard"][0].results["delta"]["differences"] = [difference]
  with pytest.raises(ValueError, match=r"steps is 100 there and 50 here.*--mixed=schedule"):
    comparison.compare(runs)
  text = comparison.markdown(runs, raw.Told(mixed=("schedule",)))
  assert f"**Mixed: hard and their baseline differ: {difference}.**" in text


def test_a_seed_without_single_task_run_is_an_error() -> None:
  runs = five()
  del runs["single"][3]
  with pytest.raises(
    ValueError, match=r"no single-task run of its seed 3; there are .* 0, 1, 2, 4"
  ):
    comparison.compare(runs)
  text = comparison.markdown(runs, raw.Told(mixed=("seed",)))
  assert "ours: Δ seg is not defined in 1 of 5 runs" in text


def test_older_runs_compare_with_a_word() -> None:
  runs = five(2)
  plain = comparison.compare(runs)
  for label in ("single", "ours"):
    for one in runs[label]:
      del one.results["identity"]
  assert comparison.compare(runs) == plain
  text = comparison.markdown(runs)
  assert "Baselines of Δ: `single`, seed 0; `single`, seed 1." in text
  assert "(identity unknown): hard, ours." in text


def test_raw_results_give_the_table_again(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """The same page from the file alone, wherever it lies; and a changed page is found."""
  told = raw.Told("python -m command", ("a note",), ("seed",), {"ours": 12})
  text = comparison.markdown(five(), told)
  file = tmp_path / "any.json"
  file.write_text(raw.text(five(), told))
  assert table_cli.run([f"--source={file}"]) == text
  page = tmp_path / "page.md"
  page.write_text("# A title of its own\n\nWords.\n" + text.split("\n", 1)[1])
  assert table_cli.run([f"--source={file}", f"--page={page}"]) == f"{page} has the table"
  page.write_text(page.read_text().replace("a note", "another"))
  with pytest.raises(ValueError, match=r"is not what its raw results give.*\n  \* a note\n"):
    table_cli.run([f"--source={file}", f"--page={page}"])
  whole = file.read_text()
  file.write_text(whole.replace('"seed": 3', '"sed": 3'))
  with pytest.raises(ValueError, match="is not the raw results of a table .KeyError: 'seed'"):
    table_cli.run([f"--source={file}"])
  file.write_text(whole[:-9])
  with pytest.raises(SystemExit):
    table_cli.cli([f"--source={file}"])
  assert "is not the raw results of a table (JSONDecodeError" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda t: t.update(notes=5), "notes is no list"),
    (lambda t: t.update(trials="x"), "trials is no dict"),
    (lambda t: t.update(mixed=["zeal"]), "A name in `mixed` is 'zeal'"),
    (lambda t: t["runs"]["ours"][0][1].update(timing="x"), "timing of .* is no group"),
    (lambda t: t["runs"]["ours"][0][1].update(identity="x"), "identity of .* is no group"),
    (lambda t: t["runs"]["ours"][0][1]["tasks"][0].update(metrics=None), "not iterable"),
    (lambda t: t["runs"]["ours"][0][1]["tasks"][0]["metrics"][0].update(test="x"), "is 'x'"),
  ],
)
def test_raw_results_that_say_something_else_are_one_line(
  tmp_path: pathlib.Path, change: Callable[[Any], Any], told: str
) -> None:
  found = json.loads(raw.text(five(1), raw.NOTHING))
  change(found)
  file = tmp_path / "table.json"
  file.write_text(json.dumps(found))
  with pytest.raises(ValueError, match=rf"is not the raw results of a table .*{told}"):
    table_cli.run([f"--source={file}"])


def test_a_folder_is_computed_again_from_its_predictions(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Without them an older run is refused, or taken as it is."""
  runs = five(2)
  for several in runs.values():
    for one in several:
      folder = tmp_path / one.path.name
      folder.mkdir()
      (folder / "results.json").write_text(json.dumps(one.results))
  with pytest.raises(ValueError, match=r"table\.json is not the raw results"):
    table_cli.run([f"--source={tmp_path}"])
  read = {k: [workdir_lib.load(tmp_path / r.path.name) for r in v] for k, v in runs.items()}
  path = comparison.write(read, tmp_path)
  text = path.read_text()
  with pytest.raises(ValueError, match=r"single-0/evaluation\.npz is not there.*--stored"):
    table_cli.run([f"--source={tmp_path}"])
  path.unlink()
  assert table_cli.run([f"--source={tmp_path}", "--stored"]) == f"table: {path}"
  assert path.read_text() == text
  (tmp_path / "hard-1" / "results.json").unlink()
  with pytest.raises(ValueError, match="hard-1 is not finished"):
    table_cli.run([f"--source={tmp_path}", "--stored"])
