"""The description of a run: the papers' counts, and nothing is read."""

from __future__ import annotations

import pathlib
import runpy

import numpy as np
import pytest

from dynashare_jax import runs as main
from dynashare_jax import types
from dynashare_jax.train import outline

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _paper_config(blocks):
  """The papers' two-task network on images of 224 x 224."""
  config = runpy.run_path(str(ROOT / "configs" / "rooms.py"))["get_config"]()
  base = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]()
  config.method = "adashare"
  config.model.update(base.model)
  config.model.blocks = blocks
  config.data.update(height=224, width=224, tasks=("segmentation", "normals"))
  return config


def _row(text, name):
  found = [line for line in text.splitlines() if line.strip().startswith(name)]
  assert len(found) == 1, (name, found)
  return found[0].split()[-1].replace(",", "")


@pytest.mark.parametrize(
  "blocks, skipped, giga, backbone",
  [
    ((2, 2, 2, 2), ((2,), (6,)), 18.48, 11_176_512),
    ((3, 4, 6, 3), ((6, 7, 9, 13), (3, 10)), 33.35, 21_284_672),
  ],
)
def test_the_papers_counts_come_back(blocks, skipped, giga, backbone):
  route = ",".join(
    "".join(str(int(block + 1 not in skips)) for block in range(sum(blocks))) for skips in skipped
  )
  text = main.describe(_paper_config(blocks), route)
  papers = float(_row(text, "the route by the papers' convention"))
  assert round(papers / 1000, 2) == giga
  assert int(_row(text, "backbone ")) == backbone
  # Both tasks share the stem and the blocks before they part: less work.
  plan = float(_row(text, "the route's plan, all heads"))
  assert plan < papers < float(_row(text, "a pass a task, all blocks"))
  assert any(line.split() == ["stem", "57", "x", "57", "x", "64"] for line in text.splitlines())


def test_phases_are_told_in_order():
  config = runpy.run_path(str(ROOT / "configs" / "rooms.py"))["get_config"]()
  config.balance.name = "nash"
  text = main.describe(config)
  rows = [line.split() for line in text.splitlines()]
  steps = {}
  for row in rows:
    if row and row[0] in ("warmup", "weights", "policy", "trial", "retrain"):
      steps.setdefault(row[0], row[1:4])
  assert steps["warmup"][0] == "240"
  assert steps["weights"] == ["8", "x", "20"]
  assert steps["policy"] == ["8", "x", "10"]
  assert steps["trial"] == ["2", "x", "80"]
  assert steps["retrain"][0] == "320"
  assert "970 steps of 16 examples in all" in text
  told = "balancer nash: reads inner products of gradients, 3 backward passes of the trunk a step"
  assert told in text
  config.method, config.balance.name = "single", "famo"
  text = main.describe(config)
  assert "3 networks with heads" in text
  assert "balancer famo: reads losses before and after the update, one more forward" in text


def test_routes_are_checked():
  np.testing.assert_array_equal(outline.read_route("101, 011"), [[1, 0, 1], [0, 1, 1]])
  for bad in ("10,1", "12,11"):
    with pytest.raises(ValueError, match="rows of 0 and 1 of one length"):
      outline.read_route(bad)
  with pytest.raises(ValueError, match="has 1 tasks and 3 blocks; this network has 2 and 8"):
    main.describe(_paper_config((2, 2, 2, 2)), "101")


def test_a_description_cannot_be_read():
  spec = types.DatasetSpec("toy", (), "image", (9, 9, 3), {"train": 1})
  with pytest.raises(ValueError, match="train split of toy was not opened"):
    outline.without_data(spec).arrays("train")


def test_a_config_of_another_data_set_is_refused():
  config = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]()
  with pytest.raises(ValueError, match="config.data lacks height, kinds, noise"):
    main.describe(config)
