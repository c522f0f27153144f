"""Tiny-Taskonomy: rooms with classes, normals, depth, keypoints and edges.

Pictures of 35 buildings: 25 for training, 5 for validation, 5 for testing. AdaShare trains on these
5 of its 26 tasks.

Source: Zamir et al., Taskonomy: Disentangling Task Transfer Learning, CVPR 2018; the 5 tasks and
  their scaling as in Standley et al. 2020 and AdaShare's data loader.
Differs: see `Taskonomy`; the authors also replace an example that cannot be read by the first one.
  Depth is a logarithm, so it is scored as a regression (L1, as in AdaShare's Table 4), and stays
  when a picture is scaled. Where pixels are picked, they are the ones nearest to the middle; OpenCV
  picks those above and left. Their `test_small` validates where `compat.selection` is `test`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import options
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.taskonomy import layouts as taskonomy_layouts

TASKS = taskonomy_layouts.TASKS
# Source: list of selected COCO classes, published with Taskonomy.
_NAMES = (
  "background, bottle, chair, couch, potted plant, bed, dining table, toilet, tv, microwave, oven, "
  "toaster, sink, refrigerator, book, clock, vase"
)
CLASSES = tuple(_NAMES.split(", "))
FARTHEST = 64500  # 1/512 m; what is stored from here on is no depth
KEYPOINTS = 0.005  # of 2^16: where keypoints are cut off
EDGES = 0.08  # of 2^16: where edges are cut off
PRIOR = "semseg_prior_factor.npy"

_SHORT = 0.5  # a decoded normal shorter than this is none
_RANGE = float(np.log(2.0**16))


class Taskonomy(dense.DataSet):
  """Tiny-Taskonomy.

  Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`, from 0. normals:
  float32 `[H, W, 3]`, unit, the axes as stored, of which the first is horizontal.
  depth: float32 `[H, W]`, log(1 + d) / log(2^16) of the distance d in 1/512 m.
  keypoints and edges: float32 `[H, W]`, -1 (no response) to 1 (cut off). The example
  of a damaged file is left out once the file is removed.

  Values of `config.data`:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the total loss. layout: a
    key of `taskonomy_layouts.HELP`, or auto. height, width: of all pictures; 0 as stored (512).

  Switches of `config.compat`, corrected where the configuration lacks them:
    normal_mask: `depth`: normals count where there is a depth, and where they are normals; or
    `none`: everywhere, as in the authors' code, which never applies its mask. unlabelled: `void`,
    or `background`: the authors take pixels without a class for background. pictures: `smooth`, or
    `nearest`: the authors shrink photographs by picking pixels. class_weights: `equal`, or `prior`:
    the authors weigh the classes of segmentation by the file `PRIOR` beside their lists (background
    0.54, others 7.2 to 9.2).
  """

  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Returns the tasks; see the base class."""
    prior = options.switch(compat, "class_weights", ("equal", "prior")) == "prior"
    weights = tuple(facts["prior"]) if prior and facts else ()
    if prior and facts and not weights:
      raise ValueError(f"config.compat.class_weights is 'prior', but there is no file {PRIOR}.")
    return {
      "segmentation": types.TaskSpec(
        "segmentation", "segmentation", len(CLASSES), classes=CLASSES, class_weights=weights
      ),
      "normals": types.TaskSpec("normals", "normals", 3),
      "depth": types.TaskSpec("depth", "regression", 1, unit="log"),
      "keypoints": types.TaskSpec("keypoints", "regression", 1),
      "edges": types.TaskSpec("edges", "regression", 1),
    }

  def fields(self, config: ConfigDict, compat: ConfigDict) -> tuple[str, ...]:
    """Returns depth, where normals are masked by it."""
    more = _is_masked(compat) and "normals" in config.tasks and "depth" not in config.tasks
    return ("depth",) * more

  def mixed(self, compat: ConfigDict) -> tuple[str, ...]:
    """Returns the fields whose pixels may be mixed when they are resized."""
    return ("image",) if _pictures(compat) == "smooth" else ()

  def find(self, wanted: dense.Wanted, data_dir: str | None) -> store.Original:
    """Finds the files, and the authors' class weights."""
    original = taskonomy_layouts.find(wanted, data_dir)
    facts = {
      **original.facts,
      "pictures": _pictures(wanted.compat) if wanted.size else "",
      "prior": _prior(pathlib.Path(data_dir or "") / PRIOR),
    }
    return dataclasses.replace(original, facts=facts)

  def found(self, wanted: dense.Wanted, original: store.Original) -> dense.Found:
    """Decodes the files, or a converted copy of them."""
    compat, facts = wanted.compat, original.facts
    pictures = _pictures(compat)
    if facts["pictures"] not in ("", pictures):
      raise ValueError(
        f"This is a {original.layout}, made with config.compat.pictures={facts['pictures']!r},"
        f" not {pictures!r}: convert again."
      )
    void = options.switch(compat, "unlabelled", ("void", "background")) == "void"
    decode, notes = Decode(wanted.tasks, _is_masked(compat), void), tuple(facts["notes"])
    return dense.Found(original.layout, original.keys, original.read, decode, notes)


DATASET = Taskonomy(
  name="taskonomy",
  title=taskonomy_layouts.TITLE,
  tasks=TASKS,
  # Test: counted in the published split of MultiMAE; 381840 in all (AdaShare,
  # section 4), of which about 275,000 for training; that and validation are rounded.
  sizes={"train": 275000, "validation": 52000, "test": 54514},
  stored={"auto": (512, 512)},
  values={
    "crop": (224, 224),
    "tasks": TASKS,
    "weights": {"segmentation": 1.0, "normals": 3.0, "depth": 2.0, "keypoints": 7.0, "edges": 7.0},
    "layout": "auto",
    "height": 256,
    "width": 256,
  },
  switches={
    "normal_mask": "depth",
    "unlabelled": "void",
    "pictures": "smooth",
    "class_weights": "equal",
  },
)
defaults, compat = DATASET.defaults, DATASET.compat
build, outline, original = DATASET.build, DATASET.outline, DATASET.original


@dataclasses.dataclass(frozen=True)
class Decode(dense_layouts.Decode):
  """Makes an example of raw fields; picklable.

  Attributes:
    masked: whether normals count only where there is a depth.
    void: whether pixels without a class are left out; else background.
  """

  masked: bool
  void: bool

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ids = fields["segmentation"].astype(np.int32)
    if ids.max() > len(CLASSES):
      raise ValueError(
        f"its segmentation has the id {ids.max()}; known are 0 (none) to {len(CLASSES)}."
      )
    return np.maximum(ids - 1, 0), ids > 0 if self.void else np.ones(ids.shape, bool)

  def _normals(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    # By channel: NumPy is slow along an axis of 3.
    parts = [
      fields["normals"][..., i].astype(np.float32) * np.float32(2 / 255) - 1 for i in range(3)
    ]
    length = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
    normals = np.stack([p / length for p in parts], -1)  # bytes are never 0
    if not self.masked:
      return normals, np.ones(length.shape, bool)
    return normals, (length >= _SHORT) & (fields["depth"] < FARTHEST)

  def _depth(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of the distance."""
    valid = fields["depth"] < FARTHEST
    distance = np.where(valid, fields["depth"], 0).astype(np.float32)
    return np.log1p(distance) / np.float32(_RANGE), valid

  def _keypoints(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return _response(fields["keypoints"], KEYPOINTS)

  def _edges(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return _response(fields["edges"], EDGES)


def _response(stored: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
  """A heatmap, cut off at `most` and stretched to -1..1."""
  share = stored.astype(np.float32) / np.float32(2**16 * most)
  return np.minimum(share, 1) * 2 - 1, np.ones(stored.shape, bool)


def _is_masked(compat: ConfigDict) -> bool:
  return options.switch(compat, "normal_mask", ("depth", "none")) == "depth"


def _pictures(compat: ConfigDict) -> str:
  """How photographs are resized."""
  return options.switch(compat, "pictures", ("smooth", "nearest"))


def _prior(path: pathlib.Path) -> list[float]:
  """The authors' class weights, where the file is there."""
  if not path.is_file():
    return []
  factors = files.read_array(path)
  if factors.shape != (len(CLASSES),) or not (factors > 0).all():
    raise ValueError(
      f"{path} must hold {len(CLASSES)} numbers above 0; its shape is {factors.shape}."
    )
  return factors.astype(float).tolist()
