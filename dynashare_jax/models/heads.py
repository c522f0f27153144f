"""Heads: features of a task to its prediction."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import norm

HEADS = ("linear", "aspp")


class LinearHead(nn.Module):
  """One float32 linear layer; over the map's mean for a prediction an example.

  Attributes:
    outputs: channels of the prediction.
    dense: whether every position has a prediction.
  """

  outputs: int
  dense: bool

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[B, ..., C]` to `[B, ..., outputs]`, or `[B, outputs]`."""
    del train
    if not self.dense and x.ndim > 2:
      x = x.mean(tuple(range(1, x.ndim - 1)))
    return nn.Dense(self.outputs, dtype=jnp.float32, name="linear")(
        x.astype(jnp.float32))


class DilatedConv(nn.Module):
  """A 3-wide dilated convolution that keeps the size of its map.

  Taps that lie in the padding wherever the kernel is put are not computed: a
  dilation as large as the map leaves the middle tap alone. PyTorch's CPU
  kernels leave such taps out too; XLA does not by itself.

  Attributes:
    features: channels of the output.
    rate: dilation, and the padding on every side.
    dtype: compute type.
  """

  features: int
  rate: int
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, ..., C]` to `[B, ..., features]`."""
    sizes = x.shape[1:-1]
    dims = len(sizes)
    kernel = self.param("kernel", nn.initializers.lecun_normal(),
                        (3,) * dims + (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    reach = [self.rate < size for size in sizes]
    taps = kernel[tuple(slice(None) if far else slice(1, 2) for far in reach)]
    spatial = "HW"[:dims]
    out = jax.lax.conv_general_dilated(
        x.astype(self.dtype), taps.astype(self.dtype), (1,) * dims,
        [(self.rate, self.rate) if far else (0, 0) for far in reach],
        rhs_dilation=(self.rate,) * dims,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"))
    return out + bias.astype(self.dtype).reshape((1,) * (dims + 1) + (-1,))


class AsppHead(nn.Module):
  """Four dilated branches, summed.

  Attributes:
    outputs: channels of the prediction.
    width: channels of the hidden layers.
    rates: dilation of every branch.
    dropout: after each hidden layer, in training.
    dtype: compute type; the last layer computes in float32.

  Source: AdaShare's classification module (rates 6, 12, 18, 24).
  """

  outputs: int
  width: int = 1024
  rates: tuple[int, ...] = (6, 12, 18, 24)
  dropout: float = 0.5
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[B, ..., C]` to `[B, ..., outputs]`."""
    total: Any = None
    for index, rate in enumerate(self.rates):
      h = DilatedConv(self.width, rate, self.dtype, name=f"dilated_{index}")(x)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(h))
      h = nn.Dense(self.width, dtype=self.dtype, name=f"hidden_{index}")(h)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(h))
      h = nn.Dense(self.outputs, dtype=jnp.float32, name=f"output_{index}")(
          h.astype(jnp.float32))
      total = h if total is None else total + h
    return total


def build(
    kind: str, outputs: int, dense: bool, width: int, dtype: norm.Dtype,
    name: str | None
) -> nn.Module:
  """Makes a task's head; `aspp` is for dense predictions, others get `linear`.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in HEADS:
    raise ValueError(
        f"config.model.head is {kind!r}; it must be one of {HEADS}.")
  if kind == "aspp" and dense:
    return AsppHead(outputs, width=width, dtype=dtype, name=name)
  return LinearHead(outputs, dense, name=name)
