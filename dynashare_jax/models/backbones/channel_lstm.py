"""The channel-wise LSTM of the MIMIC-III benchmark, as a backbone."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models.backbones import base


class ChannelLstm(base.Backbone):
  """A small LSTM per measurement, then residual LSTM layers over all of them.

  Attributes:
    num_blocks: layers over all measurements.
    channels: columns of every measurement; empty reads all columns at once.
    channel_width: state of a measurement's LSTM.
    width: state of a layer.
    dropout: rate before every layer, in training.
    dtype: compute type; parameters stay float32.

  Source: Harutyunyan et al. 2019, Multitask learning and benchmarking with
    clinical time series data (multitask channel-wise LSTM, MCW-LSTM).
  Differs: layers are residual, so that a policy can skip them; none runs
    backwards, because that would see the future.
  """

  num_blocks: int
  channels: tuple[tuple[int, ...], ...] = ()
  channel_width: int = 8
  width: int = 128
  dropout: float = 0.1
  dtype: norm.Dtype = jnp.float32

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    if self.channels:
      cells = nn.vmap(
        Lstm, in_axes=2, out_axes=2, variable_axes={"params": 0}, split_rngs={"params": True}
      )
      self.each_channel = cells(self.channel_width, self.dtype, name="each_channel")
    self.project = nn.Dense(self.width, dtype=self.dtype, name="project")
    self.bodies = [
      LstmBlock(self.width, self.dropout, self.dtype, name=f"block_{b}")
      for b in range(self.num_blocks)
    ]

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns inputs into features `[1, B, time, width]`."""
    del pass_
    x = series.values_of(inputs).astype(self.dtype)
    if self.channels:
      x = self.each_channel(self._by_channel(x))
      x = x.reshape(x.shape[:2] + (-1,))
    return self.project(x)[None]

  def _by_channel(self, x: jax.Array) -> jax.Array:
    """`[B, time, C]` to `[B, time, channels, columns]`, filled up with 0."""
    most = max(map(len, self.channels))
    places = np.zeros((len(self.channels), most), np.int32)
    filled = np.zeros(places.shape, np.float32)
    for row, columns in enumerate(self.channels):
      places[row, : len(columns)] = columns
      filled[row, : len(columns)] = 1
    return x[:, :, places] * filled.astype(x.dtype)[None, None]

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the one layer of a block."""
    return (base.Layer(f"block_{block}/lstm", self.width),)


class Lstm(nn.Module):
  """A forward LSTM over `[B, time, C]`, one scan over time.

  The inputs of all steps are multiplied in one product before the scan.
  """

  width: int
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, time, C]` to `[B, time, width]`."""
    shape = (self.width, 4 * self.width)
    recurrent = self.param("recurrent", nn.initializers.orthogonal(), shape).astype(self.dtype)
    fed = nn.Dense(4 * self.width, dtype=self.dtype, name="inputs")(x)

    def step(carry: Any, now: jax.Array) -> tuple[Any, jax.Array]:
      """One step of all series."""
      hidden, cell = carry
      let_in, kept, new, out = jnp.split(now + hidden @ recurrent, 4, -1)
      # A fresh LSTM keeps what it has.
      cell = nn.sigmoid(kept + 1) * cell + nn.sigmoid(let_in) * jnp.tanh(new)
      hidden = nn.sigmoid(out) * jnp.tanh(cell)
      return (hidden, cell), hidden

    zeros = jnp.zeros((x.shape[0], self.width), fed.dtype)
    _, hidden = jax.lax.scan(step, (zeros, zeros), fed.swapaxes(0, 1))
    return hidden.swapaxes(0, 1)


class LstmBlock(nn.Module):
  """Dropout and an LSTM over the features of every group."""

  width: int
  dropout: float
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs the layer on `[G, B, time, C]`; groups ride in the batch."""
    del index
    x = pass_.dropout(self.dropout, "Dropout_0")(x)
    out = Lstm(self.width, self.dtype, name="lstm")(x.reshape((-1,) + x.shape[2:]))
    return pass_.linear(out.reshape(x.shape[:3] + (self.width,)))


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> ChannelLstm:
  """Makes the network of `config.model` for a data set; refuses all but series."""
  count = base.count_blocks(config, spec, only_series=True)
  return ChannelLstm(count, spec.channels, config.hidden, config.width, config.dropout, dtype)
