"""Which groups of tasks compute which block: the static side of a forward pass.

Tasks start as one group, because they read the same input. As long as every
task of a group is treated alike by a block, the group stays together and its
features are computed once. A group splits where its tasks differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SKIP = 0  # the block is not computed
RUN = 1  # the block is computed, nothing decides
GATE = 2  # computed; one decision for the whole group, from its features
OWN = 3  # computed; every task has a decision of its own, so the group splits

Modes = tuple[tuple[int, ...], ...]


class Split(NamedTuple):
  """What happens at one block.

  Attributes:
    groups: tasks of every group; the groups that compute the block come first.
    parents: for every group, its group before the block.
    running: number of groups that compute the block.
    modes: for every running group RUN, GATE or OWN.
  """

  groups: tuple[tuple[int, ...], ...]
  parents: tuple[int, ...]
  running: int
  modes: tuple[int, ...]


def splits(modes: Modes) -> tuple[Split, ...]:
  """Splits the tasks into groups, block after block; returns one split per block.

  Args:
    modes: `[L][T]` of SKIP, RUN, GATE, OWN, with at least one block and task.
  """
  if not modes or not modes[0]:
    raise ValueError("A routing needs at least one block and one task.")
  if len({len(row) for row in modes}) != 1:
    raise ValueError("Every block of a routing must name the same tasks.")
  unknown = {mode for row in modes for mode in row} - {SKIP, RUN, GATE, OWN}
  if unknown:
    raise ValueError(f"A routing holds SKIP, RUN, GATE and OWN, not {unknown}.")
  groups: tuple[tuple[int, ...], ...] = (tuple(range(len(modes[0]))),)
  result = []
  for row in modes:
    found: list[tuple[tuple[int, ...], int, int]] = []
    for parent, tasks in enumerate(groups):
      for mode in (RUN, GATE, OWN, SKIP):
        same = tuple(t for t in tasks if row[t] == mode)
        parted = [(t,) for t in same] if mode == OWN else [same] if same else []
        found += [(group, parent, mode) for group in parted]
    found.sort(key=lambda entry: entry[2] == SKIP)
    groups, parents, now = zip(*found, strict=True)
    running = len(found) - now.count(SKIP)
    result.append(Split(groups, parents, running, now[:running]))
  return tuple(result)


def all_run(blocks: int, tasks: int) -> Modes:
  """Returns the routing of hard sharing: every task executes every block."""
  return tuple((RUN,) * tasks for _ in range(blocks))


def own(blocks: int, tasks: int, shared: int = 0) -> Modes:
  """Returns one decision per task from block `shared` on; before it all run together."""
  return tuple(((RUN if block < shared else OWN),) * tasks for block in range(blocks))


def fixed(route: Sequence[Sequence[int]], gated: Sequence[bool], train: bool) -> Modes:
  """Returns the routing of a fixed route `[T][L]`.

  Args:
    route: 1 where a task executes a block.
    gated: for every block, whether an instance gate refines the route.
    train: in training every task draws its own gate noise, so a gated block
      separates the tasks; at test equal features give equal gates.
  """
  lengths = {len(row) for row in route}
  if lengths != {len(gated)}:
    raise ValueError(
      f"The route has rows of {sorted(lengths)} blocks; the network has {len(gated)}."
    )
  gate = OWN if train else GATE
  return tuple(
    tuple((gate if gated[l] else RUN) if row[l] else SKIP for row in route)
    for l in range(len(gated))
  )
