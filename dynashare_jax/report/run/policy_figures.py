"""Figures of the task policy: probabilities, route, similarity, evolution."""

from __future__ import annotations

from collections.abc import Sequence

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
  """Execution probabilities beside the route that was kept.

  Args:
    run: a run with a policy, or with a route that skips a block.

  Returns:
    The figure, or None if there is neither.

  Source: AdaShare (Sun et al. 2020), Fig. 3 (a) to (d).
  """
  alpha, route = run.alpha, run.route
  if alpha is None and (route is None or bool(np.all(route == 1))):
    return None
  parts = [part for part in (alpha, route) if part is not None]
  tasks, blocks = parts[0].shape
  names = run.tasks or tuple(f"task {t}" for t in range(tasks))
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


def heat(
  axes: Axes,
  values: np.ndarray,
  colormap: Colormap,
  limits: tuple[float, float],
  form: str = "{:.2f}",
) -> None:
  """A matrix as coloured cells with the number in each; NaN is left grey.

  Args:
    axes: where to draw.
    values: [rows, columns].
    colormap: colours of the cells.
    limits: values at the two ends of the colours.
    form: how a number is written; a leading zero before a point is dropped.
  """
  low, high = limits
  rows, columns = values.shape
  for row in range(rows):
    for column in range(columns):
      value = float(values[row, column])
      known = bool(np.isfinite(value))
      shade = (value - low) / (high - low)
      rgba = colormap(shade) if known else (0.93, 0.93, 0.93, 1.0)
      axes.add_patch(
        Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=rgba, edgecolor="none")
      )
      axes.text(
        column,
        row,
        _short(form.format(value)) if known else "–",
        ha="center",
        va="center",
        fontsize=8,
        color=style.readable(rgba),
      )
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
  """A route as filled (executed) and empty (skipped) squares, with counts."""
  tasks, blocks = route.shape
  for task in range(tasks):
    for block in range(blocks):
      on = bool(route[task, block] > 0.5)
      axes.add_patch(
        Rectangle(
          (block - 0.36, task - 0.36),
          0.72,
          0.72,
          facecolor=style.colour(0) if on else "white",
          edgecolor=style.colour(0) if on else style.FAINT,
          linewidth=1.0,
        )
      )
    axes.text(
      blocks - 0.35,
      task,
      f"{int((route[task] > 0.5).sum())}/{blocks}",
      va="center",
      fontsize=8.5,
      color=style.INK,
    )
  axes.set_xlim(-0.5, blocks + 0.5)
  axes.set_ylim(tasks - 0.5, -0.5)
  axes.set_aspect("equal", anchor="W")
  style.bare(axes)


def _block_axis(axes: Axes, names: Sequence[str], blocks: int) -> None:
  axes.set_xticks(range(blocks))
  axes.set_xlabel("block, 0 nearest the input")
  axes.set_yticks(range(len(names)))
  axes.set_yticklabels(names, fontsize=9, color=style.INK)


def similarity(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cosine and Pearson similarity of the tasks' policies.

  Args:
    alpha: execution probabilities [T, L] in [0, 1].

  Returns:
    Cosine [T, T] in [0, 1] and Pearson [T, T] in [-1, 1]; NaN where a task's
    probabilities are all zero, or (Pearson) all equal.

  Source: AdaShare (Sun et al. 2020), Fig. 3 (e): cosine.
  """
  alpha = np.asarray(alpha, np.float64)

  def cosine(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1)
    norm = np.where(norm > 1e-9, norm, np.nan)
    return np.clip(rows @ rows.T / (norm[:, None] * norm[None, :]), -1, 1)

  return cosine(alpha), cosine(alpha - alpha.mean(axis=1, keepdims=True))


def correlation(run: workdir_lib.Run) -> Figure | None:
  """Similarity of the tasks' policies, and the blocks that they share.

  Args:
    run: a run with a policy of at least two tasks.

  Returns:
    The figure, or None without a policy.
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
    parts.append(
      (
        "Blocks shared in the route",
        on @ on.T,
        style.SEQUENTIAL,
        (0.0, float(route.shape[1])),
        "{:.0f}",
      )
    )
  size = 0.6 * len(names)
  fig = style.figure(0.9 + (size + 0.9) * len(parts), size + 1.2)
  for place, axes in enumerate(fig.subplots(1, len(parts), squeeze=False)[0]):
    title, values, colormap, limits, form = parts[place]
    heat(axes, values, colormap, limits, form)
    axes.set_title(title)
    axes.set_xticks(range(len(names)))
    axes.set_xticklabels(names, rotation=35, ha="right", rotation_mode="anchor", color=style.INK)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names if place == 0 else (), color=style.INK)
  return fig


def evolution(run: workdir_lib.Run) -> Figure | None:
  """How each block's probability moved, one panel a task.

  Args:
    run: a run whose `metrics.jsonl` holds at least two `alpha` rows.

  Returns:
    The figure, or None.
  """
  rows = [
    (int(row["step"]), workdir_lib.matrix(row["values"]["alpha"]))
    for row in workdir_lib.select(run.lines, "alpha", "alpha")
  ]
  rows = [row for row in rows if row[1] is not None]
  if len(rows) < 2:
    return None
  steps = np.asarray([step for step, _ in rows], np.float64)
  alphas = np.stack([np.asarray(alpha) for _, alpha in rows])
  tasks, blocks = alphas.shape[1:]
  names = run.tasks or tuple(f"task {t}" for t in range(tasks))
  columns = min(tasks, 3)
  lines = -(-tasks // columns)
  panel = max(2.0, 0.2 * blocks + 0.7)
  fig = style.figure(3.3 * columns + 0.6, panel * lines + 0.5)
  grid = fig.subplots(lines, columns, squeeze=False, sharex=True)
  fig.get_layout_engine().set(wspace=0.05, hspace=0.05)
  edges = _edges(steps)
  mesh = None
  for task, axes in enumerate(grid.ravel()):
    if task >= tasks:
      axes.set_visible(False)
      continue
    mesh = axes.pcolormesh(
      edges,
      np.arange(blocks + 1) - 0.5,
      alphas[:, task, :].T,
      cmap=style.SEQUENTIAL,
      vmin=0,
      vmax=1,
      rasterized=True,
    )
    _evolution_axis(axes, names[task], alphas[-1, task], run.route, task)
    if task % columns == 0:
      axes.set_ylabel("block, 0 nearest the input")
    else:
      axes.tick_params(labelleft=False)
    axes.tick_params(labelbottom=True)
    if task + columns >= tasks:
      axes.set_xlabel("step")
  bar = fig.colorbar(mesh, ax=grid.ravel().tolist(), shrink=0.8, aspect=28, pad=0.02)
  bar.set_label("probability of executing the block")
  bar.outline.set_visible(False)
  return fig


def _edges(steps: np.ndarray) -> np.ndarray:
  """Edges [N + 1] of cells around N ascending steps."""
  middle = (steps[1:] + steps[:-1]) / 2
  first = steps[0] - (middle[0] - steps[0])
  last = steps[-1] + (steps[-1] - middle[-1])
  return np.concatenate([[first], middle, [last]])


def _evolution_axis(
  axes: Axes, name: str, final: np.ndarray, route: np.ndarray | None, task: int
) -> None:
  """Title, block ticks, and at the right the last value and the decision."""
  blocks = len(final)
  axes.set_title(name)
  axes.set_ylim(blocks - 0.5, -0.5)
  axes.set_yticks(range(0, blocks, 1 if blocks <= 16 else 4))
  for line in np.arange(blocks - 1) + 0.5:
    axes.axhline(line, color="white", linewidth=1.0)
  style.bare(axes)
  axes.tick_params(axis="x", length=3)
  for block in range(blocks):
    axes.text(
      1.02,
      block,
      f"{final[block]:.2f}",
      va="center",
      fontsize=7.5,
      color=style.INK,
      transform=axes.get_yaxis_transform(),
    )
    if route is not None:
      on = bool(route[task, block] > 0.5)
      axes.text(
        1.15,
        block,
        "■" if on else "□",
        va="center",
        fontsize=8.5,
        color=style.colour(0) if on else style.SOFT,
        transform=axes.get_yaxis_transform(),
      )
