"""Figures of the task policy: probabilities, route, similarity, evolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib

_BESIDE = 12  # more blocks than this put the route below the heat map
_CELL = 0.46  # inches


def policy(run: workdir_lib.Run) -> Figure | None:
  """Draws execution probabilities beside the route that was kept.

  Returns None without a policy and a route that skips a block.

  Source: AdaShare (Sun et al. 2020), Fig. 3 (a) to (d).
  """
  alpha, route = run.alpha, run.route
  if alpha is None and (route is None or bool(np.all(route == 1))):
    return None
  parts = [part for part in (alpha, route) if part is not None]
  tasks, blocks = parts[0].shape
  names = _names(run, tasks)
  beside = blocks <= _BESIDE and len(parts) == 2
  width = _CELL * blocks + 0.75
  height = _CELL * tasks + 0.75
  if beside:
    fig = style.figure(1.4 + 2 * width, height + 0.1)
    grid = fig.subplots(1, 2, squeeze=False, width_ratios=[blocks, blocks + 1]).ravel()
    fig.get_layout_engine().set(wspace=0.06)
  else:
    fig = style.figure(1.2 + width, height * len(parts) + 0.1)
    grid = fig.subplots(len(parts), 1, squeeze=False).ravel()
  axes = list(grid)
  if alpha is not None:
    part = axes.pop(0)
    heat(part, alpha, style.SEQUENTIAL, (0.0, 1.0))
    part.set_title("Probability of executing a block")
    if len(parts) == 2 and not beside:
      part.set_xlim(-0.5, blocks + 0.5)  # as wide as the route below it
    _block_axis(part, names, blocks)
  if route is not None:
    part = axes.pop(0)
    squares(part, route)
    part.set_title("Kept route and its blocks")
    _block_axis(part, () if beside else names, blocks)
  return fig


def _names(run: workdir_lib.Run, tasks: int) -> Sequence[str]:
  """The names of the tasks, numbers where they have none."""
  return run.tasks or [f"task {t}" for t in range(tasks)]


def heat(
  axes: Axes,
  values: np.ndarray,
  colormap: Colormap,
  limits: tuple[float, float],
  form: str = "{:.2f}",
) -> None:
  """Draws a matrix as coloured cells with the number in each; NaN is left grey.

  Args:
    values: [rows, columns].
    limits: values at the two ends of the colours.
    form: of the numbers; a leading zero before a point is dropped.
  """
  low, high = limits
  for (row, column), value in np.ndenumerate(values):
    known = bool(np.isfinite(value))
    rgba = colormap((value - low) / (high - low)) if known else (0.93, 0.93, 0.93, 1.0)
    _square(axes, row, column, 0.96, facecolor=rgba, edgecolor="none")
    words = _short(form.format(value)) if known else "–"
    style.text(axes, column, row, words, 8, style.readable(rgba), ha="center")
  _cells(axes, *values.shape)


def _square(axes: Axes, row: int, column: int, size: float, **colours: Any) -> None:
  """Draws a square around the middle of a cell."""
  corner = (column - size / 2, row - size / 2)
  axes.add_patch(Rectangle(corner, size, size, **colours))


def _cells(axes: Axes, rows: int, columns: int) -> None:
  """Makes axes a grid of square cells, the first row at the top."""
  axes.set_xlim(-0.5, columns - 0.5)
  axes.set_ylim(rows - 0.5, -0.5)
  axes.set_aspect("equal", anchor="W")
  style.bare(axes)


def _short(text: str) -> str:
  """`0.87` as `.87`, `1.00` as `1`, `-0.20` as `−.20`."""
  if float(text) in (0.0, 1.0, -1.0):
    text = f"{float(text):.0f}".replace("-0", "0")
  text = text.replace("-", "−")
  return text.replace("0.", ".", 1) if "0." in text[:3] else text


def squares(axes: Axes, route: np.ndarray) -> None:
  """Draws a route as filled (executed) and empty (skipped) squares, with counts."""
  tasks, blocks = route.shape
  blue = style.colour(0)
  for (task, block), value in np.ndenumerate(route):
    fill, edge = (blue, blue) if value > 0.5 else ("white", style.FAINT)
    _square(axes, task, block, 0.72, facecolor=fill, edgecolor=edge, linewidth=1.0)
  for task, count in enumerate((route > 0.5).sum(1)):
    style.text(axes, blocks - 0.35, task, f"{count}/{blocks}", 8.5, style.INK)
  _cells(axes, tasks, blocks + 1)


def _block_axis(axes: Axes, names: Sequence[str], blocks: int) -> None:
  axes.set_xticks(range(blocks))
  axes.set_xlabel("block, 0 nearest the input")
  style.row_names(axes, names, fontsize=9)


def similarity(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Computes cosine [T, T] in [0, 1] and Pearson [T, T] in [-1, 1] of the tasks' policies.

  Args:
    alpha: execution probabilities [T, L] in [0, 1]. Where those of a task are
      all zero, or (Pearson) all equal, the result is NaN.

  Source: AdaShare (Sun et al. 2020), Fig. 3 (e): cosine.
  """
  alpha = np.asarray(alpha, np.float64)

  def cosine(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1)
    norm = np.where(norm > 1e-9, norm, np.nan)
    return np.clip(rows @ rows.T / (norm[:, None] * norm[None, :]), -1, 1)

  return cosine(alpha), cosine(alpha - alpha.mean(axis=1, keepdims=True))


def correlation(run: workdir_lib.Run) -> Figure | None:
  """Draws the similarity of the tasks' policies, and the blocks that they share.

  Returns None without a policy of at least two tasks.
  """
  alpha = run.alpha
  if alpha is None or alpha.shape[0] < 2:
    return None
  names = run.tasks
  cosine, pearson = similarity(alpha)
  parts = [
    ("Cosine", cosine, style.SEQUENTIAL, (0.0, 1.0), "{:.2f}"),
    ("Pearson", pearson, style.DIVERGING, (-1.0, 1.0), "{:.2f}"),
  ]
  route = run.route
  if route is not None:
    on = (route > 0.5).astype(np.float64)
    limits = (0.0, float(route.shape[1]))
    parts.append(("Blocks shared in the route", on @ on.T, style.SEQUENTIAL, limits, "{:.0f}"))
  size = 0.6 * len(names)
  fig = style.figure(0.9 + (size + 0.9) * len(parts), size + 1.2)
  for place, axes in enumerate(fig.subplots(1, len(parts), squeeze=False)[0]):
    title, values, colormap, limits, form = parts[place]
    heat(axes, values, colormap, limits, form)
    axes.set_title(title)
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "color": style.INK}
    axes.set_xticks(range(len(names)), names, **turned)
    style.row_names(axes, names if place == 0 else ())
  return fig


def evolution(run: workdir_lib.Run) -> Figure | None:
  """Draws how each block's probability moved, one panel per task.

  Returns None with fewer than two `alpha` rows in `metrics.jsonl`.
  """
  rows = [
    (float(row["step"]), alpha)
    for row in workdir_lib.select(run.lines, "alpha", "alpha")
    if (alpha := workdir_lib.matrix(row["values"]["alpha"])) is not None
  ]
  if len(rows) < 2:
    return None
  alphas = np.stack([alpha for _, alpha in rows])
  tasks, blocks = alphas.shape[1:]
  size = (3.3, max(2.0, 0.2 * blocks + 0.7))
  fig, grid = style.panels(tasks, 3, size, (0.6, 0.5), lowest="step", sharex=True)
  fig.get_layout_engine().set(wspace=0.05, hspace=0.05)
  edges = _edges(np.asarray([step for step, _ in rows]))
  mesh = None
  for task, (axes, name) in enumerate(zip(grid, _names(run, tasks), strict=True)):
    cells = (edges, np.arange(blocks + 1) - 0.5, alphas[:, task].T)
    mesh = axes.pcolormesh(*cells, cmap=style.SEQUENTIAL, vmin=0, vmax=1, rasterized=True)
    _evolution_axis(axes, name, alphas[-1, task], None if run.route is None else run.route[task])
    if axes.get_subplotspec().is_first_col():
      axes.set_ylabel("block, 0 nearest the input")
    else:
      axes.tick_params(labelleft=False)
  bar = fig.colorbar(mesh, ax=fig.axes, shrink=0.8, aspect=28, pad=0.02)
  bar.set_label("probability of executing the block")
  bar.outline.set_visible(False)
  return fig


def _edges(steps: np.ndarray) -> np.ndarray:
  """Edges [N + 1] of cells around N ascending steps."""
  middle = (steps[1:] + steps[:-1]) / 2
  first = steps[0] - (middle[0] - steps[0])
  last = steps[-1] + (steps[-1] - middle[-1])
  return np.concatenate([[first], middle, [last]])


def _evolution_axis(axes: Axes, name: str, final: np.ndarray, route: np.ndarray | None) -> None:
  """Title, block ticks, and at the right the last value and the decision."""
  blocks = len(final)
  axes.set_title(name)
  axes.set_ylim(blocks - 0.5, -0.5)
  axes.set_yticks(range(0, blocks, 1 if blocks <= 16 else 4))
  for line in np.arange(blocks - 1) + 0.5:
    axes.axhline(line, color="white", linewidth=1.0)
  style.bare(axes)
  axes.tick_params(axis="x", length=3)
  right = {"transform": axes.get_yaxis_transform()}
  for block, value in enumerate(final):
    style.text(axes, 1.02, block, f"{value:.2f}", colour=style.INK, **right)
    if route is not None:
      mark, colour = ("■", style.colour(0)) if route[block] > 0.5 else ("□", style.SOFT)
      style.text(axes, 1.15, block, mark, 8.5, colour, **right)
