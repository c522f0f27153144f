"""Facts about the labels of Cityscapes: classes, categories and parts.

Source: the published label definitions (cityscapesScripts, helpers/labels.py),
  and Cityscapes Panoptic Parts (Meletis et al. 2020, dataset version 2.0).
"""

from __future__ import annotations

import numpy as np

VOID = -1

# Of every label id 0 .. 33 its train id; V: not evaluated.
# unlabeled, ego vehicle, rectification border, out of roi, static, dynamic,
# ground; road, sidewalk, parking, rail track; building, wall, fence, guard
# rail, bridge, tunnel; pole, polegroup, traffic light, traffic sign;
# vegetation, terrain; sky; person, rider; car, truck, bus, caravan, trailer,
# train, motorcycle, bicycle.
_IDS = "V V V V V V V 0 1 V V 2 3 4 V V V 5 V 6 7 8 9 10 11 12 13 14 15 V V 16 17 18"
_TRAIN_IDS = tuple(VOID if text == "V" else int(text) for text in _IDS.split())
# Of every train id its category, without void.
_CATEGORIES = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)

_CLASSES = (
  "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, "
  "sky, person, rider, car, truck, bus, train, motorcycle, bicycle"
)
CLASSES = {
  19: tuple(_CLASSES.split(", ")),
  7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
}
_PARTS = (
  "background, human torso, human head, human arms, human legs, vehicle windows, vehicle wheels, "
  "vehicle lights, vehicle license plate, vehicle chassis"
)
PARTS = tuple(_PARTS.split(", "))
_HUMANS = (24, 25)  # label ids of person, rider
_VEHICLES = (26, 27, 28)  # of car, truck, bus

STORED = ("label ids", "train ids", "categories")


def table(stored: str, wanted: int) -> np.ndarray:
  """Returns int8 `[256]`: of every stored number, modulo 256, the class.

  `VOID` where there is none; -2 for numbers that no file may hold.

  Args:
    stored: one of `STORED`, the meaning of the numbers in the files.
    wanted: 19 or 7 classes.

  Raises:
    ValueError: the wanted classes do not follow from the stored ones.
  """
  if stored == "categories" and wanted != 7:
    raise ValueError("These labels tell only 7 classes apart: set config.data.classes to 7.")
  known = _TRAIN_IDS if stored == "label ids" else tuple(range(7 if stored == "categories" else 19))
  if wanted == 7 and stored != "categories":
    known = tuple(VOID if i == VOID else _CATEGORIES[i] for i in known)
  classes = np.full(256, -2, np.int8)
  classes[: len(known)] = known
  classes[255] = VOID  # also -1
  return classes


def parts(uids: np.ndarray) -> np.ndarray:
  """Returns classes of `PARTS`, int32 `[...]`.

  They are 0 for all that is no part, or whose part is not named, as in the 10-class protocol of
  Auto-Lambda (Liu et al. 2022).

  Args:
    uids: of Cityscapes Panoptic Parts, integers `[...]`. With 6 or 7 digits they are label id, 3
      digits of the instance and 2 of the part; shorter ones name no part.
  """
  numbers = uids.astype(np.int64)
  label, part = numbers // 100_000, numbers % 100
  human = np.isin(label, _HUMANS) & (part >= 1) & (part <= 4)
  vehicle = np.isin(label, _VEHICLES) & (part >= 1) & (part <= 5)
  return np.where(human, part, np.where(vehicle, part + 4, 0)).astype(np.int32)
