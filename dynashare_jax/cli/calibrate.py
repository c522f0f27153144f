"""Finds gate thresholds that meet a budget, without any training; or chooses among finished runs.

  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 \
      --budget=0.6 --unit=flops
  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 --curve
  python -m dynashare_jax calibrate --workdir=runs/rooms/dynashare-0 \
      --tune=1,8,32
  python -m dynashare_jax calibrate --curve \
      --workdir=runs/rooms/weak-0,runs/rooms/strong-0

The first writes `<workdir>/budgets/flops-0.6.json`, whose thresholds
`infer.trained.Trained.forward` takes. The second writes `budget.md`,
`budget.csv` and `figures/budget.png`: metrics against budgets. The third times
the ways of gated execution at these batch sizes on this device and writes
`execution.json`, which `infer.strategy.choose` follows from then on. The fourth compares finished
runs, such as those of `gated` with several weights: it times those that `cost` has not timed yet,
and writes `calibration.md`, `.csv` and `.png` into the folder above the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import time

from absl import logging
import jax

from dynashare_jax import runs as main_lib
from dynashare_jax.checkpoints import lock
from dynashare_jax.cli import guard as command
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.infer import calibrate
from dynashare_jax.infer import settings
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.library import budgets
from dynashare_jax.library import costs

_ARGUMENTS = {
  "workdir": (
    None,
    "folder of a finished run with gates; or with --curve several runs of any method, with commas",
  ),
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


def _tell(text: str) -> None:
  print(text, flush=True)


def several(folders: Sequence[str], curve: bool, batch: int) -> pathlib.Path:
  """Compares finished runs by what they cost, after measuring it; returns the path of the page.

  Raises:
    ValueError: runs that cannot be compared, or nothing is asked for that several runs have.
  """
  if not curve:
    raise ValueError("Several folders of --workdir are compared: give --curve, and no --budgets.")
  from dynashare_jax.report import workdir as report_workdir
  from dynashare_jax.report.compare import several as report

  costs.measure_all(folders, costs.Settings((batch,)), command.tell)
  return report.write(list(map(report_workdir.load, folders)), pathlib.Path(folders[0]).parent)


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
  sizes = [int(size) for size in command.names(arguments.tune) if size.isdecimal()]
  if len(sizes) < len(command.names(arguments.tune)):
    raise ValueError(f"--tune must be whole numbers with commas, not {arguments.tune!r}.")
  folders = command.names(arguments.workdir)
  if len(folders) > 1 and not pathlib.Path(arguments.workdir).exists():
    return several(folders, arguments.curve and not many, arguments.batch)
  values = [arguments.budget] if one else many
  wanted = [settings.Budget(value, arguments.unit) for value in values]
  with lock.held(arguments.workdir):
    trained = main_lib.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
    if arguments.tune:
      return tune(trained, sizes)
    calibrator = calibrate.Calibrator(trained, arguments.batch)
    if arguments.curve:
      return budgets.curve(calibrator, arguments.unit, many, _tell).path
    setting = calibrator.meet(wanted[0], test=True)
    path = budgets.keep(trained, setting)
    print(setting)
    return path


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  logging.set_verbosity(logging.ERROR)
  command.use_compilation_cache()
  start = time.monotonic()
  path = command.run(lambda: run(argv), "budgets written so far stay.")
  command.say(f"{path} ({time.monotonic() - start:,.0f} s)")
