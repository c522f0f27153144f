"""Tiny-Taskonomy: rooms with classes, normals, depth, keypoints and edges.

Pictures of 35 buildings: 25 for training, 5 for validation, 5 for testing.
AdaShare trains on these 5 of its 26 tasks.

Source: Zamir et al., Taskonomy: Disentangling Task Transfer Learning, CVPR
  2018; the 5 tasks and their scaling as in Standley et al. 2020 and AdaShare.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.taskonomy import layouts as taskonomy_layouts

TASKS = taskonomy_layouts.TASKS
# Source: list of selected COCO classes, published with Taskonomy.
CLASSES = (
  "background",
  "bottle",
  "chair",
  "couch",
  "potted plant",
  "bed",
  "dining table",
  "toilet",
  "tv",
  "microwave",
  "oven",
  "toaster",
  "sink",
  "refrigerator",
  "book",
  "clock",
  "vase",
)
FARTHEST = 64500  # 1/512 m; what is stored from here on is no depth
KEYPOINTS = 0.005  # of 2^16: where keypoints are cut off
EDGES = 0.08  # of 2^16: where edges are cut off
PRIOR = "semseg_prior_factor.npy"

_SHORT = 0.5  # a decoded normal shorter than this is none
_RANGE = float(np.log(2.0**16))
# Test: counted in the published split of MultiMAE; 381840 in all (AdaShare,
# section 4), of which about 275,000 for training.
_SIZES = {"train": 275000, "validation": 52000, "test": 54514}


def defaults() -> dict[str, Any]:
  """Default values of `config.data`: those of `dense.defaults`, and these.

  Returns:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the
    total loss. layout: a key of `taskonomy_layouts.HELP`, or auto. height,
    width: of all pictures; 0 as stored (512).
  """
  return {
    **dense.defaults(),
    "crop": (224, 224),
    "tasks": TASKS,
    "weights": {"segmentation": 1.0, "normals": 3.0, "depth": 2.0, "keypoints": 7.0, "edges": 7.0},
    "layout": "auto",
    "height": 256,
    "width": 256,
  }


def compat() -> dict[str, Any]:
  """Switches at their corrected values: those of `dense.compat`, and these.

  Returns:
    normal_mask: `depth`: normals count where there is a depth, and where they
    are normals; or `none`: everywhere, as in the authors' code, which never
    applies its mask. unlabelled: `void`, or `background`: the authors take
    pixels without a class for background. pictures: `smooth`, or `nearest`: the
    authors shrink photographs by picking pixels. class_weights: `equal`, or
    `prior`: the authors weigh the classes of segmentation by the file `PRIOR`
    beside their lists (background 0.54, others 7.2 to 9.2).
  """
  return {
    **dense.compat(),
    "normal_mask": "depth",
    "unlabelled": "void",
    "pictures": "smooth",
    "class_weights": "equal",
  }


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Finds the data set; pictures are read when they are asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    compat: switches as in the function `compat`; those that it lacks are
      corrected.
    data_dir: a folder in one of the layouts of `taskonomy_layouts.HELP`.
    seed: not used.

  Returns:
    The data set. Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`,
    from 0. normals: float32 `[H, W, 3]`, unit, the axes as stored, of which
    the first is horizontal. depth: float32 `[H, W]`, log(1 + d) / log(2^16)
    of the distance d in 1/512 m. keypoints and edges: float32 `[H, W]`, -1 (no
    response) to 1 (cut off).

  Raises:
    ValueError: a wrong value in `config`, no data set in the folder, or an
      example that cannot be read. The example of a damaged file is left out
      once the file is removed.

  Source: AdaShare's data loader.
  Differs: see `compat`; the authors also replace an example that cannot be
    read by the first one. Depth is a logarithm, so it is scored as a
    regression (L1, as in AdaShare's Table 4), and stays when a picture is
    scaled. Where pixels are picked, they are the ones nearest to the middle;
    OpenCV picks those above and left. Their `test_small` validates where
    `compat.selection` is `test`.
  """
  del seed
  tasks, size = _chosen(config), dense_layouts.wanted_size(config)
  specs = _specs(tasks, config, compat)
  masked = _switch(compat, "normal_mask", ("depth", "none")) == "depth"
  void = _switch(compat, "unlabelled", ("void", "background")) == "void"
  layout = _layout(config, compat, data_dir, size)
  decode = Decode(tasks, masked, void)
  keys, switches = dict(layout.keys), compat
  notes = layout.notes
  small = keys.pop("small", ())
  if small and compat.get("selection") == "test":
    keys["validation"] = small
    switches = ConfigDict({**dict(compat), "selection": "validation"})
    notes += (f"validation is test_small: {len(small)} examples of test (compat.selection)",)
  found = dense.Found(_told(layout), keys, layout.read, decode, notes)
  return dense.assemble("taskonomy", _weights(specs, data_dir, compat), found, config, switches)


def original(config: ConfigDict, compat: ConfigDict, data_dir: str | None) -> store.Original:
  """What `data.store` converts; see there."""
  size = dense_layouts.wanted_size(config)
  layout = _layout(config, compat, data_dir, size)
  there = data_dir is not None and (pathlib.Path(data_dir) / PRIOR).is_file()
  facts = {
    "notes": list(layout.notes),
    "pictures": _pictures(compat) if size else "",
    "prior": _prior(data_dir).tolist() if there else [],
  }
  return store.Original(
    _told(layout), layout.keys, layout.read, facts, _fields(config, compat), size
  )


def _layout(
  config: ConfigDict, compat: ConfigDict, data_dir: str | None, size: tuple[int, int] | None
) -> taskonomy_layouts.Layout:
  """The files, or a converted copy of them."""
  fields = _fields(config, compat)
  smooth = _pictures(compat) == "smooth"
  if data_dir and store.is_copy(data_dir):
    copy = store.open_copy(data_dir, "taskonomy", fields, size, ("image",) if smooth else ())
    made = copy.facts["pictures"]
    if made not in ("", _pictures(compat)):
      raise ValueError(
        f"{data_dir} is a converted copy made with"
        f" config.compat.pictures={made!r}, not"
        f" {_pictures(compat)!r}: convert again."
      )
    return taskonomy_layouts.Layout(copy.layout, copy.keys, copy.read, tuple(copy.facts["notes"]))
  return taskonomy_layouts.find(data_dir, config.layout, fields, size, smooth)


def _told(layout: taskonomy_layouts.Layout) -> str:
  """What was found, with the numbers of examples."""
  if isinstance(layout.read, store.Reader):
    return layout.name
  counts = ", ".join(
    f"{len(part)} {split}" for split, part in layout.keys.items() if split != "small"
  )
  return f"{layout.name} ({counts})"


def _fields(config: ConfigDict, compat: ConfigDict) -> tuple[str, ...]:
  """Stored fields that the tasks need."""
  tasks = _chosen(config)
  masked = _switch(compat, "normal_mask", ("depth", "none")) == "depth"
  more = masked and "normals" in tasks and "depth" not in tasks
  return ("image", *tasks, "depth") if more else ("image", *tasks)


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """What is known before the data set is on disk; see `dense.outline`.

  The numbers of training and validation examples are rounded.

  Raises:
    ValueError: a wrong value in `config`.
  """
  size = dense_layouts.wanted_size(config) or (512, 512)
  return dense.outline(
    "taskonomy", _specs(_chosen(config), config, compat), size, _SIZES, config, compat
  )


@dataclasses.dataclass(frozen=True)
class Decode:
  """Makes an example of raw fields; picklable.

  Attributes:
    tasks: in order.
    masked: whether normals count only where there is a depth.
    void: whether pixels without a class are left out; else background.
  """

  tasks: tuple[str, ...]
  masked: bool
  void: bool

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example; labels that are not valid are finite.

    Raises:
      ValueError: an id that is neither a class nor void.
    """
    decoders = {
      "segmentation": self._segmentation,
      "normals": self._normals,
      "depth": _depth,
      "keypoints": lambda f: _response(f["keypoints"], KEYPOINTS),
      "edges": lambda f: _response(f["edges"], EDGES),
    }
    found = {task: decoders[task](fields) for task in self.tasks}
    return dense_layouts.example(fields["image"], found)

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ids = fields["segmentation"].astype(np.int32)
    if ids.max() > len(CLASSES):
      raise ValueError(
        f"its segmentation has the id {ids.max()}; known are 0 (none) to {len(CLASSES)}."
      )
    valid = ids > 0
    if not self.void:
      valid = np.ones_like(valid)
    return np.maximum(ids - 1, 0), valid

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


def _depth(fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Logarithm of the distance."""
  valid = fields["depth"] < FARTHEST
  distance = np.where(valid, fields["depth"], 0).astype(np.float32)
  return np.log1p(distance) / np.float32(_RANGE), valid


def _response(stored: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
  """A heatmap, cut off at `most` and stretched to -1..1."""
  share = stored.astype(np.float32) / np.float32(2**16 * most)
  return np.minimum(share, 1) * 2 - 1, np.ones(stored.shape, bool)


def _weights(
  specs: tuple[types.TaskSpec, ...], data_dir: str | None, compat: ConfigDict
) -> tuple[types.TaskSpec, ...]:
  """The tasks with the authors' class weights, where they are asked for."""
  how = _switch(compat, "class_weights", ("equal", "prior"))
  if how == "equal":
    return specs
  weights = tuple(_prior(data_dir).tolist())
  return tuple(
    dataclasses.replace(task, class_weights=weights) if task.kind == "segmentation" else task
    for task in specs
  )


def _prior(data_dir: str | None) -> np.ndarray:
  """The authors' class weights, from their file or a converted copy."""
  path = pathlib.Path(data_dir or "") / PRIOR
  if data_dir and store.is_copy(data_dir):
    factors = np.array(store.facts(data_dir, "taskonomy")["prior"])
    if not len(factors):
      raise ValueError(f"{data_dir} is a converted copy of files without {PRIOR}.")
  else:
    factors = files.read_array(path)
  if factors.shape != (len(CLASSES),) or not (factors > 0).all():
    raise ValueError(
      f"{path} must hold {len(CLASSES)} numbers above 0; its shape is {factors.shape}."
    )
  return factors.astype(float)


def _pictures(compat: ConfigDict) -> str:
  """How photographs are resized."""
  return _switch(compat, "pictures", ("smooth", "nearest"))


def _specs(
  tasks: tuple[str, ...], config: ConfigDict, compat: ConfigDict
) -> tuple[types.TaskSpec, ...]:
  """How the rest of the house sees the tasks."""
  made = {
    "segmentation": types.TaskSpec("segmentation", "segmentation", len(CLASSES), classes=CLASSES),
    "normals": types.TaskSpec("normals", "normals", 3),
    "depth": types.TaskSpec("depth", "regression", 1, unit="log"),
    "keypoints": types.TaskSpec("keypoints", "regression", 1),
    "edges": types.TaskSpec("edges", "regression", 1),
  }
  return tuple(
    dataclasses.replace(
      made[task], weight=dense_layouts.weight(config, task), metrics=compat.get("metrics", "pooled")
    )
    for task in tasks
  )


def _switch(compat: ConfigDict, name: str, known: tuple[str, str]) -> str:
  """A switch; corrected where the configuration does not have it."""
  return lookup.one_of(f"config.compat.{name}", compat.get(name, known[0]), known)


def _chosen(config: ConfigDict) -> tuple[str, ...]:
  return dense_layouts.chosen_tasks(taskonomy_layouts.TITLE, tuple(config.tasks), TASKS)
