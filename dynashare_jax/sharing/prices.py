"""What routes take: prices of a network's parts, and the most that a route may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax.sharing import plan as plan_lib

TOGETHER, APART = SERVES = ("together", "apart")  # how a network is served, see `Prices.predict`
_ROUNDING = 1e-9  # by which a share may be exceeded


class Prices(NamedTuple):
  """What the parts of a network take: milliseconds (`infer.latency`), or multiply-accumulates.

  Attributes:
    fixed: of every call: dispatch, stem, shortcuts and the last norm; of a network with one task
      its head, too.
    blocks: `[L]`, of the first computation of every block in a call.
    further: `[L]`, of each further one in the same call, for another group of tasks.
    groups: `[L]`, of each further group of tasks that comes to the block in the same call, whether
      it computes the block or not: its shortcut and copies.
    heads: `[T]`, of every task's head.
  """

  fixed: float
  blocks: tuple[float, ...]
  further: tuple[float, ...]
  groups: tuple[float, ...]
  heads: tuple[float, ...]

  def predict(self, route: Any, serve: str = TOGETHER) -> float:
    """Returns what a route takes.

    Args:
      route: `[T, L]` of 0 and 1.
      serve: `together` is one call for all tasks, in which those with the same history share a
        block's computation (`Plan.computations`); `apart` is one call a task, one after another.

    Raises:
      ValueError: a route of another shape or with other values, or another word.
    """
    if serve not in SERVES:
      raise ValueError(f"serve is {serve!r}; it must be one of {', '.join(SERVES)}.")
    made = planned(route, [str(t) for t in range(len(self.heads))], len(self.blocks))
    return float(self.totals(np.asarray([made.route]), serve)[0])

  def totals(self, many: np.ndarray, serve: str) -> np.ndarray:
    """Returns `[N]`, what each of the routes `[N, T, L]` takes, as `predict` says it."""
    heads, ones = sum(self.heads), many > 0
    if serve == APART:
      total = np.full(len(many), len(self.heads) * self.fixed + heads)
      for l, price in enumerate(self.blocks):
        total += price * ones[:, :, l].sum(1)
      return total
    total = np.full(len(many), self.fixed + heads)
    after = np.zeros(many.shape[:2], np.int64)  # equal numbers are equal histories
    for l, price in enumerate(self.blocks):
      running = _distinct(np.where(ones[:, :, l], after, -1))
      total += np.where(running > 0, price + self.further[l] * (running - 1), 0.0)
      if self.groups[l]:
        total += self.groups[l] * (_distinct(after) - 1)
      after = 2 * after + ones[:, :, l]
      after = np.unique(after, return_inverse=True)[1].reshape(after.shape)  # Small numbers.
    return total


def _distinct(numbers: np.ndarray) -> np.ndarray:
  """`[N]`, how many different numbers of at least 0 there are in each row."""
  ordered = np.sort(numbers, 1)
  new = np.diff(ordered, axis=1, prepend=-1) != 0
  return np.asarray((new & (ordered >= 0)).sum(1))


def planned(route: Any, tasks: Sequence[str], blocks: int) -> plan_lib.Plan:
  """Returns the plan of a route without gates, whose shape is checked.

  Raises:
    ValueError: a route of another shape, or with other values than 0 and 1.
  """
  shape = np.shape(route)
  if shape != (len(tasks), blocks):
    raise ValueError(
      f"The route has the shape {shape}, but there are {len(tasks)} tasks and {blocks} blocks:"
      " give it a row a task and a column a block."
    )
  return plan_lib.make(tasks, route)


def of_work(costs: Sequence[float], tasks: int) -> Prices:
  """Returns the prices of blocks of some work, in its unit: all computations alike, no more."""
  each, nothing = tuple(map(float, costs)), (0.0,) * len(costs)
  return Prices(0.0, each, each, nothing, (0.0,) * tasks)


class Limit(NamedTuple):
  """The most that a route may take.

  Attributes:
    prices: of the parts of the network.
    most: of their sum, in the unit of the prices.
    serve: see `Prices.predict`.
    name: of the setting, with its value.
    timed: whether these are milliseconds; else a share of the work of hard sharing.
  """

  prices: Prices
  most: float
  serve: str
  name: str
  timed: bool = False

  @property
  def hard(self) -> float:
    """What the blocks of hard sharing take."""
    calls = len(self.prices.heads) if self.serve == APART else 1
    return calls * float(np.sum(self.prices.blocks))

  @property
  def share(self) -> float:
    """What is left for blocks, beside what every route takes, as a share of `hard`."""
    nothing = np.zeros((1, len(self.prices.heads), len(self.prices.blocks)))
    return (self.most - float(self.totals(nothing)[0])) / self.hard

  def totals(self, many: np.ndarray) -> np.ndarray:
    """Returns `[N]`, see `Prices.totals`."""
    return self.prices.totals(many, self.serve)

  def fits(self, route: np.ndarray) -> bool:
    """Returns whether a route `[T, L]` takes no more."""
    return bool(self.totals(np.asarray(route)[None])[0] <= self.most)

  def told(self, total: float) -> str:
    """Returns an amount in words."""
    if self.timed:
      return f"{total:.4g} ms"
    return f"{total / self.hard:.3g} of the work of hard sharing"


def within_share(costs: Sequence[float], tasks: int, share: float, serve: str) -> Limit:
  """Returns the limit that is a share of the work of hard sharing, served the same way.

  Args:
    costs: `[L]`, work of every block, in any unit.
    tasks: how many.
    share: in (0, 1].
    serve: see `Prices.predict`.
  """
  whole = Limit(of_work(costs, tasks), 0.0, serve, f"config.policy.budget={share:g}")
  return whole._replace(most=(share + _ROUNDING) * whole.hard)


class Network(NamedTuple):
  """What tells a network from others, whose blocks take other times.

  Attributes:
    tasks: their names.
    macs: `[L]`, multiply-accumulates of every block on one example.
    dtype: of the computation.
  """

  tasks: tuple[str, ...]
  macs: tuple[float, ...]
  dtype: str


class Timed(NamedTuple):
  """Milliseconds that were measured.

  Attributes:
    prices: of the parts of a network.
    batch: examples of a call.
    device: that computed.
  """

  prices: Prices
  batch: int
  device: str


def to_dict(timed: Timed, network: Network, about: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a file of milliseconds holds, which `read` reads.

  Args:
    timed: to be kept.
    network: that was timed.
    about: more to tell a reader, such as versions.
  """
  return {
    "milliseconds": timed.prices._asdict(),
    "batch": timed.batch,
    "device": timed.device,
    "network": network._asdict(),
    **about,
  }


def read(path: str, network: Network) -> Timed:
  """Reads what `python -m dynashare_jax cost --latency=FILE` wrote for a network.

  Raises:
    ValueError: there is no such file, it holds something else, or it is of another network.
  """
  name = f"config.policy.latency={path!r}"
  again = "Write it with: python -m dynashare_jax cost --config=CONFIG --latency=FILE."
  if not pathlib.Path(path).is_file():
    raise ValueError(f"{name}: there is no such file. {again}")
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    timed = Timed(_prices(found["milliseconds"]), _batch(found["batch"]), str(found["device"]))
    told = found["network"]
    own = Network(tuple(told["tasks"]), tuple(map(float, told["macs"])), str(told["dtype"]))
    if (len(own.tasks), len(own.macs)) != (len(timed.prices.heads), len(timed.prices.blocks)):
      raise ValueError("as many heads as tasks and as many blocks as macs are needed")
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{name} holds no milliseconds ({type(error).__name__}: {error}). {again}"
    ) from error
  other = [f for f in Network._fields if getattr(own, f) != getattr(network, f)]
  if other:
    told = "; ".join(f"{f} {getattr(own, f)} there, {getattr(network, f)} here" for f in other)
    raise ValueError(f"{name} is of another network ({told}). {again}")
  return timed


def _prices(told: Mapping[str, Any]) -> Prices:
  """Prices that are finite, none below 0, with as many of every kind as there are blocks."""
  each = lambda name: tuple(map(float, told[name]))
  found = Prices(float(told["fixed"]), *map(each, Prices._fields[1:]))
  numbers = [found.fixed, *found.blocks, *found.further, *found.groups, *found.heads]
  if not all(math.isfinite(value) and value >= 0 for value in numbers) or not sum(found.blocks):
    raise ValueError("milliseconds must be finite and at least 0, those of some block above")
  if not len(found.blocks) == len(found.further) == len(found.groups):
    raise ValueError("blocks, further and groups must be equally many")
  return found


def _batch(value: Any) -> int:
  """The number of examples of a call."""
  if not isinstance(value, int) or value < 1:
    raise ValueError(f"the batch, the examples of a call, must be at least 1, not {value!r}")
  return value
