"""Forks the processes of a run from one that has imported everything, for launch/local.sh.

  python -m dynashare_jax.cli.nursery LOGS [arguments of dynashare_jax.main]

For each number that comes as a line it starts that process of the run, whose output is appended to
`LOGS/process-NUMBER.log`, and prints its pid. When the process has ended, its exit status, 128 and
the signal's number after a signal, lies in `LOGS/.status-PID` before the pid is free. Ends with its
input.
"""

from __future__ import annotations

import os
import pathlib
import select
import signal
import sys

from dynashare_jax.cli import train


def serve(logs: pathlib.Path) -> int | None:
  """Forks until the input ends, which returns None; a fork returns its number."""
  # Nothing of jax runs here yet, so that there is no thread that a fork would lack.
  into, out = os.pipe()
  os.set_blocking(out, False)
  signal.set_wakeup_fd(out, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  for number in (signal.SIGTERM, signal.SIGINT):  # The launcher hands them to the processes.
    signal.signal(number, signal.SIG_IGN)
  waiting = b""
  while True:
    ready, _, _ = select.select([0, into], [], [])
    if into in ready:
      os.read(into, 64)
      _note_ends(logs)
    if 0 not in ready:
      continue
    read = os.read(0, 4096)
    if not read:
      return None
    *lines, waiting = (waiting + read).split(b"\n")
    for line in lines:
      pid = os.fork()
      if pid == 0:
        os.close(into)
        os.close(out)
        _begin(logs / f"process-{int(line)}.log")
        return int(line)
      print(pid, flush=True)


def _note_ends(logs: pathlib.Path) -> None:
  """Writes the statuses of the processes that have ended."""
  look = os.WEXITED | os.WNOHANG | os.WNOWAIT
  while True:
    try:
      found = os.waitid(os.P_ALL, 0, look)
    except ChildProcessError:
      return
    if found is None:
      return
    killed = found.si_code != os.CLD_EXITED
    (logs / f".status-{found.si_pid}").write_text(f"{found.si_status + 128 * killed}\n")
    os.waitpid(found.si_pid, 0)


def _begin(log: pathlib.Path) -> None:
  """Makes a fork what the launcher would have started."""
  signal.set_wakeup_fd(-1)
  for number in (signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_DFL)
  for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND)):
    opened = os.open(path, flags)
    os.dup2(opened, target)
    os.close(opened)
  os.dup2(1, 2)


if __name__ == "__main__":
  import orbax.checkpoint  # noqa: F401, half a second, which training needs

  from dynashare_jax.checkpoints import orbax_writers  # noqa: F401

  own = serve(pathlib.Path(sys.argv[1]))
  if own is not None:
    sys.argv = [sys.argv[0], *sys.argv[2:], f"--process_id={own}"]
    train.cli()
