"""Pictures and arrays come from disk as they were stored."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts

RNG = np.random.default_rng(0)


def test_pictures_keep_their_numbers(tmp_path):
  colour = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
  grey = RNG.integers(0, 256, (5, 7)).astype(np.uint8)
  deep = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
  for name, array in (("c", colour), ("g", grey), ("d", deep)):
    Image.fromarray(array).save(tmp_path / f"{name}.png")
    found = files.read_picture(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
  alpha = np.concatenate([colour, grey[..., None]], -1)
  Image.fromarray(alpha).save(tmp_path / "a.png")
  np.testing.assert_array_equal(files.read_picture(tmp_path / "a.png"), colour)
  np.testing.assert_array_equal(
    files.read_colour(tmp_path / "g.png"), grey[..., None].repeat(3, -1)
  )


def _png(path, bits, colour, row, height=1):
  """Writes a PNG of equal rows; colour: 0 grey, 2 RGB, 3 palette, 4 with alpha, 6 RGB and alpha."""
  channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
  header = struct.pack(">IIBBBBB", len(row) * 8 // (bits * channels), height, bits, colour, 0, 0, 0)
  palette = [(b"PLTE", bytes([9, 9, 9] * 2 ** min(bits, 8)))] if colour == 3 else []
  data = zlib.compress((b"\0" + bytes(row)) * height)
  parts = [(b"IHDR", header), *palette, (b"IDAT", data), (b"IEND", b"")]
  chunks = (
    struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
  )
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


# Bits, colour type, a row of bytes -> what is stored, and brightness in 0..1 (None: refused).
PNGS = {
  "1": (1, 0, [0b10100001], [1, 0, 1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0, 0, 1]),
  "2": (2, 0, [0b00011011], [0, 1, 2, 3], [0, 1 / 3, 2 / 3, 1]),
  "4": (4, 0, [0x01, 0x3F], [0, 1, 3, 15], [0, 1 / 15, 0.2, 1]),
  "8": (8, 0, [0, 1, 51, 255], [0, 1, 51, 255], [0, 1 / 255, 0.2, 1]),
  "16": (16, 0, [0, 1, 1, 2, 255, 255], [1, 258, 65535], [1 / 65535, 258 / 65535, 1]),
  "palette 1": (1, 3, [0b10100001], [1, 0, 1, 0, 0, 0, 0, 1], [9 / 255] * 8),
  "palette 2": (2, 3, [0b00011011], [0, 1, 2, 3], [9 / 255] * 4),
  "palette 4": (4, 3, [0x01, 0x3F], [0, 1, 3, 15], [9 / 255] * 4),
  "palette 8": (8, 3, [0, 1, 51, 255], [0, 1, 51, 255], [9 / 255] * 4),
  "RGB": (8, 2, [1, 2, 3], [[1, 2, 3]], [[1 / 255, 2 / 255, 3 / 255]]),
  "alpha": (8, 4, [51, 9], [51], [0.2]),
  "RGBA": (8, 6, [1, 2, 3, 4], [[1, 2, 3]], [[1 / 255, 2 / 255, 3 / 255]]),
  "RGB 16": (16, 2, [1] * 6, None, None),
  "alpha 16": (16, 4, [1] * 4, None, None),
  "RGBA 16": (16, 6, [1] * 8, None, None),
}


def _colours(path):
  """What a network sees."""
  found = layouts.photograph(files.read_colour(path))
  return layouts.example(found, {}).inputs


@pytest.mark.parametrize("case", PNGS)
def test_every_kind_of_png(tmp_path, case):
  bits, colour, row, stored, seen = PNGS[case]
  _png(tmp_path / "x.png", bits, colour, row)
  if stored is None:
    for read in (files.read_picture, files.read_colour):
      with pytest.raises(ValueError, match=r"x\.png \(it has 16 bits of each of .*as \.npy"):
        read(tmp_path / "x.png")
    return
  np.testing.assert_array_equal(files.read_picture(tmp_path / "x.png"), [stored])
  wanted = np.float32(seen)
  wanted = np.repeat(wanted[:, None], 3, 1) if wanted.ndim == 1 else wanted
  np.testing.assert_array_equal(_colours(tmp_path / "x.png"), wanted[None])


FLOATS = np.float32([[0, 0.25, 1]])
# Array, mode, ending and options -> labels as stored (None: refused) and red (None: refused).
OTHERS = {
  "TIFF 1": (np.array([[True, False]]), None, "tif", {}, [[1, 0]], [[1, 0]]),
  "TIFF 8": (np.uint8([[0, 51]]), None, "tif", {}, [[0, 51]], [[0, 0.2]]),
  "TIFF 16": (np.uint16([[1, 258]]), None, "tif", {}, [[1, 258]], [[1 / 65535, 258 / 65535]]),
  "TIFF 16, packed": (
    *(np.uint16([[1, 258]]), None, "tif", {"compression": "tiff_lzw"}),
    *([[1, 258]], [[1 / 65535, 258 / 65535]]),
  ),
  "TIFF 32": (np.int32([[-1, 70000]]), None, "tif", {}, [[-1, 70000]], None),
  "TIFF float": (FLOATS, None, "tif", {}, FLOATS, FLOATS),
  "TIFF float 0..255": (255 * FLOATS, None, "tif", {}, 255 * FLOATS, None),
  "TIFF float nan": (np.float32([[np.nan, 0]]), None, "tif", {}, [[np.nan, 0]], None),
  "TIFF, 0 is white": (np.uint8([[0, 51]]), None, "tif", {"tiffinfo": {262: 0}}, None, [[0, 0.2]]),
  "TIFF CMYK": (np.uint8([[[0, 51, 255, 0]]]), "CMYK", "tif", {}, None, [[1]]),
  "TIFF named PNG": (np.uint8([[0, 51]]), None, "png", {"format": "TIFF"}, [[0, 51]], [[0, 0.2]]),
  "JPEG": (np.full((8, 8), 51, np.uint8), None, "jpg", {}, None, np.full((8, 8), 0.2)),
  "JPEG named PNG": (
    *(np.full((8, 8), 51, np.uint8), None, "png", {"format": "JPEG"}),
    *(None, np.full((8, 8), 0.2)),
  ),
  "BMP": (np.uint8([[0, 51]]), None, "bmp", {}, None, [[0, 0.2]]),
  "GIF": (np.uint8([[0, 51]]), None, "gif", {}, None, [[0, 0.2]]),
  "PPM": (np.uint8([[0, 51]]), None, "ppm", {}, None, [[0, 0.2]]),
  "PPM 16": (np.int32([[0, 258]]), None, "ppm", {}, None, [[0, 258 / 65535]]),
  "WEBP": (*(np.uint8([[[0, 51, 255]]]), None, "webp", {"lossless": True}), *(None, [[0]])),
  "several": (
    *(np.uint8([[0, 51]]), None, "tif"),
    *({"save_all": True, "append_images": [Image.new("L", (2, 1))]}, None, None),
  ),
  "EPS": (np.uint8([[[0, 51, 255]]]), None, "png", {"format": "EPS"}, None, None),
}


@pytest.mark.parametrize("case", OTHERS)
def test_every_other_kind(tmp_path, case):
  array, mode, ending, options, stored, red = OTHERS[case]
  path = tmp_path / f"x.{ending}"
  picture = Image.fromarray(array)
  if mode:
    picture = Image.frombytes(mode, array.shape[1::-1], array.tobytes())
  picture.save(path, **options)
  for read, wanted in ((files.read_picture, stored), (lambda p: _colours(p)[..., 0], red)):
    if wanted is None:
      with pytest.raises(ValueError, match=rf"Cannot read .*x\.{ending} \("):
        read(path)
    else:
      np.testing.assert_array_equal(read(path), np.asarray(wanted, read(path).dtype))


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_and_labels_are_turned_upright(tmp_path, tag):
  upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
  turned = {
    1: upright,
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[2, 5], [1, 4], [0, 3]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[3, 0], [4, 1], [5, 2]],
  }[tag]
  exif = Image.Exif()
  exif[0x112] = tag
  for dtype, ending in ((np.uint8, "png"), (np.uint16, "png"), (np.uint8, "tif")):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(np.asarray(turned, dtype)).save(path, exif=exif)
    np.testing.assert_array_equal(files.read_picture(path), upright)
    top = np.iinfo(dtype).max
    np.testing.assert_array_equal(
      _colours(path)[..., 1], upright.astype(np.float32) / np.float32(top)
    )


@pytest.mark.parametrize("dtype", ("<f2", ">f4", "<f8", "|u1", "<u2", ">u2"))
def test_arrays_are_pictures(dtype):
  one = {"f": 1, "1": 255, "2": 65535}["f" if "f" in dtype else dtype[-1]]
  array = np.array([[[0, one, one]]]).astype(dtype)
  found = layouts.photograph(array)
  assert found.dtype == (np.uint8 if dtype == "|u1" else np.float32)
  np.testing.assert_array_equal(layouts.example(found, {}).inputs, [[[0, 1, 1]]])


@pytest.mark.parametrize(
  "array, message",
  [
    (np.full((2, 2, 3), 255.0), "floats of 0 to 1; it is float32 of 255.0"),
    (np.full((2, 2, 3), np.nan), "it is float32 of nan"),
    (np.zeros((2, 2, 3), np.int64), "it is int64"),
    (np.zeros((3, 4, 5)), r"\(3, 4, 5\); .* Its channels come first"),
    (np.zeros((1, 4, 5, 3)), r"\(1, 4, 5, 3\)"),
  ],
  ids=str,
)
def test_arrays_that_are_no_pictures(array, message):
  with pytest.raises(ValueError, match=message):
    layouts.photograph(array)


def test_a_palette_picture_gives_its_indices(tmp_path):
  labels = RNG.integers(0, 4, (5, 7)).astype(np.uint8)
  picture = Image.fromarray(labels)
  picture.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
  picture.save(tmp_path / "p.png")
  np.testing.assert_array_equal(files.read_picture(tmp_path / "p.png"), labels)


def test_what_cannot_be_read_is_named(tmp_path):
  (tmp_path / "x.png").write_bytes(b"\x89PNG not really")
  np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
  np.savez(tmp_path / "z.npz", a=np.ones(2))
  (tmp_path / "x.json").write_text("{")
  for read, name in (
    (files.read_picture, "x.png"),
    (files.read_colour, "x.png"),
    (files.read_array, "o.npy"),
    (files.read_array, "x.png"),
    (files.read_json, "x.json"),
  ):
    with pytest.raises(ValueError, match=f"Cannot read .*{name}"):
      read(tmp_path / name)
    with pytest.raises(ValueError, match="There is no file .*gone"):
      read(tmp_path / "gone")
  with pytest.raises(ValueError, match="no .npy file with one array"):
    files.read_array(tmp_path / "z.npz")
  (tmp_path / "y.json").write_text(json.dumps({"train": [1]}))
  assert files.read_json(tmp_path / "y.json") == {"train": [1]}


def test_labels_are_never_mixed():
  labels = np.array([[1, 2], [3, 4]])
  np.testing.assert_array_equal(
    files.resize_labels(labels, (4, 4)), labels.repeat(2, 0).repeat(2, 1)
  )
  large = RNG.integers(0, 9, (6, 9, 2))
  np.testing.assert_array_equal(files.resize_labels(large, (2, 3)), large[1::3, 1::3])
  assert files.resize_labels(large, (6, 9)) is large


def test_photographs_shrink_over_all_their_pixels():
  image = np.zeros((8, 8, 3), np.uint8)
  image[::2] = 200
  found = files.resize_colour(image, (2, 2))
  np.testing.assert_allclose(found.astype(int), 100, atol=8)
  assert files.resize_colour(image, (8, 8)) is image
