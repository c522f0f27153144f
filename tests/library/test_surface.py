"""What users import: nothing of it changes unseen, and it comes quickly."""

from __future__ import annotations

import ast
import doctest
import functools
import inspect
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import dynashare_jax as ds

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Name -> parameters. A change here is a change for users: say it in CHANGELOG.md.
SURFACE = {
  "Comparison": "runs, table, folder",
  "Data": "dataset, fingerprint, inputs, targets, valid, rows",
  "Run": "workdir, data, data_dir, passing",
  "arrays": "inputs, targets, valid, tasks, split, groups, length, seed",
  "binary": "name, classes, weight, positive_weight",
  "compare": "data, methods, balances, seeds, randoms, workdir, mixed, trials, progress, settings",
  "depth": "name, unit, weight, inverse",
  "fit": "data, method, backbone, balance, steps, seed, workdir, settings, baseline, progress",
  "load": "path, data_dir",
  "multiclass": "name, classes, weight, class_weights",
  "multilabel": "name, classes, weight, positive_weight",
  "normals": "name, weight",
  "pixels": "name, kind, outputs, unit, weight",
  "regression": "name, unit, outputs, weight, loss",
  "run_config": "config, settings, workdir, progress",
  "segmentation": "name, classes, weight, class_weights",
}
METHODS = {
  "Run": (
    "calibrate cost curve evaluate export figures metrics plan policy predict report route save"
    " tasks times trained"
  ),
  "Comparison": "csv frame latex markdown",
  "Data": "encoded notes tasks",
}


PIECES = {"balance", "delta", "gates", "metrics", "policy", "routes"}  # tests/pieces


def test_the_surface_is_what_is_listed():
  assert set(ds.__all__) == {*SURFACE} | PIECES and set(ds.__all__) <= set(dir(ds))
  assert all(getattr(ds, piece).__all__ for piece in PIECES)
  for name, parameters in SURFACE.items():
    assert ", ".join(inspect.signature(getattr(ds, name)).parameters) == parameters, name
  for name, methods in METHODS.items():
    own = {m for m in vars(getattr(ds, name)) if not m.startswith("_")}
    assert own - {*inspect.signature(getattr(ds, name)).parameters} == set(methods.split()), name


def test_a_program_that_is_type_checked_has_every_name():
  """`.ci/run` gives it to mypy and, where it is installed, to pyright, both strict."""
  text = (ROOT / "tests" / "library" / "typed_script.py").read_text(encoding="utf-8")
  named = {*re.findall(r"\bds\.(\w+(?:\.\w+)?)", text)}
  pieces = {f"{piece}.{name}" for piece in PIECES for name in getattr(ds, piece).__all__}
  assert pieces | {*SURFACE} <= named


def test_everything_public_says_what_it_does():
  for name in SURFACE:
    found = getattr(ds, name)
    parts = {name: found} | {
      f"{name}.{part}": member
      for part, member in (vars(found).items() if inspect.isclass(found) else ())
      if not part.startswith("_") and (callable(member) or isinstance(member, property))
    }
    for place, member in parts.items():
      text = inspect.getdoc(member) or ""
      assert text and "." in text, place
    if not inspect.isclass(found):
      for parameter in inspect.signature(found).parameters:
        assert f"{parameter}:" in inspect.getdoc(found), f"{name} does not explain {parameter}"


def test_importing_loads_nothing_heavy():
  heavy = ["jax", "flax", "optax", "orbax", "grain", "matplotlib", "rich", "scipy", "PIL"]
  code = (
    "import sys, dynashare_jax as ds; ds.__all__; dir(ds);"
    f"print([name for name in {heavy} if name in sys.modules])"
  )
  found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert found.stdout == "[]\n"


def test_the_page_names_what_is_there():
  """Names and arguments in the code of `docs/python.md`; the notebooks run more than these."""
  page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
  names = {*re.findall(r"\bds\.(\w+)\(", page)}
  assert {"arrays", "fit", "compare", "load"} <= names <= {*SURFACE}
  for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
    for node in ast.walk(ast.parse(block)):
      if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ds."):
        found = inspect.signature(getattr(ds, node.func.attr)).parameters
        assert {keyword.arg for keyword in node.keywords} <= {*found}
  assert {*re.findall(r"`run\.(\w+)", page)} <= {*dir(ds.Run), "trained"}


@pytest.mark.filterwarnings("ignore:the load_module")
def test_the_examples_of_the_docstrings_are_true(tmp_path):
  """One program, in the order of the page: data, tasks, a run, and what it is asked."""
  asked = ("evaluate", "predict", "report", "save")
  doors = ("arrays", "fit", "load", "compare", "run_config")
  tasks = [name for name in SURFACE if name.islower() and name not in doors]
  names = ["arrays", "Data", *tasks, "fit", "Run", *(f"Run.{name}" for name in asked)]
  names += ["load", "compare", "Comparison", "run_config"]
  assert {name.partition(".")[0] for name in names} == {*SURFACE}
  known = {"ds": ds, "np": np, "folder": tmp_path}
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  for name in names:
    text = inspect.getdoc(functools.reduce(getattr, name.split("."), ds)) or ""
    found = doctest.DocTestParser().get_doctest(text, known, name, None, None)
    assert found.examples, f"{name} has no example"
    told: list[str] = []
    assert not runner.run(found, out=told.append, clear_globs=False).failed, "".join(told)
    known.update(found.globs)
