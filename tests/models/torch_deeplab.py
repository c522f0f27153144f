"""The authors' network in PyTorch, to compare ours with number for number.

Written from facts about their network, not from their code. Its tensors have
the names and shapes that their files have, also those of layers that never run.
Inputs are blue, green, red in 0..255, less their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
RATES = (6, 12, 18, 24)
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)


def _conv(
  inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, width, stride, dilation * (width // 2), dilation, bias=bias)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
  return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
  """Convolutions with norms; with a gate, as DynaShare's blocks have one."""

  def __init__(
    self, kind: str, inputs: int, width: int, stride: int, dilation: int, gated: bool
  ) -> None:
    super().__init__()
    outputs = width * (4 if kind == "bottleneck" else 1)
    plan = (
      [(width, 3, stride, dilation), (width, 3, 1, dilation)]
      if kind == "basic"
      else [(width, 1, stride, 1), (width, 3, 1, dilation), (outputs, 1, 1, 1)]
    )
    self.layers = len(plan)
    channels = inputs
    for number, (out, size, step, spread) in enumerate(plan, 1):
      setattr(self, f"conv{number}", _conv(channels, out, size, step, spread))
      setattr(self, f"bn{number}", nn.BatchNorm2d(out))
      channels = out
    if gated:
      self.fc1, self.fc2 = (_conv(inputs, 16, 1, bias=True), _conv(16, 2, 1, bias=True))
      self.fc1bn = nn.BatchNorm2d(16)
      if stride != 1 or inputs != outputs:
        self.shortcut = _projection(inputs, outputs, stride)  # never runs

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    for number in range(1, self.layers + 1):
      x = F.relu(x) if number > 1 else x
      x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
    return x

  def gate(self, x: torch.Tensor) -> torch.Tensor:
    """Scores `[B, 2]`; index 1 executes. Pools the whole map."""
    pooled = x.mean((2, 3), keepdim=True)
    return self.fc2(F.relu(self.fc1bn(self.fc1(pooled))))[:, :, 0, 0]


class Backbone(nn.Module):
  """Stem, blocks by segment, and a shortcut a segment."""

  def __init__(self, kind: str, blocks: Sequence[int], widths: Sequence[int], gated: bool) -> None:
    super().__init__()
    self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(widths[0])
    segments, shortcuts, inputs = [], {}, widths[0]
    for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
      stride, dilation = STRIDES[s], DILATIONS[s]
      outputs = width * (4 if kind == "bottleneck" else 1)
      if stride != 1 or inputs != outputs or dilation > 1:
        shortcuts[str(s)] = _projection(inputs, outputs, stride)
      made = []
      for b in range(count):
        made.append(Block(kind, inputs, width, stride if b == 0 else 1, dilation, gated))
        inputs = outputs
      segments.append(nn.ModuleList(made))
    self.blocks = nn.ModuleList(segments)
    self.ds = nn.ModuleDict(shortcuts)  # ds.1.0.weight, as in a list with gaps

  def forward(
    self, x: torch.Tensor, policy: Sequence[float], gated: Sequence[bool]
  ) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One task's pass: its features, and the scores of the gates asked."""
    x = F.relu(self.bn1(self.conv1(x)))
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    scores, block = [], 0
    for s, segment in enumerate(self.blocks):
      for b, body in enumerate(segment):
        rest = self.ds[str(s)](x) if b == 0 and str(s) in self.ds else x
        share: Any = policy[block]
        if gated[block]:
          score = body.gate(x)
          scores.append(score[:, 1] - score[:, 0])
          share = share * score.argmax(1).float()[:, None, None, None]
        x = share * F.relu(rest + body(x)) + (1 - share) * rest
        block += 1
    return x, scores


class Aspp(nn.Module):
  """One dilated branch of a head."""

  def __init__(self, inputs: int, width: int, outputs: int, rate: int) -> None:
    super().__init__()
    self.conv1 = _conv(inputs, width, 3, 1, rate, bias=True)
    self.conv2 = _conv(width, width, 1, bias=True)
    self.conv3 = _conv(width, outputs, 1, bias=True)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Network(nn.Module):
  """Backbone, a head a task, and the policy's logits (column 0 executes)."""

  def __init__(
    self,
    outputs: Sequence[int],
    blocks: Sequence[int],
    widths: Sequence[int],
    kind: str = "basic",
    head_width: int = 8,
    gated: bool = False,
  ) -> None:
    super().__init__()
    self.backbone = Backbone(kind, blocks, widths, gated)
    features = widths[-1] * (4 if kind == "bottleneck" else 1)
    self.tasks = len(outputs)
    for t, classes in enumerate(outputs, 1):
      for c, rate in enumerate(RATES):
        setattr(self, f"task{t}_fc1_c{c}", Aspp(features, head_width, classes, rate))
      self.register_parameter(f"task{t}_logits", nn.Parameter(torch.zeros(sum(blocks), 2)))

  def randomise(self, seed: int) -> Network:
    """Draws every number, running statistics too, and stops training."""
    rng = np.random.default_rng(seed)
    draw = lambda t: torch.tensor(rng.normal(size=tuple(t.shape)))
    for name, tensor in self.state_dict().items():
      if name.endswith("num_batches_tracked"):
        tensor.fill_(7)
      elif name.endswith("running_var"):
        tensor.copy_(1 + draw(tensor).abs())
      elif tensor.ndim == 4:
        tensor.copy_(draw(tensor) / tensor[0].numel() ** 0.5)
      else:
        shift = 0.7 if name.endswith("weight") else 0.0
        tensor.copy_(shift + 0.3 * draw(tensor))
    return self.eval()

  @torch.inference_mode()
  def predict(
    self, rgb: np.ndarray, policy: np.ndarray, gated: Sequence[bool]
  ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Features `[B, h, w, C]`, logits and gate scores of every task.

    Args:
      rgb: float32 `[B, H, W, 3]` in 0..1.
      policy: `[T, L]` in 0..1.
      gated: for every block, whether its gate is asked.
    """
    pixels = rgb[..., ::-1] * 255 - np.asarray(MEAN_BGR)
    x = torch.tensor(pixels.transpose(0, 3, 1, 2).copy(), dtype=torch.float32)
    last = lambda y: y.permute(0, 2, 3, 1).numpy()
    features, logits, scores = [], [], []
    for t, row in enumerate(policy, 1):
      found, asked = self.backbone(x, [float(p) for p in row], gated)
      heads = [getattr(self, f"task{t}_fc1_c{c}") for c in range(len(RATES))]
      features.append(last(found))
      logits.append(last(sum(head(found) for head in heads)))
      scores.append(torch.stack(asked, 1).numpy() if asked else np.zeros(0))
    return features, logits, scores
