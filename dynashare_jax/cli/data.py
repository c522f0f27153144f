"""Checks a data set before training, or converts it to a few large files.

  python -m dynashare_jax data check --config=configs/nyuv2.py
      --config.data_dir=FOLDER [--examples=N] [--output=FOLDER]
  python -m dynashare_jax data convert --config=configs/nyuv2.py
      --config.data_dir=FOLDER --output=COPY

`check` reads every example (or N of each split, evenly spread), prints one table per split, and
writes pictures with all labels and all figures to the output folder (default: data-check/<data
set>). It exits with 2 when something is broken. `convert` makes a copy that is used as
--config.data_dir=COPY with the same configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags
import jax
import ml_collections
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from dynashare_jax import cli as cli_lib
from dynashare_jax import lookup
from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.cli import data_check
from dynashare_jax.cli import guard as command
from dynashare_jax.data import loader
from dynashare_jax.data import progress
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import store_writer
from dynashare_jax.library import configs

COMMANDS = ("check", "convert")
_ROWS = 6  # of a contact sheet
_BAR = 20  # characters of the longest bar of a class


def parse(argv: Sequence[str]) -> tuple[str, Any]:
  """Returns the command and the flags `config`, `output`, `examples`.

  Raises:
    ValueError: something that is not understood.
  """
  line = ["data", *argv]
  values = flags.FlagValues()
  configs.define(values, line)
  flags.DEFINE_string("output", "", "folder to write", flag_values=values)
  flags.DEFINE_integer("examples", 0, "of each split; 0: all", lower_bound=0, flag_values=values)
  values.set_gnu_getopt()
  _, *rest = configs.parse(line, values)
  if len(rest) != 1 or rest[0] not in COMMANDS:
    near = lookup.hint(rest[0], COMMANDS) if rest else ""
    raise ValueError(
      f"Name one command, {' or '.join(COMMANDS)}, not {' '.join(rest) or 'none'}.{near}"
    )
  if values.config is None:
    raise ValueError("Name a configuration: --config=folder")
  return rest[0], values


def run(argv: Sequence[str]) -> int:
  """Runs the command; returns 0, or 2 when the check found something broken."""
  name, values = parse(argv)
  if name == "convert":
    convert(values.config, values.output)
    return 0
  return check(values.config, values.output, values.examples)


def convert(config: ml_collections.ConfigDict, output: str) -> None:
  """Prints what a converted copy needs, and writes it to a new folder.

  Raises:
    ValueError: no or a wrong folder, a data set that cannot be converted, or too little space.
  """
  if not output:
    raise ValueError("Name a folder for the copy: --output=FOLDER")
  store_writer.check_output(output)
  module = runs.dataset_module(config)
  if not hasattr(module, "original"):
    raise ValueError(f"The data set {config.dataset!r} has no files of pictures to convert.")
  if config.data_dir and store.is_copy(config.data_dir):
    raise ValueError(f"{config.data_dir} is a converted copy already.")
  original: store.Original = module.original(config.data, config.compat, config.data_dir or None)
  needed = store_writer.estimate(original, output)
  print(f"{original.layout}\n{needed}")
  if needed.needed > 0.95 * needed.free:
    raise ValueError(f"There is too little space in {output}: {needed}.")
  with progress.bar("converting") as advance:
    store_writer.convert(
      original, config.dataset, output, lambda done: advance("examples", done, needed.examples)
    )
  length = sum(p.stat().st_size for p in pathlib.Path(output).iterdir())
  print(
    f"{output}: {length / 1e6:.1f} MB. Use it with the same configuration:"
    f" --config.data_dir={output}"
  )


def check(config: ml_collections.ConfigDict, output: str, examples: int) -> int:
  """Checks a data set; prints tables, writes pictures and figures.

  Args:
    config: names the data set and the folder it lies in.
    output: folder to write; empty for the default.
    examples: of each split; 0 all.

  Returns:
    0, or 2 when something is broken.
  """
  dataset = runs.open_dataset(config)
  screen = rich_console.Console(highlight=False)
  for note in dataset.spec.notes:
    screen.print(note, markup=False)
  with progress.bar("reading") as advance:
    found = data_check.check(dataset, examples, max(1, config.train.threads), advance)
  for split in found.splits.values():
    screen.print(_split_table(split, dataset.spec))
  for task in dataset.spec.tasks:
    if (classes := _class_table(found, task)) is not None:
      screen.print(classes)
  sorts = (("broken", "red", found.broken), ("look at", "yellow", found.warnings))
  for title, style, problems in sorts:
    for problem in problems:
      screen.print(f"[{style}]{title}:[/] ", end="")
      screen.print(problem, markup=False)
  folder = pathlib.Path(output or os.path.join("data-check", config.dataset))
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "check.json").write_text(json.dumps(found.figures(), indent=1), encoding="utf-8")
  drawn = draw(found, dataset, folder, config.seed)
  screen.print(
    f"{'BROKEN' if found.broken else 'good'}; {', '.join(['check.json', *drawn])} in {folder}",
    markup=False,
  )
  return 2 if found.broken else 0


def draw(
  found: data_check.Check, dataset: types.Dataset, folder: pathlib.Path, seed: int
) -> list[str]:
  """Draws examples with all labels, plain and varied; returns the names of the files."""
  if not found.pictures:
    return []
  sheets = {"examples.png": found.pictures}
  if dataset.augment is not None:
    draws = dataset.augment.draw(seed, "check", np.arange(_ROWS))
    some = found.pictures[:: max(1, len(found.pictures) * 2 // _ROWS)]
    sheets["augmented.png"] = [
      dataset.augment.example(some[i % len(some)], type(draws)(*(part[i] for part in draws)))
      for i in range(_ROWS)
    ]
  from dynashare_jax.report.pictures import contact_sheet

  for name, examples in sheets.items():
    contact_sheet.contact_sheet(loader.stack(examples), dataset.spec, folder / name, _ROWS)
  return list(sheets)


def _split_table(split: data_check.Split, spec: types.DatasetSpec) -> rich_table.Table:
  """Inputs and tasks of one split."""
  read = "" if split.checked == split.size else f", {split.checked} read"
  shape = " x ".join(map(str, spec.input_shape))
  table = rich_table.Table(
    title=f"{split.name}: {split.size} examples of {shape}{read}", title_justify="left"
  )
  table.add_column("", no_wrap=True)
  for head in ("with label", "labelled", "lowest", "mean", "highest"):
    table.add_column(head, justify="right", no_wrap=True)
  inputs = split.inputs.figures()
  table.add_row(
    "input", "", "", _short(inputs["low"]), _means(inputs["mean"]), _short(inputs["high"])
  )
  for name, task in split.tasks.items():
    figures = task.figures()
    share = 100 * figures["valid_share"]
    table.add_row(
      f"{name} ({figures['unit']})" if figures["unit"] else name,
      f"{task.labelled}/{task.examples}",
      f"{share:.1f}%" if share == 0 or share >= 0.05 else "<0.1%",
      _short(figures["low"]),
      "" if "classes" in figures else _means(figures["mean"]),
      _short(figures["high"]),
    )
  return table


def _class_table(found: data_check.Check, task: types.TaskSpec) -> rich_table.Table | None:
  """Shares of the classes in every split."""
  figures = {n: s.tasks[task.name].figures().get("classes") for n, s in found.splits.items()}
  first = figures["train"]
  if not first:
    return None
  table = rich_table.Table(title=f"{task.name}: share of the labels, %", title_justify="left")
  table.add_column("class")
  for split in figures:
    table.add_column(split, justify="right")
  table.add_column("train")
  bases = {n: s.tasks[task.name].base for n, s in found.splits.items()}
  highest = max(first.values())
  for name in first:
    shares = [100 * (figures[n] or {}).get(name, 0) / max(bases[n], 1) for n in figures]
    bar = round(_BAR * first[name] / highest) if highest else 0
    table.add_row(name, *(f"{s:.2f}" if s else "-" for s in shares), "█" * bar)
  return table


def _means(values: Sequence[float]) -> str:
  if len(values) > 3:
    return ""
  return " ".join(f"{v:.2f}" if abs(v) < 10 else f"{v:.3g}" for v in values)


def _short(value: float | None) -> str:
  return "-" if value is None else f"{value:.3g}"


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error or when the data are broken."""
  line = list(sys.argv[1:] if argv is None else argv)
  if {"-h", "--help", "--helpfull"} & set(line):
    print(cli_lib.called(str(__doc__)))
    return
  jax.config.update("jax_platforms", "cpu")
  command.use_compilation_cache()
  if status := command.run(lambda: run(line), "nothing was written."):
    sys.exit(status)
