"""Tiny runs that are hit by faults until they finish: one lane of them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from typing import Any

from benchmarks.faults import group as groups
from benchmarks.faults import result as results
from benchmarks.faults.tally import DAMAGE
from benchmarks.faults.tally import Finished
from benchmarks.faults.tally import KILLS
from benchmarks.faults.tally import Record
from benchmarks.faults.tally import Tally

DAMAGED = 0.25  # how often one of them comes before a start
PER_RUN = 8  # kills before a run may finish
LAYOUTS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 1), (2, 2), (4, 1))
DISK = 64 * 2**20  # bytes of the file system of a lane, where there is one
EARLY = 0.08  # of all faults come before the processes have met
PAUSE = "0.12"  # seconds a look


class Lane:
  """Runs one after another, in a folder of their own."""

  def __init__(
    self,
    folder: pathlib.Path,
    seed: int,
    tally: Tally,
    wanted: results.Result,
    seconds: tuple[float, float, float],
  ) -> None:
    """Prepares.

    Args:
      folder: for the runs.
      seed: of all choices.
      tally: of all lanes.
      wanted: what the uninterrupted run found.
      seconds: of the uninterrupted run: until its processes met, until the
        first step, and in all.
    """
    self._folder = folder
    self._random = random.Random(seed)
    self._tally = tally
    self._wanted = wanted
    self._seconds = seconds
    self._mounted = False

  def __enter__(self) -> Lane:
    """Mounts a small file system, to be filled, where that is allowed."""
    self._folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
      self._mounted = (
        subprocess.run(
          ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self._folder)],
          capture_output=True,
          check=False,
        ).returncode
        == 0
      )
    return self

  def __exit__(self, *unused: object) -> None:
    if self._mounted:
      subprocess.run(["umount", str(self._folder)], check=False)

  def go_on(self) -> None:
    """Works until the tally has enough."""
    while not self._tally.enough(False):
      self._kill_a_run()
    while not self._tally.enough(True):
      self._move_a_run()

  def _fresh(self) -> tuple[int, pathlib.Path]:
    """A number and an empty folder for a new run."""
    number = self._tally.next_run()
    for path in self._folder.iterdir():
      shutil.rmtree(path)
    return number, self._folder / f"run-{number}"

  def _start(
    self,
    run: pathlib.Path,
    count: int = 2,
    devices: int = 1,
    own: dict[int, dict[str, str]] | None = None,
  ) -> groups.Group:
    # Not on the disk that is filled: the last lines must be seen.
    return groups.Group(
      run,
      self._folder.parent / f"{run.name}.logs",
      count,
      {"TINY_PAUSE": PAUSE, "TINY_DEVICES": str(devices)},
      own,
    )

  def _moment(self, saved: list[int]) -> float:
    """Seconds from a start to a fault.

    Uniform over what is left of the run after the processes have met; before
    they have, now and then: the others wait for long.
    """
    met, first, whole = self._seconds
    if self._random.random() < EARLY:
      return self._random.uniform(0, met)
    left = 1 - (saved[0] if saved else 0) / groups.STEPS
    return self._random.uniform(met, first + (whole - first) * left)

  def _kill_a_run(self) -> None:
    """One run with two processes, hit again and again; then compared."""
    number, run = self._fresh()
    hits = starts = 0
    damaged: set[int] = set()
    while True:
      self._damage(run, number, damaged)
      last = hits >= PER_RUN or self._tally.enough(False)
      starts += 1
      record = self._attempt(run, number, damaged, None if last else self._kind())
      if record is None and (run / "report.md").is_file():
        break
      if record is not None:
        hits += 1
      if starts > 5 * PER_RUN:
        self._tally.unasked.append(f"run {number} never finished")
        return
    self._compare(run, starts, elastic=False)

  def _kind(self) -> str:
    return self._random.choices(list(KILLS), list(KILLS.values()))[0]

  def _attempt(
    self, run: pathlib.Path, number: int, damaged: set[int], kind: str | None
  ) -> Record | None:
    """A start with a fault, or without; what the fault did, if it hit."""
    saved = groups.saved_steps(run)
    who = self._random.randrange(2)
    own = {}
    if kind == "exception in one":
      least = min((saved or [0])[0] + 1, groups.STEPS)
      step = self._random.randint(least, groups.STEPS)
      own = {who: {"TINY_RAISE": str(step)}}
    full = kind == "disk full" and not self._mounted
    if full:
      own = {who: {"TINY_ROOM": str(self._random.randint(500, 12000))}}
    with self._start(run, own=own) as group:
      waits = kind is None or full or kind == "exception in one"
      moment = 10.0**6 if waits else self._moment(saved)
      in_save = kind == "kill -9" and self._random.random() < 0.3
      while group.living == [0, 1] and not group.faulty:
        passed = time.monotonic() - group.began
        if passed > moment and (not in_save or group.phase == "saving" or passed > moment + 2):
          break
        if passed > 240:
          self._tally.unasked.append(f"run {number} took more than 4 minutes")
          break
        time.sleep(0.01)
      phase = group.phase
      since = time.monotonic()
      if len(group.living) == 2 and not waits:
        self._hit(group, kind or "", who)
      ends = group.ends(since, self._limit(kind or "", phase))
      self._clean(run)
      record = self._judge(group, run, number, kind, who, phase, ends)
      self._check_begin(group, saved, damaged, record)
    return record

  def _limit(self, kind: str, phase: str) -> float:
    """Seconds in which all processes end after a fault."""
    if phase == "meeting":  # One that still starts looks for the others later.
      return groups.MEETING + 5 + self._seconds[1]
    return groups.GRACE if kind.startswith("SIGTERM") else groups.LIMIT

  def _hit(self, group: groups.Group, kind: str, who: int) -> None:
    """Lets a fault happen, now."""
    if kind == "kill -9":
      group.kill(who)
    elif kind == "SIGTERM to one":
      group.kill(who, signal.SIGTERM)
    elif kind == "SIGTERM to all":
      for number in range(len(group.processes)):
        group.kill(number, signal.SIGTERM)
    elif kind == "disk full":
      disk = os.statvfs(self._folder)
      room = self._random.choice([0, 4, 16, 32]) * 1024
      with contextlib.suppress(OSError):
        (self._folder / "filler").write_bytes(bytes(max(disk.f_bavail * disk.f_frsize - room, 0)))

  def _clean(self, run: pathlib.Path) -> None:
    """Makes room again."""
    (self._folder / "filler").unlink(missing_ok=True)

  def _judge(
    self,
    group: groups.Group,
    run: pathlib.Path,
    number: int,
    kind: str | None,
    who: int,
    phase: str,
    ends: list[groups.End],
  ) -> Record | None:
    """What an end means; None when nothing was hit."""
    if all(end.status == 0 for end in ends):
      return None
    hung = any(end.hung for end in ends)
    problem = ""
    if hung or not all(end.clear for end in ends):
      problem = f"{kind} while {phase}: {groups.describe(ends)}"
      _keep(run, group, problem)
    elif kind is None:
      problem = f"ended unasked: {groups.describe(ends)}"
      self._tally.unasked.append(problem)
      _keep(run, group, problem)
    seconds = max(end.seconds for end in ends)
    every = kind in ("SIGTERM to all",)
    record = Record(kind or "none", -1 if every else who, phase, seconds, hung, problem, number)
    if kind is not None:
      with self._tally.lock:
        self._tally.records.append(record)
      _tell(len(self._tally.records), record)
    return record

  def _check_begin(
    self, group: groups.Group, saved: list[int], damaged: set[int], record: Record | None
  ) -> None:
    """A start goes on from the newest whole checkpoint."""
    begin = group.began_at
    whole = [step for step in saved if step not in damaged]
    if begin is None or begin in saved[:1] or begin == (whole or [0])[0]:
      return
    problem = f"went on from step {begin}, but {saved} were saved"
    self._tally.unasked.append(problem)
    if record is not None:
      record.problem += problem

  def _damage(self, run: pathlib.Path, number: int, damaged: set[int]) -> None:
    """Damages the newest checkpoint now and then, if there is another one."""
    saved = groups.saved_steps(run)
    damaged.intersection_update(saved)
    if len(saved) < 2 or damaged or self._random.random() > DAMAGED:
      return
    kind = self._random.choice(DAMAGE)
    files = sorted(
      p
      for p in (run / "checkpoints" / str(saved[0])).rglob("*")
      if p.is_file() and p.stat().st_size
    )
    if kind == "flipped bit":
      file = self._random.choice(files)
      content = bytearray(file.read_bytes())
      content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
      file.write_bytes(content)
    else:
      for file in self._random.sample(files, (len(files) + 1) // 2):
        file.unlink()
    damaged.add(saved[0])
    with self._tally.lock:
      self._tally.records.append(Record(kind, -1, "between starts", 0.0, False, "", number))

  def _move_a_run(self) -> None:
    """One run that goes on with other processes and devices every time."""
    number, run = self._fresh()
    starts, before = 0, (0, 0)
    while True:
      layout = self._random.choice([x for x in LAYOUTS if x != before])
      before, starts = layout, starts + 1
      saved = groups.saved_steps(run)
      last = self._tally.enough(True) or starts > 6
      with self._start(run, *layout) as group:
        steps = self._random.uniform(1, 9)
        while len(group.living) == layout[0]:
          now = groups.saved_steps(run)
          if not last and now and now[0] >= (saved or [0])[0] + steps:
            break
          time.sleep(0.01)
          if time.monotonic() - group.began > 240:
            break
        phase = group.phase
        since = time.monotonic()
        kind = self._random.choice(["kill -9", "SIGTERM to one"])
        if len(group.living) == layout[0]:
          self._hit(group, kind, self._random.randrange(layout[0]))
        ends = group.ends(since, self._limit(kind, phase))
        clear = all(end.clear for end in ends)
        problem = "" if clear else groups.describe(ends)
        if saved and group.began_at != saved[0]:
          problem += f" from step {group.began_at}, but {saved} were saved"
        if problem:
          _keep(run, group, problem)
        if saved:
          with self._tally.lock:
            self._tally.elastic.append(
              Record(
                f"{layout[0]} x {layout[1]}",
                -1,
                phase,
                max(end.seconds for end in ends),
                any(end.hung for end in ends),
                problem,
                number,
              )
            )
          _tell(len(self._tally.elastic), self._tally.elastic[-1])
        if all(end.status == 0 for end in ends):
          break
      if starts > 20:
        self._tally.unasked.append(f"run {number} never finished")
        return
    self._compare(run, starts, elastic=True)

  def _compare(self, run: pathlib.Path, starts: int, elastic: bool) -> None:
    with self._tally.lock:
      try:
        found = results.read(run)
        apart = results.furthest(found, self._wanted)
        problem = "" if elastic else results.same(found, self._wanted)
        if elastic and not apart <= 1e-5:
          problem = f"metrics are {apart:.1e} apart"
      except Exception as error:  # It is told on the page.
        apart, problem = float("inf"), f"{type(error).__name__}: {error}"
      self._tally.runs.append(Finished(elastic, starts, apart, problem))
    if problem:
      shutil.copytree(run, _kept(run), dirs_exist_ok=True)
    print(f"{run.name}: {starts} starts; {problem or 'as uninterrupted'}", flush=True)


def _kept(run: pathlib.Path) -> pathlib.Path:
  """Where what went wrong is kept, to be looked at."""
  return run.parents[1] / "kept" / run.name


def _keep(run: pathlib.Path, group: groups.Group, problem: str) -> None:
  kept = _kept(run).with_suffix(".logs")
  kept.mkdir(parents=True, exist_ok=True)
  texts = [f"== {n}\n{group.text(n)}" for n in range(len(group.processes))]
  with open(kept / "problems.txt", "a", encoding="utf-8") as file:
    file.write("\n".join([problem, *texts]) + "\n")


def _tell(count: int, record: Any) -> None:
  print(
    f"{count} [run {record.run}] {record.kind} {record.process}"
    f" {record.phase} {record.seconds:.1f} s {record.problem}",
    flush=True,
  )
