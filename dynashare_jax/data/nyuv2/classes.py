"""Facts about NYU Depth V2: its classes, and which frames are for testing.

The labelled file names 894 objects. Published work uses 40 classes of them (Gupta et al. 2013) or
13 (Couprie et al. 2013); an object's class among the 13 follows from its class among the 40.
"""

from __future__ import annotations

import numpy as np

FRAMES = 1449  # labelled, numbered from 0 in the order of the labelled file

_NAMES_40 = (
  "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, "
  "blinds, desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, "
  "refrigerator, television, paper, towel, shower curtain, box, whiteboard, person, night stand, "
  "toilet, sink, lamp, bathtub, bag, other structure, other furniture, other prop"
)
_NAMES_13 = (
  "bed, books, ceiling, chair, floor, furniture, objects, picture, sofa, table, tv, wall, window"
)
CLASSES = {40: tuple(_NAMES_40.split(", ")), 13: tuple(_NAMES_13.split(", "))}

# Of every object 1 .. 894 its class, 1 as "0", 2 as "1", ... 40 as "W".
# Source: classMapping40.mat, published with Gupta et al. 2013.
_OF_OBJECTS = (
  "WW2E4W;UWW1VWWIWGW6W0WWQULW7WWWWUWW=WUWWW>VWMWWVWVUWUWTWUU8WWUW:UWWWWWWW"
  "WWWWWWU<WW5WFWV9?WWWWUWWWWWWWWWUWVWWWWVUWWWWWWAWWBKPWWWWWWWWWUJSWWWWDWCR"
  "WWWWWWWWUWWW3OWWVWVWWWWW@WWHWVWWWWWWWWVWWWWWWWWWWWWWWWWWWWWVWWWWWWWWWVUU"
  "WWVWVWUVUWWWWWWWWWWVWUWWUUWWWWWWWWWWWWWUWWWWWVWWWWWWWWWWWWWWWVWWWWWWWWWW"
  "WWVWWWUWWVWWUWWWWWWWWWWWVWWWWWWWWWWWWWWWWWNWWWWWWWUWWUVVWWWWWWWWWUWVWWVW"
  "WWUWWWWWWWWUVWWWWWWUWWWWWWWWWWWUVWWWWWWWVWWWWWWUWWWUWVWWWVVWWWWWWWWWWVWW"
  "WWWWWWWWWWVVWWVVWWWWUWWUVVWVWVUWWWWWWWWWWWVWUWVWWWWWVVWWWWWWVVWWUVVWWWWW"
  "WWWWVVWWWWVWWWWWVWWVWWWWWWWWWWWWWWWVUWWWWWWWVUVWUVWVWVWWWWWWWWUWWWWWUWWV"
  "WWWVWUWWWWWWWWUWWWWWWWWWWWWWWWWVUWWUWWUWWWWWWWWWVWWWWWWWWWWWWWWWWUWWUWWW"
  "WWWWWWWWUUUWWWUWWWUUWWWWWWWWWWWWWWWWWUWWWWWWWWWWWWWUWUVWWWWWWWWWWWWWWWWW"
  "WWWWWWWWWWWWWVWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWVWVWWWWUUWWWUWWWWWWWWWW"
  "WWWWVWWVWWVVWWWWWWWWVVVWWWWVWWWWWWWWVWWWWWVWWWWWWWWWWWWWWUWWWWWWWVWWUWVW"
  "WWWUWWWWWUWWWWWWWVWWWWWWWWWVWW"
)

# Of every one of the 40 its class among the 13, in hexadecimal and from 1.
# Source: class13Mapping.mat, published with the 13 classes.
_OF_40 = "C56149ACD686DA6D67757326B777777677777767"

# Bit i is set when frame i is for testing: 654 of them.
# Source: testNdxs of splits.mat, published with Silberman et al. 2012.
_TEST = int(
  "1ff01e0f03fc1fe7f8001980f1c0fcf00060fe77ff0fc01ffe3c0073e0f8fff0f80fce67"
  "e3fff80c7fc701efeff8ffc000319806380700e0f07c001fe73c0070078e0700e0000000"
  "0703f0e3fff00703e0f8007ffffffc000c03cf831fe0733e1f9f8c386183f001f187c03c"
  "07c07fffc70071c3ffdf80000001ff3e000ff07e0003c001c3f80000ffcc0007ff01ce03"
  "f801fc1c08002000000380fc3fffff8fdc00700013df070000007f878007d8067fff813e"
  "103",
  16,
)


def table(stored: int, wanted: int) -> np.ndarray:
  """Returns int32 `[stored]`: of each stored class, from 0, the wanted class, from 0.

  Args:
    stored: 894, 40 or 13: how many classes the labels on disk distinguish.
    wanted: 40 or 13.

  Raises:
    ValueError: the wanted classes do not follow from the stored ones.
  """
  numbers = np.arange(stored, dtype=np.int32)
  if stored == wanted:
    return numbers
  if stored == 13:
    raise ValueError("These labels tell only 13 classes apart: set config.data.classes to 13.")
  if stored == 894:
    numbers = np.array([ord(c) - ord("0") for c in _OF_OBJECTS], np.int32)
  return numbers if wanted == 40 else np.array([int(c, 16) - 1 for c in _OF_40], np.int32)[numbers]


def is_test(frame: int) -> bool:
  """Returns whether a frame, numbered from 0, is for testing."""
  return bool(_TEST >> frame & 1)
