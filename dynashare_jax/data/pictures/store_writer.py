"""Writes converted copies of data sets; see `data.pictures.store`."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import io
import json
import pathlib
import shutil
from typing import Any
import zlib

import numpy as np
from PIL import Image

from dynashare_jax.data.pictures import store

_NAME = "converted"
_VERSION = "1.0.0"
_SAMPLES = 8  # examples from which the size is estimated
_SHARD = 1 << 28  # bytes of a file, about
_CHUNK = 32  # examples that are handed over at a time
_COPIED = ("layout", "fields", "size", "facts", "keys")
_SIDE = 2  # of an absent field; TFDS reads none with fewer bytes than axes


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The needs of a conversion: number of examples, bytes of the copy (about), free bytes."""

  examples: int
  needed: int
  free: int

  def __str__(self) -> str:
    return f"{self.examples} examples, about {_size(self.needed)}; free: {_size(self.free)}"


def estimate(original: store.Original, output: str) -> Estimate:
  """Estimates the size of a copy in the folder `output` from a few examples.

  Raises:
    ValueError: an example cannot be read.
  """
  keys = _spread(tuple(store.places(original.keys)))
  sizes = [
    sum(_compressed(_packed(name, array)) for name, array in _read(original, key).items())
    for key in keys[:_SAMPLES]
  ]
  path = pathlib.Path(output).absolute()
  folder = next(p for p in (path, *path.parents) if p.is_dir())
  return Estimate(len(keys), int(np.mean(sizes) * len(keys)), shutil.disk_usage(folder).free)


def convert(
  original: store.Original, dataset: str, output: str, progress: Callable[[int], None] | None = None
) -> None:
  """Writes a copy; a folder that is not finished never looks like one.

  Args:
    progress: called with the number of examples that are done.

  Raises:
    ValueError: the folder is not empty, or an example cannot be read or fits into no field.
  """
  check_output(output)
  target = pathlib.Path(output).absolute()
  partial = target.with_name(f".{target.name}.partial")
  if partial.exists():
    shutil.rmtree(partial)  # of a conversion that was killed
  partial.mkdir(parents=True)
  try:
    _write(original, str(partial), progress or (lambda done: None))
    marker: dict[str, Any] = {"format": store.FORMAT, "dataset": dataset}
    marker |= {name: getattr(original, name) for name in _COPIED}
    marker["files"] = {p.name: p.stat().st_size for p in sorted(partial.iterdir())}
    (partial / store.MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
    if target.is_dir():
      target.rmdir()
    partial.rename(target)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def check_output(output: str) -> None:
  """Checks that a folder is new or empty.

  Raises:
    ValueError: it is not.
  """
  path = pathlib.Path(output)
  if path.is_file():
    raise ValueError(f"{path} is a file; name a new folder.")
  if store.is_copy(path):
    raise ValueError(f"{path} holds a converted copy already; delete it, or name another folder.")
  if path.is_dir() and any(path.iterdir()):
    raise ValueError(f"{path} is not empty and no converted copy: name a new folder.")


def _write(original: store.Original, folder: str, progress: Callable[[int], None]) -> None:
  """Writes all records, in the order of the names."""
  tfds = store.load_tfds()
  examples, lengths = _specimens(original)
  features = _features(tfds, examples)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=_NAME, version=tfds.core.Version(_VERSION), data_dir=folder, module_name=__name__
    ),
    features=tfds.features.FeaturesDict(features),
    description=f"Converted by dynashare_jax: {original.layout}",
    disable_shuffling=True,
  )
  writer = tfds.core.SequentialWriter(
    info, max(1, _SHARD // max(1, lengths)), file_format="array_record"
  )
  parts = collections.defaultdict(list)
  for key, (part, _) in store.places(original.keys).items():
    parts[part].append(key)
  writer.initialize_splits(list(parts))
  done = 0
  for part, keys in parts.items():
    for begin in range(0, len(keys), _CHUNK):
      chunk = [_record(original, key, examples) for key in keys[begin : begin + _CHUNK]]
      writer.add_examples({part: chunk})
      done += len(chunk)
      progress(done)
  writer.close_all()


def _specimens(original: store.Original) -> tuple[dict[str, np.ndarray], int]:
  """One array of every field, looked for in all examples, and the length of one example."""
  found: dict[str, np.ndarray] = {}
  lengths = 0
  for key in _spread(tuple(store.places(original.keys))):
    fields = _read(original, key)
    lengths = max(lengths, sum(a.nbytes for a in fields.values()))
    found = {**fields, **found}
    if all(name in found for name in original.fields):
      break
  return {n: found[n] for n in original.fields if n in found}, lengths


def _spread(keys: Sequence[str]) -> list[str]:
  """Keys so that any beginning of them is spread over all."""
  step = max(1, round(len(keys) * 0.618))
  while np.gcd(step, len(keys)) != 1:
    step += 1
  return [keys[i * step % len(keys)] for i in range(len(keys))]


def _features(tfds: Any, examples: Mapping[str, np.ndarray]) -> dict[str, Any]:
  features: dict[str, Any] = {"name": tfds.features.Text(), store.ABSENT: tfds.features.Text()}
  for name, array in examples.items():
    if _is_picture(name, array):
      features[name] = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    else:
      features[name] = tfds.features.Tensor(
        shape=(*(None,) * min(array.ndim, 2), *array.shape[2:]),
        dtype=array.dtype.type,
        encoding=tfds.features.Encoding.BYTES,
      )
  return features


def _record(
  original: store.Original, key: str, examples: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """One example as TFDS takes it; an absent field is listed, and zeros."""
  fields = _read(original, key)
  absent = ",".join(name for name in examples if name not in fields)
  record: dict[str, Any] = {"name": key, store.ABSENT: absent}
  for name, like in examples.items():
    array = fields.get(name, np.zeros((_SIDE,) * min(like.ndim, 2) + like.shape[2:], like.dtype))
    if (array.dtype, array.ndim, array.shape[2:]) != (like.dtype, like.ndim, like.shape[2:]):
      raise ValueError(
        f"Example {key!r}: its {name} is {array.dtype} {list(array.shape)}, that of other examples"
        f" {like.dtype} {list(like.shape)}: a copy needs one type for all."
      )
    record[name] = _packed(name, array)
  return record


def _read(original: store.Original, key: str) -> dict[str, np.ndarray]:
  """Raw fields in the machine's byte order; errors name the example."""
  try:
    fields = original.read(key)
  except (OSError, KeyError, ValueError) as error:
    raise ValueError(f"Example {key!r}: {error}") from error
  native = lambda array: np.ascontiguousarray(array, array.dtype.newbyteorder("="))
  return {name: native(array) for name, array in fields.items()}


def _is_picture(name: str, array: np.ndarray) -> bool:
  return name == "image" and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _packed(name: str, array: np.ndarray) -> Any:
  """PNG of a picture; other arrays as they are."""
  if not _is_picture(name, array):
    return array
  file = io.BytesIO()
  Image.fromarray(array).save(file, "PNG", compress_level=4)
  return file.getvalue()


def _compressed(packed: Any) -> int:
  """Length in the copy, about: ArrayRecord compresses arrays."""
  return len(packed if isinstance(packed, bytes) else zlib.compress(packed.tobytes(), 1))


def _size(number: float) -> str:
  units = ["TB", "GB", "MB", "kB", "B"]
  while number >= 1000 and len(units) > 1:
    number /= 1000
    units.pop()
  return f"{number:.3g} {units[-1]}"
