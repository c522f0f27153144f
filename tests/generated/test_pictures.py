"""Pictures and labels of any kind, whole or damaged: read as they were written, or refused."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import struct
import tempfile
from typing import Any
import zlib

from generated import cases
import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

from dynashare_jax.data.folder import dataset as folder

# As a user's Python has it: what Pillow only warns of is read all the same.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
CONFIG = ml_collections.ConfigDict({**folder.defaults(), "augment": False})
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".TIFF")
# What an orientation tag does to the rows and columns of the stored picture.
UPRIGHT = {
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: np.swapaxes(a, 0, 1),
  6: lambda a: np.swapaxes(a, 0, 1)[:, ::-1],
  7: lambda a: np.swapaxes(a, 0, 1)[::-1, ::-1],
  8: lambda a: np.swapaxes(a, 0, 1)[::-1],
}
# Bits and colour type of a PNG: grey, colours, palette, grey and alpha, colours and alpha.
PNGS = (
  *((1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)),
  *((1, 3), (2, 3), (4, 3), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6)),
)
# Mode and ending: what Pillow writes of it.
OTHERS = (
  *(("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG")),
  *((mode, "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B")),
  *(("I", "TIFF"), ("F", "TIFF"), ("1", "BMP"), ("L", "BMP"), ("P", "BMP"), ("RGB", "BMP")),
  *(("RGBA", "BMP"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("P", "GIF"), ("L", "GIF")),
  *(("1", "PPM"), ("L", "PPM"), ("RGB", "PPM"), ("I;16", "PPM")),
)
TYPES = (
  *("u1", "<u2", ">u2", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"),
  *("i1", "<i2", "<i4", ">i8", "<u4", ">u8", "?", "<c8", "<U3"),
)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclasses.dataclass
class File:
  """A file, and what was written into it.

  Attributes:
    ending: of its name.
    content: its bytes.
    stored: the numbers `[H, W]` or `[H, W, C]` as they are stored, upright.
    seen: red, green and blue in 0..1; None: nobody can tell, so that it must be refused.
    label: what is read as a label; None: must be refused.
    tolerance: of `seen`, for what is lossy.
    sums: whether the file says itself whether it is whole.
    about: for messages.
  """

  ending: str
  content: bytes
  stored: np.ndarray
  seen: np.ndarray | None
  label: np.ndarray | None
  tolerance: float = 1e-6
  sums: bool = False
  about: Any = ""


def png(array, bits, colour, palette=None, orientation=None):
  """Writes a PNG of whole numbers `[H, W, C]`, bit by bit."""
  height, width, channels = array.shape
  assert channels == _CHANNELS[colour]
  rows = []
  for row in array.reshape(height, -1).tolist():
    line = "".join(f"{value:0{bits}b}" for value in row)
    line += "0" * (-len(line) % 8)
    rows.append(bytes([0, *(int(line[i : i + 8], 2) for i in range(0, len(line), 8))]))
  parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
  if palette is not None:
    parts.append((b"PLTE", bytes(np.asarray(palette, np.uint8).ravel().tolist())))
  if orientation is not None:
    tags = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 274, 3, 1, orientation, 0)
    parts.append((b"eXIf", tags))
  parts += [(b"IDAT", zlib.compress(b"".join(rows), array.sum() % 2)), (b"IEND", b"")]
  sums = (struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
  chunks = [
    struct.pack(">I", len(data)) + name + data + check
    for (name, data), check in zip(parts, sums, strict=True)
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _grey(array):
  return np.repeat(array.reshape(*array.shape[:2], 1), 3, -1)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def pngs(draw):
  """PNG files of every kind."""
  bits, colour = draw(st.sampled_from(PNGS))
  rng, size = np.random.default_rng(draw(st.integers(0, 999))), draw(SIZES)
  array = rng.integers(0, 2**bits, (*size, _CHANNELS[colour]))
  tag = draw(st.one_of(st.none(), st.integers(0, 9)))
  palette = rng.integers(0, 256, (2**bits, 3)) if colour == 3 else None
  content = png(array, bits, colour, palette, tag)
  array = UPRIGHT.get(tag, lambda a: a)(array)
  known = bits < 16 or colour == 0
  seen = array[..., :1] if colour in (0, 4) else array[..., :3]
  seen = _grey(seen) if seen.shape[2] == 1 else seen
  seen = palette[array[..., 0]] / 255 if colour == 3 else seen / (2**bits - 1)
  label = array[..., :3] if colour in (2, 6) else array[..., 0]
  label = label.astype(np.uint8 if bits <= 8 else np.uint16)
  about = f"PNG of {bits} bits, colour {colour}, orientation {tag}"
  ending = draw(st.sampled_from(ENDINGS))
  return File(
    *(ending, content, array, seen if known else None, label if known else None),
    **{"sums": True, "about": about},
  )


@st.composite
def others(draw):
  """Files of other kinds than PNG, which Pillow writes of an array."""
  mode, kind = draw(st.sampled_from(OTHERS))
  rng = np.random.default_rng(draw(st.integers(0, 999)))
  size = draw(SIZES)
  options, tolerance = {}, 1e-6
  if kind == "JPEG":  # smooth, so that little is lost
    size = 16, 24
    ramp = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 5)
    start = rng.integers(0, 50, {"L": 1, "RGB": 3, "CMYK": 4}[mode])
    array = ramp[..., None] + start
    options, tolerance = {"quality": 100, "subsampling": 0}, 0.03
  elif mode == "F":
    high = draw(st.sampled_from((1.0, 1.0, 255.0)))
    array = (rng.random((*size, 1)) * high).astype(np.float32)
    if draw(st.integers(0, 4)) == 0:
      array[0, 0] = draw(st.sampled_from((np.nan, np.inf, -0.5)))
  else:
    channels = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 1)
    top = {"1": 2, "I;16": 2**16, "I;16B": 2**16, "I": 2**31 - 1}.get(mode, 256)
    array = rng.integers(-top if mode == "I" else 0, top, (*size, channels))
  palette = rng.integers(0, 256, (256, 3)) if mode == "P" else None
  picture = _picture(mode, array, palette)
  if kind == "TIFF" and draw(st.booleans()):
    options["compression"] = draw(st.sampled_from(("tiff_lzw", "tiff_adobe_deflate", "packbits")))
  if kind == "WEBP":
    options = {"lossless": True, "exact": True}
  tags = st.integers(1, 8) if kind == "TIFF" else st.integers(0, 9)
  tag = draw(st.one_of(st.none(), tags)) if kind in ("JPEG", "TIFF", "WEBP") else None
  if tag is not None and kind == "TIFF":
    options["tiffinfo"] = {274: tag}
  elif tag is not None:
    exif = Image.Exif()
    exif[274] = tag
    options["exif"] = exif
  out = io.BytesIO()
  picture.save(out, kind, **options)
  array = UPRIGHT.get(tag, lambda a: a)(array)
  seen = _seen(mode, array, palette)
  label = array[..., :3] if mode in ("RGB", "RGBA") else array[..., 0]
  codes = {"I;16": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}
  label = label.astype(codes.get(mode, np.uint8))
  label = None if mode == "CMYK" or kind not in ("TIFF",) else label
  if mode == "CMYK":
    tolerance = max(tolerance, 0.02)
  about = f"{kind} of mode {mode}, {options}"
  return File(
    draw(st.sampled_from(ENDINGS)), out.getvalue(), array, seen, label, tolerance, about=about
  )


def _picture(mode, array, palette):
  """A Pillow picture of numbers `[H, W, C]`."""
  size = array.shape[1::-1]
  if mode == "1":
    return Image.fromarray((array[..., 0] * 255).astype(np.uint8)).convert("1")
  if mode == "F":
    return Image.fromarray(array[..., 0])
  if mode in ("I;16", "I;16B", "I"):
    code = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    return Image.frombytes(mode, size, array.astype(code).tobytes())
  picture = Image.frombytes(mode, size, array.astype(np.uint8).tobytes())
  if palette is not None:
    picture.putpalette(palette.astype(np.uint8).tobytes())
  return picture


def _seen(mode, array, palette):
  """What the page says that a network sees; None where it is refused."""
  if mode == "P":
    return palette[array[..., 0]] / 255
  if mode == "I":
    return None
  if mode == "F":
    fits = bool(((array >= 0) & (array <= 1)).all())
    return _grey(array) if fits else None
  if mode == "CMYK":
    return (1 - array[..., :3] / 255) * (1 - array[..., 3:] / 255)
  top = {"1": 1, "I;16": 65535, "I;16B": 65535}.get(mode, 255)
  return (
    _grey(array[..., :1]) / top
    if mode in ("1", "L", "LA", "I;16", "I;16B")
    else (array[..., :3] / top)
  )


@st.composite
def arrays(draw):
  """Files of NumPy, of many types and shapes."""
  kind = np.dtype(draw(st.sampled_from(TYPES)))
  rng = np.random.default_rng(draw(st.integers(0, 999)))
  height, width = draw(st.integers(0, 5)), draw(st.integers(1, 5))
  shape = draw(
    st.sampled_from(
      [(height, width)] * 3
      + [(height, width, 3)] * 4
      + [(height, width, 1), (height, width, 4), (3, height, width), (width,), ()]
      + [(1, height, width, 3)]
    )
  )
  if kind.kind in "fc":
    high = draw(st.sampled_from((1, 1, 1, 255)))
    array = (rng.random(shape) * high).astype(kind)
    if array.size and draw(st.integers(0, 4)) == 0:
      array.ravel()[0] = draw(st.sampled_from((np.nan, np.inf, -0.5)))
  elif kind.kind in "bU":
    array = (rng.random(shape) < 0.5).astype(int)
  else:
    limits = np.iinfo(kind)
    high = draw(st.sampled_from((2, 200, limits.max)))
    low = draw(st.sampled_from((0, 0, max(limits.min, -high))))
    array = rng.integers(
      low, min(high, limits.max), shape, endpoint=True, dtype=kind.newbyteorder("=")
    ).astype(kind)
  array = np.asarray(array, kind)
  if array.ndim > 1 and draw(st.booleans()):
    array = np.asfortranarray(array)
  out = io.BytesIO()
  if packed := draw(st.integers(0, 9)) == 0:
    np.savez(out, array)
  else:
    np.save(out, array)
  seen = _seen_array(array)
  label = array if array.ndim in (2, 3) and array.size and array.dtype.kind in "biuf" else None
  return File(
    draw(st.sampled_from((".npy", ".npy", ".npy", ".npy", ".png", ".NPY"))),
    out.getvalue(),
    array,
    None if packed else seen,
    None if packed else label,
    about=f"npy of {kind} {shape}",
  )


def _seen_array(array):
  array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
  array = _grey(array) if array.ndim == 2 else array
  if array.ndim != 3 or array.shape[2] != 3 or not array.size:
    return None
  if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
    return array / (2.0 ** (8 * array.dtype.itemsize) - 1)
  if array.dtype.kind == "f" and ((array >= 0) & (array <= 1)).all():
    return array.astype(np.float64)
  return None


def _dataset(root, file, task, label=None):
  """A data set whose training picture is `file`, or has it as its label."""
  (root / "images").mkdir()
  (root / "labels").mkdir()
  for name in "abc":
    np.save(root / "images" / f"{name}.npy", np.zeros((2, 2, 3), np.uint8))
    np.save(root / "labels" / f"{name}.npy", np.zeros((2, 2), np.uint8))
  (root / "images" / "a.npy").unlink()
  (root / "labels" / "a.npy").unlink()
  (root / "images" / f"a{file.ending}").write_bytes(file.content)
  if label is not None:
    (root / "labels" / f"a{label.ending}").write_bytes(label.content)
  splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
  description = {"pictures": "images", "tasks": {"t": task}, "splits": splits}
  (root / "dataset.yaml").write_text(yaml.safe_dump(description))
  return folder.build(CONFIG, SWITCHES, str(root), 0)


REGRESSION = {"kind": "regression", "labels": "labels"}


def _read(file, task=REGRESSION, label=None):
  """The training example, or why there is none."""
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    return cases.attempt(
      lambda: _dataset(root, file, task, label).source("train")[0],
      str(root / "images" / "a"),
      str(root / "labels" / "a"),
      "Example 'a'",
    )


def _npy(array, ending=".npy"):
  """A file of an array that is no picture and no label."""
  out = io.BytesIO()
  np.save(out, array)
  return File(ending, out.getvalue(), array, None, None, about=f"npy of {array.dtype}")


def _flipped():
  """A PNG in whose stored pixels a byte was changed, which its checksum tells."""
  array = np.arange(6).reshape(2, 3, 1) * 2 + 1
  content = bytearray(png(array, 8, 0))
  content[content.index(b"IDAT") + 12] ^= 64
  return File(".png", bytes(content), array, _grey(array) / 255, array[..., 0], sums=True), True


FILES = st.one_of(pngs(), others(), arrays())


@hypothesis.example(_npy(np.zeros((0, 1), np.uint8)))
@hypothesis.example(_npy(np.zeros((0, 2, 3), np.float32)))
@hypothesis.example(_npy(np.full((1, 1, 3), "0")))
@hypothesis.given(FILES)
@cases.some(0.12)
def test_a_picture_is_seen_as_it_was_written(file):
  found, refusal = _read(file)
  npy = file.ending.lower() == ".npy"
  if npy != file.content.startswith((b"\x93NUMPY", b"PK")) or file.seen is None:
    assert refusal, f"{file.about} was read"
    return
  assert not refusal, f"{file.about}: {refusal}"
  assert found.inputs.dtype == np.float32
  assert found.inputs.shape == file.seen.shape, file.about
  np.testing.assert_allclose(found.inputs, file.seen, atol=file.tolerance, err_msg=file.about)
  assert not found.valid["t"].any()


@st.composite
def damaged(draw):
  """A file that was cut off, made longer, or has another byte."""
  file = draw(FILES)
  how = draw(st.sampled_from(("cut", "cut", "longer", "byte", "byte", "empty")))
  content = file.content
  at = draw(st.integers(0, len(content) - 1))
  if how == "cut":
    content = content[:at]
  elif how == "longer":
    content += draw(st.sampled_from((b"\0", b"\n", b"<html>", content)))
  elif how == "byte":
    other = bytes([content[at] ^ draw(st.integers(1, 255))])
    content = content[:at] + other + content[at + 1 :]
  else:
    content = b""
  exact = how != "byte" or file.sums
  return dataclasses.replace(file, content=content, about=f"{file.about}, {how} at {at}"), exact


@hypothesis.example(_flipped())
@hypothesis.given(damaged())
@cases.some(0.1)
def test_a_damaged_picture_is_refused_or_seen_as_it_was_written(case):
  file, exact = case
  found, refusal = _read(file)
  if refusal:
    return
  assert found.inputs.dtype == np.float32
  assert np.isfinite(found.inputs).all()
  assert 0 <= found.inputs.min() <= found.inputs.max() <= 1
  if exact:
    assert file.seen is not None, file.about
    np.testing.assert_allclose(found.inputs, file.seen, atol=file.tolerance, err_msg=file.about)


def _limits(low, high):
  return st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)


@st.composite
def tasks(draw, file):
  """A task, and what its labels are by hand: values and where they count, None where refused."""
  kind = draw(st.sampled_from(("segmentation", "depth", "regression", "normals", "colour")))
  task = {"kind": kind, "labels": "labels"}
  stored = file.label
  if kind == "segmentation":
    return task, _ids(draw, task, stored)
  if kind in ("depth", "regression"):
    return task, _numbers(draw, task, stored)
  return task, _triples(draw, task, stored)


def _plane(stored):
  """A label of one channel, as rows of Python's numbers."""
  if stored is None or stored.ndim not in (2, 3) or (stored.ndim == 3 and stored.shape[2] != 1):
    return None
  return stored.reshape(stored.shape[:2])


def _ids(draw, task, stored):
  """Ids of classes, with a map, ignored ids and others."""
  task["classes"] = count = draw(st.sampled_from((2, 16, 256)))
  known = [0, 1, 255]
  if stored is not None:
    known = [int(v) for v in np.unique(stored[np.isfinite(stored)])[:6]]
  table = {}
  if draw(st.booleans()):
    keys = draw(st.lists(st.sampled_from(known or [0]), min_size=1, unique=True))
    table = task["map"] = {key: draw(st.integers(0, count - 1)) for key in keys}
  void = []
  if draw(st.booleans()):
    void = task["ignore"] = draw(st.lists(st.sampled_from([*known, -1, 255, 0.5]), max_size=3))
  if draw(st.booleans()):
    task["unmapped"] = draw(st.sampled_from(("ignore", "error")))
  plane = _plane(stored)
  if plane is None:
    return None
  values, valid = np.zeros(plane.shape, int), np.zeros(plane.shape, bool)
  for at, one in np.ndenumerate(plane):
    one = one.item()
    if one != one or one in (np.inf, -np.inf) or one != int(one):
      return None
    if one in void:
      continue
    found = table.get(int(one)) if table else int(one) if 0 <= one < count else None
    if found is None and task.get("unmapped", "error") == "error":
      return None
    valid[at] = found is not None
    values[at] = found or 0
  return values, valid


def _numbers(draw, task, stored):
  """Depths and other numbers, scaled, within a range."""
  if draw(st.booleans()):
    task["scale"] = draw(st.sampled_from((0.001, 2, -1, 1e30)))
  if draw(st.booleans()):
    task["offset"] = draw(st.sampled_from((0.5, -3)))
  if draw(st.booleans()):
    task["range"] = list(draw(_limits(-100, 300)))
  void = []
  if draw(st.booleans()):
    void = task["ignore"] = draw(st.lists(st.sampled_from((0, 1, 255, 65535, -1)), max_size=3))
  plane = _plane(stored)
  if stored is not None and stored.ndim == 3 and stored.shape[2] == 3 and draw(st.booleans()):
    factors = task["channels"] = draw(st.sampled_from(([1, 256, 65536], [0, 1, 0])))
    plane = sum(stored[..., i].astype(float) * f for i, f in enumerate(factors) if f)
  if plane is None:
    return None
  low, high = task.get("range", (-np.inf, np.inf))
  values, valid = np.zeros(plane.shape), np.zeros(plane.shape, bool)
  for at, one in np.ndenumerate(plane):
    one = float(one)
    value = one * task.get("scale", 1) + task.get("offset", 0)
    good = np.isfinite(value) and low <= value <= high and one not in void
    valid[at] = (
      good and abs(value) <= np.finfo(np.float32).max and (task["kind"] != "depth" or value > 0)
    )
    values[at] = value if valid[at] else 0
  return values, valid


def _triples(draw, task, stored):
  """Three numbers a pixel: directions, or colours."""
  directions = task["kind"] == "normals"
  signs = [draw(st.sampled_from((1, -1))) for _ in range(3)]
  places = draw(st.permutations(range(3)))
  if directions and draw(st.booleans()):
    task["axes"] = " ".join(
      f"{'+' if s > 0 else '-'}{p}" for s, p in zip(signs, places, strict=True)
    )
  scale, offset = 1.0, 0.0
  if draw(st.booleans()):
    scale, offset = task["scale"], task["offset"] = draw(
      st.sampled_from(((1 / 255, 0), (2 / 255, -1)))
    )
  elif stored is not None and stored.dtype.kind in "ui":
    unsigned, top = stored.dtype.kind == "u", float(np.iinfo(stored.dtype).max)
    if directions:
      scale, offset = (2 / top, -1.0) if unsigned else (1 / top, 0.0)
    elif unsigned:
      scale = 1 / top
  if stored is None or stored.ndim != 3 or stored.shape[2] != 3:
    return None
  values, valid = np.zeros(stored.shape), np.zeros(stored.shape[:2], bool)
  for at in np.ndindex(stored.shape[:2]):
    one = np.array([float(v) * scale + offset for v in stored[at]])
    if directions:
      length = np.sqrt((one**2).sum())
      valid[at] = bool(np.isfinite(one).all()) and length >= 0.5
      one = one / length if valid[at] else np.array([0, 0, -1.0])
      if "axes" in task and valid[at]:
        one = np.array([s * one[p] for s, p in zip(signs, places, strict=True)])
    else:
      valid[at] = bool(((one >= 0) & (one <= 1)).all())
      one = one if valid[at] else np.zeros(3)
    values[at] = one
  return values, valid


@st.composite
def labelled(draw):
  """A label's file, its task, and a picture of its size or another."""
  file = draw(FILES)
  task, wanted = draw(tasks(file))
  size = file.label.shape[:2] if file.label is not None else (2, 2)
  fits = draw(st.integers(0, 9)) > 0
  size = size if fits else (size[0] + 1, size[1])
  out = io.BytesIO()
  np.save(out, np.zeros((*size, 3), np.uint8))
  picture = File(".npy", out.getvalue(), None, None, None)
  npy = file.ending.lower() == ".npy"
  if npy != file.content.startswith((b"\x93NUMPY", b"PK")) or not fits:
    wanted = None
  return file, task, picture, wanted


def _beside(file, task, wanted=None):
  """A case of `labelled`."""
  size = file.stored.shape[:2]
  return file, {"labels": "labels", **task}, _npy(np.zeros((*size, 3), np.uint8)), wanted


BYTES = np.uint8([[[255, 51, 0]]])


@hypothesis.example(_beside(_npy(np.ones((1, 1), complex)), {"kind": "depth"}))
@hypothesis.example(_beside(_npy(np.full((1, 1), "1")), {"kind": "segmentation", "classes": 2}))
@hypothesis.example(_beside(_npy(BYTES), {"kind": "colour"}, (BYTES / 255, np.ones((1, 1), bool))))
@hypothesis.example(
  _beside(
    _npy(np.float16([[0.5]])),
    {"kind": "depth", "ignore": [65535]},
    (np.array([[0.5]]), np.array([[True]])),
  )
)
@hypothesis.given(labelled())
@cases.some(0.12)
def test_labels_are_those_that_were_written(case):
  file, task, picture, wanted = case
  found, refusal = _read(picture, task, file)
  about = f"{file.about} of {task}"
  if wanted is None:
    assert refusal, f"{about} was read"
    return
  assert not refusal, f"{about}: {refusal}"
  values, valid = wanted
  np.testing.assert_array_equal(found.valid["t"], valid, about)
  assert found.targets["t"].dtype == (np.int32 if task["kind"] == "segmentation" else np.float32)
  tolerance = {"normals": 1e-3}.get(task["kind"], 0)
  np.testing.assert_allclose(found.targets["t"], values, rtol=1e-5, atol=tolerance, err_msg=about)
