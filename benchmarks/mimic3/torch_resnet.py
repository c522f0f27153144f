"""The authors' 1-D ResNet-18 for MIMIC-III, laid out anew in PyTorch.

Written from facts about their network, not from their code: stem, eight basic
blocks, and for every task a dilated head, flattened into one linear layer. The
tasks run one after the other, each with its own pass through the backbone. For
timing only.

Differs: the layers that their optimisers forget are trained; labels without a
value do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

from benchmarks.census import torch_resnet

HOURS = 170
COLUMNS = 76
STEPS = 22  # positions that are left of 170 hours


class Head(nn.Module):
  """Four dilated branches, summed, flattened, and one linear layer."""

  def __init__(self, channels: int, outputs: int, width: int = 1024):
    super().__init__()
    self.branches = nn.ModuleList(
      nn.Sequential(
        nn.Conv1d(torch_resnet.WIDTHS[-1], width, 3, padding=rate, dilation=rate),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv1d(width, width, 1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv1d(width, channels, 1),
      )
      for rate in torch_resnet.RATES
    )
    self.linear = nn.Linear(STEPS * channels, outputs)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[B, 512, 22]` to `[B, outputs]`."""
    total = sum(branch(x) for branch in self.branches)
    return self.linear(total.flatten(1))


class Trainer:
  """One training step, tasks in sequence, soft decisions drawn for each.

  Args:
    tasks: for every task its channels and whether every hour has a prediction.
  """

  def __init__(self, tasks: Sequence[tuple[int, bool]]) -> None:
    self.tasks = tasks
    network = torch_resnet.Network(0, stem=COLUMNS)
    network.stem[0] = nn.Conv1d(COLUMNS, COLUMNS, 2, 2, bias=False)
    network.heads = nn.ModuleList(
      Head(channels, channels * (HOURS if hourly else 1)) for channels, hourly in tasks
    )
    self.network = network.train()
    self.logits = torch.zeros(len(tasks), torch_resnet.BLOCKS, 2)
    self.optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

  def step(self, x: torch.Tensor, targets: Sequence[torch.Tensor]) -> float:
    """Trains on `[B, 76, 170]` and a target a task; returns the loss."""
    self.optimizer.zero_grad(set_to_none=True)
    losses = []
    for index, (channels, hourly) in enumerate(self.tasks):
      drawn = F.gumbel_softmax(self.logits[index], tau=5.0)[:, 0].unbind()
      found = self.network.heads[index](self.network.features(x, drawn))
      if hourly and channels > 1:
        losses.append(F.cross_entropy(found.reshape(-1, channels), targets[index].reshape(-1)))
      else:
        losses.append(F.binary_cross_entropy_with_logits(found, targets[index]))
    loss = torch.stack(losses).sum()
    loss.backward()
    self.optimizer.step()
    return float(loss.detach())
