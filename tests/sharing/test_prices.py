"""Prices of routes, and the file of milliseconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dynashare_jax.sharing import plan
from dynashare_jax.sharing import prices

PARTS = prices.Prices(2.0, (1.5, 0.5), (0.75, 0.6), (0.25, 0.1), (0.1, 0.2))
NETWORK = prices.Network(("a", "b"), (100.0, 50.0), "float32")


def test_what_routes_take_is_what_their_plans_compute():
  rng = np.random.default_rng(0)
  for _ in range(40):
    tasks, blocks = rng.integers(1, 6), rng.integers(1, 9)
    each = lambda n: tuple(rng.uniform(0.1, 2, n).tolist())
    found = prices.Prices(1.0, each(blocks), each(blocks), each(blocks), each(tasks))
    many = rng.integers(0, 2, (5, tasks, blocks))
    for route, total in zip(many, found.totals(many, "together"), strict=True):
      wanted = 1.0 + sum(found.heads)
      for l, split in enumerate(plan.make([str(t) for t in range(tasks)], route).splits):
        wanted += found.groups[l] * (len(set(split.parents)) - 1)
        if split.running:
          wanted += found.blocks[l] + found.further[l] * (split.running - 1)
      assert total == pytest.approx(wanted)


@pytest.mark.parametrize(("serve", "calls"), [("together", 1), ("apart", 2)])
def test_what_is_left_for_blocks(serve, calls):
  limit = prices.Limit(PARTS, 4.7 if calls == 1 else 6.0, serve, "x", timed=True)
  rest = limit.most - calls * 2.0 - 0.3
  assert limit.share == pytest.approx(rest / (calls * 2.0))
  assert limit.told(4.70001) == "4.7 ms"
  work = prices.within_share((3.0, 1.0), 2, 0.5, serve)
  assert work.share == pytest.approx(0.5)
  assert work.told(work.hard / 4) == "0.25 of the work of hard sharing"


def _file(path, **changes):
  told = prices.to_dict(prices.Timed(PARTS, 8, "cpu (cpu)"), NETWORK, {"rounds": 5})
  path.write_text(json.dumps(told | changes))
  return str(path)


def test_a_file_gives_back_what_was_written(tmp_path):
  found = prices.read(_file(tmp_path / "ms.json"), NETWORK)
  assert found == prices.Timed(PARTS, 8, "cpu (cpu)")


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"batch": None}, "the batch, the examples of a call, must be at least 1, not None"),
    ({"batch": 0}, "must be at least 1, not 0"),
    ({"milliseconds": PARTS._replace(fixed=-1.0)._asdict()}, "must be finite and at least 0"),
    ({"milliseconds": PARTS._replace(groups=(1.0,))._asdict()}, "must be equally many"),
    ({"milliseconds": PARTS._replace(heads=(1.0,))._asdict()}, "as many heads as tasks"),
    ({"milliseconds": {}}, "KeyError: 'fixed'"),
    ({"network": NETWORK._replace(dtype="bfloat16")._asdict()}, "dtype bfloat16 there, float32"),
    ({"network": NETWORK._replace(tasks=("a", "c"))._asdict()}, "of another network .tasks "),
    ({"network": NETWORK._replace(macs=(100.0, 51.0))._asdict()}, "macs .100.0, 51.0. there"),
  ],
)
def test_another_file_is_refused(changes, told, tmp_path):
  with pytest.raises(ValueError, match=told) as error:
    prices.read(_file(tmp_path / "ms.json", **changes), NETWORK)
  assert "cost --config=CONFIG --latency=FILE" in str(error.value)
  assert "\n" not in str(error.value)


def test_no_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"policy.latency='.*none.json': there is no such file"):
    prices.read(str(tmp_path / "none.json"), NETWORK)
  (tmp_path / "text").write_text("text")
  with pytest.raises(ValueError, match="holds no milliseconds .JSONDecodeError"):
    prices.read(str(tmp_path / "text"), NETWORK)
