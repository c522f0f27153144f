"""MIMIC-III as a data set: labels and masks, tasks, compat, the real demo."""

from __future__ import annotations

import pickle

from data.mimic3 import writer as mimic3_writer
from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax.data import loader
from dynashare_jax.data.mimic3 import batches as mimic3_batches
from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import dataset as mimic3
from dynashare_jax.train import labels

# Of one stay of each split of the open demo, made with the pipeline's own code:
# hours, then sums over them of: the normalised numbers; the numbers, each times
# hour and column from 1; the one-hot columns times hour and column; the masks.
DEMO_SUMS = {
  "train": (24, -50.2864, -6794.636, 27649, 156),
  "validation": (69, 125.7477, 17008.119, 217196, 514),
  "test": (25, -118.9198, -9961.986, 28574, 162),
}


def _config(**values):
  return ConfigDict({**mimic3.defaults(), "workers": 1, **values})


def _switches(**values):
  return ConfigDict({**mimic3.compat(), **values})


def _build(folder, switches=None, **values):
  return mimic3.build(_config(**values), switches or _switches(), str(folder), 0)


def _stay(hours, subject, first="0.5", **values):
  return mimic3_writer.Stay([(first, {"Heart Rate": "91.4142"})], hours, subject, **values)


@pytest.fixture
def folder(tmp_path):
  return mimic3_writer.few(tmp_path)


@pytest.fixture
def by_hand(tmp_path):
  """Three stays in training; one each in validation and test."""
  return mimic3_writer.write(
    tmp_path,
    {
      "train": [
        _stay(60.5, 1, dies=55.0, phenotypes=[0, 24]),
        _stay(400.25, 2),
        _stay(30.0, 3, first="6.5", dies=31.0),
      ],
      "validation": [_stay(49.0, 4)],
      "test": [_stay(170.0, 5)],
    },
  )


def test_shapes_and_kinds(by_hand):
  dataset = _build(by_hand)
  assert dataset.spec.input_shape == (170, 76)
  assert dataset.spec.input_kind == "series" and dataset.spec.lengths
  assert dataset.spec.sizes == {"train": 3, "validation": 1, "test": 1}
  assert dataset.spec.channels == columns.groups()
  batch = dataset.arrays("train")
  assert batch.inputs["series"].shape == (3, 170, 76)
  assert batch.inputs["series"].dtype == np.float32
  assert batch.inputs["length"].dtype == np.int32
  assert batch.inputs["length"].tolist() == [61, 170, 30]
  shapes = {
    "phenotyping": ((3, 25), (3,)),
    "mortality": ((3,), (3,)),
    "length_of_stay": ((3, 170), (3, 170)),
    "decompensation": ((3, 170), (3, 170)),
  }
  for task, (target, valid) in shapes.items():
    assert batch.targets[task].shape == target, task
    assert batch.valid[task].shape == valid, task
    assert batch.valid[task].dtype == bool
    kind = np.int32 if task == "length_of_stay" else np.float32
    assert batch.targets[task].dtype == kind
  for split in ("train", "validation", "test"):
    labels.check(dataset.spec.tasks, dataset.arrays(split), split)
  for row, length in enumerate((61, 170, 30)):
    assert not batch.inputs["series"][row, length:].any()
    assert batch.inputs["series"][row, :length].any(1).all()
    for task in ("length_of_stay", "decompensation"):
      assert not batch.valid[task][row, length:].any()


def test_labels_of_an_hour_lie_in_the_bin_that_ends_there(by_hand):
  batch = _build(by_hand).arrays("train")
  stay, valid = batch.targets["length_of_stay"], batch.valid["length_of_stay"]
  # 60.5 hours: labels of hours 5 to 60, in bins 4 to 59; bin 60 is unfinished.
  assert np.flatnonzero(valid[0]).tolist() == list(range(4, 60))
  left = 60.5 - np.arange(5, 61)
  assert stay[0, 4:60].tolist() == (left // 24).astype(int).tolist()
  assert stay[0, [11, 12, 35, 36]].tolist() == [2, 1, 1, 0]  # 48.5, 47.5, 24.5
  # 400.25 hours, cut at 170: the last label is that of hour 170, in bin 169.
  assert np.flatnonzero(valid[1]).tolist() == list(range(4, 170))
  assert stay[1, [4, 64, 65, 169]].tolist() == [9, 8, 8, 8]  # 335.25 at hour 65
  assert stay[1, 63] == 9  # 336.25 hours are left at hour 64
  # The first measurement was at 6.5 hours.
  assert np.flatnonzero(valid[2]).tolist() == list(range(6, 30))
  assert not stay[~valid].any()


def test_decompensation_ends_with_death_and_looks_a_day_ahead(by_hand):
  batch = _build(by_hand).arrays("train")
  target = batch.targets["decompensation"]
  valid = batch.valid["decompensation"]
  assert np.flatnonzero(valid[0]).tolist() == list(range(4, 55))
  # Death at 55: the next 24 hours hold it from hour 32 on, in bin 31.
  assert np.flatnonzero(target[0]).tolist() == list(range(31, 55))
  assert not target[1].any() and valid[1, 4:].all()
  assert np.flatnonzero(target[2]).tolist() == list(range(7, 30))


def test_mortality_counts_after_48_hours_and_phenotypes_always(by_hand):
  batch = _build(by_hand).arrays("train")
  assert batch.valid["mortality"].tolist() == [True, True, False]
  assert batch.targets["mortality"].tolist() == [1, 0, 0]  # masked ones are 0
  assert batch.valid["phenotyping"].all()
  assert np.flatnonzero(batch.targets["phenotyping"][0]).tolist() == [0, 24]
  assert not batch.targets["phenotyping"][1:].any()


@pytest.mark.parametrize(
  "hours, benchmark, authors",
  [
    (-1e-6, 0, 0),
    (0.0, 0, 0),
    (23.999999, 0, 0),
    (24.0, 1, 1),
    (167.999999, 6, 6),
    (168.0, 7, 7),
    (191.999999, 7, 7),
    (192.0, 8, 8),
    (335.999999, 8, 8),
    (336.0, 9, 8),
    (359.999999, 9, 8),
    (360.0, 9, 9),
    (5000.0, 9, 9),
  ],
)
def test_classes_of_the_remaining_stay(hours, benchmark, authors):
  kept = np.searchsorted(columns.STAY_EDGES, hours, side="right")
  assert mimic3_batches.stay_class(kept, "benchmark") == benchmark
  assert mimic3_batches.stay_class(kept, "authors") == authors


def test_notes_count_and_tell_no_value(by_hand):
  notes = _build(by_hand).spec.notes
  assert notes == (
    "1 of 5 stays are longer than 170 hours and are cut there (1 of 3 train,"
    " 0 of 1 validation, 0 of 1 test).",
    "phenotyping: positive labels: 2 of 75 train, 0 of 25 validation, 0 of 25 test.",
    "length_of_stay: labels: 246 train, 45 validation, 166 test.",
    "decompensation: positive labels: 47 of 241 train, 0 of 45 validation, 0 of 166 test.",
    "mortality: positive labels: 1 of 2 train, 0 of 1 validation, 0 of 1 test.",
  )


def test_the_same_stays_at_any_cut(by_hand):
  long = _build(by_hand, hours=500).arrays("train")
  assert long.inputs["length"].tolist() == [61, 401, 30]
  short = _build(by_hand, hours=60).arrays("train")
  assert short.inputs["length"].tolist() == [60, 60, 30]
  np.testing.assert_array_equal(short.inputs["series"], long.inputs["series"][:, :60])
  for task in ("length_of_stay", "decompensation"):
    np.testing.assert_array_equal(short.valid[task], long.valid[task][:, :60])
    np.testing.assert_array_equal(short.targets[task], long.targets[task][:, :60])
  assert short.targets["mortality"].tolist() == [1, 0, 0]


def test_tasks_in_any_order_with_their_weights(folder):
  dataset = _build(
    folder,
    tasks=("mortality", "length_of_stay"),
    weights={"mortality": 0.5, "length_of_stay": 3.0},
    positive_weights={"mortality": 7.0},
    stay_weights=tuple(range(1, 11)),
  )
  mortality, stay = dataset.spec.tasks
  assert (mortality.name, mortality.kind, mortality.outputs) == ("mortality", "binary", 1)
  assert (mortality.weight, mortality.positive_weight) == (0.5, 7.0)
  assert (mortality.every_step, mortality.first_steps) == (False, 48)
  assert (stay.kind, stay.outputs, stay.every_step, stay.first_steps) == ("multiclass", 10, True, 0)
  assert stay.class_weights == tuple(map(float, range(1, 11)))
  assert stay.classes[0] == "under 1 day" and len(stay.classes) == 10
  batch = dataset.arrays("test")
  assert list(batch.targets) == list(batch.valid) == ["mortality", "length_of_stay"]


def test_default_weights_are_those_of_the_authors_configuration():
  spec = mimic3.outline(_config(), _switches())
  found = [(t.name, t.kind, t.weight, t.positive_weight) for t in spec.tasks]
  assert found == [
    ("phenotyping", "multilabel", 1, 5),
    ("length_of_stay", "multiclass", 2, 1),
    ("decompensation", "binary", 2, 500),
    ("mortality", "binary", 1, 5),
  ]
  assert spec.tasks[0].classes == columns.PHENOTYPES
  assert [t.every_step for t in spec.tasks] == [False, True, True, False]


def test_outline_needs_no_data(folder):
  built, outline = _build(folder).spec, mimic3.outline(_config(), _switches())
  assert sum(outline.sizes.values()) == 41902
  for field in ("name", "tasks", "input_kind", "input_shape", "lengths", "channels"):
    assert getattr(outline, field) == getattr(built, field), field


def test_single_stays_slices_and_batches_agree(folder):
  dataset = _build(folder)
  source, whole = dataset.source("train"), dataset.arrays("train")
  assert len(source) == 6
  stacked = loader.stack([source[i] for i in range(6)])
  some = source.batch(np.array([4, 0, 4]))
  copy = pickle.loads(pickle.dumps(source))
  for other, rows in (
    (stacked, slice(None)),
    (some, [4, 0, 4]),
    (loader.stack(copy[1:3]), slice(1, 3)),
    (loader.stack([source[-1]]), slice(5, 6)),
  ):
    for found, wanted in zip(other, whole, strict=True):
      if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for name in wanted:
          np.testing.assert_array_equal(found[name], wanted[name][rows])
          assert found[name].dtype == wanted[name].dtype
      else:
        np.testing.assert_array_equal(found, wanted[rows])
  with pytest.raises(IndexError, match="There are 6 stays, none has number 6."):
    source[6]
  with pytest.raises(ValueError, match="no split 'dev'; mimic3 has tra"):
    dataset.source("dev")


def test_normalised_by_the_training_stays(folder):
  plain = _build(folder, hours=100)
  fitted = _build(folder, hours=100, normaliser="train")
  flags = list(columns.FLAG_COLUMNS)
  numbers = list(columns.NUMBER_COLUMNS)
  for split in ("train", "test"):
    one, two = (d.arrays(split) for d in (plain, fitted))
    np.testing.assert_array_equal(
      one.inputs["series"][..., flags], two.inputs["series"][..., flags]
    )
  batch = fitted.arrays("train")
  inside = np.arange(100)[None] < batch.inputs["length"][:, None]
  values = batch.inputs["series"][inside][:, numbers].astype(np.float64)
  np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(values.std(0, ddof=1), 1, atol=1e-5)
  assert not batch.inputs["series"][~inside].any()


def test_compat_time_has_no_lengths_and_mortality_reads_all(folder):
  usual, theirs = _build(folder), _build(folder, _switches(time="authors"))
  assert not theirs.spec.lengths
  assert [t.first_steps for t in theirs.spec.tasks] == [0] * 4
  assert [t.first_steps for t in usual.spec.tasks] == [0, 0, 0, 48]
  np.testing.assert_array_equal(theirs.arrays("test").inputs, usual.arrays("test").inputs["series"])


def test_compat_axes_reshapes_instead_of_turning(folder):
  straight = _build(folder, _switches(time="authors")).arrays("test").inputs
  mixed = _build(folder, _switches(time="authors", axes="authors")).arrays("test").inputs
  assert mixed.shape == straight.shape
  for one, other in zip(straight, mixed, strict=True):
    np.testing.assert_array_equal(other.T, one.reshape(76, 170))


def test_compat_masks_counts_everything(by_hand):
  batch = _build(by_hand, _switches(masks="authors")).arrays("train")
  assert all(valid.all() for valid in batch.valid.values())
  stay = batch.targets["length_of_stay"]
  # Labels of hours 1 to 55, as long as those of decompensation; then zeros.
  assert stay[0, :4].tolist() == [2] * 4 and not stay[0, 55:].any()
  assert stay[0, 35] == 1 and stay[0, 37] == 0
  assert stay[1, 0] == 9 and stay[1, 168] == 8 and stay[1, 169] == 0
  assert batch.targets["mortality"].tolist() == [1, 0, 0]


def test_compat_stays_drops_the_first(folder):
  usual, theirs = _build(folder), _build(folder, _switches(stays="authors"))
  assert theirs.spec.sizes == {"train": 5, "validation": 1, "test": 2}
  np.testing.assert_array_equal(
    theirs.arrays("train").inputs["series"], usual.arrays("train").inputs["series"][1:]
  )
  np.testing.assert_array_equal(
    theirs.source("train")[0].targets["phenotyping"],
    usual.arrays("train").targets["phenotyping"][1],
  )


def test_compat_classes_and_weights(by_hand):
  usual = _build(by_hand)
  theirs = _build(by_hand, _switches(stay_classes="authors", task_weights="authors"))
  assert [t.weight for t in theirs.spec.tasks] == [1, 4, 4, 1]
  assert theirs.spec.tasks[1].classes[-1] == "15 days or more"
  one, two = (d.arrays("train").targets["length_of_stay"][1] for d in (usual, theirs))
  # From 400 hours on; 360.25 are left at hour 40, 336.25 at hour 64.
  assert np.flatnonzero(one != two).tolist() == list(range(40, 64))
  assert two[39] == 9 and two[40] == 8
  assert "compat: task weights are squared." in theirs.spec.notes


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(tasks=("mortalty",)), "config.data.tasks has 'mortalty'"),
    (dict(tasks=()), "name one or more of phenotyping"),
    (
      dict(hours=47),
      "config.data.hours is 47; it must be at least 48: mortality is predicted from that many.",
    ),
    (dict(hours=4, tasks=("decompensation",)), "it must be at least 5: there"),
    (dict(weights={"mortality": 1.0}), "no weight of 'phenotyping'"),
    (
      dict(positive_weights={"phenotyping": 0.0}),
      "config.data.positive_weights.phenotyping is 0.0; it must be above 0.",
    ),
    (dict(positive_weights={}), "has no factor of 'phenotyping'"),
    (dict(stay_weights=(1.0, 2.0)), "or 10 numbers from 0 on"),
    (dict(stay_weights=(0.0,) * 10), "or 10 numbers from 0 on"),
    (
      dict(normaliser="none"),
      "config.data.normaliser is 'none'; it must be one of benchmark, train.",
    ),
    (dict(workers=-1), "config.data.workers is -1"),
  ],
)
def test_wrong_settings_are_refused_before_anything_is_read(tmp_path, values, message):
  with pytest.raises(ValueError) as error:
    _build(tmp_path, **values)
  assert message in str(error.value)
  assert list(tmp_path.iterdir()) == []


def test_wrong_switches_and_folders(tmp_path):
  with pytest.raises(
    ValueError, match="config.compat.masks is 'none'; it must be one of labels, authors."
  ):
    _build(tmp_path, _switches(masks="none"))
  with pytest.raises(ValueError, match="needs config.compat.time='authors'"):
    mimic3.outline(_config(), _switches(axes="authors"))
  with pytest.raises(ValueError, match="https://.*mimic3-benchmarks"):
    mimic3.build(_config(), _switches(), None, 0)
  with pytest.raises(ValueError, match="There is no folder"):
    _build(tmp_path / "nowhere")


def test_the_open_demo(data_folder, tmp_path):
  folder = data_folder / "mimic3_demo"
  if not folder.is_dir():
    pytest.skip(f"no open demo of MIMIC-III at {folder}")
  dataset = _build(folder, cache=str(tmp_path), hours=1000)
  assert dataset.spec.sizes == {"train": 81, "validation": 14, "test": 18}
  assert dataset.spec.notes[0].startswith("0 of 113 stays are longer")
  counts = {"train": (41, 325), "validation": (5, 45), "test": (11, 134)}
  for split, (mortality, decompensation) in counts.items():
    batch = dataset.arrays(split)
    assert batch.valid["mortality"].sum() == mortality
    assert batch.targets["decompensation"].sum() <= decompensation
  numbers = list(columns.NUMBER_COLUMNS)
  hot = [c for c in columns.FLAG_COLUMNS if c < 59]
  for split, (hours, plain, weighted, flags, masks) in DEMO_SUMS.items():
    stay = dataset.source(split)[len(dataset.source(split)) // 2]
    series = stay.inputs["series"].astype(np.float64)
    hour = np.arange(1, len(series) + 1)[:, None]
    assert stay.inputs["length"] == hours
    found = (
      series[:, numbers].sum(),
      (series[:, numbers] * hour * np.arange(1, 13)[None]).sum(),
      (series[:, hot] * hour * np.arange(1, 48)[None]).sum(),
      series[:, 59:].sum(),
    )
    np.testing.assert_allclose(found, (plain, weighted, flags, masks), rtol=1e-6, atol=1e-3)
