"""A high-resolution network in PyTorch whose tensors have timm's names and shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True):
  layers = [_conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)]
  return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class Residual(nn.Module):
  """Convolutions (outputs, kernel) around which there is a shortcut."""

  def __init__(self, inputs: int, shapes: Sequence[tuple[int, int]], projected: bool = False):
    super().__init__()
    self.count, outputs = len(shapes), shapes[-1][0]
    self.downsample = _unit(inputs, outputs, 1, relu=False) if projected else None
    for index, (width, kernel) in enumerate(shapes, 1):
      setattr(self, f"conv{index}", _conv(inputs, width, kernel))
      setattr(self, f"bn{index}", nn.BatchNorm2d(width))
      inputs = width

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    rest, z = x if self.downsample is None else self.downsample(x), x
    for index in range(1, self.count + 1):
      z = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(z))
      z = F.relu(z) if index < self.count else z
    return F.relu(rest + z)


class Module(nn.Module):
  """Rows of every map, then the exchange."""

  def __init__(self, widths: Sequence[int], rows: int):
    super().__init__()
    self.branches = nn.ModuleList(
      nn.Sequential(*(Residual(w, ((w, 3), (w, 3))) for _ in range(rows))) for w in widths
    )
    self.fuse_layers = nn.ModuleList(
      nn.ModuleList(self._path(widths, of, to) for of in range(len(widths)))
      for to in range(len(widths))
    )

  def _path(self, widths: Sequence[int], of: int, to: int) -> nn.Module:
    if of == to:
      return nn.Identity()
    if of > to:
      enlarged = nn.Upsample(scale_factor=2 ** (of - to), mode="nearest")
      return nn.Sequential(*_unit(widths[of], widths[to], 1, relu=False), enlarged)
    halved = [_unit(widths[of], widths[of], 3, 2) for _ in range(to - of - 1)]
    return nn.Sequential(*halved, _unit(widths[of], widths[to], 3, 2, relu=False))

  def forward(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
    x = [branch(a) for branch, a in zip(self.branches, x, strict=True)]
    return [F.relu(sum(path(a) for path, a in zip(paths, x, strict=True)))
            for paths in self.fuse_layers]  # fmt: skip


class HrNet(nn.Module):
  """Gives all maps at the size of the finest, joined; three stages and a classifier."""

  def __init__(self, blocks: Sequence[int], widths: Sequence[int], rows: int, stem: int):
    super().__init__()
    self.conv1, self.bn1 = _conv(3, stem, 3, 2), nn.BatchNorm2d(stem)
    self.conv2, self.bn2 = _conv(stem, stem, 3, 2), nn.BatchNorm2d(stem)
    shapes = (stem, 1), (stem, 3), (4 * stem, 1)
    inputs = [stem] + [4 * stem] * (blocks[0] - 1)
    self.layer1 = nn.Sequential(*(Residual(n, shapes, not b) for b, n in enumerate(inputs)))
    first = _unit(4 * stem, widths[0], 3), nn.Sequential(_unit(4 * stem, widths[1], 3, 2))
    self.transition1 = nn.ModuleList(first)
    self.stages = len(blocks)
    for stage in range(1, len(blocks)):
      modules = (Module(widths[: stage + 1], rows) for _ in range(blocks[stage]))
      setattr(self, f"stage{stage + 1}", nn.Sequential(*modules))
      if stage > 1:
        opened = nn.Sequential(_unit(widths[stage - 1], widths[stage], 3, 2))
        setattr(self, f"transition{stage}", nn.ModuleList([nn.Identity()] * stage + [opened]))
    self.incre_modules = nn.ModuleList([Residual(widths[0], shapes, True)])
    self.final_layer = _unit(widths[-1], 5, 1)
    self.classifier = nn.Linear(5, 3)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(self.bn1(self.conv1(x)))
    x = self.layer1(F.relu(self.bn2(self.conv2(x))))
    maps = [layer(x) for layer in self.transition1]
    for stage in range(1, self.stages):
      if stage > 1:
        maps = [*maps, getattr(self, f"transition{stage}")[-1](maps[-1])]
      maps = getattr(self, f"stage{stage + 1}")(maps)
    size = maps[0].shape[2:]
    grown = [F.interpolate(a, size, mode="bilinear", align_corners=False) for a in maps[1:]]
    return torch.cat([maps[0], *grown], 1)
