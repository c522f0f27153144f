"""Instance gates for your own network: per example, whether a block runs.

A gate reads what a block reads, and says for every example whether the block is worth running.
In training it draws (Gumbel noise), and its 0 or 1 passes on the gradient of the relaxed decision;
at test it takes the likelier of both. One block of a Flax network:

```
keep = gates.Gate(name="gate")(x, train)           # [B], 0.0 or 1.0
x = gates.mix(keep, x + block(x), x)               # the block, or what stands in its place
loss += 2.5 * (0.6 - keep.mean()) ** 2             # Eq. 5: run it for 60% of the examples
```

`mix` computes the block for all examples, as training needs it; `only` for those alone that keep
it, for inference. `docs/pieces/gates.md` has a whole example, in Linen and in NNX.

Source: DynaShare (Rahimian et al., CVPRW 2023), section 3.2, Eqs. 1, 2 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
import numbers
from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp
from jax.typing import DTypeLike

from dynashare_jax.models import gates
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import compaction
from dynashare_jax.ops import gumbel
from dynashare_jax.ops.annotated import checked

__all__ = ["Gate", "hard_gate", "instance", "logistic_noise", "mix", "only"]

hard_gate = checked(gumbel.hard_gate)
instance = checked(regularisers.instance)
logistic_noise = checked(gumbel.logistic_noise)


class Gate(nn.Module):
  """Decides, for every example, whether a block should run.

  Features are averaged over all places; then come a hidden layer, batch norm, ReLU, and a score.
  The parameters are `reduce`, `norm`, `score` and, where `told`, `rate`; running statistics of
  the norm are in `batch_stats`. Noise comes from the stream of random numbers `gates`: pass
  `rngs={"gates": key}` in training. The noise of an example depends on its place in the batch and
  the key alone, so that any split of the batch over devices decides alike.

  Attributes:
    hidden: width of the hidden layer.
    start: how often fresh gates run the block: `half` of the time; `open`, about 87%, as
      Convnet-AIG; `spread`, half of the time, with scores that differ between examples.
    told: whether the gate reads the target rate, so that one network serves every budget.
    temperature: above 0, of the relaxed decision whose gradient is passed on.
    dtype: of the computation; parameters stay float32.

  Source: DynaShare section 3.2; Veit and Belongie 2018 (Convnet-AIG).

  Example:
    >>> shapes = jax.eval_shape(Gate(hidden=16).init, jax.random.key(0), jnp.ones((4, 8, 8, 3)))
    >>> shapes["params"]["reduce"]["kernel"].shape
    (3, 16)
  """

  hidden: int = 16
  start: str = "half"
  told: bool = False
  temperature: float = 1.0
  dtype: DTypeLike = jnp.float32

  def setup(self) -> None:
    """Makes the package's gate, whose parameters become this module's own."""
    self.scorer = gates.Gate(self.hidden, self.start, self.dtype, self.told)
    nn.share_scope(self, self.scorer)

  def __call__(
    self,
    x: Any,
    train: bool = False,
    target: float | jax.Array | None = None,
    threshold: float | jax.Array = 0.0,
  ) -> jax.Array:
    """Returns the decisions `[B]`: exactly 0 or 1, float32, with gradients.

    Args:
      x: the block's input `[B, ..., C]`, or a tree of such arrays.
      train: draws, and normalises by the batch; else the likelier choice, by running statistics.
      target: the execution rate wanted, in (0, 1]; read if `told`, where None means 1.
      threshold: what a score must exceed; a higher one keeps fewer examples, without training.
    """
    score = self.relevance(x, train, target)
    if jnp.shape(threshold) not in ((), score.shape):
      raise ValueError(
        f"`threshold` must be one number, or [B] = {score.shape}, but has the shape"
        f" {jnp.shape(threshold)}."
      )
    score = score - threshold
    noise = None
    if train and not self.is_initializing():
      noise = logistic_noise(self.make_rng("gates"), jnp.arange(score.shape[0]))
    return hard_gate(score, noise, self.temperature)

  def relevance(
    self, x: Any, train: bool = False, target: float | jax.Array | None = None
  ) -> jax.Array:
    """Returns the scores `[B]` before the decision: log-odds of running the block.

    Raises:
      ValueError: a target outside (0, 1], or for a gate that reads none; a hidden layer without
        width; an input that is no batch of features.
    """
    width: Any = self.hidden
    if not isinstance(width, numbers.Integral) or width < 1:
      raise ValueError(
        f"`hidden` of a gate must be a whole number of at least 1, but is {self.hidden}."
      )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    if not shapes or min(map(len, shapes)) < 2 or len({shape[0] for shape in shapes}) > 1:
      raise ValueError(
        f"A gate reads an array [B, ..., C], or a tree of such, but got the shapes {shapes}."
      )
    if target is not None and not self.told:
      raise ValueError("This gate reads no target rate: make it with `Gate(told=True)`.")
    wanted: Any = 1 if target is None else target
    known = not isinstance(wanted, jax.core.Tracer)
    if jnp.ndim(wanted) or (known and not 0 < float(wanted) <= 1):
      raise ValueError(f"The target rate is {target}: give a number above 0 and at most 1.")
    grouped = jax.tree.map(lambda a: jnp.asarray(a)[None], x)
    rate = None if target is None else jnp.asarray(target, jnp.float32)
    scores: jax.Array = self.scorer(grouped, jnp.ones((1,)), not train, rate)
    return scores[0]


def mix(keep: jax.Array, done: Any, skipped: Any) -> Any:
  """Takes the block's output where it is kept, and what stands in its place elsewhere.

  Args:
    keep: `[B]` in [0, 1], from a `Gate` or a relaxed decision.
    done: the block's output, an array `[B, ...]` or a tree of such.
    skipped: the same shapes: what the output is without the block, such as its input.

  Returns:
    keep * done + (1 - keep) * skipped, example by example, in `done`'s types; `keep` gets the
    gradient by which the loss tells which one is better.

  Raises:
    ValueError: shapes that do not fit, or whole numbers, which a mixture would cut.

  Source: DynaShare section 3.2.

  Example:
    >>> mix(jnp.array([1.0, 0.0]), jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]])).tolist()
    [[1.0], [4.0]]
  """
  keep = jnp.asarray(keep)
  _check_rows(keep, done, skipped)
  for a in jax.tree.leaves((done, skipped)):
    if not jnp.issubdtype(jnp.result_type(a), jnp.inexact):
      raise ValueError(f"Outputs that are mixed must be real numbers, but one is {a.dtype}.")

  def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
    wide = keep.reshape(keep.shape + (1,) * (a.ndim - keep.ndim))
    return (wide * a + (1 - wide) * b).astype(a.dtype)

  return jax.tree.map(leaf, done, skipped)


def only(
  keep: jax.Array, block: Callable[[Any], Any], x: Any, skipped: Any, buckets: int = 8
) -> Any:
  """Runs a block for the examples alone that keep it, in inference; equals `mix` of the decisions.

  Under `jit` the kept examples are gathered into the smallest of a few sizes that holds them all,
  so that half of the examples take about half of the time.

  Args:
    keep: `[B]`, 0 or 1.
    block: of examples `[n, ...]`, each by itself (batch norm by running statistics); pure, so of a
      Flax module `lambda rows: module.apply(variables, rows)`, from outside of a running network.
    x: its input, an array `[B, ...]` or a tree of such.
    skipped: what the output is without the block, in its shapes.
    buckets: number of sizes; 0 asks every example in turn, best for a batch of one or few.

  Raises:
    ValueError: shapes that do not fit, of the block's output too.

  Example:
    >>> only(jnp.array([1.0, 0.0]), lambda x: 10 * x, jnp.arange(2.0), jnp.arange(2.0)).tolist()
    [0.0, 1.0]
  """
  way = compaction.Compaction(compaction.BUCKETS, buckets)
  if not buckets:
    way = compaction.Compaction(compaction.ROWS)
  keep = jnp.asarray(keep)
  if keep.ndim != 1:
    raise ValueError(f"`keep` must be [B], but has the shape {keep.shape}.")
  _check_rows(keep, x)
  _check_rows(keep, skipped)

  def done(rows: Any, rest: Any) -> Any:
    found = block(rows)
    _check_rows(jnp.ones(len(jax.tree.leaves(rest)[0])), found, rest)
    return found

  return compaction.run(done, x, skipped, keep > 0, way)


def _check_rows(keep: jax.Array, done: Any, skipped: Any = None) -> None:
  """Refuses arrays whose first axes are not those of `keep`, and pairs of other shapes."""
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(done)]
  for shape in shapes:
    if shape[: keep.ndim] != keep.shape:
      raise ValueError(
        f"`keep` has the shape {keep.shape}, but an output or input has {shape}: give every example"
        " a row of each."
      )
  if skipped is None:
    return
  others = [jnp.shape(leaf) for leaf in jax.tree.leaves(skipped)]
  trees: Any = jax.tree.structure(done), jax.tree.structure(skipped)
  if trees[0] != trees[1] or shapes != others:
    raise ValueError(
      f"The block's output has the shapes {shapes}, but what stands in its place has {others}: they"
      " must be the same, in the same tree."
    )
