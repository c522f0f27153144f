"""DynaShare on MultiMNIST: two overlaid digits, a task for each.

  python -m dynashare_jax.main --config=configs/multimnist.py --config.data_dir=DIR

DIR holds a folder `mnist` with the four files of MNIST; `:fashion` (two items) needs
`fashion_mnist`, `:fashion_and_mnist` (a digit on the left, an item on the right) both.
`:disjoint5` and `:disjoint2` are no overlays: single Fashion items, whose classes 5 tasks of 2 or
2 tasks of 5 share out, so that each picture has a label of one task. See docs/data.md.
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")
DISJOINT = {
  "disjoint5": ("classes_01", "classes_23", "classes_45", "classes_67", "classes_89"),
  "disjoint2": ("classes_01234", "classes_56789"),
}


def get_config(kind: str = "mnist") -> ml_collections.ConfigDict:
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "multimnist"
  config.data = ml_collections.ConfigDict(
    dict(
      kind=kind,  # mnist, fashion, fashion_and_mnist
      train=55000,
      validation=5000,
      test=10000,
      pair_seed=0,
      tasks=("left", "right"),
      weights=dict(left=1.0, right=1.0, reconstruction=1.0),
    )
  )

  if kind in DISJOINT:
    every = sum(DISJOINT.values(), ())
    config.dataset = "split_fashion"
    config.data = ml_collections.ConfigDict(
      dict(
        tasks=DISJOINT[kind],
        weights=dict.fromkeys(every, 1.0),
        validation_share=0.1,  # of the training pictures of every class
        split_seed=0,
      )
    )
    config.train.sampling = "tasks"  # each has its share of every batch

  config.model.widths = (16, 32, 48, 64)
  config.model.strides = (1, 2, 2, 1)
  config.model.dilations = (1, 1, 1, 1)
  config.model.stem = "small"

  config.policy.temperature_decay = 0.8
  config.policy.candidates = 2
  config.policy.warmup = "all"  # random routes take longer a step
  config.policy.measure = 10

  config.gates.target_rates = (1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5

  train = config.train
  train.batch_size = 64
  train.steps = 800
  train.warmup_steps = 200
  train.cycles = 8
  train.weight_steps = 20
  train.policy_steps = 10
  train.retrain_steps = 400
  train.retrain_from = "policy"
  train.execution = "masked"
  train.log_every = 20
  train.eval_every = 200
  train.checkpoint_every = 200
  config.eval.batch_size = 500
  config.eval.pictures = 6

  for name in ("warmup", "retrain"):
    config.optimizers[name].update(kind="adamw", lr=3e-3, b1=0.9, schedule="onecycle")
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="sgd", lr=0.01)
  config.optimizers.policy.lr = 0.05
  return config
