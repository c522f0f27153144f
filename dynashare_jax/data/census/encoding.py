"""Encodings of the Census-Income columns, fitted on the training file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

from jaxtyping import Float
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import columns as shared_columns
from dynashare_jax.data.census import columns as columns_lib

# The authors scale `year` as a number and leave two code columns as they are.
_AUTHORS_RAW = ("own_or_self", "vet_benefits")
_AUTHORS_NUMERIC = tuple(
  c for c in columns_lib.COLUMNS if c in (*columns_lib.NUMERIC, *_AUTHORS_RAW, "year")
)

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The meaning of every feature of a one-hot input.

  Attributes:
    features: column and category of each feature; category None is a number.
    ranges: for a number's column the pair (low, width) of (x - low) / width.
  """

  features: tuple[tuple[str, str | None], ...]
  ranges: Mapping[str, Range]


def fit_table(
  train: columns_lib.Table, bins: int = 16, instance_weight: bool = True
) -> types.TableSpec:
  """Fits codes and at most `bins` bins per number on the training file.

  `instance_weight`: whether the sampling weight is an input.
  """
  if bins < 1:
    raise ValueError(f"config.data.bins is {bins}; it must be 1 or more.")
  numeric = _numeric(instance_weight)
  categorical = columns_lib.CATEGORICAL
  values = tuple(train.categories(c) for c in categorical)
  return types.TableSpec(
    categorical=categorical,
    cardinalities=tuple(1 + len(known) for known in values),
    numeric=numeric,
    edges=tuple(shared_columns.quantile_edges(train.number(c), bins) for c in numeric),
    values=values,
  )


def corrected_layout(train: columns_lib.Table, instance_weight: bool = True) -> Layout:
  """Fits a one-hot layout on the training file: numbers, then categories.

  A category that training lacks has no feature: all of its column are 0.
  """
  numeric = _numeric(instance_weight)
  return Layout(
    tuple((c, None) for c in numeric) + _one_hots(train, columns_lib.CATEGORICAL),
    {c: _min_max(train.number(c)) for c in numeric},
  )


def authors_layouts(train: columns_lib.Table, other: columns_lib.Table) -> tuple[Layout, Layout]:
  """Returns the one-hot layouts of the authors' code: of training, and of the others.

  Args:
    other: the whole test file.

  Differs: the authors name the one missing category by hand and stop where the
  test file has one that training lacks; here any number of missing ones come
  last, and categories unknown to training have no feature.
  """
  categorical = tuple(c for c in columns_lib.CATEGORICAL if c not in _AUTHORS_NUMERIC)
  numbers = tuple((c, None) for c in _AUTHORS_NUMERIC)
  fitted = _one_hots(train, categorical)
  there = set(_one_hots(other, categorical))
  shifted = tuple(sorted(fitted, key=lambda feature: feature not in there))

  def ranges(table: columns_lib.Table) -> dict[str, Range]:
    return {
      c: (0.0, 1.0) if c in _AUTHORS_RAW else _min_max(table.number(c)) for c in _AUTHORS_NUMERIC
    }

  return (Layout(numbers + fitted, ranges(train)), Layout(numbers + shifted, ranges(other)))


def _numeric(instance_weight: bool) -> tuple[str, ...]:
  """Returns the numeric columns, with or without the sampling weight."""
  return tuple(c for c in columns_lib.NUMERIC if instance_weight or c != "instance_weight")


def _one_hots(table: columns_lib.Table, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
  """Returns all categories of some columns that occur in a file."""
  return tuple((c, value) for c in names for value in table.categories(c))


def _min_max(values: Float[np.ndarray, " N"]) -> Range:
  """Returns least value and range; a constant column gets range 1."""
  low, high = float(values.min()), float(values.max())
  return low, high - low if high > low else 1.0


@dataclasses.dataclass(frozen=True)
class Embedded:
  """Turns a table into codes and unscaled numbers.

  Attributes:
    spec: the columns; the training file's categories have codes 1, 2, ... in order.
  """

  spec: types.TableSpec

  def __call__(self, table: columns_lib.Table) -> dict[str, np.ndarray]:
    """Returns `categorical` int32 `[N, C]` and `numeric` float32 `[N, D]`."""
    codes = [
      table.category(name, {value: code for code, value in enumerate(seen, 1)}, 0)
      for name, seen in zip(self.spec.categorical, self.spec.values, strict=True)
    ]
    numbers = [table.number(name) for name in self.spec.numeric]
    return {
      "categorical": np.stack(codes, axis=1),
      "numeric": np.stack(numbers, axis=1).astype(np.float32),
    }


@dataclasses.dataclass(frozen=True)
class OneHot:
  """Turns a table into one vector per row, as `layout` says."""

  layout: Layout

  def __call__(self, table: columns_lib.Table) -> Float[np.ndarray, "N F 1"]:
    """Returns the features; a category without a feature leaves zeros."""
    features = self.layout.features
    out = np.zeros((table.rows, len(features), 1), np.float32)
    places: dict[str, dict[str, int]] = {}
    for place, (name, value) in enumerate(features):
      if value is None:
        low, width = self.layout.ranges[name]
        out[:, place, 0] = (table.number(name) - low) / width
      else:
        places.setdefault(name, {})[value] = place
    for name, mapping in places.items():
      place_of_row = table.category(name, mapping, -1)
      rows = np.flatnonzero(place_of_row >= 0)
      out[rows, place_of_row[rows], 0] = 1.0
    return out
