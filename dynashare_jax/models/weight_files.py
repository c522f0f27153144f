"""Files of weights that PyTorch or safetensors wrote, read without PyTorch.

PyTorch's files are pickles, which can run any program when they are read. The
reader here knows tensors, dictionaries, lists and numbers; it refuses all else
by name, and calls nothing of the file's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
import json
import os
import pathlib
import pickle
from typing import Any, BinaryIO, IO, NamedTuple
import zipfile

import numpy as np

# Names under which programs keep the network's state dict, beside the rest of
# a checkpoint. The first is AdaShare's and DynaShare's.
CONTAINERS = ("mtl-net", "state_dict", "model_state_dict", "model", "net", "network")
# Prefixes of torch's wrappers for several devices and for compilation.
WRAPPERS = ("module.", "_orig_mod.")

_BF16 = "bfloat16"
# Types of numbers, and their names in PyTorch's and in safetensors files, in the same order.
_KINDS = ("<f4", "<f8", "<f2", _BF16, "<i8", "<i4", "<i2", "i1", "u1", "?")
_NAMES = ["Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_TORCH = dict(zip((f"{name}Storage" for name in _NAMES), _KINDS, strict=True))
_SAFETENSORS = dict(
  zip(["F32", "F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"], _KINDS, strict=True)
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_BIG_ENDIAN = "its numbers are big-endian. Load and save it again on a little-endian machine."


class _Refused(ValueError):
  """A refusal of the reader's own, beside what damaged bytes make it raise."""


class _Storage(NamedTuple):
  """Where a tensor's numbers lie: a record of the file."""

  key: str
  kind: str
  numel: int
  start: int


class _Tensor(NamedTuple):
  """A tensor that is not read yet; offset and strides count elements."""

  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads a state dict.

  The format is known by the file's first bytes, not its name: safetensors, or what `torch.save`
  writes (a zip archive since PyTorch 1.6, before a row of pickles). Of a checkpoint the network's
  part is read (see `CONTAINERS`). A prefix of `WRAPPERS` that all names share is cut off.

  Returns:
    Name to array, in the file's order. Half and bfloat16 numbers become float32; all others keep
    their type.

  Raises:
    ValueError: there is no such file; it is truncated, damaged or of another format; it holds more
      than tensors and plain values; or no state dict.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"There is no file of weights at {path}.")
  try:
    with path.open("rb") as file:
      found = _read(file)
  except (_Refused, OSError) as error:
    raise ValueError(f"Cannot read the weights in {path}: {error}") from error
  except Exception as error:  # Damaged bytes can make anything fail.
    damage = f"truncated or damaged ({type(error).__name__}: {error})"
    raise ValueError(f"Cannot read the weights in {path}: the file is {damage}.") from error
  return _unwrapped(found)


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
  """Chooses the format by the first bytes."""
  start = file.read(9)
  file.seek(0)
  if start[:4] == b"PK\x03\x04":
    return _read_zip(file)
  if start[:1] == b"\x80":
    return _read_legacy(file)
  if start[8:9] == b"{":
    return _read_safetensors(file)
  raise _Refused("this is neither a safetensors file nor one that torch.save wrote.")


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Names without the prefixes of wrappers that all of them share."""
  for prefix in WRAPPERS * 2:  # They come in either order.
    if tensors and all(name.startswith(prefix) for name in tensors):
      tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
  return tensors


def _widened(flat: np.ndarray, kind: str) -> np.ndarray:
  """Half precision as float32; `flat` holds bfloat16 as uint16."""
  if kind == _BF16:
    return (flat.astype(np.uint32) << 16).view(np.float32)
  if flat.dtype == np.float16:
    return flat.astype(np.float32)
  return flat.astype(flat.dtype.newbyteorder("="))


def _dtype(kind: str) -> np.dtype[Any]:
  return np.dtype("<u2" if kind == _BF16 else kind)


def _read_safetensors(file: BinaryIO) -> dict[str, np.ndarray]:
  """Reads a header in JSON, then the numbers.

  Source: the format's description: 8 bytes of header length, little-endian.
  """
  length = int.from_bytes(file.read(8), "little")
  text = file.read(length)
  if len(text) != length:
    raise EOFError(f"the header has {len(text)} of {length} bytes")
  header = json.loads(text)
  header.pop("__metadata__", None)
  body = file.read()
  found = {}
  for name, entry in header.items():
    if entry["dtype"] not in _SAFETENSORS:
      raise _Refused(
        f"the tensor {name!r} has the type {entry['dtype']!r}; known are {', '.join(_SAFETENSORS)}."
      )
    kind = _SAFETENSORS[entry["dtype"]]
    first, last = entry["data_offsets"]
    raw = body[first:last]
    if not 0 <= first <= last or len(raw) != last - first:
      raise EOFError(f"the numbers of {name!r} are not all there")
    flat = np.frombuffer(raw, _dtype(kind))
    found[name] = _widened(flat, kind).reshape(entry["shape"])
  return found


class _Unpickler(pickle.Unpickler):
  """Knows tensors as records, plain containers, and nothing more.

  Functions are made anew for every file: no file can leave a trace in them.
  """

  def __init__(self, file: IO[bytes]) -> None:
    super().__init__(file)
    self.kinds: dict[str, str] = {}  # of every record, also of those that are not wanted

  def find_class(self, module: str, name: str) -> Any:
    """Returns a stand-in for what a pickle may name; refuses all else."""
    if module == "torch" and name in _TORCH:
      return lambda: name  # Told apart by a call, see `persistent_load`.
    if module in ("builtins", "__builtin__") and name == "set":
      return set
    if (module, name) == ("collections", "OrderedDict"):
      return OrderedDict
    rebuilt = lambda storage, offset, size, stride, *rest: _Tensor(
      storage, int(offset), tuple(size), tuple(stride)
    )
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
      ("torch", "Size"): lambda size: tuple(size),
      ("torch._utils", "_rebuild_tensor"): rebuilt,
      ("torch._utils", "_rebuild_tensor_v2"): rebuilt,
      ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
    }
    if (module, name) not in allowed:
      raise _Refused(
        f"it holds a {module}.{name}, and only tensors and plain values are"
        " read, because others could run any program. Save the network's"
        " state_dict() alone: torch.save(network.state_dict(), FILE)."
      )
    return allowed[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    """Returns where a tensor's numbers lie in the file."""
    _, kind, key, _, numel, *view = pid
    start = view[0][1] if view and view[0] is not None else 0
    storage = _Storage(str(key), str(kind()), int(numel), int(start))
    self.kinds[storage.key] = storage.kind
    return storage


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
  """Reads what torch.save writes since PyTorch 1.6."""
  with zipfile.ZipFile(file) as archive:
    names = archive.namelist()
    pickles = [n for n in names if n.endswith("data.pkl") and n.count("/") <= 1]
    if len(pickles) != 1:
      raise _Refused("this is a zip archive that torch.save did not write.")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in names:
      raise _Refused(
        "this is a TorchScript program. Save its state_dict():"
        " torch.save(torch.jit.load(FILE).state_dict(), NEW)."
      )
    if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
      raise _Refused(_BIG_ENDIAN)
    with archive.open(root + "data.pkl") as pickled:
      tensors = _state_dict(_Unpickler(pickled).load())
    keys = {tensor.storage.key for tensor in tensors.values()}
    return _arrays(tensors, {key: archive.read(f"{root}data/{key}") for key in keys})


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
  """Reads what torch.save wrote before PyTorch 1.6.

  Five pickles: a magic number, a version, the writer's machine, the object, the
  keys of its records. Then of every record its length and its numbers.
  """
  if _Unpickler(file).load() != _LEGACY_MAGIC:
    raise _Refused("this is a pickle that torch.save did not write.")
  _Unpickler(file).load()
  machine = _Unpickler(file).load()
  if not machine["little_endian"]:
    raise _Refused(_BIG_ENDIAN)
  unpickler = _Unpickler(file)
  tensors = _state_dict(unpickler.load())
  records: dict[str, bytes] = {}
  wanted = {tensor.storage.key for tensor in tensors.values()}
  for key in _Unpickler(file).load():
    count = int.from_bytes(file.read(8), "little")
    size = count * _dtype(_TORCH[unpickler.kinds[str(key)]]).itemsize
    if str(key) in wanted:
      records[str(key)] = file.read(size)
    else:
      file.seek(size, os.SEEK_CUR)
  return _arrays(tensors, records)


def _state_dict(found: Any) -> dict[str, _Tensor]:
  """The network's tensors in whatever a file holds."""
  if not isinstance(found, Mapping):
    raise _Refused(f"it holds a {type(found).__name__}, not a state dict.")
  for name in CONTAINERS:
    if isinstance(found.get(name), Mapping):
      return _state_dict(found[name])
  tensors = {str(k): v for k, v in found.items() if isinstance(v, _Tensor)}
  if not tensors:
    keys = ", ".join(repr(k) for k in list(found)[:8])
    raise _Refused(
      f"it holds no state dict: its entries are {keys or 'none'}. Looked for"
      f" tensors there and under {', '.join(CONTAINERS)}."
    )
  nested = [k for k, v in found.items() if isinstance(v, Mapping)]
  if nested:
    raise _Refused(
      f"beside tensors it holds dictionaries ({nested[0]!r}):"
      " save the network's state_dict() alone."
    )
  return tensors


def _arrays(tensors: dict[str, _Tensor], records: dict[str, bytes]) -> dict[str, np.ndarray]:
  """The tensors' numbers, cut out of their records."""
  found = {}
  for name, (storage, offset, size, stride) in tensors.items():
    kind = _TORCH[storage.kind]
    dtype = _dtype(kind)
    raw = records[storage.key]
    if len(raw) < dtype.itemsize * storage.numel:
      raise EOFError(f"the numbers of {name!r} are not all there")
    # Refuses what would lie outside of `raw`.
    start = (storage.start + offset) * dtype.itemsize
    steps = tuple(step * dtype.itemsize for step in stride)
    found[name] = _widened(np.ndarray(size, dtype, raw, start, steps), kind)
  return found
