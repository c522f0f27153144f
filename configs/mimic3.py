"""MIMIC-III: DynaShare on four clinical tasks, causal and masked.

Commands:

  python -m dynashare_jax.main --config=configs/mimic3.py
      --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/mimic3.py:demo
      --config.data_dir=FOLDER

FOLDER is the `multitask` folder that the mimic3-benchmarks pipeline writes
(docs/mimic3.md), for `:demo` that of the open MIMIC-III demo: a small network
and a few minutes on two cores. `:iterations` takes the papers' "epochs" as the
steps that they are in the authors' settings, with Adam as there. Other
networks: --config.model.backbone=tcn or channel_lstm, 9 blocks with
--config.model.blocks="(3,2,2,2)" and nine target rates.

The ablation of Table 6:

  python -m dynashare_jax benchmark --config=configs/mimic3.py
      --config.data_dir=FOLDER --methods=single,hard,adashare,dynashare,
      instance=dynashare+policy.use=False

`adashare` is "task-specific policy". The authors' form, which sees later hours
and the padding: --config.compat.time=authors --config.model.stem=series
--config.model.head=aspp (and --config.compat.masks=authors for their labels).

Source: DynaShare (CVPRW 2023), section 4.3 (ResNet-18, batches of 256, 1,000
epochs, learning rate 1e-3 halved every 250, Adam for the policy and SGD for
the weights); its settings for this data set where the paper is silent: warm-up
for half of the search, temperature, losses' weights, a target rate of 0.9 for
one block, factors on positive labels.

The papers' numbers, on test (areas under the curve, but for length of stay in
the first and third row, which seem to be kappas: see docs/mimic3.md):

                 phenotyping  length of stay  decompensation  mortality
  single task    77.00        45.00           91.00           86.00
  hard sharing   73.36        30.60           94.12           82.71
  MCW-LSTM       77.40        45.00           90.50           87.00
  AdaShare       76.39        71.68           82.08           94.15
  DynaShare      76.50        71.86           84.98           94.25
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")
_EPOCH = 114  # steps of 256 stays of the 29,250 for training
SETTINGS = ("epochs", "iterations", "demo")


def get_config(setting: str = "epochs") -> ml_collections.ConfigDict:
  """The configuration of a setting, see `SETTINGS`."""
  if setting not in SETTINGS:
    raise ValueError(f"configs/mimic3.py knows {', '.join(SETTINGS)}, not {setting!r}.")
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "mimic3"
  config.data = ml_collections.ConfigDict(
    dict(
      tasks=("phenotyping", "length_of_stay", "decompensation", "mortality"),
      hours=170,
      weights=dict(phenotyping=1.0, length_of_stay=2.0, decompensation=2.0, mortality=1.0),
      positive_weights=dict(phenotyping=5.0, decompensation=500.0, mortality=5.0),
      stay_weights=(),  # of the 10 classes of the stay that is left
      normaliser="benchmark",  # or train
      cache="",
      verify=False,
      workers=0,
    )
  )
  for name, value in dict(
    time="causal",
    axes="kept",
    masks="labels",
    stays="all",
    stay_classes="benchmark",
    task_weights="once",
  ).items():
    config.compat[name] = value  # or authors

  config.model.stem = "hourly"
  config.model.head = "temporal"
  config.model.head_width = 128
  config.model.dropout = 0.3

  config.policy.sparsity = 0.001
  config.policy.sharing = 0.05
  config.policy.curriculum_speed = 3
  config.policy.temperature_decay = 0.965
  config.gates.target_rates = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 1.0)

  train = config.train
  train.batch_size = 256
  train.resident = False
  config.eval.batch_size = 256
  config.eval.pictures = 0
  if setting == "demo":
    _demo(config)
  else:
    _papers(config, _EPOCH if setting == "epochs" else 1)
    if setting == "epochs":
      for name in ("warmup", "retrain"):
        config.optimizers[name].kind = "sgd"
  return config


def _papers(config: ml_collections.ConfigDict, unit: int) -> None:
  """Lengths in units of so many steps."""
  train = config.train
  train.steps = train.retrain_steps = 1000 * unit
  train.warmup_steps = 500 * unit
  train.weight_steps = 10 * unit
  train.policy_steps = 2 * unit
  train.cycles = 42
  train.log_every = 50 if unit > 1 else 10
  train.eval_every = 5 * unit if unit > 1 else 50
  train.checkpoint_every = 10 * unit if unit > 1 else 100
  for name in ("warmup", "retrain"):
    config.optimizers[name].every = 250 * unit


def _demo(config: ml_collections.ConfigDict) -> None:
  """A small network on 81 stays."""
  config.model.width_factor = 0.25
  config.model.head_width = 32
  config.data.positive_weights.decompensation = 20.0
  config.policy.candidates = 2
  config.policy.curriculum_speed = 1
  config.policy.temperature_decay = 0.8
  config.gates.target_rates = (1.0, 1.0, 1.0, 1.0, 0.8, 0.8, 0.8, 0.8)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5
  train = config.train
  train.resident = True
  train.batch_size = 8
  train.steps = 240
  train.warmup_steps = 80
  train.cycles = 8
  train.weight_steps = 8
  train.policy_steps = 4
  train.retrain_steps = 120
  train.retrain_from = "policy"
  train.execution = "masked"
  train.log_every = 10
  train.eval_every = 20
  train.checkpoint_every = 80
  config.eval.batch_size = 16
  for name in ("warmup", "retrain"):
    config.optimizers[name].update(
      kind="adamw", lr=2e-3, b1=0.9, weight_decay=1e-2, schedule="onecycle"
    )
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="sgd", lr=0.01)
  config.optimizers.policy.lr = 0.05
