"""Tiny-Taskonomy: AdaShare on 5 dense tasks, ResNet-34.

Command:

  python -m dynashare_jax.main --config=configs/taskonomy.py
      --config.data_dir=FOLDER

Without a folder it says which layouts are read and where to get them. Any
method: --config.method=dynashare, hard, single, random_policy.

Source: AdaShare, Tables 4 and 7, and its published settings (100,000 steps of
search, 20,000 of them warm-up; 30,000 of re-training from scratch; learning
rate 1e-4 in the code, 1e-3 in the paper; times 0.3 every 12,000). DynaShare has
no row: its target rates on Cityscapes are taken.

The paper's numbers: the loss of every task on test, for normals the cosine.

                segmentation  normals  depth  keypoints  edges
  single task   0.575         0.707    0.022  0.197      0.212
  hard sharing  0.587         0.702    0.024  0.194      0.201
  AdaShare      0.566         0.707    0.025  0.192      0.193
"""

import os
import runpy

import ml_collections

_DEEPLAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deeplab.py")


def get_config() -> ml_collections.ConfigDict:
  shared = runpy.run_path(_DEEPLAB)
  config = shared["get_config"](34)
  config.dataset = "taskonomy"
  config.method = "adashare"
  config.data = shared["data"](
    ("segmentation", "normals", "depth", "keypoints", "edges"),
    dict(segmentation=1.0, normals=3.0, depth=2.0, keypoints=7.0, edges=7.0),
    224,
  )
  config.data.height, config.data.width = 256, 256

  config.compat.normal_mask = "depth"  # where there are normals; or none
  config.compat.unlabelled = "void"  # or background: pixels without a class
  config.compat.pictures = "smooth"  # or nearest: how pictures are resized
  # Of segmentation; prior: by the file semseg_prior_factor.npy.
  config.compat.class_weights = "equal"

  config.policy.sparsity = 0.001
  config.policy.sharing = 0.005
  config.policy.curriculum_speed = 1
  config.gates.target_rates = (1.0,) * 7 + (0.8,) * 9
  train = config.train
  train.warmup_steps = 20000
  train.cycles = 160
  train.weight_steps = 400
  train.policy_steps = 100
  train.retrain_steps = 30000
  train.steps = 30000
  train.eval_every = 1000
  for name in ("warmup", "alternate", "retrain"):
    config.optimizers[name].update(lr=1e-4, every=12000, factor=0.3)
  return config
