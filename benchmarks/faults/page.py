"""The page of benchmarks/faults/run.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import os
import pathlib

from benchmarks import timing
from benchmarks.faults import group as groups
from benchmarks.faults import tally as tallies


def page(
  command: str, tally: tallies.Tally, seconds: tuple[float, float, float], minutes: float
) -> str:
  """The page in Markdown.

  Args:
    command: arguments of the program.
    tally: what was found.
    seconds: of the uninterrupted run: until its processes met, to its first
      step, and in all.
    minutes: that all of it took.
  """
  runs = {r: [x for x in tally.runs if x.elastic == r] for r in (False, True)}
  kills = [r for r in tally.records if r.kind in tallies.KILLS]
  moves = tally.elastic
  hits = Counter(r.process for r in kills if r.kind == "kill -9")
  apart = [run.apart for run in runs[True]]
  text = f"""# Faults survived

- Command: `python -m benchmarks.faults.run {command}`; it took {minutes:.0f}
  minutes.
{timing.machine(len(os.sched_getaffinity(0)), ("jax", "orbax-checkpoint"))}
- A tiny run of all phases ({groups.STEPS} steps, a checkpoint every third) in
  two processes with a CPU device each, on the loopback of this machine:
  {seconds[0]:.1f} s until they met, {seconds[1]:.1f} s to the first step,
  {seconds[2]:.1f} s in all.

## In short

| asked | found |
| --- | --- |
| faults that a run survived | {sum(not r.problem for r in kills)} of {len(kills)} |
| runs that ended bit-identical to an uninterrupted one | {_good(runs[False])} of {
    len(runs[False])
  } |
| restarts with other processes and devices, from the step that was saved | {
    sum(not r.problem for r in moves)
  } of {len(moves)} |
| of these runs, metrics within 1e-5, the same routes and choice | {_good(runs[True])} of {
    len(runs[True])
  }{f" (at most {max(apart):.1e} apart)" if apart else ""} |
| starts with a process that hung (over {groups.LIMIT:.0f} s, after SIGTERM {
    groups.GRACE:.0f} s) | {sum(r.hung for r in kills + moves)} |
| ends that nobody asked for | {len(tally.unasked)} |

Bit-identical: every metric line, `policy.json`, `results.json` (times left
out) and every number of the last checkpoint.

## Faults

{_table(kills)}

Seconds are from the fault until the last process had ended, with one clear line
as its last. "meeting": the others wait for a process that died before they met
until their time is up ({groups.MEETING} s here, 60 s by default); all other
ends come within {groups.LIMIT:.0f} s; after SIGTERM, which waits for a
checkpoint, {groups.GRACE:.0f} s are allowed. A disk is filled, up to some kB,
while the run goes on; it fails with its next write. `kill -9` hit process 0,
which the others depend on, {hits[0]} times, the other one {hits[1]} times.

{_damage(tally.records)}

## Other processes and devices

{_moves(moves)}

A run is stopped by `kill -9` or SIGTERM to one process and goes on with another
number of processes and devices each.
"""
  problems = [r.problem for r in tally.records + moves if r.problem]
  problems += [r.problem for r in tally.runs if r.problem] + tally.unasked
  if problems:
    text += (
      "\n## What went wrong\n\n"
      + "\n".join(f"- {' '.join(problem.split())}" for problem in problems)
      + "\n"
    )
  return text


GOODPUT = "## Goodput"  # what stands below it is of benchmarks/faults/goodput.py


def with_goodput(file: pathlib.Path, section: str = "", above: str = "") -> str:
  """The text of a page whose last section is another one.

  Args:
    file: the page as it is.
    section: below the heading `GOODPUT`; default what is there.
    above: all above it; default what is there.
  """
  text = file.read_text(encoding="utf-8") if file.is_file() else ""
  now, found, below = text.partition(f"\n{GOODPUT}\n")
  above = above or now
  if not (section or found):
    return above
  return f"{above.rstrip()}\n\n{GOODPUT}\n\n{(section or below).strip()}\n"


def _good(runs: Sequence[tallies.Finished]) -> int:
  return sum(not run.problem for run in runs)


def _table(kills: Sequence[tallies.Record]) -> str:
  """A row a kind of fault: how many, where they hit, how fast all ended."""
  rows = []
  for kind in tallies.KILLS:
    for early in (False, True):
      found = [r for r in kills if r.kind == kind and (r.phase == "meeting") == early]
      if not found:
        continue
      where = Counter(r.phase for r in found)
      seconds = sorted(r.seconds for r in found)
      rows.append(
        [
          kind + (", meeting" if early else ""),
          str(len(found)),
          str(sum(not r.problem for r in found)),
          f"{seconds[len(seconds) // 2]:.1f}",
          f"{seconds[-1]:.1f}",
          *[str(where.get(phase, "")) for phase in groups.PHASES],
        ]
      )
  return timing.table(["fault", "hit", "survived", "median s", "slowest s", *groups.PHASES], rows)


def _damage(records: Sequence[tallies.Record]) -> str:
  """How many checkpoints were damaged between two starts."""
  counts = Counter(r.kind for r in records if r.kind in tallies.DAMAGE)
  told = ", ".join(f"{kind}: {count}" for kind, count in counts.items())
  return (
    "Between two starts the newest checkpoint was damaged, if there was"
    f" another one ({told or 'none'}).\nThe run goes on from the one"
    " before, or from the damaged one where the bit meant nothing."
  )


def _moves(moves: Sequence[tallies.Record]) -> str:
  """A row a layout that was started from a checkpoint."""
  rows = []
  for kind in sorted({r.kind for r in moves}):
    found = [r for r in moves if r.kind == kind]
    rows.append(
      [
        kind,
        str(len(found)),
        str(sum(not r.problem for r in found)),
        f"{max(r.seconds for r in found):.1f}",
      ]
    )
  return timing.table(
    ["processes x devices of each", "started from a checkpoint", "went on", "slowest end, s"], rows
  )
