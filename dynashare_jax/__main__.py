"""The command line: `python -m dynashare_jax COMMAND [arguments]`."""

from __future__ import annotations

import importlib
import sys

from dynashare_jax import cli
from dynashare_jax import lookup
from dynashare_jax import version

COMMANDS = {
  "train": "train one run, or --describe it",
  "benchmark": "train methods with several seeds and compare them in one table",
  "table": "compute a table again from what its runs stored",
  "calibrate": "find gate thresholds that meet a budget",
  "conflict": "tell which tasks of a trained model conflict, and in which blocks",
  "cost": "count and measure what a trained model costs, or a route before training",
  "export": "write a trained model as one file that runs with jax alone",
  "predict": "run an exported model on files",
  "data": "check or convert a data set",
}
# What people look for by another name.
_HINTS = {
  "describe": " It is an option: train --describe.",
  "report": " train writes the report of a run; the same command again writes one that is missing.",
}


def main() -> None:
  """Hands the rest of the command line to a command."""
  wanted = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if wanted in ("-h", "--help"):
    print(cli.called(str(__doc__)))
    print(*(f"  {name:10} {what}" for name, what in COMMANDS.items()), sep="\n")
    print("\nEach lists its arguments with --help; --version prints the version.")
    return
  if wanted == "--version":
    print("dynashare_jax", version.__version__)
    return
  if wanted not in COMMANDS:
    hint = _HINTS.get(wanted) or lookup.hint(wanted, tuple(COMMANDS))
    print(
      f"error: Unknown command {wanted!r}.{hint} There are: {', '.join(COMMANDS)}.", file=sys.stderr
    )
    sys.exit(2)
  del sys.argv[1]
  importlib.import_module(f"dynashare_jax.cli.{wanted}").cli()


if __name__ == "__main__":
  main()
