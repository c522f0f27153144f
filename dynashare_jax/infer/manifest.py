"""The part of `manifest.json` that describes an exported model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from dynashare_jax import types

Json = dict[str, Any]


def results(workdir: pathlib.Path) -> Json:
  """Returns task -> its metrics as `results.json` of a finished run names them."""
  text = (workdir / "results.json").read_text(encoding="utf-8")
  return {task["name"]: task["metrics"] for task in json.loads(text)["tasks"]}


def data(workdir: pathlib.Path) -> Json | None:
  """Returns which data a run was trained on, as its `results.json` says; None of an older run."""
  found = json.loads((workdir / "results.json").read_text(encoding="utf-8")).get("data")
  return None if found is None else dict(found)


def inputs(spec: types.DatasetSpec, arrays: Mapping[str, Any]) -> Json:
  """Describes the inputs: names, shapes of one example and dtypes.

  Args:
    arrays: name -> what has the shape `(batch, ...)` and the dtype that the network reads.

  Returns:
    `kind`, `unit`, `arrays`: name -> `shape`, `dtypes` (the network's first); of a table also
    `codes` and `numbers`: array -> its columns. A column of codes has the `values` that the codes
    1, 2, ... stand for, if it knows them. `table` has all that `data.columns.Encoder` needs to
    encode raw rows, and `series` all that `data.series.encoding.Encoder` needs, where the data set
    reads such.
  """
  image = spec.input_kind == "image"
  found: Json = {
    "kind": spec.input_kind,
    "unit": "uint8 in 0..255, or float32 in 0..1" if image else "",
    "arrays": {
      name: {"shape": list(array.shape[1:]), "dtypes": [array.dtype.name] + ["uint8"] * image}
      for name, array in arrays.items()
    },
  }
  if spec.table is not None:
    values = spec.table.values or ((),) * len(spec.table.categorical)
    found["codes"] = {
      "categorical": [
        {"name": name, "codes": count, "values": list(known)}
        for name, count, known in zip(
          spec.table.categorical, spec.table.cardinalities, values, strict=True
        )
      ]
    }
    found["numbers"] = {"numeric": list(spec.table.numeric)}
    if spec.table.columns:
      found["table"] = dataclasses.asdict(spec.table)
  if spec.series is not None:
    found["series"] = dataclasses.asdict(spec.series)
  return found


def task(
  spec: types.TaskSpec, output: Any, results: Mapping[str, Any], budget: Mapping[str, Any] | None
) -> Json:
  """Describes a task's output, and how well it did on validation and test.

  Args:
    output: what has the shape and dtype of its prediction.
    results: see the function `results`.
    budget: the setting that is exported, whose own measurements count; None
      is the model as trained.
  """
  names = ("name", "unit", "higher_is_better", "validation", "test")
  metrics = [{n: m.get(n) for n in names} for m in results.get(spec.name, ())]
  if budget is not None:
    for split in ("validation", "test"):
      measured = (budget.get(split) or {}).get("metrics") or {}
      for metric in metrics:
        metric[split] = measured.get(spec.name, {}).get(metric["name"])
  batch, *rest = output.shape
  return {
    "name": spec.name,
    "kind": spec.kind,
    "classes": list(spec.classes),
    "unit": spec.unit,
    "shape": [str(batch), *rest],
    "dtype": output.dtype.name,
    "metrics": metrics,
  }
