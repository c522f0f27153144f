"""Bad files: all named together, nothing left behind, no value shown."""

from __future__ import annotations

import pathlib
import re

from data.mimic3 import writer as mimic3_writer
from ml_collections import ConfigDict
import pytest

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import dataset as mimic3
from dynashare_jax.data.mimic3 import listfile as mimic3_listfile
from dynashare_jax.data.mimic3 import problems as mimic3_problems

FIRST = "train/100_episode1_timeseries.csv"
# Longer numbers than any that a message may have for another reason.
VALUE = re.compile(r"\d+\.\d{3,}")


@pytest.fixture
def folder(tmp_path):
  return mimic3_writer.few(tmp_path / "data")


def _build(folder, **values):
  config = ConfigDict({**mimic3.defaults(), "workers": 1, **values})
  return mimic3.build(config, ConfigDict(mimic3.compat()), str(folder), 0)


def _told(folder):
  """The problems, a line each, without the heading."""
  with pytest.raises(ValueError) as error:
    _build(folder)
  assert error.value.__cause__ is None and error.value.__context__ is None
  head, *lines = str(error.value).split("\n")
  assert re.fullmatch(
    rf"The MIMIC-III files in {folder} have \d+ problems?;"
    r" nothing was converted\.",
    head,
  )
  assert not VALUE.search(str(error.value).replace(str(folder), ""))
  return [line.removeprefix("  ") for line in lines]


def _edit(path: pathlib.Path, line: int, change):
  """Changes a line, counted from 1."""
  lines = path.read_text().split("\n")
  lines[line - 1] = change(lines[line - 1])
  path.write_text("\n".join(lines))


def _set(path, line, column, text):
  def change(row):
    cells = row.split(",")
    cells[column] = text
    return ",".join(cells)

  _edit(path, line, change)


def _column(name):
  return columns.HEADER.index(name)


@pytest.mark.parametrize(
  "column, text, what",
  [
    ("Heart Rate", "8o.51234", "expected a number"),
    ("Heart Rate", "nan", "expected a number"),
    ("pH", "inf", "expected a number"),
    ("Hours", "", "expected a number"),
    ("Hours", "0.51234x", "expected a number"),
    (
      "Glascow coma scale total",
      "16.51234",
      "expected one of the 13 values that the benchmark knows, exactly as it writes them",
    ),
    (
      "Capillary refill rate",
      "1",
      "expected one of the 2 values that the benchmark knows, exactly as it writes them",
    ),
  ],
)
def test_a_cell_that_is_wrong(folder, column, text, what):
  _set(folder / FIRST, 2, _column(column), text)
  assert _told(folder) == [f"{FIRST}, line 2, column '{column}': {what}"]


def test_rows_and_files_that_are_cut_off(folder):
  path = folder / FIRST
  whole = path.read_text()
  _edit(path, 3, lambda row: row.rsplit(",", 2)[0])
  assert _told(folder) == [f"{FIRST}, line 3: expected 18 columns; the line may be cut off"]
  path.write_text(whole.rstrip("\n"))
  last = whole.count("\n")
  assert _told(folder) == [f"{FIRST}, line {last}: the line does not end: the file is cut off"]
  path.write_text(whole + "\n")
  assert _told(folder) == [
    f"{FIRST}, line {last + 1}: expected 18 columns; the line may be cut off"
  ]


def test_hours_that_run_backwards_or_before_the_admission(folder):
  path = folder / FIRST
  _set(path, 2, 0, "4.51234")
  _set(path, 3, 0, "4.512341")
  _set(path, 4, 0, "4.51234")  # by 1e-6: too much
  assert _told(folder)[0] == (
    f"{FIRST}, line 4, column 'Hours': the hours run backwards: expected no"
    " less than in the line above"
  )
  mimic3_writer.few(folder)
  _set(path, 2, 0, "-0.51234")
  assert _told(folder) == [
    f"{FIRST}, line 2, column 'Hours': expected hours from the admission on, 0 or more"
  ]


def test_less_than_a_millionth_backwards_is_what_the_pipeline_accepts(folder):
  path = folder / FIRST
  rows = path.read_text().count("\n")
  for line in range(2, rows + 1):
    _set(path, line, 0, "4.5")
  _set(path, 3, 0, "4.4999995")
  assert _build(folder).spec.sizes["train"] == 6


def test_other_headers_and_stays_of_zero_length(folder):
  path = folder / FIRST
  whole = path.read_text()
  path.write_text(whole.replace("Heart Rate,Height", "Height,Heart Rate"))
  assert _told(folder) == [
    f"{FIRST}, line 1: this is not the header of a time series: expected"
    f" {', '.join(columns.HEADER)}"
  ]
  path.write_text(whole.split("\n")[0] + "\n")
  assert _told(folder) == [f"{FIRST}: it has no row: a stay of zero length"]
  path.write_text("")
  assert _told(folder)[0].startswith(f"{FIRST}, line 1: this is not the header")
  path.write_text(whole)
  _set(folder / "train_listfile.csv", 2, 1, "0.000000")
  assert _told(folder)[0] == (
    "train_listfile.csv, line 2, column 'length of stay': expected more than 0 hours"
  )


def test_listfiles_that_are_missing_or_of_another_task(folder):
  (folder / "val_listfile.csv").unlink()
  (folder / "test_listfile.csv").write_text(
    "stay,period_length,y_true\n300_episode1_timeseries.csv,5.51234,0\n"
  )
  (folder / "train_listfile.csv").write_text(",".join(mimic3_listfile.HEADER) + "\n")
  told = _told(folder)
  assert told[0] == "train_listfile.csv: it names no stay"
  assert told[1] == (
    "val_listfile.csv: there is no such file, or it cannot be read; the"
    " multitask problem of mimic3-benchmarks has it after split_train_val"
  )
  assert told[2] == (
    "test_listfile.csv, line 1: this is not the header of a listfile of the"
    " multitask problem (it is of another task): expected"
    f" {', '.join(mimic3_listfile.HEADER)}"
  )
  assert len(told) == 3


def test_stays_without_file_or_named_twice(folder):
  (folder / FIRST).unlink()
  lines = (folder / "train_listfile.csv").read_text().split("\n")
  with open(folder / "val_listfile.csv", "a") as file:
    file.write(lines[2] + "\n")
  assert _told(folder) == [
    f"train_listfile.csv, line 2, column 'filename': there is no file {FIRST}",
    "val_listfile.csv, line 4, column 'filename': the stay is named twice,"
    " before in train_listfile.csv, line 3",
  ]


@pytest.mark.parametrize(
  "column, text, what",
  [
    (0, "81.51234", "expected the name of a file, *_timeseries.csv"),
    (0, "../../1_timeseries.csv", "expected the name of a file, *_timeseries.csv"),
    (1, "31.51234h", "expected a number of hours below 100000"),
    (1, "1e9", "expected a number of hours below 100000"),
    (1, "-3.51234", "expected more than 0 hours"),
    (1, "0.51234", None),
    (2, "47;1", "expected a position, a mask and a label, 0 or 1"),
    (2, "47;2;0", "expected a position, a mask and a label, 0 or 1"),
    (3, "0;1;31.51234", "expected as many masks, 0 or 1, as hours"),
    (3, "2;31.51234", "expected as many masks, 0 or 1, as hours"),
    (3, "1;nan", "expected as many masks, 0 or 1, as hours"),
    (4, ";".join("0" * 24), "expected 25 labels, 0 or 1"),
    (4, ";".join("0" * 24 + "2"), "expected 25 labels, 0 or 1"),
    (5, "1;0.51234", "expected as many masks, 0 or 1, as labels, 0 or 1"),
    (5, "1;3", "expected as many masks, 0 or 1, as labels, 0 or 1"),
    (5, ";".join("0" * 400), "it has more hours than the stay is long"),
  ],
)
def test_lines_of_a_listfile(folder, column, text, what):
  _set(folder / "train_listfile.csv", 2, column, text)
  name = mimic3_listfile.HEADER[column]
  if what is None:  # the other columns are too long for this
    name, what = mimic3_listfile.HEADER[3], ("it has more hours than the stay is long")
  assert _told(folder)[0] == (f"train_listfile.csv, line 2, column '{name}': {what}")


def test_a_listfile_that_is_cut_off(folder):
  path = folder / "test_listfile.csv"
  path.write_text(path.read_text()[:-4])
  assert _told(folder) == ["test_listfile.csv, line 4: the line does not end: the file is cut off"]
  _edit(path, 2, lambda line: line.rsplit(",", 1)[0])
  assert _told(folder)[1] == (
    "test_listfile.csv, line 2: expected 6 columns; the line may be cut off"
  )


def test_all_problems_come_together(folder):
  (folder / "test" / "301_episode1_timeseries.csv").unlink()
  _set(folder / FIRST, 2, _column("Glucose"), "1x1.51234")
  _set(folder / FIRST, 3, _column("Glascow coma scale eye opening"), "Alert")
  _set(folder / "train/201_episode1_timeseries.csv", 2, 0, "zero")
  _set(folder / "train_listfile.csv", 3, 4, "1")
  told = _told(folder)
  assert [line.split(": ")[0] for line in told] == [
    "train_listfile.csv, line 3, column 'phenotyping task (labels)'",
    "test_listfile.csv, line 3, column 'filename'",
    f"{FIRST}, line 2, column 'Glucose'",
    f"{FIRST}, line 3, column 'Glascow coma scale eye opening'",
    "train/201_episode1_timeseries.csv, line 2, column 'Hours'",
  ]
  assert not list(folder.glob("**/dynashare_cache"))


def test_twenty_are_shown_and_all_are_counted(tmp_path):
  folder = mimic3_writer.few(tmp_path, (30, 2, 3))
  for path in (folder / "train").iterdir():
    _set(path, 2, _column("Glucose"), "much")
  told = _told(folder)
  assert len(told) == mimic3_problems.SHOWN + 1
  assert told[-1] == "and 12 more."  # 30 in training, 2 in validation


def test_bytes_that_are_no_text_are_an_error_like_others(folder):
  path = folder / FIRST
  path.write_bytes(path.read_bytes().replace(b"91.4142", b"\xff\xfe"))
  assert any(line.endswith("column 'Heart Rate': expected a number") for line in _told(folder))


def test_a_folder_that_was_there_keeps_what_it_had(folder, tmp_path):
  cache = tmp_path / "cache"
  cache.mkdir()
  (cache / "mine.txt").write_text("mine")
  _set(folder / FIRST, 2, _column("Glucose"), "much")
  with pytest.raises(ValueError, match="1 problem;"):
    _build(folder, cache=str(cache))
  assert [p.name for p in cache.iterdir()] == ["mine.txt"]


def _values(folder):
  """Every number of the files that has a fraction, and parts of it."""
  found = set()
  for path in folder.glob("t*/*.csv"):
    for line in path.read_text().split("\n")[1:]:
      found |= {cell[:8] for cell in line.split(",") if "." in cell and len(cell) >= 6}
  return found


def test_no_value_of_a_patient_is_shown(folder, capfd, caplog):
  values = _values(folder)
  assert len(values) > 100
  dataset = _build(folder)
  dataset.arrays("train")
  _build(folder, verify=True)
  out, err = capfd.readouterr()
  assert "converting 11 stays" in err and out == ""
  shown = [err, caplog.text, *dataset.spec.notes, str(dataset.spec), repr(dataset.source("train"))]
  _set(folder / FIRST, 2, _column("Glascow coma scale total"), "4.51234")
  _set(folder / "train_listfile.csv", 3, 1, "4.51234.5")
  shown += ["\n".join(_told(folder)), *capfd.readouterr()]
  for text in shown:
    assert not [value for value in values if value in text]
    assert "4.512" not in text


def test_a_mark_of_unicode_before_the_header_is_no_fault(folder):
  path = folder / FIRST
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
  assert _build(folder).spec.sizes["train"] > 0
