"""Networks that share in other ways, in PyTorch, to compare ours with number for number.

Functions of our parameter trees, written from the papers' formulas; features are `[B, C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

EPSILON = 1e-5


class Net(NamedTuple):
  """A small ResNet: strides and dilations of its blocks, blocks of its segments."""

  strides: Sequence[int]
  dilations: Sequence[int]
  segments: Sequence[int]


def tensor(array: Any) -> torch.Tensor:
  """A float32 tensor of an array."""
  return torch.tensor(np.asarray(array, np.float32))


def conv(p: Any, x: torch.Tensor, stride: int = 1, dilation: int = 1) -> torch.Tensor:
  """A convolution of our kernel, or a linear layer over channels."""
  kernel = tensor(p["kernel"])
  if kernel.ndim == 2:
    kernel = kernel[None, None]
  bias = tensor(p["bias"]) if "bias" in p else None
  pad = dilation * (kernel.shape[0] // 2)
  return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, pad, dilation)


def norm(p: Any, s: Any, x: torch.Tensor, train: bool) -> torch.Tensor:
  """A batch norm, by the batch in training."""
  mean, var = tensor(s["mean"]), tensor(s["var"])
  return F.batch_norm(x, mean, var, tensor(p["scale"]), tensor(p["bias"]), train, 0.1, EPSILON)


class Column:
  """A backbone of basic blocks whose stem is a 3-wide convolution of stride 2."""

  def __init__(self, net: Net, p: Any, s: Any, train: bool) -> None:
    self.net, self.p, self.s, self.train = net, p, s, train

  def stem(self, x: torch.Tensor) -> torch.Tensor:
    x = conv(self.p["stem_conv"], x, 2)
    return F.relu(norm(self.p["stem_norm"], self.s["stem_norm"], x, self.train))

  def block(self, b: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's output, and that of its first layer."""
    p, s, rest = self.p[f"block_{b}"], self.s[f"block_{b}"], x
    stride, dilation = self.net.strides[b], self.net.dilations[b]
    first = F.relu(
      norm(p["norm_0"], s["norm_0"], conv(p["conv_0"], x, stride, dilation), self.train)
    )
    z = norm(p["norm_1"], s["norm_1"], conv(p["conv_1"], first, 1, dilation), self.train)
    if f"shortcut_{b}" in self.p:
      p, s = self.p[f"shortcut_{b}"], self.s[f"shortcut_{b}"]
      rest = norm(p["norm"], s["norm"], conv(p["conv"], x, stride), self.train)
    return F.relu(rest + z), first


def _columns(net: Net, v: Mapping[str, Any], name: str, count: int, train: bool) -> list[Column]:
  p, s = v["params"], v["batch_stats"]
  return [Column(net, p[f"{name}_{k}"], s[f"{name}_{k}"], train) for k in range(count)]


def fused(net: Net, v: Any, x: torch.Tensor, count: int, train: bool) -> list[torch.Tensor]:
  """Cross-stitch and sluice units, and reductions, wherever there are parameters of one."""

  def fuse(place: int, x: list[torch.Tensor]) -> list[torch.Tensor]:
    p = v["params"].get(f"fuse_{place}")
    if p is None:
      return x
    if "alpha" in p:
      alpha, parts = tensor(p["alpha"]), []
      split = len(alpha) // count
      for a in x:
        parts += list(torch.chunk(a, split, 1))
      done = [sum(alpha[i, j] * part for j, part in enumerate(parts)) for i in range(len(parts))]
      return [torch.cat(done[k * split : (k + 1) * split], 1) for k in range(count)]
    kernel, s = tensor(p["kernel"]), v["batch_stats"][f"fuse_{place}"]
    joined = torch.cat(x, 1)
    found = []
    for k in range(count):
      matrix = kernel[:, :, k].reshape(-1, kernel.shape[-1])
      z = F.conv2d(joined, matrix.T[:, :, None, None])
      found.append(F.relu(norm(p[f"norm_{k}"], s[f"norm_{k}"], z, train)))
    return found

  columns = _columns(net, v, "columns", count, train)
  found = fuse(0, [column.stem(x) for column in columns])
  for b in range(len(net.strides)):
    found = fuse(b + 1, [c.block(b, a)[0] for c, a in zip(columns, found, strict=True)])
  return found


def experts(net: Net, v: Any, x: torch.Tensor, count: int, tasks: int, train: bool) -> Any:
  """A softmax mixture of whole backbones for every task, from the mean of their stems."""
  columns = _columns(net, v, "experts", count, train)
  found = [column.stem(x) for column in columns]
  told = torch.stack(found).mean((0, 3, 4))
  for b in range(len(net.strides)):
    found = [c.block(b, a)[0] for c, a in zip(columns, found, strict=True)]
  mixed = []
  for t in range(tasks):
    p = v["params"][f"mixture_0_{t}"]
    weights = torch.softmax(told @ tensor(p["kernel"]) + tensor(p["bias"]), 1)
    mixed.append(sum(weights[:, e, None, None, None] * a for e, a in enumerate(found)))
  return mixed


def layered(
  net: Net, v: Any, x: torch.Tensor, levels: Sequence[int], tasks: int, train: bool
) -> list[torch.Tensor]:
  """PLE with an expert of every task and a shared one behind them; CGC with one level.

  A task's gate mixes its own expert and the shared one, the shared gate all of them; a gate reads
  the pooled stream before its level, at first the mean of the stems that it mixes.
  """
  columns = _columns(net, v, "experts", tasks + 1, train)
  found = [column.stem(x) for column in columns]
  mixed = [[t, tasks] for t in range(tasks)] + [list(range(tasks + 1))]
  told = [torch.stack([found[e] for e in experts]).mean((0, 3, 4)) for experts in mixed]
  first = 0
  for level, blocks in enumerate(levels):
    last = level + 1 == len(levels)
    for b in range(first, first + blocks):
      found = [column.block(b, a)[0] for column, a in zip(columns, found, strict=True)]
    first += blocks
    streams = []
    for stream, experts in enumerate(mixed[:tasks] if last else mixed):
      p = v["params"][f"mixture_{level}_{stream}"]
      weights = torch.softmax(told[stream] @ tensor(p["kernel"]) + tensor(p["bias"]), 1)
      read = [found[e] for e in experts]
      streams.append(sum(weights[:, e, None, None, None] * a for e, a in enumerate(read)))
    found, told = streams, [a.mean((2, 3)) for a in streams]
  return found


def attention(net: Net, v: Any, x: torch.Tensor, tasks: int, stages: bool, train: bool) -> Any:
  """MTAN in both designs."""
  p, s = v["params"], v["batch_stats"]
  shared = Column(net, p["backbone"], s["backbone"], train)

  def layer(name: str, part: int, x: torch.Tensor, kind: str = "") -> torch.Tensor:
    first = kind or ("reduce", "widen")[part]
    z = conv(p[name][first], x)
    return norm(p[name][f"norm_{part}"], s[name][f"norm_{part}"], z, train)

  ends = [sum(net.segments[: i + 1]) - 1 for i in range(len(net.segments))]
  blocks = range(len(net.strides))
  places = ends if stages else list(blocks)
  x, before = shared.stem(x), [None] * tasks
  for b in blocks:
    inner = x
    x, first = shared.block(b, x)
    if b not in places:
      continue
    q = places.index(b)
    early = inner if stages and b and b - 1 not in places else first
    own: list[Any] = []
    for t in range(tasks):
      z = early if before[t] is None else torch.cat([early, before[t]], 1)
      z = F.relu(layer(f"mask_{t}_{q}", 0, z))
      own.append(torch.sigmoid(layer(f"mask_{t}_{q}", 1, z)) * x)
    following = places[q + 1] if q + 1 < len(places) else None
    pool = 1 if following is None else int(np.prod(net.strides[b + 1 : following + 1]))
    if stages and following is not None:
      name = f"between_{q}"
      for t, a in enumerate(own):
        z = F.relu(layer(name, 0, a, "conv_0"))
        z = F.relu(layer(name, 1, z, "conv_1"))
        z = layer(name, 2, z, "conv_2") + layer(name, 3, a, "conv_3")
        own[t] = F.relu(z)
    elif not stages:
      own = [F.relu(layer(f"extract_{t}_{q}", 0, a, "conv_0")) for t, a in enumerate(own)]
    before = [F.max_pool2d(a, pool, ceil_mode=True) if pool > 1 else a for a in own]
  return before
