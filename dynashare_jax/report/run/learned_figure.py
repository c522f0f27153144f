"""What a method learned, as maps of shades with the numbers in them."""

from __future__ import annotations

from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import policy_figures

_CELL = 0.42, 0.32  # inches


def told(run: workdir_lib.Run) -> tuple[str, str]:
  """Returns the title and the caption that the method gives its figure."""
  found = run.results["learned"]
  return found["title"], found["caption"]


def figure(run: workdir_lib.Run) -> Figure | None:
  """Draws the panels of a method side by side; None where it gives none."""
  panels = (run.results.get("learned") or {}).get("panels")
  if not panels:
    return None
  sizes = [np.shape(panel["values"]) for panel in panels]
  names = [1.0 + 0.075 * max(map(len, panel["rows"])) for panel in panels]
  widths = [name + _CELL[0] * size[1] for name, size in zip(names, sizes, strict=True)]
  height = 1.3 + _CELL[1] * max(rows for rows, _ in sizes)
  fig = style.figure(max(sum(widths), 3.0), height)
  turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "color": style.INK}
  axes = fig.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
  for ax, panel in zip(axes, panels, strict=True):
    values = np.asarray(panel["values"], np.float64)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    colours = style.DIVERGING if low < 0 else style.SEQUENTIAL
    limit = max(high, -low, 1e-9)
    policy_figures.heat(ax, values, colours, (-limit if low < 0 else 0.0, limit), panel["form"])
    ax.set_title(panel["title"])
    ax.set_xticks(range(len(panel["columns"])), panel["columns"], **turned)
    style.row_names(ax, panel["rows"])
  return fig
