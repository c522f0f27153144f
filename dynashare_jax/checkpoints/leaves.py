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
  """Returns leaves by their path (`params/dense/kernel`), in the order of `jax.tree.leaves`.

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
  """Returns `shape`, `dtype` and `crc32` of a NumPy or JAX array, for JSON.

  A leaf of which every process has only a part is gathered for it, so that all
  of them must call this in the same order.

  Raises:
    ValueError: not an array, or a PRNG key; names the leaf.
  """
  if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
    raise ValueError(f"State leaf {name!r} is no array but {type(leaf)}.")
  if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
    raise ValueError(f"State leaf {name!r} is a PRNG key; keep its seed in the record.")
  return {"shape": list(leaf.shape), "dtype": leaf.dtype.name, "crc32": crc(mesh_lib.whole(leaf))}


def check_structure(
  saved: Mapping[str, Any], wanted: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Compares the saved leaves, as `describe`d, with the wanted ones.

  Raises:
    ValueError: they differ; names the checkpoint's path.
  """
  old = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in saved.items()}
  new = {name: f"{leaf.dtype.name}{list(leaf.shape)}" for name, leaf in wanted.items()}
  problems = [
    f"{name}: saved {old.get(name, 'nothing')}, wanted {new.get(name, 'nothing')}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]
  if problems:
    more = len(problems) - 8
    raise ValueError(
      f"The checkpoint {path} does not fit this model: "
      + "; ".join(problems[:8])
      + (f"; and {more} more" if more > 0 else "")
      + ". Use the config it was made with, or another --workdir."
    )


def place(host: np.ndarray, template: Any) -> Array:
  """Puts an array, which is given up, where its template lies.

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
  """Computes the CRC32 of the bytes of an array, in its logical order."""
  flat = np.ascontiguousarray(array).reshape(-1)
  return zlib.crc32(flat.view(np.uint8).data) if flat.size else 0


def text_crc(body: Mapping[str, Any]) -> int:
  """Computes the CRC32 of a JSON object, whatever the order of its keys."""
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())
