"""Surface normals from depth, by planes fitted to the neighbours of a pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import itertools
from typing import NamedTuple

import numpy as np

SHORTEST = 0.5  # a decoded normal shorter than this is none

_SMALLEST = 1e-12  # variance in square metres below which points are one point


class Camera(NamedTuple):
  """A pinhole camera; pixel (row i, column j) has its centre at (i, j) + 0.5.

  Attributes:
    fx: focal length along x, pixels.
    fy: focal length along y, pixels.
    cx: where the optical axis meets the picture, pixels from its left edge.
    cy: pixels from its upper edge.
  """

  fx: float
  fy: float
  cx: float
  cy: float


# The RGB camera of NYU Depth V2. Source: camera_params.m of its toolbox, which
# counts the centres of pixels from 1: half a pixel more than here.
_KINECT = Camera(518.857901, 519.469611, 325.582449 - 0.5, 253.736166 - 0.5)
_KINECT_SIZE = (480, 640)


def kinect(size: tuple[int, int]) -> Camera:
  """Returns the RGB camera of NYU Depth V2 for pictures of a size.

  Args:
    size: height and width; of the shape of 480 x 640 the picture is taken for
      a resized one, else for one whose border was cut off evenly.
  """
  down, across = size[0] / _KINECT_SIZE[0], size[1] / _KINECT_SIZE[1]
  fx, fy, cx, cy = _KINECT
  if abs(down - across) < 0.01 * across:
    return Camera(fx * across, fy * down, cx * across, cy * down)
  return Camera(fx, fy, cx - (_KINECT_SIZE[1] - size[1]) / 2, cy - (_KINECT_SIZE[0] - size[0]) / 2)


def fit(
  depth: np.ndarray, camera: Camera, radius: int = 10, fewest: float = 0.25, roughest: float = 0.006
) -> tuple[np.ndarray, np.ndarray]:
  """Fits a plane to the points in a square window around every pixel.

  The normal is the direction in which the points vary least: the eigenvector of the smallest
  eigenvalue of their covariance, whose sums are box filters.

  Args:
    depth: metres along the optical axis `[H, W]`; 0, negative or not finite where unknown.
    camera: that took it.
    radius: a window has 2 radius + 1 rows and columns, fewer at the border.
    fewest: the share of a whole window's pixels that must have a depth.
    roughest: how far the points may lie from their plane, root mean square, as a share of the
      pixel's depth: beyond, an edge runs through the window.

  Returns:
    Float32 `[H, W, 3]`, unit, x right, y down, z forward, pointing towards the camera; (0, 0, -1)
    where there is none. Bool `[H, W]`, False where the pixel has no depth, too few points are
    around it, they lie on one line, or no plane fits them.

  Raises:
    ValueError: depth is not two-dimensional, or a radius below 1.

  Differs: from the normals that AdaShare ships, on its four samples, by 1.7 degrees (median; mean
    4.6) for the 76% of pixels that both have; without `roughest` by 2.6 (mean 14.6).
  """
  depth = np.asarray(depth, np.float64)
  if depth.ndim != 2 or radius < 1:
    raise ValueError(
      "Normals need depth [H, W] and a radius of at least 1, not"
      f" the shape {depth.shape} and the radius {radius}."
    )
  known = np.isfinite(depth) & (depth > 0)
  points = _points(np.where(known, depth, 0.0), camera)
  matrix, count = _covariances(points, known, radius)
  normal, variance, usable = _flattest(matrix)
  usable &= variance <= (roughest * points[2]) ** 2
  usable &= known & (count >= max(3.0, fewest * (2 * radius + 1) ** 2))
  away = (normal * points).sum(0) > 0
  normal = np.where(away, -normal, normal)
  normal = np.where(usable, normal, np.array([0.0, 0.0, -1.0])[:, None, None])
  return np.moveaxis(normal, 0, -1).astype(np.float32), usable


def unit(parts: Sequence[np.ndarray], valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Brings decoded normals to length 1.

  Args:
    parts: their three components, float32 `[H, W]` (by channel, as NumPy is
      slow along an axis of 3); finite where valid.
    valid: where there are any.

  Returns:
    Float32 `[H, W, 3]`; and `valid`, without those shorter than a half.
  """
  square = parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2
  valid = valid & (square >= SHORTEST**2)
  length = np.sqrt(np.where(valid, square, np.float32(1)))
  return np.stack([part / length for part in parts], -1), valid


class Axes(NamedTuple):
  """The channels and signs that make x right, y down, z forward of stored normals.

  Attributes:
    channels: the stored channel of x, y and z.
    signs: the factor of each, 1 or -1.
  """

  channels: tuple[int, int, int] = (0, 1, 2)
  signs: tuple[int, int, int] = (1, 1, 1)

  def __call__(self, normals: np.ndarray) -> np.ndarray:
    """Turns `[..., 3]`."""
    signs = np.array(self.signs, normals.dtype)
    return normals[..., list(self.channels)] * signs

  def __str__(self) -> str:
    """For example `+0 -2 +1`: y is minus the stored channel 2."""
    return " ".join(
      f"{'+' if s > 0 else '-'}{c}" for c, s in zip(self.channels, self.signs, strict=True)
    )


_AXES = tuple(
  Axes(channels, signs)
  for channels in itertools.permutations(range(3), 3)
  for signs in itertools.product((1, -1), (1, -1), (1, -1))
)


def read_axes(text: str) -> Axes:
  """Reads what `Axes` prints.

  Raises:
    ValueError: it is no signed order of the channels 0, 1 and 2.
  """
  found = {str(axes): axes for axes in _AXES}.get(" ".join(text.split()))
  if found is None:
    raise ValueError(
      f"config.data.normal_axes is {text!r}; it must be 'auto' or say which stored channel, with"
      " which sign, points right, down and forward: for example '+0 -2 +1'."
    )
  return found


def match(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Axes, float, float]:
  """Finds the axes of stored normals by comparing them with fitted ones.

  Args:
    pairs: of some pictures the stored and the fitted unit normals of the same
      pixels, both `[N, 3]`.

  Returns:
    The likeliest of all 48 axes, the mean cosine of the angle that remains, and
    that of the second likeliest: where the two are alike, nothing is decided.
  """
  sums, count = np.zeros((3, 3)), 0
  for stored, fitted in pairs:
    sums += fitted.T.astype(np.float64) @ stored
    count += len(stored)
  cosine = lambda axes: sum(s * sums[i, c] for i, (c, s) in enumerate(zip(*axes, strict=True)))
  best, second = sorted(_AXES, key=cosine, reverse=True)[:2]
  return best, cosine(best) / max(count, 1), cosine(second) / max(count, 1)


def _points(depth: np.ndarray, camera: Camera) -> np.ndarray:
  """Points `[3, H, W]` in metres."""
  rows, columns = (np.arange(n) + 0.5 for n in depth.shape)
  x = (columns[None] - camera.cx) / camera.fx
  y = (rows[:, None] - camera.cy) / camera.fy
  return np.stack([x * depth, y * depth, depth])


def _covariances(
  points: np.ndarray, known: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
  """Covariances xx, xy, xz, yy, yz, zz `[6, H, W]`, and counts `[H, W]`."""
  count = _boxes(known.astype(np.float64), radius)
  divisor = np.maximum(count, 1.0)
  means = [_boxes(p, radius) / divisor for p in points]
  pairs = itertools.combinations_with_replacement(range(3), 2)
  matrix = np.stack(
    [_boxes(points[i] * points[j], radius) / divisor - means[i] * means[j] for i, j in pairs]
  )
  return matrix, count


def _boxes(values: np.ndarray, radius: int) -> np.ndarray:
  """Sums of `[H, W]` over windows, cut off at the border."""
  for axis in (0, 1):
    size = values.shape[axis]
    total = np.insert(np.cumsum(values, axis), 0, 0.0, axis)
    first, end = np.arange(size) - radius, np.arange(size) + radius + 1
    values = total.take(np.minimum(end, size), axis) - total.take(np.maximum(first, 0), axis)
  return values


def _flattest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Eigenvectors `[3, H, W]` of the smallest eigenvalues, these, and where they are unique."""
  # Source: the trigonometric solution of the characteristic polynomial; the vector is
  # the longest cross product of two rows of matrix - eigenvalue.
  trace = matrix[0] + matrix[3] + matrix[5]
  xx, xy, xz, yy, yz, zz = matrix / np.where(trace > _SMALLEST, trace, 1.0)
  mean = (xx + yy + zz) / 3
  a, b, c = xx - mean, yy - mean, zz - mean
  spread = np.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
  spread = np.maximum(spread, 1e-9)
  half = (a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)) / (
    2 * spread**3
  )
  angle = np.arccos(np.clip(half, -1, 1)) / 3
  low = mean + 2 * spread * np.cos(angle + 2 * np.pi / 3)
  rows = np.stack([[xx - low, xy, xz], [xy, yy - low, yz], [xz, yz, zz - low]])
  vectors = np.stack([np.cross(rows[i], rows[j], axis=0) for i, j in ((0, 1), (0, 2), (1, 2))])
  lengths = np.sqrt((vectors**2).sum(1))
  best = lengths.argmax(0)
  vector = np.take_along_axis(vectors, best[None, None], 0)[0]
  length = np.take_along_axis(lengths, best[None], 0)[0]
  usable = (trace > _SMALLEST) & (length > 1e-6)
  return vector / np.where(length > 0, length, 1.0), low * trace, usable
