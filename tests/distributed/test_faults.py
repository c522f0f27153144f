"""Processes of one run that fail: who says what, and that the run goes on.

Every kind of fault, at random moments: benchmarks/faults/run.py.
"""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import threading
import time

from absl import logging
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.cli import guard as command
from dynashare_jax.distributed import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = ROOT / "tests" / "tiny" / "process.py"
HARD = {
  "method": "hard",
  "train__steps": 26,
  **configs.SAVES,
}  # one phase, so one program to compile
LOST = "error: lost contact with the other processes of this run"

# What is checked before the first step; then process 1 fails.
_CHECKS = """
import pathlib, sys, tempfile, time
number, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
import jax
jax.config.update("jax_num_cpu_devices", 1)
from dynashare_jax.cli import guard as command
from dynashare_jax.distributed import cluster

def check(what, *arguments):
  try:
    what(*arguments)
    print("fine", flush=True)
  except ValueError as error:
    print(error, flush=True)

def unusable():
  raise ValueError("no room here")

def work():
  cluster.join(cluster.Place(f"localhost:{port}", 2, number), 60)
  cluster.SEEN_WITHIN = 0.5
  check(cluster.check_equal, {"code": cluster.code()})
  check(cluster.check_equal, {"code": f"changed {number}"})
  check(cluster.check_shared, folder, folder.mkdir)
  check(cluster.check_shared, folder / str(number), (folder / "0").mkdir)
  if number:
    cluster._can_write = lambda _: False
  check(cluster.check_shared, folder)
  check(cluster.check_shared, folder, unusable)
  if number:
    raise RuntimeError("only here")
  cluster.check_equal({})

command.run(work, "the same command goes on")
"""


class Processes:
  """Two processes; they are killed at the end, if they live."""

  def __init__(self, tmp_path):
    self._logs = tmp_path / "logs"
    self._logs.mkdir()
    self._count = 0
    self._all = []

  def start(self, *commands, **environments):
    """Starts each; `environments` has variables of process `p0` or `p1`."""
    found = []
    for number, arguments in enumerate(commands):
      self._count += 1
      log = self._logs / f"{self._count}.txt"
      with open(log, "wb") as file:
        # A pipe between them: the file of a process without room would have none either.
        sink = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        found.append(
          forks.Fork(
            *arguments,
            stdout=sink.stdin,
            **{"TINY_PAUSE": "0.1", "TINY_CONFIG": json.dumps(HARD)}
            | environments.get(f"p{number}", {}),
          )
        )
      sink.stdin.close()
      found[-1].log, found[-1].sink = log, sink
    self._all += found
    return found

  def tiny(self, folder, **environments):
    """Starts the tiny run in two processes."""
    port = str(_port())
    return self.start(
      *[[str(PROCESS), str(folder), port, "2", str(number)] for number in range(2)], **environments
    )

  def end(self, processes, since, within=15):
    """Statuses and texts, all within 15 seconds of a fault."""
    for process in processes:
      process.wait(max(since + within - time.monotonic(), 0.1))
      process.sink.wait(5)
    return ([p.returncode for p in processes], [p.log.read_text() for p in processes])

  def kill(self):
    for process in self._all:
      process.kill()
      process.wait()
      process.sink.wait()


@pytest.fixture
def processes(tmp_path):
  found = Processes(tmp_path)
  yield found
  found.kill()


def _port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def _until(what, processes, seconds=240):
  until = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < until
    for process in processes:
      assert process.poll() is None, process.log.read_text()
    time.sleep(0.01)
  return time.monotonic()


def _saved(folder):
  return {int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()}


def test_checks_before_the_first_step(processes, tmp_path):
  """Each error comes from both; then one fails alone, with its traceback."""
  port = str(_port())
  both = processes.start(
    *[["-c", _CHECKS, str(number), port, str(tmp_path / "run")] for number in range(2)]
  )
  _until(lambda: any(p.poll() is not None for p in both), [])
  codes, texts = processes.end(both, time.monotonic())
  assert codes == [1, 1], texts
  host = socket.gethostname()[:64]
  for number, text in enumerate(texts):
    folder = tmp_path / "run"
    assert [line for line in text.splitlines() if not line.startswith("[Gloo]")][:6] == [
      "fine",
      "The processes of this run differ in their code (those of equal number"
      " agree: [0, 1]). Start all with the same command and code.",
      "fine",
      f"The work directory {folder / str(number)} does not serve all"
      f" processes: process 1 on {host} does not see what process 0 wrote"
      " there (is it on a file system that all hosts share?). Choose another"
      " --workdir.",
      f"The work directory {folder} does not serve all processes: process 1"
      f" on {host} cannot write there. Choose another --workdir.",
      "no room here"
      if number == 0
      else f"Process 0 cannot use the work directory {folder}; its log says why.",
    ]
  last = texts[0].splitlines()[-1]
  assert last.startswith(LOST) and "The same command goes on" in last
  assert texts[1].endswith("RuntimeError: only here\n")
  assert list((tmp_path / "run").glob(".*")) == []


def test_unequal_numbers_of_devices(processes, tmp_path):
  both = processes.tiny(tmp_path / "run", p0={"TINY_DEVICES": "1"}, p1={"TINY_DEVICES": "2"})
  _until(lambda: any(p.poll() is not None for p in both), [])
  codes, texts = processes.end(both, time.monotonic())
  assert codes == [2, 2], texts
  for text in texts:
    assert text.endswith(
      "error: The processes of this run differ in their number of devices"
      " (1, 2). Start all with equally many.\n"
    )
  assert not (tmp_path / "run").exists()


def test_faults_one_after_another(processes, train, whole, tmp_path, monkeypatch):
  """SIGTERM to one, the coordinator killed, a full disk, a flipped bit.

  At last one process with one device ends the run.
  """
  folder = tmp_path / "run"
  both = processes.tiny(folder)
  _until(lambda: _saved(folder), both)
  both[1].send_signal(signal.SIGTERM)
  codes, texts = processes.end(both, time.monotonic())
  assert codes == [143, 143], texts
  lines = {text.splitlines()[-1] for text in texts}
  assert len(lines) == 1, lines  # They stopped at the same step.
  step = max(_saved(folder))
  assert lines.pop().startswith(
    f"ended by SIGTERM: told to end after step {step} of 26; a checkpoint of"
    " it is written. The same command goes on"
  )

  both = processes.tiny(folder)
  _until(lambda: max(_saved(folder)) > step, both)
  both[0].kill()
  codes, texts = processes.end(both, time.monotonic())
  assert codes == [-signal.SIGKILL, 1], texts
  assert f"\nfrom step {step}\n" in texts[1]
  assert texts[1].splitlines()[-1].startswith(LOST)

  step = max(_saved(folder))
  room = (folder / "metrics.jsonl").stat().st_size + 300
  both = processes.tiny(folder, p0={"TINY_ROOM": str(room)})
  _until(lambda: any(p.poll() is not None for p in both), [])
  codes, texts = processes.end(both, time.monotonic())
  assert codes == [1, 1], texts
  assert texts[0].splitlines()[-1].startswith("error: the disk is full (")
  assert texts[1].splitlines()[-1].startswith(LOST)
  assert max(_saved(folder)) >= step

  newest, before = sorted(_saved(folder), reverse=True)[:2]
  data = max(
    (folder / "checkpoints" / str(newest) / "state").rglob("d/*"),
    key=lambda path: path.stat().st_size,
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 16
  data.write_bytes(content)
  warned = []
  monkeypatch.setattr(logging, "warning", lambda *args: warned.append(args))
  want, starts = whole(**HARD), []
  got = train(folder, before_chunk=lambda loop, step: starts.append(step), **HARD)
  assert starts[0] == before and any("damaged" in w[0] for w in warned)
  assert [line["step"] for line in got.lines] == [line["step"] for line in want.lines]
  np.testing.assert_allclose(got.losses, want.losses, 1e-5, 1e-5)
  assert got.found["chosen"] == want.found["chosen"]
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as found:
    assert found.latest_step() == 26


def test_a_full_disk_in_one_process(capsys):
  def work():
    try:
      raise OSError(28, "No space left on device", "metrics.jsonl")
    except OSError as error:
      raise OSError("Could not write the checkpoint of step 4") from error

  with pytest.raises(SystemExit) as ended:
    command.run(work, "the same command goes on from the last checkpoint")
  assert ended.value.code == 1
  assert capsys.readouterr().err == (
    "error: the disk is full (No space left on device): Could not write the"
    " checkpoint of step 4. Make room; what was saved is not lost. The same"
    " command goes on from the last checkpoint.\n"
  )


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_in_a_thread(logged, monkeypatch):
  """The main thread may wait for it for ever; Orbax logs, others raise."""
  ended, over = [], threading.Event()

  def drop(text, status):
    ended.append(text)
    over.set()

  monkeypatch.setattr(cluster, "end", drop)
  monkeypatch.setattr(command, "STUCK", 0.01)

  def write():
    try:
      raise OSError(28, "No space left on device")
    except OSError:
      if not logged:
        raise
      logging.error("Failed in background save thread", exc_info=True)

  def work():
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert over.wait(10)

  command.run(work, "the same command goes on")
  assert ended == [
    "error: the disk is full (No space left on device): [Errno 28] No space"
    " left on device. Make room; what was saved is not lost. The same command"
    " goes on."
  ]


def test_lost_processes_are_only_those_of_several():
  error = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed")
  assert not cluster.is_lost(error)
