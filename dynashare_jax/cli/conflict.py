"""Tells which tasks of a finished run conflict, and in which blocks.

  python -m dynashare_jax conflict --workdir=runs/rooms/dynashare-0

Compares the tasks' gradients at the trained model, on examples that it was not trained on. Writes
`conflict.json` and `figures/conflict.png` into the run's folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import functools
import pathlib

from absl import logging

from dynashare_jax import lookup
from dynashare_jax import runs
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir
from dynashare_jax.cli import guard
from dynashare_jax.data import identity
from dynashare_jax.infer import conflict as conflict_lib

_ARGUMENTS = {
  "workdir": (None, "folder of a finished run"),
  "split": ("validation", "whose examples are taken: validation or test"),
  "batches": (20, "how many, of the size of training"),
  "data_dir": ("", "where the data lie (default: as in training)"),
  "data_changed": (identity.REFUSE, "what to do with data that changed since: refuse, old, allow"),
}


def run(argv: Sequence[str] | None) -> str:
  """Measures, writes, and returns what to tell.

  Raises:
    ValueError: in the arguments or the work directory, before anything is written.
  """
  about = "Compares the gradients of the tasks of a finished run, block by block."
  arguments = guard.parser("conflict", about, _ARGUMENTS).parse_args(argv)
  lookup.one_of("--split", arguments.split, ("validation", "test"))
  with lock.held(arguments.workdir):
    return _written(arguments)


def _written(arguments: argparse.Namespace) -> str:
  """Measures and writes."""
  trained = runs.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
  found = conflict_lib.measure(trained, arguments.split, arguments.batches)
  folder = pathlib.Path(arguments.workdir)
  names = [task.name for task in trained.experiment.tasks]
  workdir.write_json(folder / "conflict.json", {"tasks": names, **found._asdict()})
  from dynashare_jax.report import style  # Matplotlib takes most of a second.
  from dynashare_jax.report.run import conflict_pages

  drawn = functools.partial(conflict_pages.drawn, names, found)
  style.draw(drawn, folder / "figures" / "conflict.png")
  return conflict_pages.text(names, found)


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  logging.set_verbosity(logging.ERROR)
  guard.say(guard.run(lambda: run(argv), "nothing was written."))
