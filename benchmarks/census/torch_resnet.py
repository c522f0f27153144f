"""The authors' 1-D ResNet-18 for Census, laid out anew in PyTorch.

Written from facts about their network, not from their code: a stem, eight basic
blocks (widths 64 to 512, dilations up to 4), for every task a dilated head and
a linear layer; the tasks run one after the other, each with its own pass
through the shared backbone and its own decisions. For timing only.

Differs: a block that a fixed route skips is not computed at all, which is
faster than the authors' code; the layers that their optimisers forget are
trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

COLUMNS = 482
STEM = 76
WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
BLOCKS = 8
STEPS = 61  # positions that are left of 482 columns
RATES = (6, 12, 18, 24)


def _conv(inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Conv1d:
  pad = dilation if width == 3 else 0
  return nn.Conv1d(inputs, outputs, width, stride, pad, dilation, bias=False)


class Block(nn.Module):
  """conv, batch norm, ReLU, conv, batch norm; and the shortcut."""

  def __init__(self, inputs: int, width: int, stride: int, dilation: int):
    super().__init__()
    self.first = _conv(inputs, width, 3, stride, dilation)
    self.first_norm = nn.BatchNorm1d(width)
    self.second = _conv(width, width, 3, 1, dilation)
    self.second_norm = nn.BatchNorm1d(width)
    self.shortcut: nn.Module | None = None

  def project(self, inputs: int, width: int, stride: int) -> None:
    """Adds a 1-wide convolution to the shortcut."""
    self.shortcut = nn.Sequential(_conv(inputs, width, 1, stride), nn.BatchNorm1d(width))

  def residual(self, x: torch.Tensor) -> torch.Tensor:
    """What a skipped block gives."""
    return x if self.shortcut is None else self.shortcut(x)

  def branch(self, x: torch.Tensor) -> torch.Tensor:
    """The block's convolutions, before the addition."""
    h = F.relu(self.first_norm(self.first(x)))
    return self.second_norm(self.second(h))


class DilatedHead(nn.Module):
  """Four dilated branches, summed; then one number an example."""

  def __init__(self, width: int = 1024):
    super().__init__()
    self.branches = nn.ModuleList(
      nn.Sequential(
        nn.Conv1d(WIDTHS[-1], width, 3, padding=rate, dilation=rate),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv1d(width, width, 1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv1d(width, 1, 1),
      )
      for rate in RATES
    )
    self.linear = nn.Linear(STEPS, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[B, 512, 61]` to `[B]`."""
    total = sum(branch(x) for branch in self.branches)
    return self.linear(total.flatten(1)).squeeze(-1)


class LinearHead(nn.Module):
  """The mean over positions and one linear layer, as in dynashare_jax."""

  def __init__(self) -> None:
    super().__init__()
    self.linear = nn.Linear(WIDTHS[-1], 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[B, 512, positions]` to `[B]`."""
    return self.linear(x.mean(-1)).squeeze(-1)


class Network(nn.Module):
  """Backbone and one head a task.

  Args:
    tasks: how many heads.
    dilated: the authors' heads; else linear ones.
    stem: channels of the first convolution.
  """

  def __init__(self, tasks: int, dilated: bool = True, stem: int = STEM):
    super().__init__()
    self.stem = nn.Sequential(
      nn.Conv1d(1, stem, 2, 2, bias=False),
      nn.BatchNorm1d(stem),
      nn.ReLU(),
      nn.MaxPool1d(1, 2, ceil_mode=True),
    )
    blocks, inputs = [], stem
    for width, stride, dilation in zip(WIDTHS, STRIDES, DILATIONS, strict=True):
      first = Block(inputs, width, stride, dilation)
      if stride > 1 or inputs != width or dilation > 1:
        first.project(inputs, width, stride)
      blocks += [first, Block(width, width, 1, dilation)]
      inputs = width
    self.blocks = nn.ModuleList(blocks)
    self.heads = nn.ModuleList(DilatedHead() if dilated else LinearHead() for _ in range(tasks))

  def features(self, x: torch.Tensor, decisions: Sequence[torch.Tensor | int]) -> torch.Tensor:
    """One pass through the backbone.

    Args:
      x: `[B, 1, 482]`.
      decisions: for every block 0 or 1, or a scalar tensor between them.
    """
    x = self.stem(x)
    for block, decision in zip(self.blocks, decisions, strict=True):
      residual = block.residual(x)
      if isinstance(decision, int):
        x = F.relu(residual + block.branch(x)) if decision else residual
      else:
        done = F.relu(residual + block.branch(x))
        x = decision * done + (1 - decision) * residual
    return x

  def backbone_parameters(self) -> int:
    """Trainable numbers without the heads."""
    parts = [*self.stem.parameters(), *self.blocks.parameters()]
    return sum(p.numel() for p in parts)


class Trainer:
  """One training step of the network, tasks in sequence.

  Args:
    network: to train.
    optimizer: `adam` (re-training) or `sgd` (weights of the search).
    route: `[T][L]` of 0 and 1; None draws soft decisions for every task.
  """

  def __init__(
    self, network: Network, optimizer: str, route: Sequence[Sequence[int]] | None
  ) -> None:
    self.network = network.train()
    self.route = route
    self.logits = torch.zeros(len(network.heads), BLOCKS, 2)
    parameters = list(network.parameters())
    self.optimizer: torch.optim.Optimizer
    if optimizer == "adam":
      self.optimizer = torch.optim.Adam(parameters, 1e-3, (0.5, 0.999), weight_decay=1e-4)
    else:
      self.optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=1e-4)

  def _decisions(self, task: int) -> Sequence[torch.Tensor | int]:
    if self.route is not None:
      return self.route[task]
    return F.gumbel_softmax(self.logits[task], tau=5.0)[:, 0].unbind()

  def step(self, x: torch.Tensor, targets: torch.Tensor) -> float:
    """Trains on inputs `[B, 1, 482]` and targets `[T, B]`; returns the loss."""
    self.optimizer.zero_grad(set_to_none=True)
    losses = []
    for task, head in enumerate(self.network.heads):
      features = self.network.features(x, self._decisions(task))
      losses.append(F.binary_cross_entropy_with_logits(head(features), targets[task]))
    loss = torch.stack(losses).sum()
    loss.backward()
    self.optimizer.step()
    return float(loss.detach())
