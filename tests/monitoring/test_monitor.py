"""Tests of what a look says of times, with a clock that is moved by hand."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import socket
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
from tiny import forks

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.monitoring import monitor as monitor_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Clock:
  """Seconds that pass when a test says so."""

  def __init__(self) -> None:
    self.now = 100.0

  def __call__(self) -> float:
    return self.now


class Result:
  """A dispatch that takes some seconds to wait for."""

  def __init__(self, clock: Clock, seconds: float = 0.0, idle: bool = True):
    self.clock, self.seconds, self.idle, self.waited = clock, seconds, idle, 0

  def is_ready(self) -> bool:
    return self.idle

  def block_until_ready(self) -> None:
    self.clock.now += self.seconds
    self.waited += 1


class Hand:
  """A loop whose times are told."""

  def __init__(self, folder: pathlib.Path, mesh: Any = None, **more: Any):
    self.clock = Clock()
    self.monitor = monitor_lib.Monitor(
      mesh or mesh_lib.make_mesh(jax.devices()[:1]), folder, clock=self.clock, **more
    )

  def look(
    self,
    steps: int,
    input_: float,
    host: float,
    device: float,
    end: float = 0.0,
    idle: bool = True,
    size: int = 1,
  ) -> dict[str, float]:
    """Seconds of every dispatch, and of the wait at the end of the look."""
    parts: list[dict[str, Result]] = []
    for _ in range(0, steps, size):
      with self.monitor.input():
        self.clock.now += input_
      self.clock.now += host
      parts.append({"loss/total": Result(self.clock, device, idle)})
      self.monitor.dispatched(parts, size)
    with self.monitor.device():
      self.clock.now += end
    self.clock.now += 7.0  # What the loop does before it looks.
    found = self.monitor.look(steps)
    self.clock.now += 11.0  # An evaluation.
    return found


def test_a_look_by_hand(tmp_path):
  """The first dispatch compiles for 20 s and is not counted."""
  hand = Hand(tmp_path)
  hand.monitor.begin("warmup", 0, 9)
  parts = []
  for place, seconds in enumerate([(1.0, 20.0), (0.012, 0.003), (0.010, 0.005), (0.020, 0.001)]):
    with hand.monitor.input():
      hand.clock.now += seconds[0]
    hand.clock.now += seconds[1]
    # Idle when the third and the fourth batch come, not at the second.
    parts.append({"x": Result(hand.clock, (3.0, 0.1, 0.2, 0.4)[place], place != 0)})
    hand.monitor.dispatched(parts, 1)
  assert [part["x"].waited for part in parts] == [2, 1, 0, 0]
  with hand.monitor.device():
    hand.clock.now += 0.03
  found = hand.monitor.look(4)
  # Waits: for the first again and the second (3.1 s), and 0.03 s at the end.
  assert found["time/input_wait"] == pytest.approx(0.042 / 3)
  assert found["time/host"] == pytest.approx(0.009 / 3)
  assert found["time/device_wait"] == pytest.approx(3.13 / 3)
  assert found["time/step"] == pytest.approx(3.181 / 3)
  assert found["time/starved"] == pytest.approx(2 / 3)
  assert "time/skew" not in found and "time/slowest_process" not in found


def test_at_most_two_dispatches_are_under_way(tmp_path):
  hand = Hand(tmp_path)
  parts: list[dict[str, Result]] = []
  for count in range(1, 8):
    parts.append({"x": Result(hand.clock)})
    hand.monitor.dispatched(parts, 1)
    waited = [part["x"].waited > 0 for part in parts]
    assert waited == [place == 0 or place < count - 2 for place in range(count)]


def test_what_lies_between_looks_is_not_counted(tmp_path):
  hand = Hand(tmp_path)
  hand.monitor.begin("warmup", 0, 100)
  hand.look(3, 0.01, 0.02, 0.0)
  found = hand.look(3, 0.01, 0.02, 0.0, end=0.3)
  assert found["time/step"] == pytest.approx(0.13)
  assert found["time/device_wait"] == pytest.approx(0.1)


def test_every_phase_leaves_its_first_dispatch_out(tmp_path):
  hand = Hand(tmp_path)
  for step, title in enumerate(["weights 0", "policy 0", "weights 1"]):
    hand.monitor.begin(title, step, 1)
    found = hand.look(1, 5.0, 5.0, 5.0)
    assert not [name for name in found if name.startswith("time/")]
    assert found["memory/host_peak_gb"] > 0.05
  hand.monitor.begin("weights 1", 3, 4)  # goes on
  assert hand.look(1, 0.5, 0.25, 0.0)["time/step"] == pytest.approx(0.75)


def test_dispatches_of_several_steps(tmp_path):
  hand = Hand(tmp_path)
  hand.monitor.begin("warmup", 0, 100)
  found = hand.look(12, 0.04, 0.08, 0.0, end=0.4, size=4)  # 4 not timed
  assert found["time/input_wait"] == pytest.approx(0.01)
  assert found["time/host"] == pytest.approx(0.02)
  assert found["time/device_wait"] == pytest.approx(0.05)


def _config(**values):
  train = {"resident": False, "threads": 2, "workers": 0, "steps_per_dispatch": 1}
  return ml_collections.ConfigDict({"train": train | values, "data_dir": "somewhere"})


def test_waiting_for_batches_is_said_once_a_phase(tmp_path, caplog):
  hand = Hand(tmp_path, config=_config())
  for step, title in enumerate(["warmup"] * 6 + ["weights 0", "weights 1"] * 4):
    hand.monitor.begin(title, 100 * step, 1000)
    hand.look(100, 0.0121, 0.0235, 0.0)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == (step >= 2) + (step >= 6)
  assert said[0] == (
    "Input is the bottleneck: steps wait 34% of their time for batches"
    " (12.1 ms of 35.6 ms). Raise config.train.threads (2) or .workers (0) up"
    f" to the {os.cpu_count()} cores of this machine, convert the data"
    " (python -m dynashare_jax data convert), or set"
    " config.train.resident=True if the data fit into memory."
  )


@pytest.mark.parametrize(
  "times, idle",
  [
    ((0.005, 0.0235), True),  # 18%
    ((0.0121, 0.0235), False),  # hidden: the devices have enough to do
    ((0.00121, 0.00235), True),
  ],
)  # three looks in less than a second
def test_nothing_is_said_without_need(tmp_path, caplog, times, idle):
  hand = Hand(tmp_path, config=_config())
  hand.monitor.begin("warmup", 0, 1000)
  for _ in range(3):
    hand.look(50, *times, 0.0, idle=idle)
  assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_two_looks_with_a_good_one_between_are_no_bottleneck(tmp_path, caplog):
  hand = Hand(tmp_path)
  hand.monitor.begin("warmup", 0, 1000)
  for wait in (1.0, 1.0, 0.0, 1.0, 1.0):
    hand.look(10, wait, 1.0, 0.0)
  assert "bottleneck" not in caplog.text
  hand.look(10, 1.0, 1.0, 0.0)
  assert "for batches (1000.0 ms of 2000.0 ms). See docs/" in caplog.text


def test_advice_for_resident_data(tmp_path, caplog):
  hand = Hand(tmp_path, config=_config(resident=True, steps_per_dispatch=4))
  for _ in range(3):
    hand.look(10, 1.0, 1.0, 0.0)
  assert "Raise config.train.steps_per_dispatch (4)." in caplog.text
  assert "threads" not in caplog.text


def _of_three(monkeypatch, others, rank=0):
  """Three processes 4, 5 and 6, of which this one is one.

  Their own work differs; steps take the same time in all.
  """
  monkeypatch.setattr(mesh_lib, "processes", lambda mesh: (4, 5, 6))
  monkeypatch.setattr(mesh_lib, "rank", lambda mesh: rank)

  def every(values, mesh):
    rows = [values.copy() for _ in range(3)]
    for row, (input_, host, peak) in zip(rows[1:], others, strict=True):
      row[:] = [input_, host, values[:3].sum() - input_ - host, 1.0, peak]
    return np.stack(rows)

  monkeypatch.setattr(mesh_lib, "every", every)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_slowest_process_is_found(tmp_path, monkeypatch, caplog, rank):
  """Own work of 15, 40 and 11 ms within steps of 50 ms."""
  _of_three(monkeypatch, [(0.036, 0.004, 3.0), (0.001, 0.010, 2.0)], rank)
  hand = Hand(tmp_path, config=_config())
  caplog.set_level(logging.INFO, logger="absl")
  for look in range(3):
    hand.monitor.begin("retrain 2", 100 * look, 400)
    found = hand.look(101 if look == 0 else 100, 0.005, 0.01, 0.0, end=3.5)
  assert found["time/step"] == pytest.approx(0.05)
  assert found["time/input_wait"] == pytest.approx(0.036)
  assert found["time/host"] == pytest.approx(0.004)
  assert found["time/device_wait"] == pytest.approx(0.01)
  assert found["time/skew"] == pytest.approx(0.029)
  assert found["time/slowest_process"] == 5
  said = [(r.levelno, r.getMessage()) for r in caplog.records if "Phase" not in r.getMessage()]
  assert [level for level, _ in said] == [logging.INFO if rank else logging.WARNING] * 2
  assert said[0][1].startswith(
    "Input is the bottleneck in process 5: steps wait 72% of their time for"
    " batches (36.0 ms of 50.0 ms). Raise"
  )
  assert said[1][1].startswith(
    "Process 5 is slow: its own work, waiting for batches and preparing"
    " steps, takes 29.0 ms a step longer than the fastest process's (steps"
    " take 50.0 ms)."
  )


class Device:
  """One that tells of its memory."""

  process_index = 0

  def __init__(self, number: int, stats: Any) -> None:
    self.id, self._stats = number, stats

  def memory_stats(self) -> Any:
    if isinstance(self._stats, Exception):
      raise self._stats
    return self._stats


def _mesh(*devices):
  return ml_collections.ConfigDict({"local_devices": devices, "devices": np.array(devices, object)})


def test_memory_of_every_device(tmp_path, monkeypatch):
  mesh = _mesh(
    Device(2, {"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**29}),
    Device(3, {"bytes_in_use": 2**29}),
    Device(4, None),
    Device(5, RuntimeError("unimplemented")),
  )
  found = Hand(tmp_path, mesh).look(2, 0.1, 0.1, 0.0)
  memory = {k: v for k, v in found.items() if k.startswith("memory/device")}
  assert memory == {
    "memory/device_2_gb": 1.0,
    "memory/device_2_peak_gb": 1.5,
    "memory/device_3_gb": 0.5,
  }
  _of_three(monkeypatch, [(0.0, 0.0, 3.0), (0.0, 0.0, 2.0)])
  found = Hand(tmp_path, mesh).look(2, 0.1, 0.1, 0.0)
  assert found["memory/largest_device_peak_gb"] == 3.0


def test_memory_of_the_host(tmp_path):
  hand = Hand(tmp_path)
  before = hand.look(2, 0.1, 0.1, 0.0)
  held = np.ones(2**25)  # 0.25 GiB
  after = hand.look(2, 0.1, 0.1, 0.0)
  del held
  assert "memory/device_0_gb" not in after or jax.default_backend() != "cpu"
  if pathlib.Path("/proc/self/statm").exists():
    grown = after["memory/host_gb"] - before["memory/host_gb"]
    assert 0.2 < grown < 0.35
    assert after["memory/host_peak_gb"] > 0.98 * after["memory/host_gb"]


def test_a_line_a_minute_in_the_log(tmp_path, caplog):
  caplog.set_level(logging.INFO, logger="absl")
  hand = Hand(tmp_path)
  for look in range(9):  # 28 s each
    hand.monitor.begin("warmup", 10 * look, 100)
    hand.look(10, 0.3, 0.5, 0.0, end=2.0)
  lines = [r.getMessage() for r in caplog.records if "a step" in r.getMessage()]
  assert len(lines) == 3
  assert lines[0].startswith(
    "step 30: 1000.0 ms a step, of it 300.0 ms waiting for batches, 500.0 ms"
    " on the host, 200.0 ms waiting for devices; "
  )


_SLOWED = """
import pathlib, sys, time, jax, numpy as np
from dynashare_jax.distributed import cluster, mesh as mesh_lib
from dynashare_jax.monitoring import monitor, process_log
port, number, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 1)
cluster.join(cluster.Place(f"localhost:{port}", 2, number))
mesh = mesh_lib.make_mesh()
watch = monitor.Monitor(mesh, pathlib.Path(folder))
@jax.jit
def step(x):  # All meet. Work of less than 1000 operations is never awaited:
  return {"loss": (x.T @ x).mean()}  # the CPU does it while it is dispatched.
with process_log.ProcessLog(folder, number, cluster.told(4)), watch:
  for look in range(4):
    watch.begin("warmup", 8 * look, 32 - 8 * look)
    parts = []
    for _ in range(8):
      with watch.input():
        time.sleep(0.06 * number)
        batch = mesh_lib.place_batch(np.ones((2, 512), "f"), mesh)
      parts.append(step(batch))
      watch.dispatched(parts, 1)
    with watch.device():
      jax.device_get(parts)
    print(*watch.look(8).items(), sep=chr(10), flush=True)
"""


def test_a_slowed_process_is_named(tmp_path):
  """Two real processes, of which one gets its batches 60 ms late."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    forks.Fork("-c", _SLOWED, str(port), str(number), str(tmp_path)) for number in range(2)
  ]
  try:
    texts = [process.communicate(timeout=120)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  assert [process.returncode for process in started] == [0, 0], texts
  for number, text in enumerate(texts):  # Both know.
    found: dict[str, list[float]] = {}
    for name, value in re.findall(r"\('(time/\w+)', ([-+.e0-9]+)\)", text):
      found.setdefault(name, []).append(float(value))
    assert found["time/slowest_process"] == [1.0] * 4
    assert min(found["time/input_wait"]) >= 0.06
    # The first waits for it with its devices, not on its own account.
    assert 0.03 < np.median(found["time/skew"]) <= max(found["time/step"])
    lines = (tmp_path / "logs" / f"process-{number}.log").read_text().splitlines()
    assert (
      f"INFO process {number} start: 2 processes, 2 devices (cpu), 1 in"
      f" this process, number {number}, 2 of 4 examples"
    ) in lines[0]
    level = "INFO" if number else "WARNING"
    assert any(f"{level} process {number} [warmup] Process 1 is slow" in line for line in lines)
    assert lines[-1].endswith(" end")
  assert ("Process 1 is slow" in texts[0]) and ("Process 1 is slow" not in texts[1])
