"""All figures of a work directory, each with a caption; missing data skip."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import pathlib

from absl import logging
from matplotlib.figure import Figure as Drawing

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import classes
from dynashare_jax.report.run import conflict_pages
from dynashare_jax.report.run import curve_figures
from dynashare_jax.report.run import execution_figures
from dynashare_jax.report.run import learned_figure
from dynashare_jax.report.run import policy_figures
from dynashare_jax.report.run import prediction_figures


@dataclasses.dataclass(frozen=True)
class Plot:
  """A figure that a report can hold; `name` is that of its file, without the ending.

  Attributes:
    caption: says how to read it.
    draw: makes it from a run, or returns None where data are missing.
    told: title and caption of a run, where they depend on its method.
  """

  name: str
  title: str
  caption: str
  draw: Callable[[workdir_lib.Run], Drawing | None]
  told: Callable[[workdir_lib.Run], tuple[str, str]] | None = None


PLOTS = (
  Plot(
    "policy",
    "Policy and route",
    "Tasks are rows, blocks are columns. Left or above: the learnt probability that a task executes"
    " a block (darker is likelier). Right or below: the kept route; filled squares are executed.",
    policy_figures.policy,
  ),
  Plot(
    "task_correlation",
    "Task correlation",
    "How alike two tasks' policies are. Cosine compares the probabilities as they are; Pearson"
    " takes out how many blocks a task likes to use and compares which ones (a dash: no variation"
    " to compare). The diagonal of the last panel is each task's own number of blocks.",
    policy_figures.correlation,
  ),
  Plot(
    "policy_evolution",
    "Policy over time",
    "Each stripe is a block; it darkens as the task grows surer to execute it. Right of a panel:"
    " the last probability and the kept route (■ executed, □ skipped).",
    policy_figures.evolution,
  ),
  Plot(
    "conflict",
    "Conflict of the tasks",
    "Cosines of the tasks' gradients after the warm-up. Left: means over blocks and batches; orange"
    " pairs pull in opposite directions. Right: in every block, with a band of one standard error;"
    " bold pairs conflict.",
    conflict_pages.figure,
  ),
  Plot(
    "learned",
    "What was learned",
    "What the method learned of sharing.",
    learned_figure.figure,
    learned_figure.told,
  ),
  Plot(
    "execution",
    "Instance gates",
    "Left: share of test examples that execute a block; the black tick is the target rate, grey"
    " bars have no gate. Right: how many blocks an example executes.",
    execution_figures.execution,
  ),
  Plot(
    "learning_curves",
    "Learning curves",
    "Shaded bands are phases (grey warm-up, blue weights, orange policy, green re-training). Bold"
    " is the kept candidate; thin lines are the others, moved to the same start.",
    curve_figures.losses,
  ),
  Plot(
    "balance",
    "Balance over time",
    "What the balancer gave every task, and what it saw: weights with those of the configuration in"
    " them, lengths of the tasks' gradients in what they share, and the smallest cosine between two"
    " of them; below 0 they pull in opposite directions.",
    curve_figures.balance,
  ),
  Plot(
    "validation_metrics",
    "Validation metrics",
    "First metric of every task; the arrow says which way is better. The"
    " dashed line is the best constant prediction, on the test split.",
    curve_figures.metrics,
  ),
  Plot(
    "predictions",
    "Predictions",
    "Test examples: input, then label and prediction of every task, on the"
    " same colours, and where the prediction is wrong. Light grey has no"
    " label. A legend names the 20 largest classes of these examples. A class"
    " of a whole picture stands in words, a wrong prediction in red.",
    prediction_figures.predictions,
  ),
  Plot(
    "classes",
    "Classes",
    "Classes of the segmentation on test, the most frequent first. Left:"
    " their share of the labelled pixels. Right: intersection over union;"
    " the dashed line is its mean over the classes that occur.",
    classes.figure,
  ),
)


@dataclasses.dataclass(frozen=True)
class Written:
  """A figure on disk: what it is and where."""

  plot: Plot
  path: pathlib.Path


def write_figures(run: workdir_lib.Run, folder: str | pathlib.Path | None = None) -> list[Written]:
  """Draws every figure that a run has data for, in the order of the report.

  They go into `folder`, by default `figures` in the work directory. A figure
  of an earlier call that has no data any more is removed. One that cannot be drawn is left out with
  a warning.
  """
  target = pathlib.Path(folder) if folder else run.path / "figures"
  written = []
  for plot in PLOTS:
    try:
      path = style.draw(functools.partial(plot.draw, run), target / f"{plot.name}.png")
    except OSError:
      raise
    except Exception as error:  # One that cannot be drawn is no reason to have no report.
      logging.warning("%s is left out: %s: %s", plot.title, type(error).__name__, error)
      continue
    if path is not None:
      title, caption = plot.told(run) if plot.told else (plot.title, plot.caption)
      written.append(Written(dataclasses.replace(plot, title=title, caption=caption), path))
  return written
