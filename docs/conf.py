"""The site of these pages: `.ci/docs`, or `sphinx-build -W docs FOLDER` with the extra `docs`.

Sphinx with MyST reads the pages as they are, and is what jax, flax and optax use. The site asks
no other server for anything.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
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
_CONTENTS = re.compile(r"^```\{toctree\}(.*?)^```", re.MULTILINE | re.DOTALL)
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
  """Returns the pages' text on what a package has in `__all__`, in that order, modules last."""
  parts, modules = [], []
  told: list[Any] = []  # of what two modules show, the first tells
  for name in getattr(package, "__all__", ()):
    value = getattr(package, name)
    if inspect.ismodule(value):
      shown = {member: getattr(value, member) for member in getattr(value, "__all__", ())}
      again = [member for member, one in shown.items() if any(one is other for other in told)]
      told += shown.values()
      modules.append(_section(f"{package.__name__}.{name}", value.__name__, again))
    elif callable(value):
      kind = "class" if inspect.isclass(value) else "function"
      parts.append(_directive(kind, f"{package.__name__}.{name}"))
  return "\n\n".join([*parts, *modules])


def behind(package: ModuleType) -> str:
  """Returns the pages' text on `_MODULES`, without what the package shows in modules of its own."""
  shown = [getattr(package, name) for name in getattr(package, "__all__", ())]
  values = [
    (getattr(module, name).__module__, name)
    for module in filter(inspect.ismodule, shown)
    for name in getattr(module, "__all__", ())
    if hasattr(getattr(module, name), "__module__")
  ]
  known = lambda place: [name for home, name in values if home == place]
  return "\n\n".join(_section(title, place, known(place)) for title, place in _MODULES.items())


def _section(title: str, name: str, without: Sequence[str] = ()) -> str:
  return f"## {title}\n\n{_directive('module', name, without)}"


def _directive(kind: str, name: str, without: Sequence[str] = ()) -> str:
  members = "" if kind == "function" else "\n   :members:"
  members += f"\n   :exclude-members: {', '.join(without)}" if without else ""
  return f"```{{eval-rst}}\n.. auto{kind}:: {name}{members}\n```"


def files(folder: str) -> str:
  """Returns a list of the files of a folder that a configuration names, with their docstrings."""
  parts = []
  for path in sorted((ROOT / "dynashare_jax" / folder).glob("[!_]*.py")):
    text = inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    parts.append(f"## {path.stem}\n\n" + "\n".join(labelled(text.split("\n"), "|<*")))
  return "\n\n".join(parts)


def others(folder: pathlib.Path) -> str:
  """Returns a table of contents of the pages that no other table names; empty if there is none."""
  pages = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.md")}
  for path in folder.rglob("*.md"):
    for block in _CONTENTS.findall(path.read_text(encoding="utf-8")):
      pages -= {path.relative_to(folder).parent / word for word in block.split()}
  names = sorted(page.as_posix() for page in pages - {pathlib.Path("index")})
  head = "```{toctree}\n:caption: More\n:hidden:\n:maxdepth: 1\n\n"
  return head + "\n".join(names) + "\n```" if names else ""


def labelled(lines: list[str], marks: str = "|") -> list[str]:
  """Returns a docstring whose lines `Source: ...` are paragraphs, without an indent below them.

  Args:
    marks: that are to stand as they are, outside of code.
  """
  escaped = lambda match: f"\\{match[2]}" if (match[2] or "-") in marks else match[0]
  found: list[str] = []
  inside = code = False
  for line in lines:
    code ^= line.lstrip().startswith("```")
    starts = _LABEL.match(line.lstrip()) is not None
    inside = starts or (inside and line.startswith("  ") and bool(line.strip()))
    found += [""] * starts
    text = line.strip() if inside and not starts else line
    found.append(text if code else _MARKS.sub(escaped, text))
  return found


def fenced(lines: list[str]) -> list[str]:
  """Returns a docstring with blocks between ``` as reStructuredText has them."""
  found: list[str] = []
  inside = False
  for line in lines:
    if line.lstrip().startswith("```"):
      indent = line[: len(line) - len(line.lstrip())]
      found += (
        [""] if inside else ["", f"{indent}.. code-block:: {line.strip()[3:] or 'python'}", ""]
      )
      inside = not inside
    else:
      found.append(f"   {line}" if inside else line)
  return found


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
  del app, what, name, thing, options
  lines[:] = fenced(labelled(lines))


def _page(app: Any, name: str, source: list[str]) -> None:
  """Fills in what a page takes from the code, and offers the files outside of these pages."""
  folder = (pathlib.Path(app.srcdir) / name).parent
  outside = lambda link: not (folder / link[2:]).resolve().is_relative_to(app.srcdir)
  source[0] = _UPWARDS.sub(
    lambda m: m[0].replace("](", "](path:") if outside(m[0]) else m[0], source[0]
  )
  if name == "index":
    source[0] = source[0].replace("<!-- others -->", others(folder))
  if name == "reference":
    package = importlib.import_module("dynashare_jax")
    source[0] = source[0].replace("<!-- surface -->", surface(package))
    source[0] = source[0].replace("<!-- modules -->", behind(package))
  for folder in re.findall(r"<!-- files of (\S+) -->", source[0]):
    source[0] = source[0].replace(f"<!-- files of {folder} -->", files(folder))


def setup(app: Any) -> None:
  """Connects the two."""
  app.connect("autodoc-process-docstring", _docstring, priority=400)
  app.connect("source-read", _page)
