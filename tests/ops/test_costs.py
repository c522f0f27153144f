"""Multiply-accumulates against hand counts and XLA's own."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import pytest

from dynashare_jax.ops import costs


def _conv(x, w, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
  return jax.lax.conv_general_dilated(
    x,
    w,
    strides,
    padding,
    rhs_dilation=dilation,
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
  "strides, dilation, groups",
  [((1, 1), (1, 1), 1), ((2, 2), (1, 1), 1), ((1, 1), (2, 3), 1), ((2, 1), (1, 1), 2)],
)
def test_convolutions_as_xla_counts_them(strides, dilation, groups):
  x, w = _shape(2, 11, 13, 4), _shape(3, 3, 4 // groups, 6)
  run = lambda x, w: _conv(x, w, strides=strides, dilation=dilation, groups=groups)
  found = costs.macs(run, x, w)
  assert 2 * found == jax.jit(run).lower(x, w).cost_analysis()["flops"]


def test_taps_in_the_padding_count():
  run = lambda x, w: _conv(x, w, padding=((1, 1), (1, 1)))
  assert costs.macs(run, _shape(1, 5, 5, 2), _shape(3, 3, 2, 4)) == (25 * 9 * 2 * 4)


def test_the_first_layer_of_a_resnet():
  run = lambda x, w: _conv(x, w, strides=(2, 2), padding=((3, 3), (3, 3)))
  assert costs.macs(run, _shape(1, 224, 224, 3), _shape(7, 7, 3, 64)) == (118_013_952)


def test_products():
  x, w = _shape(5, 7), _shape(7, 3)
  assert costs.macs(jnp.matmul, x, w) == 5 * 7 * 3
  batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
  assert costs.macs(batched, _shape(4, 5, 7), _shape(4, 7, 3)) == 4 * 105
  assert costs.macs(lambda x: jnp.tanh(x) + x * x, x) == 0


def test_control_flow():
  x, w = _shape(5, 5), _shape(5, 5)
  assert (
    costs.macs(lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, length=6)[0], x, w)
    == 6 * 125
  )
  assert (
    costs.macs(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), x, w)
    == 2 * 125
  )
  assert costs.macs(jax.jit(jnp.matmul), x, w) == 125
  assert costs.macs(jax.checkpoint(lambda x, w: x @ w), x, w) == 125


def test_custom_gradients_count_once():
  @jax.custom_vjp
  def product(x, w):
    return x @ w

  product.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, g))
  assert costs.macs(product, _shape(5, 5), _shape(5, 5)) == 125

  @jax.custom_jvp
  def other(x, w):
    return x @ w

  other.defjvp(lambda p, t: (other(*p), t[0] @ p[1]))
  assert costs.macs(other, _shape(5, 5), _shape(5, 5)) == 125


def test_gradients_cost_twice_the_forward_pass():
  x, w = _shape(4, 9, 9, 3), _shape(3, 3, 3, 5)
  loss = lambda x, w: _conv(x, w).sum()
  forward = costs.macs(loss, x, w)
  only_w = costs.macs(jax.grad(loss, 1), x, w)
  assert forward == 4 * 49 * 27 * 5
  assert only_w == 2 * forward
