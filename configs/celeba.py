"""CelebA: 40 binary attributes of faces, or three tasks of some of them.

Commands:

  python -m dynashare_jax data check --config=configs/celeba.py --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/celeba.py --config.data_dir=FOLDER
  python -m dynashare_jax.main --config=configs/celeba.py:groups --config.data_dir=FOLDER

Without a folder the first one says what it must hold. `:attributes` (the default): all 40, each a
task, pictures of 64 x 64. `:groups`: gender, age and clothes (five labels), pictures of 32 x 32 and
a ResNet-20, as GatedMTL trains, but with a stem of stride 2; steps and phases are ours, its epochs
are unsaid. Any method: --config.method=hard, single and so on. A copy at this size reads much
faster: `data convert` with the same configuration. A report shows accuracy; AUC counts in Delta.

Published for `:groups`, accuracy on test of gender, age and clothes (GatedMTL, Table 8): single
tasks 97.50, 86.02, 93.00; hard sharing 97.28, 86.70, 92.35; GatedMTL 97.60, 87.44, 92.40.
"""

import os
import runpy

import ml_collections

_DEEPLAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deeplab.py")
GROUPS = ("gender", "age", "clothes")
_NAMES = (
  "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
  "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
  "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
  "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
  "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
ATTRIBUTES = tuple(_NAMES.split())
SETTINGS = ("attributes", "groups")


def get_config(setting: str = "attributes") -> ml_collections.ConfigDict:
  if setting not in SETTINGS:
    raise ValueError(f"configs/celeba.py:{setting}: choose one of {', '.join(SETTINGS)}.")
  shared = runpy.run_path(_DEEPLAB)
  config = shared["get_config"](18)
  few = setting == "groups"
  size = 32 if few else 64
  config.dataset = "celeba"
  config.data = shared["data"](
    GROUPS if few else ATTRIBUTES, dict.fromkeys(ATTRIBUTES + GROUPS, 1.0), size
  )
  config.data.update(scales=(1.0, 1.0), height=size, width=size)

  model = config.model
  model.head = "linear"
  model.stem = "small"
  model.mean, model.std = (0.5,) * 3, (0.5,) * 3
  model.blocks = (3, 3, 3) if few else (2, 2, 2, 2)
  model.widths = (16, 32, 64) if few else (32, 64, 128, 256)
  model.strides = (1, 2, 2) if few else (1, 2, 2, 2)
  model.dilations = (1,) * len(model.strides)
  blocks = sum(model.blocks)
  config.gates.target_rates = (1.0,) * 4 + (0.7,) * (blocks - 4)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5
  config.policy.candidates = 2
  if not few:
    config.policy.routes = "sampled"  # the best one within a budget is found for 8 tasks at most

  train = config.train
  train.batch_size = 128
  train.cycles = 80
  train.weight_steps = 100
  train.policy_steps = 25
  train.retrain_from = "policy"
  train.execution = "masked"
  config.eval.batch_size = 256
  for name in ("warmup", "retrain"):
    config.optimizers[name].update(kind="adam", lr=1e-3, b1=0.9, schedule="cosine")
  return config
