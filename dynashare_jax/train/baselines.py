"""What a run was trained on and how, and the single-task results that it may be compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.train import constants

PARTS = ("split", "data", "backbone", "schedule", "evaluation", "seed", "version")
ALL = "all"
UNKNOWN = "identity unknown"
_EXAMPLES = 16  # of each split, whose contents are read for a fingerprint
_SCHEDULE = ("batch_size", "sampling", "steps", "loss_at")  # of `config.train`
_DIGITS = 16  # of a digest, hexadecimal

Identity = Mapping[str, Any]
Values = dict[str, dict[str, float]]


class Baseline(NamedTuple):
  """Results of single-task networks.

  Attributes:
    path: of the file.
    values: task -> metric -> value on test; NaN where there is none.
    identity: of the run; None for one of an older version.
  """

  path: pathlib.Path
  values: Values
  identity: Identity | None


def fingerprint(dataset: types.Dataset) -> dict[str, str]:
  """Returns task -> digest of what it learns from: its description and 16 examples of each split.

  The examples are evenly spread, and go in with input, label and `valid`. The weight of the task's
  loss does not count. An input that changed in between two of them stays unseen.
  """
  tasks = dataset.spec.tasks
  found = {t.name: _digest(_text(dataclasses.asdict(t) | {"weight": 1.0})) for t in tasks}
  for split, size in sorted(dataset.spec.sizes.items()):
    source = dataset.source(split)
    for place in constants.spread(size, _EXAMPLES):
      try:
        example = source[int(place)]
      except (ValueError, OSError):  # Which no training met; a run must not end with it.
        continue
      inputs = _contents(example.inputs)
      for name, before in found.items():
        labels = _contents((example.targets[name], example.valid[name]))
        found[name] = _digest(before.encode() + inputs + labels)
  return found


def _contents(tree: Any) -> bytes:
  """A digest of the bits, types and shapes of arrays."""
  whole = hashlib.sha256()
  for array in map(np.ascontiguousarray, jax.tree.leaves(tree)):
    whole.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
  return whole.digest()


def _digest(contents: bytes) -> str:
  return hashlib.sha256(contents).hexdigest()[:_DIGITS]


def identity(config: Any, dataset: types.Dataset) -> dict[str, Any]:
  """Returns what decides a single-task result, by `PARTS`, as JSON has it."""
  spec = dataset.spec
  shape = {"name": spec.name, "input_kind": spec.input_kind, "input_shape": spec.input_shape}
  data: dict[str, Any] = workdir_lib.plain({**shape, "tasks": fingerprint(dataset)})
  return {"split": dict(spec.sizes), "data": data, **settings(config)}


def settings(config: Any) -> dict[str, Any]:
  """Returns those parts of an identity that a configuration tells before its data are read.

  Of the schedule: the values that single-task networks train by. What a method adds to them, such
  as the steps of a search, is its own.
  """
  schedule = {name: config.train[name] for name in _SCHEDULE}
  found: dict[str, Any] = workdir_lib.plain(
    {
      "backbone": config.model,
      "schedule": {**schedule, "optimizer": config.optimizers.retrain},
      "evaluation": {"flip": config.eval.flip, "scales": config.eval.scales},
      "seed": config.seed,
      "version": version(),
    }
  )
  return found


def version() -> str:
  """Returns the version of this package; empty where it is not installed."""
  try:
    return importlib.metadata.version("dynashare-jax")
  except importlib.metadata.PackageNotFoundError:
    return ""


def digest(found: Identity) -> str:
  """Returns the content hash of an identity, 16 hexadecimal digits."""
  return _digest(_text({part: found.get(part) for part in PARTS}))


def _text(value: Any) -> bytes:
  return json.dumps(value, sort_keys=True).encode()


def differences(own: Identity, other: Identity) -> dict[str, str]:
  """Returns part -> its first difference in words, empty where a baseline fits a run.

  Args:
    own: of the run; a task that it lacks plays no role.
    other: of the baseline.
  """
  flat = [
    dict(workdir_lib.flatten({part: one.get(part) for part in PARTS})) for one in (own, other)
  ]
  found: dict[str, str] = {}
  for name in [*flat[0], *(name for name in flat[1] if name not in flat[0])]:
    part = name.partition(".")[0]
    here, there = (values.get(name) for values in flat)
    if part in found or here == there or (name.startswith("data.tasks.") and name not in flat[0]):
      continue
    found[part] = f"{name} is {_shown(there)} there and {_shown(here)} here"
  return found


def _shown(value: Any) -> str:
  return "absent" if value is None else json.dumps(value)


def read_mixed(text: str, name: str) -> tuple[str, ...]:
  """Reads names of `PARTS` with commas between them; `all` is all of them.

  Args:
    name: of the option, for the error.

  Raises:
    ValueError: another name.
  """
  names = tuple(part.strip() for part in text.split(",") if part.strip())
  for one in names:
    lookup.one_of(f"A name in {name}", one, (*PARTS, ALL))
  return PARTS if ALL in names else names


def check(
  own: Identity | None, other: Identity | None, mixed: Collection[str], what: str
) -> list[str]:
  """Returns in words how a baseline differs from a run, where that was allowed.

  Args:
    own: of the run; None if it is not known.
    other: of the baseline.
    mixed: parts that may differ.
    what: names both, for the error.

  Raises:
    ValueError: they differ in another part; names the first difference.
  """
  if own is None or other is None:
    return [UNKNOWN]
  found = differences(own, other)
  for part, told in found.items():
    if part not in mixed:
      raise ValueError(
        f"{what} must not be compared: {told}. Train the baseline again with the same settings, or"
        f" allow it: --mixed={','.join(dict.fromkeys((*mixed, part)))} of benchmark and table,"
        " --config.mixed of train."
      )
  return list(found.values())


def is_store(folder: str | os.PathLike[str]) -> bool:
  """Returns whether a path can be that of stored baselines: no run is there, and no file."""
  path = pathlib.Path(folder)
  return not path.is_file() and not any(
    (path / name).is_file() for name in ("results.json", workdir_lib.CONFIG)
  )


def store(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> pathlib.Path:
  """Keeps the results of single-task networks in `<folder>/<hash of the identity>.json`.

  What is there stays; a warning says if its metrics are others.

  Args:
    results: of `results.json`, with its `identity`.

  Returns:
    The path of the file.
  """
  path = pathlib.Path(folder) / f"{digest(results['identity'])}.json"
  if not path.is_file():
    path.parent.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(path, results)
  elif not _equal(load(path).values, values(results)):
    logging.warning(
      "%s holds other metrics of the same data, settings and seed, and stays: an accelerator may"
      " round differently from run to run. Delete it to keep these.",
      path,
    )
  return path


def _equal(one: Values, other: Values) -> bool:
  return repr(one) == repr(other)


def find(
  given: str, tasks: tuple[types.TaskSpec, ...], own: Identity, mixed: Collection[str] = ()
) -> tuple[Baseline, list[str]]:
  """Finds the baseline that fits a run, and how it differs where that was allowed.

  Args:
    given: of `config.baseline`: the work directory of single-task runs, or a folder in which
      `store` keeps some.
    tasks: of the run.
    own: identity of the run.
    mixed: parts that may differ.

  Raises:
    ValueError: there is none, it lacks a task, or differs in another part.
  """
  if not is_store(given):
    found = load(given, tasks)
    return found, check(own, found.identity, mixed, f"{found.path} and this run")
  known = [load(path) for path in sorted(pathlib.Path(given).glob("*.json"))]
  kept = [(differences(own, one.identity or {}), one) for one in known]
  fits = [(away, one) for away, one in kept if not set(away) - set(mixed)]
  if fits:
    away, best = min(fits, key=lambda pair: len(pair[0]))
    return load(best.path, tasks), list(away.values())
  near = min((list(away.values()) for away, _ in kept), key=len, default=[])
  told = f" The nearest of {len(known)}: {near[0]}." if near else ""
  raise ValueError(
    f"config.baseline={given!r}: there is no {pathlib.Path(given) / 'results.json'}, and no stored"
    f" single-task result for this data, schedule, seed {own['seed']} and version.{told} Train it"
    f" first (--config.method=single with this --config.baseline stores it), or leave it empty."
  )


def load(path: str | os.PathLike[str], tasks: tuple[types.TaskSpec, ...] = ()) -> Baseline:
  """Reads the test metrics of a finished run.

  Args:
    path: its folder, or a file that `store` wrote.
    tasks: that must be there.

  Raises:
    ValueError: there is no finished run, it cannot be read, or lacks a task.
  """
  given = pathlib.Path(path)
  file = given if given.is_file() else given / "results.json"
  if not file.is_file():
    raise ValueError(
      f"config.baseline={os.fspath(path)!r}: there is no {file}. Train it"
      " first (--config.method=single), or leave it empty."
    )
  try:
    results = json.loads(file.read_text(encoding="utf-8"))
    saved = values(results)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"config.baseline={os.fspath(path)!r}: cannot read {file} ({type(error).__name__}: {error})."
    ) from error
  missing = [t.name for t in tasks if t.name not in saved]
  if missing:
    raise ValueError(f"{file} has no results for the tasks {missing}; it has {sorted(saved)}.")
  return Baseline(file, saved, results.get("identity"))


def values(results: Mapping[str, Any]) -> Values:
  """Returns task -> metric -> value on test of `results.json`; NaN for null."""
  return {
    task["name"]: {
      m["name"]: float("nan") if m["test"] is None else float(m["test"]) for m in task["metrics"]
    }
    for task in results["tasks"]
  }
