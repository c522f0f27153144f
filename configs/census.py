"""DynaShare on Census-Income (KDD), three binary tasks.

  python -m dynashare_jax.main --config=configs/census.py --config.data_dir=DIR

DIR holds `census-income.data[.gz]` and `census-income.test[.gz]`, or the
Parquet of both.
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")


def get_config() -> ml_collections.ConfigDict:
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "census"
  config.data = ml_collections.ConfigDict(
    dict(
      tasks=("income", "marital", "education"),
      encoding="embedded",  # or onehot, for the 1-D ResNet
      split_seed=1,
      bins=16,
      instance_weight=True,
      rows=(199523, 99762),
    )
  )
  config.compat.census_columns = "corrected"  # or authors
  config.compat.census_labels = "corrected"  # or authors

  config.model.backbone = "mlp"
  config.model.blocks = (8,)
  config.model.dropout = 0.2

  config.policy.sparsity = 0.01
  config.policy.sharing = 0.01
  config.policy.curriculum_speed = 1
  config.policy.temperature_decay = 0.85
  config.policy.candidates = 2

  config.gates.target_rates = (1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5

  train = config.train
  train.batch_size = 1024
  train.steps = 3510  # 18 epochs
  train.warmup_steps = 780
  train.cycles = 12
  train.weight_steps = 40
  train.policy_steps = 10
  train.retrain_steps = 2340
  train.retrain_from = "policy"
  train.steps_per_dispatch = 65
  train.shared_prefixes = (0, 4)
  train.log_every = 65
  train.eval_every = 195
  train.checkpoint_every = 390
  config.eval.batch_size = 4096

  for name in ("warmup", "retrain"):
    config.optimizers[name].update(
      kind="adamw", lr=2e-3, b1=0.9, weight_decay=1e-2, schedule="onecycle"
    )
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="adamw", lr=3e-4, b1=0.9)
  config.optimizers.policy.lr = 0.05
  return config
