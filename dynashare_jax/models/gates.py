"""The instance gate of a block."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import lookup
from dynashare_jax.models import norm
from dynashare_jax.models import series

# Standard deviation of the last kernel, by `Gate.start`.
INITS = {"half": 0.01, "open": 0.001, "spread": 0.5}


class Gate(nn.Module):
  """Scores, for every example, whether it should execute a block.

  Attributes:
    hidden: width of the hidden layer.
    start: `half` starts near one half open, as the code of DynaShare's authors; `open` starts about
      87% open (bias 0.1 and 2), as Convnet-AIG; `spread` starts near one half open with scores that
      differ between examples, so that gates can become deterministic without treating all alike.
    dtype: compute type.
    told: whether the hidden layer also reads the target rate, so that one network can serve many
      rates.
    momentum: what one update keeps of the running averages of the norm.
    common: whether groups have common batch statistics, see `models.norm.GroupedBatchNorm`.

  Of a series with padding a gate scores every step by the mean of the steps up to it, so that a
  decision never depends on what comes later.

  Source: DynaShare section 3.2; Veit and Belongie 2018.
  Differs: pools over the whole map; the authors' code pools over its left square only. Reading the
    target rate is ours, and so are causal gates.
  """

  hidden: int = 16
  start: str = "half"
  dtype: norm.Dtype = jnp.float32
  told: bool = False
  momentum: float = norm.MOMENTUM
  common: bool = False

  @nn.compact
  def __call__(
    self,
    x: Any,
    updates: jax.Array,
    use_running: bool,
    target: jax.Array | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Returns the score `[G, B]`, positive where the block should run.

    With a mask it is `[G, B, time]`.

    Args:
      x: the block's input `[G, B, ..., C]`, or a tree of such: their channels are joined.
      target: the execution rate wanted, in (0, 1], read if `told`; None is 1.
      mask: bool `[B, time]`, the steps of a series that count; None scores the whole.
    """
    lookup.one_of("`start` of a gate, or config.gates.init", self.start, INITS)
    pooled = jnp.concatenate([self._pooled(array, mask) for array in jax.tree.leaves(x)], -1)
    h = nn.Dense(self.hidden, dtype=self.dtype, name="reduce")(pooled)
    averaged = norm.GroupedBatchNorm(
      self.momentum, dtype=self.dtype, common=self.common, name="norm"
    )
    h = averaged(h, updates, use_running, mask)
    if self.told:
      rate = jnp.ones((1,)) if target is None else jnp.reshape(target, (1,))
      layer = nn.Dense(self.hidden, dtype=self.dtype, use_bias=False, name="rate")
      shift = layer(rate.astype(self.dtype) - 0.5)
      h = h + shift.reshape((1,) * (h.ndim - 1) + (-1,))
    inits: dict[str, Any] = {
      "kernel_init": nn.initializers.normal(INITS[self.start]),
      "bias_init": _open_bias if self.start == "open" else nn.initializers.zeros,
    }
    out = nn.Dense(2, dtype=jnp.float32, name="score", **inits)(nn.relu(h).astype(jnp.float32))
    return out[..., 1] - out[..., 0]

  def _pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`[G, B, C]`, or `[G, B, time, C]` with a mask."""
    if mask is not None:
      return series.running_mean(x).astype(self.dtype)
    return x.mean(tuple(range(2, x.ndim - 1))) if x.ndim > 3 else x


def _open_bias(key: jax.Array, shape: Any, dtype: norm.Dtype = jnp.float32) -> jax.Array:
  """Biases 0.1 and 2 of (skip, execute)."""
  del key, shape
  return jnp.asarray([0.1, 2.0], dtype)
