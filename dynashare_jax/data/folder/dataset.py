"""Your own pictures and labels, in folders that a small YAML file describes.

See docs/data.md for the file, with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools
import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import identity
from dynashare_jax.data import options
from dynashare_jax.data.folder import decode as folder_decode
from dynashare_jax.data.folder import description as folder_description
from dynashare_jax.data.folder import files as folder_files
from dynashare_jax.data.folder import splits as folder_splits
from dynashare_jax.data.folder import table
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import surface_normals
from dynashare_jax.data.table import files as table_files
from dynashare_jax.data.table import tasks as table_tasks

NAME = "folder"
_SIZES = 256  # examples whose files are measured to tell data that changed
Task = folder_description.Task | table_tasks.Task


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`: those of `dense.defaults`, and these.

  file: that describes the data set, relative to `config.data_dir`. tasks: names of those to train
  on, in order; none means all. height, width: of all pictures and labels; 0 as stored.
  """
  return {**dense.defaults(), "file": "dataset.yaml", "tasks": (), "height": 0, "width": 0}


def compat() -> dict[str, Any]:
  """Returns the switches that all data sets of pictures have; see `dense.compat`."""
  return dense.compat()


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Finds the pictures; they are read when they are asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    compat: switches as in the function `compat`.
    data_dir: folder with the description, or a converted copy.
    seed: not used; the description has the seed of its shares.

  Returns:
    The data set. Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`. depth: float32 `[H,
    W]`. normals: float32 `[H, W, 3]`, unit, x right, y down, z forward. regression: float32 `[H,
    W]`, or `[H, W, outputs]`. Of a table: int32, or float32 of numbers, one or `[outputs]`. An
    example without a label of a task has nothing valid there.

  Raises:
    ValueError: names the file and the key that is wrong, or the example that cannot be read.
  """
  del seed
  original, tasks, notes = _find(config, data_dir)
  specs = [dataclasses.replace(t.spec, metrics=compat.get("metrics", "pooled")) for t in tasks]
  decode = folder_decode.Decode(tasks)
  found = dense.Found(original.layout, original.keys, original.read, decode, notes)
  dataset = dense.assemble(NAME, tuple(specs), found, config, compat)
  return dataclasses.replace(dataset, facts=functools.partial(_facts, original))


def _facts(original: store.Original) -> dict[str, str]:
  """What tells one state of the data from another; a copy knows the description alone."""
  described = original.facts["tasks"]
  told = {"descriptions of the tasks": identity.digest([described[t] for t in original.fields[1:]])}
  read = original.read
  if not isinstance(read, folder_files.Reader):
    return told
  keys = tuple(dict.fromkeys(itertools.chain(*original.keys.values())))
  some = np.unique(np.linspace(0, len(keys) - 1, _SIZES).astype(int))
  told["sizes of files"] = identity.digest([read.sizes(keys[place]) for place in some])
  if read.told:
    values = [read.told[task].tobytes() for task in sorted(read.told)]
    told["labels in tables"] = hashlib.sha256(b"".join(values)).hexdigest()[:16]
  return told


def check(dataset: types.Dataset) -> None:
  """Refuses a data set with which training is of no use.

  Raises:
    ValueError: no pixel of train or of test has a label of a task; names both.
  """
  for split in ("train", "test"):
    _check_labelled(split, dataset.source(split))


def _check_labelled(split: str, source: Any) -> None:
  """Reads examples until every task has had a pixel with a label."""
  read, waiting = source.read, {task.name: task for task in source.decode.tasks}
  for index, key in enumerate(source.keys):
    # A converted copy does not tell before it is read.
    if isinstance(read, folder_files.Reader) and not any(read.has(n, key) for n in waiting):
      continue
    try:
      valid = source[index].valid
    except ValueError:
      return  # training names it, `data check` all that cannot be read
    waiting = {name: task for name, task in waiting.items() if not valid[name].any()}
    if not waiting:
      return
  for name, task in waiting.items():
    scale = getattr(task, "scale", None) or 0
    negative = f" Its scale is negative: {scale:g}." if scale < 0 else ""
    if isinstance(task, table_tasks.Task):
      what = f"none of the {len(source)} examples in {split} has a label. Look at its columns"
    else:
      what = (
        f"no pixel of the {len(source)} examples in {split} has a label.{negative} Look at its"
        " files, and at scale, offset"
      )
    raise ValueError(
      f"tasks.{name}: {what}, range, ignore and unmapped; or leave the task out with"
      " config.data.tasks."
    )


def original(config: ConfigDict, compat: ConfigDict, data_dir: str | None) -> store.Original:
  """Returns the files that `store_writer.convert` makes a copy of."""
  del compat
  return _find(config, data_dir)[0]


def _find(
  config: ConfigDict, data_dir: str | None
) -> tuple[store.Original, tuple[Task, ...], tuple[str, ...]]:
  """The files, or a converted copy of them, the tasks that are wanted, and notes."""
  if not data_dir:
    raise ValueError(
      f"folder: tell with config.data_dir where the folder with {config.file} lies. For example:"
      f"{folder_description.EXAMPLE}"
    )
  size = dense_layouts.wanted_size(config)
  there = store.is_copy(data_dir)
  path = os.path.join(data_dir, store.MARKER if there else config.file)
  raw = store.facts(data_dir, NAME) if there else folder_description.read(path)
  parsed = folder_description.parse(raw, path, os.path.dirname(path))
  known = {task.name: task for task in parsed.tasks}
  tasks = tuple(known[t] for t in options.tasks(parsed.where, config.tasks or tuple(known), known))
  names = tuple(task.name for task in tasks)
  if there:
    tasks = tuple(
      dataclasses.replace(t, spec=table_tasks.complete(t)) if isinstance(t, table_tasks.Task) else t
      for t in tasks
    )
    return store.open_copy(data_dir, NAME, ("image", *names), size), tasks, ()
  reader, keys, tasks, notes = _scan(parsed, tasks, size, os.path.dirname(path))
  title = f"{parsed.name}, {path}" if parsed.name else path
  layout = dense_layouts.counted(title, keys)
  made = {task.name: task for task in tasks}
  described = {
    name: _settled(task or {}, made[name]) if name in made else task
    for name, task in _by_name(raw["tasks"]).items()
  }
  facts = {**raw, "tasks": described}
  return store.Original(layout, keys, reader, facts, ("image", *names), size), tasks, notes


def _by_name(tasks: Any) -> dict[str, Any]:
  """The key `tasks`, which may be a list of names, as a mapping."""
  return dict.fromkeys(tasks) if isinstance(tasks, list) else tasks


def _settled(raw: dict[str, Any], task: Task) -> dict[str, Any]:
  """What a copy of the data must know of a task: of a table, what its cells told, too."""
  if not isinstance(task, table_tasks.Task):
    return raw
  spec, stored = task.spec, task.kind.stored
  weighed = {"positive", *(key for key, _ in task.weights)}
  found = {key: value for key, value in raw.items() if key not in weighed} | {"kind": spec.kind}
  if stored == "values":
    return found | {"center": list(spec.center), "spread": list(spec.spread)}
  if stored == "names" or spec.classes not in (("no", "yes"), task.columns):
    found["classes"] = list(spec.classes) or spec.outputs
  if task.weights and stored == "names":
    found["class_weights"] = list(spec.class_weights)
  elif task.weights:
    found["positive_weight"] = spec.positive_weight
  return found


def _scan(
  parsed: folder_description.Description,
  tasks: tuple[Task, ...],
  size: tuple[int, int] | None,
  folder: str,
) -> tuple[folder_files.Reader, dict[str, tuple[str, ...]], tuple[Task, ...], tuple[str, ...]]:
  """Finds all pictures and their labels; checks that every task has one, and notes what is lost."""
  where = parsed.where
  pictures = folder_files.Pattern.read(parsed.pictures, f"{where}: pictures")
  patterns = _patterns(parsed, pictures)
  examples = folder_files.find_pictures(parsed.root, pictures, where)
  labels = {task.name: patterns[task.name] for task in tasks if task.name in patterns}
  beside = folder_files.labels_among(parsed.root, pictures, tuple(patterns.values()), examples)
  examples = {name: texts for name, texts in examples.items() if name not in beside}
  ids = tuple(task.name for task in tasks if task.name in labels and task.kind.stored == "ids")
  reader = folder_files.Reader(parsed.root, pictures, labels, examples, size, ids)
  rows = _rows(parsed, tasks, reader)
  keys, notes = folder_splits.assign(tuple(examples), parsed, folder, rows)
  used = tuple(dict.fromkeys(key for part in keys.values() for key in part))
  for name in labels:
    if not any(reader.has(name, key) for key in used):
      path = os.path.join(parsed.root, reader.expected(name, used[0]))
      raise ValueError(
        f"{where}: tasks.{name}.labels: none of the {len(used)} examples has a label; that of"
        f" {used[0]!r} should be {path}.{_near(reader, name, used[0])}"
      )
  if rows is not None:
    tasks, told, more = table.read_tasks(tasks, rows, keys)
    reader, notes = dataclasses.replace(reader, told=told), (*rows.notes, *notes, *more)
  lost = folder_files.unused(parsed.root, pictures, tuple(patterns.values()), examples)
  count = (
    f"warning: {len(lost)} files beside the labels belong to no picture or are not read, first"
  )
  if beside:
    first = next(iter(beside.values()))
    notes = (*notes, f"{len(beside)} files are labels of others, and no pictures, first {first}")
  return reader, keys, tasks, (*notes, *([f"{count} {lost[0]}"] if lost else ()))


def _near(reader: folder_files.Reader, task: str, key: str) -> str:
  """The file that may be meant for the label of an example."""
  folder, name = os.path.split(
    os.path.join(reader.root, reader.expected(task, key).split(" or ")[0])
  )
  return lookup.hint(name, os.listdir(folder)) if os.path.isdir(folder) else ""


def _patterns(
  parsed: folder_description.Description, pictures: folder_files.Pattern
) -> dict[str, folder_files.Pattern]:
  """Where the labels of all tasks of pixels lie."""
  patterns = {}
  for task in parsed.tasks:
    if isinstance(task, table_tasks.Task):
      continue
    place = f"{parsed.where}: tasks.{task.name}"
    pattern = folder_files.Pattern.read(task.labels, f"{place}.labels")
    unknown = set(pattern.wildcards) - set(pictures.wildcards)
    if unknown:
      raise ValueError(
        f"{place}.labels: {{{min(unknown)}}} is not in pictures, which has"
        f" {', '.join(f'{{{w}}}' for w in pictures.wildcards)}."
      )
    patterns[task.name] = pattern
    try:
      surface_normals.read_axes(task.axes)
    except ValueError as error:
      raise ValueError(f"{place}.axes: {error}") from error
  return patterns


def _rows(
  parsed: folder_description.Description, tasks: Sequence[Task], reader: folder_files.Reader
) -> table.Rows | None:
  """The tables, row by row as the pictures; None where none is needed."""
  columns = [c for t in tasks if isinstance(t, table_tasks.Task) for c in t.columns]
  if parsed.column:
    columns.append(parsed.column)
  if not columns:
    return None
  place = f"{parsed.where}: table"
  groups = [table_files.find(parsed.root, file, place) for file in parsed.tables]
  try:
    tables = [table_files.read(paths, table_files.Layout(), columns, True) for paths in groups]
  except (ValueError, ImportError) as error:
    raise ValueError(f"{place}: {error}") from error
  stems = {key: reader.stem(key) for key in reader.examples}
  return table.find_rows(tables, parsed.key, stems, place)
