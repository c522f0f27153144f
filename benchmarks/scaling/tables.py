"""The tables of docs/scaling.md: predictions of the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from benchmarks import timing
from benchmarks.scaling import model

COUNTS = (8, 64, 256)
LARGE = "ResNet-101"  # begins the name of the network that only shards
SHOWN = (model.CHIPS[0], model.CHIPS[2])


def work_of(facts: Mapping[str, Any]) -> model.Work:
  """The work of a weight step, from what `scaling_network.facts` tells."""
  few, few_bytes = facts["small"]
  return model.Work(
    facts["name"],
    facts["macs"],
    facts["trained"],
    facts["batch"],
    few,
    few_bytes,
    not facts["resident"],
  )


def sections(
  networks: Sequence[Mapping[str, Any]],
  dispatch: float,
  measured: Mapping[str, Mapping[str, float]],
  disk: float,
) -> dict[str, str]:
  """All tables, by the name of their place in the page.

  Args:
    networks: from `scaling_network.facts`, with `small`.
    dispatch: seconds of Python a dispatch.
    measured: chip -> network -> utilisation measured on one device.
    disk: bytes a second that checkpoints are written with here.
  """
  assumed = model.Assumed(dispatch=dispatch)
  small = [n for n in networks if not n["name"].startswith(LARGE)]
  papers = [n for n in small if not n["resident"]]

  def of(chip: model.Chip, name: str) -> model.Assumed:
    share = measured.get(chip.name, {}).get(name, assumed.utilisation)
    return dataclasses.replace(assumed, utilisation=share)

  return {
    "networks": _networks(networks, disk),
    "chips": _chips(assumed, measured),
    "weak": _weak(small, of),
    "strong": _strong(papers, of),
    "candidates": _candidates(papers, of),
    "input": _input(papers, of),
    "sharding": _sharding([n for n in networks if not n["resident"]], assumed),
  }


def _networks(networks: Sequence[Mapping[str, Any]], disk: float) -> str:
  rows = []
  for n in networks:
    state = model.held_bytes(n["state"], 1, False)
    rows.append(
      [
        n["name"],
        "x".join(map(str, n["crop"])),
        str(n["batch"]),
        f"{n['macs'] / 1e9:,.3g}",
        f"{n['trained'] / 1e6:,.1f}",
        f"{4 * n['trained'] / 1e6:,.0f}",
        str(n["small"][0] or "-"),
        f"{n['input_bytes'] / 1e6:.2f}",
        f"{state / 1e6:,.0f}",
        f"{state / disk:,.1f}",
      ]
    )
  return timing.table(
    [
      "network",
      "crop",
      "batch",
      "GMAC / example",
      "M parameters",
      "gradients, MB",
      "small all-reduces",
      "input, MB / example",
      "checkpoint, MB",
      "written here in, s",
    ],
    rows,
  )


def _chips(assumed: model.Assumed, measured: Mapping[str, Mapping[str, float]]) -> str:
  rows = [
    [
      c.name,
      f"{c.flops / 1e12:,.0f}",
      f"{c.memory / 1e9:.0f}",
      f"{c.memory_speed / 1e12:.2f}",
      f"{c.link / 1e9:.0f}",
      "-" if c.domain >= max(COUNTS) else f"{c.network / 1e9:.3g}",
      str(c.cores),
      " / ".join(f"{1e6 * model.latency_seconds(c, n):.0f}" for n in COUNTS),
      ", ".join(f"{v:.2f}" for v in measured.get(c.name, {}).values())
      or f"{assumed.utilisation} assumed",
    ]
    for c in model.CHIPS
  ]
  return timing.table(
    [
      "chip",
      "bf16 TFLOP/s",
      "GB",
      "TB/s",
      "link, GB/s",
      "network, GB/s",
      "cores / host",
      "µs of an empty all-reduce, 8 / 64 / 256",
      "utilisation",
    ],
    rows,
  )


def _cell(many: model.Step, one: model.Step) -> str:
  return f"{1000 * many.seconds:,.2f} ms, {model.efficiency(many, one):.0%}, {many.bound}"


def _weak(networks: Sequence[Mapping[str, Any]], of: Any) -> str:
  rows = []
  for n in networks:
    work = work_of(n)
    for chip in SHOWN[:1] if n["resident"] else SHOWN:
      steps = [
        model.step(work, chip, count, work.batch, of(chip, work.name)) for count in (1, *COUNTS)
      ]
      rows.append(
        [
          work.name,
          chip.name,
          f"{1000 * steps[0].seconds:,.2f} ms, {steps[0].bound}",
          *[_cell(s, steps[0]) for s in steps[1:]],
        ]
      )
  return timing.table(["network", "chip", "1 device", *[str(c) for c in COUNTS]], rows)


def _strong(networks: Sequence[Mapping[str, Any]], of: Any) -> str:
  counts = (2, 4, 8, 16)
  rows = []
  for n in networks:
    work = work_of(n)
    for chip in SHOWN:
      steps = [
        model.step(work, chip, count, work.batch / count, of(chip, work.name))
        for count in (1, *counts)
      ]
      rows.append([work.name, chip.name, *[_cell(s, steps[0]) for s in steps[1:]], "refused"])
  return timing.table(["network", "chip", *map(str, counts), "64, 256"], rows)


def _candidates(networks: Sequence[Mapping[str, Any]], of: Any) -> str:
  plans = ((1, 1), (8, 1), (8, 2), (8, 4), (8, 8), (64, 4), (64, 8), (128, 8))
  rows = []
  for n in networks:
    work = work_of(n)
    for chip in SHOWN:
      rows.append(
        [
          work.name,
          chip.name,
          *[
            f"""{
              model.candidate_seconds(
                work,
                chip,
                devices,
                groups,
                n["candidates"],
                n["retrain_steps"],
                of(chip, work.name),
              )
              / 3600:,.2f}"""
            for devices, groups in plans
          ],
        ]
      )
  return timing.table(["network", "chip", *[f"{d}: {g} x {d // g}" for d, g in plans]], rows)


def _input(networks: Sequence[Mapping[str, Any]], of: Any) -> str:
  rows = []
  for n in networks:
    work = work_of(n)
    for chip in SHOWN:
      assumed = of(chip, work.name)
      one = model.step(work, chip, 8, work.batch, assumed)
      wanted = chip.host * one.examples / one.device
      rows.append(
        [
          work.name,
          chip.name,
          f"{wanted:,.0f}",
          f"{chip.cores * assumed.reads:,.0f}",
          f"{wanted / assumed.reads:,.0f} of {chip.cores}",
          f"{wanted / chip.host * n['input_bytes'] / 1e9:.2f}",
        ]
      )
  return timing.table(
    [
      "network",
      "chip",
      "examples / s that 8 devices take",
      "that all cores give",
      "cores wanted",
      "to each device, GB/s",
    ],
    rows,
  )


def _sharding(networks: Sequence[Mapping[str, Any]], assumed: model.Assumed) -> str:
  rows = []
  for n in networks:
    held = [
      sum(model.held_bytes(n[part], count, split) for part in ("state", "gradients"))
      for count, split in ((1, False), (8, True), (64, True))
    ]
    size = 4.0 * n["trained"]
    more = []
    for chip in SHOWN:
      whole = model.all_reduce_seconds(size, chip, 8, assumed.link_use)
      split_ = model.sharded_seconds(size, chip, 8, assumed.link_use)
      more.append(f"{1000 * whole:.1f} → {1000 * split_:.1f}")
    rows.append([n["name"], *[f"{h / 1e9:.2f}" for h in held], *more])
  return timing.table(
    [
      "network",
      "whole, GB",
      "split over 8, GB",
      "over 64, GB",
      *[f"ms of 8 {chip.name}" for chip in SHOWN],
    ],
    rows,
  )
