"""Executes a notebook of this folder (default: the quickstart) and keeps its pictures.

  python notebooks/render.py --folder=runs/notebook --pictures=docs/images \
      --changes='{"train.retrain_steps": 120}'

The notebook runs in `--folder` with this interpreter and this copy of the
package, whatever kernels the machine has, and is left there with its outputs.
Needs nbclient, nbformat and ipykernel.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
import json
import os
import pathlib
import re
import sys
from typing import Any

NOTEBOOK = pathlib.Path(__file__).with_name("quickstart_tpu.ipynb")
CHANGES = "DYNASHARE_NOTEBOOK"  # environment variable that notebooks read
_WITHIN = re.compile(r'src="data:image/png;base64,([^"]*)"')


def execute(
  folder: pathlib.Path, changes: dict[str, Any], cell_seconds: int, path: pathlib.Path = NOTEBOOK
) -> Any:
  """Executes a notebook.

  Args:
    folder: where it runs; made if it is not there.
    changes: of what the notebook is told.
    cell_seconds: the longest that a cell may take.
    path: of the notebook.

  Returns:
    The notebook with its outputs, also written to `folder`.

  Raises:
    ValueError: jupyter is not installed, or a cell failed.
  """
  try:
    from jupyter_client import kernelspec
    from jupyter_client import manager
    import nbclient
    import nbformat
  except ImportError as error:
    raise ValueError(
      f"{error.name} is not installed: pip install nbclient nbformat ipykernel."
    ) from error

  class ThisPython(manager.AsyncKernelManager):
    """Starts kernels with this interpreter."""

    @property
    def kernel_spec(self) -> kernelspec.KernelSpec:
      start = [sys.executable, "-m", "ipykernel_launcher", "-f"]
      return kernelspec.KernelSpec(argv=[*start, "{connection_file}"], language="python")

  folder.mkdir(parents=True, exist_ok=True)
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook,
    timeout=cell_seconds,
    kernel_manager_class=ThisPython,
    resources={"metadata": {"path": str(folder)}},
  )
  try:
    client.execute(env=_environment(changes))
  except nbclient.exceptions.CellExecutionError as error:
    raise ValueError(f"A cell failed.\n{error}") from error
  except nbclient.exceptions.CellTimeoutError as error:
    raise ValueError(f"A cell took longer than {cell_seconds} s.") from error
  nbformat.write(notebook, folder / path.name)
  return notebook


def _environment(changes: dict[str, Any]) -> dict[str, str]:
  """Variables of the kernel: the package is importable from this copy."""
  here = [str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]
  path = os.pathsep.join(filter(None, here))
  return os.environ | {CHANGES: json.dumps(changes), "PYTHONPATH": path}


def write_pictures(notebook: Any, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the pictures in a notebook's outputs.

  Args:
    notebook: executed.
    folder: of `notebook-<id of the cell>.png`; made if it is not there.

  Returns:
    The files, in the notebook's order.
  """
  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      data = output.get("data", {})
      within = _WITHIN.search(data.get("text/html", ""))
      picture = data.get("image/png") or (within and within[1])
      if picture:
        written.append(folder / f"notebook-{cell.id}.png")
        written[-1].write_bytes(base64.b64decode(picture))
  return written


def run(argv: Sequence[str]) -> list[pathlib.Path]:
  """Does what the command line says.

  Args:
    argv: arguments without the program's name.

  Returns:
    The pictures that were written.

  Raises:
    ValueError: bad changes, jupyter is not installed, or a cell failed.
  """
  parser = argparse.ArgumentParser(
    prog="python notebooks/render.py",
    allow_abbrev=False,
    description="Executes a notebook of this folder and keeps its pictures.",
  )
  parser.add_argument("--folder", required=True, help="where it runs")
  parser.add_argument("--notebook", default=NOTEBOOK.name, help="its name (default: %(default)s)")
  parser.add_argument("--pictures", required=True, help="folder of the PNGs")
  parser.add_argument(
    "--changes", default="{}", help="that the notebook reads, as JSON (default: none)"
  )
  parser.add_argument(
    "--cell_seconds",
    type=int,
    default=3600,
    help="the longest that a cell may take (default: %(default)s)",
  )
  arguments = parser.parse_args(list(argv))
  try:
    changes = json.loads(arguments.changes)
  except ValueError as error:
    raise ValueError(f"--changes is no JSON: {error}.") from error
  if not isinstance(changes, dict):
    raise ValueError(
      "--changes must be an object such as"
      ' {"train.retrain_steps": 120}, not ' + arguments.changes + "."
    )
  folder = pathlib.Path(arguments.folder)
  path = NOTEBOOK.with_name(arguments.notebook)
  if not path.is_file():
    raise ValueError(f"There is no notebook {path}.")
  notebook = execute(folder, changes, arguments.cell_seconds, path)
  return write_pictures(notebook, pathlib.Path(arguments.pictures))


if __name__ == "__main__":
  try:
    print(*run(sys.argv[1:]), sep="\n")
  except (ValueError, OSError) as found:
    print(f"error: {found}", file=sys.stderr)
    sys.exit(2)
