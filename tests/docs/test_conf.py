"""What the site takes from the code, without building it."""

from __future__ import annotations

import pathlib
import runpy
import types

import pytest

from dynashare_jax import types as types_lib
from dynashare_jax import version

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def conf():
  return types.SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "conf.py")))


def test_the_reference_follows_the_public_names(conf):
  package = types.ModuleType("dynashare_jax")
  module = types.ModuleType("dynashare_jax.library.gates")
  package.__dict__.update(gates=module, fit=len, Task=dict, hidden=len)
  package.__all__ = ["gates", "fit", "Task"]
  text = conf.surface(package)
  found = [line for line in text.splitlines() if line.startswith(("##", ".. "))]
  assert found == [
    ".. autofunction:: dynashare_jax.fit",
    ".. autoclass:: dynashare_jax.Task",
    "## dynashare_jax.gates",
    ".. automodule:: dynashare_jax.library.gates",
  ]


def test_what_is_public_is_told_once(conf):
  module = types.ModuleType("dynashare_jax.metrics")
  module.Metric, module.__all__ = types_lib.Metric, ["Metric"]
  package = types.ModuleType("dynashare_jax")
  package.metrics, package.__all__ = module, ["metrics"]
  assert ":exclude-members: Metric\n" in conf.behind(package)
  assert ":exclude-members:" not in conf.behind(types.ModuleType("dynashare_jax"))


def test_blocks_of_docstrings_are_code(conf):
  text = "Use:\n```\na | b\n  c\n```\nthen."
  wanted = ["Use:", "", ".. code-block:: python", "", "   a | b", "     c", "", "then."]
  assert conf.fenced(conf.labelled(text.split("\n"))) == wanted


def test_a_page_that_nothing_names_has_a_place(conf, tmp_path):
  for name in ("index", "a", "b", "c/index", "c/d", "c/e"):
    page = tmp_path / f"{name}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("b c/e")
  (tmp_path / "index.md").write_text("```{toctree}\n:maxdepth: 1\n\na\nc/index\n```\n")
  (tmp_path / "c" / "index.md").write_text("x\n\n```{toctree}\nd\n```\n")
  assert conf.others(tmp_path).splitlines()[-3:] == ["b", "c/e", "```"]


def test_lines_with_a_label_are_paragraphs(conf):
  text = "Weighs |g|.\nSource: A 2020.\nDiffers: not\n  clipped, `a|b`.\n\n  code"
  wanted = [
    "Weighs \\|g\\|.",
    "",
    "Source: A 2020.",
    "",
    "Differs: not",
    "clipped, `a|b`.",
    "",
    "  code",
  ]
  assert conf.labelled(text.split("\n")) == wanted
  assert conf.labelled(["<g, v> * `<a>|`"], "<*") == ["\\<g, v> \\* `<a>|`"]


def test_one_version():
  found = [
    version.__version__ in (ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md")
  ]
  assert all(found)


def test_every_balancer_and_method_is_told_by_its_file(conf):
  text = conf.files("objectives/balancing")
  assert text.count("\n## ") + 1 == 32 and "Nash bargaining" in text
  assert "\n\nInvariances: a factor on a loss changes nothing." in text


def test_modules_of_the_reference_are_there(conf):
  for name in conf._MODULES.values():
    path = ROOT.joinpath(*name.split("."))
    assert path.is_dir() or path.with_suffix(".py").is_file(), name
