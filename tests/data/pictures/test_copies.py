"""Every data set of pictures reads the same from a converted copy."""

from __future__ import annotations

from data.celeba import test_dataset as test_celeba
from data.cityscapes import test_dataset as test_cityscapes
from data.nyuv2 import test_dataset as test_nyuv2
from data.pascal_context import test_dataset as test_pascal
from data.taskonomy import test_dataset as test_taskonomy
import jax
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data.celeba import dataset as celeba
from dynashare_jax.data.cityscapes import dataset as cityscapes
from dynashare_jax.data.nyuv2 import dataset as nyuv2
from dynashare_jax.data.pascal_context import dataset as pascal_context
from dynashare_jax.data.pictures import store_writer
from dynashare_jax.data.taskonomy import dataset as taskonomy

pytest.importorskip("array_record", reason="pip install dynashare-jax[tfds]")
pytest.importorskip("tensorflow_datasets")

ALL = ("segmentation", "normals", "depth")
CASES = {
  "celeba-official": (
    celeba,
    test_celeba,
    lambda path: test_celeba._write(path),
    {"tasks": ("clothes", "Bald", "gender")},
  ),
  "pascal_context-astmt": (pascal_context, test_pascal, lambda path: test_pascal._write(path), {}),
  "nyuv2-adashare": (
    nyuv2,
    test_nyuv2,
    lambda path: test_nyuv2._adashare(path),
    {"tasks": ALL, "samples_only": True},
  ),
  "nyuv2-mtan": (
    nyuv2,
    test_nyuv2,
    lambda path: test_nyuv2._mtan(path),
    {"tasks": ALL, "classes": 13},
  ),
  "cityscapes-official": (
    cityscapes,
    test_cityscapes,
    lambda path: test_cityscapes._official(path),
    {"depth": "metres", "tasks": ("segmentation", "parts", "depth")},
  ),
  "cityscapes-adashare": (
    cityscapes,
    test_cityscapes,
    lambda path: test_cityscapes._adashare(path),
    {},
  ),
  "taskonomy-official": (
    taskonomy,
    test_taskonomy,
    lambda path: test_taskonomy._official(path),
    {},
  ),
  "taskonomy-adashare": (
    taskonomy,
    test_taskonomy,
    lambda path: test_taskonomy._adashare(path),
    {"tasks": ("normals", "edges"), "validation_share": 0.5},
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_copy_gives_the_same_examples(tmp_path, name):
  module, tests, write, values = CASES[name]
  raw, copy = tmp_path / "raw", tmp_path / "copy"
  raw.mkdir()
  write(raw)
  config, switches = tests._config(**values), tests._switches()
  found = module.original(config, switches, str(raw))
  store_writer.convert(found, config.get("dataset", name.split("-")[0]), str(copy))
  first = module.build(config, switches, str(raw), 0)
  second = module.build(config, switches, str(copy), 0)
  assert second.spec.tasks == first.spec.tasks
  assert second.spec.notes[0] == f"found: converted copy of {found.layout}"
  assert second.spec.notes[1:] == first.spec.notes[1:]
  for split in types.SPLITS:
    one, two = first.source(split), second.source(split)
    assert two.keys == one.keys
    for place in range(len(one)):
      jax.tree.map(np.testing.assert_array_equal, one[place], two[place])


def test_a_copy_of_taskonomy_keeps_weights_and_how_pictures_shrank(tmp_path):
  raw, copy = tmp_path / "raw", tmp_path / "copy"
  raw.mkdir()
  test_taskonomy._official(raw)
  factors = np.linspace(0.5, 9, 17)
  np.save(raw / taskonomy.PRIOR, factors)
  config = test_taskonomy._config(height=4, width=6)
  prior = test_taskonomy._switches(class_weights="prior")
  store_writer.convert(taskonomy.original(config, prior, str(raw)), "taskonomy", str(copy))
  tasks = taskonomy.build(config, prior, str(copy), 0).spec.tasks
  assert tasks[0].class_weights == tuple(factors)
  picked = test_taskonomy._switches(pictures="nearest")
  with pytest.raises(ValueError, match="with config.compat.pictures='sm"):
    taskonomy.build(config, picked, str(copy), 0)


def test_a_copy_without_a_task_that_is_wanted(tmp_path):
  raw, copy = tmp_path / "raw", tmp_path / "copy"
  raw.mkdir()
  test_taskonomy._official(raw)
  config = test_taskonomy._config(tasks=("edges", "depth"))
  switches = test_taskonomy._switches()
  store_writer.convert(taskonomy.original(config, switches, str(raw)), "taskonomy", str(copy))
  wanted = test_taskonomy._config(tasks=("edges", "keypoints"))
  with pytest.raises(ValueError, match="without keypoints: convert again"):
    taskonomy.build(wanted, switches, str(copy), 0)
  with pytest.raises(ValueError, match="copy of 'taskonomy', not of 'nyuv2'"):
    nyuv2.build(test_nyuv2._config(), test_nyuv2._switches(), str(copy), 0)
