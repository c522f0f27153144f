"""Runs of a benchmark at once: order, devices, failures, signals."""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
import os
import pathlib
import signal
import threading
import time
from typing import Any

from cli import fake_main
import pytest
from tiny import forks

from dynashare_jax.cli import benchmark_jobs
from dynashare_jax.methods import _entries

Job = benchmark_jobs.Job
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def calls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_main.Program]:
  """A program that leaves what a finished run does."""
  program = fake_main.install(tmp_path / "program", monkeypatch)
  yield program
  program.end()


def make(root: pathlib.Path, **needs: tuple[str, ...]) -> list[Job]:
  """Runs of seed 0 by their labels, with the labels of what each needs."""
  jobs = []
  for label, names in needs.items():
    folder = root / f"{label}-0"
    arguments = (
      "--config.method=hard",
      "--config.seed=0",
      f"--workdir={folder}",
      *(f"--config.baseline={root / name}-0" for name in names),
    )
    entry = _entries.Entry(label, "hard")
    jobs.append(Job(entry, 0, folder, arguments, tuple(f"{name}-0" for name in names)))
  return jobs


def most_at_once(records: list[dict[str, Any]]) -> int:
  """Largest number of runs that overlap in time."""
  return max(
    sum(other["start"] <= record["start"] < other["end"] for other in records) for record in records
  )


CHAINS: dict[str, tuple[str, ...]] = {
  "s": (),
  "a": ("s",),
  "b": ("s",),
  "r": ("s", "a"),
  "t": (),
  "c": ("t",),
  "u": (),
  "v": (),
}


@pytest.mark.parametrize("most", (1, 2, 3))
def test_no_more_than_allowed_and_nothing_before_what_it_needs(
  calls: fake_main.Program, tmp_path: pathlib.Path, most: int
) -> None:
  calls.set({"*": {"seconds": 0.1}})
  jobs = make(tmp_path, **CHAINS)
  benchmark_jobs.train(jobs, ({},) * most)
  records = calls.records()
  assert most_at_once(records) <= most
  named = {record["name"]: record for record in records}
  assert set(named) == {job.name for job in jobs}
  for job in jobs:
    for name in job.needs:
      assert named[name]["end"] <= named[job.name]["start"]
    assert named[job.name].get("read", True)
    assert job.finished
  assert max(job.at_once for job in jobs) == most
  if most == 1:
    assert [r["name"] for r in records] == [job.name for job in jobs]


def test_a_waiting_run_does_not_hold_up_those_after_it(
  calls: fake_main.Program, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  calls.set({"s-0": {"after": "c-0"}})
  jobs = make(tmp_path, s=(), a=("s",), t=(), c=("t",))
  benchmark_jobs.train(jobs, ({},) * 2)
  found = calls.names()
  assert set(found[:2]) == {"s-0", "t-0"} and found[2:] == ["c-0", "a-0"]
  told = capsys.readouterr().out.splitlines()
  assert told[:2] == [
    f"[1/4] s-0: training, output in {tmp_path / 's-0' / 'benchmark.log'}",
    f"[2/4] t-0: training, output in {tmp_path / 't-0' / 'benchmark.log'}",
  ]
  assert "t-0: finished in" in told[2] and "c-0: training," in told[3]
  assert sorted(line.split(" in ")[0] for line in told[4:]) == [
    "[1/4] s-0: finished",
    "[3/4] c-0: finished",
    "[4/4] a-0: finished",
    "[4/4] a-0: training, output",
  ]


def test_every_run_has_devices_of_its_own(
  calls: fake_main.Program, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all of them")
  monkeypatch.setenv("OTHER", "kept")
  calls.set({"a-0": {"after": "d-0"}})
  shares = [{"CUDA_VISIBLE_DEVICES": name} for name in ("0,1", "2,3")]
  benchmark_jobs.train(make(tmp_path, a=(), b=(), c=(), d=()), shares)
  found = {r["name"]: r["environment"] for r in calls.records()}
  assert {name: values["CUDA_VISIBLE_DEVICES"] for name, values in found.items()} == {
    "a-0": "0,1",
    "b-0": "2,3",
    "c-0": "2,3",
    "d-0": "2,3",
  }
  assert all(values["OTHER"] == "kept" for values in found.values())
  own = {"FAKE_RECORDS": os.environ["FAKE_RECORDS"], "ONLY": "this"}
  benchmark_jobs.train(make(tmp_path, e=()), ({},), own)
  values = calls.records()[-1]["environment"]
  assert values["ONLY"] == "this" and "OTHER" not in values


def test_devices_take_turns(calls: fake_main.Program, tmp_path: pathlib.Path) -> None:
  shares = [{"CUDA_VISIBLE_DEVICES": name} for name in "01"]
  jobs = make(tmp_path, a=(), b=("a",), c=("b",), d=("c",))
  benchmark_jobs.train(jobs, shares)
  found = [r["environment"]["CUDA_VISIBLE_DEVICES"] for r in calls.records()]
  assert found == ["0", "1", "0", "1"]


def test_what_needs_a_failed_run_is_not_started(
  calls: fake_main.Program, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  calls.set({"s-0": {"code": 3}, "u-0": {"code": 4}, "t-0": {"seconds": 0.4}})
  jobs = make(tmp_path, **CHAINS)
  with pytest.raises(RuntimeError) as caught:
    benchmark_jobs.train(jobs, ({},) * 2)
  assert sorted(calls.names()) == ["c-0", "s-0", "t-0", "u-0", "v-0"]
  assert all("end" in record for record in calls.records())
  text = str(caught.value)
  first, second = text.index("s-0 failed with exit"), text.index("u-0 failed")
  assert first < text.index("error: s-0 is not finite") < second
  assert second < text.index("error: u-0 is not finite")
  assert text.endswith(
    "Not started, for they need a failed run: a-0, b-0, r-0.\n"
    "Finished runs stay; the same benchmark command goes on from here."
  )
  assert "failed with exit code 3\n" in capsys.readouterr().out
  calls.set({})
  calls.clear()
  benchmark_jobs.train(jobs, ({},) * 2)  # goes on from there
  assert sorted(calls.names()) == ["a-0", "b-0", "r-0", "s-0", "u-0"]


def test_a_run_that_cannot_start_is_a_failure_of_its_own(
  calls: fake_main.Program, tmp_path: pathlib.Path
) -> None:
  jobs = make(tmp_path, a=(), b=())
  jobs[0].folder.write_text("a file is in the way")
  with pytest.raises(RuntimeError, match="a-0 could not be started: .*a-0"):
    benchmark_jobs.train(jobs)
  assert calls.names() == ["b-0"]


def test_two_benchmarks_do_not_train_the_same_run(
  calls: fake_main.Program, tmp_path: pathlib.Path
) -> None:
  jobs = make(tmp_path, a=(), b=())
  jobs[0].folder.mkdir()
  with open(jobs[0].log, "a") as file:  # as the run of another benchmark
    file.write("of the other\n")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(RuntimeError) as caught:
      benchmark_jobs.train(jobs)
    assert jobs[0].log.read_text() == "of the other\n"
  assert "a-0 could not be started: another process is training it, and" in str(caught.value)
  assert calls.names() == ["b-0"]
  benchmark_jobs.train(jobs)
  assert jobs[0].log.read_text().startswith("line 0\n")


def soon(calls: fake_main.Program, runs: int, *numbers: int) -> None:
  """Sends signals to this process as soon as so many runs train."""

  def work() -> None:
    latest = time.monotonic() + 10
    while len(calls.names()) < runs and time.monotonic() < latest:
      time.sleep(0.02)
    for number in numbers:
      os.kill(os.getpid(), number)
      time.sleep(0.2)

  threading.Thread(target=work, daemon=True).start()


def stopped(calls: fake_main.Program, jobs: list[Job], *numbers: int) -> BaseException:
  """Trains two at once, sends signals; nothing may be left behind."""
  handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
  soon(calls, 2, *numbers)
  with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
    benchmark_jobs.train(jobs, ({},) * 2)
  assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
  pids = calls.pids()
  assert len(pids) >= 2
  latest = time.monotonic() + 5  # until init has seen the workers' end
  while any(map(fake_main.alive, pids)) and time.monotonic() < latest:
    time.sleep(0.02)
  assert not [pid for pid in pids if fake_main.alive(pid)]
  return caught.value


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_told_to_end_runs_save_and_go_on_later(
  calls: fake_main.Program,
  tmp_path: pathlib.Path,
  number: signal.Signals,
  capsys: pytest.CaptureFixture[str],
) -> None:
  calls.set({"*": {"seconds": 60, "saves": True, "worker": True}})
  jobs = make(tmp_path, a=(), b=(), c=())
  start = time.monotonic()
  found = stopped(calls, jobs, number)
  assert time.monotonic() - start < 10
  if number == signal.SIGTERM:
    assert isinstance(found, SystemExit) and found.code == 143
    assert "ended by SIGTERM: the same command" in capsys.readouterr().err
  else:
    assert isinstance(found, KeyboardInterrupt)
  assert sorted(calls.names()) == ["a-0", "b-0"]  # c did not start
  assert all((job.folder / "checkpoint").is_file() for job in jobs[:2])
  calls.set({})
  calls.clear()
  benchmark_jobs.train(jobs, ({},) * 2)
  assert all(job.finished for job in jobs)


def test_a_run_that_does_not_end_is_killed(
  calls: fake_main.Program, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(benchmark_jobs, "GRACE", 0.5)
  calls.set({"*": {"seconds": 60, "stubborn": True, "worker": True}})
  start = time.monotonic()
  stopped(calls, make(tmp_path, a=(), b=()), signal.SIGTERM)
  assert 0.5 < time.monotonic() - start < 8


def test_a_second_interruption_does_not_wait(
  calls: fake_main.Program, tmp_path: pathlib.Path
) -> None:
  calls.set({"*": {"seconds": 60, "stubborn": True}})
  start = time.monotonic()
  stopped(calls, make(tmp_path, a=(), b=()), signal.SIGINT, signal.SIGINT)
  assert time.monotonic() - start < 8  # of 20 s of grace


def test_an_error_of_the_benchmark_leaves_no_run(
  calls: fake_main.Program, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  calls.set({"*": {"seconds": 60}})

  def full(*unused: Any) -> None:
    raise OSError("No space left on device")

  monkeypatch.setattr(benchmark_jobs.workdir_lib, "write_json", full)
  with pytest.raises(OSError, match="No space"):
    benchmark_jobs.train(make(tmp_path, a=(), b=()), ({},) * 2)
  assert not [pid for pid in calls.pids() if fake_main.alive(pid)]


def test_what_a_crash_leaves_running_is_ended(
  calls: fake_main.Program, tmp_path: pathlib.Path
) -> None:
  calls.set({"a-0": {"code": 1, "worker": True}})
  jobs = make(tmp_path, a=())
  with pytest.raises(RuntimeError, match="exit code 1"):
    benchmark_jobs.train(jobs)
  calls.set({})
  latest = time.monotonic() + 5
  while any(map(fake_main.alive, calls.pids())) and time.monotonic() < latest:
    time.sleep(0.02)
  assert not [pid for pid in calls.pids() if fake_main.alive(pid)]
  benchmark_jobs.train(jobs)  # nobody holds its log


_DRIVER = """
import sys
from dynashare_jax.cli import benchmark, benchmark_jobs
from jax._src import xla_bridge
benchmark_jobs.PROGRAM = (sys.executable, "-I", "-S", sys.argv[1])
try:
  benchmark.cli(sys.argv[2:])
finally:
  print("backends:", xla_bridge.backends_are_initialized(), flush=True)
"""


def test_the_command_itself_is_ended_and_takes_no_device(
  calls: fake_main.Program, tmp_path: pathlib.Path
) -> None:
  """In a process of its own, as a scheduler ends it."""
  calls.set(
    {"single-0": {"seconds": 60, "saves": True}, "single-1": {"seconds": 60, "saves": True}}
  )
  process = forks.Fork(
    *("-c", _DRIVER, str(calls.script)),
    f"--config={ROOT / 'configs' / 'rooms.py'}",
    "--methods=single,hard",
    "--seeds=2",
    f"--workdir={tmp_path / 'runs'}",
    "--jobs=2",
  )
  try:
    latest = time.monotonic() + 120
    while len(calls.names()) < 2 and time.monotonic() < latest:
      time.sleep(0.05)
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=20)
  finally:
    process.kill()
    process.wait()
  assert process.returncode == 143
  assert "ending what trains (single-0, single-1), with 20 s for a" in told
  assert "ended by SIGTERM: the same command goes on." in told
  assert "backends: False" in told
  assert "Traceback" not in told
  assert not [pid for pid in calls.pids() if fake_main.alive(pid)]
  assert (tmp_path / "runs" / "single-1" / "checkpoint").is_file()
