"""Compares every value of MIMIC-III stays with the benchmark's own pipeline.

  python -m benchmarks.mimic3.values --pipeline=CHECKOUT --data_dir=FOLDER

CHECKOUT is a checkout of https://github.com/YerevaNN/mimic3-benchmarks, whose
readers, discretiser, normaliser and batch maker run here as they are; FOLDER is
what its scripts wrote for the multitask problem, for example of the open demo.
All stays, all hours (nothing is cut), all 76 columns and all labels and masks
are compared; so are the means and deviations that both fit on the training
stays. Converts into a temporary folder. Writes docs/benchmarks/mimic3-values.md
with counts and differences alone, no value of a patient. Needs pandas and
scikit-learn, which the pipeline's own modules import.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from benchmarks import timing
from dynashare_jax.data.mimic3 import columns as mimic3_columns
from dynashare_jax.data.mimic3 import dataset as mimic3
from dynashare_jax.data.mimic3 import discretiser as mimic3_discretiser
from dynashare_jax.data.mimic3 import store as mimic3_store

LIMIT = 1e-5
SECONDS = 60.0
SPLITS = {
  "train": ("train", "train_listfile.csv"),
  "validation": ("train", "val_listfile.csv"),
  "test": ("test", "test_listfile.csv"),
}
TEMPORAL = {"length_of_stay": "los", "decompensation": "decomp"}


def theirs(pipeline: pathlib.Path, folder: pathlib.Path, split: str) -> Any:
  """All stays of a split as the pipeline makes them, before its padding."""
  from mimic3benchmark import readers
  from mimic3models import preprocessing
  from mimic3models.multitask import utils

  part, listfile = SPLITS[split]
  reader = readers.MultitaskReader(str(folder / part), str(folder / listfile))
  discretizer = preprocessing.Discretizer(
    timestep=1.0, store_masks=True, impute_strategy="previous", start_time="zero"
  )
  header = discretizer.transform(reader.read_example(0)["X"])[1].split(",")
  normalizer = preprocessing.Normalizer(
    fields=[i for i, name in enumerate(header) if "->" not in name]
  )
  state = "mult_ts1.0.input_str-previous.start_time-zero.normalizer"
  normalizer.load_params(str(pipeline / "mimic3models" / "multitask" / state))
  made = utils.BatchGen(
    reader=reader,
    discretizer=discretizer,
    normalizer=normalizer,
    ihm_pos=47,
    partition="custom",
    target_repl=False,
    batch_size=8,
    small_part=False,
    shuffle=False,
  )
  return made.data


def their_fit(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Means and deviations as the pipeline's script fits them."""
  from mimic3benchmark import readers
  from mimic3models import preprocessing

  reader = readers.MultitaskReader(str(folder / "train"), str(folder / "train_listfile.csv"))
  discretizer = preprocessing.Discretizer(
    timestep=1.0, store_masks=True, impute_strategy="previous", start_time="zero"
  )
  normalizer = preprocessing.Normalizer()
  for index in range(reader.get_number_of_examples()):
    found = reader.read_example(index)
    data, _ = discretizer.transform(found["X"], end=found["t"])
    normalizer._feed_data(data)
  with tempfile.NamedTemporaryFile() as file:
    normalizer._save_params(file.name)
    normalizer.load_params(file.name)
  return normalizer._means, normalizer._stds


def labels_of(split: str, data: Any, index: int) -> dict[str, Any]:
  """The pipeline's labels of a stay: task -> labels and mask."""
  from mimic3models import metrics

  left = data["los_y"][index]
  classes = [metrics.get_bin_custom(hours, 10) for hours in left]
  return {
    "phenotyping": (data["pheno_y"][index], None),
    "mortality": (data["ihm_y"][index], data["ihm_M"][index]),
    "length_of_stay": (np.array(classes), data["los_M"][index]),
    "decompensation": (data["decomp_y"][index], data["decomp_M"][index]),
  }


def compare(split: str, stays: Any, data: Any) -> dict[str, float]:
  """Compares a split.

  Returns:
    Stays, hours, largest difference of inputs, hours with another length,
    differing masks and differing labels that count.
  """
  found = dict(stays=0, hours=0, values=0.0, lengths=0, masks=0, labels=0)
  assert len(stays) == len(data["X"])
  for index, wanted in enumerate(data["X"]):
    batch = stays[index]
    length = int(batch.inputs["length"])
    found["stays"] += 1
    found["hours"] += length
    found["lengths"] += length != len(wanted)
    difference = np.abs(batch.inputs["series"][:length] - wanted)
    found["values"] = max(found["values"], float(difference.max()))
    found["lengths"] += bool(batch.inputs["series"][length:].any())
    for task, (labels, mask) in labels_of(split, data, index).items():
      target, valid = batch.targets[task], batch.valid[task]
      if task in TEMPORAL:
        found["masks"] += bool(valid[length:].any())
        target, valid = target[:length], valid[:length]
      if mask is not None:
        found["masks"] += int((np.asarray(mask) != valid).sum())
        target, labels = target[valid], np.asarray(labels)[valid]
      found["labels"] += int((np.asarray(labels) != target).sum())
  return found


def fits(folder: pathlib.Path, store: mimic3_store.Store) -> float:
  """Largest relative difference of fitted means and deviations."""
  means, stds = their_fit(folder)
  ours = mimic3_discretiser.fit(store.split("train").hours.numbers)
  places = np.array(mimic3_columns.NUMBER_COLUMNS)
  pairs = ((ours.mean, means[places]), (ours.std, stds[places]))
  return max(float(np.abs(a / b - 1).max()) for a, b in pairs)


def page(
  arguments: argparse.Namespace, found: dict[str, dict[str, float]], seconds: float, fitted: float
) -> str:
  """The Markdown page."""
  names = ("stays", "hours", "values", "lengths", "masks", "labels")
  head = [
    "split",
    "stays",
    "hours",
    "largest difference of 76 columns",
    "lengths that differ",
    "masks that differ",
    "labels that differ",
  ]
  rows = [
    [
      split,
      *(f"{counts[name]:,.3g}" if name == "values" else f"{counts[name]:,.0f}" for name in names),
    ]
    for split, counts in found.items()
  ]
  worst = max(counts["values"] for counts in found.values())
  differ = sum(counts[name] for counts in found.values() for name in ("lengths", "masks", "labels"))
  good = worst <= LIMIT and not differ
  return (
    "\n".join(
      [
        "# MIMIC-III: values against the pipeline's own",
        "",
        f"""\
- Command: `python -m benchmarks.mimic3.values --pipeline=CHECKOUT
  --data_dir={arguments.label}`
{timing.machine(1, ("numpy", "scikit-learn"))}
- The pipeline's reader, discretiser, normaliser and batch maker ran as they
  are, on the same files; nothing was cut.""",
        "",
        timing.table(head, rows),
        "",
        f"""\
Target: equal within {LIMIT:g} on every stay. {"Met" if good else "Missed"}: the
largest difference of a normalised value is {worst:.2g}, which is single
precision; {differ:,.0f} lengths, masks and labels differ.

Means and deviations fitted on the training stays (`config.data.normaliser =
"train"`) differ by at most {fitted:.1g} of their value from those of the
pipeline's script on the same stays.

Conversion of these stays took {seconds:.2f} s in one process; target: under
{SECONDS:.0f} s. {"Met" if seconds < SECONDS else "Missed"}.""",
      ]
    )
    + "\n"
  )


def main() -> None:
  """Compares and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--pipeline", required=True, type=pathlib.Path, help="a checkout of mimic3-benchmarks"
  )
  parser.add_argument(
    "--data_dir",
    required=True,
    type=pathlib.Path,
    help="folder of the multitask problem, or above it",
  )
  parser.add_argument("--label", default="FOLDER", help="what the page calls that folder")
  arguments = parser.parse_args()
  sys.path.insert(0, str(arguments.pipeline.resolve()))
  timing.pin(1)
  folder = arguments.data_dir
  folder = folder / "multitask" if (folder / "multitask").is_dir() else folder
  with tempfile.TemporaryDirectory() as cache:
    config = ConfigDict(mimic3.defaults())
    config.update(cache=cache, workers=1)
    begin = time.perf_counter()
    dataset = mimic3.build(config, ConfigDict(mimic3.compat()), str(folder), 0)
    seconds = time.perf_counter() - begin
    store = mimic3_store.open_or_convert(
      folder, pathlib.Path(cache), 1, False, lambda done, total: None
    )
    config.hours = max(int(store.split(split).labels.counts.max()) for split in SPLITS)
    dataset = mimic3.build(config, ConfigDict(mimic3.compat()), str(folder), 0)
    found = {
      split: compare(
        split, dataset.source(split), theirs(arguments.pipeline.resolve(), folder, split)
      )
      for split in SPLITS
    }
    fitted = fits(folder, store)
  timing.write("mimic3-values.md", page(arguments, found, seconds, fitted))


if __name__ == "__main__":
  main()
