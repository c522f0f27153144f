"""Converted stays: resumed, checked against their files, opened at once."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import shutil

from data.mimic3 import writer as mimic3_writer
from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax.data.mimic3 import convert as mimic3_convert
from dynashare_jax.data.mimic3 import dataset as mimic3
from dynashare_jax.data.mimic3 import store as mimic3_store

FIRST = "train/100_episode1_timeseries.csv"


@pytest.fixture
def folder(tmp_path):
  return mimic3_writer.few(tmp_path / "data")


@pytest.fixture
def conversions(monkeypatch):
  """Names of the parts that were read from their files, as they are."""
  found = []
  read = mimic3_convert._read

  def counted(part, source, problems):
    found.append(part.file)
    return read(part, source, problems)

  monkeypatch.setattr(mimic3_convert, "_read", counted)
  return found


def _build(folder, **values):
  config = ConfigDict({**mimic3.defaults(), "workers": 1, **values})
  return mimic3.build(config, ConfigDict(mimic3.compat()), str(folder) if folder else None, 0)


def _series(dataset):
  return np.concatenate([dataset.arrays(s).inputs["series"] for s in dataset.spec.sizes])


def _index(folder):
  path = folder / "dynashare_cache" / "mimic3" / "index.json"
  return json.loads(path.read_text())


def test_converted_once_and_only_readable_by_the_owner(folder, conversions):
  first = _series(_build(folder))
  assert conversions == ["train-00000.npz", "validation-00000.npz", "test-00000.npz"]
  np.testing.assert_array_equal(_series(_build(folder)), first)
  assert len(conversions) == 3
  cache = folder / "dynashare_cache"
  assert [p.name for p in cache.iterdir()] == ["mimic3"]
  assert cache.stat().st_mode & 0o077 == 0
  assert _index(folder)["stays"] == {"train": 6, "validation": 2, "test": 3}


def test_the_folder_above_is_found_too(tmp_path, conversions):
  folder = mimic3_writer.few(tmp_path / "multitask")
  _build(tmp_path)
  assert (tmp_path / "dynashare_cache" / "mimic3").is_dir()
  _build(folder, cache=str(tmp_path / "dynashare_cache"))
  assert len(conversions) == 3


def test_a_conversion_that_was_stopped_goes_on(folder, conversions, monkeypatch):
  monkeypatch.setattr(mimic3_convert, "STAYS", 2)
  whole = _series(_build(folder, cache=str(folder / "other")))
  assert len(conversions) == 6
  conversions.clear()
  convert = mimic3_convert.convert_part

  def stopped(part, source, target):
    if part.file == "train-00002.npz":
      raise KeyboardInterrupt
    return convert(part, source, target)

  with monkeypatch.context() as patch:
    patch.setattr(mimic3_convert, "convert_part", stopped)
    with pytest.raises(KeyboardInterrupt):
      _build(folder)
  partial = folder / "dynashare_cache" / ".mimic3.partial"
  assert sorted(p.name for p in partial.iterdir()) == ["train-00000.npz", "train-00001.npz"]
  damaged = partial / "train-00001.npz"
  damaged.write_bytes(damaged.read_bytes()[:-40])
  conversions.clear()
  np.testing.assert_array_equal(_series(_build(folder)), whole)
  assert conversions == [
    "train-00001.npz",
    "train-00002.npz",
    "validation-00000.npz",
    "test-00000.npz",
    "test-00001.npz",
  ]
  assert not partial.exists()


def test_parts_of_files_that_changed_meanwhile_are_made_anew(folder, conversions, monkeypatch):
  monkeypatch.setattr(mimic3_convert, "STAYS", 2)
  with monkeypatch.context() as patch:
    patch.setattr(mimic3_store, "_assemble", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      _build(folder)
  assert len(conversions) == 6
  conversions.clear()
  path = folder / FIRST
  path.write_text(path.read_text().replace("91.4142", "91.5"))
  _build(folder)
  assert conversions == ["train-00000.npz"]


def test_worker_processes_make_the_same(folder, monkeypatch):
  monkeypatch.setattr(mimic3_convert, "STAYS", 3)
  alone = _series(_build(folder, cache=str(folder / "alone")))
  together = _series(_build(folder, cache=str(folder / "two"), workers=2))
  np.testing.assert_array_equal(alone, together)
  path = folder / FIRST
  path.write_text(path.read_text().replace("91.4142", "much"))
  with pytest.raises(ValueError, match=r"1 problem;(.|\n)*100_episode1"):
    _build(folder, cache=str(folder / "two"), workers=2)


def test_new_times_alone_convert_nothing_and_are_remembered(folder, conversions):
  _build(folder)
  before = _index(folder)["listfiles"]["test_listfile.csv"]
  for name in (FIRST, "test_listfile.csv"):
    os.utime(folder / name, (1, 1))
  _build(folder)
  after = _index(folder)["listfiles"]["test_listfile.csv"]
  assert after[1] == 10**9 != before[1]
  assert after[::2] == before[::2]
  inputs = np.load(folder / "dynashare_cache/mimic3/train.inputs.npy")
  assert inputs[0, 1] == 10**9
  _build(folder, verify=True)
  assert len(conversions) == 3


@pytest.mark.parametrize("name", [FIRST, "train_listfile.csv"])
def test_new_contents_are_converted(folder, conversions, name):
  first = _build(folder).arrays("train")
  path = folder / name
  if name == FIRST:
    path.write_text(path.read_text().replace("91.4142", "55.4142"))
  else:
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], *lines[2:]]))
  second = _build(folder).arrays("train")
  assert len(conversions) == 6
  if name == FIRST:
    assert (second.inputs["series"] != first.inputs["series"]).any()
  else:
    np.testing.assert_array_equal(second.inputs["series"], first.inputs["series"][1:])


def test_verify_sees_what_sizes_and_times_do_not(folder, conversions):
  _build(folder)
  path = folder / FIRST
  stat = path.stat()
  path.write_text(path.read_text().replace("91.4142", "55.4142"))
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  _build(folder)
  assert len(conversions) == 3
  found = _build(folder, verify=True)
  assert len(conversions) == 6
  again = _build(folder, cache=str(folder / "other"))
  np.testing.assert_array_equal(_series(found), _series(again))


def test_a_damaged_store_is_made_again(folder, conversions):
  wanted = _series(_build(folder))
  path = folder / "dynashare_cache" / "mimic3" / "train.numbers.npy"
  path.write_bytes(path.read_bytes()[:-1])  # seen by its size
  np.testing.assert_array_equal(_series(_build(folder)), wanted)
  assert len(conversions) == 6
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)  # seen by its contents alone
  assert (_series(_build(folder)) != wanted).any()
  np.testing.assert_array_equal(_series(_build(folder, verify=True)), wanted)
  assert len(conversions) == 9


def test_a_store_of_another_version_is_made_again(folder, conversions, monkeypatch):
  _build(folder)
  monkeypatch.setattr(mimic3_convert, "FORMAT", 2)
  _build(folder)
  assert len(conversions) == 6 and _index(folder)["format"] == 2


def test_a_bad_file_leaves_the_store_of_before(folder, conversions):
  _build(folder)
  before = _index(folder)
  path = folder / FIRST
  good = path.read_bytes()
  path.write_text(path.read_text().replace("91.4142", "much"))
  with pytest.raises(ValueError, match="1 problem; nothing was converted"):
    _build(folder)
  assert [p.name for p in (folder / "dynashare_cache").iterdir()] == ["mimic3"]
  path.write_bytes(good)
  conversions.clear()
  _build(folder)
  assert not conversions
  assert _index(folder)["stays"] == before["stays"]


def test_a_stay_that_is_gone_is_named(folder):
  _build(folder)
  (folder / FIRST).unlink()
  with pytest.raises(ValueError, match=f"there is no file {FIRST}"):
    _build(folder)


def test_without_the_text_files(folder, tmp_path):
  wanted = _series(_build(folder))
  moved = tmp_path / "moved"
  shutil.move(folder / "dynashare_cache", moved)
  np.testing.assert_array_equal(_series(_build(None, cache=str(moved))), wanted)
  with pytest.raises(
    ValueError, match="holds no complete converted copy of MIMIC-III; give config.data_dir"
  ):
    _build(None, cache=str(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_written_to(folder, tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  with pytest.raises(ValueError) as error:
    _build(folder, cache=str(blocked / "cache"))
  assert str(error.value).startswith(
    f"The folder {blocked / 'cache'} for the converted MIMIC-III stays cannot"
    " be written to (Not a directory). Name another one in config.data.cache"
  )


def test_a_full_disk_is_told_and_half_a_part_is_not_left(folder, tmp_path, monkeypatch):
  def full(file, **arrays):
    file.write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(mimic3_convert.np, "savez", full)
  with pytest.raises(ValueError, match="No space left on device"):
    _build(folder, cache=str(tmp_path / "cache"))
  assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_several_at_once_convert_once(folder, conversions):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda _: _build(folder), range(4)))
  assert len(conversions) == 3
  for dataset in found[1:]:
    np.testing.assert_array_equal(_series(dataset), _series(found[0]))
  assert [p.name for p in (folder / "dynashare_cache").iterdir()] == ["mimic3"]


def test_a_processes_that_dies_is_told(folder, monkeypatch):
  monkeypatch.setattr(mimic3_convert, "STAYS", 2)

  class Broken:
    def __init__(self, *arguments):
      del arguments

    def map(self, *arguments):
      del arguments
      yield from ()
      raise concurrent.futures.process.BrokenProcessPool()

    def shutdown(self, **options):
      del options

  monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Broken)
  with pytest.raises(ValueError, match="Set config.data.workers=1 to convert"):
    _build(folder, workers=2)


def test_paths_of_the_store_can_be_anything(tmp_path):
  folder = mimic3_writer.few(tmp_path / "[red] 100% déjà")
  assert _build(folder).spec.sizes["test"] == 3
  assert pathlib.Path(folder / "dynashare_cache" / "mimic3").is_dir()
