"""One backbone per task; a learnt matrix mixes their features after every block."""

from flax import linen as nn
import jax.numpy as jnp

from dynashare_jax.models import backbones
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.sharing import contract


class StitchedTrunk(trunks.Trunk):
  columns: tuple[nn.Module, ...]
  units: int = 1

  @nn.nowrap
  def leaves(self):
    return {"columns": trunks.Leaf("backbone"), "stitches": trunks.Leaf("stitches")}

  @nn.compact
  def __call__(self, inputs, control, train):
    tasks, blocks = len(self.columns), self.columns[0].num_blocks
    start = lambda key: jnp.stack([0.9 * jnp.eye(tasks) + 0.05] * blocks)
    mix = self.param("stitches", start)
    pass_ = backbones.Pass(train, jnp.ones((1,)))
    x = jnp.stack([column.stem(inputs, pass_) for column in self.columns])
    for b in range(blocks):
      run = lambda c, x, b=b: c.merge(c.shortcut(b, x, pass_), c.branch(b, x, pass_))
      x = jnp.stack([run(column, x[t]) for t, column in enumerate(self.columns)])
      x = jnp.einsum("ts,s...->t...", mix[b], x)
    features = [column.final(x[t])[0] for t, column in enumerate(self.columns)]
    drift = 0.01 * jnp.square(mix - jnp.eye(tasks)[None]).sum()
    return features, trunks.Signals(jnp.ones((tasks, x.shape[2], 1)), {"drift": drift})


def build(parts):
  trunk = StitchedTrunk(tuple(parts.backbone() for _ in parts.spec.tasks))
  groups, steps = ("backbone", "stitches", "heads"), parts.config.train.steps
  phase = contract.Phase("retrain", steps, "train", groups, None, 0, "keep", "retrain", True)
  faster = lambda settings, weights: weights(10 * settings.lr)
  return contract.Method("stitched", (phase,), trunk, optimizers={"stitches": faster})
