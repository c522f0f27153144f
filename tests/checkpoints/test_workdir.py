"""Tests of the folder of a run."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.checkpoints import workdir

CONFIG = {"data": {"name": "rooms", "size": 8}, "seed": 1, "sizes": (1, 2)}


def test_same_config_opens_again(tmp_path):
  path = workdir.open_workdir(tmp_path / "a" / "b", CONFIG)
  assert path == tmp_path / "a" / "b"
  assert json.loads((path / "config.json").read_text())["data"]["size"] == 8
  before = (path / "config.json").stat().st_mtime_ns
  workdir.open_workdir(path, ml_collections.ConfigDict(CONFIG))
  assert (path / "config.json").stat().st_mtime_ns == before


def test_other_config_names_keys_with_both_values(tmp_path):
  workdir.open_workdir(tmp_path, CONFIG)
  other = {"data": {"name": "rooms", "size": 9}, "seed": 1, "extra": {"x": "y"}}
  with pytest.raises(ValueError) as error:
    workdir.open_workdir(tmp_path, other)
  text = str(error.value)
  assert "data.size: 8 there, 9 now" in text
  assert "sizes: [1, 2] there, <absent> now" in text
  assert 'extra.x: <absent> there, "y" now' in text
  assert "--workdir" in text
  assert "seed" not in text and "data.name" not in text


@pytest.mark.parametrize("ignore", [("data.size",), ("data",)])
def test_ignored_keys_may_differ(tmp_path, ignore):
  workdir.open_workdir(tmp_path, CONFIG)
  other = CONFIG | {"data": {"name": "rooms", "size": 9}}
  workdir.open_workdir(tmp_path, other, ignore=ignore)
  with pytest.raises(ValueError, match="seed"):
    workdir.open_workdir(tmp_path, other | {"seed": 2}, ignore=ignore)


def test_not_writable_is_one_clear_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="Cannot write.*Choose another"):
    workdir.open_workdir(tmp_path / "file" / "run", CONFIG)


def test_unreadable_config_is_a_clear_error(tmp_path):
  (tmp_path / "config.json").write_text('{"data"')
  with pytest.raises(ValueError, match="Cannot read .*config.json"):
    workdir.open_workdir(tmp_path, CONFIG)


def test_other_processes_write_nothing(tmp_path):
  workdir.open_workdir(tmp_path / "run", CONFIG, primary=False)
  assert not (tmp_path / "run").exists()


def test_a_link_in_the_way_is_not_followed(tmp_path):
  (tmp_path / "other").write_text("of another")
  (tmp_path / ".a.json.tmp").symlink_to(tmp_path / "other")
  workdir.write_text(tmp_path / "a.json", "1")
  assert (tmp_path / "a.json").read_text() == "1" and not (tmp_path / "a.json").is_symlink()
  assert (tmp_path / "other").read_text() == "of another"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "other"]


def test_write_json_values(tmp_path):
  path = tmp_path / "x.json"
  workdir.write_json(
    path,
    {
      "nan": float("nan"),
      "inf": np.float32(np.inf),
      "np": np.float32(0.5),
      "int": np.int64(3),
      "flag": np.bool_(True),
      "jax": jnp.float32(0.25),
      "array": jnp.arange(4).reshape(2, 2),
      "half": jnp.ones(2, jnp.bfloat16),
      "holes": np.array([1.0, np.nan]),
      2: (1, None),
    },
  )
  assert json.loads(path.read_text()) == {
    "nan": None,
    "inf": None,
    "np": 0.5,
    "int": 3,
    "flag": True,
    "jax": 0.25,
    "array": [[0, 1], [2, 3]],
    "half": [1.0, 1.0],
    "holes": [1.0, None],
    "2": [1, None],
  }


def test_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "x.json"
  workdir.write_json(path, {"a": 1})
  with pytest.raises(ValueError, match="JSON cannot hold"):
    workdir.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_plain_can_keep_nan():
  assert np.isnan(workdir.plain({"a": float("nan")}, nan_to_null=False)["a"])


def test_a_data_set_comes_back_equal(tmp_path):
  table = types.TableSpec(("c",), (3,), ("n",), ((0.1, np.float32(0.2), 1e300),), (("x", "ü"),))
  spec = types.DatasetSpec(
    "name",
    (types.TaskSpec("a", "binary", classes=("no", "yes"), class_weights=(0.1, 2.0)),),
    "table",
    (2,),
    {"train": np.int64(5), "test": 2},
    table,
    crop=(4, 8),
    channels=((0, 1), ()),
  )
  workdir.write_spec(tmp_path, dataclasses.replace(spec, private=True))  # has values: stays out
  assert workdir.read_spec(tmp_path) is None
  workdir.write_spec(tmp_path, spec)
  workdir.write_spec(tmp_path, dataclasses.replace(spec, name="other"))  # the first one stays
  found = workdir.read_spec(tmp_path)
  assert found == spec
  assert hash((found.tasks, found.table, found.crop, found.channels, found.notes))
  text = (tmp_path / workdir.SPEC).read_text()
  (tmp_path / workdir.SPEC).write_text(
    text.replace('"input_kind": "table"', '"input_kind": "tables"')
  )
  with pytest.raises(ValueError, match="its input_kind is 'tables'"):
    workdir.read_spec(tmp_path)
  (tmp_path / workdir.SPEC).write_text('{"name": 1}')
  with pytest.raises(ValueError, match="spec.json cannot be read"):
    workdir.read_spec(tmp_path)
