"""Edges between regions of a label map, one pixel wide."""

from __future__ import annotations

import numpy as np


def between(regions: np.ndarray) -> np.ndarray:
  """Returns where edges between regions run, bool `[H, W]`.

  Args:
    regions: class ids `[H, W]`.

  Source: ASTMT: a pixel whose class differs from the mean of its four neighbours', thinned.
  """
  from scipy import ndimage  # Takes a while, and no other data set needs it.

  return thin(ndimage.laplace(regions.astype(np.int32), mode="mirror") != 0)


def thin(lines: np.ndarray) -> np.ndarray:
  """Thins lines `[H, W]`, bool, to one pixel; what was connected stays so.

  Source: Guo and Hall, Parallel thinning with two-subiteration algorithms, 1989 (algorithm A1).
  """
  wide = np.pad(lines, 1)
  inner = wide[1:-1, 1:-1]
  height, width = inner.shape
  # Clockwise, from the one above.
  steps = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
  around = [wide[i : i + height, j : j + width] for i, j in steps]
  left = -1
  while left != (left := int(inner.sum())):
    for turn in (0, 4):
      n, ne, e, se, s, sw, w, nw = around
      pairs = ((ne, e, n), (se, s, e), (sw, w, s), (nw, n, w))
      crossings = sum((~before & (one | two)).astype(np.int8) for one, two, before in pairs)
      first = sum((one | two).astype(np.int8) for one, two in ((nw, n), (ne, e), (se, s), (sw, w)))
      second = sum((one | two).astype(np.int8) for one, two in ((n, ne), (e, se), (s, sw), (w, nw)))
      ends = np.minimum(first, second)
      a, b, c, d = (around[(place + turn) % 8] for place in (0, 1, 3, 2))
      kept = (a | b | ~c) & d
      inner &= ~((crossings == 1) & (ends >= 2) & (ends <= 3) & ~kept)
  return inner.copy()
