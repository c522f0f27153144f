"""The benchmark's commands, reuse, errors and table; nothing trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
import pathlib
import re
from typing import Any

from cli import fake_main
import pytest

from dynashare_jax.cli import benchmark
from dynashare_jax.cli import benchmark_jobs
from dynashare_jax.library import configs
from dynashare_jax.methods import _entries

ROOT = pathlib.Path(__file__).resolve().parents[2]
# ml_collections loads configurations so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = str(ROOT / "configs" / "rooms.py")


@pytest.fixture
def calls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_main.Program]:
  """A program that leaves what a finished run does."""
  program = fake_main.install(tmp_path / "program", monkeypatch)
  yield program
  program.end()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Callable[..., Any]:
  """Runs the benchmark in a temporary folder."""

  def go(methods: str, *more: str, seeds: int = 1) -> pathlib.Path | None:
    return benchmark.run(
      [
        f"--config={CONFIG}",
        f"--methods={methods}",
        f"--seeds={seeds}",
        f"--workdir={tmp_path / 'runs'}",
        *more,
      ]
    )

  return go


def test_single_first_and_baseline_of_the_same_seed(
  calls: fake_main.Program,
  start: Callable[..., Any],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  table = start("hard,single", "--config.train.steps=7", seeds=2)
  assert calls.names() == ["single-0", "hard-0", "single-1", "hard-1"]
  runs = tmp_path / "runs"
  assert benchmark_jobs.PROGRAM[-1] == str(calls.script)
  assert calls.records()[3]["argv"] == [
    f"--config={CONFIG}",
    "--config.train.steps=7",
    "--config.method=hard",
    "--config.seed=1",
    f"--config.baseline={runs / 'single-1'}",
    f"--workdir={runs / 'hard-1'}",
  ]
  assert calls.options("config.baseline")[::2] == [None, None]
  assert [record.get("read") for record in calls.records()] == [None, True, None, True]
  assert table == runs / "table.md"
  text = table.read_text()
  assert text.index("| hard") < text.index("| single")  # as they were given
  assert "config.train.steps=7" in text
  assert "[4/4] hard-1: finished in" in capsys.readouterr().out


def test_finished_runs_are_reused(
  calls: fake_main.Program,
  start: Callable[..., Any],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  start("single,hard")
  (tmp_path / "runs" / "hard-0" / "report.md").unlink()  # killed just before
  calls.clear()
  start("single,hard,adashare")
  assert calls.names() == ["hard-0", "adashare-0"]
  assert "[1/3] single-0: finished before" in capsys.readouterr().out
  calls.clear()
  start("single,hard", seeds=2)
  assert calls.names() == ["single-1", "hard-1"]


def test_random_policies_imitate_adashare(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  start("random1=random_policy+random.per_task=False,random_policy,dynashare,adashare")
  assert calls.names() == ["dynashare-0", "adashare-0", "random1-0", "random_policy-0"]
  like = str(tmp_path / "runs" / "adashare-0")
  assert calls.options("config.random.like") == [None, None, like, like]
  assert calls.options("config.random.per_task") == [None, None, "False", None]
  assert calls.options("config.method")[2] == "random_policy"


def test_random_policies_without_anything_to_imitate(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  start("hard,random_policy")
  assert calls.options("config.random.like") == [None, None]
  calls.clear()
  start("dynashare,r=random_policy")
  assert calls.options("config.random.like") == [None, str(tmp_path / "runs" / "dynashare-0")]
  calls.clear()
  start("adashare,q=random_policy", "--config.random.like=elsewhere")
  assert calls.options("config.random.like") == ["elsewhere"] * 2
  calls.clear()
  start("adashare,kept=adashare+train.steps=9,w=random_policy+train.steps=9+random.work=True")
  assert calls.options("config.random.like")[-1] == str(tmp_path / "runs" / "kept-0")


def test_several_random_routes_of_every_seed_share_a_row(
  calls: fake_main.Program, start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
  """Of seed 0, three routes skip one of three blocks; of seed 1, whose route is hard, none."""
  calls.set({"adashare-0": {"route": [1, 1, 0]}, "adashare-1": {"route": [1, 1, 1]}})
  text = start("single,adashare,random_policy", "--randoms=2", seeds=2).read_text()
  routes = ["random_policy-route0-0", "random_policy-route1-0"]
  assert calls.names() == ["single-0", "adashare-0", *routes, "single-1", "adashare-1"]
  assert calls.options("config.random.number")[2:4] == ["0", "1"]
  assert calls.options("config.policy.candidates")[1:4] == [None, "1", "1"]
  assert "random_policy-route1-1: left out, no such route" in capsys.readouterr().out
  assert "learnt one: random_policy-route0-1, random_policy-route1-1." in text
  assert "beats random routes" in text and " 50 |" in text  # all have one number
  assert sum(line.startswith("| random_policy") for line in text.splitlines()) == 2


def test_an_ablation_overrides_the_command_line(
  calls: fake_main.Program, start: Callable[..., Any]
) -> None:
  start(
    "a=adashare+policy.sparsity=1e+1+gates.target_rates=(1.0,0.5),adashare",
    "--config.policy.sparsity=0.3",
  )
  first, second = (record["argv"] for record in calls.records())
  assert first.count("--config.policy.sparsity=1e+1") == 1
  assert "--config.policy.sparsity=0.3" not in first
  assert "--config.gates.target_rates=(1.0,0.5)" in first
  assert "--config.policy.sparsity=0.3" in second


def test_methods_and_balancers_are_crossed(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  """Separate networks once; random routes are those of the same balancer."""
  text = start("single,adashare,random_policy", "--balances=fixed,nash").read_text()
  names = ["adashare-fixed", "adashare-nash", "random_policy-fixed", "random_policy-nash"]
  assert calls.names() == ["single-0", *(f"{name}-0" for name in names)]
  assert calls.options("config.balance.name") == ["fixed", *["fixed", "nash"] * 2]
  runs = tmp_path / "runs"
  like = [str(runs / f"adashare-{name}-0") for name in ("fixed", "nash")]
  assert calls.options("config.random.like") == [None] * 3 + like
  assert set(calls.options("config.baseline")) == {None, str(runs / "single-0")}
  assert all(f"| {name.replace('-', ' + ')} " in text for name in names)
  assert "single + " not in text and "adashare + nash," in (runs / "table.csv").read_text()


def test_the_table_says_what_labels_stand_for(
  calls: fake_main.Program, start: Callable[..., Any]
) -> None:
  text = start("single,bold=hard+train.steps=9", "--mixed=schedule").read_text()
  assert "bold: `hard` with `config.train.steps=9`" in text
  assert "−10.00" in text


@pytest.mark.parametrize(
  ("methods", "more", "words"),
  [
    ("hard", ("--randoms=2",), "random_policy in --methods"),
    ("random_policy", ("--randoms=-1",), "a number from 1 on"),
    ("r=random_policy+random.number=1", ("--randoms=2",), "Leave random.number out of r"),
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
    ("hard,a=hard+train.steps=many", (), "config.train.steps must be an integer"),
    ("hard", ("--balances=fixed,nsh",), "Did you mean 'nash'"),
    ("hard", ("--balances=nash,nash",), "each once"),
    ("hard", ("--balances=nash", "--config.balance.name=log"), "--balances sets it"),
    ("a=hard+balance.name=log", ("--balances=nash",), "--balances sets it"),
    ("hard", ("--seeds=0",), "at least 1"),
    ("single,a=hard+train.steps=9", (), "a-0 and its baseline single-0 must not be compared"),
    ("single,a=single+train.steps=9", (), "a-0 and its baseline single-0 must not be compared"),
    ("single,a=hard+model.width=9", ("--mixed=schedule",), "--mixed=schedule,backbone of"),
    ("hard", ("--config.baseline=runs/x", "--config.mixed=x"), "A name in config.mixed is 'x'"),
    ("hard", ("--mixed=schedle",), "Did you mean 'schedule'"),
    ("hard", ("--trials=hrd:3",), "Did you mean 'hard'"),
    ("hard", ("--trials=hard",), "LABEL:NUMBER with commas, each label once, but has 'hard'"),
    ("hard", ("--trials=hard:1,hard:2",), "each label once, but has 'hard:2'"),
    ("hard", (f"--config={CONFIG[:-4]}.py",), "Did you mean"),
    ("hard", ("--config.dataset=room",), "Did you mean 'rooms'"),
    ("hard", ("--jobs=0",), "--jobs must be at least 1, but is 0"),
    ("hard", ("--shard=0/4",), "from 1 (1/4 to 4/4), but is '0/4'"),
    ("hard", ("--jobs=2", "--devices=1"), "--devices has 1: 1"),
  ],
)
def test_errors_come_before_any_training(
  calls: fake_main.Program,
  start: Callable[..., Any],
  methods: str,
  more: tuple[str, ...],
  words: str,
) -> None:
  with pytest.raises(ValueError) as caught:
    start(methods, *more)
  assert words in str(caught.value)
  assert not calls.names()


def test_a_folder_of_another_configuration_is_refused(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  start("single,hard")
  folder = tmp_path / "runs" / "hard-0"
  settings = ["method=hard", "seed=0"]  # finished, and without a baseline
  config = configs.load(CONFIG, settings).to_dict()
  (folder / "config.json").write_text(json.dumps(config))
  calls.clear()
  start("single,hard")
  with pytest.raises(ValueError, match=r"train\.steps: \d+ there, 9 now"):
    start("single,hard", "--config.train.steps=9")
  assert not calls.names()


def test_a_failing_run_is_shown_and_others_go_on(
  calls: fake_main.Program, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  calls.set({"hard-0": {"code": 2}})
  with pytest.raises(SystemExit) as stopped:
    benchmark.cli(
      [f"--config={CONFIG}", "--methods=single,hard,adashare", "--seeds=1", f"--workdir={tmp_path}"]
    )
  assert stopped.value.code == 2
  words = capsys.readouterr()
  assert "[2/3] hard-0: failed with exit code 2\n" in words.out
  assert "hard-0 failed with exit code 2. The end of" in words.err
  assert "  error: hard-0 is not finite\n" in words.err
  assert "line 39\n" in words.err and "line 3\n" not in words.err
  assert f"--workdir={tmp_path / 'hard-0'}" in words.err  # its command
  assert words.err.endswith("the same benchmark command goes on from here.\n")
  assert calls.names() == ["single-0", "hard-0", "adashare-0"]
  assert (tmp_path / "adashare-0" / "results.json").is_file()
  assert not (tmp_path / "table.md").exists()


def test_a_run_without_results_is_no_success(
  calls: fake_main.Program, start: Callable[..., Any]
) -> None:
  calls.set({"*": {"silent": True}})
  with pytest.raises(RuntimeError, match="hard-0 wrote no results"):
    start("hard")


def test_the_end_of_a_good_benchmark_names_the_table(
  calls: fake_main.Program, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  benchmark.cli([f"--config={CONFIG}", "--methods=hard", "--seeds=1", f"--workdir={tmp_path}"])
  assert capsys.readouterr().out.endswith(f"table: {tmp_path / 'table.md'}\n")


def test_runs_go_below_the_data_set_by_default() -> None:
  jobs = benchmark.plan(CONFIG, _entries.parse("hard"), 1)
  assert jobs[0].folder == pathlib.Path("runs/rooms/hard-0")


METHODS = "single,hard,random_policy,adashare"


def test_runs_at_once_make_the_same_table(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  sequence = start(METHODS, seeds=2)
  before = sequence.parent.rename(tmp_path / "before")
  start(METHODS, "--jobs=3", seeds=2)
  files = sorted(path.name for path in before.iterdir() if path.is_file())
  assert {"table.md", "table.csv", "table.tex", "delta.png"} <= set(files)
  for name in files:
    now = (tmp_path / "runs" / name).read_bytes()
    if name == "table.json":
      note = re.search(rb'"notes": \["Up to 3 runs trained at once.*"\]', now)
      assert note is not None
      now = now.replace(note[0], b'"notes": []')
    if name == "table.md":
      now = now.replace(
        b"\n\n## Notes\n\n* Up to 3 runs trained at once on one machine and may"
        b" have slowed each other down: do not compare the times of their"
        b" steps.",
        b"",
      )
    assert now == (before / name).read_bytes(), name


def test_the_note_on_times_outlives_the_runs(
  calls: fake_main.Program, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  start("single,hard", "--jobs=2", seeds=2)
  assert "Up to 2 runs trained at once" in start("single", seeds=2).read_text()
  stored = json.loads((tmp_path / "runs/single-1/benchmark.json").read_text())
  assert stored == {"runs_at_once": 2}
  start("adashare")
  text = start("adashare").read_text()
  assert "trained at once" not in text  # each alone
  assert not (tmp_path / "runs/adashare-0/benchmark.json").exists()


def test_the_command_in_the_table_says_what_and_not_where(
  calls: fake_main.Program, start: Callable[..., Any]
) -> None:
  text = start("hard", "--jobs", "1", "--devices=0", "--shard=1/1").read_text()
  line = next(x for x in text.splitlines() if x.startswith("python -m"))
  assert line.endswith("/runs") and "--seeds=1" in line
  assert not any(x in line for x in ("jobs", "devices", "shard", " 1"))


def test_the_last_part_writes_the_table(
  calls: fake_main.Program,
  start: Callable[..., Any],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  table = tmp_path / "runs" / "table.md"
  assert start("single,hard", "--shard=2/2", seeds=3) is None
  assert calls.names() == ["single-1", "hard-1"]
  assert not table.exists()
  assert capsys.readouterr().out.endswith(
    "part 2/2 is finished; no table yet, for 4 of 6 runs are not finished:"
    " single-0, hard-0, single-2, hard-2. The part that ends last writes it, or"
    " the same command without --shard.\n"
  )
  calls.clear()
  assert start("single,hard", "--shard=1/2", seeds=3) == table
  assert calls.names() == ["single-0", "hard-0", "single-2", "hard-2"]
  parts = table.read_bytes()
  calls.clear()
  assert start("single,hard", seeds=3) == table
  assert not calls.names()
  assert table.read_bytes() == parts


def test_a_part_without_runs_ends_well(
  calls: fake_main.Program, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  benchmark.cli(
    [
      f"--config={CONFIG}",
      "--methods=single,hard",
      "--seeds=5",
      f"--workdir={tmp_path}",
      "--shard=6/6",
    ]
  )
  assert not calls.names()
  told = capsys.readouterr().out
  assert told.count("\n") == 1 and told.startswith("part 6/6 has no runs; no")
  assert "for 10 of 10 runs are not finished: single-0," in told
  assert "hard-3 and 2 more." in told


def test_a_later_run_that_is_named_is_not_waited_for() -> None:
  text = "a=hard+baseline=runs/rooms/b-0,b=hard+baseline=runs/x/../rooms/a-0"
  jobs = benchmark.plan(CONFIG, _entries.parse(text), 1)
  assert [job.needs for job in jobs] == [(), ("a-0",)]


def test_what_a_run_reads_is_what_it_waits_for() -> None:
  text = "hard,random_policy,dynashare,adashare,single,other=single"
  jobs = benchmark.plan(CONFIG, _entries.parse(text), 2)
  assert {job.name: job.needs for job in jobs[6:]} == {
    "single-1": (),
    "other-1": (),
    "hard-1": ("single-1",),
    "dynashare-1": ("single-1",),
    "adashare-1": ("single-1",),
    "random_policy-1": ("single-1", "adashare-1"),
  }
  settings = ["baseline=runs/rooms/single-0", "mixed=seed"]
  jobs = benchmark.plan(CONFIG, _entries.parse("single,hard"), 2, settings)
  assert [job.needs for job in jobs] == [(), *[("single-0",)] * 3]
  # A folder in which single-task runs store their results, and others of their seed look them up.
  jobs = benchmark.plan(CONFIG, _entries.parse("hard,single"), 2, ["baseline=runs/stored"])
  assert [job.needs for job in jobs] == [(), ("single-0",), (), ("single-1",)]
  assert all("--config.baseline=runs/stored" in job.arguments for job in jobs)


def test_one_of_several_processes_is_refused_without_a_part(
  calls: fake_main.Program, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
  values = {"NTASKS": "4", "PROCID": "1", "LOCALID": "1", "JOB_ID": "7"}
  for name, value in values.items():
    monkeypatch.setenv(f"SLURM_{name}", value)
  with pytest.raises(ValueError, match="no --shard says which runs"):
    start("hard")
  assert start("hard", "--shard=2/4") is None  # one group: all in part 1
  assert start("hard", "--shard=1/4") is not None
  inner = calls.records()[0]["environment"]
  assert {k for k in inner if k.startswith("SLURM_")} == {"SLURM_JOB_ID"}
