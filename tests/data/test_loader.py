"""Tests of order and feeding."""

from __future__ import annotations

import itertools
import sys
import time
import types

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.data import loader
from dynashare_jax.types import Batch


def _split(size: int = 10) -> Batch:
  x = np.arange(size * 3, dtype=np.float32).reshape(size, 3)
  return Batch(
    inputs={"numeric": x, "code": np.arange(size, dtype=np.int32)},
    targets={"seg": np.arange(size * 4).reshape(size, 2, 2), "y": x[:, 0]},
    valid={"seg": np.ones((size, 2, 2), bool), "y": np.arange(size) % 3 != 0},
    present=np.ones(size, bool),
  )


class _Source:
  """Random access to a split that remembers what was read."""

  def __init__(self, split: Batch):
    self.split, self.seen = split, []

  def __len__(self) -> int:
    return len(self.split.present)

  def __getitem__(self, index: int) -> Batch:
    self.seen.append(index)
    return jax.tree.map(lambda leaf: leaf[index], self.split)


def _assert_equal(a: Batch, b: Batch) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)
    assert x.dtype == y.dtype


def test_worker_processes_need_no_parsed_flags_and_run_no_script(tmp_path, monkeypatch):
  """A notebook or script that never calls `absl.app.run`, nor asks for `__main__`, has them too."""
  flags.FLAGS.unparse_flags()
  script = types.ModuleType("__main__")
  script.__file__ = str(tmp_path / "script.py")
  (tmp_path / "script.py").write_text("raise SystemExit('the script ran again')")
  monkeypatch.setitem(sys.modules, "__main__", script)
  split, order = _split(), loader.Order(10, 4, 0, "x")
  batches = loader.stream(_Source(split), order, workers=1)
  _assert_equal(next(batches), loader.take(split, order.indices(0)[0]))
  batches.close()
  assert script.__file__ == str(tmp_path / "script.py")


@pytest.mark.parametrize("size,batch", [(10, 4), (7, 7), (5, 1)])
def test_each_epoch_is_another_permutation(size, batch):
  flat = loader.Order(size, batch, 0, "train").indices(0, 6 * size).ravel()
  epochs = flat[: 6 * size].reshape(6, size)
  np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(size), (6, 1)))
  assert len({tuple(epoch) for epoch in epochs}) > 1
  assert flat.dtype == np.int32


def test_order_is_a_function_of_the_step():
  one = loader.Order(23, 5, 3, "train")
  whole = one.indices(0, 40)
  for start in (39, 0, 17, 4):
    fresh = loader.Order(23, 5, 3, "train")
    np.testing.assert_array_equal(fresh.indices(start, 1), whole[start : start + 1])
    np.testing.assert_array_equal(one.indices(start), whole[start : start + 1])
  assert one.indices(5, 0).shape == (0, 5)
  assert [one.at(i) for i in range(100)] == whole.ravel()[:100].tolist()


def test_order_depends_on_seed_and_stream():
  orders = [
    tuple(loader.Order(50, 50, seed, name).indices(0).ravel())
    for seed, name in ((0, "a"), (1, "a"), (0, "b"), (-1, "a"), (2**40, "a"))
  ]
  assert len(set(orders)) == 5


def test_order_is_pinned():
  """A change of this order would silently change every resumed run."""
  got = loader.Order(8, 4, 0, "train").indices(0, 2)
  assert got.tolist() == [[4, 2, 0, 3], [1, 6, 7, 5]]


def test_batch_larger_than_split():
  with pytest.raises(ValueError, match="11 is larger than the 10 examples"):
    loader.Order(10, 11, 0, "train")
  with pytest.raises(ValueError, match="at least 1"):
    loader.Order(10, 0, 0, "train")
  with pytest.raises(ValueError, match="negative"):
    loader.Order(10, 2, 0, "train").indices(-1)


def test_a_large_epoch_is_cheap():
  order = loader.Order(200_000, 64, 0, "train")
  start = time.perf_counter()
  order.indices(0, 200_000 // 64)
  assert time.perf_counter() - start < 1.0


def test_halves():
  weights, policy = loader.halves(101, seed=0)
  assert (len(weights), len(policy)) == (81, 20)
  np.testing.assert_array_equal(np.sort(np.concatenate([weights, policy])), np.arange(101))
  assert (np.diff(weights) > 0).all() and (np.diff(policy) > 0).all()
  again, other = loader.halves(101, seed=0)[0], loader.halves(101, seed=1)[0]
  np.testing.assert_array_equal(weights, again)
  assert not np.array_equal(weights, other)
  assert len(loader.halves(101, 0, fraction=0.5)[0]) == 50


@pytest.mark.parametrize("size,fraction", [(1, 0.8), (10, 1.0), (10, 0.01)])
def test_empty_half_is_an_error(size, fraction):
  with pytest.raises(ValueError, match="cannot be split"):
    loader.halves(size, 0, fraction)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("start", [0, 7])
def test_stream_equals_take(threads, start):
  split = _split()
  order = loader.Order(10, 4, 1, "train")
  batches = loader.stream(_Source(split), order, start, threads=threads)
  for step, batch in enumerate(itertools.islice(batches, 6), start):
    _assert_equal(batch, loader.take(split, order.indices(step)[0]))


def test_processes_get_the_parts_of_the_global_batch():
  split = _split()
  order = loader.Order(10, 4, 1, "train")
  sources = [_Source(split), _Source(split)]
  streams = [
    loader.stream(source, order, 0, process_index=i, process_count=2, threads=0)
    for i, source in enumerate(sources)
  ]
  for step in range(5):
    parts = [next(s) for s in streams]
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), *parts)
    _assert_equal(both, loader.take(split, order.indices(step)[0]))
  assert [len(source.seen) for source in sources] == [10, 10]


def test_stream_reports_what_does_not_fit():
  source = _Source(_split())
  with pytest.raises(ValueError, match="9 examples, the source has 10"):
    loader.stream(source, loader.Order(9, 3, 0, "x"))
  with pytest.raises(ValueError, match="over 3 processes"):
    loader.stream(source, loader.Order(10, 4, 0, "x"), process_count=3)


def test_stream_passes_on_an_error_of_the_source():
  class Broken(_Source):
    def __getitem__(self, index: int) -> Batch:
      raise OSError("disk gone")

  with pytest.raises(OSError, match="disk gone"):
    next(loader.stream(Broken(_split()), loader.Order(10, 4, 0, "x")))


def test_stream_over_a_half():
  split = _split()
  weights, _ = loader.halves(10, 0)
  order = loader.Order(len(weights), 4, 0, "weights")
  batch = next(loader.stream(loader.Subset(_Source(split), weights), order))
  _assert_equal(batch, loader.take(split, weights[order.indices(0)[0]]))


def test_padded_batches_show_every_example_once():
  indices, present = loader.padded_batches(10, 4)
  assert indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
  assert present[2].tolist() == [True, True, False, False]
  assert indices[present].tolist() == list(range(10))
  small, mask = loader.padded_batches(2, 4)
  assert small.shape == (1, 4) and mask.sum() == 2
  with pytest.raises(ValueError, match="at least 1"):
    loader.padded_batches(0, 4)


def test_take_hides_padding():
  indices, present = loader.padded_batches(10, 4)
  batch = loader.take(_split(), indices[2], present[2])
  assert batch.present.tolist() == [True, True, False, False]
  assert batch.valid["y"].tolist() == [True, False, False, False]
  assert batch.valid["seg"].sum() == 2 * 4


def test_take_in_a_traced_function():
  split = jax.tree.map(jnp.asarray, _split())
  indices, present = loader.padded_batches(10, 4)
  got = jax.jit(loader.take)(split, indices[2], present[2])
  _assert_equal(
    jax.tree.map(np.asarray, got),
    jax.tree.map(
      lambda x: np.asarray(jnp.asarray(x)), loader.take(_split(), indices[2], present[2])
    ),
  )


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_stream_equals_padded_take(threads):
  split = _split()
  indices, present = loader.padded_batches(10, 4)
  batches = list(loader.evaluation_stream(_Source(split), 4, threads=threads))
  assert len(batches) == 3
  for step, batch in enumerate(batches):
    _assert_equal(batch, loader.take(split, indices[step], present[step]))
  second = list(loader.evaluation_stream(_Source(split), 4, 1, 2, threads=0))
  _assert_equal(second[2], loader.take(split, indices[2][2:], present[2][2:]))


def test_check_divisible():
  loader.check_divisible(8, 4, 2)
  with pytest.raises(ValueError, match="10 .* 4 devices; .* 8 or 12"):
    loader.check_divisible(10, 4, 2)
  with pytest.raises(ValueError, match="2 .* 4 devices; .* 4"):
    loader.check_divisible(2, 4)
  with pytest.raises(ValueError, match="3 processes"):
    loader.check_divisible(8, 4, 3)
