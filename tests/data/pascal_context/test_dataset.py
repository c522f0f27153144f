"""PASCAL-Context: files as ASTMT's archive has them, labels by hand, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage
import scipy.io

from dynashare_jax import types
from dynashare_jax.data.pascal_context import dataset
from dynashare_jax.data.pascal_context import edges
from dynashare_jax.data.pascal_context import labels
from dynashare_jax.data.pascal_context import layouts

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIZES = {"2008_000002": (8, 10), "2008_000003": (10, 8), "2008_000004": (8, 8)}
PLACES = ("train", "train", "val")


def _structures(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """A MATLAB array `[1, n]` of structures; `[]` for none, as PASCAL-Part has it."""
  if not rows:
    return np.zeros((0, 0))
  found = np.zeros((1, len(rows)), [(name, object) for name in rows[0]])
  for place, row in enumerate(rows):
    found[0, place] = tuple(row.values())
  return found


def _thing(
  kind: int, size: tuple[int, int], parts: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
  """An object whose parts are one pixel each."""
  masks = {name: np.zeros(size, np.uint8) for name in parts}
  for name, place in parts.items():
    masks[name][place] = 1
  listed = _structures([{"part_name": name, "mask": mask} for name, mask in masks.items()])
  return {"class": "x", "class_ind": kind, "mask": np.ones(size, np.uint8), "parts": listed}


def _save_parts(path: pathlib.Path, *things: dict[str, Any]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  anno = _structures([{"imname": path.stem, "objects": _structures(things)}])
  scipy.io.savemat(path, {"anno": anno})


def _regions(size: tuple[int, int]) -> np.ndarray:
  """Sky (360) on the left, a person (284) in the last four columns."""
  found = np.full(size, 360, np.uint16)
  found[:, -4:] = 284
  return found


def _write(folder: pathlib.Path) -> None:
  """Three pictures of three sizes; parts of people are in the first and the last."""
  pictures = {
    "JPEGImages/{}.jpg": lambda size: np.full((*size, 3), 200, np.uint8),
    "normals_distill/{}.png": lambda size: np.broadcast_to(np.uint8([255, 128, 128]), (*size, 3)),
    "sal_distill/{}.png": lambda size: np.uint8([127, 128] * (size[1] // 2))[None].repeat(
      size[0], 0
    ),
  }
  (folder / "ImageSets" / "Context").mkdir(parents=True)
  for part in ("train", "val"):
    names = [name for name, place in zip(SIZES, PLACES, strict=True) if place == part]
    (folder / "ImageSets" / "Context" / f"{part}.txt").write_text("".join(f"{n}\n" for n in names))
  for number, (name, size) in enumerate(SIZES.items()):
    for pattern, make in pictures.items():
      path = folder / pattern.format(name)
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(np.ascontiguousarray(make(size))).save(path)
    ids = np.full(size, 15, np.uint8)
    ids[0], ids[1, 0] = 255, 20
    place = folder / "semseg" / ("pascal-context" if number == 1 else "VOC12")
    place.mkdir(parents=True, exist_ok=True)
    coloured = Image.fromarray(ids)
    coloured.putpalette(list(range(256)) * 3)  # as VOC's files have it; their pixels are indices
    coloured.save(place / f"{name}.png")
    mat = folder / "pascal-context" / "trainval" / f"{name}.mat"
    mat.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(mat, {"LabelMap": _regions(size)})
  first, second, third = SIZES
  parts = folder / "human_parts"
  person = _thing(15, SIZES[first], {"hair": (1, 1), "lfoot": (2, 3), "neck": (1, 1)})
  horse = _thing(13, SIZES[first], {"head": (5, 5)})
  _save_parts(parts / f"{first}.mat", horse, person)
  _save_parts(parts / f"{second}.mat", _thing(15, SIZES[second], {}))
  _save_parts(parts / f"{third}.mat", _thing(15, SIZES[third], {"rhand": (0, 7)}))


def _config(**values: Any) -> ConfigDict:
  small = {"height": 8, "width": 8, "crop": (8, 8), "validation_share": 0.5, **values}
  return ConfigDict({**dataset.defaults(), **small})


def _switches() -> ConfigDict:
  return ConfigDict(dataset.compat())


def _open(folder: pathlib.Path | None, **values: Any) -> types.Dataset:
  return dataset.build(_config(**values), _switches(), folder and str(folder), 0)


def _examples(data: types.Dataset) -> dict[str, types.Batch]:
  """All examples by their names."""
  sources = [data.source(split) for split in types.SPLITS]
  return {key: source[i] for source in sources for i, key in enumerate(source.keys)}


def test_every_task_by_hand(tmp_path: pathlib.Path) -> None:
  _write(tmp_path)
  data = _open(tmp_path)
  assert data.spec.sizes == {"train": 1, "validation": 1, "test": 1}
  assert "astmt (2 train, 1 test)" in data.spec.notes[0]
  found = _examples(data)["2008_000004"]  # stored at the wanted size
  target, valid = found.targets, found.valid
  assert found.inputs.shape == (8, 8, 3) and abs(found.inputs - 200 / 255).max() < 0.02
  assert not valid["segmentation"][0].any() and valid["segmentation"][1:].all()
  assert target["segmentation"][1, :2].tolist() == [20, 15]
  assert valid["human_parts"].all() and target["human_parts"].sum() == 4
  assert target["human_parts"][0, 7] == labels.PARTS.index("lower arms") == 4
  assert valid["normals"].tolist() == [[False] * 4 + [True] * 4] * 8  # of a person, not of the sky
  np.testing.assert_allclose(target["normals"][0, 7], [1, 0, 0], atol=0.01)
  assert target["saliency"].tolist() == [[0, 1] * 4] * 8 and valid["saliency"].all()
  # Between the regions both sides are edges; thinned, the left one stays, but for a corner.
  assert valid["edges"].all() and not target["edges"][0].any()
  assert target["edges"][1:].tolist() == [[0, 0, 0, 1, 0, 0, 0, 0]] * 7
  assert all(label.dtype == np.int32 for name, label in target.items() if name != "normals")


def test_parts_of_the_same_person_lie_over_one_another_and_other_things_have_none(
  tmp_path: pathlib.Path,
) -> None:
  _write(tmp_path)
  parts = layouts._people(str(tmp_path / "human_parts" / "2008_000002.mat"), (8, 10))
  wanted = np.zeros((8, 10), np.uint8)
  wanted[1, 1], wanted[2, 3] = labels.PARTS.index("torso"), labels.PARTS.index("lower legs")
  np.testing.assert_array_equal(parts, wanted)


@pytest.mark.parametrize("gone", [False, True])
def test_a_picture_without_parts_has_no_label_of_them(tmp_path: pathlib.Path, gone: bool) -> None:
  _write(tmp_path)
  if gone:
    (tmp_path / "human_parts" / "2008_000003.mat").unlink()
  found = _examples(_open(tmp_path))
  assert {key: bool(e.valid["human_parts"].any()) for key, e in found.items()} == {
    "2008_000002": True,
    "2008_000003": False,
    "2008_000004": True,
  }
  example = found["2008_000003"]
  assert not example.targets["human_parts"].any() and example.valid["segmentation"].any()


def test_normals_alone_need_the_label_map_but_give_no_edges(tmp_path: pathlib.Path) -> None:
  _write(tmp_path)
  found = _open(tmp_path, tasks=("normals",)).source("test")[0]
  assert list(found.targets) == ["normals"] and found.valid["normals"].sum() == 32


def _slowly(lines: np.ndarray) -> np.ndarray:
  """Guo and Hall's thinning, pixel by pixel, from their definitions of C, N and m."""
  lines = np.pad(lines, 1)
  while True:
    before = lines.sum()
    for odd in (True, False):
      gone = []
      for i, j in zip(*np.nonzero(lines), strict=True):
        ring = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
        p2, p3, p4, p5, p6, p7, p8, p9 = (bool(lines[i + a, j + b]) for a, b in ring)
        c = (not p2 and (p3 or p4)) + (not p4 and (p5 or p6))
        c += (not p6 and (p7 or p8)) + (not p8 and (p9 or p2))
        n = min(
          (p9 or p2) + (p3 or p4) + (p5 or p6) + (p7 or p8),
          (p2 or p3) + (p4 or p5) + (p6 or p7) + (p8 or p9),
        )
        m = (p2 or p3 or not p5) and p4 if odd else (p6 or p7 or not p9) and p8
        gone += [(i, j)] * (c == 1 and 2 <= n <= 3 and not m)
      for place in gone:
        lines[place] = False
    if lines.sum() == before:
      return lines[1:-1, 1:-1]


def test_thinning_is_that_of_the_definition_and_keeps_what_is_connected() -> None:
  rng = np.random.default_rng(0)
  for seed in range(6):
    smooth = ndimage.gaussian_filter(rng.normal(size=(20, 24)), 1 + seed % 3)
    lines = smooth > np.quantile(smooth, 0.5)
    thinned = edges.thin(lines)
    np.testing.assert_array_equal(thinned, _slowly(lines))
    count = lambda of: ndimage.label(of, np.ones((3, 3)))[1]
    assert count(thinned) == count(lines) and not (thinned & ~lines).any()
    assert 0 < thinned.sum() < lines.sum()
    np.testing.assert_array_equal(edges.thin(thinned), thinned)
  assert not edges.between(np.full((4, 5), 7, np.uint16)).any()


FIRST = "2008_000002"


def _mat(path: str, **values: Any) -> Callable[[pathlib.Path], None]:
  return lambda folder: scipy.io.savemat(folder / path.format(FIRST), values)


def _picture(path: str, array: np.ndarray) -> Callable[[pathlib.Path], None]:
  return lambda folder: Image.fromarray(array).save(folder / path.format(FIRST))


def _parts(size: tuple[int, int], name: str) -> Callable[[pathlib.Path], None]:
  path = pathlib.Path("human_parts", f"{FIRST}.mat")
  return lambda folder: _save_parts(folder / path, _thing(15, size, {name: (0, 0)}))


_TRAINVAL, _PARTS = "pascal-context/trainval/{}.mat", "human_parts/{}.mat"
BROKEN = {
  "parts of another size": (
    _parts((8, 9), "hair"),
    "'2008_000002': its human_parts is 8 x 9, its picture 8 x 10: they do not belong",
  ),
  "unknown part": (_parts((8, 10), "tail"), "has a part 'tail' of a person, which is not known"),
  "other structure": (_mat(_PARTS, anno=[[1.0]]), "not in the form of PASCAL-Part"),
  "other variable": (_mat(_TRAINVAL, labels=[[1]]), "trainval/.*mat holds no 'LabelMap'"),
  "label map of another size": (
    _mat(_TRAINVAL, LabelMap=np.ones((10, 8), np.uint16)),
    "its edges is 10 x 8, its picture 8 x 10",
  ),
  "no matlab": (
    lambda f: (f / _TRAINVAL.format(FIRST)).write_bytes(b"<html>" * 40),
    "Cannot read .*trainval",
  ),
  "class": (
    _picture("semseg/VOC12/{}.png", np.full((8, 10), 21, np.uint8)),
    "its segmentation has the id 21; known are 0 to 20, and 255 for void",
  ),
  "saliency of another size": (
    _picture("sal_distill/{}.png", np.zeros((8, 8), np.uint8)),
    "its saliency is 8 x 8",
  ),
  "colours": (
    _picture("sal_distill/{}.png", np.zeros((8, 10, 3), np.uint8)),
    "its saliency has the",
  ),
  "no saliency": (
    lambda f: (f / "sal_distill" / f"{FIRST}.png").unlink(),
    "lacks 1 of 15 files, first sal_distill/2008_000002.png",
  ),
  "no parts at all": (
    lambda f: [path.unlink() for path in (f / "human_parts").iterdir()],
    "there is no file .*human_parts/<id>.mat",
  ),
  "no list": (
    lambda f: (f / "ImageSets" / "Context" / "val.txt").unlink(),
    "there is no file .*Context/val.txt",
  ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: pathlib.Path, name: str) -> None:
  change, message = BROKEN[name]
  _write(tmp_path)
  change(tmp_path)
  with pytest.raises(ValueError, match=message):
    _examples(_open(tmp_path))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"tasks": ("parts",)}, "config.data.tasks has 'parts'; PASCAL-Context has"),
    ({"height": 0, "width": 0}, "pictures of PASCAL-Context differ in size: give"),
    ({}, "PASCAL-Context: tell where it lies with config.data_dir.*https://"),
  ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=f"(?s){message}"):
    _open(None, **values)


def test_the_configuration_has_the_defaults_and_the_published_sizes() -> None:
  config = runpy.run_path(str(ROOT / "configs" / "pascal_context.py"))["get_config"]()
  assert config.data.to_dict() == dataset.defaults()
  spec = dataset.outline(config.data, config.compat)
  assert spec.sizes == {"train": 4498, "validation": 500, "test": 5105}
  assert [task.outputs for task in spec.tasks] == [21, 7, 3, 1, 1]
  assert len(config.gates.target_rates) == sum(config.model.blocks)
  assert len(labels.NORMALS) == len(set(labels.NORMALS)) == 170
