"""Delta against milliseconds: does learned sharing beat hard sharing of a smaller network?

  python -m benchmarks.inference.front --cases conflict census --data_dir=FOLDER --seeds=0,1,2

Trains hard sharing at four widths, `adashare`, `dynashare` and, for Delta, single-task networks by
the package's own command, `dynashare_jax.main`: all for as many steps as the longest search takes
with its re-trainings. Then times all of them in turn in one process, served together (one call for
all tasks) and apart (one call a task), `dynashare` with its gates and without. Writes a page and a
figure a case into --out, or with --docs into docs/. What is trained there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import statistics
from typing import Any

import jax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import timing
from benchmarks.inference import cases as inference_cases
from dynashare_jax import runs as runs_lib
from dynashare_jax.cli import benchmark_jobs as jobs_lib
from dynashare_jax.cli import guard
from dynashare_jax.data import loader
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.infer import clock
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.library import configs
from dynashare_jax.methods import _entries
from dynashare_jax.objectives import delta
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import gains
from dynashare_jax.report.run import served
from dynashare_jax.sharing import prices
from dynashare_jax.train import evaluate
from dynashare_jax.train import feed as feed_lib

WIDTHS = {"1": 1.0, "3/4": 0.75, "1/2": 0.5, "1/4": 0.25}
LEARNED = ("adashare", "dynashare")
OPEN = "dynashare, gates open"


@dataclasses.dataclass(frozen=True)
class Case:
  """A problem.

  Attributes:
    config: a file of `configs/`, perhaps with a setting.
    batch: examples of a call.
    numbered: whether every seed has a problem of its own (`config.data.number`).
    stored: whether its data are on disk.
  """

  config: str
  batch: int
  numbered: bool = False
  stored: bool = False


CASES = {
  "conflict": Case("planted.py:conflict", 2048, numbered=True),
  "census": Case("census.py", 1024, stored=True),
  "rooms": Case("rooms.py", 1),
}


@dataclasses.dataclass(frozen=True)
class Point:
  """A network: numbers of its seeds.

  Attributes:
    delta: percent over single-task networks.
    ms: by the way to serve it.
    work: of its route in percent of hard sharing's at its own width, by the way to serve it.
    steps: of its training in all.
  """

  delta: tuple[float, ...]
  ms: Mapping[str, tuple[float, ...]]
  work: Mapping[str, tuple[float, ...]]
  steps: int

  def at(self, serve: str) -> tuple[float, float]:
    """Returns mean milliseconds and mean Delta."""
    return statistics.fmean(self.ms[serve]), statistics.fmean(self.delta)


def hard(width: str) -> str:
  """Returns the name of hard sharing at a width."""
  return f"hard, width {width}"


def jobs(
  case: Case, seeds: Sequence[int], out: pathlib.Path, settings: Sequence[str]
) -> tuple[dict[str, list[jobs_lib.Job]], int]:
  """Lists the runs of every network, one a seed, and the steps of each; trains nothing."""
  path = str(timing.ROOT / "configs" / case.config)
  load = lambda method: configs.load(path, [*settings, f"method={method}"])
  steps = max(runs_lib.untrained(load(m)).experiment.total_steps for m in LEARNED)
  model = load("hard").model

  def narrow(share: float) -> str:
    if model.backbone == "mlp":
      return f"model.hidden={round(share * model.hidden)}"
    return f"model.width_factor={share * model.width_factor:g}"

  long = f"train.steps={steps}"
  entries = {
    hard(w): _entries.Entry(f"hard-{s:g}", "hard", (long, narrow(s))) for w, s in WIDTHS.items()
  }
  entries |= {gains.SINGLE: _entries.Entry(gains.SINGLE, gains.SINGLE, (long,))}
  entries |= {method: _entries.Entry(method, method) for method in LEARNED}
  found: dict[str, list[jobs_lib.Job]] = {}
  for name, entry in entries.items():
    for seed in seeds:
      own = [*settings, *entry.overrides, f"method={entry.method}", f"seed={seed}"]
      own += [f"data.number={seed}"] * case.numbered
      folder = out / f"{entry.label}-{seed}"
      arguments = (f"--config={path}", *(f"--config.{o}" for o in own), f"--workdir={folder}")
      found.setdefault(name, []).append(jobs_lib.Job(entry, seed, folder, arguments))
  return found, steps


def call(model: trained_lib.Trained, inputs: Any, serve: str, gates: bool) -> Any:
  """Compiles a finished model and runs it once: all tasks in one call, or one call a task."""
  if serve == prices.APART:
    alone = [call(model.only([t]), inputs, "", gates) for t in range(len(model.tasks))]
    return lambda: [one() for one in alone]
  batch = len(jax.tree.leaves(inputs)[0])
  how = trained_lib.Execution(gates=gates)
  if gates and any(model.gated):
    how = how._replace(compaction=strategy.of(model, batch, jax.devices()[0].platform))
  params, stats = jax.device_put((model.params, model.stats))
  placed = dataclasses.replace(model, params=params, stats=stats)
  return inference_cases.Runner(placed, how, inputs, batch)


def open_delta(model: trained_lib.Trained, single: workdir_lib.Run) -> float:
  """Returns Delta of a model whose gates are all open."""
  experiment = model.experiment
  sharing = dataclasses.replace(model.sharing, planned=True, sampled_gates=None)
  where = mesh_lib.batch_sharding(experiment.mesh)
  evaluator = evaluate.Evaluator(experiment.network, experiment.tasks, sharing, where)
  batches = feed_lib.Feed(experiment).evaluation("test")
  how = trained_lib.Execution(gates=False)
  found = evaluator.run(model.params, model.stats, batches, model.structure, execution=how)
  changes = delta.deltas(gains.metrics(single), found.metrics, gains.values(single))
  return delta.delta(changes)


def measured(
  case: Case, found: Mapping[str, Sequence[jobs_lib.Job]], steps: int, rounds: int
) -> dict[str, Point]:
  """Reads what was trained, and times all of it in turn."""
  read = {
    name: [workdir_lib.load(job.folder) for job in several] for name, several in found.items()
  }
  deltas = {name: tasks[gains.ALL] for name, tasks in gains.over_single(read).items()}
  models = {
    (name, job.seed): runs_lib.load(str(job.folder))
    for name, several in found.items()
    for job in several
  }
  source = next(iter(models.values())).experiment.dataset.source("test")
  inputs = loader.stack([source[i] for i in range(case.batch)]).inputs
  singles = {gains.seed(run): run for run in read[gains.SINGLE]}
  for (name, seed), model in list(models.items()):
    if name == "dynashare":
      models[OPEN, seed] = model
      deltas.setdefault(OPEN, []).append(open_delta(model, singles[seed]))
  calls: dict[Any, Any] = {}
  same: dict[Any, Any] = {}  # networks that only weights tell apart take one time
  for (name, seed), model in models.items():
    gates = name == "dynashare"
    key = (name, seed if gates else model.plan)
    same[name, seed] = key
    for serve in prices.SERVES:
      if (key, serve) not in calls:
        calls[key, serve] = call(model, inputs, serve, gates)
  timed = clock.alternate(calls, rounds)
  ms = {key: 1000 * statistics.median(timing_.steady) for key, timing_ in timed.items()}
  points: dict[str, Point] = {}
  for name, changes in deltas.items():
    runs = read["dynashare" if name == OPEN else name]
    seeds = [gains.seed(run) for run in runs]
    points[name] = Point(
      tuple(changes),
      {serve: tuple(ms[same[name, seed], serve] for seed in seeds) for serve in prices.SERVES},
      {serve: tuple(served.work(run, serve) for run in runs) for serve in prices.SERVES},
      steps,
    )
  return points


def beaten(points: Mapping[str, Point], name: str, serve: str) -> bool:
  """Returns whether some width of hard sharing is as good as a network, and as fast."""
  ms, gain = points[name].at(serve)
  others = [points[hard(width)].at(serve) for width in WIDTHS]
  return any(other <= ms and better >= gain for other, better in others)


def sentence(points: Mapping[str, Point], serve: str) -> str:
  """Says whether hard sharing at some width does as well as every learned network."""
  learned = [name for name in (*LEARNED, OPEN) if math.isfinite(points[name].at(serve)[1])]
  free = [name for name in learned if not beaten(points, name, serve)]
  if not learned:
    return f"Served {serve}, no learned network has a Delta."
  if not free:
    return (
      f"Served {serve}, **every learned network is beaten**: for each, some width of hard sharing"
      " has at least its Delta in at most its time (means)."
    )
  told = " and ".join(
    f"{name} ({tables.format_number(gain, 2, signed=True)}%, {ms:.3g} ms)"
    for name in free
    for ms, gain in [points[name].at(serve)]
  )
  return (
    f"Served {serve}, **no width of hard sharing has at least the Delta in at most the time of**"
    f" {told} (means)."
  )


def table(points: Mapping[str, Point]) -> tables.Table:
  """Returns a row a network."""
  columns = [
    "network",
    tables.Column("Delta", unit="%"),
    *(tables.Column(serve, unit="ms") for serve in prices.SERVES),
    *(tables.Column(f"work, {serve}", unit="%") for serve in prices.SERVES),
    "steps",
  ]
  rows = []
  for name, point in points.items():
    row: list[tables.Entry] = [name, tables.mean_std(point.delta, 2, signed=True)]
    row += [tables.mean_std(point.ms[serve]) for serve in prices.SERVES]
    row += [tables.mean_std(point.work[serve], 0) for serve in prices.SERVES]
    rows.append([*row, point.steps])
  return tables.table(columns, rows)


def figure(points: Mapping[str, Point]) -> Figure:
  """Draws Delta against milliseconds, a panel for each way to serve; up and left is better."""
  words = "milliseconds a call of all tasks; bars: ± standard deviation over seeds"
  fig, grid = style.panels(2, 2, (3.4, 2.9), (0.6, 0.9), common=words, sharey=True)
  for axes, serve in zip(grid, prices.SERVES, strict=True):
    _panel(axes, points, serve)
  grid[0].set_ylabel("Δ over single-task networks (%)")
  handles, labels = grid[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8.5)
  return fig


def _panel(axes: Axes, points: Mapping[str, Point], serve: str) -> None:
  """The front of hard sharing as steps, every network as a mark."""
  right = 1.08 * max(point.at(serve)[0] for point in points.values())
  steps: list[tuple[float, float]] = []
  for ms, gain in sorted(points[hard(width)].at(serve) for width in WIDTHS):
    if not steps or gain > steps[-1][1]:
      steps.append((ms, gain))
  steps.append((right, steps[-1][1]))
  axes.axhline(0, color=style.FAINT, linewidth=1, zorder=1)
  axes.grid(True)
  line = {"drawstyle": "steps-post", "color": style.SOFT, "linewidth": 1.2, "zorder": 2}
  axes.plot(*zip(*steps, strict=True), **line)
  names = [hard(width) for width in WIDTHS] + [
    n for n in (*LEARNED, OPEN, gains.SINGLE) if n in points
  ]
  for name in names:
    width = next((w for w in WIDTHS if hard(w) == name), None)
    place = 0 if width else names.index(name) - len(WIDTHS) + 1
    colour = style.SOFT if width else style.colour(place - 1)
    x, y = points[name].at(serve)
    cells = tables.mean_std(points[name].ms[serve]), tables.mean_std(points[name].delta)
    label = "hard, at four widths" if width == "1" else "_" if width else name
    mark = {"marker": "os^DP"[place], "markersize": 6, "linestyle": "none", "label": label}
    bars = {"xerr": cells[0].std, "yerr": cells[1].std, "elinewidth": 1.0}
    axes.errorbar(x, y, color=colour, zorder=3, **bars, **mark)
    if width:
      offset = {"textcoords": "offset points", "fontsize": 8, "color": style.SOFT}
      axes.annotate(width, (x, y), (5, -11), **offset)
  axes.set_xlim(0, right)
  axes.set_title(f"served {serve}")


def section(name: str, case: Case, points: Mapping[str, Point], image: str) -> str:
  """Returns what the page says of a case."""
  return "\n\n".join(
    [
      f"## {name.capitalize()}, batch {case.batch}",
      " ".join(sentence(points, serve) for serve in prices.SERVES),
      f"![Delta against milliseconds, {name}]({image})",
      "Below the steps, some width of hard sharing has at least the Delta and is as fast.",
      tables.markdown(table(points), bold_best=False),
    ]
  )


def page(arguments: argparse.Namespace, sections: Sequence[str]) -> str:
  """Returns the page; the command names no folder of this machine."""
  device, kind = jax.devices()[0], "processor time" if clock.one_core() else "elapsed time"
  command = f"python -m benchmarks.inference.front --cases {' '.join(arguments.cases)}"
  command += f" --seeds={arguments.seeds} --rounds={arguments.rounds} --threads={arguments.threads}"
  command += f" --set='{arguments.set}'" * bool(arguments.set) + " --data_dir=FOLDER"
  return f"""\
# Delta against milliseconds

- Command: `{command}`
- Device: {device.device_kind} ({device.platform}).
{timing.machine(arguments.threads, ["jax", "flax"])}
- Seeds {arguments.seeds}: mean ± sample standard deviation. Of planted problems, every seed has a
  number of its own.
- Delta: mean relative change of the tasks' metrics against single-task networks of the same seed,
  on test. All networks were trained for equally many steps in all, searches with their trials and
  re-trainings included.
- Widths: of MLPs the hidden layer of every block, else all channels.
- Milliseconds: every network as it was trained, on test examples, in turn in one process; medians
  of {arguments.rounds} rounds, {kind}. `dynashare`: what its gates skip is left out as
  `infer.strategy` chooses; "gates open": the same weights, gates never asked.
- Work: of the blocks of the route, without gates, against hard sharing of the same width.

{(chr(10) * 2).join(sections)}
"""


def main() -> None:
  """Trains what is missing, times all, and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=["conflict", "census"])
  parser.add_argument("--seeds", default="0,1,2", help="with commas")
  parser.add_argument("--rounds", type=int, default=100, help="of timing")
  parser.add_argument("--threads", type=int, default=1, help="cores to use, of trainings, too")
  parser.add_argument("--data_dir", default="", help="folder of Census-Income")
  parser.add_argument("--set", default="", help="settings of all runs with spaces, name=value")
  parser.add_argument("--out", default="runs/front", help="folder of the runs, and of the page")
  parser.add_argument("--docs", action="store_true", help="write the page into docs/benchmarks")
  arguments = parser.parse_args()
  seeds = [int(seed) for seed in arguments.seeds.split(",")]
  timing.pin(arguments.threads)
  guard.use_compilation_cache()
  out = pathlib.Path(arguments.out)
  folder, images, link = out, out, ""
  if arguments.docs:
    folder, images, link = timing.DOCS, timing.ROOT / "docs" / "images", "../images/"
  sections = []
  for name in arguments.cases:
    case = CASES[name]
    settings = arguments.set.split()
    settings += [f"data_dir={arguments.data_dir}"] * (case.stored and bool(arguments.data_dir))
    found, steps = jobs(case, seeds, out / name, settings)
    jobs_lib.train([job for several in found.values() for job in several])
    points = measured(case, found, steps, arguments.rounds)
    style.draw(functools.partial(figure, points), images / f"front-{name}.png")
    sections.append(section(name, case, points, f"{link}front-{name}.png"))
    print(sections[-1], flush=True)
  (folder / "front.md").write_text(page(arguments, sections), encoding="utf-8")
  print(f"page: {folder / 'front.md'}")


if __name__ == "__main__":
  main()
