"""DynaShare on Rooms, the built-in procedural scenes: the quick first run.

Commands:

  python -m dynashare_jax.main --config=configs/rooms.py
  python -m dynashare_jax.main --config=configs/rooms.py:light

`:light` has tasks that read the light beside tasks that must ignore it, four instead of
three, on smaller pictures that make up for it.
"""

import os
import runpy

import ml_collections

_BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base.py")
SETTINGS = ("geometry", "light")


def get_config(setting: str = "geometry") -> ml_collections.ConfigDict:
  """The configuration of a setting, see `SETTINGS`."""
  if setting not in SETTINGS:
    raise ValueError(f"configs/rooms.py knows {', '.join(SETTINGS)}, not {setting!r}.")
  config = runpy.run_path(_BASE)["get_config"]()
  config.dataset = "rooms"
  config.data = ml_collections.ConfigDict(
    dict(
      height=48,
      width=64,
      train=2048,
      validation=256,
      test=256,
      # Also edges, keypoints; albedo, shading, light (the lamp's direction); room (its
      # kind), with kinds=True.
      tasks=("segmentation", "depth", "normals"),
      noise=0.02,
      shadows=True,
      kinds=False,  # other scenes, in which rooms are halls, stores, playrooms, galleries
      scene_seed=0,
      weights=dict(
        segmentation=1.0,
        depth=1.0,
        normals=5.0,
        edges=5.0,
        keypoints=5.0,
        albedo=5.0,
        shading=5.0,
        light=3.0,
        room=1.0,
      ),
    )
  )
  if setting == "light":
    config.data.tasks = ("segmentation", "albedo", "shading", "light")
    config.data.update(height=40, width=56)

  config.model.widths = (16, 32, 48, 64)
  config.model.stem = "small"

  config.policy.sparsity = 0.005
  config.policy.sharing = 0.05
  config.policy.curriculum_speed = 1
  config.policy.temperature_decay = 0.8
  config.policy.candidates = 2
  config.policy.warmup = "all"  # random routes take three times as long a step
  config.policy.measure = 10

  config.gates.target_rates = (1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7)
  config.gates.init = "spread"
  config.gates.noise_fades = 0.5

  train = config.train
  train.batch_size = 16
  train.steps = 640
  train.warmup_steps = 240
  train.cycles = 8
  train.weight_steps = 20
  train.policy_steps = 10
  train.retrain_steps = 320
  train.retrain_from = "policy"
  train.execution = "masked"
  train.log_every = 20
  train.eval_every = 80
  train.checkpoint_every = 200
  config.eval.batch_size = 32

  for name in ("warmup", "retrain"):
    config.optimizers[name].update(kind="adamw", lr=3e-3, b1=0.9, schedule="onecycle")
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="sgd", lr=0.01)
  config.optimizers.policy.lr = 0.05
  return config
