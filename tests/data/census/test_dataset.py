"""Tests of the Census-Income data: labels, codes, splits, compat, errors."""

from __future__ import annotations

from collections.abc import Callable
import gzip
import importlib
import os
import pathlib
import re
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data.census import columns as census_columns
from dynashare_jax.data.census import dataset as census
from dynashare_jax.data.census import encoding as census_encoding

TRAIN, TEST = census_columns.RAW["train"], census_columns.RAW["test"]
BASE = {
  "age": "30",
  "class_worker": "Private",
  "det_ind_code": "4",
  "det_occ_code": "34",
  "education": "High school graduate",
  "wage_per_hour": "0",
  "hs_college": "Not in universe",
  "marital_stat": "Never married",
  "hisp_origin": "NA",
  "state_prev_res": "?",
  "det_hh_fam_stat": "Householder",
  "capital_gains": "0",
  "capital_losses": "0",
  "stock_dividends": "0",
  "instance_weight": "1700.09",
  "num_emp": "0",
  "own_or_self": "0",
  "vet_benefits": "2",
  "weeks_worked": "52",
  "year": "95",
  "income_50k": "- 50000.",
}
EDUCATION = (
  "High school graduate",
  "Bachelors degree(BA AB BS)",
  "Prof school degree (MD DDS DVM LLB JD)",
  "Doctorate degree(PhD EdD)",
  "Associates degree-academic program",
)
MARITAL = ("Never married", "Divorced", "Widowed")


def _row(**changes: str) -> list[str]:
  """One line's fields."""
  values = {**dict.fromkeys(census_columns.COLUMNS, "x"), **BASE, **changes}
  return [values[name] for name in census_columns.COLUMNS]


def _train_rows() -> list[list[str]]:
  """60 rows; industry codes 2, 4, 10 and households A, B, C, D occur."""
  return [
    _row(
      age=str(20 + i),
      education=EDUCATION[i % 5],
      marital_stat=MARITAL[i % 3],
      det_ind_code=("2", "4", "10")[i % 3],
      det_hh_fam_stat="ABCD"[i % 4],
      capital_gains="0" if i < 40 else str(100 * i),
      income_50k="50000+." if i % 10 == 0 else "- 50000.",
      year=("94", "95")[i % 2],
    )
    for i in range(60)
  ]


def _test_rows() -> list[list[str]]:
  """40 rows; industry 99 is not in training, household B is missing here."""
  return [
    _row(
      age=str(i),
      education=EDUCATION[i % 5],
      marital_stat=MARITAL[i % 3],
      det_ind_code="99" if i == 7 else "10",
      det_hh_fam_stat="ACD"[i % 3],
      income_50k="50000+." if i % 8 == 0 else "- 50000.",
      instance_weight=f"{i}.5",
      year=("94", "95")[i % 2],
    )
    for i in range(40)
  ]


def _text(rows: list[list[str]]) -> str:
  """The rows in the format of the original files."""
  return "".join(", ".join(row) + "\n" for row in rows)


def _write(folder: pathlib.Path, train: str | None = None, test: str | None = None) -> str:
  """Writes both files and returns their folder."""
  (folder / TRAIN).write_text(_text(_train_rows()) if train is None else train)
  (folder / TEST).write_text(_text(_test_rows()) if test is None else test)
  return str(folder)


def _build(folder: str | None, /, **fields: Any) -> types.Dataset:
  """Builds with some fields of the configuration or compat switches changed."""
  config, compat = ConfigDict(census.defaults()), ConfigDict(census.compat())
  config.rows = (0, 0)
  for name, value in fields.items():
    (compat if name in compat else config)[name] = value
  return census.build(config, compat, folder, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
  """The small files, plain."""
  return _write(tmp_path_factory.mktemp("census"))


def test_labels_by_hand(folder: str) -> None:
  data = _build(folder)
  assert [t.name for t in data.spec.tasks] == ["income", "marital", "education"]
  assert {t.kind for t in data.spec.tasks} == {"binary"}
  train = data.arrays("train")
  rows = np.arange(60)
  np.testing.assert_array_equal(train.targets["income"], rows % 10 == 0)
  np.testing.assert_array_equal(train.targets["marital"], rows % 3 > 0)
  # Bachelor, professional school and doctorate are college; associate is not.
  np.testing.assert_array_equal(train.targets["education"][:5], [0, 1, 1, 1, 0])
  assert all(valid.all() for valid in train.valid.values())
  assert train.present.all()


def test_codes_and_numbers_by_hand(folder: str) -> None:
  data = _build(folder)
  spec = data.spec.table
  assert spec is not None and data.spec.input_kind == "table"
  assert data.spec.input_shape == (39,)
  assert (len(spec.categorical), len(spec.numeric)) == (31, 8)
  assert not set(spec.categorical + spec.numeric) & set(census_columns.LABELS)
  industry = spec.categorical.index("det_ind_code")
  age = spec.numeric.index("age")
  inputs = data.arrays("train").inputs
  assert inputs["categorical"].dtype == np.int32
  assert inputs["numeric"].dtype == np.float32
  # Codes ascend with the number, not with the text: 2, 4, 10 are 1, 2, 3.
  np.testing.assert_array_equal(inputs["categorical"][:4, industry], [1, 2, 3, 1])
  assert spec.cardinalities[industry] == 4
  np.testing.assert_array_equal(inputs["numeric"][:, age], np.arange(20, 80))


def test_everything_is_fitted_on_train_only(folder: str) -> None:
  data = _build(folder)
  spec = data.spec.table
  assert spec is not None
  industry = spec.categorical.index("det_ind_code")
  age = spec.numeric.index("age")
  codes = np.concatenate(
    [data.arrays(s).inputs["categorical"][:, industry] for s in ("validation", "test")]
  )
  assert sorted(codes) == [0] + [3] * 39  # 99 occurs in the test file only
  assert spec.edges[age][0] == 20 and spec.edges[age][-1] == 79
  for edges in spec.edges:
    assert 2 <= len(edges) <= 17
    assert (np.diff(edges) > 0).all()
  onehot = _build(folder, encoding="onehot")
  first = onehot.arrays("train").inputs[:, 0, 0]  # age, min-max
  np.testing.assert_allclose(first, np.arange(60) / 59, rtol=1e-6)
  test_ages = onehot.arrays("test").inputs[:, 0, 0]
  assert test_ages.min() < 0  # ages of 0 to 39 on the scale 20 to 79


def test_halves_are_fixed_disjoint_and_whole(folder: str) -> None:
  data = _build(folder)
  spec = data.spec.table
  assert spec is not None
  age = spec.numeric.index("age")
  halves = [data.arrays(s).inputs["numeric"][:, age] for s in ("validation", "test")]
  assert [len(half) for half in halves] == [20, 20]
  assert sorted(np.concatenate(halves)) == list(range(40))
  assert dict(data.spec.sizes) == {"train": 60, "validation": 20, "test": 20}
  np.testing.assert_array_equal(halves[0], census.split_halves(40, 1)[0])
  other = _build(folder, split_seed=2).arrays("validation").inputs["numeric"]
  assert (other[:, age] != halves[0]).any()


@pytest.mark.parametrize("rows", [2, 40, 41, 43, 99])
def test_halves_equal_those_of_pandas(rows: int) -> None:
  pandas = pytest.importorskip("pandas")
  frame = pandas.DataFrame({"row": np.arange(rows)})
  wanted = sorted(frame.sample(frac=0.5, random_state=1)["row"])
  validation, test = census.split_halves(rows, 1)
  assert validation.tolist() == wanted
  assert test.tolist() == sorted(set(range(rows)) - set(wanted))


def _gz(path: pathlib.Path) -> None:
  for name, rows in ((TRAIN, _train_rows()), (TEST, _test_rows())):
    (path / f"{name}.gz").write_bytes(gzip.compress(_text(rows).encode()))


def _untidy(path: pathlib.Path) -> None:
  """No blank after the comma, Windows line ends, empty lines at the end."""
  for name, rows in ((TRAIN, _train_rows()), (TEST, _test_rows())):
    text = _text(rows).replace(", ", ",").replace("\n", "\r\n") + "\r\n\r\n"
    (path / name).write_bytes(text.encode())


def _parquet(path: pathlib.Path) -> None:
  """Numbers as numbers, texts as texts, test rows before training rows."""
  arrow = pytest.importorskip("pyarrow")
  rows = _test_rows() + _train_rows()
  columns: dict[str, Any] = {
    name: [row[i] for row in rows] for i, name in enumerate(census_columns.COLUMNS)
  }
  for name in ("age", "det_ind_code", "own_or_self", "year"):
    columns[name] = [int(value) for value in columns[name]]
  columns["instance_weight"] = [float(v) for v in columns["instance_weight"]]
  columns["split"] = ["test"] * 40 + ["train"] * 60
  parquet = importlib.import_module("pyarrow.parquet")
  table = arrow.table(columns)
  parquet.write_table(table, path / census_columns.PARQUET, row_group_size=32)


@pytest.mark.parametrize("write", [_gz, _untidy, _parquet])
@pytest.mark.parametrize("encoding", census.ENCODINGS)
def test_every_format_gives_the_same(
  folder: str, tmp_path: pathlib.Path, write: Callable[[pathlib.Path], None], encoding: str
) -> None:
  write(tmp_path)
  plain = _build(folder, encoding=encoding)
  other = _build(str(tmp_path), encoding=encoding)
  assert plain.spec == other.spec
  for split in types.SPLITS:
    jax.tree.map(np.testing.assert_array_equal, plain.arrays(split), other.arrays(split))


def test_files_longer_than_a_chunk(tmp_path: pathlib.Path) -> None:
  train = _train_rows() * 40
  data = _build(_write(tmp_path, train=_text(train)))
  income = data.arrays("train").targets["income"]
  np.testing.assert_array_equal(income, np.arange(2400) % 10 == 0)


def test_onehot_by_hand(folder: str) -> None:
  data = _build(folder, encoding="onehot")
  assert data.spec.input_kind == "series" and data.spec.table is None
  train, _ = census_columns.read(folder, (0, 0))
  features = census_encoding.corrected_layout(train).features
  assert data.spec.input_shape == (len(features), 1)
  inputs = data.arrays("train").inputs
  assert inputs.shape == (60, len(features), 1)
  assert inputs.dtype == np.float32
  for i, value in enumerate(("A", "B", "C", "D")):
    place = features.index(("det_hh_fam_stat", value))
    np.testing.assert_array_equal(inputs[:, place, 0], np.arange(60) % 4 == i)
  # A category that training lacks leaves its whole column at zero.
  industry = [i for i, f in enumerate(features) if f[0] == "det_ind_code"]
  sums = np.concatenate([data.arrays(s).inputs[:, industry, 0].sum(1) for s in types.SPLITS])
  assert sorted(sums) == [0.0] + [1.0] * 99


def test_source_gives_the_rows_of_arrays(folder: str) -> None:
  for encoding in census.ENCODINGS:
    data = _build(folder, encoding=encoding)
    source, whole = data.source("test"), data.arrays("test")
    assert len(source) == 20
    jax.tree.map(np.testing.assert_array_equal, source[3], jax.tree.map(lambda a: a[3], whole))
    assert len(source[2:5]) == 3
    with pytest.raises(IndexError):
      source[20]


def test_choice_of_tasks_keeps_order_and_inputs(folder: str) -> None:
  whole = _build(folder)
  part = _build(folder, tasks=("education", "income"))
  assert [t.name for t in part.spec.tasks] == ["income", "education"]
  assert sorted(part.arrays("train").targets) == ["education", "income"]
  assert part.spec.table == whole.spec.table  # `marital_stat` is no input


def test_without_the_sampling_weight(folder: str) -> None:
  data = _build(folder, instance_weight=False)
  assert data.spec.input_shape == (38,)
  assert data.spec.table is not None
  assert "instance_weight" not in data.spec.table.numeric
  assert data.arrays("train").inputs["numeric"].shape == (60, 7)


def test_compat_labels(folder: str) -> None:
  corrected = _build(folder).arrays("train").targets["education"]
  authors = _build(folder, census_labels="authors")
  professional = np.arange(60) % 5 == 2
  assert corrected[professional].all()
  education = authors.arrays("train").targets["education"]
  assert not education[professional].any()
  np.testing.assert_array_equal(education[~professional], corrected[~professional])
  assert any("professional" in note for note in authors.spec.notes)


def test_compat_columns_shift_the_test_file(folder: str) -> None:
  data = _build(folder, census_columns="authors")
  train, other = census_columns.read(folder, (0, 0))
  fitted, shifted = census_encoding.authors_layouts(train, other)
  assert data.spec.input_shape == (len(fitted.features), 1)
  # 11 numbers come first; `year` is one, two code columns are not scaled.
  assert [value for _, value in fitted.features[:12]].count(None) == 11
  b = fitted.features.index(("det_hh_fam_stat", "B"))
  # The test file lacks industries 2 and 4 and household B: they come last, so
  # that household C moves from B's neighbour three features to the left.
  assert shifted.features[-3:] == (
    ("det_ind_code", "2"),
    ("det_ind_code", "4"),
    ("det_hh_fam_stat", "B"),
  )
  assert fitted.features[b + 1] == ("det_hh_fam_stat", "C")
  assert shifted.features[b - 2] == ("det_hh_fam_stat", "C")
  ours = data.arrays("train").inputs[..., 0]
  np.testing.assert_array_equal(ours[:, b], np.arange(60) % 4 == 1)
  theirs = np.concatenate([data.arrays(s).inputs[:, b - 2, 0] for s in ("validation", "test")])
  assert theirs.sum() == 13  # household C, every third of 40 rows
  vet = fitted.features.index(("vet_benefits", None))
  assert (ours[:, vet] == 2).all()
  # Validation and test are scaled by the test file's own ages, 0 to 39.
  ages = [data.arrays(s).inputs[:, 0, 0] * 39 for s in ("validation", "test")]
  np.testing.assert_allclose(sorted(np.concatenate(ages)), np.arange(40), atol=1e-5)
  assert any("one-hot features mean another" in n for n in data.spec.notes)
  assert any("not followed" in note for note in data.spec.notes)


def test_missing_files_say_what_where_and_how(tmp_path: pathlib.Path) -> None:
  for folder in (None, str(tmp_path)):
    with pytest.raises(FileNotFoundError) as error:
      _build(folder)
    message = str(error.value)
    for part in (TRAIN, TEST, census_columns.PARQUET, "--config.data_dir=DIR"):
      assert part in message
    assert "https://archive.ics.uci.edu/" in message
    assert folder is None or folder in message
  (tmp_path / TRAIN).write_text(_text(_train_rows()))
  with pytest.raises(FileNotFoundError, match=f"No {TEST} in"):
    _build(str(tmp_path))


def test_damaged_files_name_file_and_line(tmp_path: pathlib.Path) -> None:
  train = _text(_train_rows())
  cut = _write(tmp_path, train=train[: len(train) - 200])
  with pytest.raises(ValueError, match=f"{TRAIN}, line 60: .* expected 42"):
    _build(cut)
  short = _write(tmp_path, train=_text(_train_rows()[:58]))
  with pytest.raises(ValueError, match=f"{TRAIN} has 58 rows.*line 58.*199523"):
    _build(short, rows=census_columns.ROWS)
  empty = _write(tmp_path, test="")
  with pytest.raises(ValueError, match=f"{TEST} has 0 rows"):
    _build(empty)
  rows = _test_rows()
  rows[4] = _row(age="old")
  with pytest.raises(ValueError, match=f"'old' is not a number \\({TEST}, line 5, column 'age'"):
    _build(_write(tmp_path, test=_text(rows)))


def test_cut_off_archives(tmp_path: pathlib.Path) -> None:
  _gz(tmp_path)
  path = tmp_path / f"{TEST}.gz"
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=f"{TEST}.gz cannot be read"):
    _build(str(tmp_path))
  pytest.importorskip("pyarrow")
  _parquet(tmp_path)
  path = tmp_path / census_columns.PARQUET
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
    _build(str(tmp_path))


def test_parquet_without_a_column(tmp_path: pathlib.Path) -> None:
  arrow = pytest.importorskip("pyarrow")
  parquet = importlib.import_module("pyarrow.parquet")
  path = tmp_path / census_columns.PARQUET
  parquet.write_table(arrow.table({"age": [1, 2], "split": ["train"] * 2}), path)
  with pytest.raises(ValueError, match="has no column class_worker"):
    _build(str(tmp_path))


def test_unknown_label_is_named(tmp_path: pathlib.Path) -> None:
  rows = _train_rows()
  rows[11] = _row(marital_stat="It is complicated")
  folder = _write(tmp_path, train=_text(rows))
  wanted = f"'It is complicated' ({TRAIN}, line 12, column 'marital_stat')"
  with pytest.raises(ValueError, match=re.escape(wanted)):
    _build(folder)
  assert _build(folder, tasks=("income",)).spec.sizes["train"] == 60


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("tasks", ("incone",), "Did you mean 'income'"),
    ("tasks", (), "name one or more"),
    ("tasks", ("income", "income"), "each once"),
    ("encoding", "one-hot", "Did you mean 'onehot'"),
    ("bins", 0, "must be 1 or more"),
    ("census_columns", "author", "Did you mean 'authors'"),
    ("census_labels", "paper", "config.compat.census_labels"),
  ],
)
def test_wrong_settings_are_told(folder: str, field: str, value: Any, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    _build(folder, **{field: value})
  with pytest.raises(ValueError, match="census has train, validation, test"):
    _build(folder).arrays("val")


@pytest.fixture(scope="module")
def real_folder() -> str:
  """The real data, where it is."""
  root = pathlib.Path(__file__).resolve().parents[3]
  default = root.parent / "shared" / "data"
  path = pathlib.Path(os.environ.get("DYNASHARE_DATA", default))
  if not (path / census_columns.PARQUET).is_file():
    pytest.skip(f"no {census_columns.PARQUET} (set DYNASHARE_DATA)")
  pytest.importorskip("pyarrow")
  return str(path)


def test_real_counts_and_base_rates(real_folder: str) -> None:
  data = _build(real_folder, rows=census_columns.ROWS)
  assert dict(data.spec.sizes) == {"train": 199_523, "validation": 49_881, "test": 49_881}
  targets = data.arrays("train").targets
  rates = {task: round(float(v.mean()), 4) for task, v in targets.items()}
  assert rates == {"income": 0.0621, "marital": 0.5665, "education": 0.1477}
  assert data.spec.input_shape == (39,)
  inputs = data.arrays("test").inputs
  table = data.spec.table
  assert table is not None
  assert (inputs["categorical"] < np.array(table.cardinalities)[None]).all()
  assert (inputs["categorical"] > 0).all()  # training has every category


def test_real_authors_layout(real_folder: str) -> None:
  data = _build(real_folder, census_columns="authors")
  assert data.spec.input_shape == (482, 1)
  assert any("208 of 482" in note for note in data.spec.notes)


@pytest.mark.parametrize("mark", (",", ", ", ";", "\t", "|"))
@pytest.mark.parametrize("quote", ("some", "all"))
def test_quotes_and_separators_change_nothing(
  tmp_path: pathlib.Path, mark: str, quote: str
) -> None:
  """Whatever separates and quotes, train and test have the same categories."""

  def text(rows: list[list[str]]) -> str:
    quoted = lambda field: f'"{field}"' if quote == "all" or " " in field else field
    return "".join(mark.join(map(quoted, row)) + "\r\n" for row in rows)

  plain, other = tmp_path / "plain", tmp_path / "other"
  plain.mkdir()
  other.mkdir()
  _write(plain)
  _write(other, "\ufeff" + text(_train_rows()))
  for one, two in zip(
    *(census_columns.read(str(folder), (0, 0)) for folder in (plain, other)), strict=True
  ):
    assert list(one.numbers) == list(two.numbers)
    for name, column in one.columns.items():
      assert column.values == two.columns[name].values
      np.testing.assert_array_equal(column.codes, two.columns[name].codes)


@pytest.mark.parametrize("change", (str.upper, "'{}'".format, "{}!".format))
def test_categories_in_two_spellings_are_refused(tmp_path: pathlib.Path, change: Any) -> None:
  rows = _test_rows()
  place = census_columns.COLUMNS.index("class_worker")
  for row in rows:
    row[place] = change(row[place])
  folder = _write(tmp_path, test=_text(rows))
  with pytest.raises(ValueError, match=f"No value of column 'class_worker' in {TEST}, .*alike"):
    census_columns.read(folder, (0, 0))


@pytest.mark.parametrize("value", ("nan", "inf", "1e39", "-4e38"))
def test_numbers_are_finite_in_32_bits(tmp_path: pathlib.Path, value: str) -> None:
  rows = [*_train_rows(), _row(capital_gains=value)]
  with pytest.raises(ValueError, match=f"'{value}' is not a number .*line 61, .*'capital_gains'"):
    census_columns.read(_write(tmp_path, _text(rows)), (0, 0))


def test_bytes_that_are_no_text_are_named(tmp_path: pathlib.Path) -> None:
  folder = _write(tmp_path)
  text = _text(_train_rows()).encode().replace(b"Private", b"Priv\xe4t")
  for name, content in ((TRAIN, text), (f"{TRAIN}.gz", gzip.compress(text))):
    (tmp_path / TRAIN).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}, line 1: the byte 0xe4 is not UTF-8"):
      census_columns.read(folder, (0, 0))


def test_the_quoted_table(data_folder: pathlib.Path) -> None:
  folder = data_folder / "faults" / "table_quoted"
  if not folder.is_dir():
    pytest.skip(f"no {folder}")
  train, test = census_columns.read(str(folder), (0, 0))
  for column in ("class_worker", "major_ind_code", "race"):
    assert set(test.categories(column)) <= set(train.categories(column))
