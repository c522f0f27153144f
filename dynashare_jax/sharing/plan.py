"""A route as a plan: what is computed once, for which tasks, and what never."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import string
from typing import Any

from dynashare_jax.ops import routing


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static execution plan of a fixed route; hashable, so static under jit.

  Tasks whose history so far is identical share a computation; what a task
  skips is never traced for it.

  Attributes:
    tasks: names, in order.
    route: `[T][L]` of 0 and 1.
    gated: for every block, whether an instance gate refines the route.
  """

  tasks: tuple[str, ...]
  route: tuple[tuple[int, ...], ...]
  gated: tuple[bool, ...]

  @property
  def modes(self) -> routing.Modes:
    """The routing `[L][T]` that a trunk runs, for inference."""
    return routing.fixed(self.route, self.gated, train=False)

  @property
  def splits(self) -> tuple[routing.Split, ...]:
    """What happens at every block."""
    return routing.splits(self.modes)

  @property
  def computations(self) -> tuple[int, ...]:
    """How often each block is computed; 0 is never."""
    return tuple(split.running for split in self.splits)

  def to_dict(self) -> dict[str, Any]:
    """The plan as data: for every block, the groups of tasks that compute it.

    Returns:
      `tasks`, `route` `[T][L]`, `gated` `[L]`, `pairs` and `computations` (executed (task, block)
      pairs, and block computations they take), and `blocks`: for each, `block`, `gated`,
      `computed_for` (groups of task names; one group is one computation) and `skipped_by`.
    """
    blocks = []
    for index, split in enumerate(self.splits):
      named = [[self.tasks[t] for t in group] for group in split.groups]
      blocks.append(
        {
          "block": index,
          "gated": self.gated[index],
          "computed_for": named[: split.running],
          "skipped_by": [name for g in named[split.running :] for name in g],
        }
      )
    return {
      "tasks": list(self.tasks),
      "route": [list(row) for row in self.route],
      "gated": list(self.gated),
      "pairs": sum(map(sum, self.route)),
      "computations": sum(self.computations),
      "blocks": blocks,
    }

  def describe(self) -> str:
    """A small diagram: a row a task, a column a block.

    Equal letters in a column are one computation, `·` is never computed, and
    `?` is asked of an instance gate first.
    """
    names: dict[tuple[int, ...], str] = {}
    cells = [["·" for _ in self.gated] for _ in self.tasks]
    for block, split in enumerate(self.splits):
      for group in split.groups[: split.running]:
        letter = names.setdefault(group, _letter(len(names)))
        for task in group:
          cells[task][block] = letter + "?" * self.gated[block]
    head = ["block", *(str(block) for block in range(len(self.gated)))]
    rows = [head] + [[n, *c] for n, c in zip(self.tasks, cells, strict=True)]
    first = max(len(row[0]) for row in rows)
    wide = max(len(cell) for row in rows for cell in row[1:])
    lines = [
      (row[0].ljust(first) + "".join("  " + c.ljust(wide) for c in row[1:])).rstrip()
      for row in rows
    ]
    pairs, total = sum(map(sum, self.route)), len(self.tasks) * len(self.gated)
    lines += [
      "",
      f"{pairs} of {total} (task, block) pairs run, in {sum(self.computations)} computations.",
    ]
    return "\n".join(lines)


def make(tasks: Sequence[str], route: Any, gated: Sequence[bool] | None = None) -> Plan:
  """Makes the plan of a route.

  Args:
    tasks: names, in order.
    route: `[T, L]` of 0 and 1.
    gated: for every block, whether a gate refines it; default none.

  Returns:
    The plan.

  Raises:
    ValueError: another number of rows than tasks, rows of other lengths than
      `gated`, no block, or other values than 0 and 1.
  """
  odd = {float(v) for row in route for v in row} - {0.0, 1.0}
  if odd:
    raise ValueError(f"A route holds 0 and 1 only, not {sorted(odd)}.")
  rows = tuple(tuple(int(value) for value in row) for row in route)
  if len(rows) != len(tasks) or not rows:
    raise ValueError(
      f"The route has {len(rows)} rows for {len(tasks)} tasks {tuple(tasks)}:"
      " give it one row a task."
    )
  gates = (False,) * len(rows[0]) if gated is None else tuple(map(bool, gated))
  made = Plan(tuple(tasks), rows, gates)
  routing.splits(made.modes)  # raises for lengths that do not fit
  return made


def _letter(index: int) -> str:
  """Letters a to z, then aa, ab, ..."""
  letters = string.ascii_lowercase
  if index < len(letters):
    return letters[index]
  return _letter(index // len(letters) - 1) + letters[index % len(letters)]
