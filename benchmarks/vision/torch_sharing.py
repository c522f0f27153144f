"""Networks that share in other ways, in PyTorch, for timing only; columns run in sequence.

Written from the papers' formulas over the blocks of `torch_deeplab`.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math

import torch
from torch import nn
import torch.nn.functional as F

from benchmarks.vision import torch_deeplab

_ENDS = (1, 3, 5, 7)  # last blocks of the segments


class _Column(torch_deeplab.Network):
  """A backbone without heads, block by block."""

  def __init__(self) -> None:
    super().__init__(())
    self.widths = [w for w in torch_deeplab.WIDTHS for _ in range(2)]

  def run(self, number: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A block's output, and that of its first layer."""
    block = self.blocks[number]
    first = block.branch[2](block.branch[1](block.branch[0](x)))
    z = block.branch[4](block.branch[3](first))
    return F.relu(block.shortcut(x) + z), first


def _heads(outputs: Sequence[int], dilated: bool) -> nn.ModuleList:
  make = torch_deeplab.DilatedHead if dilated else lambda n: nn.Conv2d(512, n, 1)
  return nn.ModuleList(make(n) for n in outputs)


class Fused(nn.Module):
  """Cross-stitch units after every block, or reductions after stem and segments."""

  def __init__(self, outputs: Sequence[int], dilated: bool, reduced: bool) -> None:
    super().__init__()
    self.columns = nn.ModuleList(_Column() for _ in outputs)
    self.heads, self.reduced = _heads(outputs, dilated), reduced
    count = len(outputs)
    if reduced:
      places = {0: 64, **{b + 1: w for b, w in zip(_ENDS, torch_deeplab.WIDTHS, strict=True)}}
      self.reductions = nn.ModuleDict(
        {
          str(place): nn.ModuleList(
            nn.Sequential(nn.Conv2d(count * w, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU())
            for _ in outputs
          )
          for place, w in places.items()
        }
      )
    else:
      start = torch.full((8, count, count), 0.1 / max(count - 1, 1))
      self.alpha = nn.Parameter(start + (0.9 - start[0, 0, 0]) * torch.eye(count))

  def _fuse(self, place: int, x: list[torch.Tensor]) -> list[torch.Tensor]:
    if self.reduced:
      if str(place) not in self.reductions:
        return x
      joined = torch.cat(x, 1)
      return [reduce(joined) for reduce in self.reductions[str(place)]]
    if not place:
      return x
    alpha = self.alpha[place - 1]
    return [sum(alpha[i, j] * a for j, a in enumerate(x)) for i in range(len(x))]

  def forward(self, x: torch.Tensor, decisions: torch.Tensor) -> list[torch.Tensor]:
    """Predictions of all tasks; `decisions` are not used."""
    found = self._fuse(0, [column.stem(x) for column in self.columns])
    for number in range(8):
      found = [c.run(number, a)[0] for c, a in zip(self.columns, found, strict=True)]
      found = self._fuse(number + 1, found)
    return [head(a) for head, a in zip(self.heads, found, strict=True)]


class Experts(nn.Module):
  """Backbones mixed by a gate of every task, which reads the mean of their stems."""

  def __init__(self, outputs: Sequence[int], dilated: bool, experts: int) -> None:
    super().__init__()
    self.columns = nn.ModuleList(_Column() for _ in range(experts))
    self.gates = nn.ModuleList(nn.Linear(64, experts) for _ in outputs)
    self.heads = _heads(outputs, dilated)

  def forward(self, x: torch.Tensor, decisions: torch.Tensor) -> list[torch.Tensor]:
    """Predictions of all tasks; `decisions` are not used."""
    found = [column.stem(x) for column in self.columns]
    told = torch.stack([a.mean((2, 3)) for a in found]).mean(0)
    for number in range(8):
      found = [c.run(number, a)[0] for c, a in zip(self.columns, found, strict=True)]
    done = []
    for gate, head in zip(self.gates, self.heads, strict=True):
      weights = torch.softmax(gate(told), 1)[:, :, None, None, None]
      done.append(head(sum(weights[:, e] * a for e, a in enumerate(found))))
    return done


def _layer(inputs: int, outputs: int, width: int = 1, bias: bool = True) -> nn.Sequential:
  conv = nn.Conv2d(inputs, outputs, width, padding=width // 2, bias=bias)
  return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Attention(nn.Module):
  """MTAN after every block, or after every segment."""

  def __init__(self, outputs: Sequence[int], dilated: bool, stages: bool) -> None:
    super().__init__()
    self.column, self.heads, self.stages = _Column(), _heads(outputs, dilated), stages
    self.places = list(_ENDS) if stages else list(range(8))
    widths = [self.column.widths[b] for b in self.places]
    masks, extracts = [], []
    for place, width in enumerate(widths):
      before = (width if stages else widths[place - 1]) if place else 0
      middle = width // 4 if stages else width
      masks.append(
        nn.ModuleList(
          nn.Sequential(
            _layer(width + before, middle), nn.ReLU(), _layer(middle, width), nn.Sigmoid()
          )
          for _ in outputs
        )
      )
      if not stages:
        extracts.append(
          nn.ModuleList(nn.Sequential(_layer(width, width, 3), nn.ReLU()) for _ in outputs)
        )
    self.masks, self.extracts = nn.ModuleList(masks), nn.ModuleList(extracts)
    self.between = nn.ModuleList()
    self.projections = nn.ModuleList()
    if stages:
      for width, after in itertools.pairwise(widths):
        inner = after // 4
        self.between.append(
          nn.Sequential(
            _layer(width, inner, bias=False),
            nn.ReLU(),
            _layer(inner, inner, 3, bias=False),
            nn.ReLU(),
            _layer(inner, after, bias=False),
          )
        )
        self.projections.append(_layer(width, after, bias=False))

  def forward(self, x: torch.Tensor, decisions: torch.Tensor) -> list[torch.Tensor]:
    """Predictions of all tasks; `decisions` are not used."""
    x, before = self.column.stem(x), [None] * len(self.heads)
    for number in range(8):
      inner = x
      x, first = self.column.run(number, x)
      if number not in self.places:
        continue
      place = self.places.index(number)
      early = inner if self.stages else first
      for t, mask in enumerate(self.masks[place]):
        read = early if before[t] is None else torch.cat([early, before[t]], 1)
        own = mask(read) * x
        if not self.stages:
          own = self.extracts[place][t](own)
        elif place < len(self.between):
          own = F.relu(self.between[place](own) + self.projections[place](own))
        if place + 1 < len(self.places):
          steps = self.column.widths[number + 1 : self.places[place + 1] + 1]
          halves = 128 in steps and x.shape[1] == 64
          own = F.max_pool2d(own, 2, ceil_mode=True) if halves else own
        before[t] = own
    return [head(a) for head, a in zip(self.heads, before, strict=True)]


def parameters(network: nn.Module) -> int:
  """How many numbers train."""
  return sum(math.prod(p.shape) for p in network.parameters())
