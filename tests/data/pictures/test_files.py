"""Pictures and arrays come from disk as they were stored."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
import pytest

from dynashare_jax.data.pictures import files

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
