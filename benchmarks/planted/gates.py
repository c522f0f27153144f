"""Do instance gates earn their place, where half of the examples need depth?

    python -m benchmarks.planted.gates --numbers=0,1,2,3,4

Gates alone (`policy.use=False`) are trained from the weights of a warm-up. Beside them stand
constant routes that execute as much, chosen at random and trained equally from the same weights,
and the gates' own network with every example given the decisions of another one (`swapped`).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.planted import judge as judge_lib
from dynashare_jax import runs
from dynashare_jax.cli import guard
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.sharing import contrast
from dynashare_jax.train import forward as forward_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> None:
  """Trains and compares; what the folder has already is not run again."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--numbers", default="0,1,2,3,4")
  parser.add_argument("--randoms", type=int, default=16)
  parser.add_argument("--out", default="runs/planted/instance")
  parser.add_argument("--set", default="", help="settings of the runs with spaces, name=value")
  args = parser.parse_args()
  guard.use_compilation_cache()
  for number in map(int, args.numbers.split(",")):
    folder = pathlib.Path(args.out) / str(number)
    file = folder / "gates.json"
    if not file.is_file():
      _train(number, folder / "gates", args.set.split())
      file.write_text(json.dumps(compared(folder / "gates", args.randoms), indent=1))
    print(line(number, json.loads(file.read_text())), flush=True)


def _train(number: int, workdir: pathlib.Path, more: list[str]) -> None:
  """Trains gates alone by the package's own command."""
  command = [sys.executable, "-m", "dynashare_jax.main", f"--workdir={workdir}"]
  command += [f"--config={ROOT / 'configs' / 'planted.py'}:instance", f"--config.seed={number}"]
  command += [f"--config.data.number={number}", "--config.policy.use=False"]
  command += ["--config.train.warmup_steps=1500", *(f"--config.{value}" for value in more)]
  subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def compared(workdir: pathlib.Path, randoms: int) -> dict[str, Any]:
  """Compares a finished run of gates with its controls.

  Returns:
    `loss`, mean over tasks, and `executed` share of all blocks; `swapped`; `constant`: losses of
    random constant routes; `every`: of all blocks, trained as long; `deep` and `easy`: share of
    open gates on the examples that need depth and on the others.
  """
  trained = runs.load(str(workdir))
  found = trained_lib.searched(trained)
  assert found is not None, "gates start from the weights of a warm-up"
  start = found[0]
  experiment, judge = trained.experiment, judge_lib.Judge(trained.experiment.config)
  own = {k: v for k, v in start["trunk"].items() if not k.startswith("gate_")}
  start = jax.tree.map(jnp.asarray, {**start, "trunk": own})
  test = jax.tree.map(jnp.asarray, experiment.dataset.arrays("test"))
  loss, executed = _decided(trained, test, None)
  rng = np.random.default_rng(judge.tasks)
  swaps = []
  for _ in range(10):
    others = np.stack([row[rng.permutation(len(row))] for row in executed])
    swaps.append(_decided(trained, test, others)[0])
  steps = int(experiment.config.train.retrain_steps)
  gated = [l for l, rate in enumerate(experiment.sharing.rates) if rate < 1]
  routes = np.ones((randoms + 1, judge.tasks, judge.blocks), np.float32)
  shut = round((1 - executed[:, :, gated].mean()) * judge.tasks * len(gated))
  for route in routes[1:]:
    closed = rng.permutation(judge.tasks * len(gated))[:shut]
    route[closed // len(gated), np.asarray(gated)[closed % len(gated)]] = 0
  controls = judge.losses(routes, steps, start=start).mean(1)
  x = np.asarray(test.inputs)[:, 0]
  deep = x[:, 0] + x[:, 1] > 0
  return {
    "loss": loss,
    "executed": float(executed.mean()),
    "constant executed": float(routes[1:].mean()),
    "swapped": float(np.mean(swaps)),
    "every": float(controls[0]),
    "constant": controls[1:].tolist(),
    "deep": float(executed[:, deep][..., gated].mean()),
    "easy": float(executed[:, ~deep][..., gated].mean()),
  }


def _decided(
  trained: trained_lib.Trained, batch: Any, decisions: np.ndarray | None
) -> tuple[float, np.ndarray]:
  """Mean loss and what was executed `[T, B, L]`, with the gates' decisions or given ones."""
  experiment = trained.experiment
  static, arrays = trained.sharing.at_test(trained.structure)

  @jax.jit
  def run(noise: Any) -> Any:
    control = trained.sharing.control_at_test(static, arrays)._replace(noise=noise)
    logits, signals = experiment.network.apply(trained.variables, batch.inputs, control, False)
    sums = forward_lib.task_losses(experiment.tasks, logits, batch)
    return jnp.stack([s.total / s.count for s in sums]).mean(), signals.executed

  noise = None
  if decisions is not None:
    noise = jnp.where(jnp.asarray(decisions) > 0.5, contrast.SURE, -contrast.SURE)
    noise = noise.transpose(1, 0, 2)
  loss, executed = run(noise)
  return float(loss), np.asarray(executed)


def line(number: int, found: dict[str, Any]) -> str:
  """One line for the terminal."""
  constant = np.asarray(found["constant"])
  return (
    f"instance {number}: gates {found['loss']:.4f} at {found['executed']:.2f} executed, constant"
    f" routes {constant.mean():.4f} ± {constant.std(ddof=1):.4f} (best {constant.min():.4f}) at"
    f" {found['constant executed']:.2f}, swapped {found['swapped']:.4f}, every block"
    f" {found['every']:.4f}, open on deep {found['deep']:.2f}, on easy {found['easy']:.2f}"
  )


if __name__ == "__main__":
  main()
