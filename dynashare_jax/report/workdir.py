"""Reads the files of a work directory: all that reports and figures know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any
import zipfile

import numpy as np

from dynashare_jax.monitoring import logs

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
  """The files that one training run left in its work directory; those absent are empty.

  Attributes:
    results: `results.json`, absent until the run has finished. Sections that a method adds to the
      page are in `sections`: a list of `{"title": ..., "text": Markdown}`.
    policy: `policy.json`; any part of it may be absent, as methods differ.
    lines: rows of `metrics.jsonl` in training order, one for each place.
    predictions: arrays of `predictions.npz`, each read when it is used.
  """

  path: pathlib.Path
  results: Json
  policy: Json
  config: Json
  lines: tuple[Json, ...]
  predictions: Mapping[str, np.ndarray]

  @property
  def tasks(self) -> tuple[str, ...]:
    """The names of the tasks, in the order of every `[T, ...]` array."""
    found = [task["name"] for task in self.results.get("tasks") or ()]
    return tuple(found or self.policy.get("tasks") or ())

  def task(self, name: str) -> Json:
    """Returns the entry of a task in `results.json`, or an empty one."""
    tasks = self.results.get("tasks") or ()
    return next((dict(task) for task in tasks if task["name"] == name), {})

  @property
  def alpha(self) -> np.ndarray | None:
    """The execution probabilities [T, L] in [0, 1], or None without a policy."""
    return matrix(self.policy.get("alpha"))

  @property
  def routes(self) -> np.ndarray | None:
    """The sampled routes [N, T, L] in {0, 1}, or None."""
    found = np.asarray(self.policy.get("routes") or (), np.float64)
    return found if found.ndim == 3 else None

  @property
  def chosen(self) -> int:
    """The index of the kept candidate; 0 if nothing says otherwise."""
    found = (source.get("chosen") for source in (self.results, self.policy))
    return next((int(index) for index in found if index is not None), 0)

  @property
  def route(self) -> np.ndarray | None:
    """The kept route [T, L] in {0, 1}, or None."""
    for candidate in self.results.get("candidates") or ():
      if candidate.get("index") == self.chosen:
        found = matrix(candidate.get("route"))
        if found is not None:
          return found
    routes = self.routes
    if routes is None or not 0 <= self.chosen < len(routes):
      return None
    return np.asarray(routes[self.chosen])

  @property
  def rates(self) -> np.ndarray | None:
    """The fraction [T, L] of test examples that execute a block, or None."""
    return matrix((self.results.get("execution") or {}).get("rate"))

  @property
  def gated(self) -> np.ndarray | None:
    """The blocks [L] that an instance gate may skip, as booleans, or None."""
    gated = self.policy.get("gated")
    return np.asarray(gated, bool) if gated else None

  @property
  def target_rates(self) -> np.ndarray | None:
    """The target rates [L] in [0, 1], NaN where a block has none; or None."""
    rates = self.policy.get("target_rates")
    return np.asarray(list(map(number, rates))) if rates else None


def matrix(value: Any) -> np.ndarray | None:
  """Returns a nested list as float [T, L]; None if it is not a filled matrix."""
  found = np.asarray(value, np.float64)
  return found if found.ndim == 2 and found.size else None


def number(value: Any) -> float:
  """Returns a JSON value as a float; NaN for null or a missing value."""
  return math.nan if value is None else float(value)


def _read_json(path: pathlib.Path) -> Json:
  """One JSON object, or an empty one if the file is absent."""
  if not path.is_file():
    return {}
  try:
    return dict(json.loads(path.read_text(encoding="utf-8")) or {})
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"{path} is not valid JSON, or not of a run ({error}). Run the training command again"
      " to write it anew, or delete the file."
    ) from error


def _read_arrays(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """Arrays that are read when they are used; none if the file is absent."""
  if not path.is_file():
    return {}
  try:
    found = np.load(path)
    if isinstance(found, Mapping):
      return found
    why = "it holds one array"
  except (EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
    why = f"{type(error).__name__}: {error}"
  raise ValueError(
    f"{path} holds no predictions ({why}). Delete it and results.json, and run the training command"
    " again: it writes both."
  )


def _read_lines(folder: pathlib.Path) -> tuple[Json, ...]:
  """Rows of `metrics.jsonl`; damaged lines are left out with a warning."""
  # A run that was resumed may have written some places twice: the later row counts.
  keys = ("phase", "cycle", "candidate", "step", "kind")
  rows = {tuple(row.get(key) for key in keys): row for row in logs.read(folder)}
  return tuple(rows.values())


def load(workdir: str | pathlib.Path) -> Run:
  """Reads the work directory of one run; what is missing is empty.

  Raises:
    ValueError: no such directory, or a file in it cannot be parsed.
  """
  path = pathlib.Path(workdir)
  if not path.is_dir():
    raise ValueError(f"There is no work directory {path}. Give the --workdir of a training run.")
  return Run(
    path=path,
    results=_read_json(path / "results.json"),
    policy=_read_json(path / "policy.json"),
    config=_read_json(path / "config.json"),
    lines=_read_lines(path),
    predictions=_read_arrays(path / "predictions.npz"),
  )


def select(lines: Sequence[Json], kind: str, key: str | None = None) -> list[Json]:
  """Returns the rows of one kind that have a finite number (or an array) under a key.

  Args:
    lines: rows of `metrics.jsonl`.
    kind: `train`, `eval` or `alpha`.
    key: name within `values`; None takes every row of the kind.
  """

  def known(row: Json) -> bool:
    value = (row.get("values") or {}).get(key) if key else ()
    return math.isfinite(value) if isinstance(value, (int, float)) else value is not None

  return [row for row in lines if row.get("kind") == kind and known(row)]
