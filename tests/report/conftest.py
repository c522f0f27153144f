"""A synthetic work directory whose numbers are known."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
from typing import Any

import numpy as np
import pytest

CLASSES = ("wall", "floor", "chair", "table", "lamp", "window")
ALPHA = [
  [0.97, 0.91, 0.35, 0.88, 0.74, 0.52, 0.81, 0.66],
  [0.95, 0.42, 0.93, 0.86, 0.21, 0.64, 0.77, 0.83],
  [0.96, 0.48, 0.90, 0.79, 0.30, 0.71, 0.69, 0.45],
]
ROUTE = [[1, 1, 0, 1, 1, 0, 1, 1], [1, 0, 1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1, 0]]
RATE = [
  [1, 1, 0, 1, 0.58, 0, 0.51, 0.62],
  [1, 0, 1, 1, 0, 0.55, 0.60, 0.47],
  [1, 0, 1, 1, 0, 0.49, 0.71, 0],
]


def metric(name: str, higher: bool, unit: str, test: float, constant: float) -> dict[str, Any]:
  """One metric of results.json; validation is 1 % above the test value."""
  return {
    "name": name,
    "higher_is_better": higher,
    "unit": unit,
    "test": test,
    "validation": 1.01 * test,
    "constant": constant,
  }


def results(method: str = "dynashare", seed: int = 0, factor: float = 1.0) -> dict[str, Any]:
  """A results.json; `factor` makes every metric better by that ratio."""
  return {
    "dataset": "rooms",
    "method": method,
    "seed": seed,
    "finished": True,
    "split": "test",
    "tasks": [
      {
        "name": "segmentation",
        "kind": "segmentation",
        "weight": 1.0,
        "classes": list(CLASSES),
        "metrics": [
          metric("miou", True, "%", 40.0 * factor, 8.0),
          metric("pixel_accuracy", True, "%", 70.0 * factor, 45.0),
        ],
        "details": {
          "iou": [50.0 * factor, 60.0 * factor, 30.0 * factor, 10.0 * factor, None, 40.0 * factor],
          "accuracy": [90.0, 80.0, 70.0, 20.0, None, 60.0],
          "share": [45.0, 30.0, 12.0, 2.995, 0.0, 10.005],
        },
      },
      {
        "name": "normals",
        "kind": "normals",
        "weight": 20.0,
        "metrics": [
          metric("mean", False, "deg", 20.0 / factor, 38.0),
          metric("within_11", True, "%", 50.0 * factor, 12.0),
        ],
      },
      {
        "name": "depth",
        "kind": "depth",
        "weight": 3.0,
        "unit": "m",
        "metrics": [metric("abs", False, "m", 0.5 / factor, 1.1)],
      },
    ],
    "parameters": {
      "backbone": 11_000_000,
      "gates": 24_208,
      "heads": 2_000_000,
      "policy": 48,
      "batch_stats": 9_600,
    },
    "macs": {
      "per_example_all_blocks": [[1.0e9] * 8] * 3,
      "stem": 2.0e8,
      "heads": {"segmentation": 3e8, "normals": 3e8, "depth": 2e8},
      "total": 9.0e9,
    },
    "execution": {
      "rate": RATE,
      "mean": 0.55,
      "per_example_hist": {
        "bins": list(range(9)),
        "counts": [
          [0, 0, 0, 4, 12, 20, 9, 0, 0],
          [0, 0, 0, 6, 15, 16, 8, 0, 0],
          [0, 0, 0, 15, 17, 13, 0, 0, 0],
        ],
      },
    },
    "candidates": [
      {
        "index": k,
        "route": ROUTE,
        "score": score,
        "validation": {
          "segmentation": {"miou": 38.0 + k, "pixel_accuracy": 70.0},
          "normals": {"mean": 21.0 - k, "within_11": 49.0},
          "depth": {"abs": 0.52},
        },
      }
      for k, score in enumerate((0.61, 0.68, 0.64))
    ],
    "chosen": 1,
    "delta": {
      "baseline": "../single-0",
      "tasks": {"segmentation": 4.0, "normals": 3.0, "depth": -1.0},
      "overall": 2.0,
    },
    "timing": {
      "seconds": 754.0,
      "step_seconds": {"warmup": 0.21, "weights": 0.25, "policy": 0.27, "retrain": 0.18},
      "peak_memory_gb": 1.9,
      "examples_per_second": 42.0,
    },
    "compat": {},
    "versions": {"jax": "0.10.2", "python": "3.11"},
    "learned": {
      "title": "What the columns read",
      "caption": "A row sums to 1.",
      "panels": [
        {
          "title": "Shares",
          "values": [[0.9, 0.1], [0.3, 0.7]],
          "rows": ["segmentation", "depth"],
          "columns": ["one", "other"],
          "form": "{:.2f}",
        }
      ],
    },
    "notes": ["12 images have no depth."],
  }


def _line(
  step: int, phase: str, cycle: int, kind: str, candidate: int = -1, **values: Any
) -> dict[str, Any]:
  names = {key.replace("__", "/"): value for key, value in values.items()}
  return {
    "step": step,
    "phase": phase,
    "candidate": candidate,
    "cycle": cycle,
    "kind": kind,
    "values": names,
  }


def balanced(age: int) -> dict[str, float]:
  """What a balancer logs: weights against the gradients' lengths, a conflict that goes away."""
  return {
    "weight__segmentation": 1.0,
    "weight__normals": 0.5 + age / 1000,
    "weight__depth": 40.0,
    "norm__segmentation": 2.0,
    "norm__normals": 4.0,
    "norm__depth": 0.05,
    "cosine__least": age / 400 - 0.525,
  }


def lines() -> list[dict[str, Any]]:
  """metrics.jsonl: warm-up, four cycles, three candidates of 200 steps."""
  rng = np.random.default_rng(3)
  found: list[dict[str, Any]] = []

  def point(step: int, phase: str, cycle: int, age: int, k: int = -1) -> None:
    decay = np.exp(-age / 150)
    wobble = 1 + 0.04 * rng.standard_normal(3)
    found.append(
      _line(
        step,
        phase,
        cycle,
        "train",
        k,
        loss__segmentation=(0.6 + 1.9 * decay) * wobble[0],
        loss__normals=(0.15 + 0.4 * decay) * wobble[1],
        loss__depth=(0.03 + 0.09 * decay) * wobble[2],
        loss__total=1.0,
        **({} if phase == "policy" else balanced(age)),
      )
    )
    if step % 50 == 0:
      better = 1 - decay + 0.01 * rng.standard_normal() - 0.02 * abs(k - 1)
      found.append(
        _line(
          step,
          phase,
          cycle,
          "eval",
          k,
          score=0.2 + 0.5 * better,
          segmentation__miou=8 + 33 * better,
          normals__mean=38 - 18 * better,
          depth__abs=1.1 - 0.6 * better,
        )
      )

  for step in range(10, 201, 10):
    point(step, "warmup", 0, step)
  agree = np.array([[1.0, 0.3, -0.1], [0.3, 1.0, 0.05], [-0.1, 0.05, 1.0]])
  blocks = np.shape(ALPHA)[1]
  measured = {
    "cosine": np.tile(agree, (blocks, 1, 1)).tolist(),
    "error": np.full((blocks, 3, 3), 0.03).tolist(),
    "mean": agree.tolist(),
    "mean_error": np.full((3, 3), 0.02).tolist(),
  }
  found.append(_line(200, "measure", 0, "conflict", batches=20, **measured))
  for cycle in range(4):
    for step in range(10, 101, 10):
      now = 200 + 100 * cycle + step
      phase = "weights" if step <= 50 else "policy"
      point(now, phase, cycle, now)
      if phase == "policy":
        done = (100 * cycle + step) / 400
        alpha = 0.5 + done * (np.asarray(ALPHA) - 0.5)
        found.append(_line(now, phase, cycle, "alpha", alpha=np.round(alpha, 4).tolist()))
  for k in range(3):
    for step in range(10, 201, 10):
      point(600 + 200 * k + step, "retrain", 0, 100 + 2 * step, k)
  return found


def pictures(count: int = 3, height: int = 48, width: int = 64) -> dict[str, Any]:
  """predictions.npz of a box room, its predictions slightly wrong."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[0:height, 0:width]
  arrays: dict[str, list[np.ndarray]] = {}
  for i in range(count):
    edge = height // 2 + 4 * i
    seg = np.where(rows > edge, 1, 0)
    seg[10 + 3 * i : 30, 8 : 24 + 2 * i] = 2 + i
    seg[4:16, 40:56] = 5
    normal = np.zeros((height, width, 3), np.float32)
    normal[..., 2] = 1.0
    normal[rows > edge] = (0.0, 1.0, 0.0)
    depth = 1.5 + 3.0 * (1 - rows / height) + 0.4 * columns / width
    depth = np.where(seg >= 2, depth - 0.8, depth).astype(np.float32)
    valid = np.ones((height, width), bool)
    valid[:6, :10] = False
    image = 0.25 + 0.12 * seg[..., None] * np.asarray([1.0, 0.8, 0.6])
    image = np.clip(image + 0.03 * rng.standard_normal(image.shape), 0, 1)
    guess = np.roll(seg, (2, 3), (0, 1))
    turn = normal + 0.12 * rng.standard_normal(normal.shape)
    turn /= np.linalg.norm(turn, axis=-1, keepdims=True)
    blur = np.roll(depth, 2, 1) + 0.1 * rng.standard_normal(depth.shape)
    for key, value in {
      "inputs": image.astype(np.float32),
      "target/segmentation": seg.astype(np.int32),
      "target/normals": normal,
      "target/depth": depth[..., None],
      "valid/segmentation": valid,
      "valid/normals": valid,
      "valid/depth": valid,
      "prediction/segmentation": guess.astype(np.int32),
      "prediction/normals": turn.astype(np.float32),
      "prediction/depth": blur[..., None].astype(np.float32),
    }.items():
      arrays.setdefault(key, []).append(value)
  return {key: np.stack(value) for key, value in arrays.items()}


def policy() -> dict[str, Any]:
  """policy.json: the second of three routes is kept."""
  ones = np.ones((3, 8), int).tolist()
  return {
    "tasks": ["segmentation", "normals", "depth"],
    "alpha": ALPHA,
    "routes": [ones, ROUTE, ones],
    "chosen": 1,
    "gated": [False] * 4 + [True] * 4,
    "target_rates": [1, 1, 1, 1, 0.55, 0.55, 0.55, 0.55],
  }


def write(path: pathlib.Path, **files: Any) -> pathlib.Path:
  """Writes the given parts of a work directory and returns it."""
  path.mkdir(parents=True, exist_ok=True)
  for name in ("results", "policy", "config"):
    if name in files:
      (path / f"{name}.json").write_text(json.dumps(files[name]))
  if "lines" in files:
    text = "".join(json.dumps(line) + "\n" for line in files["lines"])
    (path / "metrics.jsonl").write_text(text)
  if "pictures" in files:
    np.savez_compressed(path / "predictions.npz", **files["pictures"])
  return path


def full(path: pathlib.Path) -> pathlib.Path:
  """A work directory with every file."""
  return write(
    path,
    results=results(),
    policy=policy(),
    lines=lines(),
    pictures=pictures(),
    config={"method": "dynashare", "seed": 0, "balance": {"name": "nash"}},
  )


def runs(root: pathlib.Path, seeds: int = 3) -> pathlib.Path:
  """Run directories of `single` and two methods that improve on it.

  Against `single` of the same seed, every metric of `hard` is worse by a
  factor 0.96 and of `dynashare` better by 1.02, 1.04, 1.06, ...
  """
  for seed in range(seeds):
    level = 1.0 + 0.01 * seed
    for method, factor in (
      ("single", level),
      ("hard", 0.96 * level),
      ("dynashare", (1.02 + 0.02 * seed) * level),
    ):
      found = results(method, seed, factor)
      if method == "single":
        found["parameters"].update(backbone=33_000_000, gates=0, policy=0)
      write(root / f"{method}-{seed}", results=found)
  return root


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A complete work directory."""
  return full(tmp_path_factory.mktemp("full") / "dynashare-0")


@pytest.fixture
def make() -> Callable[..., pathlib.Path]:
  """Writes parts of a work directory."""
  return write
