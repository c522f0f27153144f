"""The corrected search: gradients are compared, routes are tried, the best are re-trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import step as step_lib

# Warm-up 0-4, comparison 4-6, cycles 6-11 and 11-16, trials 16-17, -18 and -19, longer ones 19-22
# and 22-25, re-training 25-37.
VALUES = {
  "method": "adashare",
  "model__blocks": (3,),
  "gates__target_rates": (1.0, 0.6, 0.6),
  "compat__search": "corrected",
  "policy__measure": 2,
  "policy__candidates": 3,
  "policy__serve": "apart",
  "policy__budget": 0.7,
  "train__retrain_steps": 12,
  "train__checkpoint_every": 4,
}


def test_stops_in_every_kind_of_phase_change_nothing(train, stopped, whole, same_run, tmp_path):
  want = whole(**VALUES)
  for stop in (5, 23):
    stopped(tmp_path, stop, **VALUES)
  same_run(train(tmp_path, **VALUES), want)


def test_groups_of_devices_retrain_what_the_trials_chose(whole, train, tmp_path):
  values = VALUES | {"policy__finalists": 2}
  turns, groups = whole(**values), train(tmp_path, 2, train__candidate_groups=2, **values)
  np.testing.assert_array_equal(turns.state.routes, groups.state.routes)
  for one, other in zip(turns.found["trials"], groups.found["trials"], strict=True):
    assert one["route"] == other["route"]
    assert one["score"] == pytest.approx(other["score"], abs=0.05)
  for one, other in zip(turns.found["candidates"], groups.found["candidates"], strict=True):
    assert one["route"] == other["route"]
    assert one["score"] == pytest.approx(other["score"], abs=0.05)


def test_only_hard_sharing_overrules_the_search_by_little():
  trial = lambda index, score, **second: {"index": index, "score": score, **second}
  first = [trial(2, 0.705), trial(0, 0.69), trial(3, 0.715), trial(1, 0.70)]
  assert loop_lib.order(first, 0.0) == [1, 2, 0, 3]
  assert loop_lib.order(first, 0.01) == [1, 2, 3, 0]  # 0.715 - 0.01, 0.70, 0.705 - 0.01
  for index, score, margin, overrules in (
    (2, 0.755, 0.01, False),
    (2, 0.755, 0.0, True),
    (2, 0.765, 0.01, True),
    (1, 0.751, 0.01, True),
    (1, 0.749, 0.01, False),
  ):
    other = trial(index, 0.7, second=score)
    found = loop_lib.order([trial(0, 0.6, second=0.75), trial(5, 0.9), other], margin)
    assert found == ([2, 0, 1] if overrules else [0, 2, 1]), (index, score, margin)


def test_the_first_route_stays_first_and_the_others_follow_their_trials(whole):
  run = whole(**VALUES | {"policy__finalists": 2})
  trials = run.found["trials"]
  assert trials[0]["index"] == 0
  scores = [trial["score"] for trial in trials[1:]]
  assert scores == sorted(scores, reverse=True)
  assert sorted(trial["index"] for trial in trials) == [0, 1, 2]
  np.testing.assert_array_equal(run.state.routes, [trial["route"] for trial in trials])
  assert [c["route"] for c in run.found["candidates"]] == [t["route"] for t in trials[:2]]
  hard = next(trial for trial in trials if trial["index"] == 1)
  assert np.all(hard["route"])


def test_the_longer_trials_decide_between_the_first_and_the_best_of_the_others(whole):
  values = VALUES | {"policy__margin": 0.0}
  run, former = whole(**values), whole(**values | {"policy__finalists": 2})
  (kept,), trials = run.found["candidates"], run.found["trials"]
  one, other, last = trials
  assert {one["index"], other["index"]} == {t["index"] for t in former.found["trials"][:2]}
  assert one["second"] >= other["second"] and "second" not in last
  assert kept["route"] == one["route"] and kept["index"] == 0
  assert sorted(trial["index"] for trial in trials) == [0, 1, 2]
  np.testing.assert_array_equal(run.state.routes, [trial["route"] for trial in trials])


def test_what_is_logged(whole):
  lines = whole(**VALUES).lines
  (measured,) = [line["values"] for line in lines if line["kind"] == "conflict"]
  assert np.shape(measured["cosine"]) == (3, 2, 2) and measured["batches"] == 2
  alpha = [line["values"] for line in lines if line["kind"] == "alpha"]
  assert len(alpha) == 2
  for values in alpha:
    p = np.asarray(values["alpha"])[:, 1:]  # the first block is kept
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()
    assert values["entropy"] == pytest.approx(bits, abs=1e-5)
  policy = [
    line["values"] for line in lines if line["phase"] == "policy" and line["kind"] == "train"
  ]
  assert {k for k in policy[0] if k.startswith("pull/")} >= {"pull/tasks", "pull/sharing"}


def _gradients(experiment, state, batch):
  """Flat gradient of every task in every block, `[L][T]`, one task at a time."""

  def loss(network, name):
    every = skip_trunk.Decisions(routing.all_run(3, 2))
    out, _ = experiment.network.apply({"params": network}, batch.inputs, every, True)
    place = [task.name for task in experiment.tasks].index(name)
    sums = forward_lib.task_losses(experiment.tasks, out, batch)[place]
    return sums.total / sums.count

  slope = jax.jit(jax.grad(loss), static_argnums=1)
  found = [slope(state.params["network"], task.name) for task in experiment.tasks]
  blocks = [[f["trunk"]["backbone"][f"block_{l}"] for f in found] for l in range(3)]
  flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
  return [[flat(tree).astype(np.float64) for tree in row] for row in blocks]


def test_a_measuring_step_multiplies_gradients_and_moves_nothing(build, same_bits):
  experiment = build(**VALUES)
  index = next(i for i, p in enumerate(experiment.method.phases) if p.measure)
  state = experiment.with_optimizer(experiment.initial_state(), index)
  arrays = jax.tree.map(lambda a: jnp.asarray(a[:16]), experiment.dataset.arrays("train"))
  phase = experiment.method.phases[index]
  moving = step_lib.moving_of(experiment.sharing, phase, 0, 0, 0, np.ones((2, 3)))
  spec = experiment.spec(index, np.ones((2, 3)))
  tx = experiment.optimizer(phase.optimizer, 4)
  step = jax.jit(lambda *a: step_lib.advance(experiment.objective, tx, spec, *a, 0))
  after, _ = step(state, arrays, moving)
  same_bits((after.params, after.stats, after.opt), (state.params, state.stats, state.opt))
  for l, row in enumerate(_gradients(experiment, state, arrays)):
    cosine = row[0] @ row[1] / np.linalg.norm(row[0]) / np.linalg.norm(row[1])
    np.testing.assert_allclose(after.memory["sum"][l, 0, 1], cosine, atol=1e-5)


def test_a_policy_is_pulled_by_what_is_logged(build):
  """The pulls of the penalties are their gradients; the rest is the tasks'."""
  experiment = build(**VALUES | {"policy__init": "random", "policy__conflict": 0.5})
  index = next(i for i, p in enumerate(experiment.method.phases) if p.name == "policy")
  state = experiment.with_optimizer(experiment.initial_state(), index)
  cosine = jnp.asarray([[1.0, -0.4], [-0.4, 1.0]])
  memory = {"count": jnp.ones((4, 2, 2)), "sum": jnp.tile(cosine, (4, 1, 1))}
  state = state.replace(memory=memory | {"squares": jnp.ones((4, 2, 2))})
  phase = experiment.method.phases[index]
  moving = step_lib.moving_of(experiment.sharing, phase, 0, 0, 0, np.ones((2, 3)))
  arrays = jax.tree.map(lambda a: jnp.asarray(a[:16]), experiment.dataset.arrays("train"))
  spec = experiment.spec(index, np.ones((2, 3)))
  tx = experiment.optimizer(phase.optimizer, 4)
  step = jax.jit(lambda *a: step_lib.advance(experiment.objective, tx, spec, *a, 0))
  _, parts = step(state, arrays, moving)
  logits = np.asarray(state.params["policy"]["logits"], np.float64)
  alpha = 1 / (1 + np.exp(logits[..., 1] - logits[..., 0]))
  # Of -0.5 * mean over 3 blocks of -0.4 * a * a', the first block counting, too.
  slope = 0.5 * 0.4 * alpha[::-1] * alpha * (1 - alpha) / 3
  np.testing.assert_allclose(
    parts["penalty/conflict"], 0.5 * 0.4 * (alpha[0] * alpha[1]).mean(), 1e-4
  )
  np.testing.assert_allclose(parts["pull/conflict"], np.abs(slope).mean(), rtol=1e-4)


def test_trials_and_the_retraining_are_one_program(build):
  """They differ in the length of their schedule, which no program has in it."""
  experiment = build(**VALUES)
  tried = [i for i, phase in enumerate(experiment.method.phases) if phase.candidate >= 0]
  assert len({experiment.spec(index, np.ones((2, 3))) for index in tried}) == 1
  assert len({experiment.horizon(index) for index in tried}) == 3
