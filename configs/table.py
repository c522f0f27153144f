"""DynaShare on your own table, CSV or Parquet, described by a YAML file.

Commands:

  python -m dynashare_jax data check --config=configs/table.py
      --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/table.py
      --config.data_dir=FOLDER

FOLDER holds dataset.yaml, which names the table and the columns to predict:
docs/tables.md walks through one. Another file: --config.data.file=FILE;
some of its tasks: --config.data.tasks="('churn',)".
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")


def get_config() -> ml_collections.ConfigDict:
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "table"
  config.data = ml_collections.ConfigDict(
    dict(
      file="dataset.yaml",  # relative to config.data_dir
      tasks=(),  # all of the file
    )
  )

  config.model.backbone = "mlp"
  config.model.blocks = (4,)
  config.model.dropout = 0.2

  config.policy.candidates = 2
  config.policy.curriculum_speed = 1
  config.policy.temperature_decay = 0.85

  config.gates.target_rates = (1.0, 1.0, 0.7, 0.7)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5

  train = config.train
  train.batch_size = 0  # as suits the number of rows
  train.largest_batch = 256
  train.steps = 3000
  train.warmup_steps = 600
  train.cycles = 12
  train.weight_steps = 40
  train.policy_steps = 10
  train.retrain_steps = 1800
  train.retrain_from = "policy"
  train.steps_per_dispatch = 20
  train.shared_prefixes = (0, 2)
  train.log_every = 60
  train.eval_every = 300
  train.checkpoint_every = 600
  config.eval.batch_size = 4096

  for name in ("warmup", "retrain"):
    config.optimizers[name].update(
      kind="adamw", lr=2e-3, b1=0.9, weight_decay=1e-2, schedule="onecycle"
    )
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="adamw", lr=3e-4, b1=0.9)
  config.optimizers.policy.lr = 0.05
  return config
