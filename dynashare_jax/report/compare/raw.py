"""The raw results of a table, from which it is computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import NamedTuple

from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import gains
from dynashare_jax.train import baselines

FILE = "table.json"
# Of `results.json`, what tables read.
_KEPT = (
  *("dataset", "method", "seed", "finished", "split", "tasks", "parameters", "macs", "served"),
  *("execution", "delta", "timing", "compat", "identity"),
)


_GROUPS = ("parameters", "macs", "served", "execution", "delta", "timing", "compat", "identity")


class Told(NamedTuple):
  """What a table tells beside its runs.

  Attributes:
    command: the command line that makes it.
    notes: lines.
    mixed: parts of `train.baselines.PARTS` in which runs and their baselines may differ.
    trials: label -> how many validation-only trials its settings took, where that is known.
  """

  command: str = ""
  notes: Sequence[str] = ()
  mixed: Sequence[str] = ()
  trials: Mapping[str, int] = {}


NOTHING = Told()


def text(runs: gains.Runs, told: Told) -> str:
  """Writes as JSON all that a table is computed from, a line a run, but for times that `cost` took.

  Of `results.json`: what tables read, and the `identity`.
  """
  kept = lambda run: {name: run.results[name] for name in _KEPT if name in run.results}
  lines = [f'"{name}": {json.dumps(value)}' for name, value in told._asdict().items()]
  entries = [
    f"{json.dumps(label)}: [\n"
    + ",\n".join(json.dumps([run.path.name, kept(run)]) for run in several)
    + "\n]"
    for label, several in runs.items()
  ]
  return "{\n" + ",\n".join([*lines, '"runs": {\n' + ",\n".join(entries) + "\n}"]) + "\n}\n"


def read(path: str | pathlib.Path) -> tuple[dict[str, list[workdir_lib.Run]], Told]:
  """Reads what `text` wrote; of the runs the results alone.

  Raises:
    ValueError: it cannot be read.
  """
  file = pathlib.Path(path)
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
    runs = {
      label: [_run(file.parent / name, results) for name, results in several]
      for label, several in found.pop("runs").items()
    }
    for name, kind in (("notes", list), ("mixed", list), ("trials", dict)):
      if not isinstance(found.get(name, kind()), kind):
        raise TypeError(f"{name} is no {kind.__name__}")
    baselines.read_mixed(",".join(found.get("mixed", ())), "`mixed`")
    return runs, Told(**found)
  except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{file} is not the raw results of a table ({type(error).__name__}: {error}). The benchmark"
      " command writes it beside table.md; with runs that are finished it trains nothing."
    ) from error


def _run(path: pathlib.Path, results: workdir_lib.Json) -> workdir_lib.Run:
  """A run with its results alone; KeyError where they lack what no table does without."""
  needed = {name: results[name] for name in ("dataset", "method", "seed", "split", "tasks")}
  for name in _GROUPS:
    if not isinstance(results.get(name), Mapping | None):
      raise TypeError(f"{name} of {path.name} is no group of values")
  for metric in (metric for task in results["tasks"] for metric in task["metrics"]):
    if isinstance(metric["test"], str):
      raise TypeError(f"{metric['name']} of {path.name} is {metric['test']!r}")
  return workdir_lib.Run(path, results | needed, {}, {}, (), {})
