"""Computes a table again, from what its runs stored; nothing is trained.

  python -m dynashare_jax table --source=runs/rooms
  python -m dynashare_jax table --source=runs/rooms --cost=1,16
  python -m dynashare_jax table --source=docs/benchmarks/seeds.json --page=docs/benchmarks/seeds.md

Of a folder that `benchmark` filled, every test metric is computed again from the predictions of its
run and must be that of `results.json`; then the table with its figures is written anew. With
`--cost` what every run costs is measured first. Of a file, `table.json` under any name, the table
is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import sys

from dynashare_jax.cli import cost
from dynashare_jax.cli import guard
from dynashare_jax.train import predictions

_ARGUMENTS = {
  "source": (None, "folder of a benchmark, or a file of raw results"),
  "stored": (False, "take metrics from results.json, where predictions are not there"),
  "page": ("", "a page that must have every line of the table; nothing is written"),
  "cost": cost.ALL,
}


def run(argv: Sequence[str] | None = None) -> str:
  """Returns what to print.

  Raises:
    ValueError: in the arguments, raw results or predictions that are not there or do not agree, or
      a page that lacks a line of the table.
  """
  parser = guard.parser("table", "Computes a table again, without training.", _ARGUMENTS)
  arguments = parser.parse_args(argv)
  from dynashare_jax.report import workdir as report_workdir
  from dynashare_jax.report.compare import comparison
  from dynashare_jax.report.compare import raw

  given = pathlib.Path(arguments.source)
  folder = given.is_dir()
  sizes = cost.read_all(arguments.cost)
  if sizes and not folder:
    raise ValueError(f"--cost measures runs, but {given} is no folder that has them.")
  runs, told = raw.read(given / raw.FILE if folder else given)
  cost.measure_all([run.path for several in runs.values() for run in several], sizes)
  if folder:
    names = {label: [run.path for run in several] for label, several in runs.items()}
    runs = {label: list(map(report_workdir.load, paths)) for label, paths in names.items()}
    comparison.compare(runs, told)  # Refuses what is not finished.
  if folder and not arguments.stored:
    for one in (run for several in runs.values() for run in several):
      if left_out := predictions.check(one.path, one.results):
        print(
          f"{one.path}: of a private data set, so that metrics of {', '.join(left_out)} are those"
          " of results.json",
          file=sys.stderr,
        )
  if folder and not arguments.page:
    return f"table: {comparison.write(runs, given, told)}"
  text = comparison.markdown(runs, told)
  return agree(text, pathlib.Path(arguments.page)) if arguments.page else text


def agree(text: str, page: pathlib.Path) -> str:
  """Says that a page has all lines of a table, but for its title and pictures.

  Raises:
    ValueError: it lacks one; names the first.
  """
  lines = set(page.read_text(encoding="utf-8").splitlines())
  for line in text.splitlines()[1:]:
    if line not in lines:
      raise ValueError(
        f"{page} is not what its raw results give; it lacks the line\n  {line}\nCopy what the same"
        " command prints without --page."
      )
  return f"{page} has the table"


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error."""
  guard.say(guard.run(lambda: run(argv), "nothing was written."))
