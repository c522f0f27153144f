"""What is refused before any compute is spent."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import defaults
from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models import heads
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives import views as views_lib
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import routes
from dynashare_jax.train import gradients
from dynashare_jax.train import optim

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AUTO = "auto"  # bfloat16 on accelerators, where it is fast; else float32

_CHOICES = {
  "data_changed": identity.CHANGED,
  "model.dtype": (*DTYPES, AUTO),
  "gates.target_rate": ("fixed", "sampled"),
  "train.execution": ("planned", "masked"),
  "train.loss_at": ("logits", "labels"),
  "train.sampling": ("examples", "tasks"),
  "policy.warmup": ("random", "all"),
  "policy.routes": ("budget", "sampled"),
  "policy.serve": routes.SERVES,
  "balance.name": balancing.available(),
  "balance.normalise": balancing.NORMALISE,
  "balance.length": ("", *balancing.LENGTHS),
  "balance.aligned_scale": balancing.SCALES,
  "compat.search": ("corrected", "papers"),
  "compat.gates": ("argmax", "sampled"),
  "compat.selection": ("validation", "test"),
  "compat.metrics": kinds.METRICS,
  "compat.mask_at": ("norm", "conv"),
  "compat.mix": ("after", "before"),
  "compat.instance": ("code", "paper", "total"),
  "compat.sharing": ("mean", "paper", "authors"),
  "compat.sparsity": ("code", "paper"),
}
_POSITIVE, _ONE = balancing.POSITIVE, balancing.ONE
_ZERO, _SHARE = balancing.ZERO, balancing.SHARE
_EACH_ONE = (lambda v: all(part >= 1 for part in v), "at least 1 each")
# Of a network: what is beyond fits no memory, and ends without a word.
_SIZE = (lambda v: 1 <= v <= 2**20, "at least 1 and at most 2^20")
_OF_OPTIMIZERS = {
  "lr": _ZERO,
  "head_lr": _ZERO,
  "gate_lr": _ZERO,
  "weight_decay": _ZERO,
  "momentum": _SHARE,
  "b1": _SHARE,
  "b2": _SHARE,
  "factor": _POSITIVE,
  "every": _ONE,
  "warm": _SHARE,
}
_RANGES = {
  "seed": (lambda v: 0 <= v < 2**31, "in 0 .. 2^31 - 1"),
  "model.widths": _EACH_ONE,
  "model.width_factor": (lambda v: 0 < v <= 1024, "above 0 and at most 1024"),
  "model.strides": _EACH_ONE,
  "model.dilations": _EACH_ONE,
  "model.width": _SIZE,
  "model.hidden": _SIZE,
  "model.attention_heads": _ONE,
  "model.patch": _SIZE,
  "model.positions": _SIZE,
  "model.embedding": _SIZE,
  "model.dropout": _SHARE,
  "model.std": (lambda v: all(part > 0 for part in v), "above 0 each"),
  "model.head_width": _SIZE,
  "model.decoder_width": _SIZE,
  "policy.sharing": _ZERO,
  "policy.conflict": _ZERO,
  "policy.sparsity": _ZERO,
  "policy.curriculum_speed": _ZERO,
  "policy.budget": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
  "policy.budget_ms": _ZERO,
  "policy.budget_weight": _ZERO,
  "policy.measure": _ZERO,
  "policy.temperature": _POSITIVE,
  "policy.temperature_floor": _POSITIVE,
  "policy.temperature_decay": _POSITIVE,
  "gates.weight": _ZERO,
  "gates.hidden": _ONE,
  "gates.temperature": _POSITIVE,
  "gates.noise_fades": (lambda v: 0 <= v <= 1, "in [0, 1]"),
  "policy.margin": _ZERO,
  "gates.contrast": _ZERO,
  "gates.explore": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
  "gates.anneal": (lambda v: 0 <= v <= 1, "in [0, 1]"),
  "gates.sampled_range": (
    lambda v: len(v) == 2 and 0 < v[0] < v[1] <= 1,
    "(low, high) with 0 < low < high <= 1",
  ),
  **{f"balance.{name}": range_ for name, range_ in balancing.RANGES.items()},
  "fusion.lr": _ZERO,
  "experts.count": (lambda v: 1 <= v <= 1024, "at least 1 and at most 1024"),
  "train.shared_prefixes": (lambda v: all(part >= 0 for part in v), "at least 0 each"),
  "train.batch_size": _ZERO,
  "train.largest_batch": _ONE,
  "train.log_every": _ONE,
  "train.eval_every": _ONE,
  "train.checkpoint_every": _ONE,
  "train.steps_per_dispatch": _ONE,
  "train.workers": _ZERO,
  "train.threads": _ZERO,
  "eval.batch_size": _ONE,
  "eval.pictures": _ZERO,
}


def values(config: Any) -> None:
  """Refuses values that are wrong whatever the data set and the method."""
  usual = dict(workdir.flatten(defaults.get_config().to_dict()))
  for name, value in workdir.flatten(config.to_dict()):
    _finite(f"config.{name}", value)
    if name in usual and name != "data.tasks":
      _alike(f"config.{name}", value, usual[name])
  for name, known in _CHOICES.items():
    lookup.one_of(f"config.{name}", _at(config, name), known)
  ranges: dict[str, Any] = dict(_RANGES)
  for phase, settings in config.optimizers.items():
    ranges |= {f"optimizers.{phase}.{n}": r for n, r in _OF_OPTIMIZERS.items() if n in settings}
  for name, (fits, wanted) in ranges.items():
    if not fits(_at(config, name)):
      raise ValueError(f"config.{name} must be {wanted}, but is {_at(config, name)}.")
  _milliseconds(config)
  views_lib.check_scales(tuple(config.eval.scales))
  if config.model.head == heads.PIXELS and tuple(config.eval.scales) != (1.0,):
    raise ValueError(
      "config.model.head='pixels' predicts pictures of one size: config.eval.scales must be (1.0,),"
      f" but is {tuple(config.eval.scales)}."
    )
  if not config.train.resident and config.train.sampling == "tasks":
    raise ValueError(
      "config.train.sampling must be 'examples' when config.train.resident is False: which examples"
      " have a task's label is known of resident data alone."
    )
  if not config.train.resident and config.train.steps_per_dispatch > 1:
    raise ValueError(
      "config.train.steps_per_dispatch must be 1 when config.train.resident is False, but is"
      f" {config.train.steps_per_dispatch}."
    )


def _finite(name: str, value: Any) -> None:
  """Refuses numbers that are none or without end, at any depth: no setting may be one."""
  if isinstance(value, list | tuple):
    for place, part in enumerate(value):
      _finite(f"{name}[{place}]", part)
  elif isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f"{name} must be a finite number, but is {value}.")


def _alike(name: str, value: Any, usual: Any) -> None:
  """Refuses a value of another type than the usual one, of tuples in any place."""
  several = isinstance(usual, tuple)
  kinds_of = {type(part) for part in (usual if several else (usual,))}
  kind = float if kinds_of == {int, float} else kinds_of.pop()
  wanted, word = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "whole numbers" if several else "a whole number"),
    float: (numbers.Real, "numbers" if several else "a number"),
    str: (str, "texts" if several else "a text"),
  }[kind]
  parts = value if several and isinstance(value, list | tuple) else (value,)
  of_kind = lambda v: isinstance(v, wanted) and isinstance(v, bool) == (kind is bool)
  if several != isinstance(value, list | tuple) or not all(map(of_kind, parts)):
    shown = f", as {usual}" if several else ""
    raise ValueError(f"{name} must be {word}{shown}, but is {value!r}.")


def _milliseconds(config: Any) -> None:
  """Refuses a budget in milliseconds that nothing measures, or that routes would not keep."""
  pol = config.policy
  if not pol.budget_ms:
    return
  name = f"config.policy.budget_ms={pol.budget_ms:g}"
  if not pol.latency:
    raise ValueError(
      f"{name} needs the milliseconds of the network's parts: write them to a file with"
      " python -m dynashare_jax cost --config=CONFIG --latency=FILE, and name it with"
      " --config.policy.latency=FILE."
    )
  for other, value in (("compat.search", "papers"), ("policy.routes", "sampled")):
    if _at(config, other) == value:
      raise ValueError(
        f"{name} bounds the routes, but with config.{other}={value!r} they are sampled without"
        " a budget: leave one of them out."
      )


def _at(config: Any, name: str) -> Any:
  """The value under a dotted name."""
  for part in name.split("."):
    config = config[part]
  return config


def trunk(method: contract.Method) -> None:
  """Refuses a trunk that lacks a part of the contract."""
  for name, what in (
    ("units", "how many units it executes or skips"),
    ("leaves", "the group and the owner of its parameters"),
    ("only", "the trunk of some tasks, or None; models.trunks.contract.Trunk has it"),
  ):
    if not hasattr(method.trunk, name):
      raise ValueError(
        f"The trunk of the method {method.name!r} ({type(method.trunk).__name__}) has no"
        f" `{name}`: {what}. See models.trunks.contract.Trunk."
      )


def norms(config: Any, spec: types.DatasetSpec, method: contract.Method, backbone: Any) -> None:
  """Refuses norms of the tasks' own where several tasks pass at once, or where there are none."""
  if config.model.norm != "task":
    return
  what = "config.model.norm='task' gives every task norms of its own, but"
  if not getattr(method.trunk, "own_norms", False):
    raise ValueError(
      f"{what} config.method={method.name!r} computes features for several tasks at once: use"
      " 'hard' or 'single', or another norm."
    )
  if getattr(backbone, "norm_kind", "") != "task":
    raise ValueError(
      f"{what} config.model.backbone={config.model.backbone!r} has none to choose: use 'batch'."
    )
  if spec.lengths:
    raise ValueError(
      f"{what} {spec.name} has series of different lengths, whose padding they would read: use"
      " 'batch'."
    )


def groups(
  rules: optim.Rules, method: contract.Method, balancer: balancing.Balancer, state: Any
) -> None:
  """Refuses leaves without a rule, groups without an optimiser, and gradients of nothing."""
  seen = {}
  for path, _ in jax.tree_util.tree_leaves_with_path((state.params["network"], state.stats)):
    name = optim.path_of(path[1:])
    if (leaf := trunks.leaf_of(rules, name)) is None:
      raise ValueError(
        f"The trunk of the method {method.name!r} has no rule for the leaf {name}: add its"
        " beginning, a group and an owner to `leaves()`."
      )
    seen[leaf.group] = name
  known = {*optim.GROUPS, *method.optimizers}
  for group in (*seen, *(group for phase in method.phases for group in phase.trainable)):
    if group not in known:
      where = f"of the leaf {seen[group]}" if group in seen else "that a phase trains"
      raise ValueError(
        f"The method {method.name!r} has no optimiser for the group {group!r} {where}: add one"
        " to `optimizers`."
      )
  if balancer.level == "losses":
    return
  for phase in method.phases:
    if set(phase.trainable) <= {"policy", *method.optimizers}:  # what no balancer weighs
      continue
    shared = gradients.shared(state.params, phase.trainable, rules)
    if "backbone" not in phase.trainable or not shared:
      raise ValueError(
        f"The balancer {balancer.name!r} asks for gradients of what tasks share, but"
        f" in the phase {phase} of the method {method.name!r} nothing that they share is trained."
        " Use config.balance.name='fixed', or a balancer of losses; config.balance.normalise='unit'"
        " and config.balance.length 'plain' or 'unit' ask for gradients, too."
      )


def balance(
  balancer: balancing.Balancer, method: contract.Method, learnt: Any, batch_size: int
) -> None:
  """Refuses gradients of features where tasks read different ones, and halves of odd batches.

  Args:
    learnt: shapes of the parameters of group `policy`.
  """
  if balancer.ahead is not None and batch_size % 2:
    raise ValueError(
      f"The balancer {balancer.name!r} makes two halves of every batch, but"
      f" config.train.batch_size={batch_size} is odd."
    )
  if not balancer.features:
    return
  sharing, common = method.sharing, []
  # A structure in which tasks differ, in case they may.
  rows = lambda a: jnp.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1)) % 2.0
  structure = jax.tree.map(lambda a: a[0] + rows(a[0]) if a.ndim > 1 else a[0], sharing.blank(1))
  for phase in method.phases:
    if "backbone" not in phase.trainable:
      continue
    moving = contract.Moving(
      jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), sharing.knobs(phase, 0, 0), structure
    )

    def told(part: Any, phase: Any = phase, moving: Any = moving) -> None:
      static = sharing.static(phase, moving.structure)
      common.append(method.trunk.common(sharing.control(static, part, moving, 0, 2)))

    jax.eval_shape(told, learnt)
    if not common[-1]:
      raise ValueError(
        f"The balancer {balancer.name!r} compares gradients in features that all tasks read, but in"
        f" the phase {phase} of the method {method.name!r} tasks read different ones. Set"
        " config.balance.features=False (for mgda_ub: config.balance.name='mgda'), or share all"
        " blocks."
      )


def inner(balancer: balancing.Balancer, method: contract.Method, batch_size: int) -> None:
  """Refuses inner steps of batches without two parts, and beside a balancer that looks further."""
  for phase in method.phases:
    if phase.inner is None:
      continue
    if not 0 < (count := len(gradients.inner_rows(batch_size, phase.inner.share)[0])) < batch_size:
      raise ValueError(
        f"The method {method.name!r} takes inner steps on a share of {phase.inner.share:g} of each"
        f" batch, but of config.train.batch_size={batch_size} that is {count}: both parts need an"
        " example."
      )
    if balancer.level != "losses" or balancer.ahead is not None or balancer.after is not None:
      raise ValueError(
        f"The balancer {balancer.name!r} needs more than the tasks' losses before a step, but in"
        f" the phase {phase} of the method {method.name!r} every task takes an inner step of its"
        " own. Use config.balance.name='fixed' or another balancer of losses, with"
        " config.balance.normalise and config.balance.length as they are, or no inner step."
      )


def data(spec: types.DatasetSpec) -> None:
  """Refuses empty splits, and tasks by names that the log has or that nothing can write."""
  for split in types.SPLITS:
    if spec.sizes.get(split, 0) < 1:
      raise ValueError(
        f"The split {split!r} of {spec.name} has no examples: a run trains on 'train', chooses on"
        " 'validation' and is measured on 'test'. Give each some."
      )
  for task in spec.tasks:
    if task.name == "total":
      raise ValueError(
        "A task cannot be called 'total', as the sum of all losses is in the log: rename it."
      )
    for text in (task.name, task.unit, *task.classes):
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise ValueError(
          f"The name {text!r} of the task {task.name!r} (its own, of a class or its unit) cannot be"
          " written as UTF-8: rename it."
        ) from error


def phases(config: Any, spec: types.DatasetSpec, method: contract.Method, mesh: Any) -> None:
  """Refuses phases and batches that cannot run."""
  processes = len(mesh_lib.processes(mesh))
  loader.check_divisible(config.train.batch_size, mesh.devices.size, processes)
  loader.check_divisible(config.eval.batch_size, mesh.devices.size, processes)
  # The groups' devices divide what all devices divide.
  groups_of(config, method, mesh)
  for index, phase in enumerate(method.phases):
    if phase.steps < 1:
      raise ValueError(
        f"Phase {index} ({phase.name}) has {phase.steps} steps; give it at least 1 in config.train."
      )
    size = part_size(config, spec, phase.data)
    if config.train.batch_size > size:
      most = min(part_size(config, spec, other.data) for other in method.phases)
      raise ValueError(
        f"config.train.batch_size={config.train.batch_size} is larger than the {size} examples of"
        f" phase {index} ({phase.name}, data {phase.data!r}). Set --config.train.batch_size to at"
        f" most {most}, for example {max(1, 2 ** int(np.log2(max(most, 2) / 2)))}."
      )


def groups_of(config: Any, method: contract.Method, mesh: Any) -> int:
  """How many groups of devices re-train candidates at once.

  Raises:
    ValueError: the devices cannot make the groups that
      `config.train.candidate_groups` asks for, or there is nothing for some.
  """
  wanted = config.train.candidate_groups
  candidates = method.retrained
  if wanted < 0:
    raise ValueError(f"config.train.candidate_groups must be at least 0, but is {wanted}.")
  if candidates < 2:
    return 1
  if wanted > candidates:
    raise ValueError(
      f"config.train.candidate_groups={wanted} is more than the {candidates}"
      " candidates; set it to at most as many, or to 0: as many as fit."
    )
  if wanted == 0:
    return mesh_lib.most_groups(mesh, candidates)
  return len(mesh_lib.candidate_meshes(mesh, wanted))


def batch_size(config: Any, spec: types.DatasetSpec, devices: int) -> int:
  """Returns `config.train.batch_size`, or where it is 0 one that suits the data.

  That is the power of two next to a fiftieth of the training examples, at least 8, at most
  `config.train.largest_batch` and what any phase reads, and a multiple of the devices.
  """
  if config.train.batch_size:
    return int(config.train.batch_size)
  count = spec.sizes["train"]
  part = count - loader.first_half(count, config.train.weights_share)
  size = min(max(2 ** round(math.log2(max(count, 2) / 50)), 8), config.train.largest_batch, part)
  return max(devices, size - size % devices)


def part_size(config: Any, spec: types.DatasetSpec, data: str) -> int:
  """Training examples that a phase reads."""
  total = spec.sizes["train"]
  if data == "train":
    return total
  weights, pol = loader.halves(total, config.seed, config.train.weights_share)
  return len(weights) if data == "weights" else len(pol)


def part_indices(config: Any, spec: types.DatasetSpec, data: str) -> np.ndarray:
  """Which training examples a phase reads, int32."""
  total = spec.sizes["train"]
  if data == "train":
    return np.arange(total, dtype=np.int32)
  weights, pol = loader.halves(total, config.seed, config.train.weights_share)
  return weights if data == "weights" else pol
