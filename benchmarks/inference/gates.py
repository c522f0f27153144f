"""Gated execution in benchmarks/inference/run.py: every way, of two networks."""

from __future__ import annotations

import statistics
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.inference import cases as inference_cases
from benchmarks.inference import measures
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work
from dynashare_jax.ops import compaction as compaction_lib

MASKED, PLANNED = measures.MASKED, measures.PLANNED
TASKS, BLOCKS = measures.TASKS, measures.BLOCKS
HEAD = (
  "way",
  "batch",
  "rate",
  "s / example",
  "time",
  "ideal",
  "saving / ideal saving",
  "compile, s",
  "scratch, MB",
  "largest difference",
)
_REFERENCE = "planned, masked rows"


def gated(options: measures.Options) -> measures.Section:
  """Target c: gated execution of the conv net, all ways."""
  parts, saved, equal = [], {}, True
  routes = [
    ("every task executes every block", np.ones((TASKS, BLOCKS), int)),
    ("a third of the pairs is skipped", inference_cases.route(TASKS, BLOCKS)),
  ]
  for name, chosen in routes[:1] if options.quick else routes:
    model = measures.rooms(chosen, True)
    inputs = inference_cases.images(64, *measures.SIZE)
    threshold = inference_cases.thresholds(model, inputs)
    counts = {b: max(2 * b, 20 - 20 % b) for b in options.batches}
    lines = []
    for batch, count in counts.items():
      here = inference_cases.rows_of(inputs, 0, count)
      rows, values, same = ways(model, here, batch, threshold, options)
      lines += rows
      equal = equal and same
      saved.setdefault(batch, []).append(values)
    parts += [f"### Route: {name}", "", timing.table(HEAD, lines), ""]
  text = f"""\
Conv net as above; gates on the last half of the blocks with thresholds at
which {100 * inference_cases.RATE:.0f}% of the (group, example) rows of 64
images execute a block. 1 is the same plan with gates computed and all rows
masked. The ideal takes what the gates skip off the analytic work, at the rate
that the timed examples have. Bold: what `infer.strategy` takes untuned.

{chr(10).join(parts)}"""
  targets = []
  for batch, least in ((1, 0.95), (16, 0.85), (32, 0.85)):
    if batch not in saved:
      continue
    reached = [v[_default(model, batch)] for v in saved[batch]]
    targets.append(
      measures.Target(
        f"gated, batch {batch}: at least {100 * least:.0f}% of the ideal saving",
        " and ".join(f"{100 * r:.0f}%" for r in reached),
        min(reached) >= least,
      )
    )
  targets.append(
    measures.Target(
      "gated: outputs equal masked execution",
      "same decisions, logits within 1e-4 of the largest" if equal else "they differ",
      equal,
    )
  )
  return measures.Section("Gated execution", text, tuple(targets))


def _default(model: trained_lib.Trained, batch: int) -> str:
  """Name of the way that the package takes."""
  return _name(strategy.of(model, batch, jax.default_backend()))


def _name(way: compaction_lib.Compaction | None) -> str:
  if way is None:
    return _REFERENCE
  return "rows" if way.how == compaction_lib.ROWS else f"{way.buckets} buckets"


def ways(
  model: trained_lib.Trained, inputs: Any, batch: int, threshold: Any, options: measures.Options
) -> tuple[list[list[str]], dict[str, float], bool]:
  """Table lines of one batch size, saving by way, and whether all agree."""
  default = _default(model, batch)
  chosen: dict[str, Any] = {
    w: c for w, c in inference_cases.WAYS.items() if batch > 1 or w == "rows"
  }
  chosen |= {default: strategy.of(model, batch, jax.default_backend())}
  chosen.pop(_REFERENCE, None)
  executions = {"masked": MASKED, _REFERENCE: PLANNED}
  executions |= {w: PLANNED._replace(compaction=c) for w, c in chosen.items()}
  runs = {
    name: inference_cases.Runner(model, how, inputs, batch, threshold)
    for name, how in executions.items()
  }
  timed = timing.alternate(runs, options.repeats)
  wanted, executed = runs["masked"].results()
  rate = executed.mean(1)
  share = work.of_plan(model).share(rate)
  asked = np.asarray(model.route, bool)[:, np.asarray(model.gated)]
  lines, saved, equal = [], {_REFERENCE: 0.0}, True
  for name, run in runs.items():
    logits, decided = run.results()
    apart = inference_cases.largest_difference(logits, wanted)
    equal = equal and apart < 1e-4 and np.array_equal(decided, executed)
    ratio = options.ratios(timed[name], timed[_REFERENCE])
    if name in chosen:
      saved[name] = (1 - statistics.median(ratio)) / (1 - share)
    seconds = [s / run.examples for s in options.seconds(timed[name])]
    shown = f"**{name}**" if name == default else name
    lines.append(
      [
        shown,
        str(batch),
        f"{rate[:, np.asarray(model.gated)][asked].mean():.3f}",
        timing.spread(seconds),
        timing.spread(ratio),
        f"{share:.3f}" if name in chosen else "",
        f"{100 * saved[name]:.0f}%" if name in chosen else "",
        f"{run.compile_cpu_seconds:.1f}",
        f"{run.temporary_bytes / 1e6:,.1f}",
        f"{apart:.0e}",
      ]
    )
    print(" | ".join(lines[-1]), flush=True)
  return lines, saved, equal


def table(options: measures.Options) -> measures.Section:
  """The Census MLP, masked, planned and gated."""
  chosen = inference_cases.route(TASKS, BLOCKS)
  plain, model = measures.census(chosen, False), measures.census(chosen, True)
  inputs = measures.census_inputs(model)
  threshold = inference_cases.thresholds(model, inputs, batch=256)
  ideal = work.total(plain, PLANNED) / work.total(plain, MASKED)
  lines, first = [], []
  for batch in (1, 256) if options.quick else (1, 256, 4096):
    here = inference_cases.rows_of(inputs, 0, 64 if batch == 1 else batch)
    runs = {
      name: inference_cases.Runner(plain, way, here, batch)
      for name, way in (("masked", MASKED), ("planned", PLANNED))
    }
    timed = timing.alternate(runs, 4 * options.repeats)
    seconds = {n: [s / runs[n].examples for s in options.seconds(t)] for n, t in timed.items()}
    first.append(
      [
        str(batch),
        *(timing.spread(seconds[n]) for n in runs),
        f"{ideal:.3f}",
        timing.spread(options.ratios(timed["planned"], timed["masked"])),
      ]
    )
    lines += ways(model, here, batch, threshold, options)[0]
  head = [
    "batch",
    "masked, s / example",
    "planned, s / example",
    "work, planned / masked",
    "time, planned / masked",
  ]
  text = f"""\
The MLP of configs/census.py, three binary tasks, a route that skips a third of
the pairs. A call at batch 1 is mostly dispatch, whatever it computes.

Without gates:

{timing.table(head, first)}

With gates on the last half of the blocks, {100 * inference_cases.RATE:.0f}%
open (columns as above):

{timing.table(HEAD, lines)}"""
  return measures.Section("Census", text)
