"""Your own table, CSV or Parquet, that a small YAML file describes.

See docs/tables.md for the file, with an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import cells as cells_lib
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import description as described
from dynashare_jax.data import memory
from dynashare_jax.data import options
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.table import description as table_description
from dynashare_jax.data.table import files
from dynashare_jax.data.table import labels as table_labels
from dynashare_jax.data.table import splits as table_splits
from dynashare_jax.data.table import tasks as table_tasks
from dynashare_jax.data.table.column import Column

NAME = "table"
_LOOKED = 1000  # rows that are looked for in train
_FEW = 20  # different rows of train


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  file: that describes the table, relative to `config.data_dir`. tasks: names of those to train on,
  in order; none means all.
  """
  return {"file": "dataset.yaml", "tasks": ()}


def compat() -> dict[str, Any]:
  """Returns no switch: no published code exists for this data set."""
  return {}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads the table, and fits its encoding on the training rows.

  Args:
    config: `config.data`, fields as in `defaults`.
    data_dir: folder with the description.
    seed: not used; the description has the seed of its shares.

  Returns:
    The data set. Inputs are a dict of `categorical` int32 `[N, C]` and `numeric` float32 `[N, D]`,
    see `columns.Encoder`. Targets: binary float32 `[N]`; multilabel float32 `[N, K]`; multiclass
    int32 `[N]`; number float32 `[N]` or `[N, O]` in its unit. Empty cells of labels are not valid.

  Raises:
    ValueError: names the file and the key, or the file, line and column.
  """
  del compat, seed
  raw, path = read_description(
    config, data_dir, NAME, table_description.KEYS, table_description.EXAMPLE
  )
  wanted = table_description.parse(raw, path)
  known = {task.name: task for task in wanted.tasks}
  tasks = [known[t] for t in options.tasks(path, tuple(config.tasks) or tuple(known), known)]
  ids = (wanted.id,) * bool(wanted.id)
  frame, of_file = read_frame(
    wanted, os.path.dirname(path), (*wanted.labels, *wanted.splits.columns, *ids)
  )
  for name in (*wanted.labels, *wanted.inputs, *wanted.roles, *ids):
    frame.column(name, path)
  spelling, warnings = read_spelling(frame, wanted)
  rows, split_notes = table_splits.assign(frame, wanted.splits, spelling, of_file)
  found = [read_labels(task, frame, rows, spelling) for task in tasks]
  encoder = _fit(frame, wanted, rows["train"], spelling)
  inputs, _ = encoder.read(frame.columns, frame.where)
  return assemble(
    NAME,
    Made(inputs, rows, found),
    input_kind="table",
    input_shape=(len(encoder.spec.categorical) + len(encoder.spec.numeric),),
    table=encoder.spec,
    notes=(
      *frame.notes,
      *warnings,
      *split_notes,
      *encoder.notes,
      *_unseen(inputs["categorical"], encoder.spec, rows),
      *_repeated(inputs, found, rows),
      *(note for labels in found for note in labels.notes),
      *tells({c.name: frame.columns[c.name] for c in encoder.spec.columns}, found, spelling),
    ),
  )


@dataclasses.dataclass(frozen=True)
class Made:
  """All examples.

  Attributes:
    inputs: of all rows, a dict of arrays.
    rows: split -> its rows.
    labels: of every task.
  """

  inputs: Mapping[str, np.ndarray]
  rows: table_splits.Rows
  labels: list[table_labels.Labels]

  def batch(self, split: str) -> types.Batch:
    """Returns a whole split."""
    rows = self.rows[split]
    return types.Batch(
      {name: array[rows] for name, array in self.inputs.items()},
      {labels.spec.name: labels.target[rows] for labels in self.labels},
      {labels.spec.name: labels.valid[rows] for labels in self.labels},
      np.ones(len(rows), bool),
    )


def assemble(name: str, made: Made, **spec: Any) -> types.Dataset:
  """Returns a data set of examples in memory.

  Args:
    spec: the other fields of its `types.DatasetSpec`.
  """
  sizes = {split: len(rows) for split, rows in made.rows.items()}
  tasks = tuple(labels.spec for labels in made.labels)
  sources = {split: memory.Rows(functools.partial(made.batch, split)) for split in made.rows}
  return memory.dataset(
    types.DatasetSpec(name, tasks, sizes=sizes, **spec), sources, lambda rows: rows.batch
  )


def read_description(
  config: ConfigDict, data_dir: str | None, name: str, keys: tuple[str, ...], example: str
) -> tuple[dict[str, Any], str]:
  """Reads the file that `config.file` names, and says where it is.

  Raises:
    ValueError: no folder is given, or there is no such file.
  """
  if not data_dir:
    raise ValueError(
      f"{name}: tell with config.data_dir where the folder with {config.file} lies. For"
      f" example:{example}"
    )
  path = os.path.join(os.path.expanduser(data_dir), config.file)
  return described.read(path, keys, example), path


def read_frame(
  wanted: table_description.Description, folder: str, columns: Sequence[str]
) -> tuple[files.Frame, dict[int, str]]:
  """Reads the table's files; also returns which split each is, if files tell.

  Args:
    columns: that it should have, which tell the separator.
  """
  paths: list[str] = []
  of_file: dict[int, str] = {}
  for split, pattern in wanted.tables.items():
    key = f"table.{split}" if split else "table"
    found = files.find(folder, pattern, f"{wanted.where}: {key}")
    if twice := {*map(os.path.realpath, found)} & {*map(os.path.realpath, paths)}:
      raise ValueError(f"{wanted.where}: {key}: {min(twice)} is in another split, too.")
    of_file |= {len(paths) + index: split for index in range(len(found)) if split}
    paths += found
  return files.read(paths, wanted.layout, columns), of_file


def read_labels(
  task: table_tasks.Task, frame: files.Frame, rows: table_splits.Rows, spelling: Spelling
) -> table_labels.Labels:
  """Reads the labels of a task; see `labels.read`."""
  column = lambda name: Column.of(
    name, frame.column(name, task.place), frame.places(name), spelling, task.ignore
  )
  return table_labels.read(task, [column(name) for name in task.columns], rows)


def read_spelling(
  frame: files.Frame, wanted: table_description.Description
) -> tuple[Spelling, list[str]]:
  """Returns how the table writes numbers, as said or as found out, and warnings."""
  spelling, notes = cells_lib.detect(frame.columns, wanted.missing)
  if wanted.decimal or wanted.thousands:
    notes = []
  if wanted.decimal not in ("", spelling.decimal):
    spelling = dataclasses.replace(spelling, decimal=wanted.decimal, thousands="")
  elif spelling.decimal == "," and not wanted.decimal:
    notes.append("numbers have decimal commas.")
  if spelling.thousands and not wanted.thousands:
    notes.append(f"thousands are parted by {spelling.thousands!r}.")
  if wanted.thousands == spelling.decimal:
    raise ValueError(
      f"{wanted.where}: thousands: {wanted.thousands!r} is the decimal point, too; say decimal."
    )
  return dataclasses.replace(spelling, thousands=wanted.thousands or spelling.thousands), notes


def _fit(
  frame: files.Frame, wanted: table_description.Description, train: np.ndarray, spelling: Spelling
) -> columns_lib.Encoder:
  """Fits the inputs on the training rows."""
  apart = {name: f"label of {t.name}" for t in wanted.tasks for name in t.columns}
  apart |= {name: "tells the split" for name in wanted.splits.columns if name not in apart}
  apart |= {wanted.id: "names the row"} if wanted.id not in ("", *apart) else {}
  others = [name for name in frame.columns if name not in apart]
  chosen = wanted.inputs or tuple(others)
  encoder = fit_inputs(frame, wanted, chosen, train, spelling)
  told = [f"{name} ({why})" for name, why in apart.items()]
  left = [name for name in others if name not in chosen]
  notes = (
    f"no inputs: {', '.join(told)}.",
    *((f"not in inputs: {len(left)} columns.",) * bool(left)),
  )
  spec = dataclasses.replace(encoder.spec, id=wanted.id or wanted.splits.group)
  return dataclasses.replace(encoder, spec=spec, notes=encoder.notes + notes)


def fit_inputs(
  frame: files.Frame,
  wanted: table_description.Description,
  chosen: Sequence[str],
  train: np.ndarray,
  spelling: Spelling,
) -> columns_lib.Encoder:
  """Returns an encoder of some columns: roles of all rows, all else of the training rows."""
  given = {name: role for name, role in wanted.roles.items() if name in chosen}
  roles = columns_lib.infer(
    {name: frame.columns[name] for name in chosen}, spelling, frame.where, given
  )
  part = frame.take(train)
  fitted = columns_lib.Encoder.fit(
    {name: part.columns[name] for name in chosen},
    roles,
    wanted.bins,
    wanted.most_categories,
    spelling,
    part.where,
  )
  layout = dataclasses.astuple(wanted.layout)
  return dataclasses.replace(fitted, spec=dataclasses.replace(fitted.spec, layout=layout))


def _unseen(codes: np.ndarray, spec: types.TableSpec, rows: table_splits.Rows) -> list[str]:
  """Counts rows of validation and test with categories that training has no code for."""
  known = {column.name for column in spec.columns if column.role == "category"}
  notes = []
  for split in ("validation", "test"):
    lost = (codes[rows[split]] == 0).sum(0)
    found = {n: int(c) for n, c in zip(spec.categorical, lost, strict=True) if c and n in known}
    if found:
      each = ", ".join(f"{name} {count}" for name, count in found.items())
      # As where one file writes quotes that another does not.
      warning = "warning: " * (max(found.values()) == len(rows[split]))
      notes.append(
        f"{warning}{split}: rows with a category that training had not, or rarely: {each}, of"
        f" {len(rows[split])}."
      )
  return notes


def _repeated(
  inputs: Mapping[str, np.ndarray], found: list[table_labels.Labels], rows: table_splits.Rows
) -> list[str]:
  """Warns of rows of validation and test of which at least half are rows of train, labels too."""
  every = [*inputs.values(), *(labels.target for labels in found)]
  flat = [np.ascontiguousarray(part.reshape(len(part), -1), np.float32) for part in every]
  of = lambda places: np.concatenate([part[places] for part in flat], 1)
  trained = {hash(row.tobytes()) for row in of(rows["train"])}
  differ = len(trained) > max(_FEW, len(rows["train"]) // 4)  # else others may well be equal
  notes = []
  for split in ("validation", "test") if differ else ():
    some = rows[split][np.unique(np.linspace(0, len(rows[split]) - 1, _LOOKED).astype(int))]
    count = sum(hash(row.tobytes()) in trained for row in of(some))
    if 2 * count >= len(some) > 1:
      notes.append(
        f"warning: {count} of {len(some)} rows of {split} stand in train, too, with their labels:"
        " are rows there twice?"
      )
  return notes


def tells(
  columns: Mapping[str, cells_lib.Cells], found: list[table_labels.Labels], spelling: Spelling
) -> list[str]:
  """Warns of columns that give a label away in every row, as they may not be known beforehand."""
  notes = []
  for labels in found:
    if labels.target.ndim > 1 or (rows := np.flatnonzero(labels.valid)).size < 50:
      continue
    notes += [
      f"warning: column {name!r} tells {labels.spec.name} in every row: is it known when"
      " predicting? If not, say columns: {" + name + ": ignore}."
      for name, cells in columns.items()
      if columns_lib.tells(cells.take(rows), labels.target[rows], spelling)
    ]
  return notes
