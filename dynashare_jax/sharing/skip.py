"""Skipping blocks: the task policy, instance gates, routes and their penalties, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.models import norm
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import compaction as compaction_lib
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import policy
from dynashare_jax.ops import routing
from dynashare_jax.ops import streams
from dynashare_jax.sharing import conflict as conflict_lib
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import contrast as contrast_lib
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.sharing import prices
from dynashare_jax.types import PyTree

# What an update keeps of the averages in gates that part examples sharply: those of the last ten
# batches would move the border.
_LONG = 0.98

Routes = Callable[[jax.Array, jax.Array, conflict_lib.Conflict | None], Any]


class Stretch(NamedTuple):
  """What skipping does in a phase (`Phase.settings`).

  Attributes:
    routing: `all` blocks execute, `soft` samples of the policy decide, a `random` route of every
      step, or a fixed `route`.
    gated: whether instance gates decide and their loss counts.
    penalties: whether the policy's sparsity and sharing losses count.
    open_blocks: how many of the last blocks the curriculum has opened.
    temperature: of the policy's Gumbel softmax.
  """

  routing: str = "all"
  gated: bool = False
  penalties: bool = False
  open_blocks: int = 0
  temperature: float = 1.0


class Static(NamedTuple):
  """What is compiled into a training step.

  Attributes:
    modes: routing `[L][T]`.
    drawn: what every step draws: a `soft` sample of the policy, a `random` route, or nothing, as
      the structure is the policy.
    gated: whether instance gates decide.
    penalties: whether the policy's losses count.
  """

  modes: routing.Modes
  drawn: str
  gated: bool
  penalties: bool


class AtTest(NamedTuple):
  """What is compiled into an evaluation or a prediction."""

  modes: routing.Modes
  gated: bool
  compaction: compaction_lib.Compaction | None


class Execution(NamedTuple):
  """How a forward pass is executed; hashable.

  Attributes:
    planned: on the route's plan; else every block is computed for every task and masked, as the
      authors do (the reference).
    gates: whether instance gates decide, where the model has some.
    compaction: how examples that a gate skips are left out; None computes and masks them.
  """

  planned: bool = True
  gates: bool = True
  compaction: compaction_lib.Compaction | None = None


class Budget(NamedTuple):
  """How much a policy may be expected to take without a charge.

  Attributes:
    share: of the blocks of hard sharing.
    serve: see `prices.Prices.predict`.
    costs: `[L]`, of every block: multiply-accumulates or milliseconds.
    weight: of the charge on what is expected above the share.
  """

  share: float
  serve: str
  costs: tuple[float, ...]
  weight: float


@dataclasses.dataclass(frozen=True)
class SkipSharing(contract.Sharing):
  """Routes `[T, L]` of 0 and 1, perhaps learnt, perhaps refined by a gate for every example.

  Attributes:
    names: of the tasks.
    blocks: L.
    routes: `(key, alpha [T, L], measured conflict or None) -> [N, T, L]`, the routes to train.
    learns: whether phases train the task policy.
    target_rates: execution rate wanted of every block, 1 for a block without gate; None for a
      method without instance gates.
    planned: compile routes in, so that what they skip is never computed; else every block is
      computed and masked, and one compilation serves all routes.
    prefixes: how many first blocks may be computed once for all tasks while the curriculum keeps
      them closed; every value used is a compilation.
    first_opened: most blocks that the curriculum opens; the others stay executed by all tasks.
    policy_init: see `ops.policy.init_logits`.
    sparsity: weight of Eq. 3, and its form.
    sharing: weight of Eq. 4, and its form.
    instance: weight of Eq. 5, and its form.
    gate_temperature: of the gates' gradient.
    sampled_range: every step draws one target rate for all gated blocks from this range, and the
      gates read it; None: `target_rates`.
    noise_fades: last fraction of a phase in which the gates' noise falls from full to none.
    anneal: first fraction of a phase in which the wanted rates fall from 1 to the target rates.
    contrast: weight of the loss that teaches gates by contrast, see `sharing.contrast`; 0 leaves
      them to the gradient through their decisions.
    explore: first fraction of a phase in which a coin says, for every example and task, whether
      all gated blocks run or none, while gates are taught by contrast.
    sampled_gates: seed of sampled gate decisions at test, as the authors evaluate; None takes the
      likelier decision.
    budget: the share of the blocks of hard sharing above which the policy is charged, how it is
      served, and what every block takes; None charges nothing.
    conflict: whether phases measure the tasks' gradients.
    weighs: weight of Eq. 4 with every pair weighed by its measured cosine.
    kept: how many first blocks every task always executes.
    whole: whether every task executes all blocks, and nothing else can be asked: of one network
      per task, or of blocks without shortcuts.
  """

  skips = True

  names: tuple[str, ...]
  blocks: int
  routes: Routes
  learns: bool = False
  target_rates: tuple[float, ...] | None = None
  planned: bool = True
  prefixes: tuple[int, ...] = (0,)
  first_opened: int = 0
  policy_init: str = "equal"
  sparsity: tuple[float, str] = (0.0, "code")
  sharing: tuple[float, str] = (0.0, "paper")
  instance: tuple[float, str] = (0.0, "code")
  gate_temperature: float = 1.0
  sampled_range: tuple[float, float] | None = None
  noise_fades: float = 0.0
  anneal: float = 0.0
  contrast: float = 0.0
  explore: float = 0.0
  sampled_gates: int | None = None
  budget: Budget | None = None
  conflict: bool = False
  weighs: float = 0.0
  kept: int = 0
  whole: bool = False

  @property
  def rates(self) -> tuple[float, ...]:
    """Target rate of every block; 1 without a gate."""
    return self.target_rates or (1.0,) * self.blocks

  @property
  def gated(self) -> tuple[bool, ...]:
    """For every block, whether it has an instance gate."""
    return tuple(rate < 1 for rate in self.rates)

  @property
  def target_rate(self) -> float:
    """The rate that gates read at test: the mean of the gated blocks'; 1 without gates."""
    rates = [rate for rate in self.rates if rate < 1]
    return float(np.mean(rates)) if rates else 1.0

  def init(self, key: jax.Array, given: Any = None) -> PyTree:
    """Returns the policy's logits `[T, L, 2]`; zeros where nothing is learnt."""
    logits = policy.init_logits(self.policy_init, len(self.names), self.blocks, key)
    if not self.learns:
      logits = jnp.zeros_like(logits)
    elif given is not None:
      logits = jnp.asarray(given)
    return {"logits": logits}

  def blank(self, count: int) -> jax.Array:
    """Returns `[N, T, L]` zeros."""
    return jnp.zeros((count, len(self.names), self.blocks))

  def memory(self, params: PyTree) -> PyTree:
    """Returns the sums of what measuring phases observe, and the prices of what gates run."""
    del params
    sums = conflict_lib.blank(self.blocks, len(self.names)) if self.conflict else {}
    return sums | self._prices()

  def _prices(self) -> dict[str, jax.Array]:
    """Those of gates that are taught by contrast, before the first step."""
    return contrast_lib.blank(len(self.names), self.blocks) if self.contrast else {}

  def begin(
    self, phase: contract.Phase, params: PyTree, memory: PyTree, key: jax.Array
  ) -> tuple[PyTree, PyTree]:
    """Returns the same, but that a phase with gates begins with prices of its own."""
    del key
    return params, memory | self._prices() if _settings(phase).gated else memory

  def observe(self, memory: PyTree, gramians: jax.Array) -> PyTree:
    """Adds a batch to the cosines of the tasks' gradients."""
    return conflict_lib.observe(memory, gramians)

  def structures(self, learnt: PyTree, memory: PyTree, key: jax.Array) -> jax.Array:
    """Returns the routes `[N, T, L]`.

    Blocks that the curriculum never opened were executed in all of the search; their logits mean
    nothing, and they stay.
    """
    opened = policy.open_mask(self.blocks, self.first_opened)
    alpha = jnp.where(opened[None], policy.alpha(learnt["logits"]), 1.0)
    measured = conflict_lib.of(memory) if self.conflict else None
    return jnp.asarray(self.routes(key, alpha, measured), jnp.float32)

  def static(self, phase: contract.Phase, structure: PyTree) -> Static:
    """Returns the routing; equal for phases that share a program.

    A run compiles the warm-up once, weight and policy steps once for each used prefix, and
    re-trainings once (masked) or once per route (planned).
    """
    told, tasks = _settings(phase), len(self.names)
    closed = self.blocks - told.open_blocks
    if told.routing == "all":
      modes = routing.all_run(self.blocks, tasks)
    elif told.routing == "random":
      modes = routing.own(self.blocks, tasks, self.kept)
    elif told.routing == "soft":
      shared = max(self.kept, *(p for p in self.prefixes if p <= closed), 0)
      modes = routing.own(self.blocks, tasks, shared)
    elif self.planned:
      gates = self.gated if told.gated else (False,) * self.blocks
      modes = routing.fixed(np.asarray(structure).astype(int).tolist(), gates, train=True)
    else:
      modes = routing.own(self.blocks, tasks)
    drawn = told.routing if told.routing in ("soft", "random") else ""
    return Static(modes, drawn, told.gated, told.penalties)

  def knobs(self, phase: contract.Phase, offset: int, step: int) -> Mapping[str, jax.Array]:
    """Returns the temperature, the open blocks bool `[L]`, and how noise and rates of gates change.

    `fade` int32 `[2]` are the steps between which the noise falls; equal numbers keep it full.
    `anneal` int32 `[2]` are those between which the wanted rates do; equal ones want the targets.
    `explored` int32 is the step from which the gates decide.
    """
    told = _settings(phase)
    start = step - offset
    end = start + phase.steps
    begin = end - round(self.noise_fades * phase.steps)
    return {
      "temperature": jnp.asarray(told.temperature, jnp.float32),
      "opened": self._opened(told),
      "fade": jnp.asarray([begin, end], jnp.int32),
      "anneal": jnp.asarray([start, start + round(self.anneal * phase.steps)], jnp.int32),
      "explored": jnp.asarray(start + round(self.explore * phase.steps), jnp.int32),
    }

  def _opened(self, told: Stretch) -> jax.Array:
    """Bool `[L]`, which blocks may be skipped: those of the curriculum, but for the kept ones."""
    return policy.open_mask(self.blocks, min(told.open_blocks, self.blocks - self.kept))

  def everything(self) -> skip_trunk.Decisions:
    """Returns the decision that every task executes every block."""
    return skip_trunk.Decisions(routing.all_run(self.blocks, len(self.names)))

  def control(
    self, static: Static, learnt: PyTree, moving: contract.Moving, step: Any, batch: int
  ) -> skip_trunk.Decisions:
    """Draws the policy and the gates' noise from (seed, stream, step) alone."""
    if static.drawn == "random":
      key = streams.stream_key(moving.seed, "policy", step)
      drawn = policy.draw_routes(key, len(self.names), self.blocks)
    elif static.drawn:
      key = streams.stream_key(moving.seed, "policy", step)
      drawn = gumbel.soft_decisions(key, learnt["logits"], moving.knobs["temperature"])
      drawn = jnp.where(moving.knobs["opened"][None, :], drawn, 1.0)
    else:
      drawn = moving.structure
    noise, target, rates = None, None, None
    if static.gated:
      key = streams.stream_key(moving.seed, "gates", step)
      shape = len(self.names), self.blocks
      if self.contrast:
        coin = jnp.sign(gumbel.logistic_noise(key, jnp.arange(batch), (shape[0], 1)))
        noise = jnp.where(step < moving.knobs["explored"], coin * contrast_lib.SURE, 0.0)
        noise = jnp.broadcast_to(noise, (batch, *shape))
      else:
        noise = gumbel.logistic_noise(key, jnp.arange(batch), shape)
        noise = noise * _left(moving.knobs["fade"], step, 1.0)
      if self.sampled_range is not None:
        low, high = self.sampled_range
        key = streams.stream_key(moving.seed, "target_rate", step)
        target = jax.random.uniform(key, (), jnp.float32, low, high)
      rates = jnp.asarray(self.rates)
      rates = rates if target is None else jnp.where(rates < 1, target, 1.0)
      rates = rates + (1 - rates) * _left(moving.knobs["anneal"], step, 0.0)
    return skip_trunk.Decisions(
      modes=static.modes,
      policy=drawn,
      discrete=static.drawn != "soft",
      gated=static.gated,
      noise=noise,
      temperature=self.gate_temperature,
      taught=bool(self.contrast),
      target=target,
      rates=rates,
    )

  def others(
    self, static: Static, control: skip_trunk.Decisions
  ) -> tuple[skip_trunk.Decisions, ...]:
    """Returns all gated blocks and none of them, where gates are taught by contrast."""
    if not (self.contrast and static.gated):
      return ()
    assert control.noise is not None, "a step with gates has noise"
    sure = jnp.full_like(control.noise, contrast_lib.SURE)
    return control._replace(noise=sure), control._replace(noise=-sure)

  def charges(
    self,
    static: Static,
    learnt: PyTree,
    memory: PyTree,
    moving: contract.Moving,
    control: skip_trunk.Decisions,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> dict[str, jax.Array]:
    """Returns the regularisers of a step, with their weights (Eqs. 3 to 5)."""
    found = self._penalties(static, learnt, memory, moving)
    if self.contrast and static.gated:
      asked, gains = _asked(control, signals), contrast_lib.gains(losses)
      loss = contrast_lib.taught(signals.own.relevance, asked, gains, memory["price"])
      found["contrast"] = self.contrast * loss
    elif static.gated:
      weight, form = self.instance
      targets = control.rates
      assert targets is not None, "a step with gates wants rates"
      rates = jnp.where(_asked(control, signals), signals.own.gate.mean(1), targets[None])
      found["instance"] = weight * regularisers.instance(rates, targets, form)
    return found

  def remember(
    self,
    static: Static,
    learnt: PyTree,
    memory: PyTree,
    control: skip_trunk.Decisions,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> PyTree:
    """Returns the memory with the prices moved, where gates are taught by contrast."""
    del learnt
    if not (self.contrast and static.gated):
      return memory
    found, relevance = contrast_lib.gains(losses), signals.own.relevance
    assert control.rates is not None, "a step with gates wants rates"
    return contrast_lib.moved(memory, relevance, _asked(control, signals), found, control.rates)

  def _penalties(
    self, static: Static, learnt: PyTree, memory: PyTree, moving: contract.Moving
  ) -> dict[str, Any]:
    """The weighted penalties on the policy."""
    found: dict[str, Any] = {}
    logits, opened = learnt["logits"], moving.knobs["opened"]
    if not static.penalties:
      return found
    weight, form = self.sparsity
    if weight:
      found["sparsity"] = weight * regularisers.sparsity(logits, opened, form)
    weight, form = self.sharing
    if weight and len(self.names) > 1:
      found["sharing"] = weight * regularisers.sharing(logits, form)
    if self.budget is not None:
      share, serve, costs, weight = self.budget
      found["budget"] = weight * regularisers.budget(logits, opened, costs, share, serve)
    if self.weighs and self.conflict:
      count = jnp.maximum(memory["count"][-1], 1)
      cosine = jax.lax.stop_gradient(memory["sum"][-1] / count)
      found["conflict"] = self.weighs * regularisers.conflict(logits, cosine)
    return found

  def pulls(
    self, static: Static, learnt: PyTree, memory: PyTree, moving: contract.Moving
  ) -> dict[str, PyTree]:
    """Returns the gradients of the penalties on the policy."""
    names = self._penalties(static, learnt, memory, moving)
    of = lambda name: jax.grad(lambda p: self._penalties(static, p, memory, moving)[name])
    return {name: of(name)(learnt) for name in names}

  def free(self, moving: contract.Moving) -> jax.Array:
    """Returns `[1, L, 1]`: logits of closed blocks, and their moments, stay as they are."""
    return moving.knobs["opened"][None, :, None]

  def structure(self, phase: contract.Phase, learnt: PyTree, structures: PyTree) -> plan_lib.Plan:
    """Returns the plan of the phase's route: its candidate's, or the policy's likelier choice."""
    told = _settings(phase)
    if phase.candidate >= 0:
      route = np.asarray(structures[phase.candidate])
    elif told.routing == "soft":
      closed = ~np.asarray(self._opened(told))
      route = (np.asarray(policy.alpha(learnt["logits"])) >= 0.5) | closed[None]
    else:
      route = np.ones((len(self.names), self.blocks))
    return self.of(route, told.gated)

  def of(self, route: Any, gates: bool = True) -> plan_lib.Plan:
    """Returns the plan of a route `[T, L]`, with or without the method's gates."""
    return plan_lib.make(self.names, route, self.gated if gates else None)

  def chosen(self, structures: PyTree, candidate: int) -> plan_lib.Plan:
    """Returns the plan of a candidate's route, with the method's gates."""
    return self.of(np.asarray(structures[candidate]))

  def at_test(
    self,
    structure: plan_lib.Plan,
    execution: Execution | None = None,
    threshold: Any = None,
    target_rate: float | None = None,
    **options: Any,
  ) -> tuple[AtTest, PyTree]:
    """Returns the routing of a plan, and its route, thresholds and target rate as arrays.

    Args:
      execution: how; None is how training evaluates (`planned`, all gates, masked).
      threshold: score `[L]` that gates must exceed; None is 0.
      target_rate: what gates read that read it; default the method's.
      **options: none.
    """
    how = execution or Execution(self.planned)
    tasks, gated = len(structure.tasks), how.gates and any(structure.gated)
    route = np.asarray(structure.route)
    if route.all() and not gated and (execution is None or self.whole):
      modes = routing.all_run(self.blocks, tasks)
    elif not how.planned:
      modes = routing.own(self.blocks, tasks)
    else:
      gates = structure.gated if gated else (False,) * self.blocks
      drawn = execution is None and self.sampled_gates is not None
      modes = routing.fixed(structure.route, gates, train=drawn)
    if execution is None and threshold is None:
      threshold = np.zeros(self.blocks)
    target = self.target_rate if target_rate is None else target_rate
    arrays = {
      "route": np.asarray(route, np.float32),
      "threshold": None if threshold is None else jnp.asarray(threshold, jnp.float32),
      "target": jnp.asarray(target, jnp.float32),
    }
    return AtTest(modes, gated, how.compaction), arrays

  def control_at_test(
    self, static: AtTest, arrays: PyTree, places: Any = None
  ) -> skip_trunk.Decisions:
    """Returns the decisions; gates take the likelier choice but with `sampled_gates`."""
    route = jnp.asarray(arrays["route"])
    noise = None
    if places is not None and self.sampled_gates is not None and static.gated:
      key = streams.stream_key(self.sampled_gates, "evaluation", 0)
      noise = gumbel.logistic_noise(key, places, route.shape)
    return skip_trunk.Decisions(
      static.modes,
      route,
      gated=static.gated,
      noise=noise,
      threshold=arrays["threshold"],
      target=arrays["target"],
      compaction=static.compaction,
    )

  def only(
    self, structure: plan_lib.Plan, tasks: tuple[int, ...]
  ) -> tuple[SkipSharing, plan_lib.Plan]:
    """Returns the sharing and the plan of some tasks: their rows."""
    names = tuple(structure.tasks[t] for t in tasks)
    plan = plan_lib.make(names, [structure.route[t] for t in tasks], structure.gated)
    return dataclasses.replace(self, names=names), plan

  def plan(self, structure: plan_lib.Plan) -> plan_lib.Plan:
    """Returns the plan, which is what is fixed."""
    return structure

  def marks(self) -> list[str]:
    """Returns which blocks have a gate."""
    return [" (gate)" if gated else "" for gated in self.gated]

  def record(self, learnt: PyTree, structures: PyTree, chosen: int) -> dict[str, Any]:
    """Returns alpha, all routes, which blocks have gates and their target rates."""
    return {
      "tasks": list(self.names),
      "alpha": np.asarray(policy.alpha(learnt["logits"])) if self.learns else None,
      "routes": np.asarray(structures).astype(int),
      "chosen": chosen,
      "gated": list(self.gated),
      "target_rates": list(self.rates),
    }

  def noted(self, structure: plan_lib.Plan) -> dict[str, Any]:
    """Returns the route."""
    return {"route": [list(row) for row in structure.route]}

  def lines(
    self, phase: contract.Phase, learnt: PyTree, memory: PyTree
  ) -> dict[str, dict[str, Any]]:
    """Returns the policy's probabilities and how decided they are, or what was measured."""
    if phase.measure:
      measured = conflict_lib.of(memory)
      return {} if measured is None else {"conflict": measured._asdict()}
    alpha = np.asarray(policy.alpha(learnt["logits"]), np.float64)
    decided = {"entropy": policy.entropy(alpha[:, self.kept :]), "spread": policy.spread(alpha)}
    return {"alpha": {"alpha": alpha, **decided}}

  def scalars(self, phase: contract.Phase) -> dict[str, float]:
    """Returns the temperature and the number of open blocks while the policy is sampled."""
    told = _settings(phase)
    if told.routing != "soft":
      return {}
    return {"temperature": told.temperature, "open_blocks": told.open_blocks}

  def describe(self, phase: contract.Phase) -> str:
    """Returns what decides which blocks execute."""
    told = _settings(phase)
    words = {
      "all": "all",
      "soft": "soft sample of the policy",
      "random": "a random route every step",
      "route": "a fixed route",
    }
    gates = " + gates" if told.gated else ""
    taught = ", taught by two more forward passes a step" if self.contrast and told.gated else ""
    return words[told.routing] + gates + taught


def _settings(phase: contract.Phase) -> Stretch:
  """A phase's settings; default: all blocks, no gates."""
  return phase.settings or Stretch()


def _asked(control: skip_trunk.Decisions, signals: trunks.Signals) -> jax.Array:
  """Bool `[T, L]`, where a gate decides about a block that the route executes."""
  assert control.policy is not None, "a route is fixed"
  return jnp.asarray(signals.own.gated & (control.policy > 0))


def _left(stretch: jax.Array, step: Any, without: float) -> jax.Array:
  """1 until `stretch[0]`, then linearly to 0 at `stretch[1]`; `without` if they are equal."""
  span = stretch[1] - stretch[0]
  left = (stretch[1] - 1 - step) / jnp.maximum(span, 1)
  return jnp.where(span > 0, jnp.clip(left, 0.0, 1.0), without)


def every_block(tasks: int, blocks: int) -> Routes:
  """Returns the one route `[1, T, L]` on which every task executes every block."""
  return lambda key, alpha, measured: jnp.ones((1, tasks, blocks))


def make(
  parts: contract.Parts,
  phases: Sequence[contract.Phase],
  routes: Routes,
  learns: bool = False,
  target_rates: tuple[float, ...] | None = None,
) -> SkipSharing:
  """Makes the sharing of a method that skips blocks, from the run's configuration.

  Args:
    phases: of the method; the curriculum's last one says which blocks are ever opened.
    routes: see `SkipSharing`.
    learns: see `SkipSharing`.
    target_rates: see `SkipSharing`.

  Raises:
    ValueError: a phase may skip blocks of a backbone without shortcuts.
  """
  config, backbone = parts.config, parts.backbone()
  if not backbone.skips and any(_settings(p).routing != "all" for p in phases):
    raise ValueError(
      f"config.model.backbone={config.model.backbone!r} has no shortcuts: its blocks cannot be"
      f" skipped, as config.method={config.method!r} does. Choose another of either."
    )
  opened = [p.settings.open_blocks for p in phases if _settings(p).routing == "soft"]
  return SkipSharing(
    names=tuple(task.name for task in parts.spec.tasks),
    blocks=parts.blocks,
    routes=routes,
    learns=learns,
    target_rates=target_rates,
    budget=_budget(parts) if learns and uses_budget(config) else None,
    conflict=any(phase.measure for phase in phases),
    weighs=config.policy.conflict if learns else 0.0,
    kept=int(learns and config.policy.keep_first),
    planned=config.train.execution == "planned",
    prefixes=tuple(config.train.shared_prefixes),
    first_opened=max(opened, default=parts.blocks),
    policy_init=config.policy.init,
    sparsity=(0.0 if uses_budget(config) else config.policy.sparsity, config.compat.sparsity),
    sharing=(config.policy.sharing, config.compat.sharing),
    instance=(config.gates.weight, config.compat.instance),
    gate_temperature=config.gates.temperature,
    sampled_range=tuple(config.gates.sampled_range) if samples_rates(config) else None,
    noise_fades=config.gates.noise_fades,
    anneal=config.gates.anneal,
    contrast=config.gates.contrast if target_rates else 0.0,
    explore=config.gates.explore,
    sampled_gates=config.seed if config.compat.gates == "sampled" else None,
    whole=not backbone.skips,
  )


Extended = TypeVar("Extended", bound=SkipSharing)


def extended(plain: SkipSharing, kind: type[Extended], **more: Any) -> Extended:
  """Returns a sharing of a class that adds to `SkipSharing`, with the values of a plain one."""
  same = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return kind(**same | more)


def uses_budget(config: Any) -> bool:
  """Returns whether routes are made within a budget; else they are sampled, as in the papers."""
  return bool(config.policy.routes == "budget")


def limit(parts: contract.Parts) -> prices.Limit:
  """Returns the most that a route may take: of milliseconds, or as a share of the work."""
  pol = parts.config.policy
  if not pol.budget_ms:
    return prices.within_share(parts.costs(), len(parts.spec.tasks), pol.budget, pol.serve)
  assert parts.timed is not None, "milliseconds are read before the method is built"
  name = f"config.policy.budget_ms={pol.budget_ms:g}"
  return prices.Limit(parts.timed.prices, pol.budget_ms, pol.serve, name, timed=True)


def _budget(parts: contract.Parts) -> Budget:
  """What the policy is charged for, beside what every route takes."""
  most = limit(parts)
  return Budget(most.share, most.serve, most.prices.blocks, parts.config.policy.budget_weight)


def samples_rates(config: Any) -> bool:
  """Returns whether every training step draws a target rate of its own."""
  return bool(config.gates.target_rate == "sampled")


def trunk(parts: contract.Parts, gated: Sequence[bool] | None = None) -> skip_trunk.SkipTrunk:
  """Makes a trunk whose blocks are skipped.

  Args:
    gated: for every block, whether it has an instance gate; default none.
  """
  gates = parts.config.gates
  return skip_trunk.SkipTrunk(
    parts.backbone(),
    len(parts.spec.tasks),
    (False,) * parts.blocks if gated is None else tuple(gated),
    gates.hidden,
    gates.init,
    parts.dtype,
    samples_rates(parts.config),
    _LONG if gates.contrast else norm.MOMENTUM,
  )
