"""Plans for your own blocks: a route is run with nothing computed twice, and nothing for nobody.

A route `[T, L]` says with 0 and 1 which task executes which block. Tasks whose history so far is
the same share a computation, and a skipped block is never run for the task that skips it:

```
run = routes.runner([block_0, block_1], [[1, 1], [1, 0]])
seg, depth = run([params_0, params_1], x)          # block_0 once, block_1 for the first task alone
```

`plan` tells what will be computed, `work` what that is of hard sharing's work, and `best` finds the
route within a budget that executes what is worth most. `docs/pieces/routes.md` has a whole example.

Source: DynaShare (Rahimian et al., CVPRW 2023), section 3.4; plans are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.objectives import regularisers
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.sharing import prices
from dynashare_jax.sharing import routes
from dynashare_jax.sharing.plan import Plan
from dynashare_jax.sharing.routes import Found
from dynashare_jax.sharing.routes import work

__all__ = ["Found", "Plan", "best", "plan", "runner", "work"]

Block = Callable[[Any, Any], Any]


def plan(route: Any, tasks: Sequence[str] | None = None) -> Plan:
  """Makes the plan of a route: which computations there are, and for which tasks.

  Args:
    route: `[T, L]` of 0 and 1; an array or nested lists, known when this is called.
    tasks: T names, for `Plan.describe`; default `task 0`, `task 1`, ...

  Returns:
    The plan: hashable, so that it can be a static argument of `jit`. `computations` counts how
    often each block is run, and `describe()` draws it.

  Raises:
    ValueError: other values than 0 and 1, a wrong shape, or a route that is being traced.

  Example:
    >>> plan([[1, 1, 0], [1, 0, 1]]).computations
    (1, 1, 1)
  """
  if isinstance(route, jax.core.Tracer):
    raise ValueError(
      "The route is being traced: a plan is made of numbers. Make it outside of `jit` and let it be"
      " a constant of the compiled function."
    )
  try:
    rows = np.asarray(route)
  except ValueError as error:
    raise ValueError("The rows of a route, one a task, must have the same length.") from error
  if rows.ndim != 2:
    raise ValueError(f"A route has the shape [tasks, blocks], not {rows.shape}.")
  if rows.dtype.kind not in "biuf":
    raise ValueError(f"A route holds 0 and 1 only, not {route}.")
  names = [f"task {t}" for t in range(len(rows))] if tasks is None else tasks
  texts = not isinstance(names, str) and all(isinstance(name, str) for name in names)
  if not texts or len(set(names)) < len(names):
    raise ValueError(f"`tasks` must be different names, one a row, but is {tasks!r}.")
  return plan_lib.make(names, rows)


def runner(
  blocks: Sequence[Block], route: Any, shortcuts: Sequence[Block | None] | None = None
) -> Callable[[Sequence[Any], Any], tuple[Any, ...]]:
  """Makes the function that runs blocks as a route says; it can be compiled and differentiated.

  Args:
    blocks: L functions `(params, x) -> x`, pure; each with its whole output (a residual block with
      its addition).
    route: `[T, L]` of 0 and 1, or a `Plan`.
    shortcuts: L functions `(params, x) -> x`, of the same `params`: what stands in the place of a
      skipped block, such as a projection where the shape changes; None passes x on.

  Returns:
    `run(params, x) -> T outputs`, where `params` has an entry a block and x is what the first block
    reads. Results are those of running every task alone: gradients add up over tasks in what they
    share. Where tasks part, a shortcut is computed once for those that skip.

  Raises:
    ValueError: numbers of blocks, shortcuts, parameters and the route's columns that differ, or
      what `plan` refuses.

  Source: ours; DynaShare (Rahimian et al., CVPRW 2023), section 3.4, runs every task apart.

  Example:
    >>> double, add = (lambda p, x: 2 * x), (lambda p, x: x + p)
    >>> runner([double, add, double], [[1, 1, 0], [1, 0, 1]])([None, 5, None], 1)
    (7, 4)
  """
  made = route if isinstance(route, Plan) else plan(route)
  splits = made.splits
  passing: Sequence[Block | None] = [None] * len(splits) if shortcuts is None else [*shortcuts]
  for what, count in (("blocks", len(blocks)), ("shortcuts", len(passing))):
    if count != len(splits):
      raise ValueError(f"There are {count} {what} for a route of {len(splits)} blocks.")
  if not all(map(callable, (*blocks, *filter(None, passing)))):
    raise ValueError("A block or a shortcut is no function of (params, x).")

  def run(params: Sequence[Any], x: Any) -> tuple[Any, ...]:
    """Runs the blocks; returns one output a task."""
    if len(params) != len(splits):
      raise ValueError(f"There are parameters of {len(params)} blocks for {len(splits)}.")
    groups = [x]
    for own, split, block, shortcut in zip(params, splits, blocks, passing, strict=True):
      found = [block(own, groups[parent]) for parent in split.parents[: split.running]]
      for parent in split.parents[split.running :]:
        found.append(groups[parent] if shortcut is None else shortcut(own, groups[parent]))
      groups = found
    outputs = {t: g for tasks, g in zip(splits[-1].groups, groups, strict=True) for t in tasks}
    return tuple(outputs[task] for task in range(len(made.tasks)))

  return run


def best(
  pairs: np.ndarray, singles: np.ndarray, costs: Sequence[float], share: float, serve: str
) -> Found | None:
  """Finds the route that is worth most within a share of hard sharing's work.

  Args:
    pairs: `[L, T, T]`, symmetric: what it is worth that two tasks both execute a block, such as
      cosines of their gradients.
    singles: `[T, L]`, what it is worth that a task executes a block, such as a policy's alpha.
    costs: `[L]`, work of every block, in any unit.
    share: the most work, in (0, 1], of that of hard sharing, served the same way.
    serve: `together`, all tasks for every input, where computations are shared as in a `Plan`; or
      `apart`, a pass for each task.

  Returns:
    The route, its value, and a bound that no route within the budget exceeds; None where no route
    fits.

  Raises:
    ValueError: arrays that do not fit each other, more than 8 tasks or 64 blocks, or another word.

  Source: ours: an integer programme, solved by HiGHS in SciPy.

  Example:
    >>> agree = np.array([[[0, 1], [1, 0]], [[0, -1], [-1, 0]]], float)  # block 0 yes, block 1 no
    >>> best(agree, np.ones((2, 2)) / 2, [1, 1], 1.0, "together").route.astype(int).tolist()
    [[1, 0], [1, 1]]
  """
  pairs, singles = np.asarray(pairs, np.float64), np.asarray(singles, np.float64)
  if singles.ndim != 2:
    raise ValueError(f"`singles` must be [tasks, blocks], but has the shape {singles.shape}.")
  tasks, blocks = singles.shape
  if pairs.shape != (blocks, tasks, tasks) or len(costs) != blocks:
    raise ValueError(
      f"`singles` {singles.shape} is of {tasks} tasks and {blocks} blocks, but `pairs` has the"
      f" shape {pairs.shape}, not {(blocks, tasks, tasks)}, or there are {len(costs)} costs."
    )
  for name, values in (("pairs", pairs), ("singles", singles)):
    if not np.isfinite(values).all():
      raise ValueError(f"`{name}` must hold finite numbers.")
  if not np.allclose(pairs, pairs.swapaxes(1, 2)):
    raise ValueError("`pairs` must be symmetric: what two tasks are worth to each other is one.")
  regularisers.check_costs(costs, blocks)
  lookup.one_of("serve", serve, routes.SERVES)
  given: Any = share
  if isinstance(given, str) or not 0 < share <= 1:
    raise ValueError(f"The share is {share!r}: give a number above 0 and at most 1.")
  return routes.best(pairs, singles, prices.within_share(costs, tasks, share, serve))
