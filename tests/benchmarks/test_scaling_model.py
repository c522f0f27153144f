"""Tests of the cost model against numbers worked by hand, and its pages."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

from benchmarks.scaling import model  # noqa: E402
from benchmarks.scaling import page  # noqa: E402
from benchmarks.scaling import tables  # noqa: E402

CHIP = model.Chip(
  "chip",
  flops=1000.0,
  memory=1e3,
  memory_speed=70.0,
  link=10.0,
  domain=4,
  network=5.0,
  host=4,
  cores=8,
  start=1.0,
  hop=2.0,
  far_hop=5.0,
)
WORK = model.Work("net", macs=10.0, trained=5.0, batch=8, small=3, small_bytes=8.0)
PLAIN = model.Assumed(utilisation=0.5, link_use=1.0, reads=2.0, dispatch=0.25)


def test_compute_counts_two_operations_and_three_passes() -> None:
  # 3 passes x 2 operations x 1e9 x 2 examples = 12e9, at 0.5 of 1e12.
  assert model.compute_seconds(1e9, 2, 1e12, 0.5) == pytest.approx(0.024)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_of_the_peak_is_one(share: float) -> None:
  with pytest.raises(ValueError, match=r"utilisation must be in \(0, 1\]"):
    model.compute_seconds(1.0, 1, 1.0, share)


def test_ring_by_hand() -> None:
  # 6 rounds of 25 bytes at 10 bytes a second, and 6 times 1 second.
  assert model.ring_seconds(100.0, 4, 10.0, 1.0) == pytest.approx(15 + 6)
  assert model.ring_seconds(100.0, 1, 10.0, 1.0) == 0


@pytest.mark.parametrize("devices", [2, 3, 5, 8])
def test_ring_sends_what_a_ring_sends(devices: int) -> None:
  """Counts the numbers that pass a link while a ring really adds arrays."""
  rng = np.random.default_rng(devices)
  parts = rng.random((devices, devices, 6))  # [device, part, number]
  held, sent = parts.copy(), 0  # sent: by device 0
  for turn in range(2 * (devices - 1)):
    before = held.copy()
    for device in range(devices):
      to, part = (device + 1) % devices, (device - turn) % devices
      if turn >= devices - 1:  # Parts are whole: hand them on.
        part = (device + 1 - (turn - devices + 1)) % devices
        held[to, part] = before[device, part]
      else:
        held[to, part] += before[device, part]
      sent += 6 if device == 0 else 0
  np.testing.assert_allclose(held, np.broadcast_to(parts.sum(0), parts.shape))
  size = devices * 6
  assert model.ring_seconds(size, devices, 1.0, 0.0) == pytest.approx(sent)


def test_latency_of_switch_and_torus_by_hand() -> None:
  assert model.latency_seconds(CHIP, 1) == 0
  assert model.latency_seconds(CHIP, 4) == 1 + 2 * 3 * 2
  # Four devices in each of 3 hosts: a chain of 3 hops, a tree of depth 2.
  assert model.latency_seconds(CHIP, 12) == 1 + 2 * (3 * 2 + 2 * 5)
  torus = dataclasses.replace(CHIP, torus=True, domain=256)
  assert model.latency_seconds(torus, 16) == 1 + 2 * (2 + 2) * 2  # 4 x 4
  assert model.latency_seconds(torus, 8) == 1 + 2 * (1 + 2) * 2  # 2 x 4


def test_all_reduce_inside_and_across_hosts_by_hand() -> None:
  assert model.all_reduce_seconds(80.0, CHIP, 1) == 0
  assert model.all_reduce_seconds(80.0, CHIP, 4) == pytest.approx(13 + 2 * 3 / 4 * 80 / 10)
  # Then 20 bytes of every device go around 2 hosts at 5 bytes a second.
  assert model.all_reduce_seconds(80.0, CHIP, 8) == pytest.approx(
    1 + 2 * (6 + 5) + 12 + 2 * 1 / 2 * 20 / 5
  )
  # Half of the bandwidth doubles all but the latency.
  assert model.all_reduce_seconds(80.0, CHIP, 4, 0.5) == pytest.approx(13 + 24)


def test_step_part_by_part_by_hand() -> None:
  step = model.step(WORK, CHIP, 4, 2, PLAIN)
  assert step.compute == pytest.approx(6 * 10 * 2 / 500)
  assert step.update == pytest.approx(28 * 5 / 70)
  assert step.gradients == pytest.approx(13 + 1.5 * 20 / 10)
  assert step.statistics == pytest.approx(3 * 13 + 1.5 * 8 / 10)
  # 2 examples on each of 4 devices; 8 cores read 2 a second each.
  assert step.read == pytest.approx(2 * 4 / 16)
  assert step.dispatch == 0.25
  assert step.device == pytest.approx(0.24 + 2 + 16 + 40.2)
  assert step.seconds == step.device
  assert step.bound == "statistics"


def test_one_device_sends_nothing() -> None:
  step = model.step(WORK, CHIP, 1, 8, PLAIN)
  assert (step.gradients, step.statistics) == (0, 0)
  assert model.efficiency(step, step) == 1


@pytest.mark.parametrize(
  ("work", "assumed", "bound"),
  [
    ({}, {}, "update"),
    ({"macs": 1e4}, {}, "compute"),
    ({}, {"reads": 0.01}, "input"),
    ({}, {"dispatch": 1e3}, "dispatch"),
    ({"reads": False}, {"reads": 0.01}, "update"),
    ({"dispatched": 1000}, {"dispatch": 1e3}, "update"),
  ],
)
def test_what_bounds_a_step(work: dict, assumed: dict, bound: str) -> None:
  step = model.step(
    dataclasses.replace(WORK, **work), CHIP, 1, 8, dataclasses.replace(PLAIN, **assumed)
  )
  assert step.bound == bound
  assert step.seconds == max(step.device, step.read, step.dispatch)


@pytest.mark.parametrize("chip", model.CHIPS, ids=lambda chip: chip.name)
def test_free_communication_scales_without_loss(chip: model.Chip) -> None:
  free = dataclasses.replace(chip, link=math.inf, network=math.inf, start=0.0, hop=0.0, far_hop=0.0)
  one = model.step(WORK, free, 1, 4)
  for devices in (2, 8, 64, 256):
    many = model.step(WORK, free, devices, 4)
    assert model.efficiency(many, one) == pytest.approx(1)
    real = model.step(WORK, chip, devices, 4)
    assert model.efficiency(real, model.step(WORK, chip, 1, 4)) <= 1


@pytest.mark.parametrize("chip", model.CHIPS, ids=lambda chip: chip.name)
def test_all_reduce_grows_with_devices_and_bytes(chip: model.Chip) -> None:
  seconds = [model.all_reduce_seconds(1e6, chip, 2**n) for n in range(9)]
  assert seconds == sorted(seconds)
  assert model.all_reduce_seconds(2e6, chip, 8) > seconds[3]


def test_candidates_by_hand() -> None:
  one = model.step(WORK, CHIP, 2, 4, PLAIN).seconds
  # 8 devices in 4 groups of 2; 6 candidates need 2 rounds of 100 steps.
  assert model.candidate_seconds(WORK, CHIP, 8, 4, 6, 100, PLAIN) == pytest.approx(2 * 100 * one)
  alone = model.step(WORK, CHIP, 1, 8, PLAIN).seconds
  assert model.candidate_seconds(WORK, CHIP, 8, 8, 8, 1, PLAIN) == pytest.approx(alone)


@pytest.mark.parametrize("chip", model.CHIPS, ids=lambda chip: chip.name)
def test_groups_never_lose_where_they_divide_the_candidates(chip: model.Chip) -> None:
  seconds = [model.candidate_seconds(WORK, chip, 8, groups, 8, 10) for groups in (1, 2, 4, 8)]
  assert seconds == sorted(seconds, reverse=True)


def test_candidates_refuse_what_does_not_divide() -> None:
  with pytest.raises(ValueError, match="3 groups do not divide 8 devices"):
    model.candidate_seconds(WORK, CHIP, 8, 3, 8, 1)
  with pytest.raises(ValueError, match="batch of 8 cannot be split over 16"):
    model.candidate_seconds(WORK, CHIP, 64, 4, 8, 1)


def test_held_bytes_by_hand() -> None:
  shapes = [(3, 8), (3, 5), (2, 2), ()]
  assert model.held_bytes(shapes, 4, False) == 4 * (24 + 15 + 4 + 1)
  # Of those with 4 numbers or more only the first has an axis that 4 divides.
  assert model.held_bytes(shapes, 4, True, small=4) == 4 * (6 + 15 + 4 + 1)
  assert model.held_bytes(shapes, 4, True, small=25) == 4 * 44


def test_sharded_sends_half_as_much_again() -> None:
  assert model.sharded_seconds(80.0, CHIP, 4) == pytest.approx(1.5 * 25)


def test_fit_finds_a_line_and_weighs_relative_errors() -> None:
  exact = {float(size): 2e-4 + size / 1e9 for size in (4, 1e4, 1e6, 1e8)}
  latency, bandwidth = model.fit(exact)
  assert latency == pytest.approx(2e-4)
  assert bandwidth == pytest.approx(1e9)
  # Slow large ones, as on a busy machine, leave the latency alone.
  latency, _ = model.fit(exact | {1e8: 2 * exact[1e8]})
  assert latency == pytest.approx(2e-4, rel=0.2)
  # Time in proportion to the size, and less at first: no negative latency.
  assert model.fit({1.0: 1.0, 10.0: 20.0})[0] == 0
  assert model.fit({1.0: 3.0, 10.0: 3.0}) == (pytest.approx(3.0), math.inf)


def test_fit_needs_two_sizes() -> None:
  with pytest.raises(ValueError, match="two sizes at least, but got 1"):
    model.fit({1.0: 1.0})


def test_a_page_keeps_what_is_written_by_hand(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "deep" / "page.md"
  outline = "# A\n<!-- x -->\n<!-- /x -->\nby hand\n<!-- y -->\n<!-- /y -->\n"
  page.put(path, {"x": "one"}, outline)
  page.put(path, {"y": "two " + page.kept(disk=3)}, outline)
  page.put(path, {"x": "three"}, outline)
  text = path.read_text()
  assert text == (
    "# A\n<!-- x -->\nthree\n<!-- /x -->\nby hand\n<!-- y -->\n"
    'two <!-- constants {"disk": 3} -->\n<!-- /y -->\n'
  )
  assert page.constants(text) == {"disk": 3}
  with pytest.raises(ValueError, match=r"no <!-- z --> \.\.\. <!-- /z -->"):
    page.put(path, {"z": "four"}, outline)


def test_waits_of_a_step_count_every_array() -> None:
  fit = {"latency": 0.1, "bandwidth": 100.0}
  # Three arrays of 10, 20 and 30 bytes, in two all-reduces.
  assert page.predicted_waits([[10, 20], [30]], fit) == pytest.approx(0.9)


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("NVIDIA H100 80GB HBM3", "H100 SXM"),
    ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
    ("TPU v5 lite", "TPU v5e"),
    ("cpu", None),
    ("NVIDIA H200", None),
  ],
)
def test_devices_are_recognised(kind: str, name: str | None) -> None:
  chip = page.chip_of(kind)
  assert (chip.name if chip else None) == name


def test_measured_utilisation_replaces_the_assumed_one() -> None:
  net = {
    "name": "ResNet-18, NYU v2",
    "crop": (321, 321),
    "batch": 16,
    "macs": 1e11,
    "trained": 5e7,
    "input_bytes": 3e6,
    "small": (34, 2e5),
    "state": [(1000, 1000)],
    "gradients": [(1000, 1000)],
    "candidates": 8,
    "retrain_steps": 50000,
    "resident": False,
  }
  made = [
    tables.sections([net], 1e-3, measured, 1e8)
    for measured in ({}, {"H100 SXM": {"ResNet-18, NYU v2": 0.6}})
  ]
  assert "0.3 assumed" in made[0]["chips"]
  assert "| 0.60 |" in made[1]["chips"]
  # 6 x 1e11 x 16 operations at a share of 989e12, and Adam's 28 x 5e7 bytes.
  one = 1000 * (9.6e12 / (0.3 * 989e12) + 1.4e9 / 3.35e12)
  assert f"| {one:.2f} ms, compute |" in made[0]["weak"]
  # Twice as fast, it waits for 16 x 8 examples of 112 cores.
  assert f"| {128000 / (112 * 48.7):.2f} ms, input |" in made[1]["weak"]
  assert "refused" in made[0]["strong"]
