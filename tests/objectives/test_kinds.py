"""The contract that every file of `objectives/kinds` keeps."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.objectives import kinds
from dynashare_jax.objectives.kinds import base
from dynashare_jax.types import TaskSpec

RNG = np.random.default_rng(0)
BATCH, SIZE = 12, (8, 12)


def _classes(shape, count):
  """Class ids in which every class occurs."""
  ids = np.arange(int(np.prod(shape))) % count
  return RNG.permutation(ids).reshape(shape).astype(np.int32)


# kind -> task, targets, and logits that fit the targets well.
def _examples():
  dense = (BATCH, *SIZE)
  seg, multi = _classes(dense, 5), _classes((BATCH, 3), 4)
  depth = RNG.uniform(0.5, 9, dense).astype(np.float32)
  normals = RNG.normal(size=(*dense, 3)).astype(np.float32)
  maps = RNG.normal(size=(*dense, 2)).astype(np.float32)
  colours = np.abs(np.tanh(normals))
  numbers = RNG.normal(size=(BATCH, 2)).astype(np.float32)
  yes, labels = _classes((BATCH,), 2), _classes((BATCH, 3), 2)
  pixels = _classes(dense, 2)
  spec = TaskSpec
  return {
    "segmentation": (spec("s", "segmentation", 5), seg, 4 * np.eye(5)[seg]),
    "depth": (spec("d", "depth", unit="m"), depth, depth[..., None]),
    "normals": (spec("n", "normals", 3), normals, 3 * normals),
    "colour": (spec("a", "colour", 3), colours, colours),
    "regression": (spec("r", "regression", 2), maps, maps),
    "saliency": (spec("y", "saliency", positive_weight=2.0), pixels, 8.0 * pixels[..., None] - 4),
    "edges": (spec("e", "edges"), pixels, 8.0 * pixels[..., None] - 4),
    "number": (spec("x", "number", 2, unit="kg"), numbers, numbers),
    "binary": (spec("b", "binary", positive_weight=2.0), yes, 8.0 * yes[:, None] - 4),
    "multilabel": (spec("m", "multilabel", 3), labels, 8.0 * labels - 4),
    "multiclass": (spec("c", "multiclass", 4), multi, 4 * np.eye(4)[multi]),
  }


EXAMPLES = _examples()
ALL = kinds.available()


def _case(name):
  """Kind, task, targets, good logits and a mask with gaps, of a kind."""
  assert name in EXAMPLES, f"give the new kind {name!r} an entry in EXAMPLES"
  task, target, logits = EXAMPLES[name]
  axes = len(SIZE) + 1 if kinds.find(name).dense else 1
  valid = np.arange(int(np.prod(target.shape[:axes]))) % 4 != 1
  valid = valid.reshape(target.shape[:axes])
  return kinds.find(name), task, target, jnp.float32(logits), valid


def _spoiled(target, valid):
  """The same labels with garbage where they are not valid."""
  garbage = np.nan if target.dtype.kind == "f" else 255
  mask = valid.reshape(valid.shape + (1,) * (target.ndim - valid.ndim))
  return np.where(mask, target, garbage).astype(target.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _batch(task, logits, target, valid):
  """Loss, sums and scores of one batch, compiled."""
  kind = kinds.find(task.kind)
  row = (task, logits, target, valid)
  return kind.loss(*row), kind.sums(*row), kind.scores(*row)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(task, logits, target, valid):
  """Total loss and its gradient, compiled."""

  def total(logits):
    return kinds.find(task.kind).loss(task, logits, target, valid).total

  return jax.value_and_grad(total)(logits)


def _evaluate(kind, task, logits, target, valid, parts=1):
  """Metrics over a data set, evaluated in some batches."""
  slices = np.array_split(np.arange(len(target)), parts)
  rows = [_batch(task, logits[s], target[s], valid[s]) for s in slices]
  _, sums, scores = zip(*rows, strict=True)
  sums = jax.tree.map(lambda *x: np.sum([np.asarray(v) for v in x], 0), *sums)
  scores = jax.tree.map(lambda *x: np.concatenate(x), *scores)
  return kind.finish(task, sums, scores)


def _perturbed(logits):
  noise = np.random.default_rng(1).normal(size=logits.shape)
  return jnp.asarray(logits + 2 * noise, jnp.float32)


def test_every_kind_is_found_and_has_an_example():
  assert set(EXAMPLES) == set(ALL)


def test_unknown_kinds_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="binary.*mean 'segmentation'"):
    kinds.find("segmentaton")
  with pytest.raises(ValueError, match="kind of a task is '_private'"):
    kinds.find("_private")
  with pytest.raises(ValueError, match="kind of a task is 'base'"):
    kinds.find("base")
  with pytest.raises(ValueError, match="kind 'binary' have no pixels"):
    kinds.dense("binary")


@pytest.mark.parametrize("name", ALL)
def test_has_the_members(name):
  kind, task, _, logits, _ = _case(name)
  assert isinstance(kind, base.Kind) and kind is kinds.find(name)
  assert isinstance(kind, base.Dense) == kind.dense
  assert kind.outputs(task) == logits.shape[-1]
  names = [metric.name for metric in kind.metrics(task)]
  assert names and len(set(names)) == len(names)
  assert all(" " not in word and "/" not in word for word in names)


@pytest.mark.parametrize("name", ALL)
def test_nothing_valid_is_exactly_zero(name):
  kind, task, target, logits, valid = _case(name)
  nothing = np.zeros_like(valid)
  spoiled = _spoiled(target, nothing)
  value, gradient = _gradient(task, logits, spoiled, nothing)
  assert float(value) == 0.0
  assert float(_batch(task, logits, spoiled, nothing)[0].count) == 0.0
  np.testing.assert_array_equal(gradient, np.zeros(logits.shape))
  values = _evaluate(kind, task, logits, spoiled, nothing)
  assert set(values) == {metric.name for metric in kind.metrics(task)}
  assert all(np.isnan(value) for value in values.values())


@pytest.mark.parametrize("name", ALL)
def test_labels_that_are_not_valid_do_not_matter(name):
  kind, task, target, logits, valid = _case(name)
  logits = _perturbed(logits)
  results = []
  for labels in (target, _spoiled(target, valid)):
    results.append(
      (_gradient(task, logits, labels, valid), _evaluate(kind, task, logits, labels, valid))
    )
  (value, gradient), metrics = results[0]
  (other, twin), same = results[1]
  np.testing.assert_allclose(value, other, rtol=1e-6)
  np.testing.assert_allclose(gradient, twin, rtol=1e-5, atol=1e-7)
  assert np.isfinite(gradient).all() and np.any(gradient != 0)
  assert metrics == pytest.approx(same)
  # An example without a label gets no gradient at all.
  nothing = valid.copy()
  nothing[0] = False
  _, masked = _gradient(task, logits, target, nothing)
  assert not np.any(masked[0])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", [5])
def test_the_batch_split_does_not_matter(name, parts):
  kind, task, target, logits, valid = _case(name)
  logits = _perturbed(logits)
  whole, _, _ = _batch(task, logits, target, valid)
  slices = np.array_split(np.arange(BATCH), parts)
  split = [_batch(task, logits[s], target[s], valid[s])[0] for s in slices]
  total, count = np.sum(np.asarray(split), axis=0)
  assert total == pytest.approx(float(whole.total), rel=1e-5)
  assert count == float(whole.count)
  expected = _evaluate(kind, task, logits, target, valid)
  got = _evaluate(kind, task, logits, target, valid, parts)
  assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name):
  kind, task, target, logits, valid = _case(name)
  logits = _perturbed(logits)
  padded = [np.concatenate([x, np.zeros_like(x[:3])]) for x in (logits, target, valid)]
  padded[0] = jnp.asarray(padded[0])
  assert _evaluate(kind, task, *padded) == pytest.approx(
    _evaluate(kind, task, logits, target, valid), rel=1e-6
  )


@pytest.mark.parametrize("name", ALL)
def test_sums_and_scores_count_in_integers(name):
  _, task, target, logits, valid = _case(name)
  _, sums, scores = _batch(task, logits, target, valid)
  for key, value in (sums | scores).items():
    assert value.dtype in (jnp.int32, jnp.float32, jnp.bool_), key
    if "count" in key or key in ("confusion", "within", "angles"):
      assert value.dtype == jnp.int32, key
  assert not scores or "valid" in scores
  assert all(len(leaf) == BATCH for leaf in scores.values())


@pytest.mark.parametrize("name", ALL)
def test_good_predictions_beat_the_constant_one(name):
  kind, task, target, logits, valid = _case(name)
  constant = kind.constant(task, target, valid)
  assert constant.dtype == np.float32
  assert constant.shape[-1] == kind.outputs(task)
  repeated = jnp.broadcast_to(constant[None], (BATCH, *constant.shape))
  good = _evaluate(kind, task, logits, target, valid)
  fixed = _evaluate(kind, task, repeated, target, valid)
  for metric in kind.metrics(task):
    sign = 1 if metric.higher_is_better else -1
    assert np.isfinite(fixed[metric.name]), metric
    assert sign * good[metric.name] > sign * fixed[metric.name], metric
    if metric.unit == "%" and metric.higher_is_better:
      assert good[metric.name] == pytest.approx(100.0), metric


@pytest.mark.parametrize("name", ALL)
def test_the_constant_has_the_least_loss_of_all_constants(name):
  kind, task, target, logits, valid = _case(name)
  constant = kind.constant(task, target, valid)
  # The base rate is the best constant only when both classes weigh the same.
  task = type(task)(task.name, task.kind, task.outputs)

  def total(single):
    full = jnp.broadcast_to(single[None], (BATCH, *single.shape))
    if kind.dense:
      full = jnp.broadcast_to(full, logits.shape)
    return float(_batch(task, full, target, valid)[0].total)

  least = total(constant)
  for seed in range(10):
    shift = np.random.default_rng(seed).normal(size=constant.shape)
    assert total(constant + np.float32(0.3 * shift)) >= least - 1e-3


@pytest.mark.parametrize("name", ALL)
def test_the_constant_of_no_labels_is_finite(name):
  kind, task, target, _, valid = _case(name)
  nothing = np.zeros_like(valid)
  assert np.isfinite(kind.constant(task, target, nothing)).all()


@pytest.mark.parametrize("name", ALL)
def test_predictions_are_finite_and_one_an_example(name):
  kind, task, _, logits, _ = _case(name)
  shown = jax.jit(kind.predict, static_argnums=0)(task, logits)
  axes = 3 if kind.dense else 1
  assert shown.shape[:axes] == logits.shape[:axes]
  assert np.isfinite(shown).all()


@pytest.mark.parametrize("name", ALL)
def test_a_step_against_the_gradient_lowers_the_loss(name):
  _, task, target, logits, valid = _case(name)
  logits = _perturbed(logits)
  count = float(_batch(task, logits, target, valid)[0].count)
  before, gradient = _gradient(task, logits, target, valid)
  after, _ = _gradient(task, logits - 0.1 / count * gradient, target, valid)
  assert float(after) < float(before)


DENSE = [name for name in ALL if kinds.find(name).dense]


def test_only_dense_kinds_average_views():
  for name in ALL:
    for member in ("restored", "votes", "elected", "moved", "pictures", "error"):
      assert hasattr(kinds.find(name), member) == (name in DENSE), name


@pytest.mark.parametrize("name", DENSE)
def test_one_view_alone_scores_as_its_logits(name):
  kind, task, target, logits, valid = _case(name)
  logits = _perturbed(logits)
  assert kind.restored(task, logits, 1.0, 1.0) is logits
  votes, elected = (jax.jit(f, static_argnums=0) for f in (kind.votes, kind.elected))
  rough = jax.eval_shape(lambda: kind.votes(task, logits.astype(jnp.bfloat16)))
  assert rough.dtype == jnp.float32 and rough.shape == logits.shape
  back = elected(task, votes(task, logits))
  assert back.dtype == jnp.float32 and back.shape == logits.shape
  got = _evaluate(kind, task, back, target, valid)
  assert got == pytest.approx(_evaluate(kind, task, logits, target, valid), rel=1e-4)


@pytest.mark.parametrize("name", DENSE)
def test_views_that_agree_are_their_own_mean(name):
  """And a view is restored by the inverse of what it does to labels."""
  kind, task, _, logits, _ = _case(name)
  changed = kind.restored(task, logits, 0.5, -1.0)
  np.testing.assert_allclose(kind.restored(task, changed, 2.0, -1.0), logits, rtol=1e-6)
  votes, elected = (jax.jit(f, static_argnums=0) for f in (kind.votes, kind.elected))
  mean = votes(task, logits)
  np.testing.assert_allclose(votes(task, elected(task, mean)), mean, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_present_changes_nothing_that_is_pooled(name):
  kind, task, target, logits, valid = _case(name)
  present = np.arange(BATCH) % 2 == 0
  _, plain, _ = _batch(task, logits, target, valid)
  given = jax.jit(kind.sums, static_argnums=0)(task, logits, target, valid, present)
  assert plain.keys() == given.keys()
  for key, value in plain.items():
    np.testing.assert_array_equal(value, given[key])


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("size", [(4, 6), (3, 5), (8, 12)])
def test_dense_logits_of_any_size(name, size):
  kind, task, target, _, valid = _case(name)
  shape = (BATCH, *size, kind.outputs(task))
  logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  (total, count), _, _ = _batch(task, logits, target, valid)
  rows = np.arange(size[0]) * SIZE[0] // size[0]
  columns = np.arange(size[1]) * SIZE[1] // size[1]
  index = np.ix_(np.arange(BATCH), rows, columns)
  twin, _, _ = _batch(task, logits, target[index], valid[index])
  assert float(total) == pytest.approx(float(twin.total), rel=1e-6)
  assert float(count) == float(twin.count) > 0
  values = _evaluate(kind, task, logits, target, valid)
  assert all(np.isfinite(value) for value in values.values())


@pytest.mark.parametrize("name", ALL)
def test_labels_are_allowed_and_garbage_is_not(name):
  kind, task, target, _, valid = _case(name)
  words, rule = kind.allowed(task)
  assert words and rule(target).all()
  for dtype, garbage in ((np.float32, np.nan), (np.int32, -1)):
    if dtype == np.float32 or target.dtype.kind == "i":
      assert not rule(np.full(target.shape, garbage, dtype)).any()
  words, rule = kind.usual(task)
  assert words and rule(target[valid]).dtype == bool
  assert len(rule(target[valid])) == len(target[valid])


@pytest.mark.parametrize("name", ALL)
def test_counts_of_classes_add(name):
  kind, task, target, _, valid = _case(name)
  whole, number = kind.counts(task, target, valid)
  halves = [kind.counts(task, target[s], valid[s]) for s in (slice(5), slice(5, None))]
  np.testing.assert_array_equal(whole, sum(counts for counts, _ in halves))
  assert number == sum(number for _, number in halves)
  none, zero = kind.counts(task, target[:0], valid[:0])
  assert none.shape == whole.shape and not none.any() and zero == 0
  assert not len(whole) or 0 < whole.max() <= number


@pytest.mark.parametrize("name", DENSE)
def test_labels_move_as_views_are_restored(name):
  """On the host and in a trace; what did not move keeps its bits."""
  kind, task, target, _, _ = _case(name)
  one, two, left = np.float32(1), np.float32(2), np.float32(-1)
  np.testing.assert_array_equal(kind.moved(task, target, one, one, np), target)
  moved = kind.moved(task, target, two, left, np)
  traced = jax.jit(lambda *x: kind.moved(task, *x, jnp))(target, two, left)
  np.testing.assert_array_equal(moved, traced)
  axes = (..., None) if target.ndim == 3 else ...
  back = kind.restored(task, jnp.float32(moved[axes]), 2.0, -1.0)
  np.testing.assert_array_equal(back, np.float32(target[axes]))


@pytest.mark.parametrize("name", DENSE)
def test_pictures_of_labels(name):
  kind, task, target, _, _ = _case(name)
  for one in kind.pictures(task, target):
    assert task.name in one.title
    colours = one.values.shape[3:] == (3,)
    assert one.values.shape[:3] == target.shape[:3]
    assert colours or one.values.ndim == 3
    assert not colours or (one.values.min() >= 0 and one.values.max() <= 1)
  sizes, _ = kind.error(task, target, target)
  assert sizes.shape == target.shape[:3] and not np.any(sizes > 1e-3)
  assert np.any(kind.error(task, target, np.roll(target, 1, 0))[0] > 1e-3)
