"""Channels that tasks have for themselves: how exclusive they are, and the masks that say so.

Every channel of a layer has one owner among the tasks; the others are its guests. `phi` `[T, C]` is
how likely each task uses each channel. A schedule lowers how exclusive channels shall be.

Source: Shi et al. 2023, Deep Multitask Learning with Progressive Parameter Sharing.
"""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer
import numpy as np

from dynashare_jax.ops import streams
from dynashare_jax.types import Array

FAMILIES = ("bernoulli", "gaussian")
CONSTANT = {"separ": 1.0, "fullshare": 0.0}  # schedules that never change
_STEPS = {"step5": 5, "step10": 10, "step20": 20}
SCHEDULES = ("linear", *_STEPS, "quad", "quad_slow", *CONSTANT)


def owners(tasks: int, channels: int) -> Integer[np.ndarray, " C"]:
  """Returns the owner of every channel: equal stretches, the first ones longer by one if need be.

  Raises:
    ValueError: some task would own none.
  """
  if channels < tasks:
    raise ValueError(f"{channels} channels cannot be split among {tasks} tasks.")
  parts = np.array_split(np.arange(channels), tasks)
  return np.repeat(np.arange(tasks), [len(part) for part in parts])


def capacity(phi: Float[Array, "T C"]) -> Float[jax.Array, " C"]:
  """Computes the exclusive capacity of channels: 1 where only the owner uses one, 0 where all do.

  Raises:
    ValueError: there is one task.

  Source: section 3.3.
  """
  if len(phi) < 2:
    raise ValueError("exclusive capacity compares tasks, but there is only one.")
  phi = jnp.asarray(phi)
  return 1 - (phi.sum(0) - phi.max(0)) / (len(phi) - 1)


def schedule(name: str, epochs: int, frozen: int) -> Float[np.ndarray, " E"]:
  """Returns the exclusive capacity that is wanted in every epoch, from 1 to 0.

  Courses of equal length follow one another, each with the same capacity: as many as the name
  says, else one an epoch. `linear` and steps fall evenly; `quad` falls fast at first, `quad_slow`
  at last.

  Args:
    name: one of `SCHEDULES`.
    epochs: E.
    frozen: epochs that the first course and the last one last longer, each; at most E / 2, which
      leaves a single step.

  Source: section 3.5, Fig. 3, which prints no formula.
  """
  if name in CONSTANT:
    return np.full(epochs, CONSTANT[name])
  epoch, changing = np.arange(epochs), epochs - 2 * frozen
  last = max(min(_STEPS.get(name, changing), changing), 2) - 1  # the number of the last course
  if changing:
    course = np.clip((last + 1) * (epoch - frozen) // changing, 0, last)
  else:
    course = np.where(epoch < frozen, 0, last)
  done = course / last
  return np.asarray({"quad": (1 - done) ** 2, "quad_slow": 1 - done**2}.get(name, 1 - done))


def scheduled(
  owns: Bool[Array, "T C"], wanted: float | jax.Array, epsilon: float
) -> Float[jax.Array, "T C"]:
  """Returns probabilities with a wanted capacity where all guests are alike."""
  return jnp.where(jnp.asarray(owns), 1 - epsilon, 1 - jnp.asarray(wanted, jnp.float32))


def target(
  phi: Float[Array, "T C"], owns: Bool[Array, "T C"], wanted: float | jax.Array, epsilon: float
) -> Float[jax.Array, "T C"]:
  """Moves probabilities to a wanted capacity; how guests' 1 - phi compare stays as it is.

  Args:
    phi: where they are.
    owns: which task owns which channel.
    wanted: capacity of each channel.
    epsilon: channels below this capacity have guests that hardly differ from the owner: theirs
      become alike (`scheduled`).

  Source: Eq. 4. Differs: there and in Algorithm 1 the factor 1 / (T - 1) of the capacity is lost,
    without which three tasks have negative ones.
  """
  now = capacity(phi)[None]
  moved = 1 - wanted / jnp.maximum(now, epsilon) * (1 - jnp.asarray(phi))
  return jnp.where(now < epsilon, scheduled(owns, wanted, epsilon), moved)


def probabilities(logits: Float[Array, "T C"], epsilon: float) -> Float[jax.Array, "T C"]:
  """Returns phi in [epsilon / 2, 1 - epsilon / 2]: a bit beyond what targets ask for."""
  return epsilon / 2 + (1 - epsilon) * jax.nn.sigmoid(jnp.asarray(logits))


def logits(phi: Float[Array, "T C"], epsilon: float) -> Float[jax.Array, "T C"]:
  """Returns what `probabilities` makes phi of."""
  inner = (jnp.asarray(phi) - epsilon / 2) / (1 - epsilon)
  return jnp.log(inner) - jnp.log1p(-inner)


def deviation(phi: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
  """Returns the standard deviation of Gaussian masks, whose mean is 1."""
  phi = jnp.asarray(phi)
  return jnp.sqrt((1 - phi) / phi)


def sample(
  phi: Float[Array, "T C"], family: str, seed: int | jax.Array, layer: str, step: int | jax.Array
) -> Float[jax.Array, "T C"]:
  """Draws masks; each number is a function of (seed, layer, step, task, channel).

  Args:
    phi: of Bernoulli masks the probability of 1, without gradient; of Gaussian ones it gives their
      `deviation`, with the gradient of a draw that stays the same.
    family: one of `FAMILIES`.
    seed: of the run.
    layer: the layer's name.
    step: of training.
  """
  phi = jnp.asarray(phi)
  key = streams.stream_key(seed, f"masks/{layer}", step)
  keys = jax.vmap(lambda task: jax.random.fold_in(key, task))(jnp.arange(len(phi)))
  draw = jax.random.uniform if family == "bernoulli" else jax.random.normal
  drawn = jax.vmap(lambda key: draw(key, phi.shape[1:]))(keys)
  if family == "bernoulli":
    return (drawn < phi).astype(jnp.float32)
  return 1 + deviation(phi) * drawn


def log_probabilities(
  masks: Float[Array, "T C"], phi: Float[Array, "T C"]
) -> Float[jax.Array, "T C"]:
  """Computes the log probabilities of Bernoulli masks."""
  phi = jnp.asarray(phi)
  return jnp.where(jnp.asarray(masks) > 0, jnp.log(phi), jnp.log1p(-phi))


def score(gains: Float[Array, " T"], logs: Float[Array, " T"]) -> Float[jax.Array, ""]:
  """Makes a number that is 0 and whose gradient is the score-function estimate.

  Args:
    gains: losses above what was expected; they get no gradient.
    logs: log probabilities of what was drawn.
  """
  return (jax.lax.stop_gradient(gains) * (logs - jax.lax.stop_gradient(logs))).sum()


def divergence(
  q: Float[Array, "*shape"], p: Float[Array, "*shape"], family: str
) -> Float[jax.Array, "*shape"]:
  """Computes KL(q, p) in nats of masks with the probabilities `q` from masks with `p`.

  Source: Eq. 3; section 7.4 for the Gaussian's.
  """
  q, p = jnp.asarray(q), jnp.asarray(p)
  if family == "bernoulli":
    return q * jnp.log(q / p) + (1 - q) * jnp.log((1 - q) / (1 - p))
  ratio = jnp.square(deviation(q) / deviation(p))
  return (ratio - jnp.log(ratio) - 1) / 2


def entropy(phi: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
  """Computes the entropy of Bernoulli masks in bits."""
  phi = jnp.asarray(phi)
  return -(phi * jnp.log2(phi) + (1 - phi) * jnp.log2(1 - phi))
