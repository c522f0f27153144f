"""The benchmark's commands, their order, reuse and errors; nothing trains."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from dynashare_jax import benchmark
from dynashare_jax.methods import _entries

ROOT = pathlib.Path(__file__).resolve().parents[1]
# ml_collections loads configurations so.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
CONFIG = str(ROOT / "configs" / "rooms.py")


def option(command: list[str], name: str) -> str | None:
  """Value of `--name=value` in a command; the last one counts."""
  found = [a.split("=", 1)[1] for a in command if a.startswith(f"--{name}=")]
  return found[-1] if found else None


def finish(folder: pathlib.Path, method: str, seed: int) -> None:
  """Writes what a finished run leaves."""
  level = {"single": 50.0, "hard": 45.0}.get(method, 55.0) + seed
  results = {
    "dataset": "rooms", "method": method, "seed": seed, "finished": True,
    "split": "test",
    "tasks": [{"name": "seg", "kind": "segmentation", "metrics": [
      {"name": "miou", "higher_is_better": True, "unit": "%",
       "test": level}]}],
  }  # fmt: skip
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "results.json").write_text(json.dumps(results))
  (folder / "report.md").write_text("# report")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
  """Commands that would have been run; each leaves a finished folder."""
  made: list[list[str]] = []

  def run(command: list[str], **more: Any) -> Any:
    made.append(command)
    folder = pathlib.Path(str(option(command, "workdir")))
    finish(
      folder,
      str(option(command, "config.method")),
      int(str(option(command, "config.seed"))),
    )
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(subprocess, "run", run)
  return made


def names(calls: list[list[str]]) -> list[str]:
  return [pathlib.Path(str(option(c, "workdir"))).name for c in calls]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
  """Runs the benchmark in a temporary folder."""

  def go(methods: str, *more: str, seeds: int = 1) -> pathlib.Path:
    return benchmark.run([
      f"--config={CONFIG}", f"--methods={methods}", f"--seeds={seeds}",
      f"--workdir={tmp_path / 'runs'}", *more,
    ])  # fmt: skip

  return go


def test_single_first_and_baseline_of_the_same_seed(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
  table = start("hard,single", "--config.train.steps=7", seeds=2)
  assert names(calls) == ["single-0", "hard-0", "single-1", "hard-1"]
  runs = tmp_path / "runs"
  assert calls[3] == [
    sys.executable, "-m", "dynashare_jax.main", f"--config={CONFIG}",
    "--config.train.steps=7", "--config.method=hard", "--config.seed=1",
    f"--config.baseline={runs / 'single-1'}", f"--workdir={runs / 'hard-1'}",
  ]  # fmt: skip
  assert option(calls[0], "config.baseline") is None
  assert table == runs / "table.md"
  text = table.read_text()
  assert text.index("| hard") < text.index("| single")  # as they were given
  assert "config.train.steps=7" in text
  assert "[4/4] hard-1: finished in" in capsys.readouterr().out


def test_finished_runs_are_reused(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
  start("single,hard")
  (tmp_path / "runs" / "hard-0" / "report.md").unlink()  # killed just before
  calls.clear()
  start("single,hard,adashare")
  assert names(calls) == ["hard-0", "adashare-0"]
  assert "[1/3] single-0: finished before" in capsys.readouterr().out
  calls.clear()
  start("single,hard", seeds=2)
  assert names(calls) == ["single-1", "hard-1"]


def test_random_policies_imitate_adashare(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:  # fmt: skip
  start("random1=random_policy+random.per_task=False,random_policy,"
        "dynashare,adashare")  # fmt: skip
  assert names(calls) == [
    "dynashare-0",
    "adashare-0",
    "random1-0",
    "random_policy-0",
  ]
  like = str(tmp_path / "runs" / "adashare-0")
  assert [option(c, "config.random.like") for c in calls] == [
    None,
    None,
    like,
    like,
  ]
  assert option(calls[2], "config.random.per_task") == "False"
  assert option(calls[2], "config.method") == "random_policy"
  assert option(calls[3], "config.random.per_task") is None


def test_random_policies_without_anything_to_imitate(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:  # fmt: skip
  start("hard,random_policy")
  assert option(calls[1], "config.random.like") is None
  calls.clear()
  start("dynashare,r=random_policy")
  assert option(calls[1], "config.random.like") == str(
    tmp_path / "runs" / "dynashare-0"
  )
  calls.clear()
  start("adashare,q=random_policy", "--config.random.like=elsewhere")
  assert [option(c, "config.random.like") for c in calls] == ["elsewhere"] * 2


def test_an_ablation_overrides_the_command_line(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
) -> None:  # fmt: skip
  start(
    "a=adashare+policy.sparsity=1e+1+gates.target_rates=(1.0,0.5),adashare",
    "--config.policy.sparsity=0.3",
  )
  assert calls[0].count("--config.policy.sparsity=1e+1") == 1
  assert "--config.policy.sparsity=0.3" not in calls[0]
  assert "--config.gates.target_rates=(1.0,0.5)" in calls[0]
  assert "--config.policy.sparsity=0.3" in calls[1]


def test_the_table_says_what_labels_stand_for(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
) -> None:  # fmt: skip
  text = start("single,bold=hard+train.steps=9").read_text()
  assert "bold: `hard` with `config.train.steps=9`" in text
  assert "−10.00" in text


@pytest.mark.parametrize(
  ("methods", "more", "words"),
  [
    ("hrd", (), "Did you mean 'hard'"),
    ("hard,hard", (), "'hard' twice"),
    ("a=hard,a=single", (), "'a' twice"),
    ("hard+train.steps=3", (), "no label"),
    ("a/b=hard", (), "names a folder"),
    (",", (), "empty"),
    ("a=hard+seed=3", (), "--seeds"),
    ("hard", ("--config.method=single",), "--methods"),
    ("hard", ("--seed=3",), "Unexpected argument"),
    ("hard", ("--config.train.stps=3",), "mean 'train.steps'"),
    ("hard,a=hard+train.stps=3", (), "mean 'train.steps'"),
    ("hard,a=hard+train.steps=many", (), "train.steps=many"),
    ("hard", ("--seeds=0",), "at least 1"),
    ("hard", (f"--config={CONFIG[:-4]}.py",), "Did you mean"),
    ("hard", ("--config.dataset=room",), "Did you mean 'rooms'"),
  ],
)
def test_errors_come_before_any_training(
  calls: list[list[str]], start: Callable[..., pathlib.Path], methods: str,
  more: tuple[str, ...], words: str,
) -> None:  # fmt: skip
  with pytest.raises(ValueError) as caught:
    start(methods, *more)
  assert words in str(caught.value)
  assert not calls


def test_a_folder_of_another_configuration_is_refused(
  calls: list[list[str]], start: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:  # fmt: skip
  start("single,hard")
  folder = tmp_path / "runs" / "hard-0"
  settings = ["method=hard", "seed=0"]  # finished, and without a baseline
  config = benchmark.load_config(CONFIG, settings).to_dict()
  (folder / "config.json").write_text(json.dumps(config))
  calls.clear()
  start("single,hard")
  with pytest.raises(ValueError, match=r"train\.steps: \d+ there, 9 now"):
    start("single,hard", "--config.train.steps=9")
  assert not calls


def test_a_failing_run_stops_and_shows_its_end(
  start: Callable[..., pathlib.Path], tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
  made = []

  def run(command: list[str], stdout: Any, **more: Any) -> Any:
    made.append(command)
    if option(command, "config.method") == "hard":
      stdout.write("".join(f"line {i}\n" for i in range(40)))
      stdout.write("error: the loss is not finite\n")
      stdout.flush()
      return subprocess.CompletedProcess(command, 2)
    finish(pathlib.Path(str(option(command, "workdir"))), "single", 0)
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(subprocess, "run", run)
  with pytest.raises(SystemExit) as stopped:
    benchmark.cli([
      f"--config={CONFIG}", "--methods=single,hard,adashare", "--seeds=1",
      f"--workdir={tmp_path}",
    ])  # fmt: skip
  assert stopped.value.code == 2
  words = capsys.readouterr().err
  assert "hard-0 failed with exit code 2" in words
  assert "the loss is not finite" in words and "line 39" in words
  assert "line 3\n" not in words
  assert names(made) == ["single-0", "hard-0"]
  assert (tmp_path / "single-0" / "results.json").is_file()
  assert not (tmp_path / "table.md").exists()


def test_a_run_without_results_is_no_success(
  start: Callable[..., pathlib.Path], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
  monkeypatch.setattr(
    subprocess, "run",
    lambda command, **more: subprocess.CompletedProcess(command, 0),
  )  # fmt: skip
  with pytest.raises(RuntimeError, match="wrote no results"):
    start("hard")


def test_the_end_of_a_good_benchmark_names_the_table(
  calls: list[list[str]], tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
  benchmark.cli([
    f"--config={CONFIG}", "--methods=hard", "--seeds=1",
    f"--workdir={tmp_path}",
  ])  # fmt: skip
  assert capsys.readouterr().out.endswith(f"table: {tmp_path / 'table.md'}\n")


def test_runs_go_below_the_data_set_by_default() -> None:
  jobs = benchmark.plan(CONFIG, _entries.parse("hard"), 1)
  assert jobs[0].folder == pathlib.Path("runs/rooms/hard-0")
