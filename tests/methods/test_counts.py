"""Parameters beside the backbones, against those that the papers' printed multiples ask for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
from jax import numpy as jnp
import pytest

from dynashare_jax import defaults
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.sharing import contract
from dynashare_jax.train import optim

BLOCKS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 6, 3)}
# Of one backbone: what trains, and batch statistics beside.
BACKBONES = {"r18": (11_176_512, 9_600), "r34": (21_284_672, 17_024)}


def _built(method: str, network: str, tasks: int, **settings: Any) -> contract.Method:
  config = defaults.get_config()
  config.update_from_flattened_dict(settings)
  spec = types.DatasetSpec(
    "toy",
    tuple(types.TaskSpec(f"t{t}", "binary") for t in range(tasks)),
    "image",
    (33, 33, 3),
    {"train": 64},
  )
  kind = "bottleneck" if network == "r50" else "basic"
  backbone = lambda: resnet.ResNet(
    2, BLOCKS[network], (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), block_kind=kind
  )
  count = sum(BLOCKS[network])
  parts = contract.Parts(config, spec, backbone, count, jnp.float32, lambda: (1.0,) * count)
  return methods.find(method).build(parts)


def _counted(method: str, network: str, tasks: int, **settings: Any) -> Counter[str]:
  """Numbers by group, and `batch_stats` of all; of the group `attention` those of a task apart."""
  trunk = _built(method, network, tasks, **settings).trunk
  made = jax.eval_shape(
    lambda k: trunk.init(k, jnp.zeros((1, 33, 33, 3)), (), False), jax.random.key(0)
  )
  found: Counter[str] = Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(made["params"]):
    rule = trunks.leaf_of(trunk.leaves(), optim.path_of(path))
    found[rule.group] += leaf.size
    if rule.owner == 0:
      found[f"{rule.group} of a task"] += leaf.size
  found["batch_stats"] = sum(leaf.size for leaf in jax.tree.leaves(made["batch_stats"]))
  return found


@pytest.mark.parametrize(
  "method, network, tasks, added, settings",
  [
    ("cross_stitch", "r18", 2, 32, {}),
    ("cross_stitch", "r18", 2, 7_680, {"fusion.channels": True}),
    ("cross_stitch", "r34", 3, 144, {}),
    ("sluice", "r18", 2, 128, {}),
    ("sluice", "r34", 2, 256, {}),
    ("nddr", "r18", 2, 1_413_120, {}),
    ("nddr", "r34", 3, 3_176_448, {}),
  ],
)
def test_fused_columns(method, network, tasks, added, settings):
  found = _counted(method, network, tasks, **settings)
  assert found["fusion"] == added
  assert found["backbone"] == tasks * BACKBONES[network][0]
  if not settings:
    one = sum(BACKBONES[network])
    multiple = (found["backbone"] + found["fusion"] + found["batch_stats"]) / one
    printed = {"nddr": {2: "2.13", 3: "3.15"}}.get(method, {}).get(tasks, f"{tasks:.2f}")
    assert f"{multiple:.2f}" == printed


@pytest.mark.parametrize(
  "network, tasks, of_a_task, printed",
  [("r18", 2, 8_196_992, "2.47"), ("r34", 2, 14_947_520, "2.41"), ("r34", 3, 14_947_520, "3.11")],
)
def test_attention_after_every_block(network, tasks, of_a_task, printed):
  found = _counted("mtan", network, tasks)
  assert found["attention of a task"] == of_a_task
  one = sum(BACKBONES[network])
  every = found["backbone"] + tasks * of_a_task + found["batch_stats"]
  assert f"{every / one:.2f}" == printed


@pytest.mark.parametrize(
  "network, of_a_task, shared", [("r18", 263_696, 499_072), ("r50", 4_175_936, 7_931_392)]
)
def test_attention_after_every_segment(network, of_a_task, shared):
  found = _counted("mtan", network, 3, **{"attention.design": "stage"})
  assert found["attention of a task"] == of_a_task and found["attention"] == shared + 3 * of_a_task


@pytest.mark.parametrize(
  "network, channels, numbers",
  [("r18", 2_560, 11_176_512), ("r34", 3_072, 21_284_672), ("r50", 6_144, 23_508_032)],
)
def test_masks_of_the_last_six_layers(network, channels, numbers):
  """Beside the parameters of hard sharing."""
  sharing = _built("mpps", network, 3).sharing
  learnt = jax.eval_shape(sharing.init, jax.random.key(0))
  assert len(learnt) == 6
  assert sum(leaf.size for leaf in learnt.values()) == 3 * channels
  assert _counted("mpps", network, 3)["backbone"] == numbers
