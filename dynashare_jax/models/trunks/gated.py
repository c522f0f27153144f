"""One backbone per task and a shared one, in step; every task takes each channel from either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract
from dynashare_jax.ops import channel_gates

_STEM = "stem"


class Mixing(nn.Module):
  """What the shared column reads of the tasks' features, place by place: all alike at first.

  Attributes:
    tasks: T.
    places: names and channels.
  """

  tasks: int
  places: tuple[tuple[str, int], ...]

  @nn.compact
  def __call__(self) -> dict[str, jax.Array]:
    """Returns `beta` `[T, C]` of every place, see `ops.channel_gates.mix`."""
    shape = lambda channels: (self.tasks, channels)
    return {n: self.param(n, nn.initializers.zeros, shape(c)) for n, c in self.places}


class GatedTrunk(contract.Trunk):
  """One backbone per task and a shared one, whose features meet after the stem and every block.

  There every task takes each channel from its own column or from the shared one, and the shared
  column reads on from a mixture of what the tasks took. `control` holds the gates of every place,
  `[T, C]`.

  Attributes:
    columns: one backbone per task, then the shared one.
    inner: whether the layers within a block have gates, too.
    before: whether the shared column reads the tasks' features before the gates, as the paper's
      Eq. 3 has it; then no channel can be cut out.

  Source: GatedMTL (ICLR 2024 submission), section 3.
  Differs: the shared column reads what the tasks took; only then is a channel whose gate is closed
    of no use, as the paper's cost says. What follows the last block (a norm) is a task's own.
  """

  columns: tuple[Any, ...]
  inner: bool = False
  before: bool = False

  @property
  def units(self) -> int:
    """Blocks of one backbone."""
    return int(self.columns[0].num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules: any task may read of any column."""
    shared = f"columns_{len(self.columns) - 1}"
    return {
      "columns": contract.Leaf("backbone"),
      shared: contract.Leaf("shared"),
      "mixing": contract.Leaf("mixing"),
    }

  @nn.nowrap
  def lean(self, structure: Any) -> tuple[contract.Trunk, Callable[[str, Any], Any]] | None:
    """Returns the trunk of those channels alone that some task takes."""
    return None if self.before else _cut(self, structure)

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the shared column; all are alike."""
    return self.columns[-1]

  @nn.compact
  def __call__(
    self, inputs: Any, control: channel_gates.Gates, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all columns layer by layer."""
    tasks = len(self.columns) - 1
    beta = Mixing(tasks, places(self.columns[0], self.inner), name="mixing")()

    def joined(place: str, x: Sequence[jax.Array]) -> list[jax.Array]:
      *own, shared = x
      taken = [
        jax.tree.map(lambda a, b, g=g: channel_gates.gate(a, b, g), features, shared)
        for features, g in zip(own, control[place], strict=True)
      ]
      return [*taken, _mixed(beta[place], own if self.before else taken)]

    every = range(tasks + 1)
    x = _walk(self.columns, inputs, train, self.inner, lambda place: every, joined)
    features = [self.columns[t].final(x[t])[0] for t in range(tasks)]
    return features, contract.Signals(jnp.ones((tasks, features[0].shape[0], self.units)))


class LeanTrunk(contract.Trunk):
  """A `GatedTrunk` with fixed gates, without the channels that nobody takes.

  Attributes:
    columns: one backbone per task, then the shared one, each with the outputs that it keeps.
    gates: of every place, its name and for every task the bytes of `[C]` gates.
    rows: the tasks whose features are wanted.
    inner: as in `GatedTrunk`.
  """

  columns: tuple[Any, ...]
  gates: tuple[tuple[str, tuple[bytes, ...]], ...]
  rows: tuple[int, ...]
  inner: bool = False

  @property
  def units(self) -> int:
    """Blocks of one backbone."""
    return int(self.columns[0].num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules: any task may read of any column."""
    return {"columns": contract.Leaf("backbone"), "mixing": contract.Leaf("mixing")}

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the trunk of some tasks; what they do not need is not computed."""
    names = {name: name for name in self.leaves()}
    return self.clone(rows=tuple(self.rows[t] for t in tasks)), names

  @nn.compact
  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs of every column what some task takes."""
    del control
    gates = {n: np.stack([np.frombuffer(r, np.uint8) for r in rows]) for n, rows in self.gates}
    tasks = len(self.columns) - 1
    within = [name for name in gates if "." in name]
    computed, wanted = _needed(gates, self.rows, self.units, within)
    # Where all tasks read the same, the shared column reads it, too.
    mixed = tuple((n, g.shape[1]) for n, g in gates.items() if tasks in wanted[n] and g.any())
    beta = Mixing(tasks, mixed, name="mixing")() if mixed else {}

    def joined(place: str, x: Sequence[Any]) -> list[Any]:
      taken: list[Any] = [
        _taken(x[t], x[tasks], gates[place], t) if t in wanted[place] else None
        for t in range(tasks)
      ]
      if tasks not in wanted[place]:
        return [*taken, None]
      return [*taken, _mixed(beta[place], taken) if place in beta else x[tasks]]

    x = _walk(self.columns, inputs, train, self.inner, computed.__getitem__, joined, gates)
    features = [self.columns[t].final(x[t])[0] for t in self.rows]
    return features, contract.Signals(jnp.ones((len(features), features[0].shape[0], self.units)))


def places(backbone: Any, inner: bool) -> tuple[tuple[str, int], ...]:
  """Returns names and channels of the places of gates: the stem, layers if `inner`, and blocks."""
  found = [(_STEM, backbone.stem_layer().channels)]
  for block in range(backbone.num_blocks):
    *within, last = backbone.layers(block)
    found += [(_place(layer), layer.channels) for layer in within] if inner else []
    found.append((f"block_{block}", last.channels))
  return tuple(found)


def _place(layer: base.Layer) -> str:
  """The name of a layer's gates."""
  return layer.name.replace("/", ".")


def _walk(
  columns: Sequence[Any],
  inputs: Any,
  train: bool,
  inner: bool,
  computed: Callable[[str], Any],
  joined: Callable[[str, Sequence[Any]], list[Any]],
  gates: Mapping[str, np.ndarray] | None = None,
) -> list[Any]:
  """Runs columns in step; `joined` at every place turns what was computed there into features.

  Identity shortcuts keep the channels whose `gates` say so.
  """
  pass_ = base.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
  run = lambda place, one: [one(k) if k in computed(place) else None for k in range(len(columns))]
  layered = lambda block, index, h, k: columns[k].layer(block, index, h[k], pass_)
  x = joined(_STEM, run(_STEM, lambda k: columns[k].stem(inputs, pass_)))
  for block in range(columns[0].num_blocks):
    name, h = f"block_{block}", list(x)
    described = columns[0].layers(block)
    for index, layer in enumerate(described):
      last = index + 1 == len(described)
      place = name if last or not inner else _place(layer)
      h = run(place, functools.partial(layered, block, index, h))
      if inner and not last:
        h = joined(place, h)

    def merged(k: int, x: Any = x, h: Any = h, name: str = name, block: int = block) -> Any:
      rest = columns[k].shortcut(block, x[k], pass_)
      if gates is not None and columns[k].skips and _width(rest) != _width(h[k]):
        rest = jax.tree.map(lambda a: jnp.take(a, _column(gates[name], k), -1), rest)
      return columns[k].merge(rest, h[k])

    x = joined(name, run(name, merged))
  return x


def _width(x: Any) -> int:
  """Channels of features."""
  return int(jax.tree.leaves(x)[0].shape[-1])


def _mixed(beta: jax.Array, x: Sequence[Any]) -> Any:
  """What the shared column reads of all tasks' features."""
  return jax.tree.map(lambda *of_tasks: channel_gates.mix(beta, of_tasks), *x)


def _column(gates: np.ndarray, column: int) -> np.ndarray:
  """Which outputs a column keeps: a task's where its gate is open, shared where one is not."""
  return np.flatnonzero(gates[column] if column < len(gates) else 1 - gates.prod(0))


def _taken(own: Any, shared: Any, gates: np.ndarray, task: int) -> Any:
  """A task's features, from the outputs that its own and the shared column keep."""
  row = gates[task].astype(np.int32)
  if row.all() or not row.any():
    return own if row.all() else shared
  theirs = np.searchsorted(_column(gates, len(gates)), np.arange(len(row)))
  at = np.where(row > 0, np.cumsum(row) - 1, int(row.sum()) + theirs)
  joined = lambda a, b: jnp.take(jnp.concatenate([a, b], -1), at, -1)
  return jax.tree.map(joined, own, shared)


def _needed(
  gates: Mapping[str, np.ndarray], rows: Sequence[int], blocks: int, within: Sequence[str]
) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
  """Of every place, the columns whose outputs are computed, and those whose features are read.

  `within` are the places in blocks.
  """
  tasks = len(next(iter(gates.values())))
  computed: dict[str, set[int]] = {}
  wanted: dict[str, set[int]] = {}

  def ask(place: str, columns: set[int]) -> set[int]:
    """Notes that columns' features are read at a place; returns what is computed for them."""
    g, found = gates[place], set()
    if tasks in columns and g.any():
      columns = columns | set(range(tasks))
    elif tasks in columns:
      found.add(tasks)
    for t in columns - {tasks}:
      found |= ({t} if g[t].any() else set()) | (set() if g[t].all() else {tasks})
    wanted[place], computed[place] = columns, found
    return found

  read = set(rows)
  for block in reversed(range(blocks)):
    ends = ask(f"block_{block}", read)
    read = ends
    for place in reversed([p for p in within if p.startswith(f"block_{block}.")]):
      read = ask(place, read)
    read = read | ends
  ask(_STEM, read)
  return computed, wanted


def _cut(trunk: GatedTrunk, structure: Any) -> tuple[contract.Trunk, Callable[[str, Any], Any]]:
  """The lean trunk of fixed gates, and what it keeps of a leaf."""
  gates = {
    n: np.asarray(structure[n]).astype(np.uint8) for n, _ in places(trunk.columns[0], trunk.inner)
  }
  tasks = len(trunk.columns) - 1
  kept = [{n: _column(g, k) for n, g in gates.items()} for k in range(tasks + 1)]
  columns = tuple(
    column.clone(kept=tuple((n, len(of)) for n, of in kept[k].items()))
    for k, column in enumerate(trunk.columns)
  )
  fixed = tuple((n, tuple(row.tobytes() for row in g)) for n, g in gates.items())
  lean = LeanTrunk(columns, fixed, tuple(range(tasks)), trunk.inner)
  parts = {prefix: n for n in gates for prefix in trunk.columns[0].outputs(n)}

  def cut(path: str, leaf: Any) -> Any:
    column, _, rest = path.partition("/")
    prefix = contract.longest(parts, rest)
    if not column.startswith("columns_") or prefix is None:
      return leaf
    return leaf[..., kept[int(column.split("_")[1])][parts[prefix]]]

  return lean, cut
