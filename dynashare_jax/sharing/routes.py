"""Routes from evidence: which tasks execute which blocks, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.objectives import regularisers
from dynashare_jax.sharing import prices

TOGETHER, APART = SERVES = prices.SERVES
MOST_TASKS, MOST_BLOCKS = 8, 64  # that `best` is made for
_LIKES = 0.01  # worth of an alpha of 1 against one of 0, in cosines: it decides among equals
_COLD = 0.3  # temperature of the logistic noise at which routes are drawn
_SECONDS = 20.0  # that a search for the optimum may take
_SLACK = 2e-6  # of a share, by which its constraints may be exceeded


class Found(NamedTuple):
  """A route and how good it can be at most.

  Attributes:
    route: `[T, L]` of 0 and 1.
    value: of it, see `value`.
    bound: no route within the budget has a higher value.
  """

  route: np.ndarray
  value: float
  bound: float


def check_size(tasks: int, blocks: int) -> None:
  """Refuses more tasks or blocks than `best` is made for.

  Raises:
    ValueError: says how many, and what to do.
  """
  if tasks > MOST_TASKS or blocks > MOST_BLOCKS:
    raise ValueError(
      f"Routes are planned for at most {MOST_TASKS} tasks and {MOST_BLOCKS} blocks, not {tasks} and"
      f" {blocks}: set --config.policy.routes=sampled."
    )


def work(route: Any, costs: Sequence[float], serve: str = TOGETHER) -> float:
  """Returns the work of a route as a share of hard sharing's, served the same way.

  Args:
    route: `[T, L]` of 0 and 1.
    costs: `[L]`, of each block, in any unit.
    serve: `together`, all tasks for every input, where tasks with equal history share a
      computation (`plan.Plan`); or `apart`, a pass for each task, as the papers count.

  Raises:
    ValueError: no route, costs that do not fit it, or another word.

  Example:
    >>> work([[1, 1], [1, 0]], (1, 1)), work([[1, 1], [1, 0]], (1, 1), "apart")
    (1.0, 0.75)
  """
  many = np.asarray(route)[None]
  lookup.one_of("`serve`", serve, SERVES)
  if many.ndim != 3 or not np.isin(many, (0, 1)).all():
    raise ValueError(f"A route holds 0 and 1 only, in the shape [tasks, blocks], not {route}.")
  regularisers.check_costs(costs, many.shape[2])
  of = lambda routes: float(prices.of_work(costs, many.shape[1]).totals(routes, serve)[0])
  return of(many) / of(np.ones_like(many))


def of_work(
  rng: np.random.Generator,
  route: np.ndarray,
  count: int,
  costs: Sequence[float],
  serve: str = TOGETHER,
  tolerance: float = 0.02,
) -> np.ndarray:
  """Draws different random routes of the work of one, `[N, T, L]`; every task executes some block.

  The first of many are those of a few, of the same random numbers.

  Args:
    route: `[T, L]`, whose work is wanted.
    costs: see `work`.
    serve: see `work`.
    tolerance: of the work, as a share of hard sharing's.

  Raises:
    ValueError: there are not so many; tells how many were found.
  """
  wanted = work(route, costs, serve)
  found: dict[bytes, np.ndarray] = {}
  for _ in range(2000 * count):
    if len(found) == count:
      return np.stack(list(found.values()))
    executed = route.sum() if serve == APART else rng.integers(1, route.size + 1)
    flat = np.zeros(route.size, np.float32)
    flat[rng.permutation(route.size)[: int(executed)]] = 1
    drawn = flat.reshape(route.shape)
    if drawn.any(1).all() and abs(work(drawn, costs, serve) - wanted) <= tolerance:
      found[drawn.tobytes()] = drawn
  raise ValueError(
    f"{count} different random routes with {100 * wanted:.0f}% of the work of hard sharing, served"
    f" {serve}, were asked for, and only {len(found)} were found: ask for fewer."
  )


def value(route: Any, pairs: np.ndarray, singles: np.ndarray) -> float:
  """Returns the sum of what a route's shared pairs and executed blocks are worth.

  Args:
    route: `[T, L]` of 0 and 1.
    pairs: `[L, T, T]`, symmetric: what it is worth that two tasks both execute a block.
    singles: `[T, L]`, what it is worth that a task executes a block.
  """
  return float(_values(np.asarray(route, np.float64)[None], pairs, singles)[0])


def best(
  pairs: np.ndarray,
  singles: np.ndarray,
  limit: prices.Limit,
  sizes: Sequence[int] | None = None,
  keep_first: bool = False,
  shared: bool = False,
) -> Found | None:
  """Finds the route of highest value within a limit.

  Chooses one set of tasks for every block, by an integer programme (HiGHS, in SciPy). Served
  apart, that is exact. Served together, each block counts at least once; where histories part and
  the found route needs more, blocks are exchanged until it fits, and `Found.bound` tells what that
  may have lost. Where tasks share all blocks that they execute, it is exact either way.

  Args:
    pairs: see `value`.
    singles: see `value`.
    limit: what a route may take.
    sizes: how many blocks each task executes; None leaves it open.
    keep_first: whether every task executes block 0.
    shared: whether all tasks execute the same blocks.

  Returns:
    The route; None where none fits, or none was found.

  Raises:
    ValueError: too many tasks or blocks.
  """
  blocks, tasks = pairs.shape[:2]
  check_size(tasks, blocks)
  subsets = np.array(list(itertools.product((0, 1), repeat=tasks)), np.float64)
  sums = np.einsum("st,su,ltu->ls", subsets, subsets, pairs)
  sums = (sums - np.einsum("st,ltt->ls", subsets, pairs)) / 2
  worth = sums + singles.T @ subsets.T
  each = np.asarray(limit.prices.blocks, np.float64)
  price = subsets.mean(1) if limit.serve == APART else subsets.max(1)
  price = (each / each.sum())[:, None] * price

  def solved(shared: bool) -> tuple[np.ndarray, float] | None:
    found = _programme(worth, subsets, price, limit.share, sizes, keep_first, shared)
    exact = shared or limit.serve == APART
    if found is None or not exact or limit.fits(found[0]):
      return found
    return _programme(worth, subsets, price, limit.share - _SLACK, sizes, keep_first, shared)

  found = solved(shared)
  if found is None:
    return None
  route, bound = found
  if not limit.fits(route):
    other = solved(True)
    starts = [route] if other is None else [route, other[0]]
    route = _fitted(starts, pairs, singles, limit, sizes is not None, int(keep_first))
    if not limit.fits(route):
      return None
  return Found(route, value(route, pairs, singles), bound)


def evened(
  pairs: np.ndarray, singles: np.ndarray, limit: prices.Limit, keep_first: bool
) -> Found | None:
  """Returns the best route on which all tasks execute equally many blocks, as many as pay."""
  blocks, tasks = pairs.shape[:2]
  found = [
    best(pairs, singles, limit, (size,) * tasks, keep_first) for size in range(1, blocks + 1)
  ]
  fit = [one for one in found if one is not None]
  # Of equal values the larger route: it can do no less.
  return max(fit, key=lambda one: (round(one.value, 9), one.route.sum()), default=None)


def candidates(
  rng: np.random.Generator,
  alpha: np.ndarray | None,
  agreement: np.ndarray | None,
  limit: prices.Limit,
  count: int,
  keep_first: bool = False,
) -> np.ndarray:
  """Makes the routes to compare, `[N, T, L]`, all different but where there are too few.

  Number 0 is the best route within the limit: of what is known, `value` with the measured
  agreement and the policy's preferences; number 1 is hard sharing, so that validation can refuse
  the others; where milliseconds are limited, of as many blocks as fit. Then come the policy's most
  probable blocks alone (its top K) where agreement decided number 0, and in turn draws of the
  policy at a temperature that begins low and exchanges from number 0. All but hard sharing keep the
  limit, and it, too, keeps one of milliseconds.

  Args:
    rng: of draws and exchanges.
    alpha: `[T, L]`, the policy's probabilities; None without a policy.
    agreement: `[T, T]`, mean cosines of the tasks' gradients; None where they were not measured.
    limit: what a route may take.
    count: N, at least 1.
    keep_first: see `best`.

  Raises:
    ValueError: no route was found within the limit.
  """
  known = agreement if alpha is None else alpha
  assert known is not None, "routes need a policy or measured gradients"
  tasks, blocks = len(known), len(limit.prices.blocks)
  nothing = np.zeros((blocks, tasks, tasks))
  likes = np.zeros((tasks, blocks)) if alpha is None else np.asarray(alpha, np.float64)
  fit = lambda singles: best(nothing, singles, limit, None, keep_first)
  if agreement is None:
    first = fit(likes)
  else:
    pairs = np.tile(np.nan_to_num(agreement), (blocks, 1, 1))
    # Agreement decides who shares; the policy, which block.
    first = evened(pairs, _LIKES * (likes - likes.mean()), limit, keep_first)
  if first is None:
    raise ValueError(f"No route was found within {limit.name}, served {limit.serve}: give more.")
  hard = np.ones((tasks, blocks))
  if limit.timed and not limit.fits(hard):
    hard = _route(best(nothing, 1 + _LIKES * likes, limit, None, keep_first, True), first.route)
  found = [first.route, hard]
  seen = {route.astype(int).tobytes() for route in found}
  for attempt in range(20 * count):
    if len(found) >= count:
      break
    if alpha is not None and attempt == 0:
      route = _route(fit(likes), first.route)
    elif alpha is not None and attempt % 2 == 0:
      logits = np.log(np.clip(likes, 1e-6, 1 - 1e-6) / np.clip(1 - likes, 1e-6, 1 - 1e-6))
      heat = _COLD * (1 + attempt // count)  # Where cold draws are all alike.
      drawn = 1 / (1 + np.exp(-(logits + heat * rng.logistic(size=logits.shape))))
      route = _route(fit(drawn), first.route)
    else:
      route = swaps(rng, first.route, 1 + attempt // 6, int(keep_first))
    new = route.astype(int).tobytes() not in seen
    if new and route.any(1).all() and limit.fits(route):
      seen.add(route.astype(int).tobytes())
      found.append(route)
  found += [first.route] * (count - len(found))
  return np.stack(found[:count]).astype(np.float32)


def _route(found: Found | None, other: np.ndarray) -> np.ndarray:
  """The route that was found; where none was, another."""
  return other if found is None else found.route


def swaps(rng: np.random.Generator, route: np.ndarray, count: int, first: int = 0) -> np.ndarray:
  """Returns `[T, L]` with `count` exchanges, each of an executed and a skipped block of one task.

  Args:
    route: of 0 and 1; every task keeps its number of blocks.
    first: blocks that stay as they are, from the input on.
  """
  found = np.array(route)
  loose = [t for t, row in enumerate(found) if 0 < row[first:].sum() < found.shape[1] - first]
  for _ in range(count if loose else 0):
    row = found[rng.choice(loose), first:]
    off, on = rng.choice(np.flatnonzero(row)), rng.choice(np.flatnonzero(row == 0))
    row[off], row[on] = 0, 1
  return found


def _programme(
  worth: np.ndarray,
  subsets: np.ndarray,
  price: np.ndarray,
  share: float,
  sizes: Sequence[int] | None,
  keep_first: bool,
  shared: bool,
) -> tuple[np.ndarray, float] | None:
  """The best set of tasks for every block, and the optimum's upper bound; None: nothing fits."""
  from scipy import optimize  # Half a second, and only a search needs it.
  from scipy import sparse  # Half a second, and only a search needs it.

  blocks, count = worth.shape
  one = sparse.kron(sparse.eye(blocks), np.ones((1, count)))
  rows, low, high = [one], [np.ones(blocks)], [np.ones(blocks)]
  rows.append(sparse.csr_matrix(price.reshape(1, -1)))
  low.append(np.array([-np.inf]))
  high.append(np.array([share]))
  if sizes is not None:
    rows.append(sparse.csr_matrix(np.tile(subsets.T, (1, blocks))))
    low.append(np.asarray(sizes, np.float64))
    high.append(np.asarray(sizes, np.float64))
  most = np.ones((blocks, count))
  if keep_first:
    most[0, subsets.min(1) == 0] = 0
  if shared:
    most[:, subsets.min(1) < subsets.max(1)] = 0
  solved = optimize.milp(
    -worth.ravel(),
    constraints=optimize.LinearConstraint(
      sparse.vstack(rows), np.concatenate(low), np.concatenate(high)
    ),
    integrality=np.ones(worth.size),
    bounds=optimize.Bounds(0, most.ravel()),
    options={"time_limit": _SECONDS, "mip_rel_gap": 1e-4},
  )
  if solved.x is None:
    return None
  chosen = solved.x.reshape(blocks, count).argmax(1)
  return subsets[chosen].T.copy(), float(-solved.mip_dual_bound)


def _fitted(
  starts: Sequence[np.ndarray],
  pairs: np.ndarray,
  singles: np.ndarray,
  limit: prices.Limit,
  sized: bool,
  first: int,
) -> np.ndarray:
  """Climbs from routes, the first of which takes too much served together, to one that fits."""
  tasks, blocks = starts[0].shape
  columns = list(itertools.combinations(range(first, blocks), 2))
  cells = [] if sized else list(itertools.product(range(tasks), range(first, blocks)))
  moves = len(columns) + len(cells)

  def neighbours(r: np.ndarray) -> np.ndarray:
    found = np.tile(r, (moves, 1, 1))
    for i, (a, b) in enumerate(columns):
      found[i][:, [a, b]] = r[:, [b, a]]
    for i, (t, l) in enumerate(cells, len(columns)):
      found[i, t, l] = 1 - r[t, l]
    return found

  def rank(many: np.ndarray) -> np.ndarray:
    excess = (limit.totals(many) - limit.most) / limit.hard
    return np.where(excess > 0, -1e6 * (1 + excess), 0) + _values(many, pairs, singles)

  ends = []
  # As found, and with the blocks of equal sets of tasks side by side, the largest sets first.
  order = np.lexsort([*starts[0][:, first:], -starts[0][:, first:].sum(0)])
  sorted_ = np.concatenate([starts[0][:, :first], starts[0][:, first:][:, order]], 1)
  for here in (*starts, sorted_):
    score = rank(here[None])[0]
    while moves:
      around = neighbours(here)
      ranks = rank(around)
      if ranks.max() <= score + 1e-9:
        break
      here, score = around[ranks.argmax()], ranks.max()
    ends.append((score, here))
  return max(ends, key=lambda end: end[0])[1]


def _values(many: np.ndarray, pairs: np.ndarray, singles: np.ndarray) -> np.ndarray:
  """`[N]`, `value` of routes `[N, T, L]`."""
  both = np.einsum("ntl,nul,ltu->n", many, many, pairs, optimize=True)
  alone = np.einsum("ntl,ltt->n", many, pairs)
  return (both - alone) / 2 + np.einsum("ntl,tl->n", many, singles)
