"""The contract of every method file, found and tested unasked."""

from __future__ import annotations

import json
import pathlib
import runpy
from typing import Any

import jax
from jax import numpy as jnp
import ml_collections
import numpy as np
import pytest

from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.methods import random_policy
from dynashare_jax.models.backbones import mlp
from dynashare_jax.ops import policy
from dynashare_jax.sharing import conflict
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import prices
from dynashare_jax.sharing import routes as route_lib
from dynashare_jax.sharing import skip
from dynashare_jax.train import optim

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
NAMES = methods.available()
BLOCKS = 8
# Tasks 0 and 1 agree, and both disagree with task 2.
_COSINE = np.array([[1.0, 0.3, -0.2], [0.3, 1.0, -0.2], [-0.2, -0.2, 1.0]])
MEASURED = conflict.Conflict(
  np.tile(_COSINE, (BLOCKS, 1, 1)),
  np.full((BLOCKS, 3, 3), 0.01),
  _COSINE,
  np.full((3, 3), 0.01),
  20,
)


def _config(name: str = "rooms", **values: Any) -> ml_collections.ConfigDict:
  """A config file's values; `train__cycles=3` sets `config.train.cycles`."""
  config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
  config.train.update(
    steps=50, warmup_steps=7, cycles=4, weight_steps=3, policy_steps=2, retrain_steps=11
  )
  config.policy.update(candidates=3, curriculum_speed=1)
  config.compat.search = "papers"
  for path, value in values.items():
    place: Any = config
    *folders, last = path.split("__")
    for folder in folders:
      place = place[folder]
    assert last in place
    place[last] = value
  return config


def _spec(count: int = 3) -> types.DatasetSpec:
  tasks = tuple(types.TaskSpec(f"task_{t}", "binary") for t in range(count))
  return types.DatasetSpec("toy", tasks, "image", (8, 8, 3), {"train": 64})


def _build(
  method: str, config: Any = None, tasks: int = 3, blocks: int = BLOCKS, timed: Any = None
) -> contract.Method:
  if config is None:
    config = _config()
  backbone, work = lambda **_: mlp.ResidualMlp(blocks), lambda: (1.0,) * blocks
  return methods.find(method).build(
    contract.Parts(config, _spec(tasks), backbone, blocks, jnp.float32, work, timed)
  )


def _skipping() -> list[str]:
  """Methods whose tasks execute or skip blocks of one backbone."""
  return [name for name in NAMES if isinstance(_build(name).sharing, skip.SkipSharing)]


def _told(phase: contract.Phase) -> skip.Stretch:
  return phase.settings if isinstance(phase.settings, skip.Stretch) else skip.Stretch()


# What every method promises, and what those promise that skip blocks.


@pytest.mark.parametrize("base", ["base", "rooms", "census"])
@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_every_method(name, base):
  assert _build(name, _config(base)).name == name


@pytest.mark.parametrize("name", NAMES)
def test_phases_are_valid(name):
  config, method = _config(), _build(name)
  assert method.phases and method.phases[-1].select
  groups = {*optim.GROUPS, *method.optimizers}
  for phase in method.phases:
    assert phase.name in ("warmup", "measure", "weights", "policy", "trial", "retrain")
    assert phase.steps >= 1
    assert phase.data in ("train", "weights", "policy")
    assert bool(phase.trainable) != phase.measure
    assert set(phase.trainable) <= groups
    assert phase.start in ("keep", "scratch", "policy")
    assert phase.optimizer in ("warmup", "alternate", "retrain")
    assert phase.optimizer in config.optimizers
    assert phase.select == (phase.candidate >= 0 and not phase.trial)


@pytest.mark.parametrize("name", _skipping())
def test_what_skips_blocks_is_told_how(name):
  for phase in _build(name).phases:
    assert _told(phase).routing in ("all", "soft", "random", "route")
    assert _told(phase).temperature > 0
    assert 0 <= _told(phase).open_blocks <= BLOCKS
    assert not _told(phase).penalties or "policy" in phase.trainable
    assert _told(phase).gated == ("gates" in phase.trainable)
    assert _told(phase).routing != "route" or phase.candidate >= 0


@pytest.mark.parametrize("name", _skipping())
def test_groups_belong_to_the_method(name):
  method = _build(name)
  trained = {group for phase in method.phases for group in phase.trainable}
  assert {"backbone", "heads"} <= trained
  if name != "mpps":  # which learns masks of channels, with the weights
    assert ("policy" in trained) == method.sharing.learns
    assert all(not {"policy", "backbone"} <= set(phase.trainable) for phase in method.phases)
  assert ("gates" in trained) == (method.sharing.target_rates is not None)
  if method.sharing.target_rates is not None:
    assert len(method.sharing.target_rates) == BLOCKS
    assert all(0 < rate <= 1 for rate in method.sharing.target_rates)


@pytest.mark.parametrize("name", _skipping())
def test_candidates_are_numbered_and_have_routes(name):
  method = _build(name)
  numbers = sorted({p.candidate for p in method.phases if p.candidate >= 0})
  assert numbers == list(range(len(numbers))) and numbers
  alpha, key = jax.random.uniform(jax.random.key(1), (3, BLOCKS)), jax.random.key(0)
  routes = method.sharing.routes(key, alpha, MEASURED)
  assert routes.shape == (len(numbers), 3, BLOCKS)
  assert set(np.unique(routes)) <= {0.0, 1.0}
  np.testing.assert_array_equal(routes, method.sharing.routes(key, alpha, MEASURED))
  if not method.sharing.learns:  # nothing that was not learnt is read
    np.testing.assert_array_equal(routes, method.sharing.routes(key, 1 - alpha, MEASURED))


@pytest.mark.parametrize("name", ["adashare", "dynashare"])
def test_routes_follow_the_policy(name):
  alpha = jnp.asarray([[0.0] * BLOCKS, [1.0] * BLOCKS, [0.5] * BLOCKS])
  config = _config(policy__candidates=200)
  routes = _build(name, config).sharing.routes(jax.random.key(0), alpha, None)
  assert routes.shape == (200, 3, BLOCKS)
  assert (routes[:, 0] == 0).all() and (routes[:, 1] == 1).all()
  assert abs(float(routes[:, 2].mean()) - 0.5) < 0.05


@pytest.mark.parametrize(
  "name, steps",
  [
    ("hard", 50),
    ("single", 50),
    ("random_policy", 3 * 11),
    ("adashare", 7 + 4 * (3 + 2) + 3 * 11),
    ("dynashare", 7 + 4 * (3 + 2) + 3 * 11),
  ],
)
def test_steps_add_up(name, steps):
  assert sum(phase.steps for phase in _build(name).phases) == steps


# The search.


@pytest.mark.parametrize("name", ["adashare", "dynashare"])
def test_the_search_alternates_and_opens_blocks(name):
  config = _config(
    policy__curriculum_speed=2,
    policy__temperature=4.0,
    policy__temperature_decay=0.5,
    policy__temperature_floor=0.7,
    train__cycles=6,
  )
  phases = _build(name, config).phases
  search = [p for p in phases if p.name in ("weights", "policy")]
  assert phases[0].name == "warmup" and _told(phases[0]).routing == "all"
  assert [p.name for p in search] == ["weights", "policy"] * 6
  assert [p.cycle for p in search] == sorted(list(range(6)) * 2)
  for phase in search:
    assert _told(phase).routing == "soft" and not _told(phase).gated
    assert _told(phase).open_blocks == phase.cycle // 2 + 1
    assert _told(phase).temperature == max(4.0 * 0.5**phase.cycle, 0.7)
    assert phase.data == phase.name
    assert _told(phase).penalties == (phase.name == "policy")
    assert phase.trainable == (("policy",) if phase.name == "policy" else ("backbone", "heads"))


def test_a_curriculum_of_no_speed_opens_all_blocks():
  phases = _build("adashare", _config(policy__curriculum_speed=0)).phases
  assert {_told(p).open_blocks for p in phases if _told(p).routing == "soft"} == {BLOCKS}


def test_a_search_without_warmup():
  assert _build("adashare", _config(train__warmup_steps=0)).phases[0].name == "weights"


@pytest.mark.parametrize("start", ["scratch", "policy"])
def test_where_retrainings_start(start):
  config = _config(train__retrain_from=start)
  for name in ("adashare", "dynashare"):
    phases = [p for p in _build(name, config).phases if p.candidate >= 0]
    assert {p.start for p in phases} == {start}
  # It has no search; from what it starts is what the whole run does.
  assert {p.start for p in _build("random_policy", config).phases} == {"scratch"}


# Ablations are configurations.


def test_dynashare_without_gates_is_adashare():
  ada, dyna = _build("adashare"), _build("dynashare")
  assert dyna.phases[:-3] == ada.phases[:-3]
  assert ada.sharing.target_rates is None and not any(_told(p).gated for p in ada.phases)
  assert all(_told(p).gated for p in dyna.phases[-3:])
  key, alpha = jax.random.key(0), jnp.full((3, BLOCKS), 0.5)
  np.testing.assert_array_equal(
    ada.sharing.routes(key, alpha, None), dyna.sharing.routes(key, alpha, None)
  )


def test_dynashare_without_policy_gates_every_block():
  method = _build("dynashare", _config(policy__use=False, compat__search="corrected"))
  assert [(p.name, p.start) for p in method.phases] == [("warmup", "keep"), ("retrain", "policy")]
  method = _build("dynashare", _config(policy__use=False))
  assert [p.name for p in method.phases] == ["retrain"]
  assert _told(method.phases[0]).gated and not method.sharing.learns
  assert method.phases[0].start == "scratch"
  routes = method.sharing.routes(jax.random.key(0), jnp.zeros((3, BLOCKS)), None)
  assert routes.shape == (1, 3, BLOCKS) and (routes == 1).all()
  assert method.notes


def test_dynashare_without_policy_takes_one_task():
  method = _build("dynashare", _config(policy__use=False), tasks=1)
  assert method.sharing.routes(jax.random.key(0), jnp.zeros((1, 8)), None).shape == (1, 1, 8)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("affinity", "branch", "mpps")])
def test_one_task_needs_no_sharing_loss(name):
  assert _build(name, _config(policy__sharing=0.0), tasks=1).phases


def test_one_target_rate_serves_all_blocks():
  config = _config()
  del config.gates["target_rates"]
  config.gates.target_rates = 0.5
  assert _build("dynashare", config).sharing.target_rates == (0.5,) * BLOCKS


def test_the_control_of_gates_leaves_out_as_much_for_all_examples():
  """Of the pairs with a gate of 0.6 that a route executes, 0.4 are closed, rounded."""
  rates = (1.0,) * 4 + (0.6,) * 4
  built = {
    constant: _build("dynashare", _config(gates__target_rates=rates, gates__constant=constant))
    for constant in (False, True)
  }
  find = lambda method: np.asarray(
    method.sharing.routes(jax.random.key(0), jnp.full((3, BLOCKS), 0.5), MEASURED)
  )
  free, thinned = find(built[False]), find(built[True])
  assert (thinned <= free).all() and (thinned == free)[..., :4].all()
  for before, after in zip(free, thinned, strict=True):
    assert (before - after).sum() == round(0.4 * before[:, 4:].sum())
  assert (thinned[1] != thinned[0]).any()
  np.testing.assert_array_equal(find(built[True]), thinned)
  control = built[True]
  assert not any(control.sharing.gated) and not any(control.trunk.gated)
  assert not any("gates" in phase.trainable for phase in control.phases)
  assert [p.steps for p in control.phases] == [p.steps for p in built[False].phases]
  assert "random routes leave out as much" in control.notes[-1]


# Random policies.


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("skip", [0.0, 0.3, 0.5, 0.95])
def test_random_routes_skip_the_wanted_fraction(skip, per_task):
  config = _config(random__skip=skip, random__per_task=per_task)
  method = _build("random_policy", config)
  routes = np.asarray(method.sharing.routes(jax.random.key(0), jnp.zeros((3, 8)), None))
  assert ((1 - routes).sum((1, 2)) == round(skip * 24)).all()
  if per_task:
    by_task = (1 - routes).sum(2)
    assert (by_task.max(1) - by_task.min(1) <= 1).all()
  if 0 < skip < 0.9:
    assert len(np.unique(routes.reshape(3, -1), axis=0)) == 3


def test_numbers_name_distinct_random_routes():
  """Two tasks skip one of eight blocks each: 64 routes, each a number."""
  route = np.ones((2, BLOCKS), np.float32)
  route[:, 3] = 0
  assert random_policy.distinct(route, True) == 64
  assert random_policy.distinct(route, False) == 120  # 16 over 2

  def routes(number, candidates=1):
    config = _config(random__skip=0.1, random__number=number, policy__candidates=candidates)
    sharing = _build("random_policy", config, 2).sharing
    return np.asarray(sharing.routes(jax.random.key(0), jnp.zeros((2, 8)), None))

  several = routes(0, 40)
  assert len(np.unique(several.reshape(40, -1), axis=0)) == 40
  np.testing.assert_array_equal(routes(39)[0], several[39])
  np.testing.assert_array_equal(routes(5, 3), several[5:8])
  with pytest.raises(ValueError, match="number=64 with 1 cand.* 64 distinct .* skip 1, 1 of 8"):
    routes(64)


def test_random_routes_of_the_same_work():
  """Like a route in which two tasks leave out the first of eight equal blocks: 7/8 of the work."""
  costs = (1.0,) * BLOCKS

  def routes(number, candidates, serve):
    config = _config(
      random__skip=0.1,
      random__work=True,
      random__number=number,
      policy__candidates=candidates,
      policy__serve=serve,
    )
    method = _build("random_policy", config, 2)
    made = method.sharing.routes(jax.random.key(0), jnp.zeros((2, 8)), None)
    return method.notes[0], np.asarray(made)

  for serve in ("together", "apart"):
    note, several = routes(0, 20, serve)
    assert note == f"Random routes that take 88% of hard sharing's work, {serve}."
    assert len(np.unique(several.reshape(20, -1), axis=0)) == 20
    assert all(abs(route_lib.work(r, costs, serve) - 0.875) <= 0.02 for r in several)
    np.testing.assert_array_equal(routes(5, 3, serve)[1], several[5:8])


def test_too_few_random_routes_of_the_same_work():
  with pytest.raises(ValueError, match="9 different random routes with 50% .* only 2 were found"):
    route_lib.of_work(np.random.default_rng(0), np.array([[1, 0]]), 9, (1, 1))


def _finished(folder: pathlib.Path, **changes: Any) -> str:
  route = np.ones((3, BLOCKS), int)
  route[0, 2:7] = 0
  route[1, 4] = 0
  saved = {
    "tasks": ["task_0", "task_1", "task_2"],
    "routes": [np.ones_like(route).tolist(), route.tolist()],
    "chosen": 1,
  } | changes
  (folder / "policy.json").write_text(json.dumps(saved))
  return str(folder)


def test_random_routes_imitate_a_finished_run(tmp_path):
  folder = _finished(tmp_path)
  for per_task in (True, False):
    config = _config(random__like=folder, random__per_task=per_task)
    method = _build("random_policy", config)
    routes = np.asarray(method.sharing.routes(jax.random.key(0), jnp.zeros((3, 8)), None))
    skipped = (1 - routes).sum(2)
    assert (skipped.sum(1) == 6).all()
    assert (skipped == [5, 1, 0]).all() == per_task
    wanted = "skip 5, 1, 0 of 8" if per_task else "skip 6 of 24"
    assert wanted in method.notes[0]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"routes": [[[1] * 4] * 3] * 2}, r"shape \(3, 4\).*\(3, 8\)"),
    ({"tasks": ["task_1", "task_0", "task_2"]}, "is of the tasks"),
  ],
)
def test_another_kind_of_run_is_not_imitated(tmp_path, changes, message):
  config = _config(random__like=_finished(tmp_path, **changes))
  with pytest.raises(ValueError, match=message):
    _build("random_policy", config)


def test_a_missing_run_is_not_imitated(tmp_path):
  config = _config(random__like=str(tmp_path / "no"))
  with pytest.raises(ValueError, match="there is no .*policy.json"):
    _build("random_policy", config)


# What is refused.


@pytest.mark.parametrize(
  "name, near", [("dynashar", "dynashare"), ("adashar", "adashare"), ("Hard", "hard")]
)
def test_an_unknown_method_names_the_nearest(name, near):
  with pytest.raises(ValueError, match=rf"'{name}'.*Did you mean '{near}'\?"):
    methods.find(name)


def test_a_method_unlike_all_names_what_there_is():
  with pytest.raises(ValueError, match="Available: adashare, affinity, "):
    methods.find("zzzzzz")


def test_private_files_are_no_methods():
  assert not any(name.startswith("_") for name in NAMES)
  with pytest.raises(ValueError, match="Unknown method"):
    methods.find("_schedule")


@pytest.mark.parametrize(
  "method, path, value, message",
  [
    ("hard", "train__steps", 0, "train.steps must be at least 1"),
    ("single", "train__steps", -3, "train.steps must be at least 1"),
    ("adashare", "train__cycles", 0, "train.cycles must be at least 1"),
    ("dynashare", "train__cycles", -1, "train.cycles must be at least 1"),
    ("adashare", "train__warmup_steps", -1, "warmup_steps must be at least 0"),
    ("adashare", "train__weight_steps", 0, "weight_steps must be at least 1"),
    ("adashare", "train__policy_steps", 0, "policy_steps must be at least 1"),
    ("adashare", "train__retrain_steps", 0, "retrain_steps must be at least 1"),
    ("adashare", "policy__candidates", 0, "candidates must be at least 1"),
    ("dynashare", "policy__candidates", 0, "candidates must be at least 1"),
    ("random_policy", "policy__candidates", 0, "candidates must be at least 1"),
    ("dynashare", "train__retrain_from", "best", "retrain_from is 'best'"),
    ("random_policy", "random__skip", 1.0, r"random.skip must be in \[0, 1\)"),
    ("random_policy", "random__skip", -0.1, r"random.skip must be in \[0, 1\)"),
    ("random_policy", "random__skip", float("nan"), r"must be in \[0, 1\)"),
    ("adashare", "policy__temperature", 0.0, "temperature needs initial > 0"),
    ("adashare", "policy__temperature_decay", 1.5, "decay <= 1"),
    ("adashare", "policy__curriculum_speed", -1, "speed"),
    ("cross_stitch", "fusion__own", 1.5, r"fusion.own must be in \[0, 1\], but is 1.5"),
    ("nddr", "fusion__places", "segment", "fusion.places is 'segment'.*Did you mean 'segments'"),
    ("sluice", "fusion__orthogonal", float("nan"), "orthogonal must be at least 0, but is nan"),
    ("mtan", "attention__design", "blocks", "attention.design is 'blocks'.*Did you mean 'block'"),
    ("branch", "branch__cost", -0.1, "branch.cost must be at least 0, but is -0.1"),
    ("dynashare", "gates__target_rates", (0.5,) * 7, "7.*for 8 blocks"),
    ("dynashare", "gates__target_rates", (1.0,) * 7 + (0.0,), "block 7 is 0.0"),
    ("dynashare", "gates__target_rates", (1.0,) * 7 + (1.1,), "block 7 is 1.1"),
  ],
)
def test_a_value_without_sense_is_refused(method, path, value, message):
  with pytest.raises(ValueError, match=message):
    _build(method, _config(**{path: value}))


@pytest.mark.parametrize("name", ["adashare", "dynashare"])
def test_one_task_has_none_to_share_with(name):
  """Whatever the weight: the penalty is none, and that is said once."""
  config = _config()
  assert config.policy.sharing > 0
  method = _build(name, config, tasks=1)
  assert method.sharing.sharing[0] == 0
  assert sum("one task" in note and "policy.sharing" in note for note in method.notes) == 1
  several = _build(name, config)
  assert several.sharing.sharing[0] > 0 and not several.notes


def test_defaults_of_the_base_config_reach_the_policy():
  phases = _build("dynashare", _config("base")).phases
  config = _config("base")
  soft = [p for p in phases if _told(p).routing == "soft"]
  assert _told(soft[0]).temperature == config.policy.temperature
  assert _told(soft[-1]).temperature == policy.temperature(
    3, config.policy.temperature, config.policy.temperature_decay, config.policy.temperature_floor
  )


# The corrected search.


def _corrected(**values: Any) -> ml_collections.ConfigDict:
  config = _config(compat__search="corrected", train__retrain_steps=24)
  config.policy.update(candidates=4, warmup="random", measure=5, serve="apart", budget=0.5)
  for name, value in values.items():
    config.policy[name] = value
  return config


@pytest.mark.parametrize("name", ["adashare", "dynashare"])
def test_gradients_are_compared_on_examples_that_the_warmup_did_not_see(name):
  first, second = _build(name, _corrected()).phases[:2]
  assert (first.name, first.data, _told(first).routing) == ("warmup", "weights", "random")
  assert second.measure and second.data == "policy" and second.steps == 5
  assert second.trainable == ()


@pytest.mark.parametrize("name", ["adashare", "dynashare"])
def test_trials_are_short_and_one_route_is_trained_in_full(name):
  phases = [p for p in _build(name, _corrected()).phases if p.candidate >= 0]
  short = [(1, number, 2) for number in range(4)]
  assert [(p.trial, p.candidate, p.steps) for p in phases] == [
    *short, (2, 0, 6), (2, 1, 6), (0, 0, 24)
  ]  # fmt: skip
  many = [p for p in _build(name, _corrected(candidates=8)).phases if p.candidate >= 0]
  assert sum(p.steps for p in many) == 16 + 12 + 24 < 8 * 24 / 3
  two = [p for p in _build(name, _corrected(finalists=2)).phases if p.candidate >= 0]
  assert [(p.trial, p.candidate, p.steps) for p in two] == [*short, (0, 0, 24), (0, 1, 24)]
  assert [p.steps for p in _build("affinity", _corrected()).phases][-3:] == [6, 6, 24]


def test_all_routes_are_trained_in_full_without_halving():
  phases = _build("adashare", _corrected(halving=False)).phases
  assert [p.steps for p in phases if p.candidate >= 0] == [24] * 4


def test_three_finalists_are_refused():
  with pytest.raises(ValueError, match="policy.finalists must be 1 or 2, but is 3"):
    _build("adashare", _corrected(finalists=3))


def test_halving_of_one_candidate_is_refused():
  with pytest.raises(ValueError, match="candidates is 1.*policy.halving=False"):
    _build("adashare", _corrected(candidates=1))


@pytest.mark.parametrize("name", ["adashare", "affinity"])
def test_routes_part_those_who_disagree(name):
  method = _build(name, _corrected(keep_first=False))
  best, hard = method.sharing.routes(jax.random.key(0), jnp.full((3, BLOCKS), 0.5), MEASURED)[:2]
  np.testing.assert_array_equal(best.sum(1), [4, 4, 4])
  np.testing.assert_array_equal(best[0], best[1])
  np.testing.assert_array_equal(best[2], 1 - best[0])
  assert hard.all()


def test_the_policy_decides_which_blocks_where_agreement_leaves_it_open():
  method = _build("adashare", _corrected(keep_first=False))
  alpha = np.full((3, BLOCKS), 0.5)
  alpha[0, 4:] = alpha[1, 4:] = 0.9
  best = method.sharing.routes(jax.random.key(0), jnp.asarray(alpha), MEASURED)[0]
  np.testing.assert_array_equal(best, [[0, 0, 0, 0, 1, 1, 1, 1]] * 2 + [[1, 1, 1, 1, 0, 0, 0, 0]])


def test_the_first_block_is_kept():
  routes = _build("adashare", _corrected()).sharing.routes(
    jax.random.key(0), jnp.full((3, BLOCKS), 0.5), MEASURED
  )
  assert routes[:, :, 0].all()


def test_affinity_needs_tasks_and_batches():
  with pytest.raises(ValueError, match="compares tasks, and there is only task_0"):
    _build("affinity", _corrected(), tasks=1)
  with pytest.raises(ValueError, match="policy.measure=20"):
    _build("affinity", _corrected(measure=0))


def test_subspaces_need_even_widths():
  backbone, work = lambda: mlp.ResidualMlp(2, width=7), lambda: (1.0,) * 2
  parts = contract.Parts(_config(), _spec(2), backbone, 2, jnp.float32, work)
  with pytest.raises(ValueError, match="halves the channels .* project has 7: choose even widths"):
    methods.find("sluice").build(parts)


def test_a_tree_needs_tasks():
  with pytest.raises(ValueError, match="'branch' parts tasks, and there is only task_0"):
    _build("branch", tasks=1)


def test_gradients_without_a_warmup_are_refused():
  config = _corrected()
  config.train.warmup_steps = 0
  with pytest.raises(ValueError, match="warmup_steps is 0.*policy.measure=0"):
    _build("adashare", config)


def test_a_budget_below_one_block_a_task_is_refused_before_training():
  with pytest.raises(ValueError, match="budget=0.05 is too small for one block a task"):
    _build("adashare", _corrected(budget=0.05))


@pytest.mark.parametrize("name", ["adashare", "dynashare", "affinity"])
def test_milliseconds_take_the_place_of_the_share(name):
  """All blocks are equal in work, and block 1 is dear on the clock."""
  each = (1.0, 9.0) + (1.0,) * (BLOCKS - 2)
  nothing = (0.0,) * BLOCKS
  parts = prices.Prices(3.0, each, each, nothing, (0.0,) * 3)
  most = 3 * (3.0 + BLOCKS - 1)  # apart, all but the dear one
  config = _corrected(budget=0.05, budget_ms=most, latency="ms.json")
  timed = prices.Timed(parts, 1, "a clock")
  sharing = _build(name, config, timed=timed).sharing
  friends = MEASURED._replace(mean=jnp.ones((3, 3)))
  routes = sharing.routes(jax.random.key(0), jnp.full((3, BLOCKS), 0.5), friends)
  for route in np.asarray(routes[:2]):  # the best, and hard sharing cut to fit
    np.testing.assert_array_equal(route, np.tile([1, 0] + [1] * (BLOCKS - 2), (3, 1)))
  if name != "affinity":
    assert sharing.budget.costs == each
    assert sharing.budget.share == pytest.approx((BLOCKS - 1) / sum(each))
  with pytest.raises(
    ValueError, match="budget_ms=11 is too small .*, which takes 12 ms, served ap"
  ):
    _build(name, _corrected(budget_ms=11.0, latency="ms.json"), timed=timed)
