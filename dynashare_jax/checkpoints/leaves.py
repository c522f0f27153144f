"""The leaves of a state by name: description, checksum, placement."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.types import Array, PyTree


def named(tree: PyTree) -> dict[str, Any]:
  """Names the leaves of a tree.

  Args:
    tree: arrays, `jax.ShapeDtypeStruct`s or Python numbers.

  Returns:
    Leaves by their path, for example `params/dense/kernel`, in the order of
    `jax.tree.leaves`.

  Raises:
    ValueError: two leaves have the same name.
  """
  leaves: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name in leaves:
      raise ValueError(f"Two leaves of the state have the same name {name!r}.")
    leaves[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
  return leaves


def describe(leaf: Array, name: str) -> dict[str, Any]:
  """Describes an array so that JSON can hold it.

  Args:
    leaf: NumPy or JAX array.
    name: for the error.

  Returns:
    `shape`, `dtype` and `crc32`. A leaf of which every process has only a part
    is gathered for it, so that all of them must call this in the same order.

  Raises:
    ValueError: not an array, or a PRNG key.
  """
  if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
    raise ValueError(f"State leaf {name!r} is no array but {type(leaf)}.")
  if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
    raise ValueError(f"State leaf {name!r} is a PRNG key; keep its seed in the record.")
  return {"shape": list(leaf.shape), "dtype": leaf.dtype.name, "crc32": crc(mesh_lib.whole(leaf))}


def check_structure(
  saved: Mapping[str, Any], wanted: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Compares the saved leaves with the wanted ones.

  Args:
    saved: descriptions by name, as `describe` made them.
    wanted: leaves by name.
    path: of the checkpoint, for the error.

  Raises:
    ValueError: they differ.
  """
  problems = []
  for name in saved.keys() | wanted.keys():
    old = new = "nothing"
    if name in saved:
      old = f"{saved[name]['dtype']}{saved[name]['shape']}"
    if name in wanted:
      new = f"{wanted[name].dtype.name}{list(wanted[name].shape)}"
    if old != new:
      problems.append(f"{name}: saved {old}, wanted {new}")
  if problems:
    problems.sort()
    more = len(problems) - 8
    raise ValueError(
      f"The checkpoint {path} does not fit this model: "
      + "; ".join(problems[:8])
      + (f"; and {more} more" if more > 0 else "")
      + ". Use the config it was made with, or another --workdir."
    )


def place(host: np.ndarray, template: Any) -> Array:
  """Puts an array where another one lies.

  Args:
    host: the values; not used otherwise afterwards.
    template: array or `jax.ShapeDtypeStruct`, with or without a sharding.

  Returns:
    A NumPy array if the template is one, else a JAX array that may be donated.
  """
  if isinstance(template, (np.ndarray, np.generic)):
    return host
  sharding = getattr(template, "sharding", None)
  if sharding is None:
    return jnp.array(host)
  if sharding.is_fully_addressable:
    return jax.device_put(host, sharding, may_alias=False)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def crc(array: np.ndarray) -> int:
  """CRC32 of the bytes of an array, in its logical order."""
  flat = np.ascontiguousarray(array).reshape(-1)
  return zlib.crc32(flat.view(np.uint8).data) if flat.size else 0


def text_crc(body: Mapping[str, Any]) -> int:
  """CRC32 of what JSON holds, whatever the order of its keys."""
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())
