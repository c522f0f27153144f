"""Arrays, columns and frames as a data set in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
from typing import Any
import warnings

import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import cells as cells_lib
from dynashare_jax.data import columns
from dynashare_jax.data import memory
from dynashare_jax.data.table import files as table_files
from dynashare_jax.data.table import labels as labels_lib
from dynashare_jax.library import given as given_lib
from dynashare_jax.library import tasks as tasks_lib

SHARES = (0.8, 0.1, 0.1)
_NAME = "in_memory"
_KEYS = (
  " (These keys are of files: from Python give None for what is missing, numbers and dates as such,"
  " and texts alone for categories.)"
)
_FEW_ROWS = 50  # of fewer a column may tell a label by chance
_KINDS = {2: "table", 3: "series", 4: "image"}


@dataclasses.dataclass(frozen=True)
class Data:
  """Examples with labels, in splits; made by `arrays`.

  Attributes:
    dataset: as networks read it.
    fingerprint: tells it from other data.
    inputs: as they were given.
    targets: task -> labels as they were given.
    valid: task -> which of them are labels, where that was told.
    rows: split -> rows of the inputs.

  Example:
    >>> {split: len(rows) for split, rows in data.rows.items()}
    {'train': 48, 'validation': 6, 'test': 6}
  """

  dataset: types.Dataset
  fingerprint: str
  inputs: Any
  targets: Mapping[str, np.ndarray]
  valid: Mapping[str, np.ndarray]
  rows: Mapping[str, np.ndarray]

  @property
  def tasks(self) -> tuple[types.TaskSpec, ...]:
    """The tasks, in order."""
    return self.dataset.spec.tasks

  @property
  def notes(self) -> tuple[str, ...]:
    """What was inferred, and what deserves a look."""
    return self.dataset.spec.notes

  def encoded(self, spec: types.DatasetSpec) -> types.Dataset:
    """Returns the same rows as a network of other data reads them.

    Args:
      spec: of the data that the network was trained on.

    Raises:
      ValueError: a task, column or class of it is missing here, or has another shape.
    """
    missing = [task.name for task in spec.tasks if task.name not in self.targets]
    if missing:
      raise ValueError(
        f"The data have no labels of {', '.join(missing)}; they have {', '.join(self.targets)}."
      )
    inputs = encode_inputs(spec, self.inputs)
    targets, valid = {}, {}
    for task in spec.tasks:
      found, targets[task.name], valid[task.name] = tasks_lib.encode(
        task, self.targets[task.name], self.valid.get(task.name), np.zeros(0, np.int64)
      )
      if (found.outputs, found.classes) != (task.outputs, task.classes):
        raise ValueError(
          f"The labels of {task.name!r} are not those that the network knows: they have"
          f" {found.outputs} classes, {', '.join(found.classes) or 'numbers'}, and it"
          f" {task.outputs}, {', '.join(task.classes) or f'0 to {task.outputs - 1}'}."
        )
    return _dataset(spec, inputs, targets, valid, self.rows)

  def __repr__(self) -> str:
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in self.rows.items())
    tasks = ", ".join(f"{task.name} ({task.kind})" for task in self.tasks)
    spec = self.dataset.spec
    lines = [f"Data: {spec.input_kind} {spec.input_shape}; {sizes}; {tasks}", *self.notes]
    return "\n".join(lines)


def arrays(
  inputs: Any,
  targets: Any,
  valid: Mapping[str, Any] | None = None,
  *,
  tasks: Sequence[types.TaskSpec | str] | None = None,
  split: Any = None,
  groups: Any = None,
  length: Any = None,
  seed: int = 0,
) -> Data:
  """Makes a data set of arrays, of a dict of columns, or of a frame.

  Args:
    inputs: N rows of a table as an array `[N, columns]`, a dict of columns or a frame of pandas,
      polars or Arrow (numbers, texts, dates, missing values); series `[N, time, channels]`; or
      pictures `[N, height, width, channels]`, uint8 in 0..255 or floats in 0..1.
    targets: task -> labels, a dict, a frame or a named column of one. NaN, None and empty texts are
      no label.
    valid: task -> bool, False where there is no label; in place of missing values, or beside them.
    tasks: in order, as `binary("churn")`, or their names alone; default: all labels. What is not
      said is inferred from the labels, and noted.
    split: shares of (train, validation, test), by default (0.8, 0.1, 0.1); or N names of splits; or
      a dict of split -> rows.
    groups: N values; rows with one value never part (with shares).
    length: int `[N]`, of series that end early: steps from there on are padding.
    seed: of random splits.

  Raises:
    ValueError: unequal lengths, a task without label or with one label alone, a value that cannot
      be read, an empty split; names row and column.

  Example:
    >>> age = 20 + 7 * np.arange(60) % 60
    >>> rows = {"age": age, "city": ["Ulm", "Jena", "Bonn"] * 20}
    >>> labels = {"churn": np.where(age > 50, "yes", "no"), "spend": 10.0 * age}
    >>> data = ds.arrays(rows, labels)
    >>> [(task.name, task.kind) for task in data.tasks]
    [('churn', 'binary'), ('spend', 'number')]
  """
  raw, count = _read(inputs, length)
  if isinstance(getattr(targets, "name", None), str) and not has_names(targets):
    targets = {targets.name: targets}
  given_lib.check_order(inputs, targets)
  labels = {name: _labels(name, values, count) for name, values in columns_of(targets).items()}
  if not labels:
    raise ValueError("There are no targets: give a dict of task -> labels.")
  notes: list[str] = []
  given_lib.check_inputs(raw, notes)
  rows = split_rows(count, split, groups, seed, notes)
  if valid is not None and not isinstance(valid, Mapping):
    raise ValueError(f"valid is a dict of task -> mask, but is a {type(valid).__name__}.")
  told = {name: given_lib.mask(name, mask) for name, mask in (valid or {}).items()}
  for name, mask in told.items():
    shape = labels[lookup.one_of("A name in valid", name, labels)].shape
    if not mask.ndim or mask.shape != shape[: mask.ndim]:
      raise ValueError(f"valid[{name!r}] has the shape {mask.shape}, and its labels have {shape}.")
  named = _named(tasks, labels, told, notes)
  found_tasks, found, known = [], {}, {}
  for task in named:
    labels[task.name] = given_lib.pixels(task, labels[task.name], raw, notes)
    made, found[task.name], known[task.name] = tasks_lib.encode(
      task, labels[task.name], told.get(task.name), rows["train"]
    )
    _check_labels(made, found[task.name][rows["train"]], known[task.name][rows["train"]])
    found_tasks.append(made)
  for task in found_tasks:
    notes += labels_lib.unseen(task, task.name, found[task.name], known[task.name], rows)
  _check_leaks(raw, found_tasks, found, known, notes)
  spec = _spec(raw, count, rows, tuple(found_tasks), notes, length is not None)
  dataset = _dataset(spec, encode_inputs(spec, raw), found, known, rows)
  return Data(dataset, _fingerprint(dataset), raw, labels, told, rows)


def has_names(given: Any) -> bool:
  """Returns whether these are named columns: a dict, or a frame of pandas, polars or Arrow."""
  return isinstance(given, Mapping) or hasattr(given, "collect") or hasattr(given, "columns")


def _check_leaks(
  raw: Any,
  tasks: Sequence[types.TaskSpec],
  targets: Mapping[str, np.ndarray],
  valid: Mapping[str, np.ndarray],
  notes: list[str],
) -> None:
  """Refuses a column of a table that is a task's label by name, too; notes others that tell one."""
  if isinstance(raw, dict) and "series" in raw and "length" in raw:
    return
  if not isinstance(raw, dict) and raw.ndim != 2:
    return
  every = {name: cells_lib.Cells.read(values, name) for name, values in _columns(raw).items()}
  spelling, _ = cells_lib.detect(every)
  for task in tasks:
    rows = np.flatnonzero(valid[task.name]) if targets[task.name].ndim == 1 else np.zeros(0, int)
    for name, cells in every.items() if len(rows) else ():
      same = name == task.name
      if (not same and len(rows) < _FEW_ROWS) or not columns.tells(
        cells.take(rows), targets[task.name][rows], spelling
      ):
        continue
      if same:
        raise ValueError(f"The inputs have the labels of {name!r}, too: drop that column.")
      notes.append(
        f"warning: column {name!r} tells {task.name} in every row: is it known when predicting?"
      )


def columns_of(given: Any) -> dict[str, Any]:
  """Returns the columns of a dict or frame, by name.

  Raises:
    ValueError: it is neither, or has a name twice.
  """
  if not has_names(given):
    raise ValueError(
      f"Expected a dict or a frame of named columns, but got {type(given).__name__}."
    )
  if isinstance(given, Mapping):
    names = [str(name) for name in given]
    if twice := [name for name in names if names.count(name) > 1]:
      raise ValueError(f"Two columns are called {twice[0]!r}, as a text and a number: rename one.")
    return {str(name): values for name, values in given.items()}
  frame = given.collect() if hasattr(given, "collect") else given  # a lazy frame of polars
  arrow = hasattr(frame, "column_names")
  keys = list(frame.column_names if arrow else frame.columns)
  names = [str(key) for key in keys]
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    raise ValueError(f"The frame has the column {twice[0]!r} twice: rename one.")
  read = table_files.arrow_values if arrow else np.asarray
  return {name: read(frame[key]) for name, key in zip(names, keys, strict=True)}


def _read(inputs: Any, length: Any) -> tuple[Any, int]:
  """Inputs as an array or a dict of columns, and how many rows there are."""
  if has_names(inputs):
    raw: Any = _named_columns(inputs)
    return raw, len(next(iter(raw.values())))
  raw = given_lib.array(inputs, "The inputs")
  if not raw.ndim:
    raise ValueError(f"The inputs are a {type(inputs).__name__}: give an array, a dict or a frame.")
  if raw.ndim == 3 and raw.dtype == np.uint8:
    raise ValueError("Grey pictures have an axis for their one channel: inputs[..., None].")
  if raw.ndim not in _KINDS:
    raise ValueError(
      "Inputs are a table [N, columns], series [N, time, channels] or pictures [N, height, width,"
      f" channels], but have the shape {raw.shape}."
    )
  if length is not None:
    length = np.asarray(length)
    if raw.ndim != 3 or length.shape != raw.shape[:1]:
      raise ValueError(f"length is [N] of series [N, time, channels]; got {np.shape(length)}.")
    return {"series": raw, "length": given_lib.lengths(length, raw.shape[1])}, len(raw)
  return raw, len(raw)


def _named_columns(inputs: Any) -> dict[str, np.ndarray]:
  """The columns of a dict or a frame, each `[N]`."""
  made = {
    name: given_lib.array(v, f"The column {name!r}") for name, v in columns_of(inputs).items()
  }
  if not made:
    raise ValueError("The inputs have no columns.")
  first, shape = next((name, np.shape(values)) for name, values in made.items())
  for name, values in made.items():
    if values.ndim != 1:
      told = "one value, not a column" if not values.ndim else f"the shape {values.shape}"
      raise ValueError(f"The column {name!r} of the inputs has {told}: give [N] of each.")
    if values.shape != shape:
      raise ValueError(
        f"The columns of the inputs must be of one length, but {first!r} has {shape} and {name!r}"
        f" {values.shape}."
      )
  return made


def _labels(name: str, values: Any, count: int) -> np.ndarray:
  """A task's labels as an array of the right length."""
  found = given_lib.array(values, f"The labels of {name!r}")
  shapes = {np.shape(v) for v in found} if found.dtype == object and found.ndim == 1 else {()}
  if len(shapes) == 1 and shapes != {()}:
    found = np.stack(list(found))  # lists of one length are several labels
  if found.dtype.kind == "m":
    raise ValueError(f"The labels of {name!r} are durations: give numbers, such as of hours.")
  if found.ndim >= 3 and found.dtype == bool:
    found = found.astype(np.uint8)
  if found.ndim == 2 and found.shape[1] == 1:
    found = found[:, 0]
  if not found.ndim or len(found) != count:
    raise ValueError(
      f"The labels of {name!r} have the shape {found.shape}, but there are {count} inputs."
    )
  return found


def _named(
  tasks: Sequence[types.TaskSpec | str] | None,
  labels: Mapping[str, np.ndarray],
  valid: Mapping[str, np.ndarray],
  notes: list[str],
) -> tuple[types.TaskSpec, ...]:
  """The tasks that are told; of names alone, inferred ones with a note of each."""
  told = list(labels) if tasks is None else list(tasks)
  names = [task if isinstance(task, str) else task.name for task in told]
  if not names or len(set(names)) < len(names):
    raise ValueError(f"tasks must name at least one task, each once, but are {names}.")
  for name in names:
    lookup.one_of("A task's name", name, labels)
  found = []
  for task in told:
    if isinstance(task, str):
      known, values = valid.get(task), labels[task]
      values = values if known is None or known.ndim > 1 else values[known]
      given_lib.check_ids(task, values)
      notes += given_lib.check_answers(task, values)
      name, (task, why) = task, tasks_lib.infer(task, values)
      notes.append(f"task {name}: {task.kind} (inferred: {why})")
    found.append(task)
  if left := [name for name in labels if name not in names]:
    notes.append(f"warning: labels that no task names are left out: {', '.join(left)}")
  return tuple(found)


def _check_labels(task: types.TaskSpec, target: np.ndarray, valid: np.ndarray) -> None:
  """Refuses a task whose training rows have no label, or the same one throughout."""
  known = target[valid]
  if not known.size:
    raise ValueError(f"No training example has a label of {task.name!r}.")
  if np.all(known == known.ravel()[0]):
    raise ValueError(
      f"All training labels of {task.name!r} are {known.ravel()[0]:g}: there is nothing to learn."
    )


def split_rows(
  count: int, split: Any, groups: Any, seed: int, notes: list[str]
) -> dict[str, np.ndarray]:
  """Returns split -> ascending rows; see `arrays`.

  Raises:
    ValueError: a row in two splits or a split without a row.
  """
  given_lib.whole(seed, "seed", 0)
  rng = np.random.default_rng(seed)
  if split is None:
    split = SHARES
    notes.append(f"split at random (seed {seed}): 80% train, 10% validation, 10% test")
  if isinstance(split, Mapping):
    for name in split:
      lookup.one_of("A name in split", name, types.SPLITS)
    rows = {name: given_lib.rows(name, split.get(name, ()), count) for name in types.SPLITS}
  elif np.shape(split) == (3,) and count != 3 and np.asarray(split).dtype.kind in "fi":
    rows = _shared(count, np.asarray(split, float), groups, rng)
  else:
    names = np.asarray(split)
    if names.dtype.kind in "fi" and names.ndim == 1 and len(names) < 4 and count > 3:
      raise ValueError(
        f"split has {len(names)} shares; it must have three, (train, validation, test)."
      )
    names = names.astype(str)
    if names.shape != (count,):
      raise ValueError(f"split must name the split of all {count} rows, but is {names.shape}.")
    for name in np.unique(names):
      lookup.one_of("A name in split", str(name), types.SPLITS)
    rows = {name: np.flatnonzero(names == name) for name in types.SPLITS}
  every = np.concatenate(list(rows.values()))
  if len(np.unique(every)) < len(every):
    raise ValueError("A row is in two splits: each may be in one.")
  if groups is not None:
    given_lib.check_groups(_groups(groups, count), rows)
  for name, found in rows.items():
    if not len(found):
      raise ValueError(
        f"The split {name!r} has no rows: runs train on, choose on and test on some."
      )
  return rows


def _shared(
  count: int, shares: np.ndarray, groups: Any, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """Random rows by shares; of groups, whole groups."""
  if shares.min() <= 0 or abs(shares.sum() - 1) > 1e-6:
    raise ValueError(
      f"The shares of split must be above 0 and sum to 1, but are {tuple(shares.tolist())}."
    )
  unit = np.arange(count) if groups is None else _groups(groups, count)
  order = rng.permutation(unit.max(initial=0) + 1)
  ends = np.rint(np.cumsum(shares)[:2] * len(order)).astype(int)
  parts = zip(types.SPLITS, np.split(order, ends), strict=True)
  return {name: np.flatnonzero(np.isin(unit, part)) for name, part in parts}


def _groups(groups: Any, count: int) -> np.ndarray:
  """The number of every row's group; 1 and 1.0 are one."""
  given = given_lib.array(groups, "groups")
  if given.shape == (count,):
    names = cells_lib.Cells.read(given, "groups").as_names(cells_lib.Spelling())
    if (names.values >= 0).all():
      order = {text: place for place, text in enumerate(sorted(names.texts or ()))}
      return np.array([order[text] for text in names.texts or ()])[names.values]
  raise ValueError(f"groups must have a value for each of the {count} rows.")


def _spec(
  raw: Any,
  count: int,
  rows: Mapping[str, np.ndarray],
  tasks: tuple[types.TaskSpec, ...],
  notes: list[str],
  lengths: bool,
) -> types.DatasetSpec:
  """What a network must know; the table's columns are fitted on the training rows."""
  sizes = {name: len(found) for name, found in rows.items()}
  make = functools.partial(types.DatasetSpec, _NAME, tasks, sizes=sizes, lengths=lengths)
  if lengths:
    return make("series", raw["series"].shape[1:], notes=tuple(notes))
  if isinstance(raw, dict) or raw.ndim == 2:
    every = _columns(raw)
    try:
      encoder = columns.Encoder.fit({name: v[rows["train"]] for name, v in every.items()})
    except ValueError as error:
      raise ValueError(f"{error}{_KEYS * ('say ' in str(error).lower())}") from error
    table = encoder.spec
    shape = (len(table.categorical) + len(table.numeric),)
    return make("table", shape, table=table, notes=(*notes, *encoder.notes))
  return make(_KINDS[raw.ndim], raw.shape[1:], notes=tuple(notes))


def _columns(raw: Any) -> dict[str, np.ndarray]:
  """Columns of a table; those of an array are called x0, x1, ..."""
  if isinstance(raw, dict):
    return raw
  return {f"x{place}": column for place, column in enumerate(np.asarray(raw).T)}


def encode_inputs(spec: types.DatasetSpec, inputs: Any) -> Any:
  """Turns rows as they are given into what a network of `spec` reads.

  Warns of categories that training had not, and counts them.

  Raises:
    ValueError: another shape, a column that is missing, or a value that cannot be read.
  """
  if spec.table is not None:
    named = has_names(inputs)
    if not named and np.ndim(inputs) != 2:
      raise ValueError(f"Rows of a table are [N, columns], not {np.shape(inputs)}.")
    made = _named_columns(inputs) if named else _columns(given_lib.array(inputs, "The inputs"))
    if not named and len(made) and not {c.name for c in spec.table.columns} & {*made}:
      known = ", ".join(column.name for column in spec.table.columns[:8])
      raise ValueError(f"The columns have names, as {known}: give a dict of them, or a frame.")
    found, notes = columns.Encoder(spec.table).read(made)
    for note in notes:
      warnings.warn(note, stacklevel=3)
    return found
  if spec.lengths:
    series = given_lib.array(inputs["series"], "The inputs")
    length = given_lib.lengths(inputs["length"], spec.input_shape[0])
    if series.ndim == 3 and series.dtype.kind == "f" and len(series) == len(length):
      inside = np.arange(series.shape[1])[None] < length[:, None]
      series = np.where(inside[..., None], series, 0)  # what is padding may be NaN
    return {"series": _floats(series, spec.input_shape, "series"), "length": length}
  return _floats(inputs, spec.input_shape, spec.input_kind)


def _floats(values: Any, shape: tuple[int, ...], kind: str) -> np.ndarray:
  """Float32 of series or pictures, checked; uint8 pictures in 0..1."""
  found = given_lib.array(values, "The inputs")
  if found.shape[1:] != shape:
    raise ValueError(f"Inputs must be [N, {', '.join(map(str, shape))}], but are {found.shape}.")
  if kind == "image" and found.dtype.kind in "iu":
    if found.dtype != np.uint8:
      raise ValueError(
        f"Pictures are uint8 in 0..255 or floats in 0..1, but are {found.dtype}: hand over"
        " pictures.astype(np.uint8), or divide them by their highest number."
      )
    return (found / np.float32(255)).astype(np.float32)
  if found.dtype.kind not in "biuf":
    raise ValueError(f"Inputs must be numbers, but are {found.dtype}.")
  with np.errstate(over="ignore"):
    made = found.astype(np.float32)
  if not np.isfinite(made).all():
    bad = tuple(int(i) for i in np.argwhere(~np.isfinite(made))[0])
    raise ValueError(f"The input {bad} is {found[bad]}: inputs must be finite numbers of 32 bits.")
  if kind == "image" and made.size and not -1e-6 <= made.min() <= made.max() <= 1 + 1e-6:
    raise ValueError(
      f"Pictures of floats are in 0..1, but these are in {made.min():g}..{made.max():g}: divide"
      " them (by 255), or hand over uint8."
    )
  return made


def _dataset(
  spec: types.DatasetSpec,
  inputs: Any,
  targets: Mapping[str, np.ndarray],
  valid: Mapping[str, np.ndarray],
  rows: Mapping[str, np.ndarray],
) -> types.Dataset:
  """The splits of encoded arrays."""

  def part(chosen: np.ndarray) -> types.Batch:
    take = lambda array: np.asarray(array)[chosen]
    return types.Batch(
      jax.tree.map(take, inputs),
      {name: take(array) for name, array in targets.items()},
      {name: take(array) for name, array in valid.items()},
      np.ones(len(chosen), bool),
    )

  sources = {name: memory.Rows(functools.partial(part, chosen)) for name, chosen in rows.items()}
  return memory.dataset(spec, sources, lambda found: found.batch)


def _fingerprint(dataset: types.Dataset) -> str:
  """A digest of all that a run reads."""
  digest = hashlib.sha256(repr(dataset.spec.tasks).encode())
  for split in types.SPLITS:
    for leaf in jax.tree.leaves(dataset.arrays(split)):
      digest.update(repr((leaf.shape, leaf.dtype.str)).encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:16]
