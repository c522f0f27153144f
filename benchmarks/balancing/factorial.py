"""Sharing x scale x balancing: what does each contribute, and what do they together?

    python -m benchmarks.balancing.factorial --out=runs/balancing

The planted problem `conflict` (two pairs of tasks), with targets as they are (`even`) or times 10,
1, 0.1, 1 (`uneven`: losses 100, 1, 0.01, 1). Separate networks, hard sharing and `affinity`, which
learns who shares, are trained by the package's own loop, equally long, under balancers by name.
Every row chooses its learning rate on validation, for each problem, on a number that is not
reported. Results go to one JSON file a training, which `benchmarks.balancing.page` reads; what
is there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import math
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.planted import judge
from dynashare_jax import methods
from dynashare_jax import runs
from dynashare_jax.cli import guard
from dynashare_jax.library import configs
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages

PROBLEMS = {"uneven": (10.0, 1.0, 0.1, 1.0), "even": ()}
RATES = (1.5e-2, 4.5e-2, 1.35e-1)  # and on, by factors of 3, until the best is between two others
CHOICE = 100  # number on which the rate is chosen
# Affinity: 400 steps of warm-up, 20 of comparison, two trials of 200 and 800 of re-training.
STEPS = 1600
_LENGTHS = ("train.warmup_steps=400", "train.retrain_steps=800", f"train.steps={STEPS}")


@dataclasses.dataclass(frozen=True)
class Row:
  """A way to train.

  Attributes:
    method: a sharing method.
    balance: settings of `config.balance`.
    oracle: whether the tasks' weights undo the scales of their losses.
    narrow: whether the network has at most as many parameters as that of hard sharing.
  """

  method: str
  balance: tuple[str, ...] = ()
  oracle: bool = False
  narrow: bool = False


BALANCES: dict[str, Row] = {
  "sum": Row(""),
  "unit": Row("", ("name=unit",)),
  "log": Row("", ("name=log",)),
  "nash": Row("", ("name=nash",)),
  "oracle": Row("", oracle=True),
  "upgrad": Row("", ("name=upgrad",)),
  "upgrad after unit": Row("", ("name=upgrad", "normalise=unit")),
}
CONTROLS: dict[str, Row] = {
  "log, length plain": Row("", ("name=log", "length=plain")),
  "unit, length own": Row("", ("name=unit", "length=own")),
}
SHARING = ("hard", "affinity")
SINGLE, NARROW = "single", "single, equal parameters"
ROWS: dict[str, Row] = {
  SINGLE: Row("single"),
  NARROW: Row("single", narrow=True),
  **{
    f"{method} + {name}": dataclasses.replace(row, method=method)
    for name, row in BALANCES.items()
    for method in SHARING
  },
  **{f"hard + {name}": dataclasses.replace(row, method="hard") for name, row in CONTROLS.items()},
}


def main() -> None:
  """Trains what is asked for and not there yet."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--rows", default=";".join(ROWS), help="names of ROWS with ; between them")
  parser.add_argument("--problems", default=",".join(PROBLEMS))
  parser.add_argument("--numbers", default="0,1,2,3,4")
  parser.add_argument("--out", default="runs/balancing")
  args = parser.parse_args()
  guard.use_compilation_cache()
  for name in args.rows.split(";"):
    trainer = Trainer(ROWS[name])
    for problem in args.problems.split(","):
      folder = pathlib.Path(args.out) / problem / name.replace(" ", "_")
      tried = {rate: kept(trainer, problem, CHOICE, rate, folder) for rate in RATES}
      while (best := chosen(tried)) in (min(tried), max(tried)):
        rate = float(f"{best * (3 if best == max(tried) else 1 / 3):.3g}")
        tried[rate] = kept(trainer, problem, CHOICE, rate, folder)
      for number in map(int, args.numbers.split(",")):
        found = kept(trainer, problem, number, best, folder)
        print(f"{problem} {name} {number} rate {best:g}: {np.mean(found['test']):.4f}", flush=True)


def chosen(tried: Mapping[float, Mapping[str, Any]]) -> float:
  """Returns the rate with the lowest mean error on validation."""
  return min(tried, key=lambda rate: float(np.mean(tried[rate]["validation"])))


def kept(
  trainer: Trainer, problem: str, number: int, rate: float, folder: pathlib.Path
) -> dict[str, Any]:
  """Returns the result of a training, from its file if there is one."""
  file = folder / f"{number}-{rate:g}.json"
  if not file.is_file():
    found = trainer.run(problem, number, rate)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1))
  return dict(json.loads(file.read_text()))


class _Rated(experiment_lib.Experiment):
  """An experiment whose learning rate stands in the optimiser's state, not in the program."""

  rate = 1.0

  def optimizer(self, name: str, steps: int) -> Any:
    """Makes the optimiser of rate 1, of which every update is multiplied."""
    tx = super().optimizer(name, steps)

    def init(params: Any) -> Any:
      state = tx.init(params)
      return state._replace(inner_states={**state.inner_states, "rate": jnp.float32(self.rate)})

    def update(grads: Any, state: Any, params: Any = None) -> Any:
      rate = state.inner_states["rate"]
      moves, state = tx.update(grads, state, params)
      return jax.tree.map(lambda move: rate * move, moves), state

    return optax.GradientTransformation(init, update)


class Trainer:
  """Trains one row on many problems with the programs of the first."""

  def __init__(self, row: Row) -> None:
    """Prepares; nothing is compiled yet."""
    self.row = row
    self._first: dict[Any, loop_lib.Loop] = {}

  def run(self, problem: str, number: int, rate: float) -> dict[str, Any]:
    """Trains once.

    Returns:
      `test` and `validation`: squared error of every task over the square of its scale, of the
      network that validation chose, infinite where the rate was too high; the `route`, `seconds`
      and `parameters`.
    """
    began = time.monotonic()
    scales = PROBLEMS[problem]
    experiment = self._experiment(scales, number)
    experiment.rate = rate
    with tempfile.TemporaryDirectory() as folder:
      loop = loop_lib.Loop(experiment, pathlib.Path(folder))
      first = self._first.setdefault(tuple(t.weight for t in experiment.tasks), loop)
      loop.programs, loop.evaluator = first.programs, first.evaluator
      try:
        state = stages.run(loop)
      except loop_lib.NonFiniteLossError:
        return {"test": [math.inf], "validation": [math.inf]}
      structure = experiment.sharing.chosen(state.routes, int(state.best.candidate[0]))
      found: dict[str, Any] = {}
      for split in ("validation", "test"):
        batches = loop.feed.evaluation(split)
        losses = loop.evaluator.run(state.best.params, state.best.stats, batches, structure).losses
        squares = np.square(scales or np.ones(len(losses)))
        found[split] = (np.array(list(losses.values())) / squares).tolist()
    route = np.asarray(state.routes[int(state.best.candidate[0])]).astype(int).tolist()
    size = sum(leaf.size for leaf in jax.tree.leaves(state.best.params))
    return found | {"route": route, "parameters": size, "seconds": time.monotonic() - began}

  def _experiment(self, scales: Sequence[float], number: int) -> _Rated:
    """A row's experiment on a number."""
    row = self.row
    values = [f"method={row.method}", f"data.number={number}", f"seed={number}", *_LENGTHS]
    values += [f"data.scales={tuple(scales)}", *(f"balance.{value}" for value in row.balance)]
    values += [f"optimizers.{name}.lr=1.0" for name in ("warmup", "retrain")]
    values += ["train.eval_every=400", f"model.hidden={_hidden(row.narrow)}"]
    config = configs.load(str(timing.ROOT / "configs" / "planted.py"), values)
    dataset = runs.open_dataset(config)
    if row.oracle and scales:
      tasks = tuple(
        dataclasses.replace(task, weight=scale**-2)
        for task, scale in zip(dataset.spec.tasks, scales, strict=True)
      )
      dataset = dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, tasks=tasks))
    made = experiment_lib.build(config, dataset, methods.find(row.method).build)
    return _Rated(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})


@functools.cache
def _hidden(narrow: bool) -> int:
  """Width inside the blocks; narrow: so that four networks are no larger than the shared one."""
  config = configs.load(str(timing.ROOT / "configs" / "planted.py"), ["method=hard"])
  if narrow:
    config = judge.equal_single(config, judge.Judge(config).parameters)
  return int(config.model.hidden)


def results(folder: pathlib.Path, problem: str) -> Iterator[tuple[str, float, dict[int, Any]]]:
  """Yields row, rate and results by number of the rows whose rate is chosen."""
  for name in ROWS:
    files = sorted((folder / problem / name.replace(" ", "_")).glob("*.json"))
    found: dict[int, dict[float, Any]] = {}
    for file in files:
      number, _, rate = file.stem.partition("-")
      found.setdefault(int(number), {})[float(rate)] = json.loads(file.read_text())
    tried = found.pop(CHOICE, {})
    if tried and min(tried) < (best := chosen(tried)) < max(tried):
      yield name, best, {number: tried[best] for number, tried in found.items() if best in tried}


if __name__ == "__main__":
  main()
