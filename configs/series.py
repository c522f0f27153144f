"""DynaShare on your own series, in CSV or Parquet, described by a YAML file.

Commands:

  python -m dynashare_jax data check --config=configs/series.py
      --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/series.py
      --config.data_dir=FOLDER

FOLDER holds dataset.yaml, which names the series, their labels and the columns
to predict: docs/tables.md walks through one. A temporal convolutional network
of 5 blocks reads 127 steps before each; more with --config.model.blocks="(7,)"
and seven target rates.
"""

import os
import runpy

import ml_collections

_TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "table.py")


def get_config() -> ml_collections.ConfigDict:
  config = runpy.run_path(_TABLE)["get_config"]()
  config.dataset = "series"
  config.model.backbone = "tcn"
  config.model.blocks = (5,)
  config.model.width = 32
  config.model.head = "temporal"
  config.model.head_width = 32
  config.gates.target_rates = (1.0, 1.0, 0.7, 0.7, 0.7)
  train = config.train
  train.largest_batch = 32
  train.steps = 1000
  train.warmup_steps = 200
  train.cycles = 6
  train.weight_steps = 20
  train.policy_steps = 5
  train.retrain_steps = 600
  train.log_every = 20
  train.eval_every = 100
  train.checkpoint_every = 200
  config.eval.batch_size = 256
  return config
