"""NYU v2: AdaShare and DynaShare on 2 or 3 dense tasks.

Commands:

  python -m dynashare_jax.main --config=configs/nyuv2.py
      --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/nyuv2.py:3task
      --config.data_dir=FOLDER --workdir=runs/nyuv2-3task

Without a folder the first one says which layouts are read and where to get
them. `:2task` (segmentation and normals, ResNet-18, 40 classes; the default)
and `:3task` (also depth, ResNet-34) may be followed by the other depth:
`:2task-r34`, `:3task-r18`. Any method: --config.method=adashare, hard, single,
random_policy.

Source: AdaShare, Tables 1, 3 and 7, and its published settings; DynaShare
(CVPRW 2023), section 4.3 (target rates 1 for blocks 0 to 3, 0.55 for the
others; re-training for 50,000 steps from the search's weights, the learning
rate halved every 10,000). For 3 tasks DynaShare gives no rates: those of its
ResNet-34 on Cityscapes are taken.

The papers' numbers, on test, chosen on test, normals never decoded (our
angles are true ones and therefore larger; --config.compat.normals=raw
--config.compat.mirror=plain --config.compat.depth=unscaled
--config.compat.metrics=authors --config.compat.selection=test
--config.compat.sharing=authors gives theirs):

  2 tasks          mIoU  pixel acc  mean  median  11.25  22.5  30
  single task      27.8  58.5       17.3  14.4    37.2   73.7  85.1
  hard sharing     22.6  55.0       16.9  13.7    41.0   73.1  84.3
  AdaShare         29.6  61.3       16.6  12.9    45.0   72.1  83.2
  DynaShare 0.55   30.2  61.4       13.5  10.3    53.4   80.9  90.3

  3 tasks          mIoU  pixel acc  mean  median  11.25  22.5  30
  single task      27.5  58.9       17.5  15.2    34.9   73.3  85.7
  hard sharing     24.1  57.2       16.6  13.4    42.5   73.2  84.6
  AdaShare         30.2  62.4       16.6  12.9    45.0   71.7  83.0
                   abs   rel   1.25  1.25^2  1.25^3
  single task      0.62  0.25  57.9  85.8    95.7
  hard sharing     0.58  0.23  62.4  88.2    96.5
  AdaShare         0.55  0.20  64.5  90.5    97.8
"""

import os
import runpy

import ml_collections

_DEEPLAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deeplab.py")
SETTINGS = ("2task", "3task", "2task-r34", "3task-r18")


def get_config(setting: str = "2task") -> ml_collections.ConfigDict:
  if setting not in SETTINGS:
    raise ValueError(f"configs/nyuv2.py:{setting}: choose one of {', '.join(SETTINGS)}.")
  shared = runpy.run_path(_DEEPLAB)
  number, _, depth = setting.partition("-")
  three = number == "3task"
  depth = int(depth[1:]) if depth else (34 if three else 18)
  config = shared["get_config"](depth)
  config.dataset = "nyuv2"
  tasks = ("segmentation", "normals") + (("depth",) if three else ())
  config.data = shared["data"](
    tasks,
    dict(segmentation=1.0, normals=20.0, depth=3.0),
    321,
    classes=40,  # or 13
    samples_only=False,  # train and test on all that is found
    normal_axes="auto",
  )  # of stored normals
  config.compat.normals = "unit"  # or raw: bytes, never decoded

  config.policy.sparsity = 0.001 if three else 0.05
  config.policy.sharing = 0.05
  train = config.train
  train.cycles = 333
  train.weight_steps = 39
  train.policy_steps = 9
  if depth == 18:
    config.gates.target_rates = (1.0,) * 4 + (0.55,) * 4
  else:
    config.gates.target_rates = (1.0,) * 7 + (0.8,) * 9
  train.retrain_steps = 50000
  train.retrain_from = "policy"
  config.optimizers.retrain.every = 10000
  return config
