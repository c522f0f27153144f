"""The configuration of a run on arrays: sizes that suit the data where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dynashare_jax import defaults
from dynashare_jax import lookup
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir
from dynashare_jax.data import in_memory
from dynashare_jax.data import loader
from dynashare_jax.library import given
from dynashare_jax.models import backbones
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.train import checks

BACKBONES = {"table": "mlp", "series": "tcn", "image": "resnet"}  # where none is named
_EPOCHS = 20
_STEPS = 200, 4000  # fewest and most, where none are given
_CYCLES = 8  # of a search
_OWN = ["dataset", "data", "data_dir", "method", "seed"]  # that other arguments say


def of(
  spec: types.DatasetSpec,
  fingerprint: str,
  method: str,
  backbone: str | None = None,
  balance: str = "fixed",
  steps: int | None = None,
  seed: int = 0,
  values: Mapping[str, Any] | None = None,
) -> ml_collections.ConfigDict:
  """Returns the configuration of a run, locked.

  Every method takes about `steps` S in all. Without a search they are one piece; else a warm-up
  takes S/6, weights S/6 and policy S/12 in turn, trials of routes S/5 and the re-training 2S/5.

  Args:
    spec: of the data.
    fingerprint: of the data.
    method: a file of `methods`.
    backbone: a file of `models.backbones`; default one for the kind of input.
    balance: a file of `objectives.balancing`; `uniform` is another word for `fixed`.
    steps: S; default 20 passes over the training data, at least 200 and at most 4,000.
    seed: of all randomness.
    values: dotted name -> value, as `{"train.batch_size": 64}`, in place of what is chosen here.

  Raises:
    ValueError: an unknown name or a value of another type.
  """
  given.whole(seed, "seed", 0)
  if values is not None and not isinstance(values, Mapping):
    raise ValueError(f"settings must be a dict of dotted name -> value, but is {values!r}.")
  methods.find(method)
  config = defaults.get_config()
  config.dataset, config.method, config.seed = "in_memory", method, int(seed)
  tasks = tuple(task.name for task in spec.tasks)
  config.data = ml_collections.ConfigDict(
    in_memory.defaults() | dict(tasks=tasks, fingerprint=fingerprint)
  )
  balance = "fixed" if balance == "uniform" else balance
  config.balance.name = lookup.one_of("balance", balance, balancing.available())
  name = backbone or BACKBONES[spec.input_kind]
  config.model.backbone = lookup.one_of("backbone", name, backbones.available())
  _network(config, spec)
  _training(config, spec, steps)
  if len(spec.tasks) == 1:
    config.policy.sharing = 0.0  # There is none to share with.
  config.lock()
  for key, value in (values or {}).items():
    _set(config, key, value)
  if not values or "gates.target_rates" not in values:
    network = backbones.find(config.model.backbone).build(config.model, spec, jnp.float32)
    blocks = network.num_blocks
    first = min(2, blocks - 1)
    config.gates.target_rates = (1.0,) * first + (0.7,) * (blocks - first)
  return config


def _network(config: ml_collections.ConfigDict, spec: types.DatasetSpec) -> None:
  """A network of a size that a laptop trains."""
  model, dense = config.model, any(kinds.find(task.kind).dense for task in spec.tasks)
  model.update(blocks=(6,), width=64, hidden=128)
  if spec.input_kind == "image" and model.backbone == "resnet":
    large = max(spec.input_shape[:2]) > 96
    model.update(blocks=(2, 2, 2, 2), widths=(16, 32, 48, 64), stem="deeplab" if large else "small")
    if not dense:
      model.update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 1))
  elif model.backbone == "hrnet":
    model.update(blocks=(1, 1, 1), widths=(16, 32, 48), rows=2)
  elif model.backbone in ("resnet", "vgg", "lenet", "vit", "channel_lstm"):
    model.blocks = (2, 2, 2, 2)
  if spec.lengths:
    model.update(head="temporal", head_width=64)


def _training(
  config: ml_collections.ConfigDict, spec: types.DatasetSpec, steps: int | None
) -> None:
  """Batch and lengths of the phases."""
  train, count = config.train, spec.sizes["train"]
  part = count - loader.first_half(count, train.weights_share)
  devices = jax.device_count()
  even = lambda size: max(devices, size - size % devices)
  train.batch_size = 0
  train.batch_size = checks.batch_size(config, spec, devices)
  if steps is None:
    steps = min(max(_EPOCHS * count // train.batch_size, _STEPS[0]), _STEPS[1])
  given.whole(steps, "steps", 1)
  share = lambda of: max(1, round(steps / of))
  train.steps, train.warmup_steps, train.retrain_steps = steps, share(6), share(18 / 7)
  train.cycles = min(_CYCLES, share(12))
  train.weight_steps, train.policy_steps = share(6 * train.cycles), share(12 * train.cycles)
  train.retrain_from, train.execution = "policy", "masked"
  train.log_every = train.steps_per_dispatch = max(1, min(20, steps // 20))
  train.eval_every = max(1, steps // 10)
  train.checkpoint_every = max(1, steps // 2)
  config.eval.batch_size = even(min(1024, *spec.sizes.values()))
  config.policy.update(
    candidates=2,
    temperature_decay=0.8,
    warmup="all",
    measure=min(10, max(1, part // train.batch_size)),
  )
  config.gates.update(init="spread", noise_fades=0.5)
  if train.batch_size == 2:
    config.experts.inner_share = 0.5  # Both parts need an example.
  for name in ("warmup", "retrain"):
    config.optimizers[name].update(
      kind="adamw", lr=3e-3, b1=0.9, weight_decay=1e-2, schedule="onecycle"
    )
  config.optimizers.retrain.gate_lr = 0.01
  config.optimizers.alternate.update(kind="sgd", lr=0.01)
  config.optimizers.policy.lr = 0.05


def _set(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  """Sets what no argument of `fit` sets."""
  if str(name).partition(".")[0] in _OWN or name in ("balance.name", "model.backbone"):
    raise ValueError(f"settings[{name!r}]: fit has an argument for it.")
  change(config, name, value)


def change(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  """Sets one value of a configuration by its dotted name.

  Raises:
    ValueError: there is none, or the value has another type than before; names the nearest.
  """
  known = {key for key, _ in workdir.flatten(config.to_dict())}
  name = str(name)
  group, _, last = name.rpartition(".")
  if name not in known:
    raise ValueError(f"There is no setting {name!r}.{lookup.hint_dotted(name, known)}")
  place = config
  for part in filter(None, group.split(".")):
    place = place[part]
  try:
    before = place[last]
    several = isinstance(before, tuple)
    # What would be taken for something else: letters for values, yes for 1.
    if isinstance(value, str) if several else isinstance(value, bool) > isinstance(before, bool):
      raise TypeError
    if value is None:  # Which a configuration takes for a value that is not there yet.
      raise TypeError
    place[last] = tuple(value) if several else value
  except TypeError as error:
    wanted = type(place[last]).__name__
    raise ValueError(f"{name} must be of the type {wanted}, but is {value!r}.") from error
