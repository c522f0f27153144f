"""What the configurations of the vision benchmarks have in common.

Not a run of its own: see nyuv2.py, cityscapes.py and taskonomy.py.
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def get_config(depth: int = 18) -> ml_collections.ConfigDict:
  """Deeplab-ResNet of 18 or 34 layers with ASPP heads, as AdaShare trains it.

  Learning rates, phases and crops are those of its published settings.
  """
  config = runpy.run_path(_BASE)["get_config"]()
  config.model.blocks = BLOCKS[depth]
  config.model.head = "aspp"
  config.model.dtype = "auto"  # bfloat16 on accelerators
  # The authors' mean of ImageNet; pictures count from 0 to 255 there.
  config.model.mean = tuple(c / 255 for c in (122.67891434, 116.66876762, 104.00698793))
  config.model.std = (1 / 255,) * 3
  config.train.resident = False
  config.train.threads = 4
  config.eval.batch_size = 8
  # 20,000 steps of search: 4,000 of warm-up, then cycles.
  config.train.warmup_steps = 4000
  config.train.retrain_steps = 20000
  config.train.steps = 20000
  config.compat.depth = "scaled"  # with the picture; or unscaled
  config.compat.mirror = "negated"  # normals; or plain
  return config


def data(tasks: tuple, weights: dict, crop: int, **values) -> dict:
  """Values of `config.data` of every data set of pictures."""
  return ml_collections.ConfigDict(
    dict(
      tasks=tasks,
      weights=weights,
      layout="auto",  # or a name of data/<name>.py
      validation="train",  # or test: one half of the test examples
      validation_share=0.1,  # of the training examples
      split_seed=0,
      augment=True,
      crop=(crop, crop),
      scales=(0.5, 1.5),
      mirror=True,
      jitter=0.0,  # of brightness, contrast and saturation
      height=0,
      width=0,  # of whole pictures; 0 as stored
      **values,
    )
  )
