"""Augmentation of pictures with dense labels, on the host or the device.

What is random of an example is a `Draw`, a pure function of (seed, stream, position in the order of
training); applying it is a pure function of the example. So a resumed run, another number of
processes, workers or devices, and data in memory or streamed all see the same examples.
"""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.objectives import kinds
from dynashare_jax.types import Array

_GREY = (0.299, 0.587, 0.114)  # luminance of RGB (ITU-R BT.601)


class Draw(NamedTuple):
  """The random values of some examples.

  Attributes:
    scale: float32 `[...]`, factor on the picture's size.
    mirror: bool `[...]`, left and right exchanged.
    row: float32 `[...]` in [0, 1), where the crop lies between top and bottom.
    column: the same between left and right.
    colour: float32 `[..., 3]`, factors of brightness, contrast, saturation.
  """

  scale: Array
  mirror: Array
  row: Array
  column: Array
  colour: Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random scale, mirror, crop and colour of examples with dense labels.

  Attributes:
    tasks: of the data set; their kinds say how labels change.
    crop: height and width of what comes out.
    scales: lowest and highest factor on the picture's size.
    mirror: whether half of the examples are mirrored.
    jitter: colour factors lie within 1 - jitter and 1 + jitter; 0 for none.
    depth_scaled: whether enlarging a picture divides its depths (multiplies
      inverse ones), as coming nearer would; the authors leave them.
    normals_negated: whether mirroring negates the x component of normals; the
      authors leave it on NYU v2.
    padding: black pixels on every side of the scaled picture, before the crop.

  Source: AdaShare's data loaders (scale 0.5 to 1.5, mirror, centre pad, random
    crop); the picture bilinear, labels nearest.
  """

  tasks: tuple[types.TaskSpec, ...]
  crop: tuple[int, int]
  scales: tuple[float, float] = (0.5, 1.5)
  mirror: bool = True
  jitter: float = 0.0
  depth_scaled: bool = True
  normals_negated: bool = True
  padding: int = 0

  def __post_init__(self) -> None:
    """Checks the ranges.

    Raises:
      ValueError: a crop below 1 pixel, scales that are not 0 < low <= high, a jitter
        outside [0, 1], or a padding below 0.
    """
    if min(self.crop) < 1:
      raise ValueError(f"The crop {self.crop} must be a height and a width of at least 1 pixel.")
    if not 0 < self.scales[0] <= self.scales[1]:
      raise ValueError(f"The scales {self.scales} must be (low, high) with 0 < low <= high.")
    if not 0 <= self.jitter <= 1:
      raise ValueError(f"The jitter must be in [0, 1], but is {self.jitter}.")
    if self.padding < 0:
      raise ValueError(f"The padding must be at least 0 pixels, but is {self.padding}.")

  def draw(self, seed: int, stream: str, positions: Int[np.ndarray, "..."]) -> Draw:
    """Draws for places in the order of training.

    Args:
      stream: a name; other names give other draws.
      positions: step times batch size plus row.

    Returns:
      Arrays whose leading axes are those of `positions`.
    """
    places = np.asarray(positions, np.int64)
    uniform = np.array([_uniforms(seed, stream, int(p)) for p in places.flat], np.float64)
    uniform = uniform.reshape((*places.shape, 7))
    low, high = self.scales
    part = lambda i: uniform[..., i].astype(np.float32)
    # float32 may round a number just below 1 up to it.
    inside = lambda i: np.minimum(part(i), np.float32(1 - 2**-24))
    return Draw(
      np.float32(low) + part(0) * np.float32(high - low),
      (uniform[..., 1] < 0.5) & self.mirror,
      inside(2),
      inside(3),
      (1 + self.jitter * (2 * uniform[..., 4:] - 1)).astype(np.float32),
    )

  def example(self, example: types.Batch, draw: Draw) -> types.Batch:
    """Varies one example of NumPy arrays on the host.

    Args:
      example: without the leading axis; inputs `[H, W, 3]`. Labels of the whole
        example (`valid` a scalar) stay.

    Returns:
      The example at the size of the crop. Pixels outside of the picture are
      black and have no label.
    """
    return self._apply(example, draw, np)

  def batch(self, batch: types.Batch, draws: Draw) -> types.Batch:
    """Varies a batch in a traced function: what `example` gives, up to rounding."""
    one = lambda example, draw: self._apply(example, draw, jnp)
    varied: types.Batch = jax.vmap(one)(batch, draws)
    return varied

  def _apply(self, example: types.Batch, draw: Draw, xp: ModuleType) -> types.Batch:
    height, width = example.inputs.shape[:2]
    axis = functools.partial(_axis, xp, self.padding, draw.scale)
    rows = axis(height, self.crop[0], draw.row, False)
    columns = axis(width, self.crop[1], draw.column, draw.mirror)
    inside = rows.inside[:, None] & columns.inside[None, :]
    picture = _bilinear(xp, example.inputs, rows, columns)
    if self.jitter:
      picture = _coloured(xp, picture, inside, draw.colour)
    picture = xp.where(inside[..., None], picture, xp.float32(0))
    targets, valid = dict(example.targets), dict(example.valid)
    distance = draw.scale if self.depth_scaled else xp.float32(1)
    turned = draw.mirror & self.normals_negated
    sideways = xp.where(turned, xp.float32(-1), xp.float32(1))
    for task in self.tasks:
      if valid[task.name].ndim < 2:
        continue
      known = _nearest(xp, valid[task.name], rows, columns) & inside
      label = _nearest(xp, targets[task.name], rows, columns)
      label = kinds.dense(task.kind).moved(task, label, distance, sideways, xp)
      extra = (1,) * (label.ndim - 2)
      targets[task.name] = xp.where(
        inside.reshape(inside.shape + extra), label, xp.zeros((), label.dtype)
      )
      valid[task.name] = known
    return example._replace(inputs=picture, targets=targets, valid=valid)


class _Axis(NamedTuple):
  """Where the pixels of a crop come from, along one axis."""

  inside: Any  # bool [crop]
  nearest: Any  # int32 [crop]
  low: Any  # int32 [crop], the neighbour above or left
  high: Any
  weight: Any  # float32 [crop], of the other neighbour


def _axis(
  xp: ModuleType, padding: int, scale: Any, size: int, crop: int, place: Any, mirror: Any
) -> _Axis:
  """Scales an axis, pads both its ends, at least to the crop, and cuts the crop out."""
  scaled = xp.maximum(xp.floor(xp.float32(size) * scale + xp.float32(0.5)), xp.float32(1))
  padded = xp.maximum(scaled + xp.float32(2 * padding), xp.float32(crop))
  before = xp.floor((padded - scaled) / 2)
  offset = xp.floor(place * (padded - xp.float32(crop) + 1))
  at = xp.arange(crop, dtype=xp.float32) + offset - before
  inside = (at >= 0) & (at < scaled)
  at = xp.where(mirror, scaled - 1 - at, at)
  centre = (at + xp.float32(0.5)) * (xp.float32(size) / scaled)
  limit = lambda i: xp.clip(i, 0, size - 1).astype(xp.int32)
  low = xp.floor(centre - xp.float32(0.5))
  weight = (centre - xp.float32(0.5) - low).astype(xp.float32)
  return _Axis(inside, limit(xp.floor(centre)), limit(low), limit(low + 1), weight)


def _nearest(xp: ModuleType, labels: Any, rows: _Axis, columns: _Axis) -> Any:
  """Picks labels; they are never mixed."""
  return xp.take(xp.take(labels, rows.nearest, axis=0), columns.nearest, axis=1)


def _bilinear(xp: ModuleType, image: Any, rows: _Axis, columns: _Axis) -> Any:
  """Mixes the four neighbours, first by rows; edges repeat."""
  image = image.astype(xp.float32)
  for axis, at in enumerate((rows, columns)):
    low, high = (xp.take(image, places, axis=axis) for places in (at.low, at.high))
    weight = xp.expand_dims(at.weight, (1 - axis, 2))
    image = low * (1 - weight) + high * weight
  return image


def _coloured(xp: ModuleType, image: Any, inside: Any, factors: Any) -> Any:
  """Brightness, then contrast about the mean grey, then saturation."""
  weights = xp.asarray(_GREY, xp.float32)[None, None]
  image = image * factors[0]
  grey = (image * weights).sum(-1)
  count = xp.maximum(inside.sum(), 1).astype(xp.float32)
  mean = xp.where(inside, grey, xp.float32(0)).sum() / count
  image = mean + (image - mean) * factors[1]
  grey = (image * weights).sum(-1)[..., None]
  return xp.clip(grey + (image - grey) * factors[2], 0, 1)


def _uniforms(seed: int, stream: str, position: int) -> np.ndarray:
  """Seven numbers in [0, 1)."""
  bits = loader.bits(seed, stream, position, 7) >> np.uint64(11)
  return bits.astype(np.float64) * 2.0**-53
