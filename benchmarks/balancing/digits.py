"""A null control with real data: two overlapping digits, a task each.

    python -m benchmarks.balancing.digits --out=runs/balancing

Pictures of 11 by 11 pixels with two of scikit-learn's handwritten digits, one at the upper left and
one at the lower right, 5 by 5 pixels of which overlap. The tasks are alike and get on, so that with
losses of equal scale no balancer should differ from the plain sum; with the second loss times 0.01
the plain sum should forget the second task. Writes digits.json into --out, which
`benchmarks.balancing.page` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import functools
import json
import pathlib
from typing import Any

import jax
from jax import flatten_util
from jax import numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.balancing import toy
from dynashare_jax.cli import guard
from dynashare_jax.objectives import balancing

SCALES = (1.0, 0.01)  # of the second loss
NAMES = ("fixed", "log", "famo", "unit", "nash", "config", "upgrad", "pcgrad", "cagrad", "mgda")
_SIDE, _APART, _WIDTH = 8, 3, 32
_TRAIN, _PAIRS, _BATCH = 1200, 4000, 64  # digits; pairs of the others on test
_RATE = 3e-3


@functools.cache
def _data() -> tuple[np.ndarray, np.ndarray]:
  """All digits `[N, 8, 8]` in 0..1 in random order, and what they are."""
  found = datasets.load_digits()
  order = np.random.default_rng(0).permutation(len(found.target))
  return np.asarray(found.images[order] / 16, np.float32), found.target[order].astype(np.int32)


def _pairs(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pictures `[count, 121]` of pairs of digits `[2, count]`, and what those are."""
  images, names = map(jnp.asarray, _data())
  put = lambda digits, around: jnp.pad(digits, ((0, 0), around, around))
  upper, lower = put(images[chosen[0]], (0, _APART)), put(images[chosen[1]], (_APART, 0))
  return jnp.maximum(upper, lower).reshape(chosen.shape[1], -1), names[chosen]


def _forward(trunk: Any, heads: Any, x: jax.Array) -> list[jax.Array]:
  """Logits of both tasks."""
  for weight, bias in trunk:
    x = jax.nn.relu(x @ weight + bias)
  return [x @ weight + bias for weight, bias in heads]


def _layer(key: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
  """Random weights and no bias."""
  return jax.random.normal(key, (rows, columns)) * np.sqrt(2 / rows), jnp.zeros((1, columns))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(method: balancing.Balancer, steps: int, scale: jax.Array, key: jax.Array) -> jax.Array:
  """Accuracy of both tasks on test, after training with one scale and one seed."""
  keys = jax.random.split(key, 6)
  pixels = (_SIDE + _APART) ** 2
  trunk = [_layer(keys[0], pixels, _WIDTH), _layer(keys[1], _WIDTH, _WIDTH)]
  heads = [_layer(k, _WIDTH, 10) for k in keys[2:4]]
  shared = flatten_util.ravel_pytree(trunk)[0].size
  start, unravel = flatten_util.ravel_pytree((trunk, heads))
  factors = jnp.stack([jnp.ones_like(scale), scale])
  tx = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

  def values(params: jax.Array, batch: Any) -> jax.Array:
    x, names = batch
    entropy = optax.softmax_cross_entropy_with_integer_labels
    logits = _forward(*unravel(params), x)
    return factors * entropy(jnp.stack(logits), names).mean(1)

  def told(params: jax.Array, batch: Any) -> balancing.Losses:
    return balancing.Losses(values(params, batch), jnp.ones(2, bool), (1.0, 1.0))

  def step(carry: Any, drawn: Any) -> Any:
    (params, opt, state), (own, chosen) = carry, drawn
    batch = _pairs(chosen)
    before, rows = told(params, batch), jax.jacrev(values)(params, batch)
    trunks = rows[:, :shared]
    weights, state = toy.weigh(method, before, trunks, own, state)
    whole = method.heads or method.level == "losses"
    pulled = (weights if whole else jnp.ones(2)) @ rows[:, shared:]
    move, opt = tx.update(jnp.concatenate([weights @ trunks, pulled]), opt)
    params = params + move
    if method.after is not None:
      state = method.after(before, told(params, batch), state)
    return (params, opt, state), None

  first = start, tx.init(start), method.init(2, _TRAIN // _BATCH)
  chosen = jax.random.randint(keys[4], (steps, 2, _BATCH), 0, _TRAIN)
  own = jax.random.split(jax.random.fold_in(key, 1), steps)
  (params, _, _), _ = jax.lax.scan(step, first, (own, chosen))
  x, names = _pairs(jax.random.randint(keys[5], (2, _PAIRS), _TRAIN, len(_data()[1])))
  logits = jnp.stack(_forward(*unravel(params), x))
  return (logits.argmax(2) == names).mean(1)


def accuracies(settings: Sequence[str], steps: int, seeds: int) -> np.ndarray:
  """Trains at both scales; returns the accuracy on test in percent, `[scales, seeds, 2]`.

  Args:
    settings: of `config.balance`, `name=value`.
    steps: of Adam with a cosine schedule.
    seeds: 0, 1, ...
  """
  run = functools.partial(_train, toy.balancer(settings), steps)
  keys = jnp.stack([jax.random.key(seed) for seed in range(seeds)])
  over = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
  return 100 * np.asarray(over(jnp.array(SCALES), keys))


def main() -> None:
  """Trains under every balancer and keeps the accuracies."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--steps", type=int, default=1500)
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--out", default="runs/balancing")
  args = parser.parse_args()
  guard.use_compilation_cache()
  found = {}
  for name in NAMES:
    found[name] = accuracies([f"name={name}"], args.steps, args.seeds).tolist()
    print(name, np.mean(found[name], (1, 2)).round(1), flush=True)
  told = {"steps": args.steps, "seeds": args.seeds, "found": found}
  file = pathlib.Path(args.out) / "digits.json"
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
  main()
