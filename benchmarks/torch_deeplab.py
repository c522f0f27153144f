"""The authors' 2-D Deeplab-style ResNet, laid out anew in PyTorch.

Written from facts about their network, not from their code: a 7-wide stem with
pooling, basic blocks (widths 64 to 512, dilations up to 4), a linear layer a
position and task. The tasks run one after the other, each with its own pass
through the shared backbone; every block is computed and its result masked. For
timing only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)


def _conv(
    inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
  pad = dilation if width == 3 else 0
  return nn.Conv2d(inputs, outputs, width, stride, pad, dilation, bias=False)


class Block(nn.Module):
  """conv, batch norm, ReLU, conv, batch norm; and the shortcut."""

  def __init__(
      self, inputs: int, width: int, stride: int, dilation: int, first: bool
  ) -> None:
    super().__init__()
    self.branch = nn.Sequential(
        _conv(inputs, width, 3, stride, dilation), nn.BatchNorm2d(width),
        nn.ReLU(), _conv(width, width, 3, 1, dilation), nn.BatchNorm2d(width))
    self.shortcut: nn.Module = nn.Identity()
    if first and (stride > 1 or inputs != width or dilation > 1):
      self.shortcut = nn.Sequential(
          _conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

  def forward(self, x: torch.Tensor, decision: torch.Tensor) -> torch.Tensor:
    """`[B, C, H, W]`; both ways are computed and mixed by a scalar."""
    residual = self.shortcut(x)
    done = F.relu(residual + self.branch(x))
    return decision * done + (1 - decision) * residual


class Network(nn.Module):
  """Backbone and one linear head a task.

  Args:
    outputs: channels of every task's prediction.
    blocks: of every segment.
  """

  def __init__(
      self, outputs: Sequence[int], blocks: Sequence[int] = (2, 2, 2, 2)
  ) -> None:
    super().__init__()
    self.stem = nn.Sequential(
        nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    made, inputs = [], WIDTHS[0]
    for count, width, stride, dilation in zip(
        blocks, WIDTHS, STRIDES, DILATIONS, strict=True):
      for index in range(count):
        made.append(Block(inputs, width, stride if index == 0 else 1, dilation,
                          index == 0))
        inputs = width
    self.blocks = nn.ModuleList(made)
    self.heads = nn.ModuleList(nn.Conv2d(inputs, n, 1) for n in outputs)

  def forward(
      self, x: torch.Tensor, decisions: torch.Tensor
  ) -> list[torch.Tensor]:
    """Predictions of all tasks.

    Args:
      x: `[B, 3, H, W]`.
      decisions: `[T, L]` of 0 and 1.
    """
    found = []
    for head, row in zip(self.heads, decisions, strict=True):
      h = self.stem(x)
      for block, decision in zip(self.blocks, row, strict=True):
        h = block(h, decision)
      found.append(head(h))
    return found

  def parameter_count(self) -> int:
    """All trainable numbers."""
    return sum(p.numel() for p in self.parameters())


class Runner:
  """A forward pass in evaluation, all tasks in sequence.

  Args:
    outputs: channels of every task's prediction.
    route: `[T][L]` of 0 and 1.
    batch: examples.
    size: height and width.
    channels_last: memory layout of images and weights.
  """

  def __init__(
      self, outputs: Sequence[int], route: Sequence[Sequence[int]], batch: int,
      size: tuple[int, int], channels_last: bool
  ) -> None:
    self.network = Network(outputs).eval()
    layout = (torch.channels_last if channels_last else torch.contiguous_format)
    self.network.to(memory_format=layout)
    self._route = torch.tensor(route, dtype=torch.float32)
    self._x = torch.rand(batch, 3, *size).to(memory_format=layout)
    self()

  def __call__(self) -> None:
    """Predicts once."""
    with torch.inference_mode():
      self.network(self._x, self._route)
