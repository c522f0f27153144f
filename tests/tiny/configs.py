"""The configuration of a tiny run, and its data set found by name; imports no pytest."""

from __future__ import annotations

import pathlib
import runpy
from typing import Any

import ml_collections

from dynashare_jax import data

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = str(pathlib.Path(__file__).resolve().parent / "data")

_VALUES = {
  "dataset": "stripes",
  "method": "dynashare",
  "model.backbone": "mlp",
  "model.blocks": (2,),
  "model.width": 8,
  "model.hidden": 8,
  "model.dropout": 0.0,
  "model.stem": "small",
  "model.head": "linear",
  "model.dtype": "float32",
  "compat.search": "papers",
  "policy.curriculum_speed": 1,
  "policy.candidates": 2,
  "policy.init": "equal",
  "policy.sparsity": 0.05,
  "policy.sharing": 0.05,
  "policy.temperature": 5.0,
  "policy.temperature_decay": 0.8,
  "gates.target_rates": (1.0, 0.6),
  "gates.weight": 1.0,
  "train.batch_size": 8,
  "train.steps": 8,
  "train.warmup_steps": 4,
  "train.cycles": 2,
  "train.weight_steps": 3,
  "train.policy_steps": 2,
  "train.retrain_steps": 6,
  "train.retrain_from": "policy",
  "train.weights_share": 0.75,
  "train.execution": "masked",
  "train.shared_prefixes": (0,),
  "train.steps_per_dispatch": 1,
  "train.resident": True,
  "train.log_every": 2,
  "train.eval_every": 3,
  "train.threads": 1,
  "eval.batch_size": 8,
  "eval.pictures": 2,
  "optimizers.warmup.kind": "adamw",
  "optimizers.warmup.schedule": "cosine",
  "optimizers.warmup.lr": 0.01,
  "optimizers.alternate.kind": "sgd",
  "optimizers.alternate.lr": 0.01,
  "optimizers.alternate.schedule": "constant",
  "optimizers.retrain.kind": "adam",
  "optimizers.retrain.lr": 0.01,
  "optimizers.retrain.schedule": "onecycle",
  "optimizers.policy.lr": 0.1,
}


# Values of `make` for weights 0-3, policy 3-5 and re-training 5-11: every part of a search once.
SHORT = {"train__warmup_steps": 0, "train__cycles": 1, "policy__candidates": 1}
# Value of `make` for runs that are stopped: a save takes longer than many steps.
SAVES = {"train__checkpoint_every": 3}
# Values of `make` for a small network of pictures, of two blocks.
PICTURES = {
  "data__images": True,
  "model__backbone": "resnet",
  "model__blocks": (1, 1),
  "model__widths": (4, 8),
  "model__strides": (1, 2),
  "model__dilations": (1, 1),
}


def find_stripes() -> None:
  """Adds the tiny data set to those that `--config.dataset` can name."""
  if DATA not in data.__path__:
    data.__path__.append(DATA)


def make(**values: Any) -> ml_collections.ConfigDict:
  """Makes a configuration: `make(method="hard", train__steps=3)`."""
  made = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]()
  module = runpy.run_path(str(pathlib.Path(DATA) / "stripes.py"))
  made.data = ml_collections.ConfigDict(module["defaults"]())
  for name, value in {**_VALUES, **{k.replace("__", "."): v for k, v in values.items()}}.items():
    group, _, last = name.rpartition(".")
    node = made
    for part in group.split(".") if group else ():
      node = node[part]
    assert last in node, name
    node[last] = value
  return made
