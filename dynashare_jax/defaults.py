"""All values that a run has, with their defaults; data sets add `config.data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

# Dotted names of values that once did not exist: what folders without them meant,
# where that is not the default.
BEFORE: dict[str, Any] = {
  "compat.search": "papers",
  "compat.sharing": "paper",
  "experts.inner": 0.0,
  "policy.finalists": 2,
}

# What `compat.search=papers` puts in the place of the values of the same names.
PAPERS: dict[str, Any] = {
  "policy.curriculum": True,
  "policy.warmup": "all",
  "policy.measure": 0,
  "policy.conflict": 0.0,
  "policy.routes": "sampled",
  "policy.keep_first": False,
  "policy.halving": False,
}


def get_config() -> ml_collections.ConfigDict:
  """Returns a new configuration with every default."""
  config = ml_collections.ConfigDict()
  config.dataset = "rooms"
  config.data_dir = ""  # folder of the data on disk
  # Data that changed since a run began: refuse; or old: the lists of examples of that time; or
  # allow: all as it is now.
  config.data_changed = "refuse"
  config.method = "dynashare"
  config.seed = 0
  # For Delta: work directory of single-task runs, or a folder in which `single` stores its results.
  config.baseline = ""
  config.mixed = ""  # parts in which the baseline may differ, with commas; see docs/comparisons.md

  config.data = data = ml_collections.ConfigDict()  # see data/<name>.py
  data.tasks = ()

  config.model = model = ml_collections.ConfigDict()
  model.backbone = "resnet"  # a file of models/backbones
  # Of the computation; parameters stay float32. auto: bfloat16 on accelerators.
  model.dtype = "float32"  # or bfloat16, auto
  # Of every segment; vit: two of every layer; hrnet: bottlenecks, then modules of every stage.
  model.blocks = (2, 2, 2, 2)
  model.rows = 4  # hrnet: pairs of convolutions before an exchange
  model.block = "basic"  # or bottleneck: 4 times as many channels come out
  model.norm = "common"  # or batch (the authors'), group, task: see docs/models.md
  model.widths = (64, 128, 256, 512)
  model.width_factor = 1.0  # multiplies all widths
  model.strides = (1, 2, 1, 1)
  model.dilations = (1, 1, 2, 4)
  model.stem = "deeplab"  # or small, cifar, series, hourly
  # Where a resnet has strides and dilations, and how pooling rounds; or torchvision.
  model.variant = "adashare"
  model.width = 128  # mlp, tcn, channel_lstm, vit: of the residual vector
  model.hidden = 256  # mlp, vit: inside a block; channel_lstm: a channel's state
  model.attention_heads = 6  # vit: they divide the width
  model.patch = 16  # vit: rows and columns of pixels that become one position
  model.positions = 14  # vit: rows and columns of positions with an embedding, which is resized
  model.embedding = 8  # mlp: of a categorical column
  model.dropout = 0.1  # mlp, tcn, channel_lstm, lenet; temporal and mlp heads
  # Subtracted from and then divided into RGB pictures in 0 .. 1.
  model.mean = (0.0, 0.0, 0.0)
  model.std = (1.0, 1.0, 1.0)
  model.weights = ""  # file to start from, see docs/weights.md
  model.weights_family = "auto"  # or torchvision, timm, timm_vit, timm_hrnet, adashare, dynashare
  # Or mlp; point: a 1-wide layer with a norm before the last; aspp: branches of four dilations,
  # summed; deeplab: branches side by side and the map's mean; dpt: from four depths of a vit;
  # pixels: dense predictions at the size of the picture; temporal: of series with lengths.
  model.head = "linear"
  model.head_width = 1024  # of an mlp, aspp, pixels or temporal head
  model.decoder_width = 256  # of a point, deeplab or dpt head

  config.policy = policy = ml_collections.ConfigDict()
  policy.use = True  # dynashare only: False leaves instance gates alone
  policy.init = "equal"  # or all, random
  policy.temperature = 5.0
  policy.temperature_decay = 0.965  # every cycle
  policy.temperature_floor = 0.1
  policy.curriculum = False  # blocks open one by one, from the last; True: the papers
  policy.curriculum_speed = 3  # then: cycles until one more block opens; 0: all open
  policy.warmup = "random"  # routes of the warm-up; or all blocks, the papers
  policy.measure = 20  # batches on which the tasks' gradients are compared; 0: none
  policy.sharing = 0.05  # weight of Eq. 4
  policy.conflict = 0.05  # weight of Eq. 4 with pairs weighed by their gradients' cosines
  # budget: the best route within a budget, hard sharing, and routes near the first;
  # sampled: independent draws of every decision, the papers, with Eq. 3 for a budget.
  policy.routes = "budget"
  policy.budget = 0.75  # most work, as a share of hard sharing's
  # Instead, the most milliseconds of a call, served as `serve` says; 0: none. They are predicted
  # from a file that `python -m dynashare_jax cost --latency=FILE` measured for this network.
  policy.budget_ms = 0.0
  policy.latency = ""
  policy.budget_weight = 50.0  # of the square of the excess, in the search
  policy.serve = "together"  # all tasks for every input; or apart, one at a time
  policy.keep_first = True  # every task executes the first block
  policy.sparsity = 0.05  # weight of Eq. 3, where routes are sampled
  policy.candidates = 8  # routes that are trained and compared
  policy.halving = True  # all train a little first; False: all in full, the papers
  # Score that routes other than the search's best and hard sharing must be ahead in a trial.
  policy.margin = 0.01
  policy.finalists = 1  # with halving: how many are then trained in full, 1 or 2

  config.gates = gates = ml_collections.ConfigDict()
  gates.target_rates = (1.0, 1.0, 1.0, 1.0, 0.55, 0.55, 0.55, 0.55)
  # fixed: as above; sampled: every step draws one rate from sampled_range for
  # all gated blocks and tells it to the gates: one network for all budgets.
  gates.target_rate = "fixed"
  gates.sampled_range = (0.2, 1.0)
  gates.weight = 2.5  # of Eq. 5; authors: 25
  gates.hidden = 16
  gates.init = "half"  # or open (87% open), spread (differs by example)
  gates.temperature = 1.0
  # Last fraction of a re-training in which the gates' noise falls to 0, so
  # that the rates hold for the decisions at test too; 0.0: never, the papers.
  gates.noise_fades = 0.0
  # First fraction of a re-training in which the wanted rates fall from 1 to their
  # targets; 0.0: wanted at once, the papers.
  gates.anneal = 0.0
  # Weight of the loss that teaches gates by contrast: every step also runs all gated blocks and
  # none, and gates learn which examples these save most; 0.0: the gradient through their decisions.
  gates.contrast = 0.0
  # With it, the first fraction of a re-training in which a coin decides between all and none.
  gates.explore = 0.2
  # The control: in the place of gates, routes that leave out as much at random.
  gates.constant = False

  config.balance = balance = ml_collections.ConfigDict()  # see docs/balancing.md
  balance.name = "fixed"  # a file of objectives/balancing
  balance.normalise = "none"  # or log, unit: gradients over their loss, or their length
  balance.smooth = 0.0  # share of the past in an average of the weights over steps
  # Of the update: own, sum (weights sum to the number of tasks), plain (as fixed weights have),
  # unit; empty: plain for methods that read gradients, else own.
  balance.length = ""
  balance.offset = 0.0  # lower bound of losses that can be negative, for methods with logarithms
  balance.features = False  # gradients in shared features, not in parameters: one pass in all
  balance.every = 1  # steps from one look at gradients to the next; weights stay in between
  balance.average = 0.9  # share of the past in averages of losses and lengths
  balance.aligned_scale = "min"  # or rmse
  balance.autolambda_lr = 1e-4
  balance.autolambda_step = 0.01
  balance.cagrad_c = 0.4
  balance.dwa_temperature = 2.0
  balance.excess_lr = 0.01
  balance.fairgrad_alpha = 2.0
  balance.famo_lr = 0.025
  balance.famo_decay = 1e-3
  balance.go4align_groups = 2
  balance.go4align_beta = 1e-4
  balance.graddrop_leak = 0.0
  balance.gradnorm_alpha = 1.5
  balance.gradnorm_lr = 0.025
  balance.gradvac_beta = 0.5
  balance.learned_lr = 0.025  # uncertainty, imtl_l
  balance.moco_beta = 0.5
  balance.moco_lr = 1e-3
  balance.moco_decay = 0.1
  balance.modo_lr = 1e-3
  balance.modo_decay = 0.1
  balance.sdmgrad_lambda = 0.3
  balance.stch_mu = 1.0
  balance.stch_warmup = 4  # epochs

  config.fusion = fusion = ml_collections.ConfigDict()  # cross_stitch, sluice, nddr
  fusion.places = ""  # blocks, segments, stem_and_segments; empty: as the method's authors
  fusion.channels = False  # mixtures for every channel apart; nddr always has them
  fusion.own = 0.9  # initial share of a column in what it reads
  fusion.aligned = True  # all columns start with the same weights
  fusion.lr = 1.0  # multiplies the learning rate of the backbone
  fusion.orthogonal = 0.1  # sluice: weight of what the subspaces have in common
  fusion.layers = False  # sluice: heads read mixtures of the last segment's blocks

  config.branch = branch = ml_collections.ConfigDict()  # branch
  branch.cost = 0.05  # weight of the expected share of all columns' work, in the search
  branch.aligned = True  # all columns start with the same weights

  config.attention = ml_collections.ConfigDict()  # mtan
  config.attention.design = "block"  # masks after every block; or stage: after every segment

  config.experts = experts = ml_collections.ConfigDict()  # each a backbone of config.model
  experts.count = 4  # mmoe, mmoeex
  experts.exclusive = 0.5  # mmoeex: share of experts with closed links, drawn from the seed
  experts.links = "exclusivity"  # then: each serves one task alone; or exclusion: all but one
  # mmoeex: rate of every task's inner step, over that of the optimiser; 0: none.
  experts.inner = 1.0
  experts.inner_share = 0.8  # of each batch, on which inner steps are taken
  experts.own = 1  # ple: of every task
  experts.shared = 1  # ple: of all tasks
  experts.levels = 1  # ple: parts of the segments with mixtures after each; 1: CGC

  config.sparse = sparse = ml_collections.ConfigDict()  # disparse
  sparse.density = 0.3  # share of the kernels' weights that is kept
  # Kept is what any task keeps (union), all tasks (intersection) or more than half (majority).
  sparse.rule = "union"
  sparse.batches = 50  # on which weights are scored, before any training
  sparse.scores = "saliency"  # |w dL/dw|; or magnitude: |w|; product: of both
  sparse.heads = False  # whether heads are pruned, too, each by its own task
  # Weights are replaced while they train: train.cycles times, after train.weight_steps each.
  sparse.dynamic = False
  sparse.replaced = 0.5  # then: share of each layer that is replaced first; falls by a cosine

  config.elastic = elastic = ml_collections.ConfigDict()  # den
  elastic.random = 0.25  # share of a batch with random widths, in the warm-up
  elastic.rho = 10.0  # the less narrow blocks earn: (1 - d^2) / rho at the mean width d
  elastic.average = 0.9  # share of the past in each task's mean reward
  elastic.size = 0.25  # of the selector: its width over the backbone's
  elastic.lr = 1e-3  # of the selector, constant, with Adam

  config.gated = gated = ml_collections.ConfigDict()  # gated
  gated.inner = False  # gates of the layers within blocks, too
  gated.targets = (0.5,)  # most use of own channels: of all tasks, or one a task
  gated.use = "channels"  # mean over places; or work: weighed by it, so that targets are budgets
  gated.weight = 0.05  # of Eq. 4, times the mean number of channels of a place
  gated.start = "scratch"  # or single: after train.warmup_steps of own columns and a shared one
  gated.lr = 0.01  # of gates and mixtures, constant, with Adam
  gated.fixed = 0.25  # last share of train.steps, in which gates are fixed

  config.exclusive = exclusive = ml_collections.ConfigDict()  # mpps
  # How exclusive capacity falls from 1 to 0: linear, quad (fast at first) or quad_slow (fast at
  # last), by a course an epoch; in step5, step10 or step20 courses; separ or fullshare: never.
  exclusive.schedule = "linear"
  exclusive.family = "bernoulli"  # of masks; or gaussian
  exclusive.blocks = 0  # last ones with masks; 0: as few as have six layers
  exclusive.epsilon = 0.01  # probabilities start at it and at 1 minus it
  exclusive.epochs = 200  # equal parts of the run, after each new targets; 0: passes over the data
  exclusive.frozen = 0.125  # of the run, at either end, in which targets stay; from 1 on: epochs
  exclusive.updating = True  # targets keep what the tasks learnt; False: equal for all guests
  exclusive.average = 0.99  # share of the past in the mean losses of REINFORCE; 0: none, the paper
  exclusive.weight = 1.0  # of the divergence from the targets, a sum over channels
  # Of the probabilities' logits, constant, with Adam; 0: 0.01, or more in runs too short for it.
  exclusive.lr = 0.0

  config.random = random = ml_collections.ConfigDict()
  random.like = ""  # work directory whose route is imitated
  random.skip = 0.3  # else this fraction of (task, block) is skipped
  random.per_task = True  # AdaShare's Random #2; False: Random #1
  random.work = False  # routes of the same work, as `policy.serve` counts it, instead
  random.number = 0  # of the distinct routes that a seed draws, from 0, the first to be re-trained

  config.train = train = ml_collections.ConfigDict()
  train.batch_size = 16  # 0: what suits the number of training examples, at most largest_batch
  train.largest_batch = 1024
  train.sampling = "examples"  # or tasks: each has an equal share of every batch, of its labels
  train.steps = 20000  # of methods without a search
  train.warmup_steps = 4000
  train.cycles = 333
  train.weight_steps = 39  # of a cycle
  train.policy_steps = 9  # of a cycle
  train.retrain_steps = 20000  # of every candidate
  train.retrain_from = "scratch"  # or policy: the search's weights
  train.weights_share = 0.8  # of the training data; the policy gets the rest
  # Size at which dense losses are taken: logits, as the authors, from reduced
  # labels; labels, from enlarged logits.
  train.loss_at = "logits"
  train.execution = "planned"  # or masked: one compilation for all routes
  train.shared_prefixes = (0,)  # closed first blocks computed once for all
  train.steps_per_dispatch = 1
  train.resident = True  # the splits live on the device
  train.log_every = 50
  train.eval_every = 400
  train.checkpoint_every = 1000
  train.threads = 2  # that load ahead, when not resident
  train.workers = 0  # processes that load ahead, when not resident
  train.shard_state = False  # large leaves of the state split over the devices
  train.candidate_groups = 1  # re-trainings at once; 0: as many as fit

  config.eval = ml_collections.ConfigDict()
  config.eval.batch_size = 32
  config.eval.pictures = 4  # test examples drawn in the report
  # Predictions are averaged over the pictures at these scales, each mirrored
  # too if flip. Dense tasks only.
  config.eval.flip = False
  config.eval.scales = (1.0,)

  config.optimizers = ml_collections.ConfigDict()
  config.optimizers.warmup = _optimizer(kind="adam")
  config.optimizers.alternate = _optimizer(kind="sgd", schedule="constant")
  config.optimizers.retrain = _optimizer(kind="adam")
  config.optimizers.policy = ml_collections.ConfigDict(
    dict(lr=0.01, b1=0.9, b2=0.999, weight_decay=5e-4)
  )

  # Behaviour of the authors' code; the defaults are the corrected ones.
  config.compat = compat = ml_collections.ConfigDict()
  compat.search = "corrected"  # or papers: see PAPERS, and the sum of Eq. 4
  compat.sharing = "mean"  # of pairs and blocks; or paper: the sum of Eq. 4; or authors
  compat.sparsity = "code"  # -log(1 - alpha); or paper: Eq. 3
  compat.instance = "code"  # or paper: Eq. 5; total, ours: gates divide one rate among themselves
  compat.gates = "argmax"  # at test; or sampled
  compat.mix = "after"  # the gates; or before: Eq. 3 of GatedMTL, which nothing can be cut out of
  compat.selection = "validation"  # or test
  compat.metrics = "pooled"  # over all pixels; or authors
  compat.mask_at = "norm"  # mpps: behind the norm; or conv: before it
  return config


def _optimizer(kind: str, schedule: str = "steps") -> ml_collections.ConfigDict:
  """Settings of the weights' optimiser in a phase."""
  return ml_collections.ConfigDict(
    dict(
      kind=kind,  # sgd, adam, adamw
      lr=1e-3,
      head_lr=0.0,  # of the heads; 0: as lr
      gate_lr=0.0,  # of the gates, constant, with Adam; 0: as the backbone
      weight_decay=1e-4,
      momentum=0.9,
      b1=0.5,
      b2=0.999,
      schedule=schedule,  # constant, steps, cosine, onecycle
      every=4000,  # steps: one step lasts this long
      factor=0.5,  # steps: and multiplies by this
      warm=0.1,  # onecycle: fraction that rises
    )
  )


def filled(
  stored: Mapping[str, Any], data: Mapping[str, Any], compat: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a stored configuration with what it lacks, because it is older than that.

  Args:
    data: defaults of `config.data`, which the data set has.
    compat: switches of the data set at their corrected values.
  """
  config = get_config()
  config.update_from_flattened_dict(BEFORE)
  found = _filled(stored, config.to_dict() | {"data": {}})
  # Tables within `config.data`, such as weights of some tasks, are whole.
  return found | {"data": {**data, **found["data"]}, "compat": {**compat, **found["compat"]}}


def _filled(stored: Mapping[str, Any], lacking: Mapping[str, Any]) -> dict[str, Any]:
  """One mapping with what another one has beside it, at every depth."""
  inner = {
    name: _filled(value, lacking[name])
    for name, value in stored.items()
    if isinstance(value, Mapping) and isinstance(lacking.get(name), Mapping)
  }
  return {**lacking, **stored, **inner}
