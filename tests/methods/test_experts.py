"""Methods of experts: what they draw, what they refuse, and whole runs."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.models.backbones import mlp
from dynashare_jax.sharing import contract

NAMES = ("mmoe", "mmoeex", "ple")


def _build(method, tasks=3, **values):
  """A method of experts over four blocks of an MLP."""
  config = configs.make(method=method, **values)
  spec = types.DatasetSpec(
    "toy",
    tuple(types.TaskSpec(f"t{t}", "binary") for t in range(tasks)),
    "series",
    (6,),
    {"train": 64},
  )
  backbone = lambda: mlp.ResidualMlp(4, width=6, hidden=8)
  parts = contract.Parts(config, spec, backbone, 4, jnp.float32, lambda: (1.0,) * 4)
  return methods.find(method).build(parts)


def _reads(links, seed, count=6, share=0.7, tasks=3):
  values = {"experts__links": links, "experts__count": count, "experts__exclusive": share}
  return _build("mmoeex", tasks, seed=seed, **values).trunk.reads


@pytest.mark.parametrize("links", ["exclusivity", "exclusion"])
def test_links_are_drawn_from_the_seed(links):
  """Of 6 experts 4 (0.7 of 6, rounded down) have closed links, and 2 serve all tasks."""
  draws = set()
  for seed in range(12):
    reads = _reads(links, seed)
    assert reads == _reads(links, seed)
    draws.add(reads)
    readers = [[t for t in range(3) if e in reads[t]] for e in range(6)]
    assert [len(r) for r in readers] == [1 if links == "exclusivity" else 2] * 4 + [3] * 2
  assert len(draws) > 8
  first = [tuple(0 in reads[t] for t in range(3)) for reads in draws]
  assert len(set(first)) == 3  # every task is drawn


def test_two_tasks_make_both_kinds_of_link_alike():
  for seed in range(4):
    one, other = _reads("exclusivity", seed, tasks=2), _reads("exclusion", seed, tasks=2)
    assert one == other[::-1]


@pytest.mark.parametrize("share, closed", [(0.0, 0), (0.1, 0), (0.29, 29), (0.999999, 99)])
def test_the_share_of_closed_experts_is_rounded_down(share, closed):
  count = 100 if closed else 4
  reads = _reads("exclusivity", 0, count, share)
  assert len(set.intersection(*map(set, reads))) == count - closed
  assert all(count - 1 in experts for experts in reads)  # one expert serves all


def test_notes_say_which_links_are_closed():
  values = {"experts__count": 4, "experts__links": "exclusion", "experts__inner": 0.0}
  method = _build("mmoeex", **values)
  assert method.phases[0].inner is None
  for e in range(2):
    (out,) = (t for t in range(3) if e not in method.trunk.reads[t])
    assert method.notes[e] == f"Expert {e} serves all tasks but t{out}."
  assert len(method.notes) == 2


@pytest.mark.parametrize("levels, blocks", [(1, (4,)), (2, (2, 2)), (3, (2, 1, 1)), (4, (1,) * 4)])
def test_levels_part_the_segments(levels, blocks):
  method = _build("ple", experts__levels=levels, experts__own=2, experts__shared=1)
  assert method.trunk.levels == blocks and method.trunk.units == 4
  assert method.trunk.reads == ((0, 1, 6), (2, 3, 6), (4, 5, 6))
  assert method.trunk.streams == (0, 0, 1, 1, 2, 2, 3)
  assert method.sharing.experts == ("t0 0", "t0 1", "t1 0", "t1 1", "t2 0", "t2 1", "shared 0")
  with_shared = ("t0", "t1", "t2", "shared")
  assert method.sharing.streams == (with_shared,) * (levels - 1) + (with_shared[:3],)


@pytest.mark.parametrize(
  "method, values, message",
  [
    ("mmoe", {"count": 0}, "config.experts.count must be at least 1, but is 0"),
    ("mmoeex", {"count": 1}, "config.experts.count must be at least 2, but is 1"),
    ("mmoeex", {"exclusive": 1.0}, r"config.experts.exclusive must be in \[0, 1\)"),
    ("mmoeex", {"exclusive": -0.1}, r"config.experts.exclusive must be in \[0, 1\)"),
    ("mmoeex", {"exclusive": float("nan")}, r"config.experts.exclusive must be in \[0, 1\)"),
    ("mmoeex", {"inner": -1.0}, "config.experts.inner must be at least 0 and finite, but is -1"),
    ("mmoeex", {"inner": float("inf")}, "config.experts.inner must be at least 0 and finite"),
    ("mmoeex", {"inner_share": 1.0}, r"config.experts.inner_share must be in \(0, 1\)"),
    ("mmoeex", {"links": "exclusiv"}, "config.experts.links is 'exclusiv'.*'exclusivity'"),
    ("ple", {"own": 0, "shared": 0}, "config.experts.own and config.experts.shared are 0"),
    ("ple", {"own": -1, "shared": 3}, "config.experts.own must be at least 0, but is -1"),
    ("ple", {"own": 3, "shared": -1}, "config.experts.shared must be at least 0, but is -1"),
    ("ple", {"levels": 0}, r"config.experts.levels must be in 1 .. 4.*'mlp', but is 0"),
    ("ple", {"levels": 5}, r"config.experts.levels must be in 1 .. 4.*'mlp', but is 5"),
  ],
)
def test_a_value_without_sense_is_refused(method, values, message):
  with pytest.raises(ValueError, match=message):
    _build(method, **{f"experts__{name}": value for name, value in values.items()})


def test_one_task_cannot_be_excluded():
  with pytest.raises(ValueError, match="only t0: set --config.experts.links=exclusivity"):
    _build("mmoeex", 1, experts__links="exclusion")


@pytest.mark.parametrize("method", NAMES)
def test_weights_that_make_all_experts_alike_are_refused(method):
  with pytest.raises(ValueError, match=f"{method}.*config.model.weights would give all of them"):
    _build(method, model__weights="file.pt")


@pytest.mark.parametrize(
  "method, values, rows, open_links",
  [
    ("mmoe", {"model__blocks": (1,)}, (2,), 2 * 2),
    ("mmoeex", {"model__blocks": (1,)}, (2,), 2),  # one task reads one expert, and has no gate
    ("ple", {"experts__levels": 2}, (3, 2), 2 * 2 + 3 + 2 * 2),
  ],
)
def test_a_whole_run_learns_and_tells_its_mixtures(whole, method, values, rows, open_links):
  run = whole(method=method, experts__count=2, train__steps=4, **values)
  start = run.experiment.initial_state().params["network"]["trunk"]
  end = run.state.params["network"]["trunk"]
  moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), start, end)
  assert all(jax.tree.leaves(moved))
  kernels = [part["project"]["kernel"] for name, part in start.items() if "experts" in name]
  assert all((kernels[0] != other).all() for other in kernels[1:])  # else they would stay alike
  gates = [part for name, part in start.items() if "mixture" in name]
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(gates))  # a uniform mixture
  panels = run.results["learned"]["panels"]
  count = len(run.experiment.network.trunk.experts)
  assert [np.shape(panel["values"]) for panel in panels] == [(n, count) for n in rows]
  for panel in panels:
    np.testing.assert_allclose(np.sum(panel["values"], 1), 1, rtol=1e-5)
    assert panel["rows"][:2] == ["a", "b"] and len(panel["columns"]) == count
  reads = run.experiment.network.trunk.reads
  shut = [[e not in experts for e in range(count)] for experts in reads]
  assert ((np.asarray(panels[-1]["values"]) == 0) == shut).all()
  # Of every open link the 8 channels that a gate reads, and a bias.
  assert run.results["parameters"]["fusion"] == 9 * open_links
  assert run.results["execution"]["rate"] == [[1.0] * run.experiment.units] * 2


def test_a_stopped_run_with_inner_steps_goes_on(whole, train, stopped, tmp_path, same_bits):
  values = {"method": "mmoeex", "experts__count": 2, "train__steps": 4, "model__blocks": (1,)}
  want = whole(**values)
  stopped(tmp_path, 2, train__checkpoint_every=1, **values)
  got = train(tmp_path, **values)
  same_bits(got.state, want.state)
  assert got.lines == want.lines
  assert {"outer/a", "outer/b"} < set(want.lines[0]["values"])


def test_the_mean_mixture_is_that_of_all_first_steps():
  sharing = _build("mmoe", 2, experts__count=2).sharing
  memory, seen = sharing.memory({}), []
  for step in range(3):
    now = jnp.asarray([[step / 4, 1 - step / 4], [0.5, 0.5]])
    signals = type("Signals", (), {"own": (now,)})
    memory = sharing.remember((), {}, memory, (), signals, None)
    seen.append(now)
  np.testing.assert_allclose(memory["mean"][0], np.mean(seen, 0), rtol=1e-6)
