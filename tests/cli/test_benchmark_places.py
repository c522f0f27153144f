"""Where runs train: parts of a cluster, GPUs, what the environment says."""

from __future__ import annotations

import pathlib
import random

import pytest

from dynashare_jax.cli import benchmark_jobs
from dynashare_jax.cli import benchmark_places as places
from dynashare_jax.methods import _entries

VISIBLE = "CUDA_VISIBLE_DEVICES"


def make(**needs: str) -> list[benchmark_jobs.Job]:
  """Runs by name, with the names of what each needs between blanks."""
  return [
    benchmark_jobs.Job(
      _entries.Entry(name, "hard"), 0, pathlib.Path(name), (), tuple(other.split())
    )
    for name, other in needs.items()
  ]


def names(jobs: tuple[benchmark_jobs.Job, ...]) -> str:
  return "".join(job.name for job in jobs)


def test_groups_are_joined_by_a_later_run() -> None:
  jobs = make(a="", b="", c="", d="", e="b", f="a c", g="f", h="d")
  assert list(map(names, places.groups(jobs))) == ["acfg", "be", "dh"]
  assert places.groups([]) == ()


def test_parts_by_hand() -> None:
  # Groups ad, b, cefg: the largest to part 1, then ad to 2, then b to 2.
  jobs = make(a="", b="", c="", d="a", e="c", f="c", g="e")
  assert names(places.part(jobs, 1, 2)) == "cefg"
  assert names(places.part(jobs, 2, 2)) == "abd"
  assert [names(places.part(jobs, k, 4)) for k in (1, 2, 3, 4)] == ["cefg", "ad", "b", ""]
  assert places.part(jobs, 1, 1) == tuple(jobs)


def test_equal_seeds_are_dealt_in_turn() -> None:
  jobs = make(**{f"s{k}": "" for k in range(5)}, **{f"h{k}": f"s{k}" for k in range(5)})
  assert [names(places.part(jobs, k, 3)) for k in (1, 2, 3)] == ["s0s3h0h3", "s1s4h1h4", "s2h2"]


@pytest.mark.parametrize("seed", range(20))
def test_parts_have_every_run_once_and_all_that_it_needs(seed: int) -> None:
  rng = random.Random(seed)
  labels = [f"r{k}" for k in range(rng.randint(1, 25))]
  jobs = make(
    **{
      label: " ".join(rng.sample(labels[:k], min(k, rng.choice([0, 0, 1, 2]))))
      for k, label in enumerate(labels)
    }
  )
  parts = rng.randint(1, 7)
  found = [places.part(jobs, k + 1, parts) for k in range(parts)]
  dealt = [job.name for own in found for job in own]
  assert sorted(dealt) == sorted(labels)
  for own in found:
    inside = {job.name for job in own}
    assert all(inside.issuperset(job.needs) for job in own)
    assert [job.name for job in own] == [x for x in labels if x in inside]
  largest = max(map(len, places.groups(jobs)))
  loads = sorted(map(len, found))
  assert loads[-1] <= largest or loads[-1] - loads[0] <= largest


@pytest.mark.parametrize(("text", "found"), [("1/1", (1, 1)), ("2/3", (2, 3)), ("12/12", (12, 12))])
def test_a_part_is_read(text: str, found: tuple[int, int]) -> None:
  assert places.read_part(text) == found


@pytest.mark.parametrize("text", ("0/2", "3/2", "1", "1/", "-1/2", "a/b"))
def test_no_part(text: str) -> None:
  with pytest.raises(ValueError) as caught:
    places.read_part(text)
  assert str(caught.value) == (
    f"--shard must be i/n: part i of n, counted from 1 (1/4 to 4/4), but is {text!r}."
  )


@pytest.mark.parametrize(
  ("jobs", "devices", "outer", "found"),
  [
    (4, "0,1,2,3", {}, ["0", "1", "2", "3"]),
    (2, "0, 1,2,3", {}, ["0,1", "2,3"]),
    (3, "0,1,2,3,4,5,6,7", {}, ["0,1", "2,3", "4,5"]),
    (1, "2,3", {}, ["2,3"]),
    (2, "", {VISIBLE: "4,5"}, ["4", "5"]),
    (2, "5,4", {VISIBLE: "4,5,6"}, ["5", "4"]),
    (4, "0,0,1,1", {}, ["0", "0", "1", "1"]),
    (2, "0,1", {"JAX_PLATFORMS": "cpu"}, ["0", "1"]),
    (2, "", {VISIBLE: "GPU-8f2a,GPU-77b1"}, ["GPU-8f2a", "GPU-77b1"]),
    # Nothing to deal.
    (1, "", {}, [None]),
    (1, "", {VISIBLE: "4,5"}, [None]),
    (3, "", {VISIBLE: ""}, [None] * 3),
    (2, "", {VISIBLE: "-1"}, [None] * 2),
    (3, "", {VISIBLE: "0", "JAX_PLATFORMS": "cpu"}, [None] * 3),
  ],
)
def test_gpus_are_dealt(
  jobs: int, devices: str, outer: dict[str, str], found: list[str | None]
) -> None:
  shares = places.shares(jobs, devices, outer, "/nowhere/*")
  assert shares == tuple({VISIBLE: x} if x else {} for x in found)


def test_gpus_that_nobody_named(tmp_path: pathlib.Path) -> None:
  pattern = str(tmp_path / "nvidia[0-9]*")
  (tmp_path / "nvidiactl").touch()
  assert places.shares(2, "", {}, pattern) == ({}, {})
  (tmp_path / "nvidia0").touch()
  with pytest.raises(ValueError, match="--jobs=2 on a machine with GPUs: say"):
    places.shares(2, "", {}, pattern)
  assert places.shares(1, "", {}, pattern) == ({},)
  assert places.shares(2, "", {"JAX_PLATFORMS": "cpu"}, pattern) == ({}, {})


@pytest.mark.parametrize(
  ("jobs", "devices", "outer", "words"),
  [
    (0, "", {}, "--jobs must be at least 1, but is 0."),
    (3, "0,1", {}, "--jobs=3 needs a GPU for each run, but --devices has 2:"),
    (3, "", {VISIBLE: "0,1"}, "but CUDA_VISIBLE_DEVICES has 2: 0,1"),
    (2, "0,3", {VISIBLE: "0,1"}, "--devices names 3, but CUDA_VISIBLE_DEVICES"),
    (2, "0,0,1,1", {}, "--devices gives one run the same GPU twice: 0,0."),
    (1, ",", {}, "--devices has 0"),
  ],
)
def test_gpus_that_do_not_fit(jobs: int, devices: str, outer: dict[str, str], words: str) -> None:
  with pytest.raises(ValueError) as caught:
    places.shares(jobs, devices, outer, "/nowhere/*")
  assert words in str(caught.value)


def test_a_run_is_alone_where_a_part_was_given() -> None:
  outer = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "OMPI_COMM_WORLD_SIZE": "4",
    "SLURM_JOB_ID": "5",
    "HOME": "/h",
  }
  assert places.environment(True, outer) == {"SLURM_JOB_ID": "5", "HOME": "/h"}
  assert outer["SLURM_NTASKS"] == "4"
  with pytest.raises(ValueError, match="no --shard says which runs"):
    places.environment(False, outer)
  # An array, or a script without srun: one process.
  outer = {
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
  }
  assert places.environment(False, outer) == outer
  with pytest.raises(ValueError, match="every run would wait for the others"):
    places.environment(True, {"TPU_WORKER_HOSTNAMES": "a,b"})
