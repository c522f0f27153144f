"""Small convex problems of the tasks' gradients, from their inner products alone.

All are solved in float32 by a fixed number of steps, in coordinates in which every gradient has
length 1: rows of norms from 1e-6 to 1e6 are as good as equal ones. Tasks that are absent, or whose
gradient is zero, have the row of an identity matrix and take no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float

_RIDGE = 1e-6  # added to the diagonal: bounds what is unbounded where zero lies in the hull
_TINY = 1e-30

Vector = Float[jax.Array, " K"]
Matrix = Float[jax.Array, "K K"]


def unit(gramian: Matrix, present: Bool[jax.Array, " K"]) -> tuple[Vector, Matrix]:
  """Splits inner products into lengths and cosines.

  Args:
    gramian: G = J J', inner products of the rows of J `[K, P]`.
    present: rows that take part; their lengths are above 0, but for rounding.

  Returns:
    The lengths d (1 of absent rows), and the cosines C (an identity's row of absent rows).
  """
  lengths = jnp.where(present, jnp.sqrt(jnp.maximum(jnp.diagonal(gramian), _TINY)), 1.0)
  cosines = jnp.clip(gramian / lengths[:, None] / lengths[None, :], -1.0, 1.0)
  both = present[:, None] & present[None, :] & ~jnp.eye(len(lengths), dtype=bool)
  return lengths, jnp.where(both, cosines, jnp.eye(len(lengths)))


def products(
  columns: Sequence[Sequence[jax.Array]], counted: Sequence[jax.Array] | None = None
) -> Matrix:
  """Multiplies the tasks' gradients with each other, in full float32.

  Args:
    columns: for every leaf, the gradients of the K tasks in it.
    counted: for every leaf whether it counts; default all do.
  """
  tasks = len(columns[0])
  found = jnp.zeros((tasks, tasks))
  for n, column in enumerate(columns):
    row = jnp.stack([leaf.astype(jnp.float32) for leaf in column])
    axes = list(range(1, row.ndim))  # as they are: each device has a part of one
    product = jnp.tensordot(row, row, (axes, axes), precision=jax.lax.Precision.HIGHEST)
    found += product if counted is None else jnp.where(counted[n], product, 0.0)
  return found


def norm(weights: Vector, lengths: Vector, cosines: Matrix) -> Float[jax.Array, ""]:
  """Computes the length of J' w, at least 1e-3 of the sum of all |w_k| d_k.

  Below that float32 has no digits left, and a division by it would blow up noise.
  """
  turned = weights * lengths
  total = jnp.abs(turned).sum()
  share = turned / jnp.maximum(total, _TINY)
  return total * jnp.sqrt(jnp.maximum(share @ times(cosines, share), 1e-6))


def times(matrix: Matrix, vector: Vector) -> Vector:
  """Multiplies in full float32, also where a device's default is less."""
  return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def product(first: Matrix, second: Matrix) -> Matrix:
  """Multiplies matrices in full float32."""
  return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)


def solve(cosines: Matrix, right: Vector) -> Vector:
  """Solves C x = b by the pseudo-inverse: directions that float32 cannot tell from none are 0."""
  values, vectors = jnp.linalg.eigh(cosines)
  kept = values > 1e-6 * len(values)
  along = times(vectors.T, right)
  return times(vectors, jnp.where(kept, along / jnp.where(kept, values, 1.0), 0.0))


def simplex(vector: Vector, present: Bool[jax.Array, " K"]) -> Vector:
  """Finds the nearest point with entries at least 0 that sum to 1; absent ones are 0.

  Source: Duchi et al. 2008, Figure 1.
  """
  # A shift changes nothing but the rounding.
  largest = jnp.where(present, vector, -jnp.inf).max()
  held = jnp.where(present, vector - largest, -jnp.inf)
  ordered = jnp.sort(held)[::-1]
  sums = jnp.cumsum(jnp.where(jnp.isfinite(ordered), ordered, 0.0)) - 1.0
  counts = jnp.arange(1, len(vector) + 1)
  last = jnp.sum(ordered * counts > sums) - 1
  return jnp.maximum(held - sums[last] / (last + 1), 0.0)


def nonnegative(matrix: Matrix, linear: Vector) -> Vector:
  """Minimises s' M s / 2 + c' s over s >= 0.

  Args:
    matrix: M, of unit rows.
    linear: c, of a size around 1.

  Returns:
    s, by 30 steps of a primal-dual interior point method (Mehrotra 1992).
  """
  matrix = matrix + _RIDGE * jnp.eye(len(linear))

  def step(_: jax.Array, found: tuple[Vector, Vector]) -> tuple[Vector, Vector]:
    s, z = found
    short = times(matrix, s) + linear - z
    gap = (s * z).mean()
    factors = jax.scipy.linalg.lu_factor(matrix + jnp.diag(z / s))
    move = lambda product: _finite(jax.scipy.linalg.lu_solve(factors, -short - product / s))
    ds = move(s * z)
    dz = -z - z / s * ds
    first, second = _room(s, ds), _room(z, dz)
    after = ((s + first * ds) * (z + second * dz)).mean()
    product = s * z + ds * dz - (after / gap) ** 3 * gap
    ds = move(product)
    dz = -(product + z * ds) / s
    size = 0.99 * jnp.minimum(_room(s, ds), _room(z, dz))
    return jnp.maximum(s + size * ds, 1e-15), jnp.maximum(z + size * dz, 1e-15)

  ones = jnp.ones_like(linear)
  return jax.lax.fori_loop(0, 30, step, (ones, ones))[0]


def _room(start: Vector, move: Vector) -> Float[jax.Array, ""]:
  """The largest step of at most 1/0.99 that keeps everything at least 0."""
  return 1.0 / jnp.maximum(jnp.max(-move / start), 0.99)


def _finite(vector: Vector) -> Vector:
  """The vector, or zeros where a nearly singular matrix left no number."""
  return jnp.where(jnp.isfinite(vector).all(), vector, jnp.zeros_like(vector))


def shortest(gramian: Matrix, present: Bool[jax.Array, " K"]) -> Vector:
  """Finds the shortest vector in the convex hull of the rows.

  Returns:
    Its weights: at least 0, sum 1, 0 of absent rows.

  Source: MGDA (Désidéri 2012). Of w = z / d, z minimises z' C z / 2 - z' (1 / d) up to a factor.
  """
  lengths, cosines = unit(gramian, present)
  inverse = jnp.where(present, 1.0 / lengths, 0.0)
  found = nonnegative(cosines, -inverse / jnp.maximum(inverse.max(), _TINY))
  weights = found * inverse / jnp.maximum(inverse.max(), _TINY)
  return weights / jnp.maximum(weights.sum(), _TINY)


def projections(cosines: Matrix) -> Matrix:
  """Projects each unit row onto the vectors u with J u >= 0.

  Returns:
    Weights of the rows, a projection in each row: row i is e_i plus what is added.

  Source: Quinton and Rey 2024 (UPGrad).
  """
  return jnp.eye(len(cosines)) + jax.vmap(nonnegative, (None, 0))(cosines, cosines)


def fair(lengths: Vector, cosines: Matrix, preference: Vector, alpha: float) -> Vector:
  """Finds w > 0 with (G w)_k = (p_k / w_k)^(1 / alpha).

  Args:
    lengths: d, see `unit`.
    cosines: C.
    preference: p, above 0.
    alpha: 1 is proportional fairness (Nash), large is max-min fairness.

  Returns:
    w, by 40 damped steps of Newton on a' C a / 2 - sum b a^(1 - 1/alpha) / (1 - 1/alpha), where
    a = d w and b = p^(1/alpha) d^(1/alpha - 1); at alpha = 1 the power is a logarithm.
  """
  power = 1.0 / alpha
  middle = jnp.exp(jnp.log(lengths).mean())
  pull = preference**power * (lengths / middle) ** (power - 1.0)
  matrix = cosines + _RIDGE * jnp.eye(len(lengths))

  def step(_: jax.Array, a: Vector) -> Vector:
    own = pull * a ** (1.0 - power)
    slope = a * times(matrix, a) - own
    curve = matrix * a[:, None] * a[None, :] + jnp.diag(power * own)
    scale = jax.lax.rsqrt(jnp.diagonal(curve))
    move = scale * _finite(
      jnp.linalg.solve(curve * scale[:, None] * scale[None, :], -slope * scale)
    )
    return a * jnp.exp(move / jnp.maximum(jnp.abs(move).max(), 1.0))

  # Exact where all rows are orthogonal.
  start = pull ** (1.0 / (1.0 + power))
  a = jax.lax.fori_loop(0, 40, step, start)
  return a / lengths * middle ** ((power - 1.0) / (1.0 + power))


def averse(gramian: Matrix, present: Bool[jax.Array, " K"], radius: float) -> Vector:
  """Finds the row mixture against which CAGrad's update is turned.

  Args:
    radius: c, how far the update may lie from the mean gradient g0, in its lengths.

  Returns:
    q on the simplex, the minimiser of <J' q, g0> + c |g0| |J' q|, by 60 steps of Newton with a
    falling logarithmic barrier.

  Source: CAGrad (Liu et al. 2021), Eq. 4.
  """
  lengths, cosines = unit(gramian, present)
  count = jnp.maximum(present.sum(), 1)
  mean = jnp.where(present, lengths, 0.0) / count
  reach = jnp.sqrt(jnp.maximum(mean @ times(cosines, mean), _TINY))
  least = jnp.where(present, lengths, jnp.inf).min()
  pull = times(cosines, mean) / reach  # of one more unit of a row
  mask = present.astype(jnp.float32)

  def step(number: jax.Array, q: Vector) -> Vector:
    a = q * lengths / least
    own = times(cosines + _RIDGE * jnp.eye(len(a)), a)
    size = jnp.sqrt(jnp.maximum(a @ own, _TINY))
    barrier = jnp.maximum(0.6**number, 1e-9)
    slope = a * pull + radius * a * own / size - barrier * mask
    curve = radius * (cosines * a[:, None] * a[None, :] - jnp.outer(a * own, a * own) / size**2)
    curve = curve / size + jnp.diag(jnp.where(present, barrier, 1.0))
    # Curvature across the simplex, where there is none, changes no step along it.
    curve = curve + jnp.maximum(radius * size, 1.0) * jnp.outer(q, q)
    both = jnp.linalg.solve(curve, jnp.stack([-slope, q], 1))
    along, sideways = both[:, 0], both[:, 1]
    short = (1.0 - q.sum() - q @ along) / jnp.maximum(q @ sideways, _TINY)
    move = _finite(along + short * sideways)
    return q * (1.0 + jnp.minimum(0.9 / jnp.maximum(jnp.max(-move), _TINY), 1.0) * move)

  start = mask / lengths
  return jax.lax.fori_loop(0, 60, step, start / jnp.maximum(start.sum(), _TINY))
