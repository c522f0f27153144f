"""The site of these pages: `.ci/docs`, or `sphinx-build -W docs FOLDER` with the extra `docs`.

Sphinx with MyST reads the pages as they are, and is what jax, flax and optax use. The site asks
no other server for anything.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re
import sys
from types import ModuleType
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "dynashare_jax"
author = "The dynashare_jax authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["**/.*"]
default_role = "literal"  # `x` of a docstring is code
myst_heading_anchors = 4
autodoc_member_order = "bysource"
napoleon_use_ivar = True
autodoc_typehints_format = "short"
smartquotes = False  # V' of a formula
highlight_language = "none"  # blocks without a language are commands and what they print
html_theme = "furo"
html_title = "dynashare_jax"
html_show_sourcelink = False
html_copy_source = False

_LABEL = re.compile(r"(Source|Differs|Invariances|Example|Sources): \S")
_MARKS = re.compile(r"(`[^`]*`)|([|<*])")  # that mean something outside of code
_UPWARDS = re.compile(r"\]\(\.\./[^)#]*")
# Behind the functions: what those who add a method, a data set or a balancer write against.
_MODULES = {
  "Runs": "dynashare_jax.runs",
  "Names of a data set": "dynashare_jax.types",
  "An exported model": "dynashare_jax.infer",
  "Contract of a method": "dynashare_jax.sharing.contract",
  "Contract of a trunk": "dynashare_jax.models.trunks.contract",
  "Contract of a balancer": "dynashare_jax.objectives.balancing",
}


def surface(package: ModuleType) -> str:
  """Returns the pages' text on what a package has in `__all__`, in that order."""
  parts, modules = [], []
  for name in getattr(package, "__all__", ()):
    value = getattr(package, name)
    if inspect.ismodule(value):
      modules.append(_section(f"{package.__name__}.{name}", "module", value.__name__))
    elif callable(value):
      kind = "class" if inspect.isclass(value) else "function"
      parts.append(_directive(kind, f"{package.__name__}.{name}"))
  return "\n\n".join([*parts, *modules])


def _section(title: str, kind: str, name: str) -> str:
  return f"## {title}\n\n{_directive(kind, name)}"


def _directive(kind: str, name: str) -> str:
  members = "" if kind == "function" else "\n   :members:"
  return f"```{{eval-rst}}\n.. auto{kind}:: {name}{members}\n```"


def files(folder: str) -> str:
  """Returns a list of the files of a folder that a configuration names, with their docstrings."""
  parts = []
  for path in sorted((ROOT / "dynashare_jax" / folder).glob("[!_]*.py")):
    text = inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    parts.append(f"## {path.stem}\n\n" + "\n".join(labelled(text.split("\n"), "|<*")))
  return "\n\n".join(parts)


def labelled(lines: list[str], marks: str = "|") -> list[str]:
  """Returns a docstring whose lines `Source: ...` are paragraphs, without an indent below them.

  Args:
    marks: that are to stand as they are, outside of code.
  """
  found: list[str] = []
  inside = False
  for line in lines:
    starts = _LABEL.match(line.lstrip()) is not None
    inside = starts or (inside and line.startswith("  ") and bool(line.strip()))
    found += [""] * starts
    found.append(line.strip() if inside and not starts else line)
  escaped = lambda match: f"\\{match[2]}" if (match[2] or "-") in marks else match[0]
  return [_MARKS.sub(escaped, line) for line in found]


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
  del app, what, name, thing, options
  lines[:] = labelled(lines)


def _page(app: Any, name: str, source: list[str]) -> None:
  """Fills in what a page takes from the code, and offers the files outside of these pages."""
  folder = (pathlib.Path(app.srcdir) / name).parent
  outside = lambda link: not (folder / link[2:]).resolve().is_relative_to(app.srcdir)
  source[0] = _UPWARDS.sub(
    lambda m: m[0].replace("](", "](path:") if outside(m[0]) else m[0], source[0]
  )
  if name == "reference":
    modules = "\n\n".join(_section(title, "module", name) for title, name in _MODULES.items())
    public = surface(importlib.import_module("dynashare_jax"))
    source[0] = source[0].replace("<!-- surface -->", public).replace("<!-- modules -->", modules)
  for folder in re.findall(r"<!-- files of (\S+) -->", source[0]):
    source[0] = source[0].replace(f"<!-- files of {folder} -->", files(folder))


def setup(app: Any) -> None:
  """Connects the two."""
  app.connect("autodoc-process-docstring", _docstring, priority=400)
  app.connect("source-read", _page)
