"""The variable that lowers the priority of gloo's thread, in real processes."""

import os
import pathlib
import socket

import pytest
from tiny import forks

from dynashare_jax.distributed import gloo_priority

LINUX = hasattr(os, "SCHED_IDLE") and pathlib.Path("/proc/self/task").is_dir()
# What a thread does that waits for messages: epoll_wait or epoll_pwait on the
# usual machines; "running" while it polls.
WAITS = ("232", "281", "22", "running")

SCRIPT = """
import os, pathlib, sys
import jax
import numpy as np
from jax.experimental import multihost_utils
from dynashare_jax.distributed import cluster

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
port, number = map(int, sys.argv[1:])
assert cluster.join(cluster.Place(f"localhost:{port}", 2, number), 60)
total = multihost_utils.process_allgather(np.array([number + 1])).sum()
idle = [int(t.name) for t in pathlib.Path("/proc/self/task").iterdir()
        if os.sched_getscheduler(int(t.name)) == os.SCHED_IDLE]
does = [pathlib.Path(f"/proc/self/task/{t}/syscall") for t in idle]
try:
  does = [path.read_text().split()[0] for path in does]
except OSError:  # Not every system shows it.
  does = ["running" for _ in does]
print("FOUND", total, len(idle), *does)
jax.distributed.shutdown()
"""


@pytest.mark.skipif(not LINUX, reason="Linux has threads at idle priority")
@pytest.mark.parametrize("value, count", [("1", 1), ("0", 0)])
def test_the_thread_that_waits_for_messages_is_lowered(value, count):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  started = [
    forks.Fork("-c", SCRIPT, str(port), str(number), **{gloo_priority.VARIABLE: value})
    for number in range(2)
  ]
  try:
    texts = [process.communicate(timeout=120)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  for process, text in zip(started, texts, strict=True):
    assert process.returncode == 0, text
    _, total, found, *does = next(
      line for line in text.splitlines() if line.startswith("FOUND")
    ).split()
    assert (total, found) == ("3", str(count)), text
    assert all(what in WAITS for what in does), text


def test_other_values_are_refused(monkeypatch):
  assert not gloo_priority.wanted({})
  with pytest.raises(ValueError, match=r"DYNASHARE_IDLE_GLOO must be 0 or 1"):
    gloo_priority.wanted({gloo_priority.VARIABLE: "yes"})
  monkeypatch.delattr(os, "SCHED_IDLE", raising=False)
  with pytest.raises(ValueError, match="for Linux only"):
    gloo_priority.wanted({gloo_priority.VARIABLE: "1"})
