"""Measures what a finished run costs: parameters, work, memory and time.

  python -m dynashare_jax cost --workdir=runs/rooms/dynashare-0

Compares masked, planned and gated execution and separate single-task networks,
for all tasks together and for every task alone, on this machine; and times every
block alone, which predicts the milliseconds of any route. Writes `cost.md`,
`cost.csv` and `figures/cost.png` into the run's folder, and its `report.md` anew, which shows what
was measured.

  python -m dynashare_jax cost --config=configs/rooms.py --route=11110000,11111111,10101010

predicts and measures a route of a network that is not trained yet. With `--latency=FILE` either
command keeps the milliseconds of the parts, by which `--config.policy.latency=FILE
--config.policy.budget_ms=3.2` bounds the routes of a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import pathlib

from dynashare_jax import runs
from dynashare_jax.checkpoints import lock
from dynashare_jax.cli import guard as command
from dynashare_jax.data import identity
from dynashare_jax.library import configs
from dynashare_jax.library import costs

ALL = (
  "",
  "batch sizes with commas, as in 1,8: measure what every run costs that is not measured at the"
  " first of them yet, for milliseconds in the table and its figure",
)
_ARGUMENTS = {
  "workdir": ("", "of a finished run"),
  "config": (
    "",
    "instead, by name (rooms) or its file: for the milliseconds of a route before training",
  ),
  "route": ("", "with --config: a row of 0 and 1 a task, as in 1011,1111 (default: all 1)"),
  "batches": ("1,8,32", "batch sizes with commas; the first one's latency is shown"),
  "repeats": (20, "rounds"),
  "latency": (
    "",
    "file to write the milliseconds of the network's parts to, at the first batch size",
  ),
  "data_dir": ("", "where the data lie now (default: where they lay in training)"),
  "data_changed": (identity.REFUSE, "what to do with data that changed since: refuse, old, allow"),
  "baseline": (
    "",
    "work directory of single-task runs, for their metrics (default: the run's own baseline, if it"
    " is still there)",
  ),
}


def read_batches(text: str, name: str = "--batches") -> tuple[int, ...]:
  """Reads batch sizes from text such as `1,8,32`, the value of the argument of that name.

  Raises:
    ValueError: something else than positive numbers with commas.
  """
  try:
    found = tuple(int(part) for part in text.split(","))
  except ValueError:
    found = ()
  if not found or min(found) < 1 or len(set(found)) < len(found):
    raise ValueError(
      f"{name} is {text!r}; give different numbers of at least 1 with commas, as in 1,8,32."
    )
  return found


def read_all(text: str) -> tuple[int, ...]:
  """Reads the batch sizes of `--cost`; none where it is not given.

  Raises:
    ValueError: something else than positive numbers with commas.
  """
  return read_batches(text, "--cost") if text else ()


def measure_all(folders: Iterable[str | pathlib.Path], sizes: tuple[int, ...]) -> None:
  """Measures finished runs at batch sizes, if there are some, unless they are measured already."""
  if sizes:
    command.use_compilation_cache()
    costs.measure_all(tuple(folders), costs.Settings(sizes), command.tell)


def run(argv: Sequence[str] | None) -> str:
  """Measures and writes the page; returns its text.

  Raises:
    ValueError: an argument or a folder that does not fit.
  """
  about = "Shows what a finished run costs on this machine, or a route before training."
  more = "With --config, any value of it can be set as --config.name=value."
  arguments, rest = command.parser("cost", about, _ARGUMENTS, more).parse_known_args(argv)
  overrides = [
    match[1] + "=" + match[2] for match in map(configs.OVERRIDE.fullmatch, rest) if match
  ]
  if len(overrides) < len(rest) or (rest and not arguments.config):
    raise ValueError(f"Unexpected arguments: {' '.join(rest)}.")
  if bool(arguments.workdir) == bool(arguments.config):
    raise ValueError("Give the --workdir of a finished run, or a --config to be trained.")
  if arguments.route and not arguments.config:
    raise ValueError("--route needs a --config: a finished run has a route.")
  settings = costs.Settings(
    read_batches(arguments.batches),
    arguments.repeats,
    arguments.latency,
    arguments.baseline,
    bool(arguments.data_dir),
  )
  if arguments.config:
    return costs.of_a_route(configs.load(arguments.config, overrides), arguments.route, settings)
  with lock.held(arguments.workdir):
    trained = runs.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
    return costs.measure(trained, settings, command.tell)


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  command.use_compilation_cache()
  command.say(command.run(lambda: run(argv), "nothing was written."))
