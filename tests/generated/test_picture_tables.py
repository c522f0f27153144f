"""Labels of whole pictures in tables: each picture has those of its row, or none."""

from __future__ import annotations

import pathlib
import tempfile

from generated import cases
import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
import yaml

from dynashare_jax.data.folder import dataset as folder

CONFIG = ml_collections.ConfigDict({**folder.defaults(), "augment": False})
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
PICTURES = [f"{place}/p{i}" for i in range(4) for place in ("north", "süd")]
SPLITS = {"train": PICTURES[:4], "validation": PICTURES[4:6], "test": PICTURES[6:]}
PAIRS = (("0", "1"), ("-1", "1"), ("no", "yes"), ("False", "True"), ("n", "y"), ("f", "t"))
CLASSES = ("cat", "dog, wet", "Ünal")


def _quoted(cell, delimiter):
  special = delimiter in cell or '"' in cell
  return '"' + cell.replace('"', '""') + '"' if special else cell


@st.composite
def tables(draw):
  """A table's text, the tasks, and of every picture what it says of each: None is no label."""
  rows = {name: {} for name in PICTURES}
  pair, other = draw(st.sampled_from(PAIRS)), draw(st.sampled_from(PAIRS))
  tasks = {
    "yes": {"kind": "binary", "column": "is it"},
    "animal": {"kind": "multiclass", "classes": list(CLASSES), "ignore": ["NA"]},
    "age": {"kind": "number", "range": [0, 90], "ignore": [13]},
    "both": {"kind": "multilabel", "columns": ["is it", "hat"]},
  }
  lines, wanted = [], {}
  for name in draw(st.permutations(PICTURES)):
    answer, hat = draw(st.sampled_from((0, 1, 0, 1, None))), draw(st.sampled_from((0, 1, None)))
    animal = draw(st.sampled_from((*CLASSES, "NA", "")))
    age = draw(st.sampled_from(("", "13", "13.0", "0", "90.5", "-1", "1e1", "31.25", " 7 ", "+4")))
    if name in (PICTURES[0], PICTURES[6]):  # train and test need a label of each
      answer, hat, animal, age = 1, 0, CLASSES[1], "31.25"
    if name == PICTURES[1]:
      answer, animal, age = 0, CLASSES[0], "4"
    value = float(age) if age else None
    wanted[name] = {
      "yes": answer,
      "animal": CLASSES.index(animal) if animal in CLASSES else None,
      "age": value if value is not None and 0 <= value <= 90 and value != 13 else None,
      "both": [answer, hat],
    }
    rows[name] = ["" if answer is None else pair[answer], animal, age]
    rows[name].append("" if hat is None else other[hat])
    if name not in (*PICTURES[:2], PICTURES[6]) and draw(st.integers(0, 5)) == 0:
      wanted[name] = {"yes": None, "animal": None, "age": None, "both": [None, None]}
      continue
    spelt = draw(
      st.sampled_from((name, f"{name}.npy", f"images/{name}.npy", f"{name}.jpg", f"./{name}"))
    )
    lines.append([spelt, *rows[name]])
  lines = [["file", "is it", "animal", "age", "hat"], *lines]
  if draw(st.booleans()):
    places = draw(st.permutations(range(1, 5)))
    lines = [[line[0], *(line[place] for place in places)] for line in lines]
  delimiter = draw(st.sampled_from(",;\t|"))
  end = draw(st.sampled_from(("\n", "\r\n", "\r")))
  text = end.join(delimiter.join(_quoted(cell, delimiter) for cell in line) for line in lines)
  return text, tasks, wanted, draw(st.sampled_from(("utf-8", "utf-8-sig")))


def _build(text, tasks, encoding):
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    for name in PICTURES:
      path = root / "images" / f"{name}.npy"
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, np.zeros((1, 1, 3), np.uint8))
    (root / "labels.csv").write_bytes(text.encode(encoding))
    description = {"pictures": "images", "table": "labels.csv", "tasks": tasks, "splits": SPLITS}
    (root / "dataset.yaml").write_text(yaml.safe_dump(description, allow_unicode=True))

    def read():
      found = folder.build(CONFIG, SWITCHES, str(root), 0)
      return found, {split: found.arrays(split) for split in SPLITS}

    return cases.attempt(read, f"{root}/")


@hypothesis.given(tables())
@cases.some(0.04)
def test_a_picture_has_the_labels_of_its_row(case):
  text, tasks, wanted, encoding = case
  found, refusal = _build(text, tasks, encoding)
  assert not refusal, refusal
  for split in SPLITS:
    names = found[0].source(split).keys
    assert set(names) == set(SPLITS[split])
    for task in tasks:
      meant = [wanted[name][task] for name in names]
      valid = [[v is not None for v in m] if isinstance(m, list) else m is not None for m in meant]
      values = [[v or 0 for v in m] if isinstance(m, list) else m or 0 for m in meant]
      batch = found[1][split]
      assert batch.valid[task].tolist() == valid, task
      np.testing.assert_array_equal(np.where(valid, batch.targets[task], 0), np.float32(values))


@st.composite
def faults(draw):
  """A table with a fault, and which."""
  text, tasks, _, encoding = draw(tables())
  lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
  at = draw(st.integers(1, len(lines) - 1))
  mark = next(m for m in ",;\t|" if m in lines[0])
  kind = draw(st.sampled_from(("short", "long", "twice", "quote")))
  if kind == "short":
    lines[at] = lines[at].split(mark)[0] + mark
  elif kind == "long":
    lines[at] += mark
  elif kind == "twice":
    lines.append(lines[at])
  else:
    lines[at] = '"' + lines[at]
  return "\n".join(lines), tasks, encoding, kind


@hypothesis.given(faults())
@cases.some(0.02)
def test_a_fault_in_a_table_of_labels_is_refused(case):
  text, tasks, encoding, kind = case
  _, refusal = _build(text, tasks, encoding)
  assert "labels.csv" in refusal, kind
