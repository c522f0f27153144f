"""Refuses arguments that do not fit the annotations of a function, in words, for doors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import inspect
import math
import numbers
import types
from typing import Any, get_args, get_origin, get_type_hints, ParamSpec, TypeVar, Union

import jax
import numpy as np

Given = ParamSpec("Given")
Result = TypeVar("Result")


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
  """Returns a function that checks shapes and types of its arguments, also while it is traced.

  Arrays must have the shape and the kind of numbers of their jaxtyping annotation, where a letter
  stands for one size in all arguments. Numbers must be whole or finite as annotated.

  Raises:
    ValueError: an argument that does not fit; names it, what it must be and what it is.

  Example:
    >>> import jaxtyping
    >>> def double(x: jaxtyping.Float[jax.Array, "T L"]) -> jax.Array: return 2 * x
    >>> try: checked(double)([1.0])
    ... except ValueError as error: print(error)
    double: `x` must be an array [T, L], but is a list.
  """
  hints = functools.cache(lambda: get_type_hints(function))
  signature = inspect.signature(function)

  @functools.wraps(function)
  def run(*args: Given.args, **named: Given.kwargs) -> Result:
    sizes: dict[str, Any] = {}
    try:
      given = signature.bind(*args, **named).arguments
    except TypeError:
      return function(*args, **named)  # Which says so as Python does.
    for name, value in given.items():
      if problem := _problem(value, hints()[name], sizes):
        raise ValueError(f"{function.__name__}: `{name}` must be {problem}.")
    return function(*args, **named)

  return run


def _problem(value: Any, hint: Any, sizes: dict[str, Any]) -> str:
  """What a value must be and what it is; empty where it fits."""
  array = hasattr(value, "shape") and hasattr(value, "dtype")
  options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
  shaped = next((option for option in options if hasattr(option, "dim_str")), None)
  if shaped is not None and array:
    return _misfit(value, shaped, sizes)
  others = [option for option in options if not hasattr(option, "dim_str")]
  wanted, is_a = "", f"but is a {type(value).__name__}"
  if shaped is not None:
    wanted = f"an array [{', '.join(shaped.dim_str.split())}]"
  if int in others and float not in others:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if array and value.shape == ():  # Of a function that is traced, too.
      whole = jax.numpy.issubdtype(value.dtype, jax.numpy.integer)
    return "" if whole else f"a whole number, but is {value!r}"
  if float in others:
    if array and value.shape == ():  # Of a function that is traced, too.
      return ""
    real = isinstance(value, numbers.Real | np.floating) and not isinstance(value, bool)
    good = real and math.isfinite(value)
    return "" if good else f"a finite number, but is {value!r}"
  if jax.Array in others:
    fits = array or (type(None) in others and value is None)
    return "" if fits else f"a key of jax.random, {is_a}"
  fits = shaped is None or (len(others) > 0 and isinstance(value, Sequence | None))
  return "" if fits else f"{wanted}, {is_a}"


def _misfit(value: Any, shaped: Any, sizes: dict[str, Any]) -> str:
  """How an array differs from its annotation; learns the sizes of the letters."""
  names = shaped.dim_str.split()
  told = f"an array [{', '.join(names)}]"
  for letter, size in sizes.items():
    if letter in names:
      told += f" with {letter} = {size}"
  shape = tuple(value.shape)
  if not _fits(shape, names, sizes):
    return f"{told}, but has the shape {shape}"
  kind = shaped.dtype.__name__
  known: dict[str, Any] = {"Float": jax.numpy.floating, "Integer": jax.numpy.integer, "Bool": bool}
  if kind in known and not jax.numpy.issubdtype(value.dtype, known[kind]):
    return f"{told} of {kind.lower()} numbers, but is {value.dtype.name}"
  held = value if kind == "Integer" and isinstance(value, np.ndarray) else np.zeros(0)
  if held.size and (held.max() >= 2**32 or held.min() < -(2**31)):
    return f"{told} of numbers of 32 bits, but has {value.max()}"
  return ""


def _fits(shape: tuple[int, ...], names: list[str], sizes: dict[str, Any]) -> bool:
  """Whether a shape is that of names such as `T L 2`, `... K` or `*shape`."""
  many = next((i for i, name in enumerate(names) if name == "..." or name[0] == "*"), None)
  if many is not None:
    rest = len(names) - many - 1
    if len(shape) < many + rest:
      return False
    middle = shape[many : len(shape) - rest]
    if names[many][0] == "*" and sizes.setdefault(names[many], middle) != middle:
      return False
    shape = shape[:many] + shape[len(shape) - rest :]
    names = names[:many] + names[many + 1 :]
  return len(shape) == len(names) and all(
    size == (int(name) if name.isdecimal() else sizes.setdefault(name, size))
    for size, name in zip(shape, names, strict=True)
  )
