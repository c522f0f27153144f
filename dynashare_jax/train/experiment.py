"""Everything that a run is built from, checked before any compute."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models import backbones
from dynashare_jax.models import heads
from dynashare_jax.models import series
from dynashare_jax.models import weights
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives import views as views_lib
from dynashare_jax.ops import costs
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import prices
from dynashare_jax.train import checks
from dynashare_jax.train import evaluate
from dynashare_jax.train import forward
from dynashare_jax.train import gradients
from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib


@dataclasses.dataclass
class Experiment:
  """A run's parts.

  Attributes:
    config: the user's.
    dataset: with its spec.
    method: with its phases.
    network: trunk and heads.
    mesh: devices.
    balancer: of the task losses.
    loaded: weights to start from, where `config.model.weights` names some; what
      they do not fill is a shape.
    timed: milliseconds of the network's parts, where `config.policy.latency` names a file.
  """

  config: Any
  dataset: types.Dataset
  method: contract.Method
  network: network_lib.Network
  mesh: jax.sharding.Mesh
  balancer: balancing.Balancer
  loaded: weights.Loaded | None = None
  timed: prices.Timed | None = None

  @property
  def tasks(self) -> tuple[types.TaskSpec, ...]:
    """Tasks in order."""
    return self.dataset.spec.tasks

  def one_example(self, size: tuple[int, int] | None = None) -> Any:
    """Zeros shaped like one example's inputs, leading axis 1.

    Args:
      size: height and width, for pictures of another size than the data's.
    """
    if size is not None:
      return jnp.zeros((1, *size, *self.dataset.spec.input_shape[2:]))
    return jax.tree.map(lambda a: a[:1], self.sample_inputs())

  @property
  def notes(self) -> tuple[str, ...]:
    """What data set, method and loaded weights had to say."""
    of_weights = self.loaded.notes if self.loaded else ()
    return self.dataset.spec.notes + self.method.notes + of_weights

  @property
  def total_steps(self) -> int:
    """Steps of all phases."""
    return sum(phase.steps for phase in self.method.phases)

  @property
  def sharing(self) -> contract.Sharing:
    """What is decided about the trunk."""
    return self.method.sharing

  @property
  def units(self) -> int:
    """Units that the trunk executes or skips."""
    return int(self.network.trunk.units)

  @property
  def objective(self) -> forward.Objective:
    """What a training step minimises."""
    at_labels = self.config.train.loss_at == "labels"
    return forward.Objective(
      self.network,
      self.tasks,
      self.sharing,
      self.balancer,
      at_labels,
      self.mesh,
      self.config.model.norm == "task",
    )

  def locate(self, step: int) -> tuple[int, int]:
    """The phase that a global step belongs to, and its place in it.

    A step that ends a phase belongs to the next; the end of the last phase is
    `(number of phases, 0)`.
    """
    for index, phase in enumerate(self.method.phases):
      if step < phase.steps:
        return index, step
      step -= phase.steps
    return len(self.method.phases), 0

  def sample_inputs(self, cropped: bool = False) -> Any:
    """Zeros shaped like two examples' inputs.

    Args:
      cropped: as training sees them; else whole pictures.
    """
    return _sample_inputs(self.dataset.spec, cropped)

  @functools.cached_property
  def init(self) -> jax.stages.Wrapped:
    """New parameters and statistics of a key, by one compiled program."""
    return jax.jit(self._init, compiler_options=mesh_lib.quick(self.mesh))

  @functools.cached_property
  def _init(self) -> jax.stages.Wrapped:
    """`init` without options, which a program within another may not have."""

    def init(key: jax.Array) -> tuple[Any, Any]:
      inputs = self.sample_inputs(cropped=True)
      return state_lib.init_network(self.network, inputs, self.sharing.everything(), key)

    return jax.jit(init)

  def fresh(self, stream: str, number: int = 0) -> tuple[Any, Any]:
    """Newly initialised network parameters and statistics.

    Those of `config.model.weights` take the place of random ones.
    """
    key = streams.stream_key(self.config.seed, stream, number)
    made = (self._init if isinstance(key, jax.core.Tracer) else self.init)(key)
    if self.loaded is None:
      return made
    return jax.tree.map(
      lambda new, old: jnp.asarray(new) if isinstance(new, np.ndarray) else old,
      (self.loaded.params, self.loaded.stats),
      made,
    )

  def lean(self, params: Any, stats: Any, structure: Any) -> tuple[Experiment, Any, Any] | None:
    """Returns what computes the same in a smaller network, and its parameters and statistics.

    None: the trunk cannot be smaller, see `Trunk.lean`.
    """
    if (found := self.network.lean(structure)) is None:
      return None
    network, cut = found
    make = lambda key: state_lib.init_network(network, self.one_example(), (), key)
    shapes = jax.eval_shape(make, jax.random.key(0))
    trees = []
    for tree, kept in zip(jax.device_get((params, stats)), shapes, strict=True):
      flat = traverse_util.flatten_dict(tree, sep="/")
      names = traverse_util.flatten_dict(kept, sep="/")
      cut_ = {name: cut(name, flat[name]) for name in names}
      trees.append(traverse_util.unflatten_dict(cut_, sep="/"))
    method = dataclasses.replace(self.method, trunk=network.trunk, sharing=contract.Sharing())
    return dataclasses.replace(self, method=method, network=network), *trees

  def initial_state(self) -> state_lib.State:
    """Makes the state before step 0."""
    params, stats = self.fresh("init")
    key = streams.stream_key(self.config.seed, "policy_init")
    learnt = self.sharing.init(key, self.loaded.logits if self.loaded else None)
    keep = any(p.start == "policy" for p in self.method.phases)
    return state_lib.start(
      params,
      stats,
      learnt,
      len(self.tasks),
      self.sharing.blank(self.method.candidates),
      keep,
      self.sharing.memory(params),
    )

  def template(self, step: int) -> Any:
    """Shapes and shardings of the state after `step` steps."""
    index, offset = self.locate(step)
    ran = index if offset else index - 1

    def make() -> state_lib.State:
      state = self.initial_state()
      if ran >= 0:
        state = self.with_optimizer(state, ran)
      return state

    shapes = jax.eval_shape(make)
    return jax.tree.map(
      lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
      shapes,
      self.shardings(shapes),
    )

  def shardings(self, state: Any) -> Any:
    """Where the leaves of a state (or of a part of it) lie."""
    return mesh_lib.state_shardings(state, self.mesh, self.config.train.shard_state)

  def place(self, state: Any) -> Any:
    """Puts a state onto the devices of the mesh."""
    return mesh_lib.place(state, self.shardings(state))

  def with_optimizer(self, state: state_lib.State, index: int) -> state_lib.State:
    """Returns a state with the optimiser and balancer of a phase at their beginnings."""
    phase = self.method.phases[index]
    tx = self.optimizer(phase.optimizer, self.optimizer_steps(index))
    size = checks.part_size(self.config, self.dataset.spec, phase.data)
    epoch = -(-size // self.config.train.batch_size)
    shared = gradients.shared(state.params, phase.trainable, self.network.leaves())
    balance = self.balancer.init(len(self.tasks), epoch, shared)
    return state.replace(opt=tx.init(state.params), balance=balance)

  def optimizer(self, name: str, steps: int | optim.Horizon) -> Any:
    """Makes the optimiser of `config.optimizers[name]` that lives for some steps."""
    rules = self.network.leaves()
    return optim.make(self.config, name, steps, rules, self.method.optimizers)

  def spec(self, index: int, structure: Any, held: bool = False) -> forward.Spec:
    """Returns the compiled side of a phase with a structure; equal for phases of one program.

    Args:
      held: of steps that use the balancer's last weights.
    """
    phase = self.method.phases[index]
    static = self.sharing.static(phase, structure)
    names = phase.trainable, phase.optimizer
    return forward.Spec(static, *names, phase.measure, held, phase.inner)

  def horizon(self, index: int) -> optim.Horizon:
    """Returns how long the schedule of a phase's optimiser lasts."""
    settings = self.config.optimizers[self.method.phases[index].optimizer]
    return optim.horizon(settings, self.optimizer_steps(index))

  def owner(self, path: str) -> int | None:
    """Returns the one task that a leaf of the network belongs to; `path` is `/`-joined."""
    leaf = trunks.leaf_of(self.network.leaves(), path)
    return None if leaf is None else leaf.owner

  def optimizer_steps(self, index: int) -> int:
    """How many steps the weights' optimiser of a phase makes in all.

    A re-training has an optimiser of its own; the cycles of a search go on with
    one, whose schedule must not end with the first cycle.
    """
    phases = self.method.phases
    phase = phases[index]
    if phase.candidate >= 0:
      return phase.steps
    return sum(
      p.steps
      for p in phases
      if p.candidate < 0 and p.optimizer == phase.optimizer and "backbone" in p.trainable
    )

  def evaluator(self) -> evaluate.Evaluator:
    """An evaluator of this network.

    Raises:
      ValueError: `config.eval` asks for views that the data or tasks forbid.
    """
    config = self.config
    views = views_lib.listed(
      tuple(config.eval.scales),
      bool(config.eval.flip),
      config.compat.get("depth", "scaled") == "scaled",
      config.compat.get("mirror", "negated") == "negated",
    )
    views_lib.check(self.tasks, self.dataset.spec.input_kind, views)
    return evaluate.Evaluator(
      self.network, self.tasks, self.sharing, mesh_lib.batch_sharding(self.mesh), views
    )


def build(
  config: Any,
  dataset: types.Dataset,
  make_method: Any,
  devices: Any = None,
  start: weights.Source | None = None,
) -> Experiment:
  """Puts an experiment together.

  Args:
    make_method: `build` of `methods/<name>.py`.
    devices: to run on; default all.
    start: the run whose folder `config.model.weights` names, if it is one.

  Raises:
    ValueError: anything in the configuration that cannot run.
  """
  checks.values(config)
  dataset = _scored(dataset, config.compat.metrics)
  spec = dataset.spec
  mesh = mesh_lib.make_mesh(devices)
  config = copy.deepcopy(config)
  config.train.batch_size = checks.batch_size(config, spec, mesh.devices.size)
  checks.data(spec)
  dtype = _dtype(config.model.dtype)
  family = backbones.find(config.model.backbone)

  def backbone(**changes: Any) -> Any:
    model = copy.deepcopy(config.model)
    model.update(changes)
    return family.build(model, spec, dtype)

  block_costs = functools.cache(lambda: _block_costs(backbone(), spec))
  timed = (
    prices.read(config.policy.latency, identity(config, spec)) if config.policy.latency else None
  )
  parts = contract.Parts(config, spec, backbone, backbone().num_blocks, dtype, block_costs, timed)
  method = make_method(parts)
  checks.trunk(method)
  checks.norms(config, spec, method, backbone())
  network = network_lib.Network(
    method.trunk, _heads(config, spec, dtype), tuple(t.name for t in spec.tasks)
  )
  checks.phases(config, spec, method, mesh)
  balancer = balancing.find(config.balance, spec.tasks)
  experiment = Experiment(config, dataset, method, network, mesh, balancer, timed=timed)
  # Traces every part of the network.
  state = jax.eval_shape(experiment.initial_state)
  checks.groups(experiment.network.leaves(), method, balancer, state)
  checks.balance(balancer, method, state.params["policy"], config.train.batch_size)
  checks.inner(balancer, method, config.train.batch_size)
  for index in range(len(method.phases)):
    experiment.optimizer(method.phases[index].optimizer, experiment.optimizer_steps(index))
  now = state.params["network"], state.stats
  if start is not None:
    experiment.loaded = weights.take(start, *now, network.leaves(), network.names)
  elif config.model.weights:
    experiment.loaded = weights.load(
      config.model.weights, config.model.weights_family, *now, config.model
    )
  experiment.evaluator()
  return experiment


def identity(config: Any, spec: types.DatasetSpec) -> prices.Network:
  """Returns what tells the network of a configuration from others that take other times."""
  dtype = _dtype(config.model.dtype)
  backbone = backbones.find(config.model.backbone).build(config.model, spec, dtype)
  names = tuple(task.name for task in spec.tasks)
  return prices.Network(names, _block_costs(backbone, spec), jnp.dtype(dtype).name)


def _sample_inputs(spec: types.DatasetSpec, cropped: bool = False) -> Any:
  """Zeros shaped like two examples' inputs; see `Experiment.sample_inputs`."""
  if spec.table is not None:
    return {
      "categorical": jnp.zeros((2, len(spec.table.categorical)), jnp.int32),
      "numeric": jnp.zeros((2, len(spec.table.numeric))),
    }
  if spec.lengths:
    return {
      "series": jnp.zeros((2, *spec.input_shape)),
      "length": jnp.full((2,), spec.input_shape[0], jnp.int32),
    }
  if cropped and spec.crop is not None:
    return jnp.zeros((2, *spec.crop, *spec.input_shape[2:]))
  return jnp.zeros((2,) + tuple(spec.input_shape))


def _block_costs(backbone: Any, spec: types.DatasetSpec) -> tuple[float, ...]:
  """Multiply-accumulates of every block on one example."""
  inputs = _sample_inputs(spec)
  pass_ = backbones.Pass(False, jnp.ones((1,)), series.steps_of(inputs))
  made = lambda key: backbone.init_with_output({"params": key}, inputs, pass_, method="features")
  features, variables = jax.eval_shape(made, jax.random.key(0))
  one = lambda block: costs.macs(
    lambda v, x: backbone.apply(v, block, x, pass_, method=type(backbone).branch),
    variables,
    features[block],
  )
  return tuple(one(block) / 2 for block in range(backbone.num_blocks))


def _scored(dataset: types.Dataset, how: str) -> types.Dataset:
  """The data set with the metrics of its tasks pooled or as the authors'."""
  spec = dataset.spec
  tasks = tuple(dataclasses.replace(t, metrics=how) for t in spec.tasks)
  return dataclasses.replace(dataset, spec=dataclasses.replace(spec, tasks=tasks))


def _dtype(name: str) -> Any:
  """Compute type of a configuration."""
  if name == checks.AUTO:
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return checks.DTYPES[name]


def _heads(config: Any, spec: types.DatasetSpec, dtype: Any) -> tuple[Any, ...]:
  """One head per task."""
  made = []
  for task in spec.tasks:
    kind = kinds.find(task.kind)
    made.append(heads.of_task(config.model, spec, task, kind.outputs(task), kind.dense, dtype))
  return tuple(made)
