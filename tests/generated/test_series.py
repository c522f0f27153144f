"""Series in long tables of any order: every step as a slow reading has it, or refused."""

from __future__ import annotations

import csv
import datetime
import io
import math
import pathlib
import tempfile

from generated import cases
import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
import yaml

from dynashare_jax.data.series import dataset as series

SPLITS = ("train", "validation", "test")
START = datetime.datetime(2020, 2, 27)


@st.composite
def series_tables(draw):
  """Rows of series, their labels, and the keys of a description."""
  count = draw(st.integers(6, 9))
  names = [f"p{i}" for i in range(count)]
  dated = draw(st.booleans())
  rows = []
  for name in names:
    for _ in range(draw(st.integers(1, 5))):
      time = draw(st.integers(0, 12)) * 0.5
      pulse = draw(st.one_of(st.none(), st.integers(40, 180), st.sampled_from((36.6, 90.25))))
      ward = draw(st.sampled_from(("A", "B", "", "C")))
      rows.append((name, time, pulse, ward))
  strays = draw(st.integers(0, 2))
  rows += [("stray", 1.0, 60, "A")] * strays
  rows = draw(st.permutations(rows))
  labels = [(name, i % 2, SPLITS[i % 3], draw(st.integers(1, 90))) for i, name in enumerate(names)]
  labels += [("lonely", 1, "train", 5)] * draw(st.integers(0, 1))
  keys = {"keep": draw(st.sampled_from(("last", "mean")))}
  keys["fill"] = draw(st.sampled_from(("forward", "none")))
  keys["observed"] = draw(st.booleans())
  keys["cut"] = draw(st.sampled_from(("last", "first")))
  if draw(st.booleans()):
    keys["steps"] = draw(st.integers(1, 4))
  if draw(st.booleans()):
    keys["bin"] = draw(st.sampled_from(("1h", "90min") if dated else (1, 1.5)))
  if draw(st.booleans()):
    keys["static"] = ["age"]
  return rows, draw(st.permutations(labels)), keys, dated


def _text(lines):
  out = io.StringIO()
  csv.writer(out).writerows(lines)
  return out.getvalue()


def _build(rows, labels, keys, dated):
  when = lambda time: (
    (START + datetime.timedelta(hours=time)).isoformat(" ") if dated and time is not None else time
  )
  lines = [(name, when(t), "" if p is None else p, w) for name, t, p, w in rows]
  description = {"series": "rows.csv", "id": "id", "time": "when", "labels": "labels.csv"}
  description |= {"tasks": {"died": {}}, "splits": {"column": "part"}, **keys}
  description["columns"] = {"pulse": "number", "ward": "category"}
  if "static" in keys:
    description["columns"]["age"] = "number"
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    (root / "rows.csv").write_text(_text([("id", "when", "pulse", "ward"), *lines]))
    (root / "labels.csv").write_text(_text([("id", "died", "part", "age"), *labels]))
    (root / "dataset.yaml").write_text(yaml.safe_dump(description))
    config = ml_collections.ConfigDict(series.defaults())
    return cases.attempt(
      lambda: series.build(config, ml_collections.ConfigDict(), str(root), 0), f"{root}/"
    )


def _steps(mine, keys, dated, most):
  """The steps of one series: of each a list of its rows, in order of time."""
  mine = sorted(mine, key=lambda row: row[1])  # equal times stay in the order of the file
  width = {"1h": 1, "90min": 1.5, 1: 1, 1.5: 1.5}.get(keys.get("bin"))
  if width is None:
    steps = [[row] for row in mine]
  else:
    first = mine[0][1]
    places = [math.floor((row[1] - first) / width) for row in mine]
    steps = [
      [row for row, at in zip(mine, places, strict=True) if at == step]
      for step in range(places[-1] + 1)
    ]
  return steps[-most:] if keys["cut"] == "last" else steps[:most]


def _moments(values):
  values = [value for value in values if value is not None]
  mean = sum(values) / len(values)
  spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
  return mean, spread if spread > 1e-6 else 1.0


@hypothesis.given(series_tables())
@cases.some(0.07)
def test_series_are_the_steps_of_a_slow_reading(case):
  rows, labels, keys, dated = case
  found, refusal = _build(*case)
  of = {name: [row for row in rows if row[0] == name] for name, *_ in labels}
  own = [label for label in labels if of[label[0]]]
  train = [row for name, _, part, _ in own if part == "train" for row in of[name]]
  pulses = [row[2] for row in train]
  if not any(p is not None for p in pulses):
    hypothesis.reject()
  assert not refusal, refusal
  mean, spread = _moments(pulses)
  wards = sorted({row[3] for row in train})
  most = keys.get("steps") or max(len(_steps(of[name], keys, dated, 10**9)) for name, *_ in own)
  age = _moments([label[3] for label in own if label[2] == "train"])
  for split in SPLITS:
    batch = found.arrays(split)
    part = [label for label in own if label[2] == split]
    assert batch.targets["died"].tolist() == [label[1] for label in part]
    for place, (name, _, _, years) in enumerate(part):
      steps = _steps(of[name], keys, dated, most)
      assert batch.inputs["length"][place] == len(steps)
      values = batch.inputs["series"][place]
      assert not values[len(steps) :].any()
      before = {"pulse": None, "ward": None}
      for step, here in enumerate(steps):
        pulse = [row[2] for row in here if row[2] is not None]
        ward = [row[3] for row in here if row[3] or "" in wards]
        told = bool(pulse)
        value = (pulse[-1] if keys["keep"] == "last" else sum(pulse) / len(pulse)) if told else None
        name_ = ward[-1] if ward else None
        if keys["fill"] == "forward":
          value = before["pulse"] if value is None else value
          name_ = before["ward"] if name_ is None else name_
          before = {"pulse": value, "ward": name_}
        wanted = [0.0 if value is None else (value - mean) / spread]
        wanted += [float(told)] * keys["observed"]
        wanted += [float(name_ == other) for other in wards]
        wanted += [(years - age[0]) / age[1]] * ("static" in keys)
        np.testing.assert_allclose(values[step], wanted, atol=2e-5)


@hypothesis.given(series_tables(), st.sampled_from(("id", "time", "word", "number", "twice")))
@cases.some(0.02)
def test_a_fault_in_a_series_is_refused(case, fault):
  rows, labels, keys, dated = case
  rows, labels = list(rows), list(labels)
  at = len(rows) // 2
  name, time, _, ward = rows[at]
  if fault == "twice":
    labels.append(labels[0])
  else:
    other = {"id": ("", time, 1, ward), "time": (name, None, 1, ward)}
    other["word"] = (name, time, "many", ward)
    other["number"] = (name, time, "inf", ward)
    rows[at] = other[fault]
  _, refusal = _build(rows, labels, keys, dated)
  column = {"id": "id", "time": "when", "twice": "id"}.get(fault, "pulse")
  assert f"column {column!r}" in refusal or (fault == "number" and "p" in refusal), refusal
