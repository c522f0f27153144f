"""Runs an exported model on images or a table.

  python -m dynashare_jax predict --artefact=runs/rooms/dynashare-0/export \
      --input=photos --output=predictions

An image gives `<name>-prediction.png`: the image, and beside it what every
dense task sees. A CSV table gives `predictions.csv` with one row per row, the
column that names it first; so do tasks that say one thing of a whole image.
Neither trains nor needs the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import io
import pathlib
from typing import Any
import zipfile

import numpy as np
from PIL import Image

from dynashare_jax import infer
from dynashare_jax.cli import guard as command
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import text
from dynashare_jax.data.pictures import files as picture_files
from dynashare_jax.data.series import dataset as series_dataset
from dynashare_jax.data.series import encoding as series_encoding
from dynashare_jax.data.table import files as table_files
from dynashare_jax.report import tables

Rows = list[dict[str, Any]]
Read = tuple[dict[str, np.ndarray], dict[str, list[str]]]  # arrays; a column that names the rows
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
_TABLE = "predictions.csv"
_BATCH = {"image": 8, "table": 1024, "series": 64}
_ARGUMENTS = {
  "artefact": (None, "folder that python -m dynashare_jax export wrote, or its model file"),
  "input": (
    None,
    "an image or a folder of images; for your own table a CSV or Parquet file as in training, for"
    " others a CSV file with a header (categorical columns hold the texts that manifest.json lists,"
    " codes only where it lists none); for your own series a CSV or Parquet file, or a folder,"
    " for others a .npy file, with lengths a .npz file",
  ),
  "output": ("predictions", "folder"),
}


def run(argv: Sequence[str] | None) -> list[pathlib.Path]:
  """Predicts what the command line names; returns the paths of the files written.

  Raises:
    ValueError: in the arguments, the artefact or the input.
  """
  about = "Runs an exported model on images or a table."
  arguments = command.parser("predict", about, _ARGUMENTS).parse_args(argv)
  source, output = pathlib.Path(arguments.input), pathlib.Path(arguments.output)
  if not source.exists():
    raise ValueError(f"There is no {source} to read.")
  model = infer.load(arguments.artefact)
  kind = model.manifest["inputs"]["kind"]
  if kind == "image":
    return images(model, source, output)
  ids: dict[str, list[str]] = {}
  if "series" in model.manifest["inputs"]:
    arrays, ids["id"] = _read_series(model, source)
  elif kind == "table":
    arrays, ids = _read_table(model, source)
  else:
    arrays = _read_arrays(model, source)
  rows = _rows(model.manifest["tasks"], _predict(model, arrays))
  ids = {name: texts for name, texts in ids.items() if name not in rows[0]}  # a task's own column
  return [_write_csv(output / _TABLE, rows, ids)]


def images(model: infer.Artefact, source: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
  """Predicts images and draws them; returns the paths of the files written.

  Args:
    model: whose input is an image.
    source: a file, or a folder whose images are read (not those in its folders).

  Raises:
    ValueError: there is no image, one cannot be read, or the output would lie among the input.
  """
  from dynashare_jax.report.pictures import prediction_pictures

  files = _images_in(source)
  if source.is_dir() and source.resolve() == output.resolve():
    raise ValueError(
      f"--output is the folder of --input ({source}). Name another, so that"
      " pictures are not taken for input the next time."
    )
  shape = model.manifest["inputs"]["arrays"]["image"]["shape"]
  tasks = model.manifest["tasks"]
  flat = [task for task in tasks if not prediction_pictures.is_dense(task)]
  stems = [file.stem for file in files]
  size = min(len(files), _BATCH["image"])
  written: list[pathlib.Path] = []
  rows: Rows = []
  for begin in range(0, len(files), size):
    part = files[begin : begin + size]
    read = [_read_image(file, *shape) for file in part]
    found = _predict(model, {"image": np.stack(read)}, size)
    for place, (file, image) in enumerate(zip(part, read, strict=True)):
      if len(flat) < len(tasks):
        stem = file.name.replace(".", "-") if stems.count(file.stem) > 1 else file.stem
        one = {name: array[place] for name, array in found.items()}
        path = output / f"{stem}-prediction.png"
        written.append(prediction_pictures.draw(image, tasks, one, path))
    rows += [{"file": f.name} | r for f, r in zip(part, _rows(flat, found), strict=True)]
  if flat:
    written.append(_write_csv(output / _TABLE, rows, {}))
  return written


def _images_in(source: pathlib.Path) -> list[pathlib.Path]:
  """The image files that are asked for, sorted."""
  if not source.is_dir():
    return [source]
  files = sorted(f for f in source.iterdir() if f.suffix.lower() in _IMAGES)
  if not files:
    raise ValueError(f"There is no image in {source}; endings read are {', '.join(_IMAGES)}.")
  return files


def _read_image(file: pathlib.Path, height: int, width: int, channels: int) -> np.ndarray:
  """An image as the model takes it, uint8 `[H, W, 3]` or grey `[H, W, 1]`; prints a new size."""
  if channels not in (1, 3):
    raise ValueError(
      f"The model reads {channels} channels, but files of pictures are read as grey or as red,"
      " green and blue: predict arrays from Python, ds.load(folder).predict(pictures)."
    )
  array = picture_files.read_colour(file)
  if array.dtype != np.uint8:
    array = np.rint(255 * array).astype(np.uint8)
  image = Image.fromarray(array).convert("L" if channels == 1 else "RGB")
  if image.size != (width, height):
    print(
      f"{file}: resized from {image.width}x{image.height} to"
      f" {width}x{height}, which the model reads"
    )
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(image).reshape(height, width, channels)


def _read_table(model: infer.Artefact, source: pathlib.Path) -> Read:
  """A CSV file with a header as codes int32 and numbers float32.

  Columns whose values the manifest knows hold those texts (code 0 is any other
  text: unseen in training); the others hold codes.
  """
  spec = model.manifest["inputs"]
  if "table" in spec:
    return _read_raw(columns_lib.Encoder.of(spec["table"]), source)
  makers = {
    "categorical": {c["name"]: _coder(c.get("values", ())) for c in spec["codes"]["categorical"]},
    "numeric": dict.fromkeys(spec["numbers"]["numeric"], _number),
  }
  wanted = [name for made in makers.values() for name in made]
  lines = list(io.StringIO(text.read(source), newline=""))
  fits = lambda names: {*wanted} <= {*map(str.strip, names)}
  mark = text.separator(lines[0] if lines else "", fits)
  reader = csv.reader(lines, delimiter=mark, skipinitialspace=True)
  rows = []
  try:
    header = [name.strip() for name in next(reader, [])]
    _check_header(source, header, wanted)
    for cells in reader:
      where = f"{source}, line {reader.line_num}"
      if cells and len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} cells, but the header has {len(header)} names.")
      row = dict(zip(header, cells, strict=False))
      made = {n: [_cell(where, row, *pair) for pair in m.items()] for n, m in makers.items() if row}
      rows += [made] if row else []
  except csv.Error as error:
    raise ValueError(f"{source}, line {reader.line_num}: {error}.") from error
  if not rows:
    raise ValueError(f"{source} has no row below its header.")
  return {
    name: np.asarray([row[name] for row in rows], dtype).reshape(len(rows), len(makers[name]))
    for name, dtype in (("categorical", np.int32), ("numeric", np.float32))
  }, {}


def _read_raw(encoder: columns_lib.Encoder, source: pathlib.Path) -> Read:
  """A table as the model's training had it, CSV or Parquet; prints what is other than there."""
  wanted = [column.name for column in encoder.spec.columns]
  frame = table_files.read([str(source)], table_files.Layout(*encoder.spec.layout), wanted)
  for name in wanted:
    frame.column(name, "The model")
  found, notes = encoder.read(frame.columns, frame.where)
  others = [name for name in frame.columns if name not in {*wanted, *frame.twice}]
  named = encoder.spec.id if encoder.spec.id in others else columns_lib.called_id(others)
  ids = {named: frame.columns[named].written()} if named else {}
  told = [f"predictions carry column {named!r}, which names the rows"] * bool(named)
  for note in (*frame.notes, *notes, *_extra(frame, wanted), *told):
    print(f"{source}: {note}")
  return found, ids


def _read_series(
  model: infer.Artefact, source: pathlib.Path
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Series as the model's training had them, and their ids in the order of their first rows.

  A file with all rows, or a folder with a file for every series. What a whole series has stands in
  its first row.
  """
  encoder = series_encoding.Encoder.of(model.manifest["inputs"]["series"])
  spec = encoder.spec
  static = [column.name for column in spec.static.columns] if spec.static else []
  wanted = [*(c.name for c in spec.rows.columns), spec.time, *static, *filter(None, [spec.id])]
  files = table_files.tables_in(str(source)) if source.is_dir() else (str(source),)
  layout = table_files.Layout(*spec.rows.layout)
  frame = table_files.read(files, layout, wanted)
  for name in wanted:
    frame.column(name, "The model")
  ids = series_dataset.ids(frame, spec.id, "The model")
  series, first = series_dataset.number(ids)
  own = frame.take(first)
  found, notes = encoder.read(frame.columns, series, own.columns, frame.where, own.where)
  changing = _changing(frame, static, series, first)
  for note in (*frame.notes, *notes, *changing, *_extra(frame, wanted)):
    print(f"{source}: {note}")
  if spec.id:
    ids = frame.columns[spec.id].written()
  return found, [ids[row] for row in first]


def _changing(
  frame: table_files.Frame, static: Sequence[str], series: np.ndarray, first: np.ndarray
) -> list[str]:
  """What is said of columns of whole series that differ from row to row."""
  notes = []
  for name in static:
    changed = series_dataset.changes(frame.columns[name], series, first)
    if count := len(np.unique(series[changed])):
      notes.append(
        f"warning: column {name!r} has several values in {count} of {len(first)} series, of which"
        " the first row counts"
      )
  return notes


def _extra(frame: table_files.Frame, wanted: Sequence[str]) -> list[str]:
  """What is said of columns that are not read."""
  extra = [name for name in frame.columns if name not in wanted]
  shown = ", ".join(extra[:5]) + ", ..." * (len(extra) > 5)
  said = f"{len(extra)} columns that the model does not read are left out: {shown}"
  return [said] if extra else []


def _check_header(source: pathlib.Path, header: Sequence[str], wanted: Sequence[str]) -> None:
  """Refuses a column that is missing or stands twice."""
  missing = [name for name in wanted if name not in header]
  if missing:
    raise ValueError(
      f"{source} has no column {', '.join(missing)}. Its first line must name"
      " the columns of manifest.json."
    )
  twice = [name for name in wanted if header.count(name) > 1]
  if twice:
    raise ValueError(f"{source}, line 1: the column {twice[0]} stands twice.")


def _coder(values: Sequence[str]) -> Any:
  """Turns a cell into a code."""
  codes = {value: 1 + index for index, value in enumerate(values)}
  return (lambda cell: codes.get(str.strip(cell), 0)) if values else _code


def _code(cell: str) -> int:
  """A code that fits into 32 bits."""
  if not 0 <= int(cell) < 2**31:
    raise ValueError
  return int(cell)


def _number(cell: str) -> float:
  """A finite number that fits into 32 bits."""
  with np.errstate(over="ignore"):
    if not np.isfinite(np.float32(cell)):
      raise ValueError
  return float(cell)


def _cell(where: str, row: Mapping[str, Any], column: str, make: Any) -> Any:
  """A cell as a code or a number."""
  try:
    return make(row[column])
  except (TypeError, ValueError) as error:
    wanted = "a finite number of 32 bits" if make is _number else "a code or a text"
    raise ValueError(f"{where}, column {column!r}: {row[column]!r} is not {wanted}.") from error


def _read_arrays(model: infer.Artefact, source: pathlib.Path) -> dict[str, np.ndarray]:
  """A `.npy` file as the model's only array, or a `.npz` file with all."""
  names = tuple(model.manifest["inputs"]["arrays"])
  one = len(names) == 1
  try:
    found = np.load(source, allow_pickle=False)
    if isinstance(found, np.ndarray):
      found = {"": found}
    else:
      with found as file:
        found = dict(file)
    if one != (list(found) == [""]):
      raise ValueError(f"it holds {'several arrays' if one else 'one array without a name'}")
    arrays = {name: found["" if one else name] for name in names}
  except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
    wanted = ".npy file" if one else f".npz file with {' and '.join(names)}"
    raise ValueError(f"{source} is no {wanted}: {error}.") from error
  for name, array in arrays.items():
    if not np.size(array) or not np.ndim(array):
      of = "its shape" if one else f"the shape of {name}"
      raise ValueError(f"{source} holds no example; {of} is {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
      raise ValueError(f"{source}: {name} has numbers that are not finite: leave them out or fill.")
  return arrays


def _predict(
  model: infer.Artefact, arrays: Mapping[str, np.ndarray], size: int = 0
) -> dict[str, np.ndarray]:
  """Predictions of all rows, in batches of one size, so that one program is compiled."""
  total = len(next(iter(arrays.values())))
  size = size or min(total, _BATCH[model.manifest["inputs"]["kind"]])
  parts: list[dict[str, np.ndarray]] = []
  for begin in range(0, total, size):
    rows = np.minimum(np.arange(begin, begin + size), total - 1)
    found = model({name: a[rows] for name, a in arrays.items()})
    parts.append({n: np.asarray(a)[: total - begin] for n, a in found.items()})
  return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def _rows(tasks: Sequence[Mapping[str, Any]], found: Mapping[str, np.ndarray]) -> Rows:
  """One row per example: a probability, number or name of a class for every output of a task."""
  rows: Rows = [{} for _ in next(iter(found.values()))]
  for task in tasks:
    for row, values in zip(rows, found[task["name"]], strict=True):
      row.update(_values(task, np.asarray(values)))
  return rows


def _values(task: Mapping[str, Any], values: np.ndarray) -> dict[str, Any]:
  name, classes = task["name"], task["classes"]
  if values.dtype.kind == "i":
    named = [classes[v] if v < len(classes) else int(v) for v in values.flat]
  else:
    named = [f"{v:.6g}" for v in values.flat]
  if values.ndim == 0:
    return {name: named[0]}
  many = len(classes) == len(named)
  labels = classes if many and values.dtype.kind == "f" else range(len(named))
  return {f"{name} {n}": v for n, v in zip(labels, named, strict=True)}


def _write_csv(path: pathlib.Path, rows: Rows, ids: Mapping[str, Sequence[str]]) -> pathlib.Path:
  """Writes rows behind what names them, which stays as it is, so that it can be looked up."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow([*ids, *map(tables.escape_csv, rows[0])])
    for place, row in enumerate(rows):
      named = [texts[place] for texts in ids.values()]
      writer.writerow([*named, *(tables.escape_csv(str(cell)) for cell in row.values())])
  return path


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  command.use_compilation_cache()
  command.say(*command.run(lambda: run(argv), "files written so far stay."))
