"""Exports a finished run as an artefact that needs only jax to run.

  python -m dynashare_jax export --workdir=runs/rooms/dynashare-0 \
      --tasks=depth,normals --platforms=cpu,cuda

writes `<workdir>/export/model.stablehlo` and `manifest.json`;
`dynashare_jax.infer.load` and `python -m dynashare_jax predict` run it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys
import time

from absl import logging

from dynashare_jax import runs as main_lib
from dynashare_jax.cli import guard as command
from dynashare_jax.infer import export


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = command.parser("export", "Writes a trained model as StableHLO with its weights.")
  parser.add_argument("--workdir", required=True, help="folder of a finished run")
  parser.add_argument("--tasks", default="", help="with commas (default: all)")
  parser.add_argument(
    "--platforms",
    default=",".join(export.PLATFORMS),
    help="that it must run on, with commas (default: %(default)s)",
  )
  parser.add_argument(
    "--budget",
    default="none",
    help="gate thresholds, a file of <workdir>/budgets that"
    " dynashare_jax.calibrate wrote (default: as trained)",
  )
  parser.add_argument("--output", default="", help="folder (default: <workdir>/export)")
  parser.add_argument("--data_dir", default="", help="where the data lie (default: as in training)")
  return parser.parse_args(list(argv))


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(",") if part.strip())


def run(argv: Sequence[str]) -> pathlib.Path:
  """Exports the model of a run; returns the path of the model file.

  Raises:
    ValueError: in the arguments or the work directory, before anything is
      written.
  """
  arguments = _parse(argv)
  trained = main_lib.load(arguments.workdir, arguments.data_dir)
  budget = None
  if arguments.budget not in ("", "none"):
    budget = export.read_budget(arguments.budget, trained)
  model = export.choose(trained, _names(arguments.tasks), budget)
  output = arguments.output or pathlib.Path(arguments.workdir) / "export"
  return export.write(model, output, _names(arguments.platforms))


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  logging.set_verbosity(logging.ERROR)
  start = time.monotonic()
  path = command.run(
    lambda: run(sys.argv[1:] if argv is None else argv),
    "nothing was written.",
    (ValueError, OSError, ImportError),
  )
  print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s)")
