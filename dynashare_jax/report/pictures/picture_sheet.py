"""A grid of pictures at exact places, with keys below."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report.pictures import label_pictures

_GAP, _GROUP = 0.04, 0.16  # inches between pictures, and between groups
_HEAD, _FOOT = 0.42, 1.1  # inches above and below the pictures
_WIDTH = 14.0  # inches that pictures share
_NARROWEST, _WIDEST = 1.2, 2.0  # inches of a picture
_LINE = 0.19  # inches between words below one another
_ENTRY = 1.05  # inches of a legend's entry
_BAR = 4.0  # inches of a colour bar at most


@dataclasses.dataclass(frozen=True)
class Sheet:
  """A grid whose rows are examples; columns come in groups with a wider gap between.

  Attributes:
    figure: to draw on.
    rows: number of examples.
    groups: number of columns of every group.
    wide: width of a picture, inches.
    tall: height of a picture.
    size: width and height of the figure.
  """

  figure: Figure
  rows: int
  groups: tuple[int, ...]
  wide: float
  tall: float
  size: tuple[float, float]

  @classmethod
  def plan(cls, shape: tuple[int, ...], groups: Sequence[int], widest: float = _WIDEST) -> Sheet:
    """Makes an empty sheet for pictures of `shape` `(rows, H, W)`, `widest` inches at most."""
    columns = sum(groups)
    wide = float(np.clip(_WIDTH / columns, _NARROWEST, widest))
    tall = wide * shape[1] / shape[2]
    width = columns * (wide + _GAP) + (len(groups) - 1) * _GROUP
    height = shape[0] * (tall + _GAP) + _HEAD + _FOOT
    fig = style.figure(width, height)
    fig.set_layout_engine("none")  # every place is given below
    return cls(fig, shape[0], tuple(groups), wide, tall, (width, height))

  @property
  def pixels(self) -> int:
    """The width of a picture in pixels of the file."""
    return int(self.wide * style.DPI)

  def column(self, group: int) -> int:
    """Returns the first column of a group."""
    return sum(self.groups[:group])

  def left(self, column: int) -> float:
    """Returns the left end of a column, inches."""
    ends = np.cumsum(self.groups)
    group = int(np.searchsorted(ends, column, side="right"))
    return column * (self.wide + _GAP) + group * _GROUP

  def box(self, left: float, top: float, wide: float, tall: float) -> Axes:
    """Makes axes at a place in inches, measured from the top left corner."""
    width, height = self.size
    return self.figure.add_axes((*self.point(left, top + tall), wide / width, tall / height))

  def pictures(self, column: int, several: np.ndarray) -> None:
    """Draws a column of pictures `[rows, H, W, 3]`."""
    for row, rgb in enumerate(several):
      top = _HEAD + row * (self.tall + _GAP)
      axes = self.box(self.left(column), top, self.wide, self.tall)
      style.bare(axes)
      axes.set(xticks=[], yticks=[])
      axes.imshow(rgb, interpolation="nearest", aspect="auto")

  def words(self, column: int, several: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Writes lines, each with its colour, in the middle of the places of a column's pictures."""
    left = self.left(column) + 0.08
    for row, lines in enumerate(several):
      middle = _HEAD + row * (self.tall + _GAP) + self.tall / 2
      for place, (text, colour) in enumerate(lines):
        down = (place - (len(lines) - 1) / 2) * _LINE
        self.figure.text(*self.point(left, middle + down), text, va="center", color=colour)

  def point(self, left: float, top: float) -> tuple[float, float]:
    """Returns a place in inches from the top left corner as figure fractions."""
    width, height = self.size
    return left / width, 1 - top / height

  def head(self, column: int, title: str, words: Sequence[str]) -> None:
    """Writes a title over some columns, and a small word over each of them."""
    write = functools.partial(self.figure.text, va="bottom")
    write(*self.point(self.left(column), 0.16), title, fontsize=9.5, fontweight="bold")
    for place, word in enumerate(words):
      where = self.point(self.left(column + place), _HEAD - 0.05)
      write(*where, word, fontsize=8, color=style.SOFT)

  def key(self, column: int, count: int, key: label_pictures.Key) -> None:
    """Draws, below some columns, the key of their colours."""
    left = self.left(column)
    top = _HEAD + self.rows * (self.tall + _GAP) + 0.08
    wide = count * (self.wide + _GAP) - _GAP
    if key.scale is not None:
      wide = min(wide, _BAR)
      axes = self.box(left + 0.05, top + 0.03, wide - 0.1, 0.11)
      bar = self.figure.colorbar(key.scale, cax=axes, orientation="horizontal")
      bar.outline.set_visible(False)
      bar.ax.tick_params(length=2, labelsize=7.5)
      bar.ax.locator_params(nbins=max(int(3 * wide), 3))
      bar.set_label(key.note, fontsize=8)
      return
    if key.classes:
      handles = [Patch(color=tuple(c), label=n) for n, c in key.classes]
      gaps = {"columnspacing": 1, "handletextpad": 0.5, "borderaxespad": 0}
      small = {"title_fontsize": 7, "fontsize": 7, "handlelength": 1, "handleheight": 1}
      title = {"title": key.note or None, "ncols": max(int(wide / _ENTRY), 1)}
      place = {"loc": "upper left", "bbox_to_anchor": self.point(left - 0.05, top)}
      self.figure.legend(handles=handles, **place, **title, **small, **gaps)
    elif key.note:
      self.figure.text(*self.point(left, top), key.note, va="top", fontsize=7.5, color=style.SOFT)
