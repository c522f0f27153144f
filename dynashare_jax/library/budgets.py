"""Budgets of a run: thresholds of its gates that meet them, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any, TYPE_CHECKING

import jax

from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.infer import calibrate
from dynashare_jax.infer import settings as settings_lib
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.objectives import kinds

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Metrics against budgets, of one checkpoint.

  Attributes:
    settings: of rising budgets; the first closes all gates, the last opens them.
    default: the gates as trained.
    left_out: budgets out of reach.
    path: of `budget.md`, which says everything.
  """

  settings: tuple[settings_lib.Setting, ...]
  default: settings_lib.Setting
  left_out: tuple[float, ...]
  path: pathlib.Path

  def figure(self) -> Figure:
    """Draws the first metric of every task against the share of the work, on test."""
    from dynashare_jax.report import style
    from dynashare_jax.report.cost import budget as report

    with style.look():
      return report.figure(report.load(self.path.parent))

  def __repr__(self) -> str:
    return "\n".join(str(setting).splitlines()[0] for setting in (*self.settings, self.default))

  def _repr_markdown_(self) -> str:
    """What a notebook shows: the page, without its picture."""
    text = self.path.read_text(encoding="utf-8")
    return text.partition("\n![")[0]


def keep(trained: trained_lib.Trained, setting: settings_lib.Setting) -> pathlib.Path:
  """Writes a setting beside the checkpoint and returns its path; other budgets' files stay."""
  folder = trained.workdir / "budgets"
  folder.mkdir(exist_ok=True)
  path = folder / f"{setting.unit}-{setting.budget:.4g}.json"
  about = {"step": trained.step, "route": trained.route, "gated": trained.gated}
  workdir_lib.write_json(path, setting.to_dict() | about)
  return path


def curve(
  calibrator: calibrate.Calibrator,
  unit: str,
  budgets: Sequence[float] = (),
  tell: Callable[[str], None] = lambda text: None,
) -> Curve:
  """Meets many budgets; writes settings, table and figure.

  Args:
    calibrator: of the run.
    unit: of the budgets.
    budgets: default 0.3, 0.4, ... 0.9, for times as shares of the time with all gates open. Those
      out of reach are left out; the lowest and the highest in reach are always included.
    tell: hears what was left out and what was met.
  """
  from dynashare_jax.report.cost import budget as report

  wanted = [settings_lib.Budget(value, unit).value for value in budgets]
  trained, reach = calibrator.trained, calibrator.reach(unit)
  scale = reach[1] if unit == settings_lib.MS else 1.0
  wanted = sorted(set(wanted or [share * scale for share in _BUDGETS]))
  left = [value for value in wanted if not reach[0] <= value <= reach[1]]
  if left:
    shown = ", ".join(f"{value:g}" for value in left)
    tell(f"left out: {shown} {unit}; in reach are {reach[0]:.4g} to {reach[1]:.4g}")
  # A budget nearer than the tolerance would find what the ends found.
  apart = lambda value: all(abs(value - end) > calibrate.TOLERANCE * end for end in reach)
  found: list[settings_lib.Setting] = []
  for value in (reach[0], *(v for v in wanted if v not in left and apart(v)), reach[1]):
    found.append(calibrator.meet(settings_lib.Budget(value, unit), test=True))
    keep(trained, found[-1])
    tell(str(found[-1]).splitlines()[0])
  default = calibrator.default(test=True)
  about = {
    "unit": unit,
    "batch": calibrator.batch,
    "device": jax.local_devices()[0].device_kind,
    "reach": reach,
    "left_out": left,
    "tasks": _tasks(trained.tasks),
    "settings": found,
    "default": default,
  }
  workdir_lib.write_json(trained.workdir / report.CURVE, about)
  return Curve(tuple(found), default, tuple(left), report.write(trained.workdir))


def _tasks(tasks: Sequence[types.TaskSpec]) -> list[dict[str, Any]]:
  """Names and metrics, as results name them."""
  shown = lambda metric: {n: getattr(metric, n) for n in ("name", "higher_is_better", "unit")}
  return [
    {"name": task.name, "metrics": list(map(shown, kinds.find(task.kind).metrics(task)))}
    for task in tasks
  ]
