"""The front of hard sharing: who is beaten, what is drawn, what is trained."""

from __future__ import annotations

import math
import pathlib
import types

import pytest

from benchmarks.inference import front
from dynashare_jax.report import style


def _point(delta, together, apart=None):
  ms = {"together": (together,) * 2, "apart": (apart or together,) * 2}
  share = {"together": (100.0, 100.0), "apart": (100.0, 100.0)}
  return front.Point((delta - 1, delta + 1), ms, share, 10)


@pytest.fixture
def points():
  found = {
    front.hard(width): _point(delta, ms)
    for width, delta, ms in zip(front.WIDTHS, (2, 1, 0, -3), (8, 6, 4, 2), strict=True)
  }
  found["adashare"] = _point(1.5, 9.0, 7.0)  # apart better than a width as fast
  found["dynashare"] = _point(1.0, 6.0, 6.5)  # as a width, or beaten by it
  return found | {front.OPEN: _point(0.5, 7.0), "single": _point(0, 12.0)}


def test_who_is_beaten_by_a_width(points):
  together = front.sentence(points, "together")
  assert together.startswith("Served together, **every learned network is beaten**")
  apart = front.sentence(points, "apart")
  assert "in at most the time of** adashare (+1.50%, 7 ms) (means)." in apart
  assert "dynashare" not in apart
  unknown = points | {name: _point(math.nan, 1.0) for name in (*front.LEARNED, front.OPEN)}
  assert front.sentence(unknown, "apart") == "Served apart, no learned network has a Delta."


def test_the_front_is_drawn_and_all_networks_are_marked(points):
  with style.look():
    axes = front.figure(points).axes
  assert [a.get_title("left") for a in axes] == ["served together", "served apart"]
  line = next(line for line in axes[0].lines if line.get_drawstyle() == "steps-post")
  ends = [(2, -3), (4, 0), (6, 1), (8, 2), (pytest.approx(1.08 * 12), 2)]
  assert list(zip(*line.get_data(), strict=True)) == ends
  shown = {tuple(float(v[0]) for v in bars.lines[0].get_data()) for bars in axes[1].containers}
  assert shown >= {(7.0, 1.5), (6.5, 1.0), (7.0, 0.5), (12.0, 0.0)} and len(shown) == 8
  assert {text.get_text() for text in axes[1].texts} == set(front.WIDTHS)


def test_a_row_a_network(points):
  text = front.section("conflict", front.CASES["conflict"], points, "front.png")
  assert "| adashare " in text and "+1.50 ± 1.41" in text and "(front.png)" in text


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_all_are_trained_as_long_as_the_longest_search(monkeypatch):
  steps = {"adashare": 70, "dynashare": 90}

  def untrained(config):
    return types.SimpleNamespace(experiment=types.SimpleNamespace(total_steps=steps[config.method]))

  monkeypatch.setattr(front.runs_lib, "untrained", untrained)
  for name, wanted in (("conflict", "model.hidden=18"), ("rooms", "model.width_factor=0.75")):
    found, longest = front.jobs(front.CASES[name], [3], pathlib.Path("out"), ["eval.pictures=1"])
    (job,) = found[front.hard("3/4")]
    assert longest == 90 and job.folder == pathlib.Path("out/hard-0.75-3")
    assert {f"--config.{wanted}", "--config.train.steps=90", "--config.seed=3"} <= set(
      job.arguments
    )
    assert ("--config.data.number=3" in job.arguments) == (name == "conflict")
    assert "--config.eval.pictures=1" in job.arguments
    assert not any("train.steps" in argument for argument in found["adashare"][0].arguments)
    assert "--config.train.steps=90" in found["single"][0].arguments
