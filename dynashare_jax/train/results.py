"""What a finished run leaves behind for reports: JSON files and predictions."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
import resource
import sys
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models import backbones
from dynashare_jax.models import series
from dynashare_jax.objectives import alignment
from dynashare_jax.objectives import delta
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import costs
from dynashare_jax.sharing import routes
from dynashare_jax.train import baselines
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import optim
from dynashare_jax.train import predictions
from dynashare_jax.train import state as state_lib

# Parameters and results of these keys do not describe the authors' behaviour.
CORRECTED = {
  "search": "corrected",
  "sharing": "mean",
  "sparsity": "code",
  "instance": "code",
  "gates": "argmax",
  "selection": "validation",
  "metrics": "pooled",
  "mix": "after",
  "mask_at": "norm",
}


def finish(
  loop: loop_lib.Loop, state: state_lib.State, corrected: dict[str, str]
) -> dict[str, Any]:
  """Evaluates the chosen model once on test, writes everything, returns `results.json`.

  Only process 0 writes.

  Args:
    corrected: the data set's compat switches with their corrected values.
  """
  experiment = loop.experiment
  sharing = experiment.sharing
  chosen = int(np.asarray(state.best.candidate)[0])
  structure = sharing.chosen(state.routes, chosen)
  # Process 0 writes alone, so that it must have the whole model.
  best = (
    mesh_lib.place_replicated(state.best, experiment.mesh)
    if experiment.config.train.shard_state
    else state.best
  )
  model = best.params, best.stats
  parts = list(loop.evaluator.parts(*model, loop.feed.evaluation("test"), structure))
  test = evaluate.result(experiment.tasks, parts)
  validation = loop.evaluator.run(*model, loop.feed.evaluation("validation"), structure)
  constant = evaluate.constants(
    experiment.tasks,
    *constants.labels(
      experiment.dataset,
      "test",
      experiment.config.train.resident,
      experiment.config.eval.batch_size,
    ),
  )
  lean = experiment.lean(best.params, best.stats, structure)
  served = lean or (experiment, best.params, best.stats)
  fixed = () if lean else structure
  counted = macs(*served, structure=fixed)
  learnt = {} if lean else state.params["policy"]
  own = baselines.identity(experiment.config, experiment.dataset)
  results = {
    "dataset": experiment.dataset.spec.name,
    "method": experiment.method.name,
    "seed": experiment.config.seed,
    "finished": True,
    "split": "test",
    "tasks": _tasks(experiment.tasks, test, validation, constant),
    "parameters": parameters(*served, learnt),
    "macs": counted,
    "served": _served(experiment, structure, counted),
    "execution": _execution(test),
    "candidates": [loop.candidates[k] for k in sorted(loop.candidates)],
    "trials": loop.trials,
    "chosen": chosen,
    "chosen_step": np.asarray(best.step),
    "identity": own,
    "delta": _delta(experiment, own, test),
    "timing": _timing(loop),
    "data": _data(workdir_lib.read_data(loop.workdir)),
    "compat": _changed(experiment.config, corrected),
    "versions": {"python": sys.version.split()[0], "jax": jax.__version__, "numpy": np.__version__},
    "notes": [*experiment.notes, *_views_note(experiment.config.eval)],
  }
  if sections := sharing.sections(state.params["policy"], best.params):
    results["sections"] = sections
  if found := sharing.panels(state.params["policy"], state.memory, best.params):
    panels = [panel._asdict() for panel in found.panels]
    results["learned"] = found._asdict() | {"panels": panels}
  written: dict[str, Any] = workdir_lib.plain(results)
  if jax.process_index() == 0:
    record = sharing.record(state.params["policy"], state.routes, chosen)
    if record is not None:
      workdir_lib.write_json(loop.workdir / "policy.json", record)
    _write_pictures(loop, best, structure)
    private = experiment.dataset.spec.private
    predictions.write(loop.workdir, experiment.tasks, parts, private)
    workdir_lib.write_json(loop.workdir / "results.json", written)
    if stores(experiment):
      baselines.store(experiment.config.baseline, written)
  return written


def _data(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """Which data were trained on: a short text for all of `data.json`, and numbers of examples."""
  if found is None:
    return None
  return {"identity": identity.digest(found), "examples": found["examples"]}


def parameters(experiment: Any, params: Any, stats: Any, learnt: Any) -> dict[str, int]:
  """Counts parameters by group; running batch statistics apart.

  Args:
    experiment: whose network they belong to.
    params: of the network; shapes are enough.
    learnt: of the method's `Sharing`; counts where some phase trains it.
  """
  counts = dict.fromkeys((*optim.GROUPS, *experiment.method.optimizers), 0)
  groups = optim.groups({"network": params}, experiment.network.leaves())
  for group, leaf in zip(jax.tree.leaves(groups), jax.tree.leaves(params), strict=True):
    counts[group] += leaf.size
  if any("policy" in phase.trainable for phase in experiment.method.phases):
    counts["policy"] = sum(leaf.size for leaf in jax.tree.leaves(learnt))
  counts["batch_stats"] = sum(leaf.size for leaf in jax.tree.leaves(stats))
  return counts


class Pieces(NamedTuple):
  """Shapes and multiply-accumulates of a network's parts on one example.

  Attributes:
    trunk: of all of the trunk; of skipped blocks with each executed once.
    branches: of every block's branch; empty for a trunk that leaves no block out.
    heads: task -> of its head.
    features: what every block and, last, the heads read, shapes `[1, 1, ...]` or trees of such;
      empty for a trunk that shows no backbone.
    logits: task -> shape `[1, ...]`.
  """

  trunk: int
  branches: tuple[int, ...]
  heads: dict[str, int]
  features: list[Any]
  logits: dict[str, Any]


def pieces(
  experiment: Any,
  params: Any,
  stats: Any,
  size: tuple[int, int] | None = None,
  structure: Any = None,
) -> Pieces:
  """Traces the parts of a network one by one; see `macs`."""
  inputs = experiment.one_example(size)
  network, variables = experiment.network, {"params": params, "batch_stats": stats}
  sharing = experiment.sharing
  control = sharing.everything()
  if structure is not None:
    control = sharing.control_at_test(*sharing.at_test(structure))
  pass_ = backbones.Pass(False, jnp.ones((1,)), series.steps_of(inputs))
  more = () if pass_.steps is None else (pass_.steps,)
  tasks, skips = len(experiment.tasks), experiment.sharing.skips

  def count(method: Any, *args: Any) -> tuple[int, Any]:
    return costs.traced(lambda v, *a: network.apply(v, *a, method=method), variables, *args)

  def shown(network: Any, x: Any) -> list[Any]:
    backbone = network.trunk.shown()
    *found, last = backbone.features(x, pass_)
    return [*found, backbone.final(last)]

  branches: list[int] = []
  if skips:
    whole, features = count(shown, inputs)
    read = [features[-1]] * tasks
    if experiment.method.independent:
      whole *= tasks
    else:
      branches = [
        count(lambda network, x, b=b: network.trunk.shown().branch(b, x, pass_), x)[0]
        for b, x in enumerate(features[:-1])
      ]
  else:
    every = lambda network, x: network.features(x, control, False)[0]
    whole, of_tasks = count(every, inputs)
    lead = lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
    read, features = [jax.tree.map(lead, x) for x in of_tasks], []
  first = lambda x: jax.tree.map(lambda a: a[0], x)
  heads = {
    name: count(lambda network, x, t=t: network.heads[t](first(x), False, *more), read[t])
    for t, name in enumerate(network.names)
  }
  return Pieces(
    whole,
    tuple(branches),
    {name: found for name, (found, _) in heads.items()},
    features,
    {name: shape for name, (_, shape) in heads.items()},
  )


def macs(
  experiment: Any,
  params: Any,
  stats: Any,
  size: tuple[int, int] | None = None,
  structure: Any = None,
) -> dict[str, Any]:
  """Counts analytic multiply-accumulates of one example: stem, blocks, heads.

  Counted from the shapes of every convolution and matrix product in the
  traced computation, all taps included. Shapes of `params` and `stats` are
  enough. Of a trunk without blocks that can be left out, the total alone.

  Args:
    size: height and width, for pictures of another size than the data's.
    structure: what is executed, of a trunk that skips no blocks; default all of it.
  """
  found = pieces(experiment, params, stats, size, structure)
  heads, tasks = sum(found.heads.values()), len(experiment.tasks)
  if not found.branches:
    total = found.trunk + heads
    return {"per_example_all_blocks": None, "stem": None, "heads": None, "total": total}
  return {
    "per_example_all_blocks": [list(found.branches)] * tasks,
    "stem": found.trunk - sum(found.branches),
    "heads": found.heads,
    "total": found.trunk + heads,
  }


def _served(experiment: Any, structure: Any, counted: dict[str, Any]) -> dict[str, Any] | None:
  """Work as a share of hard sharing's, and predicted milliseconds, by the way to serve."""
  plan = experiment.sharing.plan(structure)
  if plan is None:
    return None
  if experiment.method.independent:  # Every task computes all of its own.
    return {routes.TOGETHER: {"work": float(len(plan.tasks))}, routes.APART: {"work": 1.0}}
  timed, blocks = experiment.timed, counted["per_example_all_blocks"][0]
  found: dict[str, Any] = {
    serve: {
      "work": routes.work(plan.route, blocks, serve),
      "ms": timed.prices.predict(plan.route, serve) if timed else None,
    }
    for serve in routes.SERVES
  }
  return found | ({"batch": timed.batch, "device": timed.device} if timed else {})


def _tasks(
  tasks: tuple[types.TaskSpec, ...],
  test: evaluate.Result,
  validation: evaluate.Result,
  constant: evaluate.Values,
) -> list[dict[str, Any]]:
  """Metrics of every task."""
  return [
    {
      "name": task.name,
      "kind": task.kind,
      "unit": task.unit,
      "weight": task.weight,
      "classes": list(task.classes),
      "loss": {"test": test.losses[task.name], "validation": validation.losses[task.name]},
      "metrics": [
        {
          "name": m.name,
          "higher_is_better": m.higher_is_better,
          "unit": m.unit,
          "in_delta": m.in_delta,
          "test": test.metrics[task.name][m.name],
          "validation": validation.metrics[task.name][m.name],
          "constant": constant[task.name][m.name],
        }
        for m in kinds.find(task.kind).metrics(task)
      ],
      **_details(test, task.name),
    }
    for task in tasks
  ]


def _details(test: evaluate.Result, task: str) -> dict[str, Any]:
  """What a kind tells beyond its metrics, on test; null where not defined."""
  found = test.details.get(task)
  return {"details": dict(found)} if found else {}


def _views_note(settings: Any) -> list[str]:
  """Tells when predictions are averages over views."""
  scales = ", ".join(f"{scale:g}" for scale in settings.scales)
  if not settings.flip and tuple(settings.scales) == (1.0,):
    return []
  mirrored = ", each also mirrored" if settings.flip else ""
  return [f"Predictions are averaged over pictures at the scales {scales}{mirrored} (config.eval)."]


def _execution(test: evaluate.Result) -> dict[str, Any]:
  blocks = test.histogram.shape[1]
  return {
    "rate": test.rate,
    "mean": float(test.rate.mean()),
    "per_example_hist": {"bins": list(range(blocks)), "counts": test.histogram},
  }


def _timing(loop: loop_lib.Loop) -> dict[str, Any]:
  """Seconds and steps of the whole run (all its processes) and medians of a step."""
  medians = {k: float(np.median(v)) for k, v in loop.step_seconds.items()}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  scale = 2**30 if sys.platform == "darwin" else 2**20
  last = medians.get("retrain", 0.0)
  rate = loop.config.train.batch_size / last if last else float("nan")
  return {
    "seconds": loop.spent,
    "steps": loop.experiment.total_steps,
    "step_seconds": medians,
    "peak_memory_gb": peak / scale,
    "examples_per_second": rate,
  }


def _changed(config: Any, corrected: dict[str, str]) -> dict[str, Any]:
  """Compat switches that are not at their corrected value."""
  defaults = CORRECTED | corrected
  return {k: v for k, v in config.compat.items() if defaults.get(k) != v}


def _delta(
  experiment: Any, own: baselines.Identity, test: evaluate.Result
) -> dict[str, Any] | None:
  """Eqs. 7 and 8 against stored single-task results, if they are named, which it repeats.

  A task whose baseline has a metric of 0 has no relative change: NaN. Single-task networks have no
  baseline in a folder in which they are stored themselves.
  """
  config = experiment.config
  if not config.baseline or stores(experiment):
    return None
  mixed = baselines.read_mixed(config.mixed, "config.mixed")
  saved, differences = baselines.find(config.baseline, experiment.tasks, own, mixed)
  found = {}
  for task in experiment.tasks:
    metrics = kinds.find(task.kind).metrics(task)
    try:
      found[task.name] = delta.delta_task(metrics, test.metrics[task.name], saved.values[task.name])
    except ValueError as error:
      logging.warning("No Delta for %s: %s", task.name, error)
      found[task.name] = float("nan")
  return {
    "baseline": os.fspath(saved.path if baselines.is_store(config.baseline) else config.baseline),
    "identity": None if saved.identity is None else baselines.digest(saved.identity),
    "differences": differences,
    "values": {task.name: saved.values[task.name] for task in experiment.tasks},
    "tasks": found,
    "overall": delta.delta(found),
  }


def stores(experiment: Any) -> bool:
  """Returns whether a run keeps its results where `config.baseline` says, for others."""
  given = experiment.config.baseline
  return bool(given) and experiment.method.independent and baselines.is_store(given)


def check_baseline(experiment: Any) -> None:
  """Refuses a `config.baseline` that does not fit a run, before it is trained.

  Raises:
    ValueError: as `baselines.find`.
  """
  config = experiment.config
  mixed = baselines.read_mixed(config.mixed, "config.mixed")
  if not config.baseline or stores(experiment):
    return
  own = baselines.identity(config, experiment.dataset)
  _, differences = baselines.find(config.baseline, experiment.tasks, own, mixed)
  for told in differences:
    logging.warning("config.baseline=%r: %s.", config.baseline, told)


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads `results.json` of a finished run.

  Raises:
    ValueError: it cannot be read, or is not what a run wrote; says how to get it anew.
  """
  path = pathlib.Path(folder) / "results.json"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    why = "" if _complete(found) else "it lacks what a run writes"
  except (OSError, ValueError, KeyError, TypeError) as error:
    why = f"{type(error).__name__}: {error}"
  if why:
    raise ValueError(
      f"{path} is not the results of a run ({why}). If the folder is that of a run, delete this"
      " file: the training command writes it again."
    )
  return dict(found)


def _complete(found: Any) -> bool:
  """Whether results have what is shown of them."""
  metrics = [metric for task in found["tasks"] for metric in task["metrics"]]
  known = all({"name", "test", "constant"} <= set(metric) for metric in metrics)
  return bool(metrics) and known and "mean" in found["execution"]


def _write_pictures(loop: loop_lib.Loop, best: state_lib.Best, structure: Any) -> None:
  """Some test examples with truth and prediction, for pictures."""
  experiment = loop.experiment
  spec = experiment.dataset.spec
  # On the host: with several processes, only this one computes here.
  params, stats = jax.device_get((best.params, best.stats))
  count = min(experiment.config.eval.pictures, spec.sizes["test"])
  if spec.input_kind != "image" or count < 1:
    return
  source = experiment.dataset.source("test")
  batch = loader.stack([source[i] for i in range(count)])
  sharing = experiment.sharing
  static, arrays = sharing.at_test(structure)
  sizes = evaluate.dense_sizes(batch)

  def predict(params: Any, stats: Any, inputs: Any, arrays: Any) -> dict[str, Any]:
    """What is said of every task, dense ones at the size of their labels."""
    control = sharing.control_at_test(static, arrays)
    logits, _ = loop.evaluator.logits(params, stats, inputs, control, sizes)
    said: dict[str, Any] = {}
    for task in spec.tasks:
      kind = kinds.find(task.kind)
      large: Any = logits[task.name]
      if kind.dense:
        large = alignment.enlarged(task, large, sizes[task.name])
      said[task.name] = kind.predict(task, large)
    return said

  options = mesh_lib.quick(experiment.mesh)
  said = jax.jit(predict, compiler_options=options)(params, stats, batch.inputs, arrays)
  found = {"inputs": np.round(255 * np.clip(batch.inputs, 0, 1)).astype(np.uint8)}  # RGB in 0 .. 1
  for task in spec.tasks:
    found[f"target/{task.name}"] = _small(batch.targets[task.name])
    found[f"valid/{task.name}"] = batch.valid[task.name]
    found[f"prediction/{task.name}"] = _small(said[task.name])
  np.savez_compressed(loop.workdir / "predictions.npz", **found)


def _small(array: types.Array) -> np.ndarray:
  """Half precision and 16-bit integers, where the numbers fit: for pictures."""
  array = np.asarray(array)
  kind = np.dtype({"f": np.float16, "i": np.int16}.get(array.dtype.kind, array.dtype))
  if array.dtype.itemsize <= kind.itemsize or not array.size:
    return array
  limit = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
  finite = array[np.isfinite(array)]
  fits = not finite.size or (finite.min() >= limit.min and finite.max() <= limit.max)
  return array.astype(kind) if fits else array
