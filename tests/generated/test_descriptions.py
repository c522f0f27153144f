"""YAML files with a fault: refused with the key, or read as they say."""

from __future__ import annotations

import copy
import math
import pathlib
import tempfile

from generated import cases
import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
import yaml

from dynashare_jax.cli import data_check
from dynashare_jax.data.folder import description as folder
from dynashare_jax.data.series import dataset as series_data
from dynashare_jax.data.series import description as series
from dynashare_jax.data.table import dataset as table_data
from dynashare_jax.data.table import description as table

TABLE = {
  "name": "people",
  "table": "people.csv",
  "tasks": {
    "churn": {"kind": "binary", "weight": 2, "positive": "yes"},
    "grade": {"column": "Note", "kind": "multiclass", "class_weights": "balanced"},
    "sizes": {"columns": ["a", "b"], "kind": "number", "unit": "cm", "loss": "huber"},
  },
  "splits": {"train": 0.7, "test": 0.2, "seed": 3, "group": "family"},
  "columns": {"age": "number", "born": {"date": "%d.%m.%Y"}, "zip": "category"},
  "inputs": ["age", "born", "zip"],
  "delimiter": ";",
  "decimal": ",",
  "missing": [-999, "unknown"],
  "bins": 8,
  "most_categories": 20,
}
SERIES = {
  "series": "rows.csv",
  "id": "patient",
  "time": "when",
  "labels": "labels.csv",
  "static": ["age"],
  "bin": "30min",
  "keep": "mean",
  "fill": "none",
  "observed": False,
  "steps": 12,
  "cut": "first",
  "tasks": {"died": {}},
  "columns": {"pulse": "number"},
}
FOLDER = {
  "name": "streets",
  "root": "data",
  "pictures": "{town}/{frame}.jpg",
  "tasks": {
    "classes": {
      "kind": "segmentation",
      "labels": "ids/{frame}.png",
      "classes": ["road", "car", "sky"],
      "map": {7: "road", 8: 1},
      "unmapped": "ignore",
      "ignore": [255, 0],
    },
    "depth": {
      "kind": "depth",
      "labels": "depth/{frame}.png",
      "channels": [1, 256, 65536],
      "scale": 0.001,
      "offset": 0.5,
      "range": [0, 80],
      "weight": 2,
    },
    "way": {"kind": "normals", "labels": "way/{frame}.png", "axes": "+0 -2 +1"},
  },
  "splits": {"train": 0.6, "validation": ["a/*"], "test": "b/*", "seed": 1, "overlap": True},
}
PARSERS = {
  "table": (TABLE, table.parse, table.KEYS),
  "series": (SERIES, series.parse, series.KEYS),
  "folder": (FOLDER, lambda raw, where: folder.parse(raw, where, "here"), folder._TOP),
}
VALUES = (
  *(None, True, False, 0, 1, -1, 2, 0.5, 1.5, -0.25, 1e308, math.inf, -math.inf, math.nan),
  *("", "x", "0.5", "1e3", "nan", "inf", "yes", "1_0", " ", "a\nb", "é", "number", "train"),
  *([], [1], ["x", "x"], [None], [[1]], {}, {"x": 1}, {1: 2}, [0.5, "x"], [math.nan, 1], 10**400),
)


def _places(value, path=()):
  """The paths of all keys of a mapping, at every depth."""
  if isinstance(value, dict):
    for key, inner in value.items():
      yield (*path, key)
      yield from _places(inner, (*path, key))


def _at(raw, path):
  for key in path:
    raw = raw[key]
  return raw


@st.composite
def mutated(draw, kinds=("table", "series", "folder")):
  """A kind of file, what it says, and the path of the key that was changed, as it is now."""
  kind = draw(st.sampled_from(kinds))
  raw = copy.deepcopy(PARSERS[kind][0])
  path = draw(st.sampled_from(list(_places(raw))))
  parent, key = _at(raw, path[:-1]), path[-1]
  how = draw(st.sampled_from(("drop", "misspell", "value", "value", "value", "number")))
  if how == "drop":
    del parent[key]
  elif how == "misspell":
    at = draw(st.integers(0, len(str(key))))
    other = str(key)[:at] + draw(st.sampled_from(("x", "", " "))) + str(key)[at + 1 :]
    hypothesis.assume(other not in parent)
    value = parent.pop(key)
    parent[other] = value
    path = (*path[:-1], other)
  elif how == "value":
    parent[key] = draw(st.sampled_from(VALUES))
  else:
    numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False))
    parent[key] = draw(numbers)
  return kind, raw, path


def _number(value):
  """A number as the file says it; None where it is none."""
  if isinstance(value, bool) or not isinstance(value, int | float | str):
    return None
  try:
    return float(value)
  except (ValueError, OverflowError):
    return None


def _listed(value):
  return list(value) if isinstance(value, list) else [value]


def _whole(value):
  return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else repr(value)


def _texts(value):
  """Texts of a list, whole numbers without a point."""
  told = {True: "true", False: "false"}
  return [
    told[v] if isinstance(v, bool) else str(v).strip() if isinstance(v, str | int) else _whole(v)
    for v in _listed(value)
  ]


def _check_splits(raw, found):
  splits = raw.get("splits") or {}
  for key in ("group", "time", "column"):
    assert getattr(found, key) == splits.get(key, "")
  assert found.seed == _number(splits.get("seed", 0))
  shares = {s: _number(splits[s]) for s in ("train", "validation", "test") if s in splits}
  for split, share in shares.items():
    assert math.isclose(found.shares[split], share) and 0 < share < 1
  if not splits.get("column"):
    assert math.isclose(sum(found.shares.values()), 1)


def _check_table(raw, found):
  """Compares a description of a table with what the file says, key by key."""
  assert found.name == raw.get("name", "")
  assert found.tables == {"": raw["table"]} or found.tables == raw["table"]
  tasks = raw["tasks"] if isinstance(raw["tasks"], dict) else {n: {} for n in raw["tasks"]}
  assert [task.name for task in found.tasks] == list(tasks)
  for task, said in zip(found.tasks, tasks.values(), strict=True):
    said = said or {}
    columns = said.get("columns", [])
    assert list(task.columns) == _texts(said.get("column", task.name) if columns == [] else columns)
    assert task.spec.weight == _number(said.get("weight", 1)) >= 0
    assert task.spec.kind == said.get("kind", "")
  _check_splits(raw, found.splits)
  for name, role in (raw.get("columns") or {}).items():
    one = found.roles[str(name)]
    if isinstance(role, dict):
      assert one.kind == "date" and one.date == role["date"]
    else:
      assert one.kind == {"ignore": "ignored"}.get(role, role)
  assert list(found.inputs) == _texts(raw.get("inputs", []))
  assert list(found.missing) == _texts(raw.get("missing", []))
  assert found.layout.delimiter == {"tab": "\t"}.get(
    raw.get("delimiter", ""), raw.get("delimiter", "")
  )
  assert found.decimal == raw.get("decimal", "")
  assert found.bins == _number(raw.get("bins", 16)) >= 1
  assert found.most_categories == _number(raw.get("most_categories", found.most_categories)) >= 1


def _check_series(raw, found):
  """Compares a description of series."""
  assert found.rows.tables == {"": raw["series"]}
  assert (found.id, found.time) == (raw.get("id", "id"), raw.get("time", "time"))
  assert found.labels == raw.get("labels", "")
  assert list(found.static) == _texts(raw.get("static", []))
  units = {"s": 1 / 86400, "min": 1 / 1440, "h": 1 / 24, "d": 1, "w": 7}
  said = raw.get("bin", 0)
  unit = next((u for u in units if isinstance(said, str) and said.endswith(u)), "")
  assert found.bin == _number(said.removesuffix(unit) if unit else said) * units.get(unit, 1)
  assert found.dated == bool(unit)
  assert found.keep == raw.get("keep", "last")
  assert found.fill == (raw.get("fill", "forward") == "forward")
  assert found.observed is raw.get("observed", True)
  assert found.steps == _number(raw.get("steps", 0))
  assert found.cut == raw.get("cut", "last")


def _check_folder(raw, found):
  """Compares a description of pictures."""
  assert found.name == raw.get("name", "")
  assert pathlib.Path(found.root) == pathlib.Path("here") / raw.get("root", ".")
  assert found.pictures == raw["pictures"]
  assert [task.name for task in found.tasks] == list(raw["tasks"])
  for task, said in zip(found.tasks, raw["tasks"].values(), strict=True):
    assert (task.spec.kind, task.labels) == (said["kind"], said["labels"])
    assert task.spec.weight == _number(said.get("weight", 1)) >= 0
    assert list(task.ignore) == [_number(v) for v in _listed(said.get("ignore", []))]
    assert list(task.channels) == [_number(v) for v in _listed(said.get("channels", []))]
    for key in ("scale", "offset"):
      assert getattr(task, key) == (_number(said[key]) if key in said else None)
    limits = said.get("range", [-math.inf, math.inf])
    assert list(task.limits) == [_number(v) for v in limits]
    assert task.axes == said.get("axes", "+0 +1 +2")
    assert task.unmapped == said.get("unmapped", "error")
    if said["kind"] == "segmentation":
      classes = said["classes"]
      names = classes if isinstance(classes, list) else []
      assert task.spec.outputs == (classes if isinstance(classes, int) else len(classes))
      assert list(task.spec.classes) == names
      if "map" in said:
        wanted = {_number(k): names.index(v) if v in names else v for k, v in said["map"].items()}
        assert dict(task.ids) == wanted
      else:
        assert task.ids is None
  splits = raw["splits"]
  assert found.seed == _number(splits.get("seed", 0))
  assert found.overlap is splits.get("overlap", False)
  for split in ("train", "validation", "test"):
    said = splits.get(split)
    assert found.splits.get(split) == (tuple(said) if isinstance(said, list) else said) or (
      found.splits[split] == _number(said)
    )


CHECKS = {"table": _check_table, "series": _check_series, "folder": _check_folder}


def _read(kind, text):
  """The description in a text, or why there is none."""
  _, parse, keys = PARSERS[kind]
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / "dataset.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    where = str(path)
    return cases.attempt(lambda: parse(folder.described.read(where, keys, ""), where), where)


def _changed(kind, path, value):
  """A case of `mutated`."""
  raw = copy.deepcopy(PARSERS[kind][0])
  _at(raw, path[:-1])[path[-1]] = value
  return kind, raw, path


@hypothesis.example(_changed("table", ("splits", "seed"), 0.5))
@hypothesis.example(_changed("folder", ("splits", "seed"), 2.5))
@hypothesis.example(_changed("folder", ("tasks", "classes", "map"), {1.5: "car"}))
@hypothesis.example(_changed("folder", ("tasks", "classes", "map"), {True: "car"}))
@hypothesis.example(_changed("table", ("inputs",), 2**53 + 1))
@hypothesis.example(_changed("series", ("steps",), 10**12))
@hypothesis.given(mutated())
@cases.some(0.07)
def test_a_changed_description_is_refused_or_read_as_it_says(case):
  kind, raw, path = case
  found, refusal = _read(kind, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
  if refusal:
    assert str(path[0]) in refusal, refusal
    return
  CHECKS[kind](raw, found)


@st.composite
def mangled(draw):
  """The text of a description with other letters, a key twice, anchors or much depth."""
  kind = draw(st.sampled_from(list(PARSERS)))
  text = yaml.safe_dump(PARSERS[kind][0], sort_keys=False)
  how = draw(st.sampled_from(("letters", "letters", "twice", "anchor", "deep", "bytes", "cut")))
  lines = text.splitlines()
  at = draw(st.integers(0, len(lines) - 1))
  if how == "letters":
    for _ in range(draw(st.integers(1, 3))):
      place = draw(st.integers(0, len(text)))
      new = draw(
        st.sampled_from(
          list(":-{}[]&*!|>'\"%@`#,?\t\n \0\x07é\u2028\ufeff") + ["", "<<: *x", "---\n"]
        )
      )
      text = text[:place] + new + text[place + draw(st.integers(0, 2)) :]
  elif how == "twice":
    text = "\n".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])
  elif how == "anchor":
    text = text.replace(": ", ": &x ", 1) + draw(st.sampled_from(("more: *x", "<<: *x", "z: *y")))
  elif how == "deep":
    text += "more: " + draw(st.sampled_from(("[", "{a: "))) * draw(st.sampled_from((3, 20000)))
  elif how == "bytes":
    return kind, text.encode().replace(
      b"a", draw(st.sampled_from((b"\xe9", b"\xff\xfe", b"\0"))), 1
    )
  else:
    text = text[: draw(st.integers(0, len(text)))]
  return kind, text


# Of which each is ten of the one before: a billion texts.
LAUGHS = ", ".join(f"&l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10))


@hypothesis.example(
  ("folder", f"tasks: [&l0 x, {LAUGHS}]\npictures: a\nsplits: {{train: 0.5, test: 0.5}}")
)
@hypothesis.example(("folder", "pictures: &a [*a, *a]"))
@hypothesis.example(("table", "tasks: {t: &a {column: *a}}\ntable: t.csv"))
@hypothesis.example(("series", "series: &a {id: *a}"))
@hypothesis.given(mangled())
@cases.some(0.04)
def test_a_mangled_text_is_refused_or_read_as_yaml_has_it(case):
  kind, text = case
  found, refusal = _read(kind, text)
  if refusal:
    return
  raw = yaml.load(text, yaml.BaseLoader)
  assert isinstance(raw, dict)
  CHECKS[kind](yaml.safe_load(text), found)


def _people():
  """A table that fits `TABLE`, with all that a changed description may ask for."""
  rng = np.random.default_rng(0)
  lines = [["age", "born", "zip", "family", "churn", "Note", "a", "b", "part", "x"]]
  for row in range(40):
    numbers = [f"{v:.2f}".replace(".", ",") for v in rng.normal(170, 9, 3)]
    born = f"{1 + row % 28:02d}.{1 + row % 12:02d}.{1950 + row}"
    choices = ("yes", "no")[row % 2], "123"[row % 3], ("train", "test", "val")[row % 3]
    churn, grade, part = choices
    lines.append([numbers[0], born, f"0{row % 7}", f"f{row % 13}", churn, grade])
    lines[-1] += [*numbers[1:], part, str(row % 2)]
  return "\n".join(";".join(line) for line in lines)


def _visits():
  """Rows of series and labels that fit `SERIES`."""
  rows = ["patient,when,pulse,died"]
  for row in range(60):
    rows.append(f"p{row % 12},2020-01-{1 + row // 12:02d} {row % 24:02d}:00,{60 + row},{row % 2}")
  labels = ["patient,age,died,x"] + [f"p{i},{20 + i},{i % 2},{i}" for i in range(12)]
  return "\n".join(rows), "\n".join(labels)


def _built(kind, raw):
  """The data set of a description beside data that fit what it was."""
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    (root / "people.csv").write_text(_people())
    rows, labels = _visits()
    (root / "rows.csv").write_text(rows)
    (root / "labels.csv").write_text(labels)
    (root / "dataset.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    data = {"table": table_data, "series": series_data}[kind]
    config = ml_collections.ConfigDict(data.defaults())
    return cases.attempt(
      lambda: data.build(config, ml_collections.ConfigDict(), str(root), 0), f"{root}/", "olumn"
    )


@hypothesis.example(_changed("table", ("columns", "born"), {"date": "a\nb"}))
@hypothesis.example(_changed("table", ("table",), "a\nb"))
@hypothesis.example(_changed("series", ("bin",), "0.0000000000000000001s"))
@hypothesis.given(mutated(("table", "series")))
@cases.some(0.05)
def test_a_changed_description_beside_its_data_is_refused_or_trained_on(case):
  kind, raw, _ = case
  found, refusal = _built(kind, raw)
  if refusal:
    return
  looked = data_check.check(found)
  assert not looked.broken
  for split in looked.splits.values():
    for name, told in split.tasks.items():
      assert told.known == found.arrays(split.name).valid[name].sum()
  tasks = raw["tasks"] if isinstance(raw["tasks"], dict) else {name: {} for name in raw["tasks"]}
  assert [task.name for task in found.spec.tasks] == list(tasks)
  for split in ("train", "validation", "test"):
    batch = found.arrays(split)
    for task in found.spec.tasks:
      target, valid = batch.targets[task.name], batch.valid[task.name]
      assert valid.any() and np.isfinite(target[valid]).all()
      if task.kind == "multiclass":
        assert 0 <= target[valid].min() <= target[valid].max() < len(task.classes)
    for values in batch.inputs.values():
      assert np.isfinite(values).all() and len(values) == len(batch.present)
  if kind == "series" and raw.get("steps"):
    assert found.spec.input_shape[0] == _number(raw["steps"])
