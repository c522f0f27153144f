"""Two losses of two numbers: which balancers reach the front, and does a loss's scale matter?

    python -m benchmarks.balancing.toy --out=runs/balancing

Two valleys end at the front, a straight line between the minima of two parabolas. All balancers by
name descend by Adam from five starts, once with the losses as they are and once with loss 1 times
0.1. Writes one file per balancer into the folder toy of --out, which `benchmarks.balancing.page`
reads, and draws the paths.

Source: Liu et al. 2021 (CAGrad), appendix, as its authors' code has it; starts and the factor 0.1:
  Navon et al. 2022 (Nash-MTL).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
import optax

from benchmarks import timing
from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.cli import guard
from dynashare_jax.objectives import balancing
from dynashare_jax.report import style

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALES = (1.0, 0.1)  # of loss 1
LOWEST = -21.0  # below both losses; subtracted, so that logarithms of losses can be taken
NEAR = 0.35  # of the front, in the distance that `distance` gives
BEST = -15.1  # the worse loss where both are equal on the front
_MORE = {
  "famo, decay 1e-5": "name=famo famo_decay=1e-5",
  "unit, length plain": "name=unit length=plain",
}
# Settings of `config.balance`; lengths as in the methods' sources.
ROWS = {
  name: ("length=own", *settings.split())
  for name, settings in sorted(({n: f"name={n}" for n in balancing.available()} | _MORE).items())
  if name not in ("autolambda", "mgda_ub")  # There are no two batches here, and no features.
}
_LOW = -8.35  # of the front in the picture; it is nearly a straight line
_EPOCH = 100  # steps, for methods that have epochs
_KEPT = 400  # points of a path


class Found(NamedTuple):
  """How the descents of a balancer went, one for every scale and start.

  Attributes:
    paths: `[scales, starts, points, 2]`, from start to end.
    losses: `[scales, starts, 2]` at the end, without scale.
  """

  paths: np.ndarray
  losses: np.ndarray

  @property
  def reached(self) -> np.ndarray:
    """Bool `[scales, starts]`: whether the end is on the front."""
    return np.asarray(distance(self.losses) < NEAR)

  @property
  def worse(self) -> np.ndarray:
    """`[scales, starts]`: the worse of the two losses at the end, without scale."""
    return np.asarray(self.losses.max(-1))


def losses(place: jax.Array) -> jax.Array:
  """Returns the two losses `[2]` at a place `[2]`."""
  x, y = place
  bend = jnp.tanh(-y)
  log = lambda v: jnp.log(jnp.maximum(jnp.abs(v), 5e-6)) + 6
  valleys = jnp.stack([log(0.5 * (-x - 7) - bend), log(0.5 * (-x + 3) + bend + 2)])
  bowl = lambda centre: ((x - centre) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
  bowls = jnp.stack([bowl(7.0), bowl(-7.0)])
  above, below = (jnp.maximum(jnp.tanh(half), 0.0) for half in (y / 2, -y / 2))
  return above * valleys + below * bowls


def distance(found: np.ndarray) -> np.ndarray:
  """Returns how far losses `[..., 2]` are from the front; on it the roots sum to 14."""
  return np.abs(np.sqrt(10 * np.maximum(found + 20, 0)).sum(-1) - 14)


def balancer(settings: Sequence[str]) -> balancing.Balancer:
  """Returns the balancer of some settings of `config.balance`, `name=value`."""
  config = defaults.get_config().balance
  for setting in settings:
    name, value = setting.split("=")
    config[name] = value if isinstance(config[name], str) else float(value)
  return balancing.find(config, [types.TaskSpec(name, "number") for name in ("1", "2")])


def weigh(
  method: balancing.Balancer, before: balancing.Losses, rows: jax.Array, key: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
  """Returns a balancer's weights of gradients `[2, P]`, and its new state."""
  gramian = None
  if method.level != "losses":
    gramian = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
  weights, state = method.weigh(before, gramian, key, state)
  return jnp.asarray(weights), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
  method: balancing.Balancer, steps: int, rate: float, start: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Path `[points, 2]` and losses at its end, of one start and one scale of loss 1."""
  tx = optax.adam(rate)
  factors = jnp.stack([scale, jnp.ones_like(scale)])

  def told(place: jax.Array) -> balancing.Losses:
    value = factors * (losses(place) - LOWEST)
    return balancing.Losses(value, jnp.ones(2, bool), (1.0, 1.0))

  def step(carry: Any, key: jax.Array) -> Any:
    place, opt, state = carry
    before = told(place)
    rows = factors[:, None] * jax.jacrev(losses)(place)
    if method.track is not None:
      tracked, state = method.track([[row] for row in rows], before, [jnp.array(True)], state)
      rows = jnp.concatenate(list(map(jnp.stack, tracked)))
    weights, state = weigh(method, before, rows, key, state)
    if method.combine is None:
      grad = weights[0] * rows[0] + weights[1] * rows[1]
    else:
      (grad,) = method.combine([[row] for row in rows], before, weights, key)
    move, opt = tx.update(grad, opt)
    place = place + move
    if method.after is not None:
      state = method.after(before, told(place), state)
    return (place, opt, state), None

  def stretch(carry: Any, keys: jax.Array) -> Any:
    return jax.lax.scan(step, carry, keys)[0], carry[0]

  keys = jax.random.split(jax.random.key(0), (_KEPT, steps // _KEPT))
  first = start, tx.init(start), method.init(2, _EPOCH, [start])
  (end, _, _), path = jax.lax.scan(stretch, first, keys)
  return jnp.concatenate([path, end[None]]), losses(end)


def descend(settings: Sequence[str], steps: int, rate: float) -> Found:
  """Descends from every start at both scales.

  Args:
    settings: of `config.balance`, `name=value`.
    steps: of Adam, a multiple of 400.
    rate: of Adam.
  """
  run = functools.partial(_descend, balancer(settings), steps, rate)
  over = jax.vmap(jax.vmap(run, (0, None)), (None, 0))
  return Found(*map(np.asarray, over(jnp.array(STARTS), jnp.array(SCALES))))


def figure(found: Mapping[str, Found]) -> Figure:
  """Draws a panel a balancer: its paths at both scales, how many reach the front, and that."""
  across = style.balanced(len(found), 7)
  fig, grid = style.panels(len(found), across, (1.65, 1.75), (0.4, 0.7), sharex=True, sharey=True)
  side = np.linspace(-11, 11, 201, dtype=np.float32)
  places = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
  total = np.asarray(jax.vmap(losses)(places).sum(-1)).reshape(len(side), len(side))
  for axes, (name, one) in zip(grid, found.items(), strict=True):
    axes.contour(
      side, side, total, levels=14, colors=style.FAINT, linewidths=0.5, linestyles="solid"
    )
    _paths(axes, one)
    axes.set_title(name)
    axes.set(xlim=(-11, 11), ylim=(-11, 11), xticks=(-7, 0, 7), yticks=(-8, 0, 8), aspect="equal")
  handles, names = grid[0].get_legend_handles_labels()
  fig.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=8.5)
  return fig


def _paths(axes: Axes, found: Found) -> None:
  """The paths of one balancer in its panel."""
  axes.plot(
    (-7, 7), (_LOW, _LOW), color=style.INK, linewidth=3, alpha=0.35, label="front", zorder=1
  )
  looks = (style.colour(0), 2.2, "losses as they are"), (style.colour(1), 1.0, "loss 1 times 0.1")
  for row, (paths, (colour, width, name)) in enumerate(zip(found.paths, looks, strict=True)):
    count = f"{found.reached[row].sum()} of {len(paths)}"
    style.text(axes, 0, 9.5 - 2.6 * row, count, colour=colour, ha="center")
    for n, path in enumerate(paths):
      label = name if n == 0 else "_"
      axes.plot(*path.T, color=colour, linewidth=width, label=label, zorder=2)
      axes.plot(*path[-1], "o", color=colour, markersize=2.0 + 2 * width, zorder=4)
  starts = np.array(STARTS).T
  axes.plot(*starts, "x", color=style.INK, markersize=4, label="start", zorder=5, linestyle="none")
  axes.plot(0, _LOW, "|", color=style.INK, markersize=11, label="equal losses", zorder=6)


def main() -> None:
  """Descends under every balancer, keeps the ends and draws the paths."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--steps", type=int, default=50000)
  parser.add_argument("--rate", type=float, default=1e-3)
  parser.add_argument("--out", default="runs/balancing")
  args = parser.parse_args()
  guard.use_compilation_cache()
  found = {}
  for name, settings in ROWS.items():
    file = pathlib.Path(args.out) / "toy" / f"{name}.npz"
    if not file.is_file():
      file.parent.mkdir(parents=True, exist_ok=True)
      np.savez(file, **descend(settings, args.steps, args.rate)._asdict())
    found[name] = Found(**np.load(file))
    print(name, found[name].reached.sum(1), found[name].worse.mean(1).round(1), flush=True)
  style.draw(lambda: figure(found), timing.ROOT / "docs" / "images" / "balancing_toy.png")


if __name__ == "__main__":
  main()
