"""From measurements to hours: bins, imputation, columns, normalisation."""

from __future__ import annotations

import json

from data.mimic3 import writer as mimic3_writer
import numpy as np
import pytest
import yaml

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import problems as mimic3_problems
from dynashare_jax.data.mimic3 import stays as mimic3_stays

PLAIN = discretiser.Normaliser(np.zeros(12), np.ones(12))
HEART, GLUCOSE = 8, 7  # places among the channels


def _expand(series, hours, normaliser=PLAIN):
  """The 76 columns of one stay."""
  counts = discretiser.count_bins(np.array([hours]))
  events = mimic3_stays.events(series, hours, int(counts[0]), 0)
  packed = discretiser.pack(*discretiser.discretise(events, counts))
  out = np.full((int(counts[0]), 76), -1, np.float32)
  discretiser.expand(packed, normaliser, out)
  return out


def _parse(stay):
  problems = mimic3_problems.Problems()
  series = mimic3_stays.parse(stay.series().encode(), stay.name, problems)
  assert not problems.total, problems.kept
  return series


def _stay(rows, hours):
  return _expand(_parse(mimic3_writer.Stay(rows, hours, 1)), hours)


def _twin(stay):
  """The same in plain Python, cell by cell."""
  count = int(stay.hours + 1 - 1e-6)
  grid = [[None] * 17 for _ in range(count)]
  for time, cells in stay.rows:
    if float(time) > stay.hours + 1e-6:
      continue
    for place, channel in enumerate(columns.CHANNELS):
      if cells.get(channel.name):
        grid[int(float(time) - 1e-6)][place] = cells[channel.name]
  rows = []
  last = [channel.normal for channel in columns.CHANNELS]
  for line in grid:
    last = [new or old for new, old in zip(line, last, strict=True)]
    row = []
    for channel, text in zip(columns.CHANNELS, last, strict=True):
      row += [float(text == value) for value in channel.values] if channel.values else [float(text)]
    rows.append(row + [float(cell is not None) for cell in line])
  return np.array(rows)


def _column(name):
  return columns.COLUMNS.index(name)


def test_seventeen_channels_are_seventy_six_columns():
  assert (len(columns.CHANNELS), len(columns.COLUMNS)) == (17, 76)
  assert len(columns.NUMBERS) == len(columns.MEANS) == len(columns.STDS) == 12
  assert len(columns.FLAG_COLUMNS) == 47 + 17 == 8 * discretiser.PACKED
  assert (2, 3, *range(49, 59)) == columns.NUMBER_COLUMNS
  assert columns.COLUMNS[:3] == (
    "Capillary refill rate = 0.0",
    "Capillary refill rate = 1.0",
    "Diastolic blood pressure",
  )
  assert columns.COLUMNS[58:60] == ("pH", "Capillary refill rate observed")
  groups = columns.groups()
  assert groups[0] == (0, 1, 59) and groups[1] == (2, 60)
  assert groups[16] == (58, 75)
  assert sorted(sum(groups, ())) == list(range(76))
  assert len(columns.PHENOTYPES) == 25
  assert len(columns.STAY_CLASSES) == len(columns.AUTHORS_STAY_CLASSES) == 10


def test_facts_are_those_of_the_benchmark(data_folder):
  folder = data_folder / "mimic3_benchmarks_resources"
  if not folder.is_dir():
    pytest.skip(f"no resources of mimic3-benchmarks at {folder}")
  facts = json.loads((folder / "discretizer_config.json").read_text())
  assert facts["id_to_channel"] == [c.name for c in columns.CHANNELS]
  info = json.loads((folder / "channel_info.json").read_text())
  for channel in columns.CHANNELS:
    assert facts["possible_values"][channel.name] == list(channel.values)
    assert facts["normal_values"][channel.name] == channel.normal
    assert facts["is_categorical_channel"][channel.name] == bool(channel.values)
    assert sorted(info[channel.name]["possible_values"]) == sorted(channel.values)
  state = json.loads(
    (folder / ("mult_ts1.0.input_str-previous.start_time-zero.normalizer.json")).read_text()
  )
  places = list(columns.NUMBER_COLUMNS)
  assert np.array(state["means"])[places].tolist() == list(columns.MEANS)
  assert np.array(state["stds"])[places].tolist() == list(columns.STDS)
  groups = yaml.safe_load((folder / "hcup_ccs_2015_definitions.yaml").read_text())
  assert tuple(sorted(n for n, g in groups.items() if g["use_in_benchmark"])) == columns.PHENOTYPES


@pytest.mark.parametrize(
  "hours, bins",
  [
    (0.0, 0),
    (1e-6, 0),
    (2e-6, 1),
    (1.0, 1),
    (1.000002, 2),
    (47.9999, 48),
    (48.0, 48),
    (48.5, 49),
    (332.4168, 333),
  ],
)
def test_how_many_bins_a_stay_has(hours, bins):
  assert discretiser.count_bins(np.array([hours])).tolist() == [bins]


@pytest.mark.parametrize(
  "hours, place",
  [
    (0.0, 0),
    (-5e-7, 0),
    (0.5, 0),
    (1.0, 0),
    (1.0000005, 0),
    (1.000002, 1),
    (2.0, 1),
    (47.5, 47),
    (48.0, 47),
  ],
)
def test_a_bin_holds_what_ends_with_its_hour(hours, place):
  assert discretiser.bin_of(np.array([hours])).tolist() == [place]


def test_a_stay_by_hand():
  out = _stay(
    [
      ("0.25", {"Heart Rate": "70", "pH": "7.1"}),
      ("1.0", {"Heart Rate": "75"}),  # still bin 0, and later: it wins
      ("2.5", {"Glascow coma scale total": "3"}),
      ("3.5", {"Heart Rate": "80", "Glascow coma scale total": "15"}),
      ("5.0", {"Heart Rate": "99"}),  # after the end
    ],
    hours=4.2,
  )
  assert out.shape == (5, 76)
  assert out[:, _column("Heart Rate")].tolist() == [75, 75, 75, 80, 80]
  assert out[:, _column("Heart Rate observed")].tolist() == [1, 0, 0, 1, 0]
  np.testing.assert_array_equal(out[:, _column("pH")], np.float32([7.1] * 5))
  # Before the first measurement the normal value stands, not observed.
  assert out[:, _column("Glucose")].tolist() == [128] * 5
  assert out[:, _column("Glucose observed")].tolist() == [0] * 5
  total = "Glascow coma scale total"
  assert out[:, _column(f"{total} = 15")].tolist() == [1, 1, 0, 1, 1]
  assert out[:, _column(f"{total} = 3")].tolist() == [0, 0, 1, 0, 0]
  assert out[:, _column(f"{total} observed")].tolist() == [0, 0, 1, 1, 0]
  first = _column(f"{total} = 11")
  assert out[:, first : first + 13].sum(1).tolist() == [1] * 5


def test_the_last_row_within_an_hour_wins_and_blanks_do_not():
  out = _stay(
    [("0.1", {"Glucose": "100"}), ("0.1", {"Glucose": "110"}), ("0.2", {"Heart Rate": "60"})],
    hours=1.0,
  )
  assert out[0, _column("Glucose")] == 110
  assert out[0, _column("Heart Rate")] == 60


def test_a_row_at_the_very_end_counts_and_stays_in_the_last_bin():
  rows = [
    ("0.5", {"Glucose": "100"}),
    ("3.000001", {"Glucose": "110"}),
    ("3.000002", {"Glucose": "120"}),
  ]
  assert _stay(rows, hours=3.0)[:, _column("Glucose")].tolist() == [100, 100, 110]


def test_many_stays_at_once_are_as_each_alone():
  stays = mimic3_writer.some(25, seed=3)
  counts = discretiser.count_bins(np.array([s.hours for s in stays]))
  first = np.cumsum(counts) - counts
  found = [
    mimic3_stays.events(_parse(s), s.hours, int(n), int(f))
    for s, n, f in zip(stays, counts, first, strict=True)
  ]
  events = discretiser.Events(*map(np.concatenate, zip(*found, strict=True)))
  packed = discretiser.pack(*discretiser.discretise(events, counts))
  assert packed.numbers.dtype == np.float32
  assert packed.flags.nbytes == 8 * counts.sum()
  out = np.zeros((int(counts.sum()), 76), np.float32)
  discretiser.expand(packed, PLAIN, out)
  wanted = np.concatenate([_twin(stay) for stay in stays])
  np.testing.assert_array_equal(out, wanted.astype(np.float32))
  assert 0.05 < out[:, 59:].mean() < 0.9  # the random stays do test something


def test_numbers_are_normalised_and_nothing_else():
  stay = mimic3_writer.some(1, seed=5)[0]
  series = _parse(stay)
  plain = _expand(series, stay.hours)
  state = discretiser.benchmark()
  out = _expand(series, stay.hours, state)
  numbers = list(columns.NUMBER_COLUMNS)
  flags = list(columns.FLAG_COLUMNS)
  np.testing.assert_array_equal(out[:, flags], plain[:, flags])
  np.testing.assert_allclose(
    out[:, numbers], (_twin(stay)[:, numbers] - state.mean) / state.std, atol=2e-6
  )


def test_fitted_means_and_deviations():
  rng = np.random.default_rng(0)
  numbers = (rng.normal(size=(50, 12)) * 3 + 7).astype(np.float32)
  numbers[:, 4] = 170  # never varies
  found = discretiser.fit(numbers)
  wide = numbers.astype(np.float64)
  for column in range(12):
    values = wide[:, column].tolist()
    mean = sum(values) / 50
    variance = sum((v - mean) ** 2 for v in values) / 49
    assert found.mean[column] == pytest.approx(mean, rel=1e-12)
    assert found.std[column] == pytest.approx(max(variance**0.5, 1e-7), rel=1e-9)
  assert found.std[4] == 1e-7
