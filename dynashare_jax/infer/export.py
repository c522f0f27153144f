"""Writes a trained model as an artefact that needs only jax to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.infer import artefact
from dynashare_jax.infer import closing
from dynashare_jax.infer import manifest
from dynashare_jax.infer import settings
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.ops import compaction as compaction_lib
from dynashare_jax.sharing import plan as plan_lib

PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN = ("cpu", "cuda", "rocm", "tpu")
_SMALLEST = (1, 2, 8)  # batches from which another way of execution may pay
_SMALLEST_TABLES = (1, 1024)

Way = compaction_lib.Compaction | None


class Budget(NamedTuple):
  """A setting of gates, as `dynashare_jax.calibrate` writes it.

  Attributes:
    thresholds: `[L]` scores that gates must exceed.
    target_rate: what gates are told that read it.
    record: the whole file, for the manifest.
  """

  thresholds: tuple[float, ...]
  target_rate: float
  record: Mapping[str, Any]


class Program(NamedTuple):
  """One of an artefact's programs.

  Attributes:
    platforms: it runs on.
    smallest: batch that it serves; up to the next program's.
    way: how examples that a gate skips are left out.
  """

  platforms: tuple[str, ...]
  smallest: int
  way: Way = None

  def entry(self, role: str) -> dict[str, Any]:
    """What the file's index says of it."""
    return {"role": role, "platforms": list(self.platforms), "smallest": self.smallest}


@dataclasses.dataclass(frozen=True)
class Model:
  """What is exported of a trained model.

  Attributes:
    trained: the model with the chosen tasks alone. Gates that a budget opens or closes for good
      are resolved in its plan.
    budget: None is the setting as trained.
  """

  trained: trained_lib.Trained
  budget: Budget | None

  @property
  def spec(self) -> types.DatasetSpec:
    """What it reads."""
    return self.trained.experiment.dataset.spec

  @property
  def tasks(self) -> tuple[types.TaskSpec, ...]:
    """The chosen tasks, in the model's order."""
    return self.trained.tasks

  @property
  def weights(self) -> dict[str, Any]:
    """`/`-joined name in the network -> array; blocks that no task runs, too."""
    found: dict[str, Any] = traverse_util.flatten_dict(self.trained.variables, sep="/")
    return found

  def forward(self, weights: Any, arrays: Any, way: Way) -> artefact.Output:
    """Inputs as the manifest names them to predictions; pure.

    Args:
      weights: `/`-joined name -> array.
      arrays: float32 images, or what else the network reads.
      way: how examples that a gate skips are left out.
    """
    trained, spec, budget = self.trained, self.spec, self.budget
    options: dict[str, Any] = {}
    if budget is not None:
      options = {"threshold": budget.thresholds, "target_rate": budget.target_rate}
    run = trained.forward(trained_lib.Execution(compaction=way), **options)
    named = spec.table is not None or spec.lengths
    inputs = arrays if named else arrays[spec.input_kind]
    # What no chosen task reads is left out of the artefact, but not of the network's code.
    left_out = self.weights.keys() - weights.keys()
    zeros = {name: jnp.zeros_like(self.weights[name]) for name in left_out}
    variables = traverse_util.unflatten_dict({**weights, **zeros}, sep="/")
    logits, signals = run(variables, inputs)
    return artefact.Output(trained_lib.predictions(spec, logits), signals.executed)


def read_budget(path: str | pathlib.Path, trained: trained_lib.Trained) -> Budget:
  """Reads a setting that was found for a model.

  Args:
    path: a file of `<workdir>/budgets`.

  Raises:
    ValueError: there is no setting, or it belongs to another model.
  """
  thresholds, target = settings.read(path)
  record = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  blocks = len(trained.gated)
  ours = {"step": trained.step, "route": np.asarray(trained.route).tolist()}
  same = all(record.get(name, value) == value for name, value in ours.items())
  if len(thresholds) != blocks or not same:
    raise ValueError(
      f"{path} was found for another model than that of {trained.workdir}."
      " Run python -m dynashare_jax calibrate for this one."
    )
  if not any(trained.gated):
    raise ValueError(
      f"The model of {trained.workdir} has no instance gates, so that a budget"
      " changes nothing. Export it without one."
    )
  return Budget(thresholds, target, record)


def choose(
  trained: trained_lib.Trained, tasks: Sequence[str] = (), budget: Budget | None = None
) -> Model:
  """Chooses what of a model is exported.

  Args:
    tasks: names; none is all.

  Raises:
    ValueError: an unknown task, or one named twice.
  """
  names = [task.name for task in trained.tasks]
  for task in tasks:
    lookup.one_of("A name in --tasks", task, names)
  if len(set(tasks)) < len(tasks):
    raise ValueError(f"--tasks names a task twice: {', '.join(tasks)}.")
  rows = tuple(i for i, n in enumerate(names) if n in tasks or not tasks)
  cut = trained.lean().folded().only(rows)
  plan = cut.plan
  if plan is not None:
    route, gated = np.array(plan.route), np.asarray(plan.gated)
    if budget is not None:
      thresholds = np.asarray(budget.thresholds)
      route[:, gated & (thresholds >= closing.FAR)] = 0
      gated = gated & (np.abs(thresholds) < closing.FAR)
    plan = plan_lib.make(plan.tasks, route, (gated & route.any(0)).tolist())
    cut = dataclasses.replace(cut, structure=plan)
  return Model(cut, budget)


def export(model: Model, platforms: Sequence[str] = PLATFORMS) -> tuple[dict[str, Any], bytes]:
  """Compiles a model to StableHLO and packs it with its weights.

  Args:
    model: see `choose`.
    platforms: that the artefact runs on, of `cpu`, `cuda`, `rocm`, `tpu`.

  Returns:
    The manifest, and the file that holds it and all else.

  Raises:
    ValueError: an unknown platform, or none.
  """
  for name in platforms:
    lookup.one_of("A name in --platforms", name, _KNOWN)
  platforms = tuple(dict.fromkeys(platforms))
  if not platforms:
    raise ValueError("--platforms is empty; name at least one, such as cpu.")
  weights = _weights(model)
  coded: list[tuple[dict[str, Any], bytes]] = []
  for program in _programs(model, platforms):
    done = _lower(model, weights, program)
    coded.append((program.entry("run"), bytes(done.serialize())))
    shapes, _ = jax.tree.unflatten(done.out_tree, done.out_avals)
  if model.spec.input_kind == "image":
    program = Program(platforms, 1)
    done = _lower_prepare(model, program)
    coded.append((program.entry("prepare"), bytes(done.serialize())))
  found = _manifest(model, platforms, shapes)
  found["weights"] = sum(array.size for array in weights.values())
  found = workdir_lib.plain(found)
  return found, artefact.pack(found, weights, coded)


def write(
  model: Model, output: str | pathlib.Path, platforms: Sequence[str] = PLATFORMS
) -> pathlib.Path:
  """Exports a model into a folder: the model file and `manifest.json`.

  Args:
    model: see `choose`.
    output: the folder; an artefact in it is replaced.
    platforms: see `export`.

  Returns:
    Path of the model file.
  """
  about, data = export(model, platforms)
  folder = pathlib.Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / artefact.FILE
  part = file.with_suffix(".part")
  part.write_bytes(data)
  part.replace(file)
  workdir_lib.write_json(folder / artefact.MANIFEST, about)
  return file


def _weights(model: Model) -> dict[str, np.ndarray]:
  """Those weights that the chosen tasks read, by name.

  `jax.export` drops arguments that no output needs, and says which are left;
  with a symbolic batch it would keep all.
  """
  every = model.weights
  names = sorted(every)  # as jax flattens a dict
  kept = _lower(model, every, Program(("cpu",), 1), 1).module_kept_var_idx
  return {names[i]: np.asarray(every[names[i]]) for i in kept if i < len(names)}


def _programs(model: Model, platforms: Sequence[str]) -> list[Program]:
  """One for all platforms and batches, or for those that execute alike."""
  if not any(model.trained.gated):
    return [Program(tuple(platforms), 1)]
  table = model.spec.input_kind == "table"
  smallest = _SMALLEST_TABLES if table else _SMALLEST
  groups: dict[tuple[tuple[int, Way], ...], list[str]] = {}
  for name in platforms:
    ways: list[tuple[int, Way]] = []
    for least in smallest:
      way = _way(model, least, name)
      if not ways or ways[-1][1] != way:
        ways.append((least, way))
    groups.setdefault(tuple(ways), []).append(name)
  return [
    Program(tuple(names), least, way) for many, names in groups.items() for least, way in many
  ]


def _way(model: Model, batch: int, platform: str) -> Way:
  """As the strategy chooses, with what this run was tuned to."""
  device = "gpu" if platform in ("cuda", "rocm") else platform
  way = strategy.of(model.trained, batch, device)
  if way is not None and way.how == compaction_lib.BUCKETS:
    # A symbolic batch must be known to fill every bucket.
    way = way._replace(buckets=min(way.buckets, batch))
  return way


def _lower(
  model: Model, weights: Mapping[str, Any], program: Program, batch: int = 0
) -> jax_export.Exported:
  """A model's program with its weights as arguments; batch 0 is symbolic."""

  def run(weights: Any, arrays: Any) -> tuple[dict[str, Any], Any]:
    found = model.forward(weights, arrays, program.way)
    return found.predictions, found.executed

  shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in weights.items()}
  make = jax_export.export(jax.jit(run), platforms=program.platforms)
  return make(shapes, _arguments(model, program.smallest, batch))


def _lower_prepare(model: Model, program: Program) -> jax_export.Exported:
  """The program that makes what the network reads of uint8 images."""

  def run(arrays: Any) -> Any:
    return {name: a.astype(jnp.float32) / 255 for name, a in arrays.items()}

  shapes = _arguments(model, 1).items()
  arguments = {name: jax.ShapeDtypeStruct(a.shape, np.uint8) for name, a in shapes}
  return jax_export.export(jax.jit(run), platforms=program.platforms)(arguments)


def _arguments(model: Model, least: int, batch: Any = 0) -> dict[str, Any]:
  """Shapes of the inputs; batch 0 is symbolic, of at least some examples."""
  spec, sample = model.spec, model.trained.experiment.sample_inputs()
  arrays = sample if isinstance(sample, dict) else {spec.input_kind: sample}
  if not batch:
    batch = jax_export.symbolic_shape("batch", constraints=[f"batch >= {least}"])[0]
  return {name: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for name, a in arrays.items()}


def _manifest(model: Model, platforms: Sequence[str], shapes: Mapping[str, Any]) -> dict[str, Any]:
  """What an artefact is, for people and for the loader."""
  trained, experiment = model.trained, model.trained.experiment
  record = None if model.budget is None else dict(model.budget.record)
  results = manifest.results(trained.workdir)
  gates = [
    {
      "platforms": list(p.platforms),
      "smallest_batch": p.smallest,
      "skipped_work": "masked" if p.way is None else p.way.how,
    }
    for p in _programs(model, platforms)
    if any(model.trained.gated)
  ]
  return {
    "format": artefact.VERSION,
    "jax": jax.__version__,
    "platforms": list(platforms),
    "source": {
      "run": trained.workdir.absolute().name,
      "step": trained.step,
      "dataset": model.spec.name,
      "data": manifest.data(trained.workdir),
      "method": experiment.method.name,
      "seed": experiment.config.seed,
    },
    "inputs": manifest.inputs(model.spec, _arguments(model, 1)),
    "tasks": [manifest.task(task, shapes[task.name], results, record) for task in model.tasks],
    "plan": None if trained.plan is None else trained.plan.to_dict(),
    "gates": gates,
    "budget": record,
  }
