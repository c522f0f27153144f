"""Complete runs of a second: tiny data, tiny networks, every phase; a plugin of all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax import runs as main
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.monitoring import logs
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import results
from dynashare_jax.train import stages
from dynashare_jax.train import state as state_lib


class Run(NamedTuple):
  """A finished run.

  Attributes:
    folder: its work directory.
    experiment: its parts.
    loop: that trained it.
    state: the last one.
    found: what `results.json` holds.
  """

  folder: pathlib.Path
  experiment: experiment_lib.Experiment
  loop: loop_lib.Loop
  state: state_lib.State
  found: dict[str, Any]

  @property
  def lines(self) -> list[dict[str, Any]]:
    """Metric lines without what measures time."""
    lines = logs.read(self.folder)
    for line in lines:
      line["values"] = {
        k: v for k, v in line["values"].items() if not k.startswith(("time/", "memory/"))
      }
    return lines

  @property
  def results(self) -> dict[str, Any]:
    """The file `results.json` without what measures time."""
    found = json.loads((self.folder / "results.json").read_text())
    del found["timing"]
    return found

  @property
  def losses(self) -> np.ndarray:
    """Total loss of every training line."""
    return np.array(
      [line["values"]["loss/total"] for line in self.lines if line["kind"] == "train"]
    )


@pytest.fixture(scope="session", autouse=True)
def stripes() -> None:
  """Lets the tiny data set be found by its name."""
  configs.find_stripes()


@pytest.fixture(scope="session", autouse=True)
def forked() -> Iterator[None]:
  """Ends the process that forks those of tests."""
  yield
  forks.end()


@pytest.fixture(scope="session")
def stopped(train: Callable[..., Run]) -> Callable[..., None]:
  """Trains as `train` does, but ends where step `last` is done, as if by a fault."""

  class Stop(Exception):
    pass

  def make(folder: pathlib.Path, last: int, *devices: int, **values: Any) -> None:
    def look(loop: Any, step: int) -> None:
      if step >= last:
        raise Stop

    with pytest.raises(Stop):
      train(folder, *devices, before_chunk=look, **values)
    # Else the next start would be the first one.
    assert any(found.name.isdigit() for found in (folder / "checkpoints").iterdir())

  return make


@pytest.fixture(scope="session")
def config() -> Callable[..., ml_collections.ConfigDict]:
  """Makes a configuration: `config(method="hard", train__steps=3)`."""
  return configs.make


@pytest.fixture(scope="session")
def build() -> Callable[..., experiment_lib.Experiment]:
  """Puts an experiment together on some CPU devices (default one)."""

  def make(devices: int = 1, **values: Any) -> experiment_lib.Experiment:
    return main.build(configs.make(**values), jax.devices()[:devices])[0]

  return make


# Of a configuration, what only the host reads, or what is in the key of a program already.
_HOST = {
  "data": {"bad", "seed_b", "train", "validation", "test"},
  "policy": {"candidates", "latency"},
  "train": {
    *("candidate_groups", "checkpoint_every", "cycles", "eval_every", "log_every", "policy_steps"),
    *("resident", "retrain_steps", "sampling", "steps", "steps_per_dispatch", "threads"),
    *("warmup_steps", "weight_steps", "workers"),
  },
}


@pytest.fixture(scope="session", autouse=True)
def programs() -> Iterator[dict[str, loop_lib.Loop]]:
  """Lends the compiled programs of the first loop to later ones that compile the same.

  And that of initial parameters to later experiments with an equal network.

  A test that counts or changes what is compiled empties the dictionary first.
  """
  kept: dict[str, loop_lib.Loop] = {}
  prepare = loop_lib.Loop.__init__

  def lent(self: loop_lib.Loop, experiment: Any, *rest: Any, **named: Any) -> None:
    prepare(self, experiment, *rest, **named)
    values = {
      group: {k: v for k, v in part.items() if k not in _HOST.get(group, ())}
      if isinstance(part, dict)
      else part
      for group, part in experiment.config.to_dict().items()
      if group not in ("baseline", "mixed")
    }
    name = repr(
      (
        values,
        [device.id for device in experiment.mesh.devices.flat],
        mesh_lib.SMALL,
        dataclasses.replace(experiment.dataset.spec, sizes={}),
        experiment.dataset.augment,
      )
    )
    other = kept.setdefault(name, self)
    self.programs, self.evaluator = other.programs, other.evaluator

  inits: dict[Any, Any] = {}
  own = experiment_lib.Experiment.init.func

  def init(self: experiment_lib.Experiment) -> Any:
    inputs = jax.eval_shape(lambda: self.sample_inputs(cropped=True))
    name = self.network, repr((self.sharing.everything(), inputs))
    return inits.setdefault(name, own(self))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop_lib.Loop, "__init__", lent)
    patch.setattr(experiment_lib.Experiment, "init", property(init))
    yield kept


@pytest.fixture(scope="session")
def train(build) -> Callable[..., Run]:
  """Trains to the end in a folder; goes on where it stands.

  `before_chunk(loop, step)` is called before the next steps.
  """

  def run(
    folder: pathlib.Path,
    devices: int = 1,
    before_chunk: Callable[[loop_lib.Loop, int], None] | None = None,
    **values: Any,
  ) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    experiment = build(devices, **values)
    loop = loop_lib.Loop(experiment, folder)
    if before_chunk is not None:
      advance = loop._advance

      def watched(index, offset, count, step, *rest):
        before_chunk(loop, step)
        return advance(index, offset, count, step, *rest)

      loop._advance = watched
    state = stages.run(loop)
    return Run(folder, experiment, loop, state, results.finish(loop, state, {}))

  return run


@pytest.fixture(scope="session")
def whole(train, tmp_path_factory) -> Callable[..., Run]:
  """The uninterrupted run of a configuration, trained once a session."""
  kept: dict[str, Run] = {}

  def find(**values: Any) -> Run:
    name = json.dumps(values, sort_keys=True)
    if name not in kept:
      kept[name] = train(tmp_path_factory.mktemp("whole"), **values)
    return kept[name]

  return find


@pytest.fixture(scope="session")
def same_run(same_bits) -> Callable[[Run, Run], None]:
  """Asserts that two runs left the same behind, but for their times."""

  def check(got: Run, want: Run) -> None:
    same_bits(got.state, want.state)
    assert json.dumps(got.lines) == json.dumps(want.lines)
    assert got.results == want.results
    files = [(r.folder / "policy.json").read_text() for r in (got, want)]
    assert files[0] == files[1]

  return check


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Any, Any], None]:
  """Asserts that two trees hold the same bits."""

  def check(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
      a, b = np.asarray(a), np.asarray(b)
      assert a.dtype == b.dtype and a.shape == b.shape, path
      assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)

  return check
