"""DynaShare on your own pictures and labels, described by a YAML file.

Commands:

  python -m dynashare_jax data check --config=configs/folder.py
      --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/folder.py
      --config.data_dir=FOLDER

FOLDER holds dataset.yaml, which names pictures, tasks and splits: docs/data.md
walks through one. Tasks may have labels in a part of the data only. Their
weights stand in that file; --config.data.tasks="('depth',)" takes some of
them. Set the crop (and the size, if it should shrink) to suit the pictures:
--config.data.height=256 --config.data.width=512.

ResNet-18 with linear heads; the phases are those of the NYU v2 benchmark,
shorter. Start from ImageNet weights with --config.model.weights=FILE
(docs/weights.md).
"""

import os
import runpy

import ml_collections

_DEEPLAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deeplab.py")


def get_config() -> ml_collections.ConfigDict:
  config = runpy.run_path(_DEEPLAB)["get_config"](18)
  config.dataset = "folder"
  config.data = ml_collections.ConfigDict(
    dict(
      file="dataset.yaml",  # relative to config.data_dir
      tasks=(),  # all of the file
      validation="train",  # or test: one half of it; if the file names none
      validation_share=0.1,  # of the training examples
      split_seed=0,
      augment=True,
      crop=(224, 224),
      scales=(0.5, 1.5),
      mirror=True,
      jitter=0.0,  # of brightness, contrast and saturation
      height=0,
      width=0,
    )
  )  # of whole pictures; 0 as stored
  config.model.head = "linear"

  config.policy.candidates = 2
  config.policy.curriculum_speed = 1
  config.policy.temperature_decay = 0.9
  train = config.train
  train.batch_size, train.largest_batch = 0, 8  # as suits the number of pictures
  train.steps = 10000
  train.warmup_steps = 2000
  train.cycles = 60
  train.weight_steps = 40
  train.policy_steps = 10
  train.retrain_steps = 5000
  train.retrain_from = "policy"
  for name in ("warmup", "retrain"):
    config.optimizers[name].update(kind="adamw", schedule="cosine")
  return config
