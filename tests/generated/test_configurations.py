"""Settings of a configuration with any value: refused by name, or kept exactly."""

from __future__ import annotations

import ast
import functools
import math

from generated import cases
import hypothesis
from hypothesis import strategies as st
import pytest

from dynashare_jax.checkpoints import workdir
from dynashare_jax.library import configs
from dynashare_jax.train import checks

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
NAMES = ("rooms", "table", "folder", "census", "nyuv2:3task", "multimnist:disjoint5", "celeba")
TEXTS = (
  *("", " ", "0", "1", "-1", "2", "7", "0.5", "-0.25", "1.0", "1e3", "1e-4", "1e400", "nan", "inf"),
  *(
    "-inf",
    "True",
    "false",
    "yes",
    "no",
    "None",
    "x",
    "adam",
    "1,2",
    "1, 2,",
    "(1,2)",
    "[3]",
    "()",
  ),
  *(
    "(1,",
    "1_0",
    "0x10",
    "08",
    "'a'",
    '"',
    "é",
    "a b",
    "a\tb",
    "{}",
    "1;2",
    "=",
    "--x",
    "1e",
    "9" * 30,
  ),
  *(
    "(0.5,'a')",
    "nan,1",
    "1,inf",
    "((1,2),3)",
    "2147483648",
    "None,1",
    "True,False",
    "cosine",
    "unit",
  ),
)


@functools.cache
def defaults(name):
  """Dotted name -> value of a configuration."""
  return dict(workdir.flatten(configs.load(name).to_dict()))


@st.composite
def settings_(draw):
  """A configuration, one of its settings, and the text of a value."""
  name = draw(st.sampled_from(NAMES))
  field = draw(st.sampled_from(sorted(defaults(name))))
  value = defaults(name)[field]
  near = st.sampled_from(TEXTS)
  if isinstance(value, bool | int | float) or (value and isinstance(value, tuple)):
    near = st.one_of(near, st.integers(-9, 99).map(str), st.floats(-2, 2).map(repr))
  return name, field, draw(near)


def _meant(text, default):
  """What a text says for a setting of the type of its default; None where it says nothing."""
  if isinstance(default, bool):
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
  if isinstance(default, int):
    try:
      return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
      return None
  if isinstance(default, float):
    try:
      return float(text)
    except ValueError:
      return None
  if isinstance(default, str):
    return text
  try:
    found = ast.literal_eval(text)
    return tuple(found) if isinstance(found, list | tuple) else (found,)
  except (SyntaxError, ValueError):
    bare = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    return tuple(configs.literal(part.strip()) for part in bare.split(",") if part.strip())


def _finite(value):
  if isinstance(value, tuple):
    return all(map(_finite, value))
  return not isinstance(value, float) or math.isfinite(value)


def _opened(name, field, text):
  config = configs.load(name, [f"{field}={text}"])
  checks.values(config)
  return config


@hypothesis.given(settings_())
@cases.some(0.06)
def test_a_setting_is_refused_by_name_or_kept(case):
  name, field, text = case
  found, refusal = cases.attempt(lambda: _opened(name, field, text), f"config.{field}")
  if refusal:
    return
  after = dict(workdir.flatten(found.to_dict()))
  default = defaults(name)[field]
  meant = _meant(text, default)
  assert after[field] == meant and type(after[field]) is type(meant), (field, text, after[field])
  assert _finite(meant)
  assert {**after, field: 0} == {**defaults(name), field: 0}
