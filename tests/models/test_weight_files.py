"""Files of weights: every format and type, damage, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any
import zipfile

import numpy as np
import pytest

from dynashare_jax.models import weight_files

FORMATS = ("zip", "legacy")


def _torch() -> Any:
  return pytest.importorskip("torch", reason="PyTorch writes the file, and is not installed")


def _save(thing: Any, path: pathlib.Path, how: str = "zip") -> pathlib.Path:
  _torch().save(thing, path, _use_new_zipfile_serialization=how == "zip")
  return path


def _safetensors(path: pathlib.Path, header: Any, body: bytes) -> pathlib.Path:
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + body)
  return path


def _entry(dtype: str, shape: list[int], first: int, last: int) -> Any:
  return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_safetensors_by_hand(tmp_path):
  body = (
    np.asarray([[1.5, -2.0]], "<f4").tobytes()
    + np.asarray([0x3F80, 0xC049], "<u2").tobytes()  # 1.0 and -3.140625
    + np.asarray([0.5, 65504], "<f2").tobytes()
    + np.asarray([-7], "<i8").tobytes()
    + b"\x01"
  )
  path = _safetensors(
    tmp_path / "a.safetensors",
    {
      "__metadata__": {"format": "pt"},
      "wide": _entry("F32", [1, 2], 0, 8),
      "brain": _entry("BF16", [2], 8, 12),
      "half": _entry("F16", [2, 1], 12, 16),
      "count": _entry("I64", [], 16, 24),
      "flag": _entry("BOOL", [1], 24, 25),
    },
    body,
  )
  found = weight_files.read(path)
  assert list(found) == ["wide", "brain", "half", "count", "flag"]
  assert found["wide"].tolist() == [[1.5, -2.0]]
  assert found["brain"].tolist() == [1.0, -3.140625]
  assert found["half"].tolist() == [[0.5], [65504.0]]
  assert found["count"].shape == () and found["count"] == -7
  assert found["flag"].tolist() == [True]
  assert [a.dtype.name for a in found.values()] == [
    "float32",
    "float32",
    "float32",
    "int64",
    "bool",
  ]


@pytest.mark.parametrize("how", FORMATS)
def test_every_type_and_every_view(tmp_path, how):
  torch = _torch()
  whole = torch.arange(24.0).reshape(4, 6)
  cases: dict[str, Any] = {
    str(t): torch.tensor([[1, 0], [0, 1]], dtype=t)
    for t in (
      torch.float64,
      torch.float16,
      torch.bfloat16,
      torch.int64,
      torch.int32,
      torch.int16,
      torch.int8,
      torch.uint8,
      torch.bool,
    )
  }
  cases |= {
    "whole": whole,
    "turned": whole.T,
    "part": whole[1:3, 2:5],
    "steps": whole[::2, ::3],
    "same": whole[0],
    "number": torch.tensor(3),
    "spread": torch.tensor([2.0]).expand(3),
    "empty": torch.zeros(0, 3),
    "brain": torch.tensor([3.140625, -1e30], dtype=torch.bfloat16)[1:],
    "trained": torch.nn.Parameter(torch.ones(2, 2) / 3),
  }
  found = weight_files.read(_save(cases, tmp_path / "a.pth", how))
  assert list(found) == list(cases)
  for name, tensor in cases.items():
    right = tensor.detach()
    if right.dtype in (torch.float16, torch.bfloat16):
      right = right.float()
    assert found[name].dtype == right.numpy().dtype, name
    assert found[name].shape == tuple(right.shape)
    np.testing.assert_array_equal(found[name], right.numpy())
    found[name][...] = 0  # Writable, and nothing else changes with it.


@pytest.mark.parametrize("how", FORMATS)
def test_checkpoints_of_whole_trainings(tmp_path, how):
  torch = _torch()
  net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
  adam = torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.5, 0.999))
  net(torch.ones(4, 3)).pow(3).sum().backward()
  adam.step()
  rest = {
    "weights": adam.state_dict(),
    "iter": 400,
    "note": "x",
    "best": (1.5, [None, True], {"a", "b"}),
    "shape": net[0].weight.shape,
  }
  wanted = {k: v.numpy() for k, v in net.state_dict().items()}
  wrapped = OrderedDict(("module." + k, v) for k, v in net.state_dict().items())
  both = {"_orig_mod." + k: v for k, v in wrapped.items()}
  for index, thing in enumerate(
    (
      {"mtl-net": net.state_dict()} | rest,
      rest | {"state_dict": wrapped},
      {"model": {"state_dict": both}},
      wrapped,
      net.state_dict(),
    )
  ):
    found = weight_files.read(_save(thing, tmp_path / f"{index}.tar", how))
    assert list(found) == list(wanted)
    for name, right in wanted.items():
      np.testing.assert_array_equal(found[name], right)


def test_torch_is_not_needed(tmp_path):
  path = _save({"a": _torch().ones(2)}, tmp_path / "a.pth")
  code = (
    "import sys; sys.modules['torch'] = None\n"
    "from dynashare_jax.models import weight_files\n"
    f"print(weight_files.read({str(path)!r})['a'].tolist())"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=pathlib.Path(weight_files.__file__).parents[2],
  )
  assert done.stdout.strip() == "[1.0, 1.0]"


class _Evil:
  def __init__(self, target: pathlib.Path) -> None:
    self.target = target

  def __reduce__(self) -> Any:
    return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", FORMATS)
def test_a_program_in_the_file_is_not_run(tmp_path, how):
  made = tmp_path / "made"
  thing = {"a": _torch().ones(2), "b": _Evil(made)}
  path = _save(thing, tmp_path / "a.pth", how)
  with pytest.raises(ValueError, match=r"holds a \w+\.mkdir, and only tensors"):
    weight_files.read(path)
  assert not made.exists()
  bare = tmp_path / "bare.pkl"
  bare.write_bytes(pickle.dumps(_Evil(made), protocol=2))
  with pytest.raises(ValueError, match=r"holds a \w+\.mkdir"):
    weight_files.read(bare)
  assert not made.exists()


@pytest.mark.parametrize("how", FORMATS)
def test_a_whole_network_is_refused(tmp_path, how):
  path = _save(_torch().nn.Linear(2, 2), tmp_path / "a.pth", how)
  with pytest.raises(ValueError) as error:
    weight_files.read(path)
  assert str(error.value) == (
    f"Cannot read the weights in {path}: it holds a"
    " torch.nn.modules.linear.Linear, and only tensors and plain values are"
    " read, because others could run any program. Save the network's"
    " state_dict() alone: torch.save(network.state_dict(), FILE)."
  )


class _Record:
  """What `_rebuild_tensor_v2` gets, pickled as a tensor is."""

  def __init__(self, *args: Any) -> None:
    self.args = args

  def __reduce__(self) -> Any:
    rest = (False, OrderedDict())
    return _torch()._utils._rebuild_tensor_v2, (*self.args, *rest)


def _legacy(
  path: pathlib.Path, tensor: _Record, numbers: Any, view: Any = None, little: bool = True
) -> pathlib.Path:
  """An old file with one record of floats, byte by byte."""
  torch = _torch()

  class Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
      if isinstance(thing, str) and thing == "record":
        return ("storage", torch.FloatStorage, "7", "cuda:0", len(numbers), view)
      return None

  file = io.BytesIO()
  for thing in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little}):
    pickle.dump(thing, file, protocol=2)
  Pickler(file, protocol=2).dump({"a": tensor})
  pickle.dump(["7"], file, protocol=2)
  file.write(len(numbers).to_bytes(8, "little"))
  file.write(np.asarray(numbers, "<f4").tobytes())
  path.write_bytes(file.getvalue())
  return path


def test_old_files_with_views_of_records(tmp_path):
  record = _Record("record", 1, (2, 2), (1, 2))
  path = _legacy(tmp_path / "a.pth", record, range(8))
  assert weight_files.read(path)["a"].tolist() == [[1, 3], [2, 4]]
  path = _legacy(tmp_path / "b.pth", record, range(8), ("v", 3, 5))
  assert weight_files.read(path)["a"].tolist() == [[4, 6], [5, 7]]


@pytest.mark.parametrize(
  "size, stride, offset",
  [((9,), (1,), 0), ((2, 2), (1, 7), 0), ((2,), (1,), 7), ((2,), (-1,), 0), ((1,), (1,), -3)],
)
def test_tensors_outside_of_their_record_are_refused(tmp_path, size, stride, offset):
  record = _Record("record", offset, size, stride)
  path = _legacy(tmp_path / "a.pth", record, range(8))
  with pytest.raises(ValueError, match="truncated or damaged"):
    weight_files.read(path)


def test_big_endian_files_are_refused(tmp_path):
  path = _legacy(tmp_path / "a.pth", _Record("record", 0, (1,), (1,)), [1.0], little=False)
  with pytest.raises(ValueError, match="big-endian"):
    weight_files.read(path)


@pytest.mark.parametrize(
  "member, text", [("byteorder", "big-endian"), ("constants.pkl", "TorchScript")]
)
def test_archives_of_another_kind_are_refused(tmp_path, member, text):
  path = _save({"a": _torch().ones(2)}, tmp_path / "a.pth")
  other = tmp_path / "b.pth"
  with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
    root = old.namelist()[0].split("/")[0]
    for name in old.namelist():
      if name != f"{root}/{member}":
        new.writestr(name, old.read(name))
    new.writestr(f"{root}/{member}", b"big")
  with pytest.raises(ValueError, match=text):
    weight_files.read(other)


@pytest.mark.parametrize("how", (*FORMATS, "safetensors"))
def test_truncated_anywhere(tmp_path, how):
  path = tmp_path / "whole"
  if how == "safetensors":
    _safetensors(path, {"a": _entry("F32", [4], 0, 16)}, bytes(16))
  else:
    _save({"a": _torch().ones(40), "b": _torch().ones(3)}, path, how)
  whole = path.read_bytes()
  assert weight_files.read(path)
  short = tmp_path / "short"
  for length in sorted({*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}):
    short.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=f"Cannot read the weights in {short}"):
      weight_files.read(short)


def test_a_changed_byte_is_noticed(tmp_path):
  path = _save({"a": _torch().full((64,), 2.0)}, tmp_path / "a.pth")
  whole = path.read_bytes()
  place = whole.index(b"\x00\x00\x00\x40" * 8) + 19
  path.write_bytes(whole[:place] + b"\x41" + whole[place + 1 :])
  with pytest.raises(ValueError, match="truncated or damaged .*CRC"):
    weight_files.read(path)


@pytest.mark.parametrize(
  "header, text",
  [
    ({"a": _entry("F8_E4M3", [4], 0, 4)}, "'a' has the type 'F8_E4M3'"),
    ({"a": _entry("F32", [4], 0, 16)}, "the numbers of 'a' are not all there"),
    ({"a": _entry("F32", [1], -4, 4)}, "not all there"),
    ({"a": _entry("F32", [3], 0, 8)}, "truncated or damaged"),
    ({"a": {"shape": [2]}}, "truncated or damaged"),
  ],
)
def test_damaged_safetensors(tmp_path, header, text):
  path = _safetensors(tmp_path / "a", header, bytes(8))
  with pytest.raises(ValueError, match=text):
    weight_files.read(path)


def test_what_holds_no_weights(tmp_path):
  torch = _torch()
  with pytest.raises(ValueError, match="There is no file of weights at"):
    weight_files.read(tmp_path / "none.pth")
  with pytest.raises(ValueError, match="There is no file of weights at"):
    weight_files.read(tmp_path)
  other = tmp_path / "other"
  other.write_bytes(b"\x89HDF\r\n\x1a\n and more")
  with pytest.raises(ValueError, match="neither a safetensors file nor one"):
    weight_files.read(other)
  np.savez(tmp_path / "numbers.npz", a=np.ones(3))
  with pytest.raises(ValueError, match="a zip archive that torch.save did not"):
    weight_files.read(tmp_path / "numbers.npz")
  other.write_bytes(pickle.dumps({"a": 1}, protocol=2))
  with pytest.raises(ValueError, match="a pickle that torch.save did not"):
    weight_files.read(other)
  for thing, text in (
    ([torch.ones(2)], "it holds a list, not a state dict"),
    ({"epoch": 3, "net": {"lr": 0.1}}, "no state dict: its entries are 'lr'"),
    (
      {"backbone": {"a": torch.ones(2)}, "epoch": 3},
      "no state dict: its entries are 'backbone', 'epoch'",
    ),
    ({"a": torch.ones(2), "opt": {"lr": 1}}, "beside tensors it holds dictionaries .'opt'."),
  ):
    with pytest.raises(ValueError, match=text):
      weight_files.read(_save(thing, tmp_path / "thing.pth"))
