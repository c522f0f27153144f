"""The launchers, with programs in place of the schedulers' and of Python's."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"


@pytest.fixture(name="fake")
def _fake(tmp_path: pathlib.Path) -> Callable[[str, str], pathlib.Path]:
  """Makes a program of bash lines in `tmp_path/bin`."""

  def make(name: str, lines: str) -> pathlib.Path:
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    path.chmod(0o755)
    return path

  return make


@pytest.fixture(name="environment")
def _environment(tmp_path: pathlib.Path) -> dict[str, str]:
  kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_"))}
  return kept | {
    "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    "NOTES": str(tmp_path / "notes"),
    "HOME": str(tmp_path / "home"),
  }


def _run(script: str, *arguments: str, **options: Any) -> Any:
  return subprocess.run(
    [str(LAUNCH / script), *arguments],
    text=True,
    capture_output=True,
    check=False,
    timeout=60,
    **options,
  )


def _wait_for(path: pathlib.Path, text: str, times: int = 1) -> None:
  for _ in range(400):
    if path.is_file() and path.read_text().count(text) >= times:
      return
    time.sleep(0.02)
  found = path.read_text() if path.is_file() else "nothing"
  pytest.fail(f"{text!r} did not come; there is {found}")


def _notes(environment: dict[str, str]) -> list[str]:
  path = pathlib.Path(environment["NOTES"])
  return path.read_text().splitlines() if path.is_file() else []


# On this machine.

# A training process: says so, and writes its checkpoint when told to end.
TRAIN = """
number=${*: -1}; number=${number#--process_id=}
trap 'sleep 0.2; echo checkpoint; exit 143' TERM
echo "started $number" >>"$NOTES"
while :; do sleep 0.02; done"""

# Ends with the statuses of FAIL in turn: those of process 1, the others wait.
FAIL = """
number=${*: -1}; number=${number#--process_id=}
echo "$number" >>"$NOTES"
read -ra statuses <<<"$FAIL"
status=${statuses[$(grep -c "^$number$" "$NOTES") - 1]}
[ "$number" = 1 ] || [ "$status" = 0 ] || sleep 0.3
exit "$status" """


@pytest.fixture(name="local")
def _local(tmp_path, environment):
  return environment | {
    "LOGS": str(tmp_path / "logs"),
    "PORT": "1234",
    "PYTHON": str(tmp_path / "bin" / "python"),
  }


def test_the_local_launcher_starts_every_process(tmp_path, fake, local):
  fake("python", 'echo "$@ $JAX_NUM_CPU_DEVICES"')
  assert _run("local.sh", "2", "3", "--config=x.py", env=local).returncode == 0
  for number in range(2):
    text = (tmp_path / "logs" / f"process-{number}.log").read_text()
    assert text.split() == [
      "-m",
      "dynashare_jax.main",
      "--config=x.py",
      "--coordinator=localhost:1234",
      "--processes=2",
      f"--process_id={number}",
      "3",
    ]


@pytest.mark.parametrize(
  "arguments, more",
  [(["two"], {}), (["0", "1"], {}), (["2", "-1"], {}), (["1", "1"], {"RESTARTS": "many"})],
)
def test_what_the_local_launcher_refuses(fake, local, arguments, more):
  fake("python", "exit 0")
  done = _run("local.sh", *arguments, env=local | more)
  assert done.returncode == 2
  assert re.search("usage:|must be numbers", done.stderr)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_every_local_process(tmp_path, fake, local, number, status):
  """They write checkpoints before the launcher ends; none starts again."""
  if signal.getsignal(number) == signal.SIG_IGN:
    pytest.skip("A shell that was started to ignore a signal cannot hear it.")
  fake("python", TRAIN)
  launcher = subprocess.Popen(
    [str(LAUNCH / "local.sh"), "2", "1"],
    env=local | {"RESTARTS": "5"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    _wait_for(tmp_path / "notes", "started", 2)
    launcher.send_signal(number)
    assert launcher.wait(20) == status
  finally:
    launcher.kill()
    launcher.wait()
  assert sorted(_notes(local)) == ["started 0", "started 1"]
  for log in (tmp_path / "logs").iterdir():
    assert log.read_text() == "checkpoint\n"


def test_a_process_that_does_not_end_is_killed(tmp_path, fake, local):
  fake(
    "python",
    """case "$*" in *_id=1)
  until [ -s "$NOTES" ]; do sleep 0.02; done; exit 7 ;; esac
trap '' TERM; echo $$ >>"$NOTES"; while :; do sleep 0.05; done""",
  )
  done = _run("local.sh", "2", "1", env=local | {"GRACE": "1"})
  assert done.returncode == 7
  (process,) = _notes(local)
  with pytest.raises(ProcessLookupError):
    os.kill(int(process), 0)


@pytest.mark.parametrize(
  "statuses, restarts, starts, last",
  [
    ("1 134 0", 5, 3, 0),  # until it works
    ("1 1 1 1", 2, 3, 1),  # at most so often
    ("143 0", 1, 2, 0),  # a checkpoint that somebody else asked for
    ("2 0", 5, 1, 2),  # never after the user's error
    ("1 0", 0, 1, 1),
  ],
)  # and not unless asked to
def test_local_restarts(fake, local, statuses, restarts, starts, last):
  fake("python", FAIL)
  done = _run("local.sh", "2", "1", env=local | {"RESTARTS": str(restarts), "FAIL": statuses})
  assert done.returncode == last
  assert len(_notes(local)) == 2 * starts
  assert done.stderr.count("restart ") == starts - 1


@pytest.mark.parametrize("sign, status", [("KILL", 137), ("SEGV", 139), ("TERM", 143)])
def test_what_a_local_process_that_waits_for_a_dead_one_is_left(fake, local, sign, status):
  """Nothing, where a signal killed that; a second to save, where it was SIGTERM."""
  fake(
    "python",
    f"""echo start >>"$NOTES"
case "$*" in *_id=1)
  until [ "$(grep -c start "$NOTES")" = 2 ]; do sleep 0.02; done; kill -{sign} $$ ;; esac
trap '' TERM; for _ in $(seq 50); do sleep 0.02; done; echo saved >>"$NOTES"; exit 143""",
  )
  began = time.monotonic()
  assert _run("local.sh", "2", "1", env=local).returncode == status
  assert ("saved" in _notes(local)) == (sign == "TERM")
  assert time.monotonic() - began < 20  # GRACE is 60


def test_local_processes_are_forked_from_one_that_has_imported_everything(tmp_path, fake, local):
  """WARM: its forks get their number, log and status, and are started again."""
  fake(
    "python",
    f"""[ "$2" = dynashare_jax.cli.nursery ] || exit 9
export PYTHONPATH={ROOT} JAX_PLATFORMS=cpu
exec {sys.executable} -c '
import os, pathlib, sys
from dynashare_jax.cli import nursery
imported = os.getpid()
number = nursery.serve(pathlib.Path(sys.argv[3]))
if number is not None:
  print("number", number, sys.argv[4:], os.getppid() == imported, flush=True)
  again = len(pathlib.Path(f"{{sys.argv[3]}}/process-1.log").read_text().splitlines()) > 1
  os.kill(os.getpid(), 9 * (number == 1 and not again))
' "$@" """,
  )
  done = _run("local.sh", "2", "1", "--config=x.py", env=local | {"WARM": "1", "RESTARTS": "3"})
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("status 137; restart 1 of 3") == 1
  given = ["--config=x.py", "--coordinator=localhost:1234", "--processes=2"]
  for number in range(2):
    lines = (tmp_path / "logs" / f"process-{number}.log").read_text().splitlines()
    assert set(lines) == {f"number {number} {given} True"} and len(lines) <= 2
  assert len(lines) == 2
  assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["process-0.log", "process-1.log"]


def test_local_processes_start_plainly_where_nothing_can_be_forked(fake, local):
  fake("python", '[ "$2" != dynashare_jax.cli.nursery ] || exit 1; echo "$2" >>"$NOTES"')
  assert _run("local.sh", "2", "1", env=local | {"WARM": "1"}).returncode == 0
  assert _notes(local) == ["dynashare_jax.main"] * 2


# SLURM.


def test_what_the_batch_script_asks_for():
  text = (LAUNCH / "slurm.sbatch").read_text()
  asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
  # To the tasks, in time for a checkpoint; with B: it would be the shell alone.
  assert re.fullmatch(r"TERM@\d{2,}", asked["signal"])
  assert asked["open-mode"] == "append" and "requeue" in asked
  assert asked["gpus-per-node"] == asked["ntasks-per-node"]
  before = text[: text.index("set -uo")]
  assert before.count("\n#SBATCH") == len(asked)  # none after the first command


@pytest.fixture(name="slurm")
def _slurm(tmp_path, fake, environment):
  fake("scontrol", 'echo "scontrol $*" >>"$NOTES"')
  return environment | {
    "SLURM_SUBMIT_DIR": str(tmp_path),
    "PYTHON": "py",
    "SLURM_JOB_ID": "77",
    "SLURM_CPUS_PER_TASK": "8",
  }


def test_the_batch_script_hands_everything_to_the_program(tmp_path, fake, slurm):
  fake("srun", 'echo "$PWD" "$@"')
  done = _run("slurm.sbatch", "--config=x.py", "--config.name=a b", env=slurm)
  assert done.returncode == 0
  assert done.stdout.rstrip() == (
    f"{tmp_path} --kill-on-bad-exit=0 --wait=300 --label --cpus-per-task=8 py"
    " -m dynashare_jax.main --config=x.py --config.name=a b"
  )
  assert _notes(slurm) == []


@pytest.mark.parametrize(
  "status, count, queued",
  [
    (0, 0, False),
    (2, 0, False),
    (143, 0, True),
    (1, 3, True),
    (137, 19, True),
    (143, 20, False),
    (1, 21, False),
  ],
)
def test_who_goes_back_into_the_queue(fake, slurm, status, count, queued):
  fake("srun", f"exit {status}")
  restarts = {"SLURM_RESTART_COUNT": str(count)} if count else {}
  done = _run("slurm.sbatch", env=slurm | restarts)
  assert done.returncode == status
  assert _notes(slurm) == ["scontrol requeue Incomplete 77"] * queued


def test_a_signal_to_the_batch_shell_reaches_the_tasks(tmp_path, fake, slurm):
  """Through scancel: srun itself would answer SIGTERM by killing them."""
  fake(
    "srun",
    """trap 'sleep 0.2; echo checkpoint >>"$NOTES"; exit 143' TERM
echo $$ >>"$NOTES"
while :; do sleep 0.02; done""",
  )
  fake("scancel", 'echo "scancel $*" >>"$NOTES"; kill "$(head -1 "$NOTES")"')
  with subprocess.Popen(
    [str(LAUNCH / "slurm.sbatch")], env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  ) as shell:
    _wait_for(tmp_path / "notes", "\n")
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(20) == 143
  assert _notes(slurm)[1:] == [
    "scancel --signal=TERM 77",
    "checkpoint",
    "scontrol requeue Incomplete 77",
  ]


# A TPU.


@pytest.fixture(name="tpu")
def _tpu(tmp_path, fake, environment):
  """A cloud with one machine, whose disk is the folder `host`."""
  fake(
    "gcloud",
    """echo "$4" >>"$NOTES"
case $4 in
  describe) cat "$STATE" ;;
  create) echo READY >"$STATE"; mkdir "$HOST" ;;
  delete) rm -r "$STATE" "$HOST" ;;
  scp) cp "$5" "$HOST/dynashare.tar.gz" ;;
  ssh) for word; do case $word in --command=*)
    cd "$HOST" && HOME=$HOST bash -c "${word#--command=}" ;; esac; done ;;
esac""",
  )
  fake("curl", "echo 'mkdir -p ~/.local/bin; cp $UV ~/.local/bin/uv'")
  python = fake("train", "")
  uv = fake(
    "fake_uv",
    f"""case "$*" in venv*)
  mkdir -p "${{*: -1}}/bin"; cp {python} "${{*: -1}}/bin/python" ;; esac""",
  )
  return environment | {
    "STATE": str(tmp_path / "state"),
    "HOST": str(tmp_path / "host"),
    "UV": str(uv),
    "ZONE": "z",
    "ACCELERATOR": "v6e-8",
    "POLL": "0.1",
  }


def test_what_gcloud_is_asked(environment):
  """Nothing is asked in a dry run; the words survive two shells."""
  done = _run(
    "tpu_vm.sh",
    "train",
    "--config=x.py",
    "--config.name=a 'b'",
    env=environment
    | {
      "DRY_RUN": "1",
      "ZONE": "us-z",
      "PROJECT": "p",
      "TPU": "name",
      "ACCELERATOR": "v5litepod-16",
      "SPOT": "1",
      "BUCKET": "b",
      "PATH": os.environ["PATH"],
    },
  )
  assert done.returncode == 0, done.stderr
  calls = [shlex.split(line) for line in done.stdout.splitlines()]
  start = ["gcloud", "compute", "tpus", "tpu-vm"]
  where = ["--zone=us-z", "--project=p"]
  assert calls[0] == [*start, "describe", "name", *where, "--format=value(state)"]
  assert calls[1] == [
    *start,
    "create",
    "name",
    *where,
    "--accelerator-type=v5litepod-16",
    "--version=v2-alpha-tpuv5-lite",
    "--spot",
  ]
  assert calls[2][:5] == [*start, "scp"]
  assert calls[2][6:] == ["name:dynashare.tar.gz", "--worker=all", *where]
  for call in calls[3:]:
    assert call[:-1] == [*start, "ssh", "name", *where, "--worker=all"]
  words = [shlex.split(call[-1].removeprefix("--command=")) for call in calls]
  assert words[4] == ["BUCKET=b", "bash", "dynashare/launch/tpu_vm.sh", "on-host-install"]
  assert words[5][3:] == ["on-host-run", "--config=x.py", "--config.name=a 'b'"]
  assert len(calls) == 6


@pytest.mark.parametrize(
  "arguments, more, message",
  [
    ([], {}, "launch/tpu_vm.sh ACTION"),
    (["start"], {}, "launch/tpu_vm.sh ACTION"),
    (["status"], {"ZONE": ""}, "set ZONE"),
    (["create"], {"ACCELERATOR": ""}, "set ACCELERATOR"),
    (["create"], {"ACCELERATOR": "v9-8"}, "set VERSION for v9-8"),
  ],
)
def test_what_the_tpu_launcher_refuses(tpu, arguments, more, message):
  done = _run("tpu_vm.sh", *arguments, env=tpu | more)
  assert done.returncode == 2 and message in done.stderr
  assert _notes(tpu) == []


def test_a_tpu_that_is_taken_away(tmp_path, fake, tpu):
  """Created, taken away, created again, and the run goes on to its end."""
  fake(
    "train",
    f"""echo "$@" >>{tmp_path / "starts"}
[ "$(wc -l <{tmp_path / "starts"})" = 2 ] && exit 0
echo PREEMPTED >{tpu["STATE"]}; exit 143""",
  )
  fake("mountpoint", "exit 1")
  fake("gcsfuse", 'echo "gcsfuse $*" >>"$NOTES"')
  done = _run("tpu_vm.sh", "train", "--config=x.py", env=tpu | {"BUCKET": "b"})
  assert done.returncode == 0, done.stderr
  starts = (tmp_path / "starts").read_text().splitlines()
  assert starts == ["-m dynashare_jax.main --config=x.py"] * 2
  verbs = [verb for verb in _notes(tpu) if verb not in ("ssh", "scp")]
  mounted = (
    "gcsfuse --metadata-cache-ttl-secs=0"
    " --metadata-cache-negative-ttl-secs=0 b"
    f" {tmp_path / 'host' / 'shared'}"
  )
  assert verbs == ["describe", "create", mounted, "describe", "delete", "create", mounted]
  assert (tmp_path / "host" / "dynashare" / "configs" / "base.py").is_file()


@pytest.mark.parametrize("status, restarts, starts", [(2, 5, 1), (1, 1, 2), (0, 5, 1)])
def test_runs_on_a_tpu_that_fail(tmp_path, fake, tpu, status, restarts, starts):
  fake("train", f"echo start >>{tmp_path / 'starts'}; exit {status}")
  done = _run("tpu_vm.sh", "train", env=tpu | {"RESTARTS": str(restarts)})
  assert done.returncode == status
  assert (tmp_path / "starts").read_text() == "start\n" * starts
  assert _notes(tpu).count("create") == 1


def test_a_run_on_a_tpu_is_seen_and_stopped(tmp_path, fake, tpu):
  fake("train", TRAIN)
  for action in ("create", "install", "run"):
    assert _run("tpu_vm.sh", action, env=tpu).returncode == 0
  log = tmp_path / "host" / "dynashare-run" / "log"
  _wait_for(tmp_path / "notes", "started")
  assert _run("tpu_vm.sh", "status", env=tpu).stdout.endswith(": running\n")
  again = _run("tpu_vm.sh", "run", env=tpu)
  assert again.returncode == 2 and "a run is under way" in again.stderr
  with subprocess.Popen(  # the same command waits for what is under way
    [str(LAUNCH / "tpu_vm.sh"), "train"],
    env=tpu | {"RESTARTS": "0"},
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as waiting:
    assert waiting.stdout.readline().startswith("waits for the run")
    assert _run("tpu_vm.sh", "stop", env=tpu).returncode == 0
    assert waiting.wait(20) == 1
    assert waiting.stdout.read().endswith(": ended with 143\n")
  assert log.read_text().endswith("checkpoint\n")
