"""Puts methods to planted problems: does what they find beat chance, and hard sharing?

    python -m benchmarks.planted.run --problem=conflict --methods=affinity,adashare --numbers=0,1,2

Every method is trained by the package's own command, `dynashare_jax.main`, on every number of the
problem, and the route that it chose is re-trained twice from scratch beside random routes of the
same work, the planted route and hard sharing, all for equally many steps. Its own final network
stands beside hard sharing with as many steps as the method took in all, and single-task networks
with as many parameters. Results go to one JSON file a run, which `benchmarks.planted.page` reads.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.planted import judge as judge_lib
from dynashare_jax import runs
from dynashare_jax.cli import guard
from dynashare_jax.data.planted import dataset as planted
from dynashare_jax.sharing import routes as route_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 500  # of random routes
STEPS = 1500  # in which routes are compared with one another


def main() -> None:
  """Runs what is asked for; what the file has already is not run again."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--problem", default="conflict", choices=sorted(planted.PROBLEMS))
  parser.add_argument("--methods", default="affinity,adashare,dynashare")
  parser.add_argument("--numbers", default="0,1,2,3,4,5,6,7")
  parser.add_argument("--randoms", type=int, default=30)
  parser.add_argument("--out", default="runs/planted")
  args = parser.parse_args()
  guard.use_compilation_cache()
  for number in map(int, args.numbers.split(",")):
    for method in args.methods.split(","):
      one(args.problem, number, method, args.randoms, pathlib.Path(args.out))


def one(problem: str, number: int, method: str, randoms: int, out: pathlib.Path) -> dict[str, Any]:
  """Trains a method on a problem, judges it, writes and returns the result."""
  folder = out / problem / str(number)
  file = folder / f"{method}.json"
  if file.is_file():
    return dict(json.loads(file.read_text()))
  workdir = folder / method
  config = ROOT / "configs" / f"planted.py:{problem}"
  command = [sys.executable, "-m", "dynashare_jax.main", f"--config={config}"]
  command += [f"--config.data.number={number}", f"--config.seed={number}"]
  command += [f"--config.method={method}", f"--workdir={workdir}"]
  subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
  found = judged(workdir, folder, randoms)
  file.write_text(json.dumps(found, indent=1))
  print(line(problem, number, method, found), flush=True)
  return found


def judged(workdir: pathlib.Path, bank: pathlib.Path, randoms: int) -> dict[str, Any]:
  """Compares a finished run with its controls.

  Args:
    workdir: of the run.
    bank: folder in which the losses of the controls are kept; they are the same for all methods.
    randoms: how many random routes.

  Returns:
    `own`: test loss of every task of the run's network; `steps` that it took in all; `work` of the
    route served together and apart; `percentile`: share of random routes that are worse than the
    route, in percent; `controls`: name -> test losses of every training and task.
  """
  trained = runs.load(str(workdir))
  results = json.loads((workdir / "results.json").read_text())
  config = trained.experiment.config
  judge = judge_lib.Judge(config)
  costs, steps = (1.0,) * judge.blocks, STEPS
  file = workdir / "policy.json"
  saved = json.loads(file.read_text()) if file.is_file() else {"routes": [], "chosen": 0}
  whole = np.ones((judge.tasks, judge.blocks), np.float32)
  route = np.asarray(saved["routes"][saved["chosen"]], np.float32) if saved["routes"] else whole
  kept = Bank(bank / "controls.json")
  serve, total = config.policy.serve, sum(p.steps for p in trained.experiment.method.phases)
  answer = planted.answer(config.data.problem, judge.blocks)
  controls = {
    "route": kept.get(route, steps, (1, 2), judge),
    "hard": kept.get(whole, steps, (1,), judge),
    "hard, all steps": kept.get(whole, total, (1,), judge),
    "planted": kept.get(answer, steps, (1, 2), judge),
    "single, equal parameters": kept.single(config, judge.parameters, steps),
    "single, equal parameters, all steps": kept.single(config, judge.parameters, total),
  }
  share = route_lib.work(route, costs, serve)
  if share < 1:
    drawn = route_lib.of_work(np.random.default_rng(SEED), route, randoms, costs, serve)
    controls["random"] = kept.many(drawn, steps, judge)
  worse = np.mean(controls.get("random", [[0.0]]), 1) > np.mean(controls["route"])
  return {
    "route": route.astype(int).tolist(),
    "own": [task["loss"]["test"] for task in results["tasks"]],
    "steps": total,
    "work": {name: route_lib.work(route, costs, name) for name in route_lib.SERVES},
    "executed": results["execution"]["mean"],
    "percentile": 100 * float(worse.mean()) if share < 1 else None,
    "controls": controls,
  }


class Bank:
  """Losses of trainings from scratch, kept in a file by route, steps and seed."""

  def __init__(self, path: pathlib.Path) -> None:
    """Opens the file, or an empty bank."""
    self.path = path
    self.known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

  def get(
    self, route: np.ndarray, steps: int, seeds: tuple[int, ...], judge: judge_lib.Judge
  ) -> list[list[float]]:
    """Test losses of a route, `[seeds][T]`."""
    return [self._of(route[None], steps, seed, judge)[0] for seed in seeds]

  def many(self, routes: np.ndarray, steps: int, judge: judge_lib.Judge) -> list[list[float]]:
    """Test losses of many routes, `[N][T]`, trained side by side."""
    return self._of(routes, steps, 0, judge)

  def single(self, config: Any, parameters: int, steps: int) -> list[list[float]]:
    """Test losses of single-task networks with as many parameters, `[1][T]`."""
    name = "single" if steps == STEPS else f"single {steps}"
    if name not in self.known:
      judge = judge_lib.Judge(judge_lib.equal_single(config, parameters), "single")
      whole = np.ones((1, judge.tasks, judge.blocks), np.float32)
      self._keep(name, judge.losses(whole, steps).tolist())
    return list(self.known[name])

  def _of(self, routes: np.ndarray, steps: int, seed: int, judge: judge_lib.Judge) -> Any:
    names = [f"{_name(route)} {steps} {seed}" for route in routes]
    new = [i for i, name in enumerate(names) if name not in self.known]
    if new:
      found = judge.losses(routes[new], steps, seed)
      for i, losses in zip(new, found, strict=True):
        self._keep(names[i], losses.tolist())
    return [self.known[name] for name in names]

  def _keep(self, name: str, losses: Any) -> None:
    self.known[name] = losses
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.path.write_text(json.dumps(self.known))


def _name(route: np.ndarray) -> str:
  """A route as text, a row a task."""
  return ",".join("".join(str(int(v)) for v in row) for row in route)


def line(problem: str, number: int, method: str, found: dict[str, Any]) -> str:
  """One line for the terminal."""
  means = {name: np.mean(losses) for name, losses in found["controls"].items()}
  told = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
  at = "-" if found["percentile"] is None else f"{found['percentile']:.0f}"
  return (
    f"{problem} {number} {method}: percentile {at}, own {np.mean(found['own']):.4f}"
    f" ({found['steps']} steps), {told}"
  )


if __name__ == "__main__":
  main()
