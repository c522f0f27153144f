"""Four real NYU v2 frames learnt by heart: does everything fit together?

  python -m benchmarks.vision.overfit --data=FOLDER

FOLDER holds frames in AdaShare's layout (img, seg, normal_mask, depth). Trains
hard sharing of a Deeplab-ResNet-18 on segmentation (40 classes), normals and
depth on all of them at 480x640, evaluates on the same frames, and checks that
pixel accuracy exceeds 0.95, the mean angle stays below 8 degrees and the
relative depth error below 0.05. This tells nothing of generalisation; it tells
that labels are read, aligned, trained on, resized and scored correctly.

Writes docs/benchmarks/overfit.md and docs/images/overfit.png; the photographs
are left out of the picture. Takes about half an hour of one CPU core; the same
command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from benchmarks import cases
from benchmarks import timing

LIMITS = (
  ("segmentation", "pixel_accuracy", 95.0, True),
  ("normals", "mean", 8.0, False),
  ("depth", "rel", 0.05, False),
)


def configuration(arguments: argparse.Namespace) -> Any:
  """The run: configs/nyuv2.py with what over-fitting needs."""
  config = cases.load_config("nyuv2", "3task-r18")
  config.method = "hard"
  config.data_dir = arguments.data
  config.data.samples_only = True
  config.data.augment = False
  config.data.weights = dict(segmentation=1.0, normals=5.0, depth=1.0)
  config.model.head = "linear"
  config.model.width_factor = arguments.width_factor
  config.compat.selection = "test"  # The frames are train and test at once.
  train = config.train
  train.steps = arguments.steps
  train.batch_size = 4
  train.resident = True
  train.loss_at = "labels"
  train.log_every = 10
  train.eval_every = 100
  train.checkpoint_every = 50
  config.eval.batch_size = 4
  config.optimizers.warmup.update(kind="adamw", lr=2e-3, b1=0.9, schedule="onecycle")
  config.optimizers.retrain.update(config.optimizers.warmup)
  return config


def picture(workdir: pathlib.Path) -> None:
  """Draws labels, predictions and errors, without the photographs."""
  from dynashare_jax.report import style
  from dynashare_jax.report import workdir as workdir_lib
  from dynashare_jax.report.run import prediction_figures

  run = workdir_lib.load(workdir)
  kept = {name: run.predictions[name] for name in run.predictions if name != "inputs"}
  with style.look():
    figure = prediction_figures.predictions(dataclasses.replace(run, predictions=kept))
    assert figure is not None
    style.save(figure, timing.ROOT / "docs" / "images" / "overfit.png")


def page(workdir: pathlib.Path, arguments: argparse.Namespace) -> str:
  """The Markdown page."""
  results = json.loads((workdir / "results.json").read_text())
  found = {
    (task["name"], metric["name"]): metric
    for task in results["tasks"]
    for metric in task["metrics"]
  }
  rows = []
  for task, name, limit, higher in LIMITS:
    metric = found[task, name]
    value = metric["test"]
    met = value > limit if higher else value < limit
    rows.append(
      [
        f"{task}: {name}",
        f"{value:.3g} {metric['unit']}",
        f"{metric['constant']:.3g} {metric['unit']}",
        f"{'above' if higher else 'below'} {limit:g}",
        "met" if met else "missed",
      ]
    )
  step = results["timing"]["step_seconds"]
  seconds = next(iter(step.values()))
  return "\n".join(
    [
      "# Four NYU v2 frames learnt by heart",
      "",
      f"""\
- Command: `python -m benchmarks.vision.overfit --data=FOLDER
  --steps={arguments.steps} --width_factor={arguments.width_factor:g}`, seed 0
{timing.machine(1, ("jax", "flax", "optax"))}
- Hard sharing, Deeplab-ResNet-18 at {arguments.width_factor:g} times its width
  with linear heads, 480x640 pixels, 40 classes, batch 4 (all frames), losses at
  the size of the labels, AdamW; trained and evaluated on the same frames, so
  nothing here tells of generalisation. Other metrics of these frames are in
  the run's report.
- {seconds:.1f} s a step, {results["timing"]["seconds"] / 60:,.0f} minutes, on a
  core that other work shared.""",
      "",
      timing.table(["metric", "found", "constant prediction", "wanted", ""], rows),
      "",
      """\
Labels, predictions and errors; the photographs are not ours to show. The file
names of the frames are 0061, 0295, 0774 and 1314 of NYU Depth V2 (Silberman et
al. 2012).

![Labels, predictions and errors](../images/overfit.png)
""",
    ]
  )


def main() -> None:
  """Trains what is not trained yet, and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--data", required=True, help="folder of the frames")
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--width_factor", type=float, default=0.5)
  parser.add_argument("--workdir", default="runs/overfit_nyuv2")
  arguments = parser.parse_args()
  from dynashare_jax import runs as main_lib
  from dynashare_jax.cli import guard as command

  command.use_compilation_cache()
  workdir = pathlib.Path(arguments.workdir)
  main_lib.run(configuration(arguments), str(workdir))
  picture(workdir)
  timing.write("overfit.md", page(workdir, arguments))


if __name__ == "__main__":
  main()
