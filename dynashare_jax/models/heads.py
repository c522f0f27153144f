"""Heads: features of a task to its prediction."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.models import dpt
from dynashare_jax.models import norm
from dynashare_jax.models import series

HEADS = ("linear", "mlp", "point", "aspp", "deeplab", "dpt")  # of `build`
TEMPORAL = "temporal"  # of series with lengths
PIXELS = "pixels"  # of pictures of one size


class LinearHead(nn.Module):
  """One float32 linear layer; over the map's mean for one prediction per example.

  Attributes:
    outputs: channels of the prediction.
    dense: whether every position has a prediction.
  """

  outputs: int
  dense: bool

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, ..., C]` to `[B, ..., outputs]`, or `[B, outputs]`."""
    del train
    if not self.dense and x.ndim > 2:
      x = x.mean(tuple(range(1, x.ndim - 1)))
    return nn.Dense(self.outputs, dtype=jnp.float32, name="linear")(x.astype(jnp.float32))


class MlpHead(nn.Module):
  """A hidden layer with ReLU and dropout, and a norm if wanted, then one as of a `LinearHead`.

  Attributes:
    outputs: channels of the prediction.
    dense: whether every position has a prediction.
    width: of the hidden layer.
    dropout: after it, in training.
    dtype: compute type; the last layer computes in float32.
    norm_kind: of the hidden layer's norm, see `models.norm.layer`; empty: none.

  Source: Sener and Koltun 2018, their code for MultiMNIST. With a norm Wang et al. 2019 (HRNetV2).
  """

  outputs: int
  dense: bool
  width: int
  dropout: float = 0.0
  dtype: norm.Dtype = jnp.float32
  norm_kind: str = ""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, ..., C]` to `[B, ..., outputs]`, or `[B, outputs]`."""
    if not self.dense and x.ndim > 2:
      x = x.mean(tuple(range(1, x.ndim - 1)))
    x = nn.Dense(self.width, dtype=self.dtype, name="hidden")(x)
    if self.norm_kind:
      layer = norm.layer(self.norm_kind, self.dtype, "norm")
      x = layer(x[None], jnp.ones((1,)), not train)[0]
    x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.outputs, dtype=jnp.float32, name="linear")(x.astype(jnp.float32))


class PixelHead(nn.Module):
  """A prediction of every pixel: each position of the map predicts a square of them.

  Attributes:
    outputs: channels of the prediction.
    size: height and width of the pictures, of which the map is a reduction.
    width: of the hidden layer, of every position.
    dtype: compute type; the last layer computes in float32.

  Source: Shi et al. 2016 for the squares (sub-pixel convolution).
  """

  outputs: int
  size: tuple[int, int]
  width: int
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, h, w, C]` to `[B, *size, outputs]`."""
    del train
    batch, rows, columns = x.shape[:3]
    high, wide = -(-self.size[0] // rows), -(-self.size[1] // columns)
    x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x)).astype(jnp.float32)
    x = nn.Dense(high * wide * self.outputs, dtype=jnp.float32, name="linear")(x)
    x = x.reshape(batch, rows, columns, high, wide, self.outputs).swapaxes(2, 3)
    x = x.reshape(batch, rows * high, columns * wide, self.outputs)
    return x[:, : self.size[0], : self.size[1]]


class DilatedConv(nn.Module):
  """A 3-wide dilated convolution that keeps the size of its map.

  Taps that lie in the padding wherever the kernel is put are not computed: a
  dilation as large as the map leaves the middle tap alone. PyTorch's CPU
  kernels leave such taps out too; XLA does not by itself.

  Attributes:
    features: channels of the output.
    rate: dilation, and the padding on every side.
    dtype: compute type.
    use_bias: whether a bias is added.
  """

  features: int
  rate: int
  dtype: norm.Dtype = jnp.float32
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, ..., C]` to `[B, ..., features]`."""
    sizes = x.shape[1:-1]
    dims = len(sizes)
    shape = (3,) * dims + (x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    reach = [self.rate < size for size in sizes]
    taps = kernel[tuple(slice(None) if far else slice(1, 2) for far in reach)]
    spatial = "HW"[:dims]
    out = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      taps.astype(self.dtype),
      (1,) * dims,
      [(self.rate, self.rate) if far else (0, 0) for far in reach],
      rhs_dilation=(self.rate,) * dims,
      dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )
    if not self.use_bias:
      return out
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
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
    """Maps `[B, ..., C]` to `[B, ..., outputs]`."""
    total: Any = None
    for index, rate in enumerate(self.rates):
      h = DilatedConv(self.width, rate, self.dtype, name=f"dilated_{index}")(x)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(h))
      h = nn.Dense(self.width, dtype=self.dtype, name=f"hidden_{index}")(h)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(h))
      h = nn.Dense(self.outputs, dtype=jnp.float32, name=f"output_{index}")(h.astype(jnp.float32))
      total = h if total is None else total + h
    return total


class DeeplabHead(nn.Module):
  """Branches of several dilations and the map's mean, side by side, projected and refined.

  A 1-wide branch, 3-wide ones of every rate and the mean over the map, joined to 5 times `width`
  channels; then a 1-wide and a 3-wide layer and, with a bias, the 1-wide last one. Every layer but
  the last has a norm and a ReLU.

  Attributes:
    outputs: channels of the prediction.
    width: channels of every layer.
    rates: dilation of the 3-wide branches.
    dropout: after the joined branches are projected, in training.
    norm_kind: see `models.norm.layer`.
    dtype: compute type; the last layer computes in float32.

  Source: Chen et al. 2017, Rethinking Atrous Convolution for Semantic Image Segmentation (DeepLab
    v3); layers, counts and rates as multi-task papers use it at 8 pixels a feature.
  """

  outputs: int
  width: int = 256
  rates: tuple[int, ...] = (12, 24, 36)
  dropout: float = 0.5
  norm_kind: str = "batch"
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H, W, outputs]`."""

    def normed(name: str, h: jax.Array) -> jax.Array:
      layer = norm.layer(self.norm_kind, self.dtype, f"{name}_norm")
      return nn.relu(layer(h[None], jnp.ones((1,)), not train)[0])

    def wide(name: str, h: jax.Array, rate: int) -> jax.Array:
      return normed(name, DilatedConv(self.width, rate, self.dtype, False, name=name)(h))

    def point(name: str, h: jax.Array) -> jax.Array:
      return normed(name, nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=name)(h))

    mean = point("mean", x.mean((1, 2), keepdims=True))
    h = jnp.concatenate(
      [
        point("point", x),
        *(wide(f"dilated_{index}", x, rate) for index, rate in enumerate(self.rates)),
        jnp.broadcast_to(mean, (*x.shape[:-1], self.width)),
      ],
      -1,
    )
    h = nn.Dropout(self.dropout, deterministic=not train)(point("project", h))
    h = wide("refine", h, 1).astype(jnp.float32)
    return nn.Dense(self.outputs, dtype=jnp.float32, name="output")(h)


class TemporalHead(nn.Module):
  """Predictions of a causal network on series of different lengths.

  A prediction of step t reads features of the steps up to t. A prediction of the whole reads their
  mean and the last ones, padding left out.

  Attributes:
    outputs: numbers of a prediction.
    every_step: whether every step has a prediction.
    first_steps: how many first steps a prediction of the whole reads; 0: all.
    hidden: channels of a 3-wide causal convolution before the last layer; 0 leaves it away.
    dropout: after it, in training.
    dtype: compute type; the last layer computes in float32.
  """

  outputs: int
  every_step: bool
  first_steps: int = 0
  hidden: int = 0
  dropout: float = 0.0
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, steps: series.Steps) -> jax.Array:
    """Maps `[B, size, C]` to `[B, total, outputs]`, or `[B, outputs]`."""
    if self.hidden:
      x = nn.relu(nn.Conv(self.hidden, (3,), padding=((2, 0),), dtype=self.dtype, name="hidden")(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = x.astype(jnp.float32)
    last = nn.Dense(self.outputs, dtype=jnp.float32, name="linear")
    if self.every_step:
      return series.at_every_step(last(x), steps)
    size = x.shape[1]
    mask = steps.mask(size)
    if self.first_steps:
      mask &= (jnp.arange(size) * steps.stride(size) < self.first_steps)[None]
    return last(jnp.concatenate([series.mean_of(x, mask), series.last_of(x, mask)], -1))


class FlatHead(nn.Module):
  """The authors' head of a series: dilated branches, then one dense layer.

  Every prediction reads every step, later ones and padding too.

  Attributes:
    outputs: numbers of a prediction.
    steps: of the series, where each has a prediction; else 0.
    width: channels of the hidden layers.
    dtype: compute type; the last layers compute in float32.

  Source: reference semantics, section 1.4.
  Differs: the authors' last layer is in no optimiser; it trains here.
  """

  outputs: int
  steps: int
  width: int
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, size, C]` to `[B, steps, outputs]`, or `[B, outputs]`."""
    x = AsppHead(self.outputs, self.width, dtype=self.dtype, name="aspp")(x, train)
    count = self.outputs * max(self.steps, 1)
    flat = nn.Dense(count, dtype=jnp.float32, name="linear")(x.reshape(x.shape[0], -1))
    return flat.reshape((-1, self.steps, self.outputs)) if self.steps else flat


def build(
  kind: str,
  outputs: int,
  dense: bool,
  width: int,
  dtype: norm.Dtype,
  name: str | None,
  dropout: float = 0.0,
  norm_kind: str = "batch",
) -> nn.Module:
  """Makes a head of pictures or vectors: of the kind for dense predictions, `mlp`, or `linear`."""
  lookup.one_of("config.model.head", kind, (*HEADS, PIXELS))
  if kind == "mlp":
    return MlpHead(outputs, dense, width, dropout, dtype, name=name)
  if kind == "point" and dense:
    return MlpHead(outputs, dense, width, 0.0, dtype, norm_kind, name=name)
  if kind == "aspp" and dense:
    return AsppHead(outputs, width=width, dtype=dtype, name=name)
  if kind == "deeplab" and dense:
    return DeeplabHead(outputs, width, norm_kind=norm_kind, dtype=dtype, name=name)
  if kind == "dpt" and dense:
    return dpt.DptHead(outputs, width, norm_kind=norm_kind, dtype=dtype, name=name)
  return LinearHead(outputs, dense, name=name)


def of_task(
  config: Any,
  spec: types.DatasetSpec,
  task: types.TaskSpec,
  outputs: int,
  dense: bool,
  dtype: norm.Dtype,
) -> nn.Module:
  """Makes a task's head from `config.model`.

  Series with lengths get a `TemporalHead` (of `linear`, one without a hidden
  layer); other series with `aspp` get a `FlatHead`. Dense tasks with `pixels` get a `PixelHead`.

  Raises:
    ValueError: an unknown kind, or one that does not fit the data.
  """
  kind, width = config.head, config.head_width
  if spec.lengths:
    lookup.one_of("config.model.head (series of different lengths)", kind, (TEMPORAL, "linear"))
    hidden = width if kind == TEMPORAL else 0
    return TemporalHead(outputs, task.every_step, task.first_steps, hidden, config.dropout, dtype)
  if kind == "aspp" and spec.input_kind == "series":
    steps = spec.input_shape[0] if task.every_step else 0
    return FlatHead(outputs, steps, width, dtype)
  if kind == PIXELS and dense:
    size = (spec.input_shape[0], spec.input_shape[1])
    if spec.crop is not None and tuple(spec.crop) != size:
      raise ValueError(
        f"config.model.head='pixels' predicts pictures of one size, but {spec.name} trains on parts"
        f" of {' x '.join(map(str, spec.crop))} pixels; use 'linear' or 'aspp'."
      )
    return PixelHead(outputs, size, width, dtype)
  if task.every_step:
    raise ValueError(
      f"config.model.head={kind!r} cannot predict every step of a series"
      f" without lengths, as {task.name} needs; use 'aspp'."
    )
  if kind == "dpt" and not (dense and config.backbone == "vit"):
    raise ValueError(
      f"config.model.head='dpt' predicts maps from four depths of config.model.backbone='vit'; here"
      f" the backbone is {config.backbone!r}, and {task.name} has"
      f" {'a map' if dense else 'one prediction for a picture'}: use another head."
    )
  if kind in ("point", "deeplab", "dpt"):
    if spec.input_kind != "image":
      raise ValueError(
        f"config.model.head={kind!r} reads maps of pictures, not the {spec.input_kind} inputs of"
        f" {spec.name}; use 'linear' or 'aspp'."
      )
    width = config.decoder_width
    if width < 1:
      raise ValueError(f"config.model.decoder_width must be at least 1, but is {width}.")
  return build(kind, outputs, dense, width, dtype, None, config.dropout, config.norm)
