"""What data sets of pictures share: splits, sources, augmentation."""

from __future__ import annotations

import pickle

import ml_collections
import numbered_source
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data.pictures import dataset as dense

TASKS = (types.TaskSpec("depth", "depth", unit="m"),)
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **dense.compat()})
KEYS = {"train": tuple(map(str, range(10))), "test": ("10", "11", "12", "14")}


def _config(**values):
  return ml_collections.ConfigDict({**dense.defaults(), "crop": (8, 8), **values})


def _found(keys=KEYS):
  return dense.Found("numbers", keys, numbered_source.read, numbered_source.decode, ("a note",))


def _build(config=None, switches=SWITCHES, keys=KEYS):
  return dense.assemble("numbered", TASKS, _found(keys), config or _config(), switches)


def test_a_share_of_train_validates_and_test_stays_whole():
  dataset = _build(_config(validation_share=0.2))
  train, validation, test = (dataset.source(s).keys for s in types.SPLITS)
  assert (len(train), len(validation)) == (8, 2)
  assert sorted(train + validation, key=int) == list(KEYS["train"])
  assert test == KEYS["test"]
  assert dataset.spec.sizes == {"train": 8, "validation": 2, "test": 4}
  assert dataset.spec.notes == (
    "found: numbers",
    "validation: 2 of 10 training examples, seeded",
    "a note",
  )
  other = _build(_config(validation_share=0.2, split_seed=1))
  assert other.source("validation").keys != validation


def test_one_half_of_test_validates():
  dataset = _build(_config(validation="test"))
  validation, test = (dataset.source(s).keys for s in ("validation", "test"))
  assert dataset.source("train").keys == KEYS["train"]
  assert len(validation) == len(test) == 2
  assert sorted(validation + test, key=int) == list(KEYS["test"])


def test_an_official_validation_split_is_kept():
  dataset = _build(keys=KEYS | {"validation": ("20", "21")})
  assert dataset.source("validation").keys == ("20", "21")
  assert dataset.source("train").keys == KEYS["train"]
  assert dataset.spec.notes[1] == "official validation split"
  same = _build(keys=KEYS | {"validation": KEYS["test"]})
  assert same.spec.notes[1] == "validation and test are the same examples"


def test_the_authors_select_on_test():
  switches = ml_collections.ConfigDict({**SWITCHES, "selection": "test"})
  dataset = _build(switches=switches)
  assert dataset.source("validation").keys == KEYS["test"]
  assert dataset.source("test").keys == KEYS["test"]
  assert dataset.source("train").keys == KEYS["train"]
  assert "compat.selection" in dataset.spec.notes[1]


def test_arrays_hold_what_the_source_reads():
  dataset = _build()
  source, arrays = dataset.source("test"), dataset.arrays("test")
  assert arrays is dataset.arrays("test")
  for place in range(4):
    one = source[place]
    np.testing.assert_array_equal(arrays.inputs[place], one.inputs)
    np.testing.assert_array_equal(arrays.valid["depth"][place], one.valid["depth"])
  twin = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(twin[1].inputs, source[1].inputs)


def test_the_config_says_how_examples_are_varied():
  augment = _build(_config(scales=(0.8, 1.0), mirror=False)).augment
  assert (augment.crop, augment.scales) == ((8, 8), (0.8, 1.0))
  assert not augment.mirror and augment.depth_scaled
  authors = ml_collections.ConfigDict({**SWITCHES, "depth": "unscaled", "mirror": "plain"})
  augment = _build(switches=authors).augment
  assert not augment.depth_scaled and not augment.normals_negated
  plain = _build(_config(augment=False))
  assert plain.augment is None and plain.spec.crop is None
  assert _build().spec.crop == (8, 8)


def test_an_unreadable_example_is_named():
  dataset = _build(keys=KEYS | {"test": ("10", "13")})
  with pytest.raises(ValueError, match=r"Example '13': cannot read 13.png"):
    dataset.source("test")[1]


def test_examples_of_another_size_are_refused():
  source = dense.Source(("1",), numbered_source.read, numbered_source.decode, (10, 16, 3))
  with pytest.raises(ValueError, match="'1' is 10 x 12, the first one 10 x 16"):
    source[0]


@pytest.mark.parametrize(
  "values, message",
  [
    ({"validation": "val"}, "must be one of train, test"),
    ({"validation_share": 1.0}, "cannot be split"),
    ({"crop": (3, 3, 3)}, "config.data.crop must be two numbers"),
  ],
)
def test_wrong_values(values, message):
  with pytest.raises(ValueError, match=message):
    _build(_config(**values))


def test_wrong_switches_and_empty_splits():
  wrong = ml_collections.ConfigDict({**SWITCHES, "depth": "both"})
  with pytest.raises(ValueError, match="compat.depth is 'both'"):
    _build(switches=wrong)
  with pytest.raises(ValueError, match="found 10 and 0"):
    _build(keys=KEYS | {"test": ()})


def test_an_outline_needs_no_files():
  spec = dense.outline(
    "numbered", TASKS, (10, 12), {"train": 10, "test": 4}, _config(validation_share=0.2), SWITCHES
  )
  assert spec.input_shape == (10, 12, 3) and spec.crop == (8, 8)
  assert spec.sizes == {"train": 8, "validation": 2, "test": 4}
