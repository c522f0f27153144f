"""Trains several methods with several seeds and puts them into one table.

  python -m dynashare_jax benchmark --config=configs/rooms.py \
      --methods=single,hard,adashare,dynashare --seeds=3

Every run is a process of `dynashare_jax.main` with a folder of its own, `<workdir>/<label>-<seed>`.
`--balances=fixed,unit,nash` trains each method with each balancer: `<label>-<balancer>-<seed>`.
`--config.baseline=FOLDER` shares single-task results between benchmarks (docs/comparisons.md).
Finished runs are reused, interrupted ones resumed. `--jobs=4` trains four runs at once on this
machine, `--shard=1/3` the first third of the runs, for three machines that share the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib
import shlex
import sys
from typing import Any

from dynashare_jax import lookup
from dynashare_jax import runs as runs_lib
from dynashare_jax.cli import benchmark_jobs as jobs_lib
from dynashare_jax.cli import benchmark_places as places
from dynashare_jax.cli import cost
from dynashare_jax.cli import guard
from dynashare_jax.library import configs
from dynashare_jax.methods import _entries
from dynashare_jax.methods import random_policy
from dynashare_jax.report import workdir as report_workdir
from dynashare_jax.train import baselines

_SHOWN = 8  # names of unfinished runs
_PLACES = ("--jobs", "--devices", "--shard")  # where runs train, and not what
_ARGUMENTS = {
  "config": (None, "of all runs, by name (rooms) or its file"),
  "methods": (
    "single,hard,random_policy,adashare,dynashare",
    "with commas; label=method+name=value+name=value is a method with other settings",
  ),
  "balances": (
    "",
    "balancers with commas, each tried with every method but `single`; see docs/balancing.md",
  ),
  "seeds": (3, "how many"),
  "randoms": (
    0,
    "how many distinct random routes of every seed random_policy trains, each to the end; the table"
    " then tells which share of them a method beats",
  ),
  "workdir": ("", "folder of all runs and of the table (default: runs/<data set>)"),
  "jobs": (
    1,
    "runs that train at once on this machine; they share its processor cores and memory, but not"
    " its GPUs",
  ),
  "devices": (
    "",
    "GPUs to deal to the runs that train at once, as in 0,1,2,3 (default: CUDA_VISIBLE_DEVICES)",
  ),
  "mixed": (
    "",
    "parts in which runs and their baselines may differ, with commas: data, split, backbone,"
    " schedule, evaluation, seed, version, or all; the table says so",
  ),
  "trials": (
    "",
    "how many validation-only trials the settings of methods took, as in adashare:12,hard:1, for"
    " a column",
  ),
  "cost": cost.ALL,
  "shard": (
    "",
    "i/n: train part i of n (from 1), for machines that share --workdir; the table comes when all"
    " parts are there",
  ),
}


def read_overrides(arguments: Sequence[str]) -> tuple[str, ...]:
  """Takes `name=value` out of `--config.name=value` arguments.

  Raises:
    ValueError: another argument, or a name that the benchmark sets itself.
  """
  found = []
  for argument in arguments:
    match = configs.OVERRIDE.fullmatch(argument)
    if not match:
      raise ValueError(
        f"Unexpected argument {argument!r}. Values of the configuration are"
        " set as --config.name=value."
      )
    _entries.refuse_reserved(match[1])
    found.append(f"{match[1]}={match[2]}")
  return tuple(found)


def plan(
  path: str,
  entries: Sequence[_entries.Entry],
  seeds: int,
  overrides: Sequence[str] = (),
  root: str = "",
) -> tuple[jobs_lib.Job, ...]:
  """Lists all runs in the order of their training; nothing is trained.

  In each seed, single-task networks come first, because the others name them as `config.baseline`,
  and random policies last, because they imitate the learnt route of the same seed (of `adashare`,
  else of `dynashare`, else of `affinity`).

  Args:
    seeds: how many; they are 0, 1, ...
    overrides: `name=value` for all runs; an entry's own come later.
    root: folder of the runs; default `runs/<data set>`.

  Returns:
    The runs, each with the names of those before it that it reads.

  Raises:
    ValueError: fewer than one seed, a configuration that does not fit, a folder that was made with
      another configuration, or a run to be trained whose single-task run has other settings.
  """
  if seeds < 1:
    raise ValueError(f"--seeds must be at least 1, but is {seeds}.")
  config = configs.load(path, overrides)
  runs_lib.find_dataset(config.dataset)
  mixed = baselines.read_mixed(config.mixed, "config.mixed")
  folder = pathlib.Path(root or pathlib.Path("runs") / config.dataset)
  jobs: list[jobs_lib.Job] = []
  settings: dict[str, Any] = {}  # by the folder of a run
  for seed, entry in itertools.product(range(seeds), _entries.in_turn(entries)):
    job, reads, own = _job(path, entry, seed, entries, overrides, folder)
    settings[os.path.realpath(job.folder)] = baselines.settings(own)
    jobs.append(dataclasses.replace(job, needs=_needs(jobs, job, reads)))
    _check_settings(jobs, settings, reads[0], mixed)
  return tuple(jobs)


def _needs(
  jobs: Sequence[jobs_lib.Job], job: jobs_lib.Job, reads: Sequence[str]
) -> tuple[str, ...]:
  """Names of those runs before one that it reads."""
  read = {os.path.realpath(name) for name in reads if name}
  needs = [j.name for j in jobs if os.path.realpath(j.folder) in read]
  return tuple(dict.fromkeys([*needs, *_stored_by(jobs, job, reads[0])]))


def _check_settings(
  jobs: Sequence[jobs_lib.Job], settings: Mapping[str, Any], given: str, mixed: Sequence[str]
) -> None:
  """Refuses the last run if it is to be trained by other settings than what it is compared with."""
  job = jobs[-1]
  if job.finished:
    return
  singles = [
    str(j.folder) for j in jobs if j.seed == job.seed and j.entry.method == _entries.SINGLE
  ]
  for folder in filter(None, [*singles[:1], given]):
    if single := settings.get(os.path.realpath(folder)):
      pair = f"{job.name} and its baseline {os.path.basename(folder)}"
      baselines.check(settings[os.path.realpath(job.folder)], single, mixed, pair)


def _stored_by(jobs: Sequence[jobs_lib.Job], job: jobs_lib.Job, baseline: str) -> list[str]:
  """Names of the single-task runs that store what a run looks up, if its baseline is a store."""
  folders = {os.path.realpath(j.folder) for j in jobs}
  if not baseline or os.path.realpath(baseline) in folders or job.entry.method == _entries.SINGLE:
    return []
  if not baselines.is_store(baseline):
    return []
  return [j.name for j in jobs if j.seed == job.seed and j.entry.method == _entries.SINGLE]


def read_trials(text: str, entries: Sequence[_entries.Entry]) -> dict[str, int]:
  """Reads `--trials`: label -> number.

  Raises:
    ValueError: it is something else, a label twice or one that `--methods` has not.
  """
  found: dict[str, int] = {}
  for part in guard.names(text):
    label, _, number = part.rpartition(":")
    if not number.isdecimal() or not label or label in found:
      raise ValueError(
        f"--trials must be LABEL:NUMBER with commas, each label once, but has {part!r}."
      )
    lookup.one_of("A label in --trials", label, (entry.label for entry in entries))
    found[label] = int(number)
  return found


def _job(
  path: str,
  entry: _entries.Entry,
  seed: int,
  entries: Sequence[_entries.Entry],
  overrides: Sequence[str],
  root: pathlib.Path,
) -> tuple[jobs_lib.Job, tuple[str, str], Any]:
  """One run, the folders that it reads, and its configuration; checks that and its folder."""
  own = {override.partition("=")[0] for override in entry.overrides}
  settings = [o for o in overrides if o.partition("=")[0] not in own]
  settings += [*entry.overrides, f"method={entry.method}", f"seed={seed}"]
  config = configs.load(path, settings)

  def read(name: str, given: str, made_by: _entries.Entry | None) -> str:
    if given or made_by is None:
      return given
    settings.append(f"{name}={root / f'{made_by.folder}-{seed}'}")
    return settings[-1].partition("=")[2]

  single = _entries.made_by((_entries.SINGLE,), entry, entries)
  baseline = read("baseline", config.baseline, None if entry.method == _entries.SINGLE else single)
  random = entry.method == _entries.RANDOM
  like = read(
    "random.like", config.random.like if random else "", _entries.imitated(entry, entries)
  )
  folder = root / f"{entry.folder}-{seed}"
  arguments = [f"--config={path}", *(f"--config.{o}" for o in settings), f"--workdir={folder}"]
  if (folder / "config.json").is_file():
    runs_lib.open_workdir(configs.load(path, settings), folder)
  job = jobs_lib.Job(entry, seed, folder, tuple(arguments))
  if (number := entry.number) is not None and like:
    alike = bool(config.random.per_task), bool(config.random.work)
    job = dataclasses.replace(job, void=lambda: random_policy.lacks(like, number, *alike))
  return job, (baseline, like), config


def notes(
  entries: Sequence[_entries.Entry],
  overrides: Sequence[str],
  jobs: Sequence[jobs_lib.Job] = (),
  left_out: Sequence[jobs_lib.Job] = (),
) -> tuple[str, ...]:
  """Says what labels stand for, what all runs share, what is left out, whether times compare."""
  shown = lambda names: ", ".join(f"`config.{o}`" for o in names)
  found = [
    f"{e.label}: `{e.method}`{' with ' * bool(e.overrides)}{shown(e.overrides)}"
    for e in entries
    if e.label != e.method and not e.number
  ]
  found += _entries.left_out([job.name for job in left_out])
  if overrides:
    found.append(f"All runs: {shown(overrides)}")
  most = max((job.at_once for job in jobs), default=1)
  if most > 1:
    found.append(
      f"Up to {most} runs trained at once on one machine and may have slowed"
      " each other down: do not compare the times of their steps."
    )
  return tuple(found)


def run(argv: Sequence[str]) -> pathlib.Path | None:
  """Trains what is missing and writes the table.

  Returns:
    Path of `table.md`; None if `--shard` left out runs that are not finished.

  Raises:
    ValueError: in the arguments, before anything is trained.
    RuntimeError: a run failed.
  """
  about = "Trains what is missing and compares methods in one table."
  parser = guard.parser("benchmark", about, _ARGUMENTS, "Any --config.name=value goes to all runs.")
  arguments, rest = parser.parse_known_args(argv)
  overrides = read_overrides(rest)
  entries = _entries.crossed(arguments.methods, arguments.balances, arguments.randoms, overrides)
  shares = places.shares(arguments.jobs, arguments.devices, os.environ)
  place = places.read_part(arguments.shard) if arguments.shard else (1, 1)
  environment = places.environment(bool(arguments.shard), os.environ)
  mixed = baselines.read_mixed(arguments.mixed, "--mixed")
  trials = read_trials(arguments.trials, entries)
  sizes = cost.read_all(arguments.cost)
  overrides = (*overrides, *[f"mixed={arguments.mixed}"] * bool(mixed))
  jobs = plan(arguments.config, entries, arguments.seeds, overrides, arguments.workdir)
  own = places.part(jobs, *place)
  jobs_lib.train(own, shares, environment)
  left_out = [job for job in jobs if not job.finished and job.void()]
  jobs = tuple(job for job in jobs if job not in left_out)
  if missing := [job.name for job in jobs if not job.finished]:
    print(_unfinished(arguments.shard, bool(own), missing, len(jobs)))
    return None
  cost.measure_all([job.folder for job in jobs], sizes)
  from dynashare_jax.report.compare import comparison
  from dynashare_jax.report.compare import raw

  found: dict[str, list[report_workdir.Run]] = {}
  for job in sorted(jobs, key=lambda job: entries.index(job.entry)):
    found.setdefault(job.entry.label, []).append(report_workdir.load(job.folder))
  lines = notes(entries, read_overrides(rest), jobs, left_out)
  told = raw.Told(_command(argv), lines, mixed, trials)
  return comparison.write(found, jobs[0].folder.parent, told)


def _unfinished(shard: str, own: bool, missing: Sequence[str], total: int) -> str:
  """What to say where other parts of a benchmark are not finished."""
  what = "is finished" if own else "has no runs"
  more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
  return (
    f"part {shard} {what}; no table yet, for {len(missing)} of {total} runs are not finished:"
    f" {', '.join(missing[:_SHOWN])}{more}. The part that ends last writes it, or the same command"
    " without --shard."
  )


def _command(argv: Sequence[str]) -> str:
  """The command line, without where runs train."""
  kept = [
    argument
    for before, argument in zip(["", *argv], argv, strict=False)
    if before not in _PLACES and argument.partition("=")[0] not in _PLACES
  ]
  return shlex.join(["python", "-m", "dynashare_jax", "benchmark", *kept])


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
  errors = (ValueError, OSError, RuntimeError)
  line = sys.argv[1:] if argv is None else argv
  if table := guard.run(lambda: run(line), "the same command goes on.", errors):
    guard.say(f"table: {table}")
