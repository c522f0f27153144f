"""One look for every figure: quiet axes, readable text, safe colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import io
import pathlib
from typing import Any

import matplotlib
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

DPI = 144
INK = "#222222"
SOFT = "#6b6b6b"
FAINT = "#c9c9c9"

# Okabe and Ito (2008), darkened where a line of it would be too pale on white,
# and their yellow left out for the same reason.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b5548f", "#d18f00", "#3f9fd6", "#555555", "#7a4fb3")

# One hue from paper to ink for probabilities and rates, so that darker always
# means more likely, and that survives a grey print.
SEQUENTIAL = colors.LinearSegmentedColormap.from_list(
  "paper_to_blue", ["#f7f9fb", "#c6dbec", "#7fb2d6", "#2f7ab5", "#0b3c6f"]
)
DIVERGING = colors.LinearSegmentedColormap.from_list(
  "orange_to_blue", ["#b35806", "#f1b26b", "#f7f7f7", "#8fbfdd", "#1f5f99"]
)
DEPTH = "cividis"
ERROR = "magma"  # no error is dark, so that pale is free for "no label"
WRONG = (0.86, 0.16, 0.13)

PHASE_TINTS = {"warmup": "#f3f3f3", "weights": "#e6eff6", "policy": "#fbeddd", "retrain": "#e7f3ec"}

_LOOK = f"""
font.family: DejaVu Sans; font.size: 9.0; text.color: {INK}; text.parse_math: False
axes.titlesize: 9.5; axes.titleweight: bold; axes.titlelocation: left; axes.titlecolor: {INK}
axes.labelsize: 9.0; axes.labelcolor: {SOFT}; axes.edgecolor: {FAINT}; axes.linewidth: 0.8
axes.spines.top: False; axes.spines.right: False; axes.axisbelow: True
xtick.color: {SOFT}; xtick.labelsize: 8.0; xtick.major.size: 3.0
ytick.color: {SOFT}; ytick.labelsize: 8.0; ytick.major.size: 3.0
grid.color: #e6e6e6; grid.linewidth: 0.6; lines.linewidth: 1.6; lines.solid_capstyle: round
legend.frameon: False; legend.fontsize: 8.0; figure.constrained_layout.use: True
figure.facecolor: white; savefig.facecolor: white; savefig.dpi: {DPI}
"""
_SAVED: dict[str, Any] = dict(dpi=DPI, bbox_inches="tight", pad_inches=0.12)
_RC = dict(entry.split(": ") for entry in _LOOK.strip().replace("\n", "; ").split("; "))


@contextlib.contextmanager
def look() -> Iterator[None]:
  """Gives everything drawn and saved within the house style."""
  with matplotlib.rc_context(_RC):
    yield


class Shown(Figure):  # type: ignore[misc]
  """A figure that a notebook shows where it is a cell's last expression, without pyplot."""

  def _repr_png_(self) -> bytes:
    """Returns the bytes that `save` writes."""
    data = io.BytesIO()
    with look():
      self.savefig(data, format="png", **_SAVED)
    return data.getvalue()


def figure(width: float, height: float) -> Figure:
  """Makes an empty figure (inches) with an Agg canvas and no global state, within `look()`."""
  found = Shown(figsize=(width, height), dpi=DPI, layout="constrained")
  FigureCanvasAgg(found)
  return found


def panels(
  count: int,
  across: int,
  size: tuple[float, float],
  margin: tuple[float, float],
  lowest: str = "",
  common: str = "",
  **shared: Any,
) -> tuple[Figure, list[Axes]]:
  """Makes a figure with `count` panels, row by row; places left over stay empty.

  Args:
    across: panels side by side, at most.
    size: width and height of a panel, inches.
    margin: inches beside all of them.
    lowest: x label of every panel without one below.
    common: x label of the whole figure.
    **shared: `sharex`, `sharey` of `Figure.subplots`.
  """
  across = min(count, across)
  down = -(-count // across)
  fig = figure(size[0] * across + margin[0], size[1] * down + margin[1])
  grid = list(fig.subplots(down, across, squeeze=False, **shared).flat)
  for place, axes in enumerate(grid[:count]):
    last = place + across >= count
    axes.tick_params(labelbottom=last or not common or not shared)
    if lowest and last:
      axes.set_xlabel(lowest)
  for axes in grid[count:]:
    axes.set_visible(False)
  if common:
    fig.supxlabel(common, fontsize=9, color=SOFT)
  return fig, grid[:count]


def balanced(count: int, most: int) -> int:
  """Returns how many of `count` panels stand side by side so that the last row is fullest."""
  return -(-count // -(-count // most))


def text(
  axes: Axes, x: float, y: float, words: str, size: float = 7.5, colour: str = SOFT, **more: Any
) -> None:
  """Writes words into axes, small, soft and centred vertically unless `more` says otherwise."""
  axes.text(x, y, words, **{"fontsize": size, "color": colour, "va": "center"} | more)


def row_names(axes: Axes, names: Sequence[str], **more: Any) -> None:
  """Names the rows of axes in ink, from the top, without tick marks."""
  axes.set_yticks(range(len(names)), names, **{"color": INK} | more)
  axes.tick_params(axis="y", length=0)


def draw(make: Callable[[], Figure | None], path: pathlib.Path) -> pathlib.Path | None:
  """Saves what `make` draws and returns the path; where it is None, removes an older file."""
  with look():
    drawing = make()
    if drawing is not None:
      return save(drawing, path)
  path.unlink(missing_ok=True)
  return None


def save(fig: Figure, path: pathlib.Path) -> pathlib.Path:
  """Saves a figure as PNG at the house resolution, a little air around it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, **_SAVED)
  return path


def colour(index: int) -> str:
  """Returns the colour of a task or method by its place; repeats after eight."""
  return PALETTE[index % len(PALETTE)]


def line_style(index: int) -> str:
  """Returns the line style by place: solid for the first eight, then dashed, dotted."""
  return ("-", "--", ":")[(index // len(PALETTE)) % 3]


def class_colours(count: int) -> np.ndarray:
  """Returns RGB colours of classes, [count, 3] in 0..1, far apart in hue and lightness.

  The first eight are the house palette, softened because they fill large areas.
  """
  found = [colors.to_rgb(name) for name in PALETTE[:count]]
  for place in range(len(found), count):
    hue = (0.11 + 0.618034 * place) % 1.0
    value = (0.95, 0.6, 0.8)[place % 3]
    saturation = (0.45, 0.75, 0.6)[place % 3]
    found.append(tuple(colors.hsv_to_rgb((hue, saturation, value))))
  return 0.84 * np.asarray(found, np.float64).reshape(count, 3) + 0.16


def readable(background: Sequence[float]) -> str:
  """Returns black or white, whichever reads better on an RGB(A) background."""
  red, green, blue = background[:3]
  return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.52 else INK


def bare(axes: Axes) -> None:
  """Removes spines and tick marks, keeps tick labels."""
  for spine in axes.spines.values():
    spine.set_visible(False)
  axes.tick_params(length=0)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
  """Moves label places, in any order, at least `gap` apart, changing them little.

  They stay within `low` and `high`; where that is too small for the gap, they share it evenly.
  """
  count = len(places)
  if count < 2:
    return [min(max(p, low), high) for p in places]
  gap = min(gap, (high - low) / (count - 1))
  order = np.argsort(places, kind="stable")
  moved = np.asarray(places, np.float64)[order]
  # Labels that collide form a block around their mean; blocks merge in turn.
  blocks: list[tuple[float, int]] = []
  for value in moved:
    centre, size = min(max(float(value), low), high), 1
    while blocks and (blocks[-1][0] + blocks[-1][1] * gap / 2 > centre - size * gap / 2):
      previous, members = blocks.pop()
      centre = (previous * members + centre * size) / (members + size)
      size += members
      half = (size - 1) * gap / 2
      centre = min(max(centre, low + half), high - half)
    blocks.append((centre, size))
  flat: list[float] = []
  for centre, size in blocks:
    start = centre - (size - 1) * gap / 2
    flat += [start + i * gap for i in range(size)]
  moved[order] = flat
  return list(map(float, moved))
