"""Tests of the paths from all closed to all open."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dynashare_jax.infer import closing

QUARTILES = np.array([[0.0, -1.0], [0.0, 0.5], [0.0, 1.0]])


def test_levels_are_quartiles_and_ends_are_beyond_every_score():
  for level, want in ((0, -closing.FAR), (1, -1.0), (2, 0.5), (3, 1.0), (4, closing.FAR)):
    found = closing.thresholds(np.array([0.0, level]), QUARTILES)
    assert found[1] == want


def test_thresholds_rise_with_the_level_without_a_jump():
  levels = np.linspace(0, 4, 4001)
  found = [closing.thresholds(np.array([0.0, v]), QUARTILES)[1] for v in levels]
  assert (np.diff(found) > 0).all()
  inner = [f for v, f in zip(levels, found, strict=True) if 0.5 <= v <= 3.5]
  assert np.diff(inner).max() < 0.01
  # Half a level beyond a quartile is one range between quartiles further.
  assert found[500] == pytest.approx(-3.0)
  assert found[3500] == pytest.approx(3.0)


def test_next_to_close_is_what_costs_least_score_for_its_work():
  """Block 1 saves 0.4 and loses nothing until level 3; block 2 saves little."""
  asked = []

  def try_levels(levels):
    asked.append(tuple(levels))
    saved = 0.1 * levels[1] + 0.02 * levels[2]
    lost = 0.2 * max(levels[1] - 2, 0) + 0.01 * levels[2]
    return 1 - saved, 1 - lost

  nodes = closing.order(try_levels, [1, 2], 3)
  steps = [int(np.argmax(b - a)) for a, b in itertools.pairwise(nodes)]
  # Ratios: block 1 is 0, 0, then 2; block 2 is 0.5 throughout.
  assert steps == [1, 1, 2, 2, 2, 2, 1, 1]
  assert nodes[0].tolist() == [0, 0, 0] and nodes[-1].tolist() == [0, 4, 4]
  assert len(asked) <= 2 * 8 + 1  # lazily, not all blocks at every step


def test_a_block_that_improves_the_score_closes_first():
  def try_levels(levels):
    return 1 - 0.1 * levels.sum(), 1 + 0.1 * levels[1] - 0.1 * levels[0]

  nodes = closing.order(try_levels, [0, 1], 2)
  assert [n.tolist() for n in nodes[:5]] == [[0, k] for k in range(5)]


def test_path_ends_exactly_and_leaves_other_blocks_at_zero():
  nodes = [np.array([0.0, 4.0]), np.array([0.0, 2.0]), np.array([0.0, 0.0])]
  path = closing.along(nodes, QUARTILES, 0.7)
  assert path(0.0)[0].tolist() == [0.0, closing.FAR]
  assert path(0.5)[0].tolist() == [0.0, 0.5]
  assert path(1.0)[0].tolist() == [0.0, -closing.FAR]
  assert path(0.25)[0][1] == pytest.approx(1.0)  # level 3
  assert path(0.3)[1] == 0.7


def test_told_gates_go_through_the_trained_range_with_threshold_zero():
  path = closing.sampled((False, True), 0.2, 1.0)
  for position, threshold, rate in (
    (0.0, closing.FAR, 0.2),
    (1 / 6, 1.0, 0.2),
    (0.5, 0.0, 0.6),
    (5 / 6, -1.0, 1.0),
    (1.0, -closing.FAR, 1.0),
  ):
    found = path(position)
    np.testing.assert_allclose(found[0], [0, threshold], rtol=1e-9)
    assert found[1] == pytest.approx(rate)
  places = np.linspace(0, 1, 301)
  thresholds = [path(p)[0][1] for p in places]
  rates = [path(p)[1] for p in places]
  assert (np.diff(thresholds) <= 1e-9).all() and (np.diff(rates) >= 0).all()
