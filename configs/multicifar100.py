"""Multi-CIFAR100: 20 tasks of 5 classes, each picture with a label of one task.

Commands:

  python -m dynashare_jax data check --config=configs/multicifar100.py --config.data_dir=DIR
  python -m dynashare_jax.main --config=configs/multicifar100.py --config.data_dir=DIR

DIR holds `cifar-100-python` or `cifar-100-binary`, as the official archives unpack. Any method:
--config.method=hard, single and so on.

Source: Auto-Lambda (Liu et al. 2022) for batches of 32 a task, SGD of 0.1 with weight decay 5e-4
and a cosine, 200 epochs of 79 steps, crops and mirrors; its VGG-16 with a norm a task is a ResNet
here, and the phases of a search are ours. A report shows accuracy; AUC counts in Delta.

Published, accuracy on test, mean over the tasks, lowest and median (MPPS, Tables 3 and 9):
hard sharing 59.23, 37.22, 60.52; MPPS 67.62, 41.38, 71.06.
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")
TASKS = (
  "aquatic_mammals",
  "fish",
  "flowers",
  "food_containers",
  "fruit_and_vegetables",
  "household_electrical_devices",
  "household_furniture",
  "insects",
  "large_carnivores",
  "large_man-made_outdoor_things",
  "large_natural_outdoor_scenes",
  "large_omnivores_and_herbivores",
  "medium_mammals",
  "non-insect_invertebrates",
  "people",
  "reptiles",
  "small_mammals",
  "trees",
  "vehicles_1",
  "vehicles_2",
)


def get_config() -> ml_collections.ConfigDict:
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "multicifar100"
  config.data = ml_collections.ConfigDict(
    dict(
      tasks=TASKS,
      weights=dict.fromkeys(TASKS, 1.0),
      validation_share=0.1,  # of the training pictures of every class
      split_seed=0,
      augment=True,
      padding=4,  # black pixels around a picture, before it is cropped to its size
      mirror=True,
    )
  )

  config.model.widths = (32, 64, 128, 256)
  config.model.strides = (1, 2, 2, 2)
  config.model.dilations = (1, 1, 1, 1)
  config.model.stem = "small"
  config.model.mean = (0.5071, 0.4867, 0.4408)
  config.model.std = (0.2675, 0.2565, 0.2761)

  config.policy.candidates = 2
  config.policy.routes = "sampled"  # the best one within a budget is found for 8 tasks at most
  config.gates.target_rates = (1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5

  train = config.train
  train.batch_size = 640  # 32 a task
  train.sampling = "tasks"  # each has its share of every batch
  train.steps = 15800
  train.warmup_steps = 3160
  train.cycles = 40
  train.weight_steps = 64
  train.policy_steps = 15
  train.retrain_steps = 15800
  train.retrain_from = "policy"
  train.execution = "masked"
  train.eval_every = 790
  config.eval.batch_size = 500
  config.eval.pictures = 6

  for name in ("warmup", "retrain"):
    config.optimizers[name].update(kind="sgd", lr=0.1, weight_decay=5e-4, schedule="cosine")
  config.optimizers.alternate.update(kind="sgd", lr=0.01, weight_decay=5e-4)
  config.optimizers.retrain.gate_lr = 0.01
  return config
