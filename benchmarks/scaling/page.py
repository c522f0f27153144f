"""Pages of benchmarks/scaling/run.py: what was measured, and the model's tables.

A page is replaced between `<!-- name -->` and `<!-- /name -->` only; the rest
is written by hand. Constants that other pages need are kept in a comment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
import re
import statistics
from typing import Any

from benchmarks import timing
from benchmarks.scaling import model

RATIO = 1.7  # wanted of two processes
SHARE = 0.03  # of the time of steps, at most, for checkpoints
START = 20.0  # seconds to the first step, at most
_CONSTANTS = re.compile(r"<!-- constants (\{.*?\}) -->")

OUTLINE = """\
# Scaling on one machine, measured

Written by `benchmarks/scaling/run.py`, part by part: each has its own command and
load. What they mean for clusters: [scaling.md](../scaling.md).

## Two processes against one

<!-- weak -->
Not measured yet.
<!-- /weak -->

## All-reduce between two processes

<!-- allreduce -->
Not measured yet.
<!-- /allreduce -->

## Candidates at once

<!-- candidates -->
Not measured yet.
<!-- /candidates -->

## Checkpoints

<!-- checkpoint -->
Not measured yet.
<!-- /checkpoint -->

## Start-up

<!-- startup -->
Not measured yet.
<!-- /startup -->

## Python between two steps

<!-- dispatch -->
Not measured yet.
<!-- /dispatch -->
"""


def replaced(text: str, name: str, body: str) -> str:
  """A page with another text between the marks of a name.

  Raises:
    ValueError: the page has no such marks.
  """
  begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
  head, found, rest = text.partition(begin)
  _, closed, tail = rest.partition(end)
  if not (found and closed):
    raise ValueError(f"The page has no {begin} ... {end}.")
  return f"{head}{begin}\n{body.strip()}\n{end}{tail}"


def put(path: pathlib.Path, sections: Mapping[str, str], outline: str) -> None:
  """Writes sections into a page, which begins as `outline`."""
  text = path.read_text(encoding="utf-8") if path.is_file() else outline
  for name, body in sections.items():
    text = replaced(text, name, body)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")


def constants(text: str) -> dict[str, Any]:
  """The constants in the comments of a page."""
  found: dict[str, Any] = {}
  for match in _CONSTANTS.finditer(text):
    found |= json.loads(match.group(1))
  return found


def kept(**values: Any) -> str:
  """The comment that keeps constants."""
  return f"<!-- constants {json.dumps(values)} -->"


def verdict(value: float, limit: float, most: bool) -> str:
  """`met` or `missed`.

  Args:
    value: measured.
    limit: wanted.
    most: whether `limit` is the most that is allowed.
  """
  return "met" if (value <= limit if most else value >= limit) else "missed"


def weak(loads: Sequence[Mapping[str, Any]], fit: Mapping[str, float]) -> str:
  """Weak scaling: measured ratios beside the model's prediction.

  Args:
    loads: from `scaling.measure_weak`, one a batch.
    fit: `latency` and `bandwidth` of an all-reduce.
  """
  cases = {
    "idle": "two processes, a thread each, gloo at idle priority",
    "free": "two processes, a thread each",
    "pair": "two processes, pinned to a core each",
    "apart": "two runs of one process, pinned to a core each",
    "threads": "one process, both cores, twice the batch",
  }
  rows, told = [], []
  for found in loads:
    batch = str(found["batch"])
    one = statistics.median(found["alone"])
    waits = predicted_waits(found["reduced"], fit)
    talking = f"{2 * one / (one + waits):.2f}"
    predicted = {"idle": talking, "free": talking, "apart": "2"}
    ratio = {
      name: [2 * a / b for a, b in zip(found["alone"], found[name], strict=True)] for name in cases
    }
    rows.append([f"{batch}: one process, pinned to a core", _ms(found["alone"]), "1", "1"])
    rows += [
      [f"{batch}: {title}", _ms(found[name]), timing.spread(ratio[name]), predicted.get(name, "-")]
      for name, title in cases.items()
    ]
    best, free = (statistics.median(ratio[name]) for name in ("idle", "free"))
    more = [
      statistics.median(found[name]) - statistics.median(found["apart"])
      for name in ("idle", "free")
    ]
    rate = 6 * found["macs"] * found["batch"] / one
    arrays = [size for sizes in found["reduced"] for size in sizes]
    told.append(
      f"- Batch {batch} (a step of {1000 * one:.0f} ms): {best:.2f} times at"
      f" idle priority, {verdict(best, RATIO, False)}; {free:.2f} times"
      f" without, {verdict(free, RATIO, False)}."
      f" {len(found['reduced'])} all-reduces"
      f" of {len(arrays)} arrays, {sum(arrays) / 1e6:.2f} MB, should take"
      f" {1000 * waits:.0f} ms by the fit below; the step takes"
      f" {1000 * more[0]:.0f} and {1000 * more[1]:.0f} ms longer than in two"
      f" runs that do not talk. One core computes {rate / 1e9:.0f} GFLOP/s"
      " (all taps; a step is three forward passes)."
    )
  return f"""\
- The search's weight step of `configs/rooms.py` (ResNet, 3 tasks, 48x64
  pixels) on random pictures, {loads[0]["steps"]} steps a turn; the first number
  is the batch of a process. Cases take turns, medians of
  {len(loads[0]["alone"])} rounds with (minimum–maximum). Ratios are of examples
  a second. "A thread each" is the variable `NPROC=1`, which limits the threads
  that jax computes with; "idle priority" is `DYNASHARE_IDLE_GLOO=1`.

{timing.table(["case", "ms / step", "ratio", "model"], rows)}

Wanted: at least {RATIO} times the examples a second of one process, on two
cores, for a step over 100 ms.

{chr(10).join(told)}

On the CPU, gloo sends every array of an all-reduce by itself, and its thread
polls while a message lies there that the process has not come to yet: it takes
half of the core from the process that is behind already. At idle priority it
runs where a core has nothing else to do; where another program computes on all
cores, that is seldom, and a step can take minutes. Do not pin a process to a
single core (see the next section)."""


def predicted_waits(reduced: Sequence[Sequence[int]], fit: Mapping[str, float]) -> float:
  """Seconds of a step's all-reduces between two processes with gloo.

  Args:
    reduced: bytes of every array of every all-reduce; each is sent by itself.
    fit: `latency` and `bandwidth`.
  """
  return sum(
    model.ring_seconds(size, 2, fit["bandwidth"], fit["latency"] / 2)
    for sizes in reduced
    for size in sizes
  )


def all_reduce(found: Mapping[str, Any]) -> str:
  """Time of an all-reduce against its size, and the fit."""
  rows = []
  for size, seconds in found["sweep"].items():
    fitted = model.ring_seconds(float(size), 2, found["bandwidth"], found["latency"] / 2)
    rows.append(
      [f"{int(size):,}", _us(seconds), f"{1e6 * fitted:,.3g}", _us(found["pinned"][size])]
    )
  return f"""\
- `psum` of float32 over two processes on two cores, gloo on loopback; several
  in one program, each needing the one before; medians with (minimum–maximum).

{timing.table(["bytes", "a thread each, µs", "fit, µs", "pinned, µs"], rows)}

Fit (least relative error): {1e6 * found["latency"]:.0f} µs and
{found["bandwidth"] / 1e9:.2f} GB/s."""


def candidates(found: Mapping[str, Any]) -> str:
  """Re-trainings at once against in turn."""
  gains = timing.ratios(found["in turn"], found["at once"])
  agree = "the same routes, the same choice" if found["same"] else "OTHER ROUTES OR CHOICE"
  return f"""\
- Rooms in two processes with a thread each (`NPROC=1`,
  `DYNASHARE_IDLE_GLOO=1`) on two cores: a search of 6 steps, then 4
  re-trainings of {found["steps"]} steps, one after another on both devices
  (`config.train.candidate_groups=1`) and two at once on one device each (`=2`);
  seconds that one step of all 4 takes, without compiling, validation and
  checkpoints; runs of both ways take turns.

| re-trainings | seconds a step of all |
| --- | --- |
| in turn | {timing.spread(found["in turn"])} |
| at once | {timing.spread(found["at once"])} |

At once is {timing.spread(gains)} times as fast: groups do not talk to each
other in a step. Both ways found {agree}; scores are at most
{found["apart"]:.1e} apart."""


def checkpoints(found: Mapping[str, Any]) -> str:
  """What saving costs."""
  rounds, steps = found["rounds"], found["steps"]
  plain = {kind: [r["plain"][kind] for r in rounds] for kind in ("wall", "cpu")}
  extra = {kind: [r["saved"][kind] - r["plain"][kind] for r in rounds] for kind in plain}
  blocked = [r["saved"]["blocked"] for r in rounds]
  step = statistics.median(plain["cpu"]) / steps
  cost = max(statistics.median(seconds) for seconds in extra.values())
  share = cost / (found["every"] * step)
  fewest = max(math.ceil(cost / (SHARE * step)), 1)
  big = statistics.median(b[1] for b in found["big"])
  held = statistics.median(b[0] for b in found["big"])
  speed = found["big_bytes"] / big
  return f"""\
- One process on one core trains blocks of {steps} steps, in turn without and
  with one asynchronous save at the beginning, waited for at the end; medians of
  {len(rounds)} rounds with (minimum–maximum). A checkpoint of Rooms has
  {found["bytes"] / 1e6:.1f} MB.

{
    timing.table(
      ["", "elapsed, s", "processor, s"],
      [
        [
          f"{steps} steps without a save",
          timing.spread(plain["wall"]),
          timing.spread(plain["cpu"]),
        ],
        [
          "more with a save, its writing included",
          timing.spread(extra["wall"]),
          timing.spread(extra["cpu"]),
        ],
        ["of them until `save` returns", timing.spread(blocked), "-"],
      ],
    )
  }

Wanted: under {SHARE:.0%} of the time of steps. With a save every
{found["every"]} steps, as configured: {share:.2%}, \
{verdict(share, SHARE, True)} (the larger of the two columns; steps by processor
time); a save every {fewest} steps would still do on one core. A state of
{found["big_bytes"] / 1e6:.0f} MB blocks for {held:.2f} s and is written after
{big:.2f} s ({speed / 1e6:.0f} MB/s, checksums included).
{kept(disk=round(speed))}"""


def startup(found: Mapping[str, Any]) -> str:
  """From the start of the process to the first step."""
  middle = statistics.median(found["warm"])
  rows = [[stage, f"{seconds:.2f}"] for stage, seconds in found["stages"].items()]
  return f"""\
- `python -m dynashare_jax.main --config=configs/rooms.py
  --config.train.log_every=1` with a new workdir; the clock runs until the first
  line of metrics.jsonl, then the process is killed. Compiled programs lie in a
  cache that a first start filled.

Wanted: under {START:.0f} s with a warm cache. {timing.spread(found["warm"])} s
({len(found["warm"])} starts), {verdict(middle, START, True)}. With an empty
cache (one start): {found["cold"]:.1f} s. Where one more warm start spent its
time:

{timing.table(["stage", "seconds"], rows)}"""


def dispatch(found: Mapping[str, Any]) -> str:
  """What Python costs a step."""
  seconds = statistics.median(found["seconds"])
  return f"""\
- Weight steps of a narrow Rooms network on one 16x16 picture:
  {found["steps"]} dispatches of one step against one dispatch of
  {found["steps"]} steps, in turn; processor time, as the host prepares each
  dispatch; medians with (minimum–maximum).

A dispatch of a state of {found["leaves"]} arrays costs {_ms(found["seconds"])}
ms of Python and jax on one core. Shorter steps than that wait for Python unless
`config.train.steps_per_dispatch` is above 1.
{kept(dispatch=round(seconds, 6))}"""


def accelerator(rows: Sequence[Mapping[str, Any]], kind: str, about: str) -> str:
  """The page of one device."""
  chip = chip_of(kind)
  lines: list[list[str]] = []
  reached: dict[str, float] = {}
  for row in rows:
    seconds = statistics.median(row["seconds"])
    rate = 6 * row["macs"] * row["batch"] / seconds
    share = rate / chip.flops if chip else 0.0
    if row["dtype"] == "bfloat16" and chip:
      reached[row["network"]] = round(share, 4)
    lines.append(
      [
        row["network"],
        row["dtype"],
        "x".join(map(str, row["size"])),
        str(row["batch"]),
        _ms(row["seconds"]),
        f"{row['batch'] / seconds:,.0f}",
        f"{rate / 1e12:,.2f}",
        f"{share:.1%}" if chip else "-",
        f"{row['state'] / 1e9:.2f}",
        f"{row['scratch'] / 1e9:.2f}",
        f"{row['peak'] / 1e9:.2f}",
        f"{row['compile']:.0f}",
      ]
    )
  head = [
    "network",
    "type",
    "crop",
    "batch",
    "ms / step",
    "examples / s",
    "TFLOP/s",
    "of bfloat16 peak",
    "state, GB",
    "scratch, GB",
    "peak so far, GB",
    "compile, s",
  ]
  return f"""\
# A training step on one {kind}

{about}
- The search's weight step, all blocks open, a pass a task, on random pictures
  of the papers' crop, which lie on the device; medians with (minimum–maximum).
  TFLOP/s counts all taps of all convolutions, a step as three forward passes.

{timing.table(head, lines)}

{kept(kind=kind, utilisation=reached)}
"""


def chip_of(kind: str) -> model.Chip | None:
  """The chip that a device's kind names, such as `NVIDIA H100 80GB HBM3`."""
  signs = {"H100": "H100 SXM", "A100": "A100 SXM 80 GB", "v5 lite": "TPU v5e", "v5e": "TPU v5e"}
  names = [name for sign, name in signs.items() if sign in kind]
  return next((c for c in model.CHIPS if c.name in names), None)


def _ms(seconds: Sequence[float]) -> str:
  return timing.spread([1000 * s for s in seconds])


def _us(seconds: Sequence[float]) -> str:
  return timing.spread([1e6 * s for s in seconds])
