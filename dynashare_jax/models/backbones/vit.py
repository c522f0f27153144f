"""A vision transformer, whose attentions and feed-forward layers are blocks of their own."""

from __future__ import annotations

from collections.abc import Mapping
import itertools
import math
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base
from dynashare_jax.ops import resize

EPSILON = 1e-6  # of the layer norms
DEPTHS = 4  # whose features a head of several depths reads
SMALL = nn.initializers.truncated_normal(0.02)


def _arranged(path: str, tensor: np.ndarray, model: Any) -> np.ndarray:
  """Outputs of q, k and v in turn, put head by head."""
  if path.split("/")[-2] != "qkv":
    return tensor
  by_head = tensor.reshape(3, model.attention_heads, -1, *tensor.shape[1:])
  return by_head.swapaxes(0, 1).reshape(tensor.shape)


def _looks(tensors: Mapping[str, np.ndarray]) -> str:
  """The values of `config.model` that a file's names and shapes are of."""
  layers = {m[1] for m in (re.match(r"blocks\.(\d+)\.", name) for name in tensors) if m}
  positions = tensors["pos_embed"].shape
  return (
    f" The file has {len(layers)} layers, each two blocks of config.model.blocks, of"
    f" config.model.width={positions[-1]}, and positions for"
    f" config.model.positions={math.isqrt(positions[1] - 1)}; see config.model.hidden and patch."
  )


PRETRAINED = base.Pretrained(
  {},
  "patch/kernel",
  (
    (r"(?P<part>patch|tokens|last_norm)", "vit"),
    (r"block_(?P<block>\d*[02468])/(?P<part>norm|qkv|project)", "attention"),
    (r"block_(?P<block>\d*[13579])/(?P<part>norm|widen|narrow)", "feed"),
  ),
  _arranged,
  looks=_looks,
)


class Vit(base.Backbone):
  """A pre-norm transformer over the patches of a picture and a class token.

  A layer of the transformer is two blocks, attention and feed-forward, each with a shortcut of its
  own: so a policy can leave out one without the other, and a skipped block is the identity.

  Between blocks features are `{"map": [G, B, h, w, C], "token": [G, B, 1, C]}`; heads read the
  normalised map. With `depths`, blocks carry earlier ones along, `past`, and heads read
  `DEPTHS` such pairs, from the first to the last, none of them normalised.

  Attributes:
    num_blocks: twice the layers; attention first.
    width: channels.
    hidden: channels inside a feed-forward block.
    heads: of an attention; they divide the width.
    patch: rows and columns of pixels that become one position.
    grid: rows and columns of positions that have an embedding. For pictures of another size it is
      resized bilinearly.
    mean: subtracted from the colours of pictures in 0..1.
    std: then divided into them.
    depths: whether heads read features after every quarter of the blocks.
    dtype: compute type; parameters stay float32.
    kept: see `base.Backbone`.

  Source: Dosovitskiy et al. 2021, with the names and the order of timm's `vit_*_patch16`. Depths:
    Ranftl et al. 2021 (DPT).
  Differs: no dropout, as in fine-tuning; the outputs of q, k and v lie head by head, so that the
    first channels are whole heads; heads of whole pictures read the map's mean, not the token.
  """

  num_blocks: int
  width: int = 384
  hidden: int = 1536
  heads: int = 6
  patch: int = 16
  grid: int = 14
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  depths: bool = False
  dtype: norm.Dtype = jnp.float32
  kept: tuple[tuple[str, int], ...] = ()
  trees = True

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    size, width = (self.patch, self.patch), self.width_at("stem", self.width)
    self.patches = nn.Conv(width, size, size, "VALID", dtype=self.dtype, name="patch")
    self.tokens = Tokens(width, self.grid, name="tokens")
    self.bodies = [
      FeedForward(self._outputs(b), self.dtype, name=f"block_{b}")
      if b % 2
      else Attention(self._outputs(b), self.heads, self.dtype, name=f"block_{b}")
      for b in range(self.num_blocks)
    ]
    if not self.depths:
      self.last_norm = _norm(self.dtype, "last_norm")

  def stem(self, inputs: Any, pass_: base.Pass) -> base.Features:
    """Turns pictures `[B, H, W, 3]` into patches and the class token, with their places.

    Raises:
      ValueError: the size is no multiple of the patches'.
    """
    del pass_
    check_size(inputs.shape[1:3], self.patch, "A batch")
    x = self.patches(base.whitened(inputs, self.mean, self.std).astype(self.dtype))
    token, places = self.tokens((x.shape[1], x.shape[2]))
    token = jnp.broadcast_to(token, (x.shape[0], *token.shape[1:]))
    found = {"map": (x + places.astype(x.dtype))[None], "token": token.astype(x.dtype)[None]}
    return {**found, "past": ()} if self.depths else found

  @nn.nowrap
  def stem_layer(self) -> base.Layer:
    """Describes the output of `stem`."""
    return base.Layer("patch", self.width, self.patch)

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the linear layers of a block: q, k and v together and the projection, or two."""
    attention = {"qkv": 3 * self.width, "project": self.width}
    widths = {"widen": self.hidden, "narrow": self.width} if block % 2 else attention
    return tuple(
      base.Layer(f"block_{block}/{name}", width, self.patch) for name, width in widths.items()
    )

  @nn.nowrap
  def _outputs(self, block: int) -> tuple[int, int]:
    """How many outputs of both linear layers of a block are computed."""
    first, last = self.layers(block)
    inner = self.width_at(first.name.replace("/", "."), first.channels)
    return inner, self.width_at(f"block_{block}", last.channels)

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns a linear layer; of the stem the patches', the class token and the places."""
    if place == "stem":
      return "patch", "tokens"
    if "." in place:
      return (place.replace(".", "/"),)
    return (self.layers(int(place.split("_")[1]))[-1].name,)

  def layer(self, block: int, index: int, x: base.Features, pass_: base.Pass) -> base.Features:
    """Runs one linear layer of a block, with the norm or what mixes before it."""
    tokens = jnp.concatenate([x["token"], _flat(x["map"])], 2)
    done = self.bodies[block](index, tokens, pass_)
    like = (len(done), *x["map"].shape[1:-1], done.shape[-1])  # Masks may part the groups here.
    return {"map": done[:, :, 1:].reshape(like), "token": done[:, :, :1]}

  @nn.nowrap
  def _ends(self, block: int) -> bool:
    """Whether features after a block, but for the last one, are carried along."""
    ends = itertools.accumulate(base.evenly(self.num_blocks, DEPTHS)[:-1])
    return self.depths and block + 1 in ends

  def branch(self, block: int, x: base.Features, pass_: base.Pass) -> base.Features:
    """Runs both layers of a block; at a depth that heads read, what it adds there too."""
    z = super().branch(block, x, pass_)
    return {**z, "past": (dict(z),)} if self._ends(block) else z

  def shortcut(self, block: int, x: base.Features, pass_: base.Pass) -> base.Features:
    """Returns the input; at a depth that heads read, carried along too."""
    if not self._ends(block):
      return x
    return {**x, "past": (*x["past"], {name: x[name] for name in ("map", "token")})}

  def merge(self, residual: base.Features, z: base.Features) -> base.Features:
    """Returns the sum; of what is carried along, of the newest if the block is its depth."""
    done = {name: residual[name] + z[name] for name in ("map", "token")}
    if not self.depths:
      return done
    new = len(z.get("past", ()))
    past = residual["past"]
    return {**done, "past": (*past[: len(past) - new], *(dict(done) for _ in range(new)))}

  def final(self, x: base.Features) -> base.Features:
    """Normalises the map for the heads; or gives all depths."""
    if self.depths:
      return (*x["past"], {name: x[name] for name in ("map", "token")})
    return self.last_norm(x["map"])


def check_size(size: tuple[int, ...], patch: int, of: str) -> None:
  """Refuses pictures whose height or width patches do not divide."""
  if any(length % patch or not length for length in size):
    raise ValueError(
      f"{of} has pictures of {size[0]} x {size[1]}, which patches of {patch} x {patch} pixels do"
      " not divide: change their size or config.model.patch."
    )


def _flat(x: jax.Array) -> jax.Array:
  """Positions of a map `[G, B, h, w, C]` in a row."""
  return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _norm(dtype: norm.Dtype, name: str) -> nn.LayerNorm:
  """A layer norm."""
  return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)


class Tokens(nn.Module):
  """The class token, and the embeddings of places."""

  width: int
  grid: int

  @nn.compact
  def __call__(self, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The token `[1, 1, C]` at its place, and the places `[1, h, w, C]`."""
    token = self.param("class_token", SMALL, (1, 1, self.width))
    position = self.param("position", SMALL, (1, 1 + self.grid**2, self.width))
    places = position[:, 1:].reshape(1, self.grid, self.grid, self.width)
    return token + position[:, :1], jnp.asarray(resize.enlarge(places, size))


class Attention(nn.Module):
  """Layer norm and the linear layer of q, k and v; then attention and its projection."""

  outputs: tuple[int, int]
  heads: int
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs one linear layer on `[G, B, tokens, C]`."""
    dense = lambda width, name: nn.Dense(width, dtype=self.dtype, kernel_init=SMALL, name=name)
    if not index:
      return pass_.linear(dense(self.outputs[0], "qkv")(_norm(self.dtype, "norm")(x)))
    by_head = x.reshape(*x.shape[:3], self.heads, 3, -1)
    q, k, v = (by_head[..., part, :] for part in range(3))
    mixed = nn.dot_product_attention(q, k, v, force_fp32_for_softmax=True)
    return pass_.linear(dense(self.outputs[1], "project")(mixed.reshape(*x.shape[:3], -1)))


class FeedForward(nn.Module):
  """Layer norm and a linear layer; then GELU and another one."""

  outputs: tuple[int, int]
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs one linear layer on `[G, B, tokens, C]`."""
    dense = lambda width, name: nn.Dense(width, dtype=self.dtype, kernel_init=SMALL, name=name)
    if not index:
      return pass_.linear(dense(self.outputs[0], "widen")(_norm(self.dtype, "norm")(x)))
    return pass_.linear(dense(self.outputs[1], "narrow")(nn.gelu(x, approximate=False)))


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> Vit:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: inputs that are no pictures, or of a size that patches do not divide; no block, a
      number below 1, or a width that heads do not divide.
  """
  base.only_pictures(config, spec)
  count = base.count_blocks(config, spec)
  depths = config.head == "dpt"
  if depths and count < DEPTHS:
    raise ValueError(
      f"config.model.head='dpt' reads four depths, but config.model.blocks={tuple(config.blocks)}"
      f" add up to {count}: give it at least {DEPTHS}."
    )
  for name in ("patch", "positions", "attention_heads"):
    if config[name] < 1:
      raise ValueError(f"config.model.{name} must be at least 1, but is {config[name]}.")
  width, heads = config.width, config.attention_heads
  if width % heads:
    raise ValueError(
      f"config.model.width={width} must be a multiple of config.model.attention_heads={heads}."
    )
  for size in (spec.input_shape[:2], base.picture_size(spec)):
    check_size(size, config.patch, spec.name)
  mean, std = base.colours(config)
  sizes = (width, config.hidden, heads, config.patch, config.positions)
  return Vit(count, *sizes, mean, std, depths, dtype)
