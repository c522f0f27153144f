"""Reads and runs an exported model.

This file needs jax, NumPy and the standard library alone, nothing else of the package, so that it
can be copied beside an artefact:

  model = load("runs/rooms/dynashare-0/export") predictions = model(images)  # task -> array

The file of an artefact is

  mark (16 bytes) | version (uint32) | length of the index (uint64) | SHA-256 of all other bytes |
  index (JSON) | sections

little endian. The index holds the manifest, and where the weights and programs lie: offsets from
the end of the index. Programs are StableHLO as `jax.export` serialises it; they share the weights,
which are arguments to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import pathlib
import struct
from typing import Any, NamedTuple

import jax
from jax import export as jax_export
import numpy as np

FILE = "model.stablehlo"
MANIFEST = "manifest.json"
VERSION = 1
_MARK = b"DYNASHARE-MODEL\n"
_HEAD = struct.Struct(f"<{len(_MARK)}sIQ32s")
_ALIGN = 64

Arrays = dict[str, Any]
Program = Callable[[Arrays, Arrays], tuple[Arrays, Any]]


class Output(NamedTuple):
  """Predictions of a batch.

  Attributes:
    predictions: for every task an array, leading axis B, as the manifest describes it.
    executed: `[T, B, L]` of 0 and 1, which blocks were executed for which task.
  """

  predictions: dict[str, jax.Array]
  executed: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class Artefact:
  """A loaded model; call it with a batch.

  Attributes:
    manifest: what `manifest.json` says: tasks, inputs, metrics, source.
    weights: name -> array, on the device.
    programs: `(smallest batch, program)`, ascending.
    prepare: turns inputs of another dtype into those that programs read.
  """

  manifest: dict[str, Any]
  weights: Arrays
  programs: tuple[tuple[int, Program], ...]
  prepare: Callable[[Arrays], Arrays] | None

  @property
  def tasks(self) -> tuple[str, ...]:
    """Names of the tasks, in order."""
    return tuple(task["name"] for task in self.manifest["tasks"])

  def __repr__(self) -> str:
    """Names tasks and inputs, where all weights would be pages."""
    arrays = self.manifest["inputs"]["arrays"].items()
    shapes = {name: ", ".join(["B", *map(str, array["shape"])]) for name, array in arrays}
    inputs = ", ".join(f"{name} [{shape}]" for name, shape in shapes.items())
    return f"Artefact: {', '.join(self.tasks)}; inputs {inputs}"

  def __call__(self, inputs: Any) -> dict[str, jax.Array]:
    """Returns the predictions of every task; see `run`."""
    return self.run(inputs).predictions

  def run(self, inputs: Any) -> Output:
    """Runs a batch of any size; a size is compiled when it first comes.

    Args:
      inputs: the array that the manifest names, leading axis B, or a dict of the arrays where it
        names several. Images are uint8 in 0..255 or float32 in 0..1.

    Raises:
      ValueError: a wrong name, shape, dtype or code.
    """
    spec = self.manifest["inputs"]
    arrays = _named(inputs, spec["arrays"])
    for name, columns in spec.get("codes", {}).items():
      _check_codes(arrays[name], columns)
    return Output(*self._call(self.weights, arrays))

  @functools.cached_property
  def _call(self) -> Program:
    """Checks, chooses and runs, all under `jax.jit`: a shape is checked once, when compiled."""

    def call(weights: Arrays, arrays: Arrays) -> tuple[Arrays, Any]:
      native = self.manifest["inputs"]["arrays"]
      batch = _check(arrays, native)
      if any(a.dtype.name != native[n]["dtypes"][0] for n, a in arrays.items()):
        assert self.prepare is not None
        arrays = self.prepare(arrays)
      fitting = [run for least, run in self.programs if least <= batch]
      return fitting[-1](weights, arrays)

    return jax.jit(call)


def load(path: str | pathlib.Path) -> Artefact:
  """Reads an artefact and places its weights on the default device.

  Args:
    path: the folder that `dynashare_jax.export` wrote, or its model file.

  Raises:
    ValueError: there is no artefact, the file is damaged, foreign or of
      another format version, or it was not exported for this platform.
  """
  file = pathlib.Path(path)
  file = file / FILE if file.is_dir() else file
  if not file.is_file():
    raise ValueError(
      f"There is no artefact at {path}: {file.name} is missing. Write one with"
      " python -m dynashare_jax export --workdir=RUN."
    )
  index, sections = unpack(file.read_bytes(), str(file))
  try:
    return _read(index, sections, file)
  except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
    if str(error).startswith(str(file)):
      raise
    raise ValueError(
      f"{file} holds no model that this program reads ({type(error).__name__}: {error}). Export it"
      " again."
    ) from error


def _read(index: dict[str, Any], sections: np.ndarray, file: pathlib.Path) -> Artefact:
  """The model of an index and the sections that it names."""
  manifest = index["manifest"]
  here = platform()
  if here not in manifest["platforms"]:
    raise ValueError(
      f"{file} was exported for {', '.join(manifest['platforms'])}, but this"
      f" process runs on {here}. Export it again with --platforms={here}."
    )
  weights = {
    name: sections[at : at + size].view(jax.numpy.dtype(dtype)).reshape(shape)
    for name, dtype, shape, at, size in index["weights"]
  }
  programs: dict[str, list[tuple[int, Any]]] = {"run": [], "prepare": []}
  for entry in sorted(index["programs"], key=lambda entry: int(entry["smallest"])):
    if here in entry["platforms"]:
      code = sections[entry["at"] : entry["at"] + entry["size"]]
      call = _deserialise(code, file, manifest["jax"])
      programs[entry["role"]].append((int(entry["smallest"]), call))
  if not programs["run"] or not manifest["inputs"]["arrays"] or not manifest["tasks"]:
    raise ValueError("it has no program, no input or no task")
  return Artefact(
    manifest,
    jax.device_put(weights, may_alias=False),  # aligned: quicker
    tuple(programs["run"]),
    programs["prepare"][0][1] if programs["prepare"] else None,
  )


def platform() -> str:
  """Returns the default device's platform, by the names of `jax.export`."""
  device = jax.devices()[0]
  if device.platform != "gpu":
    return str(device.platform)
  return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def pack(
  manifest: Mapping[str, Any],
  weights: Mapping[str, np.ndarray],
  programs: Sequence[tuple[Mapping[str, Any], bytes]],
) -> bytes:
  """Packs an artefact's file from plain data, weights by name, and programs.

  A program is its entry of the index (`role`, `platforms`, `smallest`), and what
  `jax.export` serialised.
  """
  body = bytearray()

  def add(data: bytes) -> tuple[int, int]:
    body.extend(b"\0" * (-len(body) % _ALIGN))
    body.extend(data)
    return len(body) - len(data), len(data)

  listed = [
    (name, array.dtype.name, array.shape, *add(array.tobytes())) for name, array in weights.items()
  ]
  entries = []
  for entry, data in programs:
    at, size = add(data)
    entries.append({**entry, "at": at, "size": size})
  index = json.dumps({"manifest": manifest, "weights": listed, "programs": entries}).encode()
  index += b" " * (-(len(index) + _HEAD.size) % _ALIGN)
  length = struct.pack("<IQ", VERSION, len(index))
  digest = hashlib.sha256(length + index + body).digest()
  return _HEAD.pack(_MARK, VERSION, len(index), digest) + index + bytes(body)


def unpack(data: bytes, where: str) -> tuple[dict[str, Any], np.ndarray]:
  """Reads a file that `pack` made, called `where` in messages, to index and sections (uint8).

  Raises:
    ValueError: the bytes are damaged, foreign or of another version.
  """
  if data[: len(_MARK)] != _MARK[: len(data)] or not data:
    raise ValueError(f"{where} is no artefact of dynashare_jax: it does not begin as one.")
  damaged = ValueError(
    f"{where} is damaged: its {len(data)} bytes do not match their checksum."
    " Copy or export it again."
  )
  if len(data) < _HEAD.size:
    raise damaged
  _, version, length, digest = _HEAD.unpack_from(data)
  if version != VERSION:
    raise ValueError(
      f"{where} has format version {version}; this program reads version"
      f" {VERSION}. Export it again, or use the dynashare_jax that wrote it."
    )
  rest = hashlib.sha256(struct.pack("<IQ", version, length))
  rest.update(memoryview(data)[_HEAD.size :])
  if rest.digest() != digest:
    raise damaged
  end = _HEAD.size + length
  try:
    index: dict[str, Any] = json.loads(data[_HEAD.size : end])
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"{where} has no index that can be read ({error}). Export it again."
    ) from error
  return index, np.frombuffer(data, np.uint8, offset=end)


def _deserialise(code: np.ndarray, file: pathlib.Path, wrote: str) -> Any:
  """A program that can be called and traced."""
  try:
    return jax_export.deserialize(bytearray(code.tobytes())).call
  except ImportError as error:
    raise ValueError(f"{file} cannot be read: {error}.") from error
  except Exception as error:  # jax raises whatever its parser meets
    raise ValueError(
      f"{file} holds a program that jax {jax.__version__} cannot read; jax"
      f" {wrote} wrote it ({type(error).__name__}: {error}). Export it again."
    ) from error


def _named(inputs: Any, wanted: Mapping[str, Any]) -> Arrays:
  """Inputs as a dict of arrays; refuses what `jax.jit` would convert."""
  if not isinstance(inputs, dict) and len(wanted) == 1:
    inputs = {next(iter(wanted)): inputs}
  if not isinstance(inputs, dict) or inputs.keys() != wanted.keys():
    got = list(inputs) if isinstance(inputs, dict) else type(inputs).__name__
    raise ValueError(f"Wrong inputs: {got}; this model takes a dict of {list(wanted)}.")
  arrays = dict(inputs)
  for name, array in inputs.items():
    if not hasattr(array, "aval"):  # no array of jax; quicker than isinstance
      arrays[name] = np.asarray(array)
      _check_dtype(name, arrays[name], wanted[name])
      if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
        raise ValueError(f"Wrong input: {name} has numbers that are not finite.")
  return arrays


def _check_dtype(name: str, array: Any, wanted: Mapping[str, Any]) -> None:
  if array.dtype.name not in wanted["dtypes"]:
    raise ValueError(
      f"Wrong input dtype: {name} is {array.dtype.name}; this model takes"
      f" {' or '.join(wanted['dtypes'])}."
    )


def _check(arrays: Arrays, wanted: Mapping[str, Any]) -> int:
  """Refuses what the programs cannot read; returns the batch size."""
  for name, spec in wanted.items():
    shape = tuple(arrays[name].shape)
    if not shape or shape[1:] != tuple(spec["shape"]):
      full = ", ".join(map(str, ["batch", *spec["shape"]]))
      raise ValueError(f"Wrong input shape: {name} is {shape}; this model takes ({full}).")
    _check_dtype(name, arrays[name], spec)
  sizes = {name: arrays[name].shape[0] for name in wanted}
  if len(set(sizes.values())) != 1 or 0 in sizes.values():
    raise ValueError(
      f"Wrong batch: {sizes}; give at least one example, and as many in every array."
    )
  return int(next(iter(sizes.values())))


def _check_codes(array: Any, columns: Sequence[Any]) -> None:
  """Refuses codes that would read another column's vector."""
  codes = np.asarray(array)
  if codes.ndim != 2 or codes.shape[1] != len(columns):
    return  # `_check` says so
  most = np.asarray([column["codes"] for column in columns])
  wrong = np.argwhere((codes < 0) | (codes >= most[None]))
  if len(wrong):
    row, column = map(int, wrong[0])
    raise ValueError(
      f"Wrong code: row {row} has {codes[row, column]} in the column"
      f" {columns[column]['name']!r}, whose codes are 0 to {most[column] - 1}."
    )
