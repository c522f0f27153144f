"""The vision configurations: the papers' networks, without any data."""

from __future__ import annotations

import pathlib
import runpy

import pytest

from dynashare_jax import runs as main

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Blocks that the papers' routes skip, from 1, a row a task.
R18_SKIPS, R34_SKIPS = ((2,), (6,)), ((6, 7, 9, 13), (3, 10))


def _config(name, *setting):
  path = str(ROOT / "configs" / f"{name}.py")
  return runpy.run_path(path)["get_config"](*setting)


def _row(text, name):
  found = [line for line in text.splitlines() if line.strip().startswith(name)]
  assert len(found) == 1, (name, found)
  return found[0].split()[-1].replace(",", "")


@pytest.mark.parametrize(
  "name, setting, skips, backbone, heads, giga",
  [
    ("nyuv2", "2task", R18_SKIPS, 11_176_512, (40, 3), 18.48),
    ("cityscapes", "2task", R34_SKIPS, 21_284_672, (19, 1), 33.35),
  ],
)
def test_the_papers_figures_need_no_data(name, setting, skips, backbone, heads, giga):
  config = _config(name, setting)
  blocks = sum(config.model.blocks)
  route = ",".join("".join(str(int(b + 1 not in row)) for b in range(blocks)) for row in skips)
  text = main.describe(config, route)
  small = float(_row(text, "the same at 224 x 224, the papers' figure"))
  assert round(small / 1000, 2) == giga
  assert int(_row(text, "backbone ")) == backbone
  assert int(_row(text, "heads ")) == sum(23_076_864 + 4100 * c for c in heads)
  # At native resolution, with heads, the network is far larger than that.
  native = float(_row(text, "a pass a task, all blocks, all heads"))
  assert native > 5 * small


@pytest.mark.parametrize(
  "name, setting, tasks, depth",
  [
    ("nyuv2", "2task", 2, 18),
    ("nyuv2", "3task", 3, 34),
    ("nyuv2", "2task-r34", 2, 34),
    ("nyuv2", "3task-r18", 3, 18),
    ("cityscapes", "2task", 2, 34),
    ("cityscapes", "7class", 2, 34),
    ("cityscapes", "3task", 3, 34),
    ("taskonomy", None, 5, 34),
  ],
)
def test_every_setting_can_be_built(name, setting, tasks, depth):
  config = _config(name, *([setting] if setting else []))
  module = main.find_dataset(config.dataset)
  assert set(config.data) == set(module.defaults())
  assert set(module.compat()) <= set(config.compat)
  spec = module.outline(config.data, config.compat)
  assert len(spec.tasks) == tasks
  assert spec.crop == tuple(config.data.crop)
  assert sum(config.model.blocks) == {18: 8, 34: 16}[depth]
  assert len(config.gates.target_rates) == sum(config.model.blocks)
  for switch, value in module.compat().items():
    assert config.compat[switch] == value


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_an_unknown_setting_is_refused(name):
  with pytest.raises(ValueError, match=f"{name}.py:4task: choose one of 2task"):
    _config(name, "4task")


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes", "taskonomy"])
def test_without_data_a_run_says_where_to_get_it(name):
  with pytest.raises(ValueError) as error:
    main.build(_config(name))
  assert "config.data_dir" in str(error.value)
  assert "https://" in str(error.value)
