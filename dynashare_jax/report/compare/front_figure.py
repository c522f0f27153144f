"""What a network gains against what it costs: a mark a network, and the front of the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynashare_jax.report import style
from dynashare_jax.report import tables

_SIZE = 3.6, 3.2  # of a panel, inches
_LETTER = 0.068, 0.135  # width and height of one in a name, inches
_GREY = "hard"  # the kind that others are compared with
_HALO = patheffects.withStroke(linewidth=2, foreground="white")
_ROOM = 1.2  # of the axis of costs, over the largest
# Where a name may stand: parts of its width to the right of its mark, and lines up.
_SIDES = sorted(
  itertools.product((-1, -0.5, 0, 0.5, 1), range(-4, 5)), key=lambda s: s[0] ** 2 / 2 + s[1] ** 2
)


class Point(NamedTuple):
  """A network.

  Attributes:
    label: its name.
    kind: its method; networks of one kind have a colour, and a line from one to the next.
    costs: name of an axis with its unit -> number; NaN where it is unknown.
    gain: higher is better; NaN where it is unknown.
  """

  label: str
  kind: str
  costs: Mapping[str, float]
  gain: tables.Cell


def best(points: Sequence[Point], cost: str) -> list[str]:
  """Returns the labels of the front: of no other point gain and cost are as good, one better."""
  return [point.label for point in _front(_known(points, cost), cost)]


def axes_of(points: Sequence[Point]) -> list[str]:
  """Returns the costs that two points or more have."""
  every = dict.fromkeys(cost for point in points for cost in point.costs)
  return [cost for cost in every if len(_known(points, cost)) > 1]


def chart(points: Sequence[Point], words: str) -> Figure | None:
  """Draws gain against cost, a panel for each of `axes_of`; None where there is none.

  Filled marks are of the front, the line of which has at least as much gain at no more cost.

  Args:
    words: of the axis of gains, with its unit.
  """
  shown = axes_of(points)
  if not shown:
    return None
  fig, grid = style.panels(len(shown), 3, _SIZE, (0.6, 0.5), sharey=True)
  kinds = [kind for kind in dict.fromkeys(p.kind for p in points) if kind != _GREY]
  colours = {kind: style.colour(place) for place, kind in enumerate(kinds)} | {_GREY: style.SOFT}
  for axes, cost in zip(grid, shown, strict=True):
    _panel(axes, _known(points, cost), cost, colours)
    axes.set_xlabel(cost)
  grid[0].set_ylabel(words)
  for axes, cost in zip(grid, shown, strict=True):
    _names(axes, _known(points, cost), cost, colours)
  return fig


def _known(points: Sequence[Point], cost: str) -> list[Point]:
  """Those with both numbers, the cheapest first."""
  found = [
    p for p in points if math.isfinite(p.costs.get(cost, math.nan)) and math.isfinite(p.gain.value)
  ]
  return sorted(found, key=lambda p: (p.costs[cost], -p.gain.value))


def _front(known: Sequence[Point], cost: str) -> list[Point]:
  """Of points in the order of cost those that gain more than all before; equal ones too."""
  found: list[Point] = []
  for point in known:
    last = (found[-1].costs[cost], found[-1].gain.value) if found else None
    if last is None or point.gain.value > last[1] or (point.costs[cost], point.gain.value) == last:
      found.append(point)
  return found


def _panel(axes: Axes, known: Sequence[Point], cost: str, colours: Mapping[str, str]) -> None:
  """Marks with their spread over seeds, lines of each kind, and steps of the front."""
  front = _front(known, cost)
  right = max(p.costs[cost] for p in known)
  ends = [v for p in known for v in (p.gain.value - _std(p), p.gain.value + _std(p))]
  room = max(0.14 * (max(ends) - min(ends)), 1e-6)
  axes.set_xlim(0, _ROOM * right)
  low, high = axes.get_ylim() if axes.has_data() else (math.inf, -math.inf)
  axes.set_ylim(min(low, min(ends) - room), max(high, max(ends) + room))
  axes.locator_params(axis="x", nbins=5)
  axes.grid(True)
  steps = [(p.costs[cost], p.gain.value) for p in front]
  steps.append((_ROOM * right, steps[-1][1]))
  line = {"drawstyle": "steps-post", "color": style.FAINT, "linewidth": 1.2, "zorder": 1}
  axes.plot(*zip(*steps, strict=True), **line)
  for kind, colour in colours.items():
    alike = [(p.costs[cost], p.gain.value) for p in known if p.kind == kind]
    if len(alike) > 1:
      axes.plot(*zip(*alike, strict=True), color=colour, linewidth=1.0, alpha=0.6, zorder=2)
  for point in known:
    colour = colours[point.kind]
    mark = {"marker": "s" if point.kind == _GREY else "o", "markersize": 6, "linestyle": "none"}
    fill = colour if point in front else "white"
    where = point.costs[cost], point.gain.value
    bars = {"yerr": point.gain.std, "elinewidth": 1.0, "markerfacecolor": fill}
    axes.errorbar(*where, color=colour, markeredgewidth=1.3, zorder=3, **mark, **bars)


def _std(point: Point) -> float:
  return point.gain.std or 0.0


Box = tuple[float, float, float, float]


def _names(axes: Axes, known: Sequence[Point], cost: str, colours: Mapping[str, str]) -> None:
  """Names beside the marks, where they cover least of marks, lines and other names."""
  (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

  def inches(x: float, y: float) -> tuple[float, float]:
    return _SIZE[0] * (x - left) / (right - left), _SIZE[1] * (y - low) / (high - low)

  places = {p.label: inches(p.costs[cost], p.gain.value) for p in known}
  taken = [_box(*place, 0.17, 0.17) for place in places.values()]
  for line in axes.get_lines():
    if line.get_linestyle() == "-" and len(line.get_xdata()) > 1:
      ends = [inches(x, y) for x, y in line.get_path().vertices]
      taken += [
        _box(*place, 0.04, 0.04) for pair in itertools.pairwise(ends) for place in _on(*pair)
      ]
  for point in known:
    for end in (point.gain.value - _std(point), point.gain.value + _std(point)):
      place = places[point.label]
      taken += [_box(*on, 0.05, 0.05) for on in _on(place, inches(point.costs[cost], end))]
  for point in known:
    x, y = places[point.label]
    width, height = _LETTER[0] * len(point.label), _LETTER[1]
    boxes = []
    for order, (across, up) in enumerate(_SIDES):
      beside = across * (width + 0.2) / 2, up * height
      box = _box(x + beside[0], y + beside[1], width, height)
      out = max(0.0, -box[0]) + max(0.0, box[2] - _SIZE[0])
      covered = sum(_shared(box, other) for other in taken) + 3 * height * out
      boxes.append((covered + 5e-4 * order, beside, box))
    _, beside, box = min(boxes)
    taken.append(box)
    told: dict[str, Any] = {
      "textcoords": "offset points",
      "fontsize": 8,
      "ha": "center",
      "va": "center",
    }
    told |= {"color": colours[point.kind], "zorder": 4, "path_effects": [_HALO]}
    if abs(beside[1]) > 1.5 * height:
      line = {"arrowstyle": "-", "linewidth": 0.6, "color": told["color"], "shrinkA": 0}
      told["arrowprops"] = line | {"shrinkB": 4, "relpos": (0.5, 0.5)}
    where = point.costs[cost], point.gain.value
    axes.annotate(point.label, where, (72 * beside[0], 72 * beside[1]), **told)


def _box(x: float, y: float, width: float, height: float) -> Box:
  """Left, bottom, right and top of a box around a place."""
  return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _on(start: tuple[float, float], end: tuple[float, float]) -> Iterator[tuple[float, float]]:
  """Places on a line, a twentieth of an inch apart."""
  count = int(20 * math.dist(start, end)) + 1
  for k in range(count):
    yield tuple(a + (b - a) * k / count for a, b in zip(start, end, strict=True))  # type: ignore[misc]


def _shared(one: Box, other: Box) -> float:
  """The area that two boxes share."""
  wide, high = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
  return wide * high
