"""Trains several methods with several seeds and puts them into one table.

  python -m dynashare_jax.benchmark --config=configs/rooms.py \
      --methods=single,hard,adashare,dynashare --seeds=3

Every run is a process of `dynashare_jax.main` with a folder of its own,
`<workdir>/<label>-<seed>`. Finished runs are reused, interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from dynashare_jax import command as command_lib
from dynashare_jax import lookup
from dynashare_jax import main as main_lib
from dynashare_jax.methods import _entries
from dynashare_jax.report import comparison
from dynashare_jax.report import workdir as report_workdir
from dynashare_jax.train import workdir as workdir_lib

LOG = "benchmark.log"
_SINGLE = "single"
_RANDOM = "random_policy"
_LEARNT = ("adashare", "dynashare")  # whose routes random ones imitate
_DEFAULT = "single,hard,random_policy,adashare,dynashare"
_CONFIG_ERRORS = (AttributeError, KeyError, TypeError, ValueError, flags.Error)
_OVERRIDE = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Job:
  """One run.

  Attributes:
    entry: what is trained.
    seed: its seed.
    folder: its work directory.
    arguments: of `python -m dynashare_jax.main`.
  """

  entry: _entries.Entry
  seed: int
  folder: pathlib.Path
  arguments: tuple[str, ...]

  @property
  def name(self) -> str:
    """Label and seed, as the folder is called."""
    return self.folder.name

  @property
  def finished(self) -> bool:
    """Whether the folder holds results and report of a finished run."""
    file = self.folder / "results.json"
    if not file.is_file() or not (self.folder / "report.md").is_file():
      return False
    try:
      return bool(json.loads(file.read_text(encoding="utf-8")).get("finished"))
    except (AttributeError, ValueError):
      return False


def read_overrides(arguments: Sequence[str]) -> tuple[str, ...]:
  """Takes `name=value` out of `--config.name=value` arguments.

  Raises:
    ValueError: another argument, or a name that the benchmark sets itself.
  """
  found = []
  for argument in arguments:
    match = _OVERRIDE.fullmatch(argument)
    if not match:
      raise ValueError(
        f"Unexpected argument {argument!r}. Values of the configuration are"
        " set as --config.name=value."
      )
    _entries.refuse_reserved(match[1])
    found.append(f"{match[1]}={match[2]}")
  return tuple(found)


def load_config(path: str, overrides: Sequence[str]) -> Any:
  """Reads a configuration as `dynashare_jax.main` will.

  Args:
    path: the Python file, perhaps with `:argument`.
    overrides: `name=value`; values are checked.

  Returns:
    The locked `ConfigDict`.

  Raises:
    ValueError: no such file, or a name or value that does not fit.
  """
  file = pathlib.Path(path.split(":", 1)[0])
  if not file.is_file():
    near = sorted(map(str, file.parent.glob("*.py")))
    listed = f" There are: {', '.join(near)}." if near else ""
    raise ValueError(
      f"There is no configuration {path!r}.{lookup.hint(str(file), near)}"
      f"{listed}"
    )
  _check_names(path, overrides)
  return _read_config(path, overrides)


def _check_names(path: str, overrides: Sequence[str]) -> None:
  """Raises ValueError if an override names nothing of the configuration."""
  config = _read_config(path, ()).to_dict()
  names = [name for name, _ in workdir_lib.flatten(config)]
  for override in overrides:
    name = override.partition("=")[0]
    if name not in names:
      raise ValueError(
        f"There is no config.{name} in {path}.{lookup.hint(name, names)}"
      )


def _read_config(path: str, overrides: Sequence[str]) -> Any:
  argv = ["benchmark", f"--config={path}"]
  argv += [f"--config.{override}" for override in overrides]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config", flag_values=values, lock_config=True, sys_argv=argv
  )
  try:
    values(argv)
    return values["config"].value
  except _CONFIG_ERRORS as error:
    text = " ".join(str(error).replace("\\n", " ").replace("\\", "").split())
    raise ValueError(f"In the configuration {path}: {text}") from error


def plan(
  path: str,
  entries: Sequence[_entries.Entry],
  seeds: int,
  overrides: Sequence[str] = (),
  root: str = "",
) -> tuple[Job, ...]:
  """Lists all runs in the order of their training; nothing is trained.

  In each seed, single-task networks come first, because the others name them
  as `config.baseline`, and random policies last, because they imitate the
  learnt route of the same seed (of `adashare`, else of `dynashare`).

  Args:
    path: the configuration.
    entries: what to train.
    seeds: how many; they are 0, 1, ...
    overrides: `name=value` for all runs; an entry's own come later.
    root: folder of the runs; default `runs/<data set>`.

  Returns:
    The runs.

  Raises:
    ValueError: fewer than one seed, a configuration that does not fit, or a
      folder that was made with another configuration.
  """
  if seeds < 1:
    raise ValueError(f"--seeds must be at least 1, but is {seeds}.")
  config = load_config(path, overrides)
  main_lib.find_dataset(config.dataset)
  folder = pathlib.Path(root or pathlib.Path("runs") / config.dataset)
  rank = {_SINGLE: 0, _RANDOM: 2}
  ordered = sorted(entries, key=lambda entry: rank.get(entry.method, 1))
  return tuple(
    _job(path, entry, seed, entries, overrides, folder)
    for seed in range(seeds)
    for entry in ordered
  )


def _job(
  path: str,
  entry: _entries.Entry,
  seed: int,
  entries: Sequence[_entries.Entry],
  overrides: Sequence[str],
  root: pathlib.Path,
) -> Job:
  """One run; checks its configuration and its folder."""
  own = {override.partition("=")[0] for override in entry.overrides}
  settings = [o for o in overrides if o.partition("=")[0] not in own]
  settings += [*entry.overrides, f"method={entry.method}", f"seed={seed}"]
  config = load_config(path, settings)
  single = _first(entries, (_SINGLE,))
  if single and entry.method != _SINGLE and not config.baseline:
    settings.append(f"baseline={root / f'{single.label}-{seed}'}")
  learnt = _first(entries, _LEARNT)
  if learnt and entry.method == _RANDOM and not config.random.like:
    settings.append(f"random.like={root / f'{learnt.label}-{seed}'}")
  folder = root / f"{entry.label}-{seed}"
  arguments = [f"--config={path}", *(f"--config.{o}" for o in settings)]
  job = Job(entry, seed, folder, (*arguments, f"--workdir={folder}"))
  if (job.folder / "config.json").is_file():
    # The table computes Delta anew: a finished run needs no baseline.
    free = main_lib._FREE
    stored = load_config(path, settings).to_dict()
    workdir_lib.open_workdir(job.folder, stored, free)
  return job


def _first(
  entries: Sequence[_entries.Entry], names: Sequence[str]
) -> _entries.Entry | None:
  """The first entry of the first of these methods that has one."""
  for name in names:
    for entry in entries:
      if entry.method == name:
        return entry
  return None


def train(job: Job, place: str = "") -> None:
  """Trains one run in a process of its own, unless it is finished.

  Args:
    job: the run. Its output goes to `benchmark.log` in its folder.
    place: shown before its name, for example `[2/12]`.

  Raises:
    RuntimeError: the process failed; has the last lines of its output.
  """
  title = f"{place} {job.name}".strip()
  if job.finished:
    print(f"{title}: finished before, reused", flush=True)
    return
  log = job.folder / LOG
  job.folder.mkdir(parents=True, exist_ok=True)
  print(f"{title}: training, output in {log}", flush=True)
  start = time.monotonic()
  command = [sys.executable, "-m", "dynashare_jax.main", *job.arguments]
  with open(log, "w", encoding="utf-8") as file:
    done = subprocess.run(
      command, stdout=file, stderr=subprocess.STDOUT, check=False
    )
  if done.returncode or not job.finished:
    raise RuntimeError(_failure(job, done.returncode, log, command))
  print(f"{title}: finished in {time.monotonic() - start:,.0f} s", flush=True)


def _failure(
  job: Job, code: int, log: pathlib.Path, command: Sequence[str]
) -> str:
  """What failed, the end of its output, and what to do."""
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  end = "\n".join(f"  {line}" for line in lines[-15:]) or "  (no output)"
  what = f"failed with exit code {code}" if code else "wrote no results"
  return (
    f"{job.name} {what}. The end of {log}:\n{end}\nIts command:\n"
    f"  {shlex.join(command)}\nFinished runs stay; the same benchmark command"
    " goes on from here."
  )


def notes(
  entries: Sequence[_entries.Entry], overrides: Sequence[str]
) -> tuple[str, ...]:
  """What the labels stand for and what all runs have in common."""
  found = []
  for entry in entries:
    text = f"{entry.label}: `{entry.method}`"
    if entry.overrides:
      text += " with " + ", ".join(f"`config.{o}`" for o in entry.overrides)
    if entry.label != entry.method:
      found.append(text)
  if overrides:
    found.append("All runs: " + ", ".join(f"`config.{o}`" for o in overrides))
  return tuple(found)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    prog="python -m dynashare_jax.benchmark", allow_abbrev=False,
    description="Trains what is missing and compares methods in one table.",
    epilog="Any --config.name=value goes to all runs.",
  )  # fmt: skip
  parser.add_argument(
    "--config", required=True, help="a file of configs/, for all runs"
  )
  parser.add_argument(
    "--methods", default=_DEFAULT,
    help="with commas; label=method+name=value+name=value is a method with"
    " other settings (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--seeds", type=int, default=3, help="how many (default: %(default)s)"
  )
  parser.add_argument(
    "--workdir", default="",
    help="folder of all runs and of the table (default: runs/<data set>)",
  )  # fmt: skip
  return parser.parse_known_args(list(argv))


def run(argv: Sequence[str]) -> pathlib.Path:
  """Does what the command line says.

  Args:
    argv: arguments without the program's name.

  Returns:
    Path of `table.md`.

  Raises:
    ValueError: in the arguments, before anything is trained.
    RuntimeError: a run failed.
  """
  arguments, rest = _parse(argv)
  overrides = read_overrides(rest)
  entries = _entries.parse(arguments.methods)
  jobs = plan(
    arguments.config, entries, arguments.seeds, overrides, arguments.workdir
  )
  for place, job in enumerate(jobs):
    train(job, f"[{place + 1}/{len(jobs)}]")
  runs = {
    entry.label: [
      report_workdir.load(job.folder) for job in jobs if job.entry == entry
    ]
    for entry in entries
  }
  command = shlex.join(["python", "-m", "dynashare_jax.benchmark", *argv])
  folder = jobs[0].folder.parent
  return comparison.write(runs, folder, command, notes(entries, overrides))


def cli(argv: Sequence[str] | None = None) -> None:
  """Entry point; exits with 2 after an error, 130 after an interruption."""
  table = command_lib.run(
    lambda: run(sys.argv[1:] if argv is None else argv),
    "the same command goes on.", (ValueError, OSError, RuntimeError),
  )  # fmt: skip
  print(f"table: {table}")


if __name__ == "__main__":
  cli()
