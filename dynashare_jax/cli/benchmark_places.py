"""Where the runs of a benchmark train: devices of a machine, machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import glob
import re

from dynashare_jax.cli import benchmark_jobs
from dynashare_jax.cli import guard
from dynashare_jax.distributed import cluster

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_GPUS = "/dev/nvidia[0-9]*"
# By these a run would take itself for one process of several.
_SCHEDULED = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_SIZE")


def groups(jobs: Sequence[benchmark_jobs.Job]) -> tuple[tuple[benchmark_jobs.Job, ...], ...]:
  """Puts runs together that need each other, directly or through others.

  Args:
    jobs: what is needed stands before what needs it.

  Returns:
    Groups in the order of their first run; each keeps the order of `jobs`.
  """
  found: list[set[str]] = []
  for job in jobs:
    linked = [group for group in found if group.intersection(job.needs)]
    found = [group for group in found if group not in linked]
    found.append({job.name}.union(*linked))
  named = [tuple(job for job in jobs if job.name in group) for group in found]
  return tuple(sorted(named, key=lambda group: jobs.index(group[0])))


def read_part(text: str) -> tuple[int, int]:
  """Reads `--shard`: `i/n` is part i of n, from 1.

  Raises:
    ValueError: it is something else.
  """
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise ValueError(
      f"--shard must be i/n: part i of n, counted from 1 (1/4 to 4/4), but is {text!r}."
    )
  return int(match[1]), int(match[2])


def part(
  jobs: Sequence[benchmark_jobs.Job], place: int, parts: int
) -> tuple[benchmark_jobs.Job, ...]:
  """Returns the runs of one machine of several, `place` from 1, in the order of `jobs`.

  Runs that need each other stay together, so that no machine waits for another.
  The largest groups are dealt first, each to the part with the fewest runs.
  What is finished plays no role, so that all machines find the same parts.
  """
  loads = [0] * parts
  own: set[str] = set()
  for group in sorted(groups(jobs), key=len, reverse=True):
    target = loads.index(min(loads))
    loads[target] += len(group)
    if target == place - 1:
      own.update(job.name for job in group)
  return tuple(job for job in jobs if job.name in own)


def environment(sharded: bool, outer: Mapping[str, str]) -> dict[str, str]:
  """Returns the variables of the runs, each of which trains in one process.

  Args:
    sharded: whether `--shard` says what this process trains.
    outer: variables of this process.

  Raises:
    ValueError: the environment says that this is one of several processes, so
      that each would train all runs, or wait for the others in every run.
  """
  own = {name: text for name, text in outer.items() if not (sharded and name in _SCHEDULED)}
  if not cluster.found_several(own):
    return own
  if sharded:
    raise ValueError(
      "The environment says that this is one of several processes of one program, so that every"
      " run would wait for the others. Start the benchmark outside of it."
    )
  raise ValueError(
    "The environment says that this is one of several processes, but no --shard says which runs"
    " are its own. Add --shard=i/n in process i of n (from 1), or --shard=1/1 if this is the only"
    " benchmark. A run in several processes is started with dynashare_jax.main, in the folder that"
    " the benchmark would use; the benchmark then reuses it."
  )


def shares(
  jobs: int, devices: str, outer: Mapping[str, str], gpus: str = _GPUS
) -> tuple[dict[str, str], ...]:
  """Deals the GPUs of this machine to the runs that train at once.

  Args:
    jobs: how many train at once.
    devices: of `--devices`: names with commas as in `CUDA_VISIBLE_DEVICES`,
      whose value is the default; a name twice is a GPU for two runs.
    outer: variables of this process.
    gpus: pattern of the files that there are where there are GPUs.

  Returns:
    Variables to set for each of the runs, none where there is nothing to deal.

  Raises:
    ValueError: fewer GPUs than runs, a GPU twice for one run, one that this
      process may not use; or the GPUs are not named, but there are some.
  """
  if jobs < 1:
    raise ValueError(f"--jobs must be at least 1, but is {jobs}.")
  visible = guard.names(outer.get(_VISIBLE, ""))
  nothing: tuple[dict[str, str], ...] = ({},) * jobs
  if devices:
    return _deal(jobs, _seen(guard.names(devices), visible), "--devices")
  if jobs == 1 or outer.get("JAX_PLATFORMS") == "cpu":
    return nothing
  if _VISIBLE in outer:
    names = [name for name in visible if name != "-1"]
    return _deal(jobs, names, _VISIBLE) if names else nothing
  if glob.glob(gpus):
    raise ValueError(
      f"--jobs={jobs} on a machine with GPUs: say which ones to deal to the"
      " runs, as in --devices=0,1, or set JAX_PLATFORMS=cpu to train without."
    )
  return nothing


def _seen(names: list[str], visible: Sequence[str]) -> list[str]:
  """Names of GPUs, all of which this process may use."""
  if hidden := [name for name in names if visible and name not in visible]:
    raise ValueError(
      f"--devices names {', '.join(hidden)}, but {_VISIBLE} leaves {','.join(visible)} only."
    )
  return names


def _deal(jobs: int, names: Sequence[str], source: str) -> tuple[dict[str, str], ...]:
  """Equally many GPUs for each run, neighbours together."""
  each = len(names) // jobs
  if not each:
    raise ValueError(
      f"--jobs={jobs} needs a GPU for each run, but {source} has {len(names)}:"
      f" {','.join(names)}. A GPU that --devices names twice serves two runs;"
      " XLA_PYTHON_CLIENT_MEM_FRACTION=0.4 then leaves each its memory."
    )
  dealt = [names[k * each : (k + 1) * each] for k in range(jobs)]
  for own in dealt:
    if len(set(own)) < each:
      raise ValueError(
        f"{source} gives one run the same GPU twice: {','.join(own)}. Name {jobs} times as many"
        " GPUs as a run should have, those of a run together."
      )
  return tuple({_VISIBLE: ",".join(own)} for own in dealt)
