"""Finds gate thresholds that meet a budget, without any training.

  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 \
      --budget=0.6 --unit=flops
  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 --curve
  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 \
      --tune=1,8,32

The first writes `<workdir>/budgets/flops-0.6.json`, whose thresholds
`infer.trained.Trained.forward` takes. The second writes `budget.md`,
`budget.csv` and `figures/budget.png`: metrics against budgets. The third times
the ways of gated execution at these batch sizes on this device and writes
`execution.json`, which `infer.strategy.choose` follows from then on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import time
from typing import Any

from absl import logging
import jax

from dynashare_jax import runs as main_lib
from dynashare_jax import types
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as files
from dynashare_jax.cli import guard as command
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.infer import calibrate
from dynashare_jax.infer import settings
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.library import run as run_lib
from dynashare_jax.objectives import kinds

_BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ARGUMENTS = {
  "workdir": (None, "folder of a finished run with gates"),
  "batch": (8, "examples of the batch that is timed"),
  "curve": (False, "a table and a figure of metrics against budgets"),
  "budgets": (
    "",
    "of the curve, with commas (default: 0.3,0.4, ... 0.9; for ms these are shares of the time with"
    " all gates open)",
  ),
  "tune": (
    "",
    "time the ways of gated execution at these batch sizes, with commas, and keep the quickest for"
    " this device",
  ),
  "data_dir": ("", "where the data lie (default: as in training)"),
  "data_changed": (identity.REFUSE, "what to do with data that changed since: refuse, old, allow"),
}
_UNIT = (
  "executed share of (task, block, example) triples, share of the multiply-accumulates with all"
  " gates open, or milliseconds of a batch (default: %(default)s)"
)


def curve(
  calibrator: calibrate.Calibrator, unit: str, budgets: Sequence[float] = ()
) -> pathlib.Path:
  """Meets many budgets; writes settings, table and figure; returns the path of `budget.md`.

  Args:
    budgets: default 0.3, 0.4, ... 0.9, for times as shares of the time with
      all gates open. Those out of reach are left out with a line that says so;
      the lowest and the highest in reach are always included.
  """
  from dynashare_jax.report.cost import budget as report_budget

  trained = calibrator.trained
  reach = calibrator.reach(unit)
  scale = reach[1] if unit == settings.MS else 1.0
  wanted = sorted(set(budgets or [share * scale for share in _BUDGETS]))
  left = [v for v in wanted if not reach[0] <= v <= reach[1]]
  if left:
    print(
      f"left out: {', '.join(f'{v:g}' for v in left)} {unit}; in reach are"
      f" {reach[0]:.4g} to {reach[1]:.4g}"
    )
  # A budget nearer than the tolerance would find what the ends found.
  apart = lambda v: all(abs(v - end) > calibrate.TOLERANCE * end for end in reach)
  near = [v for v in wanted if v not in left and apart(v)]
  found: list[settings.Setting] = []
  for value in (reach[0], *near, reach[1]):
    found.append(calibrator.meet(settings.Budget(value, unit), test=True))
    run_lib.keep(trained, found[-1])
    print(summary(found[-1], trained.tasks).splitlines()[0], flush=True)
  files.write_json(
    trained.workdir / report_budget.CURVE,
    {
      "unit": unit,
      "batch": calibrator.batch,
      "device": jax.local_devices()[0].device_kind,
      "reach": reach,
      "left_out": left,
      "tasks": _tasks(trained.tasks),
      "settings": found,
      "default": calibrator.default(test=True),
    },
  )
  return report_budget.write(trained.workdir)


def tune(trained: trained_lib.Trained, sizes: Sequence[int]) -> pathlib.Path:
  """Times the ways of gated execution on this device; prints them and writes `execution.json`.

  Raises:
    ValueError: no gates, or a batch that the validation split cannot fill.
  """
  source = trained.experiment.dataset.source("validation")
  if not sizes or not 1 <= min(sizes) <= max(sizes) <= len(source):
    raise ValueError(
      f"--tune must name batch sizes from 1 to {len(source)}, the size of the"
      f" validation split, not {','.join(map(str, sizes))}."
    )
  inputs = loader.stack([source[i] for i in range(max(sizes))]).inputs
  found = strategy.tune(
    trained, {size: jax.tree.map(lambda a, size=size: a[:size], inputs) for size in sizes}
  )
  for size, seconds in found["seconds"].items():
    shown = ", ".join(f"{n} {1000 * s:.4g} ms" for n, s in seconds.items())
    print(f"batch {size}: {found['choices'][size]} is quickest ({shown})")
  return strategy.save(found, trained.workdir)


def _tasks(tasks: Sequence[types.TaskSpec]) -> list[dict[str, Any]]:
  """Names and metrics, as results name them."""
  shown = lambda metric: {n: getattr(metric, n) for n in ("name", "higher_is_better", "unit")}
  return [
    {"name": task.name, "metrics": list(map(shown, kinds.find(task.kind).metrics(task)))}
    for task in tasks
  ]


def summary(setting: settings.Setting, tasks: Sequence[types.TaskSpec]) -> str:
  """Returns lines for the terminal: budget, what was met, metrics on test."""
  assert setting.test is not None and setting.budget is not None
  met = f"{setting.met():.4g} on validation, {setting.met('test'):.4g} on test"
  if setting.unit == settings.MS:
    met = (
      f"{setting.met():.4g} measured ({setting.predicted_ms:.4g} predicted), batch {setting.batch}"
    )
  lines = [f"budget {setting.budget:.4g} {setting.unit}: {met}"]
  for split in ("validation", "test"):
    found = getattr(setting, split)
    lines.append(
      f"{split}: {100 * found.rate:.1f}% of all (task, block, example) triples"
      f" executed, {100 * found.flops:.1f}% of the multiply-accumulates"
      f" (standard error {100 * found.error:.2f}%)"
    )
  lines.append(f"validation score: {setting.validation.score:.4f}")
  for task in tasks:
    values = setting.test.metrics[task.name]
    shown = ", ".join(f"{name} {v:.4g}" for name, v in values.items())
    lines.append(f"{task.name} on test: {shown}")
  return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  about = "Finds gate thresholds that meet a budget on validation."
  parser = command.parser("calibrate", about, _ARGUMENTS)
  parser.add_argument("--budget", type=float, help="for example 0.6; in milliseconds for ms")
  parser.add_argument("--unit", default=settings.FLOPS, choices=settings.UNITS, help=_UNIT)
  return parser.parse_args(argv)


def _numbers(text: str, name: str) -> list[float]:
  """Numbers with commas between them."""
  try:
    return [float(value) for value in command.names(text)]
  except ValueError as error:
    raise ValueError(f"--{name} must be numbers with commas, not {text!r}.") from error


def run(argv: Sequence[str] | None) -> pathlib.Path:
  """Meets a budget or many, or times; returns the file that says what was found.

  Raises:
    ValueError: in the arguments or the work directory, before anything is
      evaluated; or a budget out of reach.
  """
  arguments = _parse(argv)
  one = arguments.budget is not None
  if one + arguments.curve + bool(arguments.tune) != 1:
    raise ValueError("Give one of --budget=VALUE, --curve and --tune=SIZES.")
  many = _numbers(arguments.budgets, "budgets")
  if many and not arguments.curve:
    raise ValueError("--budgets belongs to --curve; give --budget=VALUE.")
  sizes = [int(size) for size in _numbers(arguments.tune, "tune")]
  values = [arguments.budget] if one else many
  wanted = [settings.Budget(value, arguments.unit) for value in values]
  with lock.held(arguments.workdir):
    trained = main_lib.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
    if arguments.tune:
      return tune(trained, sizes)
    calibrator = calibrate.Calibrator(trained, arguments.batch)
    if arguments.curve:
      return curve(calibrator, arguments.unit, many)
    setting = calibrator.meet(wanted[0], test=True)
    path = run_lib.keep(trained, setting)
    print(summary(setting, trained.tasks))
    return path


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  logging.set_verbosity(logging.ERROR)
  command.use_compilation_cache()
  start = time.monotonic()
  path = command.run(lambda: run(argv), "budgets written so far stay.")
  print(f"{path} ({time.monotonic() - start:,.0f} s)")
