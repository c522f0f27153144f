"""PASCAL-Context: five dense tasks, ResNet-18.

Commands:

  python -m dynashare_jax data check --config=configs/pascal_context.py --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/pascal_context.py --config.data_dir=FOLDER

Without a folder the first one says what it must hold and where to get it. Any method:
--config.method=hard, single and so on.

Source: ASTMT (Maninis et al. 2019) and GatedMTL for pictures of 512 x 512, their scales, mirrors
and the weights of the losses, batches of 8, Adam of 1e-4, 60 epochs of training; they also start
from ImageNet weights (docs/weights.md). Their loss of normals is L1; the cosine takes its weight.
The phases of a search are ours.

Published, on test (GatedMTL, Table 5): mIoU, mIoU of parts, mean angle of normals, best IoU of
saliency, loss of edges.

  single tasks  66.1  59.8  14.70  66.1  0.0175
  hard sharing  64.3  58.6  15.93  65.6  0.0172
  GatedMTL      65.7  60.6  14.71  66.3  0.0172
"""

import os
import runpy

import ml_collections

_DEEPLAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deeplab.py")


def get_config() -> ml_collections.ConfigDict:
  shared = runpy.run_path(_DEEPLAB)
  config = shared["get_config"](18)
  config.dataset = "pascal_context"
  config.data = shared["data"](
    ("segmentation", "human_parts", "normals", "saliency", "edges"),
    dict(segmentation=1.0, human_parts=2.0, normals=10.0, saliency=5.0, edges=50.0),
    512,
  )
  config.data.update(scales=(0.75, 1.25), height=512, width=512)

  config.policy.sparsity = 0.01
  config.gates.target_rates = (1.0,) * 4 + (0.7,) * 4
  train = config.train
  train.batch_size = 8
  train.cycles = 80
  train.weight_steps = 160
  train.policy_steps = 40
  train.retrain_steps = 34000
  train.retrain_from = "policy"
  train.steps = 34000
  train.eval_every = 2000
  for name in ("warmup", "retrain"):
    config.optimizers[name].update(lr=1e-4, b1=0.9, schedule="cosine")
  return config
