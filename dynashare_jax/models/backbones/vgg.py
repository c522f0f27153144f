"""A plain convolutional network for pictures, without shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.models import convolutions
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base


class Vgg(base.Backbone):
  """Segments of 3-wide convolutions, each with a norm and a ReLU, and 2-wide pooling in between.

  The first convolution is the stem, and every other one a block. Pooling belongs to the last
  convolution before it. None can be left out.

  Attributes:
    blocks: convolutions of every segment, in the first one without the stem.
    widths: channels of every segment.
    norm_kind: see `models.norm.layer`.
    mean: subtracted from the colours of pictures in 0..1.
    std: then divided into them.
    dtype: compute type; parameters stay float32.
    kept: see `base.Backbone`.

  Source: Simonyan and Zisserman 2015, configuration D without its linear layers: VGG-16 has
    `blocks` (1, 2, 3, 3, 3).
  Differs: every convolution has a norm, as multi-task papers use it; heads read the last map, or
    its mean.
  """

  blocks: Sequence[int]
  widths: Sequence[int]
  norm_kind: str = "batch"
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  dtype: norm.Dtype = jnp.float32
  kept: tuple[tuple[str, int], ...] = ()
  skips = False
  rectified = True

  @property
  def num_blocks(self) -> int:
    """Convolutions but for the first one."""
    return sum(self.blocks)

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    convolution = lambda width, name: convolutions.Stack(
      2,
      (convolutions.Shape(self.width_at(name, width), 3),),
      self.dtype,
      self.norm_kind,
      bare_end=False,
      kernel_init=nn.initializers.lecun_normal(),
      use_bias=True,
      name=name,
    )
    self.first = convolution(self.widths[0], "stem")
    widths = [w for w, count in zip(self.widths, self.blocks, strict=True) for _ in range(count)]
    self.bodies = [convolution(width, f"block_{b}") for b, width in enumerate(widths)]

  @nn.nowrap
  def segments(self) -> tuple[int, ...]:
    """Returns how many blocks every segment has."""
    return tuple(self.blocks)

  @nn.nowrap
  def stem_layer(self) -> base.Layer:
    """Describes the output of `stem`."""
    return base.Layer("stem", self.widths[0])

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the one convolution of a block, after pooling."""
    ends = list(itertools.accumulate(self.blocks))
    segment = next(s for s, end in enumerate(ends) if block < end)
    stride = 2 ** (segment + self._pools(block))
    return (base.Layer(f"block_{block}/conv", self.widths[segment], stride),)

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns a convolution with its norm."""
    return (place,)

  @nn.nowrap
  def _pools(self, block: int) -> bool:
    """Whether a block ends a segment that another one follows."""
    return block + 1 in itertools.accumulate(self.blocks[:-1])

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns pictures `[B, H, W, 3]` into features `[1, B, H, W, C]`."""
    x = base.whitened(inputs, self.mean, self.std).astype(self.dtype)
    found: jax.Array = self.first(0, x[None], pass_)
    return found

  def layer(self, block: int, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs the convolution of a block, and the pooling after it."""
    x = self.bodies[block](index, x, pass_)
    return nn.max_pool(x, (2, 2), (2, 2)) if self._pools(block) else x


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> Vgg:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: inputs that are no pictures, or smaller than one feature; lists of segments that
      differ in length, an empty segment, an unknown norm, or a width factor that is not above 0.
  """
  base.only_pictures(config, spec)
  lists = base.segments_of(config, ("blocks", "widths"))
  lookup.one_of("config.model.norm", config.norm, norm.NORMS)
  mean, std = base.colours(config)
  size = base.picture_size(spec)
  if min(size) < 2 ** (len(lists["blocks"]) - 1):
    raise ValueError(
      f"config.model.blocks={lists['blocks']} halves pictures {len(lists['blocks']) - 1} times, but"
      f" those of {spec.name} are {size[0]} x {size[1]}: give it fewer segments or larger pictures."
    )
  return Vgg(lists["blocks"], lists["widths"], config.norm, mean, std, dtype)
