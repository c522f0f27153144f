"""The decoder of dense predictions from several depths of a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import norm
from dynashare_jax.ops import resize

Depth = Mapping[str, jax.Array]
PARTS = (8, 4, 2, 1)  # of a transformer's channels, that the maps of each depth have


class DptHead(nn.Module):
  """Maps of four depths at four sizes, fused from the smallest on.

  The token of each depth is joined to all of its positions; then its map is put to 4, 2, 1 and 1/2
  times its size. Predictions are at half of the pictures' size where a patch has 16 pixels.

  Attributes:
    outputs: channels of the prediction.
    width: channels of the decoder.
    dropout: before the last layer, in training.
    norm_kind: see `models.norm.layer`.
    dtype: compute type; the last layer computes in float32.

  Source: Ranftl et al. 2021 (DPT), with projected readout tokens and the output layers of its
    segmentation.
  Differs: no norms inside the fusions; sizes are doubled with pixel centres at half integers; maps
    have an eighth to all of the transformer's channels, which is the same for ViT-B.
  """

  outputs: int
  width: int = 256
  dropout: float = 0.1
  norm_kind: str = "batch"
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Sequence[Depth], train: bool) -> jax.Array:
    """Maps four of `{"map": [B, h, w, C], "token": [B, 1, C]}` to `[B, 8 h, 8 w, outputs]`."""
    maps = [self._assembled(index, depth) for index, depth in enumerate(x)]
    h = maps[-1]
    for index in reversed(range(len(maps))):
      if index + 1 < len(maps):
        h = h + self._refined(f"lateral_{index}", maps[index])
      h = self._refined(f"fused_{index}", h)
      height, width = maps[index - 1].shape[1:3] if index else (2 * h.shape[1], 2 * h.shape[2])
      wide = jnp.asarray(resize.enlarge(h, (height, width)))
      h = self._dense(self.width, f"out_{index}")(wide)
    h = self._wide(self.width, "refine", use_bias=False)(h)
    layer = norm.layer(self.norm_kind, self.dtype, "refine_norm")
    h = nn.relu(layer(h[None], jnp.ones((1,)), not train)[0])
    h = nn.Dropout(self.dropout, deterministic=not train)(h).astype(jnp.float32)
    return nn.Dense(self.outputs, dtype=jnp.float32, name="output")(h)

  def _dense(self, width: int, name: str) -> nn.Dense:
    """A 1-wide layer."""
    return nn.Dense(width, dtype=self.dtype, name=name)

  def _wide(self, width: int, name: str, stride: int = 1, use_bias: bool = True) -> nn.Conv:
    """A 3-wide layer."""
    strides = (stride, stride)
    return nn.Conv(
      width, (3, 3), strides, ((1, 1), (1, 1)), use_bias=use_bias, dtype=self.dtype, name=name
    )

  def _assembled(self, index: int, depth: Depth) -> jax.Array:
    """The map of a depth at its size, with the decoder's channels."""
    x = depth["map"]
    token = jnp.broadcast_to(depth["token"][:, None], x.shape)
    joined = self._dense(x.shape[-1], f"readout_{index}")(jnp.concatenate([x, token], -1))
    width = max(x.shape[-1] // PARTS[index], 1)
    h = self._dense(width, f"project_{index}")(nn.gelu(joined, approximate=False))
    if index < 2:
      h = Spread(4 // (index + 1), self.dtype, name=f"resize_{index}")(h)
    if index == 3:
      h = self._wide(width, f"resize_{index}", stride=2)(h)
    return self._wide(self.width, f"assemble_{index}", use_bias=False)(h)

  def _refined(self, name: str, x: jax.Array) -> jax.Array:
    """A pre-activated residual unit."""
    h = self._wide(self.width, f"{name}_0")(nn.relu(x))
    return x + self._wide(self.width, f"{name}_1")(nn.relu(h))


class Spread(nn.Module):
  """A transposed convolution whose kernel is as wide as its stride: positions become squares."""

  size: int
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, h, w, C]` to `[B, size h, size w, C]`."""
    batch, height, width, channels = x.shape
    size = self.size
    many = size * size * channels
    squares = nn.Dense(many, use_bias=False, dtype=self.dtype, name="squares")(x)
    squares = squares.reshape(batch, height, width, size, size, channels).swapaxes(2, 3)
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    whole = squares.reshape(batch, size * height, size * width, channels)
    return whole + bias.astype(whole.dtype)[None, None, None]
