"""The authors' 2-D Deeplab-style ResNet, laid out anew in PyTorch.

Written from facts about their network, not from their code: a 7-wide stem with
pooling, basic blocks (widths 64 to 512, dilations up to 4), for every task a
linear layer a position or four dilated branches. The tasks run one after the
other, each with its own pass through the shared backbone; every block is
computed and its result masked. For timing only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
RATES = (6, 12, 18, 24)


def _conv(inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
  pad = dilation if width == 3 else 0
  return nn.Conv2d(inputs, outputs, width, stride, pad, dilation, bias=False)


class Block(nn.Module):
  """conv, batch norm, ReLU, conv, batch norm; and the shortcut."""

  def __init__(self, inputs: int, width: int, stride: int, dilation: int, first: bool) -> None:
    super().__init__()
    self.branch = nn.Sequential(
      _conv(inputs, width, 3, stride, dilation),
      nn.BatchNorm2d(width),
      nn.ReLU(),
      _conv(width, width, 3, 1, dilation),
      nn.BatchNorm2d(width),
    )
    self.shortcut: nn.Module = nn.Identity()
    if first and (stride > 1 or inputs != width or dilation > 1):
      self.shortcut = nn.Sequential(_conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

  def forward(self, x: torch.Tensor, decision: torch.Tensor) -> torch.Tensor:
    """`[B, C, H, W]`; both ways are computed and mixed by a scalar."""
    residual = self.shortcut(x)
    done = F.relu(residual + self.branch(x))
    return decision * done + (1 - decision) * residual


class DilatedHead(nn.Module):
  """Four dilated branches with dropout, summed."""

  def __init__(self, outputs: int, width: int = 1024):
    super().__init__()
    self.branches = nn.ModuleList(
      nn.Sequential(
        nn.Conv2d(WIDTHS[-1], width, 3, padding=rate, dilation=rate),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(width, outputs, 1),
      )
      for rate in RATES
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[B, 512, h, w]` to `[B, outputs, h, w]`."""
    return torch.stack([branch(x) for branch in self.branches]).sum(0)


class Network(nn.Module):
  """Backbone and one head a task.

  Args:
    outputs: channels of every task's prediction.
    blocks: of every segment.
    dilated: the authors' heads; else linear ones.
  """

  def __init__(
    self, outputs: Sequence[int], blocks: Sequence[int] = (2, 2, 2, 2), dilated: bool = False
  ) -> None:
    super().__init__()
    self.stem = nn.Sequential(
      nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False),
      nn.BatchNorm2d(WIDTHS[0]),
      nn.ReLU(),
      nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    )
    made, inputs = [], WIDTHS[0]
    for count, width, stride, dilation in zip(blocks, WIDTHS, STRIDES, DILATIONS, strict=True):
      for index in range(count):
        made.append(Block(inputs, width, stride if index == 0 else 1, dilation, index == 0))
        inputs = width
    self.blocks = nn.ModuleList(made)
    self.heads = nn.ModuleList(
      DilatedHead(n) if dilated else nn.Conv2d(inputs, n, 1) for n in outputs
    )

  def forward(self, x: torch.Tensor, decisions: torch.Tensor) -> list[torch.Tensor]:
    """Predictions of all tasks.

    Args:
      x: `[B, 3, H, W]`.
      decisions: `[T, L]` of 0 and 1, or between them.
    """
    found = []
    for head, row in zip(self.heads, decisions, strict=True):
      h = self.stem(x)
      for block, decision in zip(self.blocks, row, strict=True):
        h = block(h, decision)
      found.append(head(h))
    return found

  def plain(self, x: torch.Tensor) -> torch.Tensor:
    """Features after all blocks, none of them mixed."""
    x = self.stem(x)
    for block in self.blocks:
      x = F.relu(block.shortcut(x) + block.branch(x))
    return x

  def parameter_count(self) -> int:
    """All trainable numbers."""
    return sum(p.numel() for p in self.parameters())


class Hard(Network):
  """Hard sharing: one pass of the backbone for all heads."""

  def forward(self, x: torch.Tensor, decisions: torch.Tensor) -> list[torch.Tensor]:
    """Predictions of all tasks; `decisions` are not used."""
    features = self.plain(x)
    return [head(features) for head in self.heads]


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
    self,
    outputs: Sequence[int],
    route: Sequence[Sequence[int]],
    batch: int,
    size: tuple[int, int],
    channels_last: bool,
  ) -> None:
    self.network = Network(outputs).eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    self.network.to(memory_format=layout)
    self._route = torch.tensor(route, dtype=torch.float32)
    self._x = torch.rand(batch, 3, *size).to(memory_format=layout)
    self()

  def __call__(self) -> None:
    """Predicts once."""
    with torch.inference_mode():
      self.network(self._x, self._route)


class Trainer:
  """A weight step of the search: soft decisions, dense losses, SGD.

  Args:
    tasks: kind and channels of every task; `segmentation`, `depth`, `normals`.
    batch: examples.
    size: height and width.
    blocks: of every segment.
    dilated: see `Network`.
    device: to run on.
    dtype: of the automatic mixed precision; None computes in float32.
    network: another one, called with pictures and decisions; default `Network`.
  """

  def __init__(
    self,
    tasks: Sequence[tuple[str, int]],
    batch: int,
    size: tuple[int, int],
    blocks: Sequence[int] = (2, 2, 2, 2),
    dilated: bool = True,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    network: nn.Module | None = None,
  ) -> None:
    self._kinds = [kind for kind, _ in tasks]
    self._device, self._dtype = device, dtype
    self.network = network or Network([n for _, n in tasks], blocks, dilated)
    self.network.train().to(device)
    self._logits = torch.zeros(len(tasks), sum(blocks), 2, device=device)
    self._optimizer = torch.optim.SGD(
      self.network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4
    )
    self._x = torch.rand(batch, 3, *size, device=device)
    make = {
      "segmentation": lambda n: torch.randint(n, (batch, *size)),
      "depth": lambda n: 1 + torch.rand(batch, 1, *size),
      "normals": lambda n: F.normalize(torch.randn(batch, 3, *size)),
    }
    self._targets = [make[kind](n).to(device) for kind, n in tasks]

  def __call__(self) -> None:
    """Trains for one step and waits for the end."""
    self._optimizer.zero_grad(set_to_none=True)
    drawn = F.gumbel_softmax(self._logits, tau=5.0)[..., 0]
    with torch.autocast(
      self._device, self._dtype or torch.bfloat16, enabled=self._dtype is not None
    ):
      found = self.network(self._x, drawn)
    losses = [
      _loss(kind, logits.float(), target)
      for kind, logits, target in zip(self._kinds, found, self._targets, strict=True)
    ]
    torch.stack(losses).sum().backward()
    self._optimizer.step()
    if self._device != "cpu":
      torch.cuda.synchronize()


def _loss(kind: str, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
  """Mean loss at the size of the logits, from nearest labels."""
  size = logits.shape[-2:]
  if kind == "segmentation":
    small = F.interpolate(target[:, None].float(), size)[:, 0].long()
    return F.cross_entropy(logits, small)
  small = F.interpolate(target, size)
  if kind == "normals":
    return 1 - F.cosine_similarity(logits, small, dim=1).mean()
  return F.l1_loss(logits, small)
