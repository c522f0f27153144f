"""A vision transformer in PyTorch whose tensors have timm's names and shapes."""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F


class Attention(nn.Module):
  def __init__(self, width: int, heads: int) -> None:
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    batch, tokens, width = x.shape
    q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
  def __init__(self, width: int, hidden: int) -> None:
    super().__init__()
    self.fc1 = nn.Linear(width, hidden)
    self.fc2 = nn.Linear(hidden, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
  def __init__(self, width: int, hidden: int, heads: int) -> None:
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=1e-6)
    self.attn = Attention(width, heads)
    self.norm2 = nn.LayerNorm(width, eps=1e-6)
    self.mlp = Mlp(width, hidden)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
  def __init__(self, width: int, patch: int) -> None:
    super().__init__()
    self.proj = nn.Conv2d(3, width, patch, patch)


class Vit(nn.Module):
  """Gives the normalised map `[B, C, h, w]`; other sizes get their places bilinearly."""

  def __init__(self, layers: int, width: int, hidden: int, heads: int, patch: int, grid: int):
    super().__init__()
    self.grid = grid
    self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
    self.patch_embed = PatchEmbed(width, patch)
    self.blocks = nn.Sequential(*(Block(width, hidden, heads) for _ in range(layers)))
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, 5)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.patch_embed.proj(x)
    size = x.shape[2:]
    places = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
    places = F.interpolate(places, size, mode="bilinear", align_corners=False)
    token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
    x = torch.cat([token, (x + places).flatten(2).transpose(1, 2)], 1)
    x = self.norm(self.blocks(x))
    return x[:, 1:].transpose(1, 2).unflatten(2, size)
