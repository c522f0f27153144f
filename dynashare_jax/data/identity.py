"""What tells one state of a data set from another; cheap to find, and kept with a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import memory

REFUSE, OLD, ALLOW = CHANGED = ("refuse", "old", "allow")


class ChangedError(ValueError):
  """The data of a run are not those that it began with."""


_SAMPLES = 3  # examples of a split that are read
_CLOSE = 5e-3  # relative, or absolute below 1: other decoders and devices round otherwise
_SHOWN = 4  # differences in a message

Json = dict[str, Any]


def of(dataset: types.Dataset) -> Json:
  """Returns a data set's identity, for JSON; reads a few examples.

  Returns:
    `tasks`, `input_shape`, the columns of a `table`, the number of `examples` of every split and
    their `names` where they have some, `facts` of the data set itself, and a `sample`: means of a
    few examples, or of private data sets a digest.
  """
  spec = dataset.spec
  sources = {split: dataset.source(split) for split in spec.sizes}
  names = {split: getattr(source, "keys", None) for split, source in sources.items()}
  return {
    **described(spec),
    "table": _table(spec.table),
    "examples": dict(spec.sizes),
    "names": {split: list(keys) for split, keys in names.items() if keys is not None},
    "facts": dict(dataset.facts()),
    "sample": {
      f"{split} {place if (keys := names[split]) is None else keys[place]}": _read(
        source, place, spec.private
      )
      for split, source in sources.items()
      for place in np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(int)).tolist()
    },
  }


def described(spec: types.DatasetSpec) -> Json:
  """Returns what a network's inputs and outputs mean: `tasks` and `input_shape` of an identity."""
  return {
    "tasks": {
      t.name: {"kind": t.kind, "outputs": t.outputs, "classes": list(t.classes)} for t in spec.tasks
    },
    "input_shape": list(spec.input_shape),
  }


def _table(table: types.TableSpec | None) -> Json:
  """The columns of a table, and a digest of the values that their codes stand for."""
  if table is None:
    return {}
  columns = {"categorical": list(table.categorical), "numeric": list(table.numeric)}
  return {**columns, "categories": digest(table.values)}


def digest(value: Any) -> str:
  """Returns a short text that differs where values that JSON can hold differ."""
  text = json.dumps(json.loads(json.dumps(value, default=str)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(source: Sequence[types.Batch], place: int, private: bool) -> Any:
  """Means of an example, or its digest."""
  try:
    example = source[place]
  except ValueError:
    return "cannot be read"
  if private:
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(example):
      whole.update(np.ascontiguousarray(leaf).tobytes())
    return whole.hexdigest()[:16]
  parts = example.inputs if isinstance(example.inputs, Mapping) else {"input": example.inputs}
  found = {name: _moments(np.asarray(array)) for name, array in parts.items()}
  for name, target in example.targets.items():
    valid = np.asarray(example.valid[name], bool)
    found[name] = [float(valid.mean()), *_moments(np.asarray(target)[valid])]
  return found


def _moments(values: np.ndarray) -> list[float]:
  """Mean and standard deviation of finite numbers; 0 of none."""
  good = values[np.isfinite(values)].astype(np.float64)
  return [float(good.mean()), float(good.std())] if good.size else [0.0, 0.0]


def differences(before: Json, now: Json) -> list[str]:
  """Returns how data differ, in words; what only one of the identities tells is left out."""
  found = []
  for part in ("input_shape", "tasks", "table"):
    for name, (old, new) in _both(before, now, part):
      found.append(f"{name} was {_plain(old)} and is {_plain(new)}")
  for split, (old, new) in _both(before, now, "examples"):
    found.append(f"{split} had {old} examples and has {new}")
  for split, (old, new) in _both(before, now, "names"):
    known, there = set(old), set(new)
    for told, names in (("new in", there - known), ("gone from", known - there)):
      if names:
        ordered = [name for name in (*old, *new) if name in names]
        found.append(f"{len(names)} examples are {told} {split}, first {ordered[0]!r}")
    if known == there:
      found.append(f"the examples of {split} have another order")
  found += [f"{name} differ" for name, _ in _both(before, now, "facts")]
  for name, (old, new) in _both(before, now, "sample"):
    if told := _compared(old, new):
      split, _, example = name.partition(" ")
      found.append(f"the example {example!r} of {split}: {told}")
  return found


def _both(before: Json, now: Json, part: str) -> list[tuple[str, tuple[Any, Any]]]:
  """The values of a part that are in both and differ, by name."""
  old, new = before.get(part), now.get(part)
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    names = [*old, *(n for n in new if n not in old)] if part == "tasks" else list(old)
    pairs = [(n, (old.get(n), new.get(n))) for n in names if part == "tasks" or n in new]
  else:
    pairs = [(part, (old, new))] if old is not None else []
  return [(name, pair) for name, pair in pairs if pair[0] != pair[1]]


def _plain(value: Any) -> str:
  text = "not there" if value is None else json.dumps(value)
  return text if len(text) < 200 else f"{text[:196]} ..."


def _compared(old: Any, new: Any) -> str:
  """How two samples of an example differ; empty for hardly."""
  if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
    return "it cannot be read" if new == "cannot be read" else "it has other contents"
  for name, values in old.items():
    if name in new and not np.allclose(values, new[name], _CLOSE, _CLOSE):
      was, now = ([round(value, 4) for value in numbers] for numbers in (values, new[name]))
      return f"its {name} has other values (mean and deviation {was[-2:]}, now {now[-2:]})"
  return ""


def kept(
  dataset: types.Dataset, before: Json, tasks: tuple[types.TaskSpec, ...], changed: str, place: str
) -> types.Dataset:
  """Returns the data set for a run that began with another state of it, or with the same.

  Args:
    before: identity at that time.
    tasks: at that time; empty where that is not known.
    changed: `refuse` anything that differs; `old` keeps the lists of examples, while new ones are
      left out; `allow` takes the data as they are now. Kinds and classes of tasks must not differ.
    place: of the data, for messages.

  Raises:
    ChangedError: the data differ, and may not.
  """
  now = of(dataset)
  found = differences(before, now)
  if not found:
    return dataset
  more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
  told = f"The data of {place} are not those that this run began with: {'; '.join(found[:_SHOWN])}"
  told = f"{told}{more}."
  if changed == REFUSE or differences({"tasks": before.get("tasks", {})}, {"tasks": now["tasks"]}):
    raise ChangedError(
      f"{told} Name the folder with the old data, start again in another --workdir, or go on with"
      " data_changed=old (the old lists of examples) or allow (all as it is now), which is"
      " --config.data_changed in training."
    )
  if tasks:  # What the network's outputs mean, such as the center of a number.
    dataset = dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, tasks=tasks))
  return _with_names(dataset, before, told) if changed == OLD else dataset


def _with_names(dataset: types.Dataset, before: Json, told: str) -> types.Dataset:
  """The data set with the examples that its splits had."""
  sources = {split: dataset.source(split) for split in dataset.spec.sizes}
  there = {name for source in sources.values() for name in getattr(source, "keys", ())}
  names = before.get("names", {})
  gone = [name for split in names.values() for name in split if name not in there]
  if gone or set(names) != set(sources):
    what = f"{len(gone)} of them are gone, first {gone[0]!r}" if gone else "they have no names"
    raise ChangedError(f"{told} The old lists of examples cannot be kept: {what}.")
  sources = {
    split: dataclasses.replace(source, keys=tuple(names[split]))  # type: ignore[type-var]
    for split, source in sources.items()
  }
  sizes = {split: len(source) for split, source in sources.items()}
  spec = dataclasses.replace(dataset.spec, sizes=sizes)
  made = memory.dataset(spec, sources, augment=dataset.augment)
  return dataclasses.replace(made, facts=dataset.facts)
