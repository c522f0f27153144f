"""Tests of the house: who may import whom, and which names stand where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import functools
import importlib
import pathlib
import pkgutil
import re
import sys

import dynashare_jax
from dynashare_jax.objectives import kinds

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dynashare_jax"
PIECES = ("balance", "delta", "gates", "metrics", "policy", "routes")
FLOORS = {
  "types": 0,
  "lookup": 0,
  "version": 0,
  "defaults": 0,
  "ops": 1,
  "objectives": 2,
  "data": 3,
  "models": 3,
  "sharing": 4,
  "methods": 5,
  # What people use in loops of their own; the package itself does not.
  **dict.fromkeys(PIECES, 5),
  "distributed": 6,
  "checkpoints": 7,
  "monitoring": 8,
  "train": 9,
  "infer": 10,
  "report": 10,
  "runs": 11,
  "library": 12,
  "cli": 13,
  # Names of commands that people know.
  **dict.fromkeys(("main", "benchmark", "calibrate", "cost", "export", "predict", "__main__"), 14),
}
FILES = sorted(PACKAGE.rglob("*.py"))
TRAINER = [path for room in ("train", "infer") for path in FILES if PACKAGE / room in path.parents]
MODULES = sorted(
  module.name for module in pkgutil.walk_packages(dynashare_jax.__path__, "dynashare_jax.")
)


def name_of(path: pathlib.Path) -> str:
  """`dynashare_jax/ops/policy.py` is `dynashare_jax.ops.policy`."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(), str(path))


def imports_of(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields line and full name of everything a file imports, anywhere in it."""
  for node in ast.walk(parsed(path)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        package = name_of(path).split(".")
        if path.name != "__init__.py":
          package.pop()
        base = ".".join([*package[: len(package) - node.level + 1], base])
      for alias in node.names:
        yield node.lineno, f"{base.strip('.')}.{alias.name}"


def floor(module: str) -> int:
  """Floor of a module of the package; the package itself is the ground."""
  parts = module.split(".")
  if parts[-1] == "__main__":  # a command line, wherever it stands
    return FLOORS["main"]
  return FLOORS[parts[1]] if len(parts) > 1 else 0


def own(name: str) -> bool:
  return name == "dynashare_jax" or name.startswith("dynashare_jax.")


def test_every_folder_has_a_floor():
  found = {name.split(".")[1] for name in MODULES}
  assert found <= set(FLOORS), f"give a floor to {found - set(FLOORS)}"
  # A folder without __init__.py would be left out of an installation.
  assert {name_of(path) for path in FILES} == {"dynashare_jax", *MODULES}


def test_imports_go_downwards():
  faults = []
  for path in FILES:
    # The package itself imports nothing of its own but for type checkers.
    here = FLOORS["library"] if path == PACKAGE / "__init__.py" else floor(name_of(path))
    faults += [
      f"{path}:{line} imports {name}, a floor above"
      for line, name in imports_of(path)
      if own(name) and floor(name) > here
    ]
  assert not faults


def test_nothing_of_the_package_needs_a_piece():
  """They are doors: what they offer lies on the floors below."""
  pieces = {f"dynashare_jax.{name}" for name in PIECES}
  found = {path: {name for _, name in imports_of(path)} & pieces for path in FILES}
  assert {path for path, names in found.items() if names} == {PACKAGE / "__init__.py"}


def reached(name: str, seen: set[str]) -> set[str]:
  """Adds all that an import of a module imports at once; what functions import later is left."""
  if name in seen:
    return seen
  seen.add(name)
  file = ROOT.joinpath(*name.split("."))
  path = next((p for p in (file.with_suffix(".py"), file / "__init__.py") if p.is_file()), None)
  if own(name) and path:
    later = {line for line, _ in imports_of(path)} - {
      line
      for node in parsed(path).body
      if not isinstance(node, ast.FunctionDef | ast.ClassDef)
      and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
      for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for line, full in imports_of(path):
      if line not in later:
        reached(full, seen)
        reached(full.rpartition(".")[0] or full, seen)
  return seen


def test_pieces_are_light():
  """No plots, no checkpoints, no data loading, no flags."""
  for piece in PIECES:
    found = {name.split(".")[0] for name in reached(f"dynashare_jax.{piece}", set())}
    others = {name for name in found if name not in sys.stdlib_module_names}
    light = {"dynashare_jax", "flax", "jax", "jaxtyping", "ml_collections", "numpy", "optax"}
    assert others <= light, (piece, others - light)


def test_nothing_but_the_command_line_asks_for_a_report():
  assert not [
    f"{path}:{line} imports {name}"
    for path in TRAINER
    for line, name in imports_of(path)
    if own(name) and name.split(".")[1:2] == ["report"]
  ]


def test_configs_import_nothing_of_the_package_but_the_defaults():
  configs = sorted((ROOT / "configs").rglob("*.py"))
  assert configs
  found = [(path.stem, name) for path in configs for _, name in imports_of(path) if own(name)]
  assert found == [("base", "dynashare_jax.defaults")]


@functools.cache
def chosen_names() -> frozenset[str]:
  """Names of the methods and data sets, each a file with a `build`, a function or an attribute."""
  return frozenset(
    path.parent.name if path.stem == "dataset" else path.stem
    for pattern in ("data/*.py", "data/*/dataset.py", "methods/*.py")
    for path in PACKAGE.glob(pattern)
    if re.search(r"^(def )?build\b", path.read_text(), re.MULTILINE)
  )


# Kinds of inputs (`types.DatasetSpec`), which two data sets are called after.
INPUT_KINDS = {"table", "series"}


def test_trainer_names_no_method_and_no_data_set():
  chosen = chosen_names() - {"series", "table"}  # kinds of inputs, too
  assert {"dynashare", "single", "rooms", "census"} <= chosen
  faults = []
  for path in TRAINER:
    nodes = list(ast.walk(parsed(path)))
    texts = {
      node.body[0].value
      for node in nodes
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
      and node.body
      and isinstance(node.body[0], ast.Expr)
    }  # docstrings may
    faults += [
      f"{path}:{node.lineno} says {node.value!r}"
      for node in nodes
      if isinstance(node, ast.Constant) and node not in texts and node.value in chosen - INPUT_KINDS
    ]
    for line, name in imports_of(path):
      parts = name.split(".")
      if own(name) and (parts[1] == "methods" or (parts[1] == "data" and parts[-1] in chosen)):
        faults.append(f"{path}:{line} imports {name}")
  assert not faults


def test_every_module_imports():
  for name in MODULES:
    importlib.import_module(name)


def test_nothing_but_a_kind_asks_for_a_kind():
  """Comparisons with a kind's name; data sets may ask for what they declare."""
  may = {"kinds", *chosen_names()} - {"folder"}
  for path in FILES:
    if not may & set(path.relative_to(PACKAGE).parts[:-1]):
      for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Compare):
          sides = [node.left, *node.comparators]
          sides += [e for side in sides if isinstance(side, ast.Tuple) for e in side.elts]
          found = {side.value for side in sides if isinstance(side, ast.Constant)}
          assert not found & set(kinds.available()), f"{path}:{node.lineno}"


def public(node: ast.AST, place: str) -> Iterator[tuple[str, ast.AST]]:
  """Yields what is public in a module or class, itself included, with its place."""
  yield place, node
  for part in getattr(node, "body", ()) if isinstance(node, ast.Module | ast.ClassDef) else ():
    if isinstance(part, ast.ClassDef | ast.FunctionDef) and not part.name.startswith("_"):
      yield from public(part, f"{place}:{part.name}")


def test_all_that_is_public_says_what_it_is():
  bare = [
    place
    for path in FILES
    if parsed(path).body
    for place, node in public(parsed(path), str(path))
    if not ast.get_docstring(node)
  ]
  assert not bare


def test_functions_of_the_command_line_are_short():
  long = [
    f"{path}:{node.lineno} {node.name} has {length} lines"
    for path in sorted((PACKAGE / "cli").rglob("*.py"))
    for node in ast.walk(parsed(path))
    if isinstance(node, ast.FunctionDef)
    and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > 40
  ]
  assert not long


def test_there_is_no_drawer_for_everything():
  for path in FILES:
    assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path
