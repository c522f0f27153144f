"""Several processes: how they are found, and that they train as one does."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax.distributed import cluster
from dynashare_jax.monitoring import logs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = ROOT / "tests" / "tiny" / "process.py"


def _start(folder, port, count, number, *more, **environment):
  return forks.Fork(
    str(PROCESS), str(folder), str(port), str(count), str(number), *more, **environment
  )


def _port(first=0):
  """A port that is free, from `first` on."""
  with socket.socket() as free:
    try:
      free.bind(("localhost", first))
    except OSError:
      return _port(first + 1)
    return free.getsockname()[1]


def _slurm(job, number):
  """What SLURM tells one of two tasks on a node."""
  return {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(number),
    "SLURM_LOCALID": str(number),
  }


def _end(*started):
  texts = [process.communicate(timeout=300)[0] for process in started]
  return [process.returncode for process in started], texts


def _lines(folder):
  lines = logs.read(folder)
  for line in lines:
    line["values"] = {
      k: v for k, v in line["values"].items() if not k.startswith(("time/", "memory/"))
    }
  return lines


def test_two_processes_train_as_one(train, tmp_path):
  """Under SLURM's variables: what one process with two devices finds."""
  train(tmp_path / "one", devices=2, **configs.SHORT)
  job = _port(61440) - 61440  # jax makes the port of the job's number
  short = {"TINY_CONFIG": json.dumps(configs.SHORT)}
  two = [  # No forks: each has a hash seed of its own.
    subprocess.Popen(
      [sys.executable, str(PROCESS), str(tmp_path / "two"), "0", "2", str(number)],
      cwd=ROOT,
      env=os.environ | {"PYTHONPATH": str(ROOT)} | _slurm(job, number) | short,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for number in range(2)
  ]
  codes, texts = _end(*two)
  assert codes == [0, 0], texts
  for number, text in enumerate(texts):
    assert (
      "2 processes, 2 devices (cpu), 1 in this process, number"
      f" {number}, 4 of 8 examples a step on each"
    ) in text
  wanted, found = _lines(tmp_path / "one"), _lines(tmp_path / "two")
  assert len(wanted) == len(found) > 10
  for first, second in zip(wanted, found, strict=True):
    assert first["step"] == second["step"]
    for name, value in first["values"].items():
      np.testing.assert_allclose(second["values"][name], value, 1e-6, 1e-6)
  policies = [json.loads((tmp_path / n / "policy.json").read_text()) for n in ("one", "two")]
  assert policies[0]["routes"] == policies[1]["routes"]
  assert policies[0]["chosen"] == policies[1]["chosen"]
  assert (tmp_path / "two" / "report.md").is_file()


def test_processes_that_differ_stop_before_the_first_step(tmp_path):
  port = _port()
  started = [_start(tmp_path, port, 2, i, str(i)) for i in range(2)]
  codes, texts = _end(*started)
  assert codes == [2, 2], texts
  for text in texts:
    assert "error: The processes of this run differ in their configuration" in (text)
  assert not (tmp_path / "metrics.jsonl").exists()


def test_nobody_answers():
  """One clear line and status 1: a later try may do; jax would abort."""
  script = (
    "from dynashare_jax.distributed import cluster\n"
    "cluster.join(cluster.Place('localhost:1', 2, 1), seconds=1)"
  )
  alone = forks.Fork("-c", script)
  (code,), (text,) = _end(alone)
  assert code == 1
  assert "did not meet at localhost:1 within 1 s" in text


@pytest.mark.parametrize(
  "place, message",
  [
    (("host", 2, 0), "--coordinator must be host:port"),
    (("", 2, 0), "--coordinator must be host:port"),
    (("host:1", 2, 2), "but are 2 and 2"),
    (("host:1", 0, -1), "but are 0 and -1"),
  ],
)
def test_a_place_that_makes_no_sense(place, message):
  with pytest.raises(ValueError, match=message):
    cluster.check(cluster.Place(*place))


@pytest.mark.parametrize(
  ("processes", "devices", "text"),
  [(1, 1, "1 process, 1 device (cpu), 4 "), (2, 8, "2 processes, 8 devices (cpu), 4 ")],
)
def test_one_is_told_in_the_singular(monkeypatch, processes, devices, text):
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(jax, "device_count", lambda: devices)
  told = cluster.told(16)
  assert told.startswith(text)
  assert told.endswith(f" number 0, {16 // devices} of 16 examples a step on each")


def test_nothing_told_is_one_process():
  assert not cluster.check(cluster.Place())
  assert not cluster.join(environment={})
  assert cluster.check(cluster.Place("host:1", 2, 1))


@pytest.mark.parametrize(
  "environment, several",
  [
    ({}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, True),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, False),
    ({"SLURM_NTASKS": "4"}, False),  # the batch script, not a step of it
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    (
      {"TPU_PROCESS_ADDRESSES": "a:8471,b:8471", "TPU_WORKER_HOSTNAMES": "a"},
      True,
    ),  # jax prefers the first
    # A pod of a sweep: no one says that the others work on the same run.
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, False),
  ],
)
def test_schedulers_are_recognised(environment, several):
  assert cluster.found_several(environment) == several


@pytest.mark.parametrize(
  "status, text, several",
  [
    (200, "a:b:10.0.0.1,c:d:10.0.0.2", True),
    (200, "host-0,host-1", True),
    (200, "a:b:10.0.0.1", False),
    (404, "none,here", False),
  ],
)
def test_the_hosts_of_a_tpu_vm(status, text, several):
  """They stand in the metadata, which are asked for on a TPU VM alone."""
  asked = []

  class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append((self.path, self.headers["Metadata-Flavor"]))
      self.send_response(status)
      self.end_headers()
      self.wfile.write(text.encode())

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(("localhost", 0), Answer) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    here = {
      "GCE_METADATA_IP": f"localhost:{server.server_port}",
      "http_proxy": "http://localhost:1",
    }
    vm = here | {"TPU_ML_PLATFORM": "JAX"}
    try:
      assert not cluster.found_several(here)
      assert not cluster.found_several(vm | {"TPU_SKIP_MDS_QUERY": "1"})
      assert not cluster.found_several(vm | {"TPU_WORKER_HOSTNAMES": "one"})
      assert asked == []
      assert cluster.found_several(vm) == several
    finally:
      server.shutdown()
      thread.join()
  assert asked == [("/computeMetadata/v1/instance/attributes/worker-network-endpoints", "Google")]


def test_a_tpu_vm_without_metadata_is_one():
  assert not cluster.found_several({"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": "localhost:1"})


def test_one_process_agrees_with_itself():
  assert jax.process_count() == 1
  cluster.check_equal({"configuration": {"seed": 1}})
