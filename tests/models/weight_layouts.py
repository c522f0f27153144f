"""State dicts as other programs lay them out, written down by hand."""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib

import numpy as np

R18 = (2, 2, 2, 2)
THIN = (3, 4, 5, 6)
State = dict[str, np.ndarray]


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
  return {
    f"{name}.weight": (width,),
    f"{name}.bias": (width,),
    f"{name}.running_mean": (width,),
    f"{name}.running_var": (width,),
    f"{name}.num_batches_tracked": (),
  }


def backbone(
  names: tuple[str, str, str],
  blocks: Sequence[int],
  widths: Sequence[int],
  kind: str,
  gated: bool = False,
) -> dict[str, tuple[int, ...]]:
  """Shapes of a ResNet's tensors, written down from the programs' layouts."""
  stem, block, shortcut = names
  shapes: dict[str, tuple[int, ...]] = {f"{stem}conv1.weight": (widths[0], 3, 7, 7)}
  shapes |= norm(f"{stem}bn1", widths[0])
  inputs = widths[0]
  for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
    outputs = width * (4 if kind == "bottleneck" else 1)
    for b in range(count):
      name = block.format(s, b, s + 1)
      sizes = (
        [(width, inputs, 3), (width, width, 3)]
        if kind == "basic"
        else [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
      )
      for i, (out, into, size) in enumerate(sizes, 1):
        shapes[f"{name}.conv{i}.weight"] = (out, into, size, size)
        shapes |= norm(f"{name}.bn{i}", out)
      projected = b == 0 and (s > 0 or inputs != outputs)
      if projected:
        place = shortcut.format(s, b, s + 1)
        shapes[f"{place}.0.weight"] = (outputs, inputs, 1, 1)
        shapes |= norm(f"{place}.1", outputs)
      if gated:
        shapes |= {
          f"{name}.fc1.weight": (16, inputs, 1, 1),
          f"{name}.fc1.bias": (16,),
          f"{name}.fc2.bias": (2,),
          f"{name}.fc2.weight": (2, 16, 1, 1),
        }
        shapes |= norm(f"{name}.fc1bn", 16)
        if projected:
          shapes[f"{name}.shortcut.0.weight"] = (outputs, inputs, 1, 1)
          shapes |= norm(f"{name}.shortcut.1", outputs)
      inputs = outputs
  return shapes


def fill(shapes: dict[str, tuple[int, ...]]) -> State:
  rng = np.random.default_rng(5)
  return {
    name: np.asarray(3) if name.endswith("tracked") else rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def imagenet(
  blocks: Sequence[int] = R18, widths: Sequence[int] = THIN, kind: str = "basic"
) -> State:
  shapes = backbone(("", "layer{2}.{1}", "layer{2}.{1}.downsample"), blocks, widths, kind)
  wide = widths[-1] * (4 if kind == "bottleneck" else 1)
  return fill(shapes | {"fc.weight": (10, wide), "fc.bias": (10,)})


def authors(
  outputs: Sequence[int] = (4, 2), gated: bool = False, blocks: Sequence[int] = R18
) -> State:
  shapes = backbone(
    ("backbone.", "backbone.blocks.{0}.{1}", "backbone.ds.{0}"), blocks, THIN, "basic", gated
  )
  for t, classes in enumerate(outputs, 1):
    for c in range(4):
      name = f"task{t}_fc1_c{c}"
      for i, (out, into, size) in enumerate([(7, 6, 3), (7, 7, 1), (classes, 7, 1)], 1):
        shapes[f"{name}.conv{i}.weight"] = (out, into, size, size)
        shapes[f"{name}.conv{i}.bias"] = (out,)
    shapes[f"task{t}_logits"] = (sum(blocks), 2)
  return fill(shapes)


def save(path: pathlib.Path, state: State) -> pathlib.Path:
  """Writes safetensors."""
  header, body, place = {}, [], 0
  names = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}
  for name, array in state.items():
    end = place + array.nbytes
    header[name] = {
      "dtype": names[array.dtype.name],
      "shape": list(array.shape),
      "data_offsets": [place, end],
    }
    body.append(array.tobytes())
    place = end
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(body))
  return path
