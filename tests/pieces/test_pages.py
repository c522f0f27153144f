"""Pages and docstrings of the pieces: every example is run, and says what the page shows."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import pathlib
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
NAMES = ("balance", "delta", "gates", "metrics", "policy", "routes")
EXAMPLES = [
  pytest.param(code, shown, id=f"{name}-{number}")
  for name in NAMES
  for number, (code, shown) in enumerate(
    re.findall(
      r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?",
      (DOCS / "pieces" / f"{name}.md").read_text("utf-8"),
      re.MULTILINE | re.DOTALL,
    )
  )
]


@pytest.mark.parametrize("code, shown", EXAMPLES)
def test_the_example_does_what_its_page_says(code, shown):
  assert sum(map(bool, code.split("\n"))) < 30  # blank ones aside
  assert shown or "assert " in code
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(code, "example", "exec"), {"__name__": "example"})
  assert printed.getvalue() == shown


def test_every_piece_has_a_page_and_the_index_names_it():
  assert sorted(path.stem for path in (DOCS / "pieces").glob("*.md")) == list(NAMES)
  index = (DOCS / "pieces.md").read_text("utf-8")
  assert re.findall(r"\(pieces/(\w+)\.md\)", index) == sorted(NAMES, key=index.index)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_docstrings_are_right(name):
  """Every public function and module has one; those of other floors are told under their own."""
  piece = importlib.import_module(f"dynashare_jax.{name}")
  assert list(piece.__all__) == sorted(piece.__all__)
  runner = doctest.DocTestRunner(verbose=False)
  for public in piece.__all__:
    thing = getattr(piece, public)
    text = inspect.getdoc(thing) or ""
    assert text, public
    given = {**vars(piece), "jax": jax, "jnp": jnp, "np": np}
    test = doctest.DocTestParser().get_doctest(text, given, f"{name}.{public}", None, None)
    assert test.examples or not inspect.isfunction(thing) or public == "available", public
    runner.run(test)
  assert not runner.failures
