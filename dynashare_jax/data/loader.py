"""The order of examples, and how they are brought to the model.

Order and position are the same thing: which examples a step sees is a pure function of (seed,
stream, step), so a run resumes at any step, in memory or streamed, in one process or many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import sys
from typing import Any
import zlib

from absl import flags
import jax
from jaxtyping import Bool, Int
import numpy as np

from dynashare_jax.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Order:
  """Endless batches of shuffled indices.

  Every epoch is a new permutation; epochs follow one another without a gap, so
  that a batch may hold the end of one and the beginning of the next.

  Attributes:
    size: number of examples.
    batch_size: indices per step, over all processes.
    seed: of the run.
    stream: a name, for example `weights`; other names give other orders.
  """

  size: int
  batch_size: int
  seed: int
  stream: str

  def __post_init__(self) -> None:
    """Checks the batch size.

    Raises:
      ValueError: the batch is empty or larger than the examples.
    """
    if self.batch_size < 1:
      raise ValueError(f"The batch size must be at least 1, not {self.batch_size}.")
    if self.batch_size > self.size:
      raise ValueError(
        f"A batch of {self.batch_size} is larger than the {self.size} examples of"
        f" {self.stream!r}; choose a smaller batch size or more examples."
      )

  def _epoch(self, number: int) -> Int[np.ndarray, " size"]:
    return _permutation(self.size, self.seed, self.stream, number)

  def indices(self, start_step: int, count: int = 1) -> Int[np.ndarray, "count batch"]:
    """Returns the indices of `count` steps from `start_step` on, int32 in [0, size).

    Steps count from 0; calls in any order give the same.

    Raises:
      ValueError: a negative argument.
    """
    if start_step < 0 or count < 0:
      raise ValueError(f"Steps cannot be negative: start {start_step}, count {count}.")
    begin = start_step * self.batch_size
    end = begin + count * self.batch_size
    parts = [np.zeros(0, np.int32)]
    while begin < end:
      epoch, first = divmod(begin, self.size)
      last = min(first + end - begin, self.size)
      parts.append(self._epoch(epoch)[first:last])
      begin += last - first
    return np.concatenate(parts).reshape(count, self.batch_size)

  def at(self, position: int) -> int:
    """Returns the index at a position: step times batch size plus row."""
    epoch, place = divmod(position, self.size)
    return int(self._epoch(epoch)[place])


@dataclasses.dataclass(frozen=True)
class TaskOrder:
  """Endless batches in which every task has its share of the rows, in the tasks' order.

  Attributes:
    rows: for every task, by name, the examples that have its label.
    batch_size: indices per step; shares differ by at most 1, the first are the larger.
    seed: of the run.
    stream: a name, see `Order`.
  """

  rows: dict[str, Int[np.ndarray, " n"]]
  batch_size: int
  seed: int
  stream: str

  @functools.cached_property
  def _orders(self) -> list[tuple[np.ndarray, Order]]:
    """Each task's examples, and their order."""
    shares = map(len, np.array_split(np.arange(self.batch_size), len(self.rows)))
    return [
      (rows, Order(len(rows), share, self.seed, f"{self.stream}/{name}"))
      for share, (name, rows) in zip(shares, self.rows.items(), strict=True)
    ]

  def __post_init__(self) -> None:
    """Checks the shares.

    Raises:
      ValueError: a task's share is empty, or larger than its examples.
    """
    for name, rows in self.rows.items():
      if not len(rows):
        raise ValueError(
          f"The task {name!r} has no label in the training examples of {self.stream!r}: it can have"
          " no share of each batch. Set config.train.sampling='examples', or leave the task out."
        )
    assert self._orders

  def indices(self, start_step: int, count: int = 1) -> Int[np.ndarray, "count batch"]:
    """Returns the indices of `count` steps, as `Order.indices`."""
    parts = [rows[order.indices(start_step, count)] for rows, order in self._orders]
    return np.concatenate(parts, 1)


class Subset(Sequence[Any]):
  """Some examples of a random-access source: `Subset(dataset.source("train"), indices)`."""

  def __init__(self, source: Sequence[Any], indices: Int[np.ndarray, " n"]):
    self._source = source
    self._indices = indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: Any) -> Any:
    return self._source[int(self._indices[index])]


def first_half(size: int, fraction: float) -> int:
  """Returns how many of the training examples train weights; the others train the policy."""
  return round(size * fraction)


def halves(
  size: int, seed: int, fraction: float = 0.8
) -> tuple[Int[np.ndarray, " w"], Int[np.ndarray, " p"]]:
  """Splits the training examples: one part for weights, one for the policy.

  Args:
    fraction: of the weights' part, in (0, 1).

  Returns:
    Two disjoint, sorted int32 arrays that together are all examples.

  Raises:
    ValueError: one of the parts would be empty.
  """
  count = first_half(size, fraction)
  if not 0.0 < fraction < 1.0 or not 0 < count < size:
    raise ValueError(
      f"{size} training examples cannot be split with the fraction {fraction}:"
      " both parts need an example, and the fraction lies between 0 and 1."
    )
  mixed = _permutation(size, seed, "halves", 0)
  return np.sort(mixed[:count]), np.sort(mixed[count:])


def take(
  batch: Batch, indices: Int[Array, "..."], present: Bool[Array, "..."] | None = None
) -> Batch:
  """Picks examples, in NumPy or in a traced function.

  Args:
    batch: a whole split, for example.
    indices: of examples; its shape takes the place of the leading axis.
    present: for evaluation, False for padding: those examples are marked as
      not present, and none of their labels as valid.
  """
  picked: Batch = jax.tree.map(lambda leaf: leaf[indices], batch)
  return picked if present is None else _mask(picked, present)


def padded_batches(
  size: int, batch_size: int
) -> tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]:
  """Returns blocks of indices that go once through all examples, in order.

  Args:
    size: number of examples; may be smaller than the batch.

  Returns:
    int32 indices, and False where a block is filled up (with the index 0).

  Raises:
    ValueError: no example, or an empty batch.
  """
  if size < 1 or batch_size < 1:
    raise ValueError(
      f"Evaluation needs examples and a batch size of at least 1, not {size}"
      f" examples in batches of {batch_size}."
    )
  steps = -(-size // batch_size)
  places = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
  present = places < size
  return np.where(present, places, 0).astype(np.int32), present


def stream(
  source: Sequence[Batch],
  indices_order: Order,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 2,
  workers: int = 0,
  vary: Callable[[Batch, int], Batch] | None = None,
) -> Iterator[Batch]:
  """Loads training batches without end, for what does not fit into memory.

  The batch of a step is `take(arrays, indices_order.indices(step)[0])`, or this
  process's contiguous part of it; nothing else is loaded.

  Args:
    source: random access to single examples; read from several threads.
    indices_order: of the examples.
    start_step: the first step; resuming there continues exactly.
    process_index: which part to load.
    process_count: into how many parts a batch is split.
    threads: that load ahead; 0 loads when asked.
    workers: processes that load ahead; 0 loads in this one. Source and `vary`
      must then be picklable. The batches are the same.
    vary: changes an example, given its place in the order (step times batch
      size plus row); None leaves it.

  Returns:
    Endless iterator of NumPy batches with B / process_count examples.

  Raises:
    ValueError: the order is for another size, or the batch cannot be split.
  """
  batch = indices_order.batch_size
  if len(source) != indices_order.size:
    raise ValueError(
      f"The order is made for {indices_order.size} examples, the source has {len(source)}."
    )
  check_divisible(batch, process_count, process_count)
  local = batch // process_count
  rows = _Rows(source, indices_order.at, batch, process_index * local, local, vary=vary)
  return _iterate(rows, start_step, threads, workers)


def evaluation_stream(
  source: Sequence[Batch],
  global_batch: int,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 2,
  workers: int = 0,
) -> Iterator[Batch]:
  """Loads every example once, in order, the last batch filled up.

  Args: see `stream`.

  Returns:
    Iterator of NumPy batches; padding as in `take(..., present=...)`.

  Raises:
    ValueError: the batch cannot be split, or there is no example.
  """
  check_divisible(global_batch, process_count, process_count)
  local = global_batch // process_count
  first = process_index * local
  indices, present = padded_batches(len(source), global_batch)
  rows = _Rows(source, indices.ravel().item, global_batch, first, local, len(present))
  own = present[:, first : first + local]
  return map(_mask, _iterate(rows, 0, threads, workers), own)


def check_divisible(batch: int, devices: int, processes: int = 1) -> None:
  """Checks that a batch over all processes can be split evenly.

  Raises:
    ValueError: it cannot; names a size that can.
  """
  for count, what in ((processes, "processes"), (devices, "devices")):
    if count < 1 or batch < 1 or batch % count:
      below = batch - batch % count if count > 0 else 0
      near = f"{below} or {below + count}" if below > 0 else f"{count}"
      raise ValueError(
        f"A batch of {batch} cannot be split evenly over {count} {what}; choose for example {near}."
      )


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
  """The examples that one process loads, one after another; `at`: place -> index."""

  source: Sequence[Batch]
  at: Callable[[int], int]
  batch: int
  first: int
  local: int
  steps: int = 2**40
  vary: Callable[[Batch, int], Batch] | None = None

  def __len__(self) -> int:
    return self.steps * self.local

  def __getitem__(self, index: int) -> Batch:
    step, row = divmod(index, self.local)
    place = step * self.batch + self.first + row
    example = self.source[self.at(place)]
    return example if self.vary is None else self.vary(example, place)


def _iterate(rows: _Rows, start_step: int, threads: int, workers: int) -> Iterator[Batch]:
  """Stacks rows to batches, in threads of this process or of workers."""
  import grain  # Takes a quarter of a second, for those who stream alone.

  batches = grain.MapDataset.source(rows).batch(rows.local, batch_fn=stack)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  ahead = batches[start_step:].to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():  # in a notebook or script; Grain reads flags of its own
      flags.FLAGS.mark_as_parsed()
    ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return _without_script(lambda: iter(ahead), workers)
  return iter(ahead)


def _without_script(start: Callable[[], Any], workers: int) -> Iterator[Batch]:
  """What an iterator gives, whose first items start processes that need not run the user's script.

  A process that is spawned imports the program's main file again, which would train once more where
  the file has no `if __name__ == "__main__"`. Grain pickles all that its workers need, also what is
  defined in that file.
  """
  main = sys.modules["__main__"]
  script = getattr(main, "__file__", None) if getattr(main, "__spec__", None) is None else None
  iterator: Any = None
  try:
    for _ in range(workers):
      if script is not None:
        del main.__file__
      try:
        iterator = start() if iterator is None else iterator
        batch = next(iterator, None)
      finally:
        if script is not None:
          main.__file__ = script
      if batch is None:
        return
      yield batch
    yield from iterator
  finally:
    if iterator is not None:
      iterator.close()


def stack(examples: Sequence[Batch]) -> Batch:
  """Stacks single examples along a new leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def _mask(batch: Batch, present: Bool[Array, "..."]) -> Batch:
  """Marks padding; False wins over what the batch says."""
  extended = lambda axes: present.reshape(present.shape + (1,) * (axes - present.ndim))
  valid = {task: known & extended(known.ndim) for task, known in batch.valid.items()}
  return batch._replace(valid=valid, present=batch.present & present)


@functools.lru_cache(maxsize=8)
def _permutation(size: int, seed: int, stream_name: str, epoch: int) -> Int[np.ndarray, " size"]:
  """A permutation of `range(size)`, the same with every NumPy version."""
  return np.argsort(bits(seed, stream_name, epoch, size), kind="stable").astype(np.int32)


def bits(seed: int, stream_name: str, place: int, count: int) -> np.ndarray:
  """Returns `count` random uint64 of a place in a stream, the same with every NumPy version."""
  # NumPy promises stable raw bits of Philox, but not of its shuffle.
  entropy = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, zlib.crc32(stream_name.encode()), place]
  found: np.ndarray = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)
  return found
