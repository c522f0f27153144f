"""What balancing is for: small problems on which classes of balancers must differ, or must not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.balancing import digits
from benchmarks.balancing import page
from benchmarks.balancing import toy
from dynashare_jax.report import style

FAR = toy.STARTS.index((9.0, 9.0))
FIRM = [n for n, start in enumerate(toy.STARTS) if start != (0.0, 0.0)]  # there, rounding decides


def test_the_front_of_the_toy():
  """Parabolas around -7 and 7, both -15.1 where they are equal."""
  np.testing.assert_allclose(toy.losses(np.array([0.0, -8.0])), toy.BEST, 1e-3)
  on = np.stack([toy.losses(np.array([x, -8.0])) for x in (-6.5, 0.0, 3.0)])
  assert (toy.distance(on) < toy.NEAR).all()
  off = np.stack([toy.losses(np.array(p)) for p in ((0.0, 0.0), (9.0, -8.0), (9.0, 9.0))])
  assert (toy.distance(off) > toy.NEAR).all()


@pytest.fixture(scope="module")
def descents():
  """A third of the benchmark's way at three times its rate, of balancers that compile quickly."""
  rows = {"fixed": (), "log": (), "unit": ("length=own",)}
  return {name: toy.descend([f"name={name}", *more], 10000, 3e-3) for name, more in rows.items()}


def test_scale_free_balancers_do_not_see_the_scale_of_a_loss(descents):
  for name in ("log", "unit"):
    plain, scaled = descents[name].worse[:, FIRM]
    assert abs(plain.mean() - scaled.mean()) < 0.6, name
    np.testing.assert_array_equal(*descents[name].reached[:, FIRM])
  # From below, the sum finds the middle of the front, or an end.
  plain, scaled = descents["fixed"].worse[:, -2:]
  assert (plain < toy.BEST + 0.5).all() and (scaled > toy.BEST + 3).all()


def test_the_sum_does_not_leave_the_valley_and_equal_gradients_do(descents):
  assert not descents["fixed"].reached[:, FAR].any()
  assert descents["unit"].reached.all()


def test_balancers_are_drawn(descents):
  with style.look():
    axes = toy.figure(descents).axes
  assert [a.get_title("left") for a in axes] == ["fixed", "log", "unit"]


@pytest.fixture(scope="module")
def accuracies():
  return {name: digits.accuracies([f"name={name}"], 400, 2) for name in ("fixed", "log", "unit")}


def test_nothing_differs_where_losses_have_one_scale(accuracies):
  even = [found[0].mean() for found in accuracies.values()]
  assert max(even) - min(even) < 2.5 and min(even) > 88


def test_the_sum_forgets_a_small_loss(accuracies):
  for name in ("log", "unit"):
    assert accuracies[name][1].min() > 85
    assert accuracies[name][1].mean() > accuracies["fixed"][1].mean() + 10


def test_errors_are_told_against_separate_networks():
  of = lambda *rows: {number: {"test": row} for number, row in enumerate(rows)}
  found = [
    ("single", 0.1, of([1.0, 2.0], [2.0, 4.0])),
    ("hard + sum", 0.1, of([2.0, 2.0], [2.0, 8.0])),
    ("hard + unit", 0.1, of([1.0, 1.0], [1.0, 1.0])),
  ]
  errors = page.relative(found)
  assert errors["hard + sum"] == {0: pytest.approx(50), 1: pytest.approx(50)}
  assert errors["hard + unit"] == {0: pytest.approx(-25), 1: pytest.approx(-62.5)}
  # 75 and 112.5 points: mean 93.75, deviation 26.5 over the root of 2.
  assert page.lead(errors, "hard + unit", "hard + sum") == pytest.approx((93.75, 18.75))
