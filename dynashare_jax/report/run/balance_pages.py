"""How the tasks were balanced: a table of weights and gradients at the end of training."""

from __future__ import annotations

import numpy as np

from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

TITLE = "Balance over time"


def section(run: workdir_lib.Run) -> str:
  """Weights, lengths and cosines of gradients in the last phase that has some; else empty."""
  names = [n for n in run.tasks if workdir_lib.select(run.lines, "train", f"weight/{n}")]
  if not names:
    return ""
  every = workdir_lib.select(run.lines, "train", f"weight/{names[0]}")
  kept = [row for row in every if row.get("candidate", -1) in (-1, run.chosen)] or every
  phase = kept[-1].get("phase")
  rows = [row["values"] for row in kept if row.get("phase") == phase]

  def middle(key: str) -> float:
    found = [row[key] for row in rows if row.get(key) is not None]
    return float(np.median(found)) if found else float("nan")

  titles = ["task", "weight", "lowest", "highest"]
  measured = any(f"norm/{name}" in row for row in rows for name in names)
  titles += ["length of its gradient", "weight × length"] * measured
  body = []
  for name in names:
    weights = [row[f"weight/{name}"] for row in rows if row.get(f"weight/{name}") is not None]
    cells = [middle(f"weight/{name}"), min(weights), max(weights)]
    if measured:
      length = middle(f"norm/{name}")
      cells += [length, cells[0] * length]
    body.append((name, *map(tables.Cell, cells)))
  chosen = (run.config.get("balance") or {}).get("name", "a balancer")
  told = (
    f"Balanced by `{chosen}`. Medians over the logged steps of the phase `{phase}`; weights hold"
    " those of the configuration, lengths do not."
  )
  least = [row["cosine/least"] for row in rows if row.get("cosine/least") is not None]
  if least:
    against = 100 * np.mean(np.asarray(least) < 0)
    told += (
      f" The smallest cosine between the gradients of two tasks: {np.median(least):.2f}, below 0 in"
      f" {against:.0f}% of these steps."
    )
  return f"## {TITLE}\n\n{told}\n\n" + tables.markdown(tables.table(titles, body))
