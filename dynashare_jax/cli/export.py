"""Exports a finished run as an artefact that needs only jax to run.

  python -m dynashare_jax export --workdir=runs/rooms/dynashare-0 \
      --tasks=depth,normals --platforms=cpu,cuda

writes `<workdir>/export/model.stablehlo` and `manifest.json`;
`dynashare_jax.infer.load` and `python -m dynashare_jax predict` run it.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import pathlib
import time

from absl import logging

from dynashare_jax import runs as main_lib
from dynashare_jax.checkpoints import lock
from dynashare_jax.cli import guard as command
from dynashare_jax.data import identity
from dynashare_jax.infer import export

_ARGUMENTS = {
  "workdir": (None, "folder of a finished run"),
  "tasks": ("", "with commas (default: all)"),
  "platforms": (",".join(export.PLATFORMS), "that it must run on, with commas"),
  "budget": (
    "",
    "gate thresholds, a file of <workdir>/budgets that python -m dynashare_jax calibrate wrote"
    " (default: as trained)",
  ),
  "output": ("", "folder (default: <workdir>/export)"),
  "data_dir": ("", "where the data lie (default: as in training)"),
  "data_changed": (identity.REFUSE, "what to do with data that changed since: refuse, old, allow"),
}


def run(argv: Sequence[str] | None) -> pathlib.Path:
  """Exports the model of a run; returns the path of the model file.

  Raises:
    ValueError: in the arguments or the work directory, before anything is written.
  """
  about = "Writes a trained model as StableHLO with its weights."
  arguments = command.parser("export", about, _ARGUMENTS).parse_args(argv)
  inside = not arguments.output
  with lock.held(arguments.workdir) if inside else contextlib.nullcontext():
    trained = main_lib.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
    chosen = arguments.budget not in ("", "none")
    budget = export.read_budget(arguments.budget, trained) if chosen else None
    model = export.choose(trained, command.names(arguments.tasks), budget)
    output = pathlib.Path(arguments.workdir) / "export" if inside else arguments.output
    return export.write(model, output, command.names(arguments.platforms))


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  logging.set_verbosity(logging.ERROR)
  start = time.monotonic()
  errors = (ValueError, OSError, ImportError)
  path = command.run(lambda: run(argv), "nothing was written.", errors)
  command.say(f"{path} ({path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s)")
