"""How fast examples are read: raw folders against the converted copy.

  python -m benchmarks.vision.input [--samples=FOLDER]

Writes synthetic examples of 480x640 (rendered rooms; picture, classes and
normals as PNG, depth as .npy) to a temporary folder, converts them with
`python -m dynashare_jax data convert`'s code, and reads both: decoding alone,
with augmentation, and in batches with 0, 1 and 2 threads. --samples names
frames of NYU v2 in AdaShare's layout, which are read too. Writes
docs/benchmarks/input.md; takes about a minute of one core. Needs `pip install
-e .[tfds]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import timing

SIZE = (480, 640)
CROP = (321, 321)
BATCH = 8
THREADS = (0, 1, 2)
CLASSES = {"rooms": 10, "NYU v2": 40}
STEPS = {
  "decode": "decoding alone",
  "augment": "and augmentation",
  **{f"threads {n}": f"batches of {BATCH}, augmented, {n} thread(s)" for n in THREADS},
}


@dataclasses.dataclass
class Data:
  """One set of examples, in both forms.

  Attributes:
    title: for the page.
    raw: read from folders.
    copy: read from the converted copy.
    count: examples read in a round.
    sizes: bytes of an example, raw and converted.
    seconds: of converting an example.
  """

  title: str
  raw: Any
  copy: Any
  count: int
  sizes: tuple[float, float]
  seconds: float


def write_rooms(folder: pathlib.Path, count: int) -> None:
  """Renders examples and writes them as AdaShare's files are written."""
  import jax
  import numpy as np
  from PIL import Image

  from dynashare_jax.data.rooms import dataset as rooms

  tasks = ("segmentation", "normals", "depth")
  render = jax.jit(functools.partial(rooms.render, height=SIZE[0], width=SIZE[1], tasks=tasks))
  for part in ("img", "seg", "normal_mask", "depth"):
    (folder / part).mkdir(parents=True)
  for i in range(count):
    example = jax.tree.map(np.asarray, render(jax.random.key(i)))
    byte = lambda values: np.round(255 * values).clip(0, 255).astype(np.uint8)
    targets = example.targets
    for part, array in (
      ("img", byte(example.inputs)),
      ("seg", targets["segmentation"].astype(np.uint8)),
      ("normal_mask", byte((targets["normals"] + 1) / 2)),
    ):
      Image.fromarray(array).save(folder / part / f"{i:04}.png")
    np.save(folder / "depth" / f"{i:04}.npy", targets["depth"])


def prepare(title: str, folder: pathlib.Path, scratch: pathlib.Path, count: int) -> Data:
  """Describes a folder, converts it, and opens both.

  Args:
    title: for the page.
    folder: with `img`, `seg`, `normal_mask` and `depth`.
    scratch: folder for the description and the copy.
    count: examples to read in a round.
  """
  import ml_collections

  from dynashare_jax.data.folder import dataset as folder_lib
  from dynashare_jax.data.pictures import store_writer

  scratch.mkdir(parents=True, exist_ok=True)
  (scratch / "dataset.yaml").write_text(
    json.dumps(
      {
        "root": str(folder.absolute()),
        "pictures": "img",
        "tasks": {
          "segmentation": {
            "kind": "segmentation",
            "labels": "seg",
            "classes": CLASSES[title],
            "ignore": [255],
          },
          "normals": {"kind": "normals", "labels": "normal_mask", "ignore": [255]},
          "depth": {"kind": "depth", "labels": "depth"},
        },
        "splits": {"train": "*", "validation": "*", "test": "*", "overlap": True},
      }
    )
  )
  config = ml_collections.ConfigDict({**folder_lib.defaults(), "crop": CROP})
  switches = ml_collections.ConfigDict(folder_lib.compat())
  original = folder_lib.original(config, switches, str(scratch))
  before = time.process_time()
  store_writer.convert(original, "folder", str(scratch / "copy"))
  seconds = time.process_time() - before
  raw, copy = (
    folder_lib.build(config, switches, str(path), 0) for path in (scratch, scratch / "copy")
  )
  names = original.keys["train"]
  parts = ("img", "seg", "normal_mask", "depth")
  bytes_raw = sum(p.stat().st_size for part in parts for p in (folder / part).iterdir())
  bytes_copy = sum(p.stat().st_size for p in (scratch / "copy").iterdir())
  return Data(
    title,
    raw,
    copy,
    max(count, len(names)),
    (bytes_raw / len(names), bytes_copy / len(names)),
    seconds / len(names),
  )


class Varied(Sequence[Any]):
  """Examples, augmented; some more than once."""

  def __init__(self, dataset: Any, count: int, augmented: bool) -> None:
    """Takes the training examples `count` times in turn."""
    self._source = dataset.source("train")
    self._augment = dataset.augment if augmented else None
    self._count = count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: Any) -> Any:
    example = self._source[index % len(self._source)]
    if self._augment is None:
      return example
    return self._augment.example(example, self._augment.draw(0, "benchmark", index))


def case(dataset: Any, step: str, count: int) -> Callable[[], None]:
  """A call that reads some examples, each of them once."""
  from dynashare_jax.data import loader

  varied = Varied(dataset, count, step != "decode")

  def one_by_one() -> None:
    for i in range(count):
      varied[i]

  def batches() -> None:
    # Ends with the last example, so that nothing is read ahead in vain.
    for _ in loader.evaluation_stream(varied, BATCH, threads=threads):
      pass

  if not step.startswith("threads"):
    return one_by_one
  threads = int(step.split()[1])
  return batches


def measure(data: Data, repeats: int) -> dict[str, dict[str, timing.Timing]]:
  """Times every step in both forms, in turn."""
  cases = {
    (form, step): case(dataset, step, data.count)
    for step in STEPS
    for form, dataset in (("raw", data.raw), ("copy", data.copy))
  }
  for (_, step), call in cases.items():
    if step == "augment":
      call()  # opens files, fills the disk's cache
  timed = timing.alternate(
    {f"{form}/{step}": call for (form, step), call in cases.items()}, repeats
  )
  return {step: {form: timed[f"{form}/{step}"] for form in ("raw", "copy")} for step in STEPS}


def rows(data: Data, timed: dict[str, Any], kind: str) -> list[list[str]]:
  """Lines of the table: examples a second, and how they compare."""
  lines = []
  for step, words in STEPS.items():
    raw, copy = (getattr(timed[step][form], kind) for form in ("raw", "copy"))
    lines.append(
      [
        f"{data.title}: {words}",
        *(timing.spread([data.count / s for s in seconds]) for seconds in (raw, copy)),
        timing.spread(timing.ratios(raw, copy)),
      ]
    )
  return lines


def page(measured: list[tuple[Data, Any]], arguments: argparse.Namespace) -> str:
  """The page in Markdown."""
  head = ["case", "raw", "copy", "copy over raw"]
  sizes = [
    [d.title, f"{d.sizes[0] / 1e6:.2f}", f"{d.sizes[1] / 1e6:.2f}", f"{1000 * d.seconds:.0f}"]
    for d, _ in measured
  ]
  tables = {
    kind: timing.table(head, [line for data, timed in measured for line in rows(data, timed, kind)])
    for kind in ("cpu", "wall")
  }
  return f"""# Speed of reading pictures and labels

- Command: `python -m benchmarks.vision.input --examples={arguments.examples}
  --repeats={arguments.repeats} --threads={arguments.threads}`\
{" with `--samples`" if arguments.samples else ""}
{
    timing.machine(
      arguments.threads, ["numpy", "pillow", "grain", "tensorflow-datasets", "array-record"]
    )
  }
- Examples of {SIZE[0]}x{SIZE[1]} with a picture, classes and normals as PNG and
  depth as float32 `.npy`, crops of {CROP[0]}x{CROP[1]}; files lie in the disk's
  cache. Rooms are rendered; NYU v2 are frames of it. Cases take turns in one
  process; medians of {arguments.repeats} rounds with (minimum–maximum).

## Examples a second of processor time (one core)

{tables["cpu"]}

## Examples a second of elapsed time

{tables["wall"]}

## What a copy takes

{timing.table(["examples", "raw, MB each", "copy, MB each", "converting, ms each"], sizes)}

## Reading

A copy keeps labels as compressed arrays, so that only the picture is a PNG
that must be decoded, and it is a handful of files instead of four an example.
It gives the same examples bit for bit. Elapsed time with threads gains only
where there is more than one core for them.
"""


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--examples", type=int, default=16, help="in a round")
  parser.add_argument("--repeats", type=int, default=5, help="rounds")
  parser.add_argument("--threads", type=int, default=1, help="cores to use")
  parser.add_argument("--samples", default="", help="frames of NYU v2 in AdaShare's layout")
  parser.add_argument("--quick", action="store_true", help="8 examples, 1 round; writes nothing")
  arguments = parser.parse_args()
  if arguments.quick:
    arguments.examples, arguments.repeats = BATCH, 1
  if arguments.examples < BATCH or arguments.repeats < 1:
    parser.error(f"--examples must be at least {BATCH}, --repeats at least 1")
  timing.pin(arguments.threads)
  with tempfile.TemporaryDirectory() as name:
    scratch = pathlib.Path(name)
    write_rooms(scratch / "rooms", arguments.examples)
    found = [prepare("rooms", scratch / "rooms", scratch / "of_rooms", arguments.examples)]
    if arguments.samples:
      found.append(
        prepare(
          "NYU v2", pathlib.Path(arguments.samples), scratch / "of_samples", arguments.examples
        )
      )
    measured = [(data, measure(data, arguments.repeats)) for data in found]
    text = page(measured, arguments)
  if arguments.quick:
    print(text)
  else:
    timing.write("input.md", text)


if __name__ == "__main__":
  main()
