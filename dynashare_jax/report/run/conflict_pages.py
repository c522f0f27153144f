"""Do the tasks conflict, and where: a table and a figure of the cosines of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
import itertools

from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import policy_figures
from dynashare_jax.sharing import conflict

TITLE = "Do these tasks conflict, and where?"
_NEARLY_RANDOM = 0.5  # bit a decision


def measured(run: workdir_lib.Run) -> conflict.Conflict | None:
  """Returns what a run measured after its warm-up, or None."""
  rows = workdir_lib.select(run.lines, "conflict", "cosine")
  if not rows:
    return None
  # JSON has no NaN.
  arrays = {k: np.asarray(v, np.float64) for k, v in rows[-1]["values"].items() if k != "batches"}
  return conflict.Conflict(**arrays, batches=int(rows[-1]["values"]["batches"]))


def section(run: workdir_lib.Run) -> str:
  """The conflict of the tasks, and how decided the policy is; empty where neither was measured."""
  found, parts = measured(run), []
  if found is not None:
    parts.append(text(run.tasks, found))
  if policy := _policy(run):
    parts.append(policy)
  return "\n\n".join([f"## {TITLE}", *parts]) if parts else ""


def text(names: Sequence[str], found: conflict.Conflict) -> str:
  """Says who conflicts, and gives the cosine of every pair in every block as a table."""
  blocks = range(len(found.cosine))
  titles = ("pair", "mean", "standard error", *(f"block {place}" for place in blocks))
  rows = [
    (
      f"{names[t]}, {names[u]}",
      tables.Cell(float(found.mean[t, u]), digits=2, signed=True),
      tables.Cell(float(found.mean_error[t, u]), digits=2),
      *(tables.Cell(float(v), digits=2, signed=True) for v in found.cosine[:, t, u]),
    )
    for t, u in itertools.combinations(range(len(names)), 2)
  ]
  return (
    f"{conflict.words(names, found)}\n\nCosines of the tasks' gradients with respect to the weights"
    f" of each block, means over {found.batches} batches; block 0 is nearest the input.\n\n"
    + tables.markdown(tables.table(titles, rows))
  )


def _policy(run: workdir_lib.Run) -> str:
  """How decided the policy is, and what moved it in the last cycle."""
  rows = workdir_lib.select(run.lines, "alpha", "entropy")
  if not rows:
    return ""
  bits, spread = (float(rows[-1]["values"][name]) for name in ("entropy", "spread"))
  told = (
    f"The policy holds {bits:.2f} bit a decision (1 is a coin); its probabilities differ between"
    f" tasks by {spread:.2f} (standard deviation)."
  )
  sampled = (run.config.get("policy") or {}).get("routes") == "sampled"
  if bits > _NEARLY_RANDOM and (sampled or measured(run) is None):
    told += f" **These routes are nearly random ({bits:.2f} bit a decision).**"
  elif bits > _NEARLY_RANDOM:
    told += (
      " **Alone it would draw nearly random routes**: the first route rests on the cosines above,"
      " and on the policy where they leave a choice."
    )
  moved = workdir_lib.select(run.lines, "train", "pull/tasks")
  if not moved:
    return told
  pulls = {
    name.removeprefix("pull/"): float(value)
    for name, value in moved[-1]["values"].items()
    if name.startswith("pull/")
  }
  total = sum(pulls.values()) or 1.0
  shares = ", ".join(f"{name} {100 * value / total:.0f}%" for name, value in pulls.items())
  return f"{told} What moved it in the last cycle (mean absolute gradients): {shares}."


def figure(run: workdir_lib.Run) -> Figure | None:
  """Draws what a run measured; None where it measured nothing."""
  found = measured(run)
  return None if found is None else drawn(run.tasks, found)


def drawn(names: Sequence[str], found: conflict.Conflict) -> Figure:
  """Draws the mean cosine of every pair, and how it runs over the blocks, with its error."""
  size = 0.55 * len(names)
  fig = style.figure(max(2.6, size + 1.9) + 4.2, max(2.5, size + 1.2))
  left, right = fig.subplots(1, 2, width_ratios=[max(2.6, size + 1.9), 4.2])
  hidden = np.where(np.eye(len(names), dtype=bool), np.nan, found.mean)
  policy_figures.heat(left, hidden, style.DIVERGING, (-1.0, 1.0))
  left.set_title("Mean cosine of gradients")
  turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "color": style.INK}
  left.set_xticks(range(len(names)), names, **turned)
  style.row_names(left, names)
  blocks = np.arange(len(found.cosine))
  right.axhline(0, color=style.FAINT, linewidth=1)
  pairs = list(itertools.combinations(range(len(names)), 2))
  against = set(conflict.pairs(found))
  for place, (t, u) in enumerate(sorted(pairs, key=lambda pair: found.mean[pair])):
    line = {"color": style.colour(place), "linewidth": 1.6 if (t, u) in against else 0.9}
    label = f"{names[t]}, {names[u]}"
    right.plot(blocks, found.cosine[:, t, u], label=label, **line)
    low, high = (found.cosine[:, t, u] + sign * found.error[:, t, u] for sign in (-1, 1))
    right.fill_between(blocks, low, high, color=style.colour(place), alpha=0.15, linewidth=0)
  right.set_xticks(blocks)
  right.set_xlabel("block, 0 nearest the input")
  right.set_title("In every block")
  if len(pairs) <= 10:
    right.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
  return fig
