"""Which way of gated execution to take, in one place."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import json
import pathlib
from typing import Any

import jax

from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.infer import clock
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.ops import compaction as compaction_lib

FILE = "execution.json"
Compaction = compaction_lib.Compaction

_MANY_ROWS = 1024  # of a table, from which compaction pays on a CPU

# What `tune` tries: name -> way.
WAYS: Mapping[str, Compaction | None] = {
  "masked": None,
  "rows": Compaction(compaction_lib.ROWS),
  "buckets": Compaction(compaction_lib.BUCKETS, 16),
}


def choose(
  batch: int, platform: str, tuned: Mapping[str, Any] | None = None, input_kind: str = "image"
) -> Compaction | None:
  """Chooses the way for a batch size on a device.

  Without measurements of the device, on a CPU: images and series execute their gated blocks
  conditionally, example by example, whatever the batch. Rows of tables are compacted into buckets
  where there are many; a few are masked, because their blocks cost less than asking (measured:
  docs/benchmarks). On an accelerator: conditional execution at batch 1, buckets from 8 examples on
  and masked between, which is a guess: nothing was measured there yet, so tune.

  Args:
    batch: examples per call, at least 1.
    platform: `cpu`, `gpu`, `cuda`, `tpu`.
    tuned: what `tune` found on a device of this platform.
    input_kind: of the data set, see `types.DatasetSpec`.

  Returns:
    The compaction, or None for computing and masking.

  Raises:
    ValueError: `batch` is below 1.
  """
  if batch < 1:
    raise ValueError(f"The batch size is {batch}; it must be at least 1.")
  if tuned and tuned["platform"] == platform and tuned["choices"]:
    sizes = sorted(int(size) for size in tuned["choices"])
    nearest = min(sizes, key=lambda size: (abs(size - batch), size))
    # One row has no buckets, and a choice for it means nothing for more.
    if (nearest == 1) == (batch == 1):
      return WAYS[tuned["choices"][str(nearest)]]
  if platform == "cpu" and input_kind == "table":
    return WAYS["buckets"] if batch >= _MANY_ROWS else None
  if batch == 1 or platform == "cpu":
    return WAYS["rows"]
  return WAYS["buckets"] if batch >= 8 else None


def of(trained: trained_lib.Trained, batch: int, platform: str) -> Compaction | None:
  """Chooses the way for a trained model, by what its folder says was tuned."""
  return choose(batch, platform, load(trained.workdir), trained.experiment.dataset.spec.input_kind)


def tune(
  trained: trained_lib.Trained, batches: Mapping[int, Any], repeats: int = 7
) -> dict[str, Any]:
  """Times every way on this device, in alternation, and keeps the quickest.

  Args:
    trained: a model with gates.
    batches: for every batch size, that many examples' inputs. Take real ones:
      the gates' decisions make the times.
    repeats: rounds.

  Returns:
    `platform`, `device`, `choices` (batch size -> name of the way) and
    `seconds` (batch size -> name -> median seconds of a call).

  Raises:
    ValueError: the model has no gates.
  """
  if not any(trained.gated):
    raise ValueError("This model has no instance gates: there is nothing to choose.")
  choices: dict[str, str] = {}
  seconds: dict[str, dict[str, float]] = {}
  for size, inputs in sorted(batches.items()):
    ways = {name: way for name, way in WAYS.items() if not (size == 1 and name == "buckets")}
    placed = jax.device_put((trained.variables, inputs))
    calls = {}
    for name, way in ways.items():
      run = trained.forward(trained_lib.Execution(compaction=way))
      calls[name] = functools.partial(jax.jit(run).lower(*placed).compile(), *placed)
      jax.block_until_ready(calls[name]())
    times = {name: timing.median for name, timing in clock.alternate(calls, repeats).items()}
    seconds[str(size)] = times
    choices[str(size)] = min(times, key=times.__getitem__)
  device = jax.devices()[0]
  about = {"platform": device.platform, "device": device.device_kind}
  return about | {"choices": choices, "seconds": seconds}


def save(tuned: Mapping[str, Any], workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes what `tune` found beside the checkpoint; returns the file."""
  file = pathlib.Path(workdir) / FILE
  workdir_lib.write_json(file, dict(tuned))
  return file


def load(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """Reads what `tune` found for this run, or returns None.

  Raises:
    ValueError: the file cannot be read.
  """
  file = pathlib.Path(workdir) / FILE
  if not file.is_file():
    return None
  try:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    known = all(way in WAYS for way in found["choices"].values())
    if not known or not isinstance(found["platform"], str):
      raise KeyError("choices")
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise ValueError(
      f"{file} is not what a tuning writes ({error}); delete it and tune again."
    ) from error
  return found
