"""Gradients of several tasks that are hard in one way each, and exact answers in float64."""

from __future__ import annotations

import numpy as np

MOST = 8  # tasks; smaller problems are filled up with absent ones


def generated() -> list[np.ndarray]:
  """Twenty: random, conflicting, zero, equal, opposed, dependent, of uneven length, alone."""
  draw = np.random.default_rng(0)
  normal = lambda *shape: draw.normal(size=shape)
  found = [normal(3, 50), normal(3, 50)]
  found += [j - 0.9 * j.mean(0) for j in (normal(5, 6), normal(5, 6))]
  one, twice, near, hull = normal(4, 10), normal(3, 8), normal(4, 8), normal(3, 6)
  one[1] = 0
  twice[1] = twice[0]
  near[1], near[2] = near[0] + 1e-4 * normal(8), -near[0]
  hull[2] = -(hull[0] + 2 * hull[1]) / 3
  first = normal(1, 6)
  found += [
    one,
    np.zeros((3, 5)),
    twice,
    near,
    np.concatenate([first, 1e-3 * normal(1, 6) - first]),
  ]
  found += [hull, normal(5, 12) * 10 ** draw.uniform(-3, 3, (5, 1))]
  found += [
    normal(6, 12) * 10 ** draw.uniform(-6, 6, (6, 1)),
    1e-6 * normal(3, 9),
    1e6 * normal(3, 9),
  ]
  found += [normal(8, 12), normal(8, 3), np.linalg.qr(normal(6, 4))[0].T * [[1], [2], [3], [0.5]]]
  sine = np.sqrt(1 - 0.999**2)
  found += [np.tile(normal(1, 5), (4, 1)), normal(1, 7)]
  return [*found, np.array([[1, 0], [-0.999, sine]])]


def filled(jacobians: list[np.ndarray], tasks: int = MOST) -> tuple[np.ndarray, np.ndarray]:
  """Their Gramians `[N, K, K]` float32, and which rows `[N, K]` there are."""
  gramians = np.zeros((len(jacobians), tasks, tasks), np.float32)
  present = np.zeros((len(jacobians), tasks), bool)
  for n, jacobian in enumerate(jacobians):
    size = len(jacobian)
    gramians[n, :size, :size] = jacobian @ jacobian.T
    present[n, :size] = True
  return gramians, present


def nonnegative(matrix: np.ndarray, linear: np.ndarray) -> np.ndarray:
  """Minimises s' M s / 2 + c' s over s >= 0, by the enumeration of all supports."""
  best, found = 0.0, np.zeros(len(linear))
  for mask in range(1, 2 ** len(linear)):
    some = [i for i in range(len(linear)) if mask >> i & 1]
    s = np.linalg.lstsq(matrix[np.ix_(some, some)], -linear[some], rcond=1e-13)[0]
    value = s @ matrix[np.ix_(some, some)] @ s / 2 + linear[some] @ s
    if (s >= -1e-9).all() and value < best - 1e-14:
      best, found = value, np.zeros(len(linear))
      found[some] = np.maximum(s, 0)
  return found


def cosines(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Lengths and cosines of the rows."""
  lengths = np.linalg.norm(jacobian, axis=1)
  rows = jacobian / lengths[:, None]
  return lengths, rows @ rows.T


def shortest(jacobian: np.ndarray) -> np.ndarray:
  """Weights of the shortest vector in the convex hull of the rows."""
  lengths, product = cosines(jacobian)
  pull = (1 / lengths) / (1 / lengths).max()
  # Of a given sum of the weights, the nearest to 1 costs no direction.
  found = nonnegative(product + np.outer(pull, pull), -pull) / lengths
  return found / found.sum()


def upgrad(jacobian: np.ndarray) -> np.ndarray:
  """The sum of the rows, each projected onto u with J u >= 0."""
  lengths, product = cosines(jacobian)
  added = np.array([nonnegative(product, row) for row in product])
  return lengths @ (np.eye(len(lengths)) + added) @ (jacobian / lengths[:, None])


def dualproj(jacobian: np.ndarray) -> np.ndarray:
  """The sum of the rows, projected onto u with J u >= 0."""
  lengths, product = cosines(jacobian)
  linear = product @ lengths
  added = nonnegative(product, linear / np.abs(lengths).max()) * lengths.max()
  return jacobian.sum(0) + added @ (jacobian / lengths[:, None])
