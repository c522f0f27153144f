"""Analytic multiply-accumulates of a traced computation."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax


def macs(function: Callable[..., Any], *args: Any) -> int:
  """Counts the multiply-accumulates of convolutions and matrix products.

  `function` is pure; it is traced with `args` (arrays or `jax.ShapeDtypeStruct`), never
  run. All taps of a convolution count, those in the padding too, as papers count them.
  Elementwise work counts nothing. The body of a scan counts once per iteration, of a
  conditional the costliest branch.
  """
  return traced(function, *args)[0]


def traced(function: Callable[..., Any], *args: Any) -> tuple[int, Any]:
  """Counts as `macs` does, and returns the shapes of the results beside."""
  traced_, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  return _count(traced_.jaxpr), shapes


def _count(jaxpr: Any) -> int:
  """Sums over the equations and the computations inside them."""
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "conv_general_dilated":
      total += _convolution(equation)
    elif name == "dot_general":
      total += _product(equation)
    else:
      inner = [_count(sub) for sub in _inner(equation.params)]
      if name == "cond":
        total += max(inner, default=0)
      else:
        total += sum(inner) * equation.params.get("length", 1)
  return total


def _inner(params: dict[str, Any]) -> list[Any]:
  """Computations among an equation's parameters."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(item, "jaxpr"):
        item = item.jaxpr
      if hasattr(item, "eqns"):
        found.append(item)
  return found


def _convolution(equation: Any) -> int:
  """Outputs times the taps and input channels that each one sums."""
  kernel = equation.invars[1].aval.shape
  numbers = equation.params["dimension_numbers"].rhs_spec
  taps = math.prod(kernel[d] for d in numbers[2:])
  return math.prod(equation.outvars[0].aval.shape) * taps * kernel[numbers[1]]


def _product(equation: Any) -> int:
  """Outputs times the contracted sizes."""
  (contract, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  summed = math.prod(left[d] for d in contract)
  return math.prod(equation.outvars[0].aval.shape) * summed
