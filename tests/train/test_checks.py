"""Tests of what is refused before any compute is spent."""

from __future__ import annotations

import math

import pytest
from tiny import configs

from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.train import checks


@pytest.mark.parametrize(
  ("name", "value", "told"),
  [
    ("policy.sparsity", math.nan, "a finite number, but is nan"),
    ("gates.weight", -math.inf, "a finite number, but is -inf"),
    ("gates.weight", -1.0, "at least 0, but is -1.0"),
    ("gates.hidden", 0, "at least 1, but is 0"),
    ("optimizers.retrain.weight_decay", -1e-4, "at least 0, but is -0.0001"),
    ("optimizers.policy.weight_decay", -1.0, "at least 0"),
    ("optimizers.warmup.b1", 1.5, "in [0, 1), but is 1.5"),
    ("optimizers.policy.b2", 1.0, "in [0, 1), but is 1.0"),
    ("optimizers.alternate.momentum", 1.0, "in [0, 1)"),
    ("optimizers.alternate.lr", -1.0, "at least 0"),
    ("optimizers.retrain.head_lr", math.nan, "a finite number"),
    ("model.dropout", 1.5, "in [0, 1), but is 1.5"),
    ("model.width", 0, "at least 1"),
    ("model.widths", (4, 0), "at least 1 each, but is (4, 0)"),
    ("model.std", (1.0, 0.0, 1.0), "above 0 each"),
    ("eval.batch_size", 0, "at least 1, but is 0"),
    ("train.batch_size", -8, "at least 0"),
    # Of another type than the usual value, which nothing converts.
    ("model.widths", (4.5, 8), "whole numbers, as (64, 128, 256, 512), but is (4.5, 8)"),
    ("model.blocks", (True, 1), "whole numbers"),
    ("model.blocks", ((1,), 1), "whole numbers"),
    ("model.std", ("a", "b", "c"), "numbers, as (1.0, 1.0, 1.0)"),
    ("gated.targets", ("a",), "numbers, as (0.5,)"),
    ("eval.scales", ("a",), "numbers"),
    ("train.shared_prefixes", (0.5,), "whole numbers"),
    ("train.shared_prefixes", (-1,), "at least 0 each"),
    ("train.batch_size", True, "a whole number, but is True"),
    # Too large for any machine.
    ("model.width_factor", 1e30, "above 0 and at most 1024"),
    ("model.width", 10**9, "at least 1 and at most 2^20"),
    ("experts.count", 10**9, "at least 1 and at most 1024"),
    ("optimizers.warmup.every", 0, "at least 1"),
  ],
)
def test_values_are_refused_by_name(name, value, told):
  config = configs.make()
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError) as error:
    checks.values(config)
  assert str(error.value).startswith(f"config.{name} must be {told}")


@pytest.mark.parametrize("name", ["instance", "sharing", "sparsity", "mix"])
def test_words_of_compat_are_read_before_training(name):
  config = configs.make()
  config.compat[name] = "papper"
  with pytest.raises(ValueError, match=f"config.compat.{name} is 'papper'; it must be one of"):
    checks.values(config)


def test_nothing_is_nan_at_any_depth():
  config = configs.make()
  config.gates.target_rates = (1.0, math.nan)
  with pytest.raises(ValueError, match=r"config.gates.target_rates\[1\] must be a finite"):
    checks.values(config)
  config = configs.make()
  with config.unlocked():
    config.data.weights = {"a": math.nan}
  with pytest.raises(ValueError, match=r"config.data.weights.a must be a finite number"):
    checks.values(config)


def test_names_that_an_unlocked_configuration_takes_are_refused():
  config = configs.make()
  with config.unlocked():
    config.train.lr = 0.1
  with pytest.raises(ValueError, match="There is no config.train.lr.*'optimizers.warmup.lr'"):
    runs.build(config)
  config = configs.make()
  with config.unlocked():
    config.data.taks = ("a",)
  with pytest.raises(ValueError, match="There is no config.data.taks. Did you mean 'data.tasks'?"):
    runs.describe(config)


@pytest.mark.parametrize(
  ("sizes", "task", "told"),
  [
    ((9, 0, 9), types.TaskSpec("a", "binary"), "The split 'validation' of own has no examples"),
    ((9, 9, 0), types.TaskSpec("a", "binary"), "The split 'test' of own has no examples"),
    ((9, 9, 9), types.TaskSpec("total", "binary"), "A task cannot be called 'total'"),
    (
      (9, 9, 9),
      types.TaskSpec("a", "multiclass", 2, classes=("x", "\udc80")),
      r"The name '\udc80' of the task 'a' (its own, of a class or its unit) cannot be written",
    ),
  ],
)
def test_data_that_cannot_be_trained_on_are_refused(sizes, task, told):
  counts = dict(zip(types.SPLITS, sizes, strict=True))
  with pytest.raises(ValueError) as error:
    checks.data(types.DatasetSpec("own", (task,), "series", (1,), counts))
  assert str(error.value).startswith(told)


@pytest.mark.parametrize(
  ("rows", "devices", "wanted"),
  [(142, 1, 8), (20, 1, 4), (5, 1, 1), (3200, 1, 64), (10**6, 1, 256), (142, 3, 6), (3, 4, 4)],
)
def test_a_batch_that_suits_the_data(rows, devices, wanted):
  config = configs.make()
  config.train.update(batch_size=0, largest_batch=256, weights_share=0.8)
  spec = types.DatasetSpec("d", (), "table", (2,), {"train": rows})
  assert checks.batch_size(config, spec, devices) == wanted
  config.train.batch_size = 3
  assert checks.batch_size(config, spec, devices) == 3
