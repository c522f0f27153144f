"""Tests of the loop: what a whole run does, and how it refuses to go on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import configs

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.checkpoints import workdir
from dynashare_jax.data import loader
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import policy
from dynashare_jax.ops import routing
from dynashare_jax.train import checks
from dynashare_jax.train import evaluate
from dynashare_jax.train import finite
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages
from dynashare_jax.train import state as state_lib

HARD = {
  "method": "hard",
  "train__steps": 6,
  "train__eval_every": 3,
  "train__log_every": 1,
  "train__checkpoint_every": 1,
  "optimizers__retrain__schedule": "constant",
  "optimizers__retrain__weight_decay": 0.0,
}


def test_phases_follow_one_another(whole):
  run = whole()
  lines = run.lines
  seen = [
    (line["phase"], line["cycle"], line["candidate"], line["step"])
    for line in lines
    if line["kind"] == "train"
  ]
  assert [s for s in seen if s[0] != "retrain"] == [
    ("warmup", 0, -1, 2),
    ("warmup", 0, -1, 4),
    ("weights", 0, -1, 6),
    ("weights", 0, -1, 7),
    ("policy", 0, -1, 9),
    ("weights", 1, -1, 11),
    ("weights", 1, -1, 12),
    ("policy", 1, -1, 14),
  ]
  assert [s[3] for s in seen if s[2] == 0] == [16, 17, 18, 20]
  assert [s[3] for s in seen if s[2] == 1] == [22, 23, 24, 26]
  assert [line["step"] for line in lines if line["kind"] == "alpha"] == [9, 14]
  evaluated = [(line["phase"], line["step"]) for line in lines if line["kind"] == "eval"]
  assert evaluated == [
    ("warmup", 4),
    ("policy", 14),
    ("retrain", 17),
    ("retrain", 20),
    ("retrain", 23),
    ("retrain", 26),
  ]
  temperatures = {
    line["cycle"]: line["values"]["temperature"]
    for line in lines
    if "temperature" in line["values"]
  }
  assert temperatures == {0: 5.0, 1: 4.0}


def test_the_best_on_validation_is_kept(whole):
  run = whole()
  scores = {
    line["step"]: line["values"]["score"]
    for line in run.lines
    if line["kind"] == "eval" and line["phase"] == "retrain"
  }
  best = max(scores.values())
  first = min(step for step, score in scores.items() if score == best)
  np.testing.assert_array_equal(run.state.best.step, [first] * 2)
  candidate = 0 if first <= 20 else 1
  np.testing.assert_array_equal(run.state.best.candidate, [candidate] * 2)
  np.testing.assert_allclose(run.state.best.scores.mean(), best, 1e-6)
  assert run.found["chosen"] == candidate
  by_candidate = [c["score"] for c in run.found["candidates"]]
  assert by_candidate == [
    max(v for s, v in scores.items() if s <= 20),
    max(v for s, v in scores.items() if s > 20),
  ]
  routes = [c["route"] for c in run.found["candidates"]]
  np.testing.assert_array_equal(routes, run.state.routes)


def test_every_program_is_compiled_once(train, programs, tmp_path, monkeypatch):
  """No phase compiles again because types or places of the state change."""
  made = []
  make = loop_lib.step_lib.make

  def noted(*args):
    made.append(make(*args))
    return made[-1]

  monkeypatch.setattr(loop_lib.step_lib, "make", noted)
  programs.clear()
  train(tmp_path)
  # Warm-up, weights, policy, re-training (masked: one for both candidates).
  assert [f._cache_size() for f in made] == [1, 1, 1, 1]


def test_hard_sharing_equals_a_loop_by_hand(build, whole):
  """Adam on the weighted sum of losses, batch after batch, nothing else."""
  experiment = build(**HARD)
  state = experiment.initial_state()
  params = state.params["network"]
  tx = optax.adam(0.01, 0.5, 0.999)
  opt = tx.init(params)
  arrays = experiment.dataset.arrays("train")
  rows = loader.Order(64, 8, 0, "retrain").indices(0, 6)
  decisions = skip_trunk.Decisions(routing.all_run(2, 2))

  @jax.jit
  @jax.value_and_grad
  def value_and_grad(params, batch):
    logits, _ = experiment.network.apply({"params": params}, batch.inputs, decisions, True)
    parts = [
      kinds.find(t.kind).loss(t, logits[t.name], batch.targets[t.name], batch.valid[t.name])
      for t in experiment.tasks
    ]
    return sum(t.weight * p.total / p.count for t, p in zip(experiment.tasks, parts, strict=True))

  losses = []
  for chosen in rows:
    value, grads = value_and_grad(params, loader.take(arrays, chosen))
    moves, opt = tx.update(grads, opt)
    params = optax.apply_updates(params, moves)
    losses.append(value)
  run = whole(**HARD)
  np.testing.assert_allclose(run.losses, losses, 1e-5)
  for a, b in zip(
    jax.tree.leaves(run.state.params["network"]), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(a, b, 1e-3, 1e-5)


def test_steps_per_dispatch_changes_nothing_but_rounding(train, whole, tmp_path):
  """Also where they do not divide what lies between two logs."""
  run = train(tmp_path, **HARD | {"train__steps_per_dispatch": 2, "train__log_every": 3})
  wanted = whole(**HARD)
  np.testing.assert_allclose(run.losses, wanted.losses.reshape(2, 3).mean(1), 1e-5)
  for a, b in zip(jax.tree.leaves(run.state), jax.tree.leaves(wanted.state), strict=True):
    np.testing.assert_allclose(a, b, 1e-3, 1e-5)


def test_streamed_equals_resident(train, whole, tmp_path, same_run):
  run = train(tmp_path, train__resident=False, **HARD)
  same_run(run, whole(**HARD))


def test_every_task_has_its_share_of_a_batch(build, monkeypatch):
  """Of data of which every example has a label of one task alone."""
  experiment = build(method="hard", train__sampling="tasks", train__batch_size=7)
  valid = experiment.dataset.arrays("train").valid
  valid["a"][:] = np.arange(64) % 8 == 0
  valid["b"][:] = ~valid["a"]
  batch, rows, _ = loop_lib.Loop(experiment, "unused").feed.chunk(0, 0, 30)
  valid = jax.device_get(batch.valid)
  assert valid["a"][rows][:, :4].all() and valid["b"][rows][:, 4:].all()
  # Eight examples of four a step: each once in two steps.
  np.testing.assert_array_equal(np.sort(rows[:2, :4].ravel()), np.arange(0, 64, 8))
  experiment.dataset.arrays("train").valid["a"][:] = False
  with pytest.raises(ValueError, match="task 'a' has no label in the training .* 'retrain'"):
    loop_lib.Loop(experiment, "unused").feed.check()


def test_streamed_batches_equal_resident_ones(build, same_bits):
  """In every phase, also when one starts in the middle."""
  resident, streamed = (
    loop_lib.Loop(build(train__resident=r), "unused").feed for r in (True, False)
  )
  for index, offset in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 2), (4, 0), (5, 3)):
    batch, rows, _ = streamed.chunk(index, offset, 1)
    arrays, wanted, _ = resident.chunk(index, offset, 1)
    np.testing.assert_array_equal(rows, np.arange(8)[None])
    same_bits(jax.device_get(batch), loader.take(jax.device_get(arrays), np.asarray(wanted[0])))


def test_four_devices_equal_one(train, whole, tmp_path):
  run = train(tmp_path, devices=4, **configs.SHORT)
  wanted = whole(**configs.SHORT)
  assert run.experiment.mesh.devices.size == 4
  np.testing.assert_allclose(run.losses, wanted.losses, 1e-5)
  np.testing.assert_array_equal(run.state.routes, wanted.state.routes)
  for task, other in zip(run.found["tasks"], wanted.found["tasks"], strict=True):
    for metric, twin in zip(task["metrics"], other["metrics"], strict=True):
      np.testing.assert_allclose(metric["test"], twin["test"], 1e-3)


def test_bfloat16_trains(train, tmp_path):
  run = train(tmp_path, model__dtype="bfloat16", **HARD)
  assert np.isfinite(run.losses).all()
  assert {leaf.dtype for leaf in jax.tree.leaves(run.state.params)} == {np.dtype("float32")}


def test_single_tasks_do_not_touch_one_another(whole):
  """New labels for task b leave every loss and metric of task a alone."""
  run = whole(method="single", train__steps=6)
  other = whole(method="single", train__steps=6, data__seed_b=1)
  for line, twin in zip(run.lines, other.lines, strict=True):
    for name, value in line["values"].items():
      if name == "loss/a" or name.startswith("a/"):
        assert value == twin["values"][name], name
  b = [[line["values"]["loss/b"] for line in r.lines] for r in (run, other)]
  assert b[0] != b[1]
  assert run.found["tasks"][0] == other.found["tasks"][0]


def test_single_keeps_every_task_at_its_own_best(whole):
  run = whole(method="single", train__steps=6)
  loop, tasks = run.loop, run.experiment.tasks
  curves = []
  for line in run.lines:
    if line["kind"] == "eval":
      values = {
        t.name: {
          k.split("/")[1]: v for k, v in line["values"].items() if k.startswith(t.name + "/")
        }
        for t in tasks
      }
      curves.append(evaluate.score(tasks, values, loop.constant()))
  steps = [line["step"] for line in run.lines if line["kind"] == "eval"]
  best = np.argmax(curves, axis=0)
  np.testing.assert_array_equal(run.state.best.step, np.array(steps)[best])
  np.testing.assert_allclose(run.state.best.scores, np.max(curves, 0), 1e-6)


def test_columns_are_kept_apart(whole):
  """Task b wins: its column and head are replaced, those of a are not."""
  run = whole(method="single", train__steps=6)
  state = run.state.replace(params=jax.tree.map(lambda p: jnp.full_like(p, 7), run.state.params))
  old = np.asarray(state.best.scores)
  best = run.loop._better(
    state, old + np.array([-1, 1], np.float32), run.experiment.method.phases[0], 99
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(best.params):
    name = jax.tree_util.keystr(path)
    mine = "columns_1" in name or "heads_1" in name
    assert mine == bool((leaf == 7).all()), name
  np.testing.assert_array_equal(best.step, [run.state.best.step[0], 99])
  np.testing.assert_allclose(best.scores, [old[0], old[1] + 1], 1e-6)


def test_blocks_that_never_opened_are_never_skipped(build, whole):
  """The curriculum opens one of two blocks; the other has no policy yet."""
  experiment = build(train__cycles=1)
  logits = jnp.full((2, 2, 2), 0.0).at[..., 1].set(50.0)
  seen = []
  sharing = dataclasses.replace(
    experiment.sharing,
    routes=lambda key, alpha, measured: seen.append(np.asarray(alpha)) or alpha[None],
  )
  sharing.structures({"logits": logits}, {}, jax.random.key(0))
  np.testing.assert_allclose(seen[0], [[1, 0], [1, 0]], atol=1e-6)
  loop = loop_lib.Loop(experiment, whole().folder)
  state = whole().state
  state = state.replace(params={**state.params, "policy": {"logits": logits}})
  searching = next(p for p in experiment.method.phases if p.name == "policy")
  assert loop.structure(searching, state).route == ((1, 0), (1, 0))
  sharing = dataclasses.replace(build().sharing, routes=sharing.routes)
  sharing.structures({"logits": logits}, {}, jax.random.key(0))
  np.testing.assert_allclose(seen[1], policy.alpha(logits))


def test_schedules_of_a_search_last_for_all_its_cycles(build):
  """Not for the first cycle alone: the optimiser goes on."""
  experiment = build(optimizers__alternate__schedule="cosine")
  lengths = [experiment.optimizer_steps(index) for index in range(len(experiment.method.phases))]
  assert lengths == [4, 6, 6, 6, 6, 6, 6]


def test_a_copy_outlives_what_it_was_made_of(build, same_bits):
  """Steps take over the memory of the state that they are given."""
  experiment = build()
  params = experiment.place(experiment.initial_state()).params
  want, copy = jax.device_get(params), state_lib.copied(params)
  taken = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
  jax.block_until_ready(taken(params))
  same_bits(copy, want)


def test_numbers_that_are_not_finite_are_found_without_a_program(build):
  """On the CPU; else a program has a part for every leaf of the state."""
  experiment = build(4)
  state = experiment.place(experiment.initial_state())
  check = lambda state: finite.check_state(
    "retrain", 3, state, experiment.network.leaves(), "Stop."
  )
  with jax.no_tracing():
    check(state)
    for bad in (np.nan, np.inf):
      learnt = jax.tree.map(lambda leaf: np.asarray(leaf).copy(), state.params["policy"])
      jax.tree.leaves(learnt)[0].flat[-1] = bad
      with pytest.raises(loop_lib.NonFiniteLossError, match="of policy became not"):
        check(state.replace(params={**state.params, "policy": learnt}))


def test_nan_stops_and_the_last_good_checkpoint_goes_on(build, train, whole, tmp_path, same_run):
  """An input of the fifth batch is NaN, and then it is corrected."""
  experiment = build(**HARD)
  row = loader.Order(64, 8, 0, "retrain").indices(4)[0, 2]
  experiment.dataset.arrays("train").inputs[row] = np.nan
  loop = loop_lib.Loop(experiment, tmp_path)
  with pytest.raises(loop_lib.NonFiniteLossError) as error:
    stages.run(loop)
  text = str(error.value)
  assert "of a, b " in text and "step 5" in text and "retrain 0" in text
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as found:
    step, state, _ = found.restore(loop.experiment.template)
  assert step == 4
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  same_run(train(tmp_path, **HARD), whole(**HARD))


def test_parameters_that_overflow_are_never_saved(build, tmp_path):
  """The loss of the step is still finite; what it leads to is not."""
  loop = loop_lib.Loop(
    build(
      **HARD
      | {
        "optimizers__retrain__kind": "sgd",
        "optimizers__retrain__lr": 3e38,
        "optimizers__retrain__weight_decay": 100.0,
      }
    ),
    tmp_path,
  )
  with pytest.raises(loop_lib.NonFiniteLossError, match="before step 1, in"):
    for leaf in jax.tree.leaves(stages.run(loop).params):
      assert np.isfinite(leaf).all()
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as found:
    assert found.latest_step() is None


def test_a_folder_that_is_gone_ends_the_run(build, tmp_path):
  """It went on to the end, and its results belonged to nothing."""
  (tmp_path / workdir.CONFIG).write_text("{}")
  loop = loop_lib.Loop(build(**HARD), tmp_path)
  (tmp_path / workdir.CONFIG).unlink()
  with pytest.raises(FileNotFoundError, match="are gone.*ended at step 3"):
    loop.save(None, 3, None)


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(train__batch_size=6, devices=4), "6 cannot be split.*4 devices"),
    (dict(eval__batch_size=6, devices=4), "6 cannot be split.*4 devices"),
    (dict(gates__target_rates=(1.0, 0.0)), "block 1 is 0.0"),
    (dict(gates__target_rates=(1.0, 1.5)), "block 1 is 1.5"),
    (dict(gates__target_rates=(1.0,)), "for 2 blocks"),
    (dict(policy__temperature=0.0), "policy.temperature must be above 0"),
    (dict(policy__temperature_floor=-1.0), "temperature_floor must be above"),
    (dict(gates__temperature=0.0), "gates.temperature must be above 0"),
    (dict(model__blocks=(0,)), "blocks must add up to at least 1"),
    (dict(train__cycles=0), "train.cycles must be at least 1"),
    (dict(train__warmup_steps=-3), "warmup.* -3"),
    (dict(train__batch_size=32), "larger than the 16 examples"),
    (dict(train__weights_share=1.0), "both parts need an example"),
    (dict(train__sampling="tasks", train__resident=False), "must be 'examples' when"),
    (dict(train__execution="fast"), "must be one of planned, masked"),
    (dict(train__log_every=0), "log_every must be at least 1"),
    (
      dict(train__resident=False, train__steps_per_dispatch=2),
      "must be 1 when config.train.resident is False",
    ),
    (dict(model__dtype="float16"), "dtype is 'float16'"),
    (dict(model__backbone="mpl"), "Did you mean 'mlp'"),
    (dict(model__head="lnear"), "head is 'lnear'"),
    (dict(gates__init="shut"), "gates.init is 'shut'"),
    (dict(gates__target_rate="drawn"), "must be one of fixed, sampled"),
    (dict(gates__sampled_range=(0.5, 0.5)), "0 < low < high <= 1"),
    (dict(policy__init="none"), "policy.init is 'none'"),
    (dict(method="adashre"), "Did you mean 'adashare'"),
    (dict(dataset="strips"), "Did you mean 'stripes'"),
    (dict(optimizers__retrain__kind="sgdd"), "Unknown optimiser 'sgdd'"),
    (dict(optimizers__alternate__schedule="cos"), "Unknown schedule 'cos'"),
    (
      dict(balance__name="mgda_ub"),
      "phase weights 0 of the method 'dynashare' tasks read different",
    ),
    (dict(method="random_policy", balance__name="mgda_ub"), "phase retrain 0 .* read different"),
    (dict(balance__name="autolambda", train__batch_size=7), "batch_size=7 is odd"),
    (dict(balance__every=0), "balance.every must be at least 1"),
    (dict(seed=-1), "config.seed must be in"),
    (dict(compat__gates="x"), "compat.gates is 'x'"),
    (dict(baseline="/nowhere"), "there is no /nowhere/results.json"),
  ],
)
def test_bad_configurations_are_refused_before_any_work(build, values, message):
  with pytest.raises(ValueError, match=message):
    build(**values)


@pytest.mark.parametrize(
  "split, task, value, message",
  [
    ("train", "a", 2, "Task 'a' has 1 labels in the split 'train'.*: 2;"),
    ("validation", "b", 3, "Task 'b' has 1 .* 'validation'.*: 3;.*0 to 2"),
    ("test", "b", -1, "Task 'b' has 1 .* 'test'.*: -1;"),
    ("train", "a", np.nan, "Task 'a' has 1 labels in the split 'train'.*nan"),
  ],
)
@pytest.mark.parametrize("resident", [True, False])
def test_labels_out_of_range_are_refused(build, tmp_path, split, task, value, message, resident):
  """Resident splits before the first step, streamed ones when they are read."""
  experiment = build(data__bad=(split, task, str(value)), train__resident=resident)
  loop = loop_lib.Loop(experiment, tmp_path)
  with pytest.raises(ValueError, match=message):
    if resident:
      stages.run(loop)
    else:
      for _ in loop.feed.evaluation(split)():
        pass
  assert not (tmp_path / "metrics.jsonl").exists()


def test_labels_that_are_not_valid_may_be_anything(build):
  experiment = build(data__bad=("train", "b", 255.0))
  batch = experiment.dataset.arrays("train")
  batch.valid["b"][3] = False
  loop_lib.Loop(experiment, "unused").feed.check()


def test_locate(build):
  experiment = build()
  assert [experiment.locate(step) for step in (0, 3, 4, 13, 14, 25, 26)] == [
    (0, 0),
    (0, 3),
    (1, 0),
    (4, 1),
    (5, 0),
    (6, 5),
    (7, 0),
  ]


def test_cycles_of_a_search_continue_one_order(build):
  """Weight steps of cycle 1 see the batches after those of cycle 0."""
  loop = loop_lib.Loop(build(), "unused")
  rows = checks.part_indices(loop.config, loop.experiment.dataset.spec, "weights")
  order = loader.Order(48, 8, 0, "weights")
  _, first, _ = loop.feed.chunk(1, 2, 1)
  _, second, _ = loop.feed.chunk(3, 0, 1)
  np.testing.assert_array_equal(first, rows[order.indices(2)])
  np.testing.assert_array_equal(second, rows[order.indices(3)])
  np.testing.assert_array_equal(loop.feed.chunk(5, 1, 1)[1], loop.feed.chunk(6, 1, 1)[1])
