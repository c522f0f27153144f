"""Tests of budgets and settings as data."""

from __future__ import annotations

import pytest

from dynashare_jax.infer import settings

FOUND = settings.Measured(0.5, 0.6, 0.7, {"a": {"accuracy": 80.0}})


@pytest.mark.parametrize("value", (0.0, -1.0, float("nan"), float("inf")))
def test_a_budget_is_a_positive_number(value):
  with pytest.raises(ValueError, match="must be above 0"):
    settings.Budget(value)


def test_an_unknown_unit_is_refused():
  with pytest.raises(ValueError, match="'watt'; it must be one of"):
    settings.Budget(1.0, "watt")


def test_met_is_in_the_budgets_unit():
  setting = settings.Setting("rate", 0.5, (0.0,), 1.0, FOUND)
  assert setting.met() == 0.5
  assert settings.Setting("flops", 0.6, (0.0,), 1.0, FOUND).met() == 0.6
  timed = settings.Setting("ms", 2.0, (0.0,), 1.0, FOUND, None, 8, 2.1, 2.0)
  assert timed.met() == 2.1
  with pytest.raises(ValueError, match="not measured on test"):
    setting.met("test")


@pytest.mark.parametrize("text", (None, "{}", "[", '{"thresholds": "x"}'))
def test_a_file_without_a_setting_is_refused(tmp_path, text):
  path = tmp_path / "x.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(ValueError, match="holds no budget setting"):
    settings.read(path)
