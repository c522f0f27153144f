"""Tests of the log file of a process."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import warnings

from absl import logging as absl_logging
import pytest

from dynashare_jax.distributed import preemption
from dynashare_jax.monitoring import process_log

INSIDE = os.path.join(os.path.dirname(process_log.__file__), "loop.py")


def _say(code, place):
  """Runs a line as if it stood in a file."""
  exec(
    compile(code, place, "exec"), {"absl": absl_logging, "logging": logging, "warnings": warnings}
  )


def _lines(log):
  """Lines without their time."""
  lines = log.path.read_text().splitlines()
  stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
  assert all(stamp.match(line) for line in lines)
  return [stamp.sub("", line) for line in lines]


@pytest.fixture
def terminal(monkeypatch):
  """A terminal that shows warnings, as the program sets it up."""
  stream = io.StringIO()
  handler = logging.StreamHandler(stream)
  monkeypatch.setattr(logging.root, "handlers", [handler])
  shows = warnings.showwarning
  absl = absl_logging.get_absl_logger()
  monkeypatch.setattr(absl, "level", logging.WARNING)
  absl.manager._clear_cache()
  yield stream
  assert handler.level == logging.NOTSET and absl.level == logging.WARNING
  assert handler in logging.root.handlers
  assert not [
    h for h in logging.root.handlers if "process_log" in repr(type(h)) or h is logging.lastResort
  ]
  assert warnings.showwarning is shows
  absl.manager._clear_cache()


def test_what_is_in_it_and_what_stays_on_the_terminal(tmp_path, terminal):
  with process_log.ProcessLog(tmp_path, 3, "4 devices") as log:
    _say("absl.info('Resuming at %d.', 7)", INSIDE)
    _say("absl.warning('A checkpoint is damaged.')", INSIDE)
    _say("absl.info('chatter')", "/lib/other.py")
    _say("absl.warning('of another')", "/lib/other.py")
    _say("logging.getLogger('jax').info('chatter')", "/lib/jax.py")
    _say("logging.getLogger('jax').warning('of jax')", "/lib/jax.py")
    process_log.set_phase("retrain 2")
    _say("absl.info('within')", INSIDE)
    process_log.set_phase("")
  assert log.path == tmp_path / "logs" / "process-3.log"
  lines = _lines(log)
  assert lines[1].startswith(f"INFO process 3 pid {os.getpid()} on ")
  assert sys.argv[0] in lines[1]
  assert lines[:1] + lines[2:] == [
    "INFO process 3 start: 4 devices",
    "INFO process 3 Resuming at 7.",
    "WARNING process 3 A checkpoint is damaged.",
    "WARNING process 3 of another",
    "WARNING process 3 of jax",
    "INFO process 3 [retrain 2] within",
    "INFO process 3 end",
  ]
  assert terminal.getvalue().splitlines() == ["A checkpoint is damaged.", "of another", "of jax"]


def test_without_a_handler_warnings_still_reach_the_terminal(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(logging.root, "handlers", [])
  with process_log.ProcessLog(tmp_path, 0):
    _say("absl.info('quiet')", INSIDE)
    _say("absl.warning('loud')", INSIDE)
  assert capsys.readouterr().err == "loud\n"
  assert logging.root.handlers == []


def test_starts_follow_each_other_and_errors_are_kept(tmp_path, terminal):
  for fails in (True, False):
    log = process_log.ProcessLog(tmp_path, 0, "one")
    try:
      with log:
        if fails:
          raise ValueError("The data are gone.")
    except ValueError:
      pass
  text = log.path.read_text()
  assert text.count("start: one") == 2
  assert "ERROR process 0 ended by ValueError\nTraceback" in text
  assert "\nValueError: The data are gone.\n" in text
  assert text.index("ValueError: The") < text.rindex("start: one")
  assert text.endswith(" INFO process 0 end\n") and text.count(" end\n") == 1
  assert terminal.getvalue() == ""


def test_warnings_of_python(tmp_path, terminal):
  before = warnings.showwarning
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    inside = warnings.showwarning
    with process_log.ProcessLog(tmp_path, 0) as log:
      _say("warnings.warn('an old name', DeprecationWarning)", "/lib/a.py")
    assert warnings.showwarning is inside
  assert [str(w.message) for w in caught] == ["an old name"]
  assert ("WARNING process 0 DeprecationWarning: an old name (/lib/a.py:1)") in _lines(log)
  assert warnings.showwarning is before


def test_it_makes_no_work_directory_and_waits_for_it(tmp_path, terminal):
  folder = tmp_path / "run"
  with process_log.ProcessLog(folder, 0, "early") as log:
    _say("absl.info('before')", INSIDE)
    assert not folder.exists()
    folder.mkdir()
    _say("absl.info('after')", INSIDE)
    lines = _lines(log)  # On the disk while the run goes on.
    assert [line[15:] for line in lines[:1] + lines[2:]] == ["start: early", "before", "after"]
  other = process_log.ProcessLog(tmp_path / "never", 0)
  with pytest.raises(ValueError), other:
    raise ValueError
  assert not (tmp_path / "never").exists()


def test_a_folder_of_another_run_is_left_alone_until_it_is_the_own(tmp_path, terminal):
  own = []
  with process_log.ProcessLog(tmp_path, 0, "mine", lambda: bool(own)) as log:
    assert list(tmp_path.iterdir()) == []
    own.append(1)
    _say("absl.info('accepted')", INSIDE)
    own.clear()  # Once is enough.
  lines = _lines(log)
  assert lines[:1] + lines[2:] == [
    "INFO process 0 start: mine",
    "INFO process 0 accepted",
    "INFO process 0 end",
  ]
  refused = process_log.ProcessLog(tmp_path / "logs", 0, "mine", lambda: False)
  with pytest.raises(ValueError), refused:
    raise ValueError
  assert list((tmp_path / "logs").iterdir()) == [log.path]


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (preemption.PreemptedError("told to end after step 3 of 26"), "SIGTERM: told to end after"),
    (KeyboardInterrupt(), "Ctrl-C"),
  ],
)
def test_an_end_that_was_asked_for_is_one_line_of_information(tmp_path, terminal, error, line):
  log = process_log.ProcessLog(tmp_path, 0)
  with pytest.raises(type(error)), log:
    raise error
  assert len(_lines(log)) == 3
  assert _lines(log)[-1].startswith(f"INFO process 0 ended by {line}")


@pytest.mark.parametrize("fault", ["no folder", "full"])
def test_a_file_that_cannot_be_written_is_left_alone(tmp_path, terminal, capsys, fault):
  if fault == "no folder":
    (tmp_path / "logs").write_text("")
  elif os.path.exists("/dev/full"):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "process-0.log").symlink_to("/dev/full")
  with process_log.ProcessLog(tmp_path, 0):
    _say("absl.warning('x' * 99999)", INSIDE)
    _say("absl.info('%d', 'no number')", INSIDE)
  assert terminal.getvalue() == "x" * 99999 + "\n"
  assert "Logging error" not in capsys.readouterr().err


def test_threads_have_their_own_phases(tmp_path, terminal):
  ready = threading.Barrier(2, timeout=20)

  def work(number):
    process_log.set_phase(f"retrain {number}")
    ready.wait()
    _say(f"absl.info('of {number}')", INSIDE)
    ready.wait()
    process_log.set_phase("")

  with process_log.ProcessLog(tmp_path, 0) as log:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert sorted(_lines(log)[2:-1]) == [
    "INFO process 0 [retrain 0] of 0",
    "INFO process 0 [retrain 1] of 1",
  ]


def test_logs_of_several_runs_at_once(tmp_path, terminal):
  """However they end, all is as it was."""
  first, second = (process_log.ProcessLog(tmp_path, i) for i in range(2))
  first.__enter__()
  second.__enter__()
  first.__exit__(None, None, None)
  _say("absl.info('still')", INSIDE)
  second.__exit__(None, None, None)
  _say("absl.info('no more')", INSIDE)
  assert "INFO process 1 still" in _lines(second)
  assert "still" not in first.path.read_text()
  assert "no more" not in second.path.read_text()
