"""Test predictions of a run, from which its metrics are computed again without the network.

`evaluation.npz` holds what every metric is computed from: the scores of each example with its label
and `valid`, of kinds that need them all (a ranking), and the sums of each batch of the evaluation,
of all kinds. Pixels are not kept, only their sums. Of a private data set there are no scores, and
the sums are those of the whole split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import math
import os
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives.kinds import base as kinds_base
from dynashare_jax.train import evaluate

FILE = "evaluation.npz"
_CLOSE = 1e-12  # relative; machines add in different orders

Part = tuple[Any, Any]  # as `Evaluator.parts` yields it


class Stored(NamedTuple):
  """What was computed again.

  Attributes:
    result: of the tasks that could be.
    left_out: names of the others, of a private data set.
  """

  result: evaluate.Result
  left_out: tuple[str, ...]


def write(
  folder: str | os.PathLike[str],
  tasks: Sequence[types.TaskSpec],
  parts: Sequence[Part],
  private: bool = False,
) -> None:
  """Writes `evaluation.npz` into the folder of a run.

  Args:
    parts: of all batches, as `Evaluator.parts` yields them.
    private: whether single examples must not be told.
  """
  left_out = [task.name for task in tasks if private and parts[0][1][task.name]]
  if private:
    parts = [(functools.reduce(kinds_base.added, (sums for sums, _ in parts), None), {})]
  sums = jax.tree.map(lambda *leaves: np.stack(leaves), *(sums for sums, _ in parts))
  told = {"tasks": [dataclasses.asdict(task) for task in tasks], "left_out": left_out}
  arrays: dict[str, Any] = {"told": np.array(json.dumps(told))}
  arrays |= {f"executed/{name}": leaf for name, leaf in sums["executed"].items()}
  for task in (t.name for t in tasks):
    arrays |= {f"sums/{task}/{name}": leaf for name, leaf in sums[task]["metrics"].items()}
    arrays |= {f"loss/{task}/{name}": leaf for name, leaf in sums[task]["loss"]._asdict().items()}
    rows = [] if private else [scores[task] for _, scores in parts]
    arrays |= {f"scores/{task}/{name}": leaf for name, leaf in kinds_base.joined(rows).items()}
  path = pathlib.Path(folder) / FILE
  half = path.with_name(f".{FILE}.tmp")
  with open(half, "wb") as file:
    np.savez_compressed(file, **arrays)
  os.replace(half, path)


def read(folder: str | os.PathLike[str]) -> Stored:
  """Computes the metrics of a run from its `evaluation.npz`.

  Raises:
    ValueError: there is no such file, or it cannot be read.
  """
  path = pathlib.Path(folder) / FILE
  if not path.is_file():
    raise ValueError(
      f"{path} is not there: the run is of an older version, which stored no predictions. Train it"
      " again in a new folder, or take its metrics from results.json with --stored."
    )
  try:
    with open(path, "rb") as file, np.load(file) as found:
      arrays = {name: found[name] for name in found.files}
    told = json.loads(arrays["told"].item())
    specs = (types.TaskSpec(**_tuples(task)) for task in told["tasks"])
    tasks = tuple(task for task in specs if task.name not in told["left_out"])
    return Stored(evaluate.result(tasks, _parts(tasks, arrays)), tuple(told["left_out"]))
  except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{path} cannot be read ({type(error).__name__}: {error}). Train the run again in a new"
      " folder, or take its metrics from results.json with --stored."
    ) from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
  return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _parts(tasks: Sequence[types.TaskSpec], arrays: dict[str, np.ndarray]) -> Iterator[Part]:
  """The batches; the first one has the rows of all."""

  def below(prefix: str) -> dict[str, np.ndarray]:
    return {
      name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)
    }

  executed = below("executed/")
  for number in range(len(executed["examples"])):
    at = lambda found, n=number: {name: leaf[n] for name, leaf in found.items()}
    sums: dict[str, Any] = {"executed": at(executed)}
    scores = {}
    for task in (t.name for t in tasks):
      loss = types.Sums(**at(below(f"loss/{task}/")))
      sums[task] = {"metrics": at(below(f"sums/{task}/")), "loss": loss}
      rows = below(f"scores/{task}/")
      scores[task] = rows if not number else {name: leaf[:0] for name, leaf in rows.items()}
    yield sums, scores


def check(folder: str | os.PathLike[str], results: dict[str, Any]) -> tuple[str, ...]:
  """Computes the test metrics of a run again, and compares them with those of `results.json`.

  Returns:
    Names of the tasks whose metrics cannot be computed again, of a private data set.

  Raises:
    ValueError: no predictions, or another value; names run, task and metric.
  """
  found = read(folder)
  for task in results["tasks"]:
    if task["name"] in found.left_out:
      continue
    values = found.result.metrics.get(task["name"], {})
    for metric in task["metrics"]:
      stored, again = metric["test"], values.get(metric["name"], math.nan)
      same = _same(stored, again) if math.isfinite(again) else stored is None
      if not same:
        raise ValueError(
          f"{folder}: {metric['name']} of {task['name']} is {stored} in results.json, but {again}"
          f" by {FILE}: one of the two was changed. Train the run again in a new folder."
        )
  return found.left_out


def _same(stored: Any, again: float) -> bool:
  return stored is not None and math.isclose(stored, again, rel_tol=_CLOSE, abs_tol=0.0)
