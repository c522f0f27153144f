"""Tests of the loader: it needs jax alone, and refuses what it cannot run."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax import infer
from dynashare_jax.infer import artefact

SCALE = np.array([1.0, 2.0, 4.0], np.float32)


def _program(platforms, least, factor):
  """Sums a pixel's scaled channels times a factor; symbolic batch."""
  (batch,) = jax.export.symbolic_shape("b", constraints=[f"b >= {least}"])

  def run(weights, arrays):
    shade = factor * (arrays["image"] * weights["scale"][None, None, None])
    return {"shade": shade.sum(-1)}, jnp.ones((1, shade.shape[0], 2))

  return bytes(
    jax.export.export(jax.jit(run), platforms=platforms)(
      {"scale": jax.ShapeDtypeStruct((3,), np.float32)},
      {"image": jax.ShapeDtypeStruct((batch, 2, 2, 3), np.float32)},
    ).serialize()
  )


def _prepare(platforms):
  (batch,) = jax.export.symbolic_shape("b")
  make = jax.export.export(
    jax.jit(lambda arrays: {"image": arrays["image"].astype(float) / 255}), platforms=platforms
  )
  shape = jax.ShapeDtypeStruct((batch, 2, 2, 3), np.uint8)
  return bytes(make({"image": shape}).serialize())


@pytest.fixture(scope="module")
def packed():
  """A model whose batches from 3 on are ten times as bright."""
  manifest = {
    "platforms": ["cpu"],
    "jax": jax.__version__,
    "tasks": [{"name": "shade"}],
    "inputs": {
      "kind": "image",
      "arrays": {"image": {"shape": [2, 2, 3], "dtypes": ["float32", "uint8"]}},
    },
  }
  entry = {"role": "run", "platforms": ["cpu"], "smallest": 1}
  programs = [
    (entry | {"smallest": 3}, _program(["cpu"], 3, 10.0)),
    (entry, _program(["cpu"], 1, 1.0)),
    (entry | {"role": "prepare"}, _prepare(["cpu"])),
  ]
  return artefact.pack(manifest, {"scale": SCALE}, programs)


@pytest.fixture
def folder(packed, tmp_path):
  (tmp_path / artefact.FILE).write_bytes(packed)
  return tmp_path


def test_the_batch_chooses_the_program(folder):
  model = infer.load(folder)
  assert model.tasks == ("shade",) and isinstance(model, infer.Artefact)
  assert repr(model) == "Artefact: shade; inputs image [B, 2, 2, 3]"
  x = np.random.default_rng(0).uniform(size=(5, 2, 2, 3)).astype(np.float32)
  for count, factor in ((1, 1), (2, 1), (3, 10), (5, 10)):
    found = model.run(x[:count])
    np.testing.assert_allclose(
      found.predictions["shade"], factor * (x[:count] * SCALE).sum(-1), rtol=1e-6
    )
    assert found.executed.shape == (1, count, 2)


def test_every_dtype_and_form_of_input_is_read(folder):
  model = infer.load(folder / artefact.FILE)  # the file will do
  raw = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
  want = (raw / 255 * SCALE).sum(-1)
  for inputs in (raw, {"image": raw}, (raw / 255).astype(np.float32), jnp.asarray(raw)):
    np.testing.assert_allclose(model(inputs)["shade"], want, rtol=1e-6)


def test_the_same_shape_is_compiled_once(folder):
  model = infer.load(folder)
  x = np.zeros((2, 2, 2, 3), np.float32)
  model(x), model(x)
  assert model._call._cache_size() == 1


_ALONE = """
import importlib, sys, numpy
sys.path.insert(0, {place!r})
module = importlib.import_module({module!r})
model = module.load({folder!r})
print(numpy.asarray(model(numpy.ones((1, 2, 2, 3), "uint8"))["shade"]).sum())
import jax, jax.export, jax.numpy
mine = {{name.split(".")[0] for name in sys.modules}}
print(sorted(mine & set({foreign!r})), sorted(
    n for n in sys.modules if n.startswith("dynashare_jax")))
"""
_FOREIGN = (
  "flax",
  "optax",
  "orbax",
  "grain",
  "matplotlib",
  "ml_collections",
  "absl",
  "jaxtyping",
  "PIL",
  "tensorboardX",
)


@pytest.mark.parametrize("alone", (True, False))
def test_it_needs_only_jax(folder, tmp_path, alone):
  root = pathlib.Path(artefact.__file__).parents[2]
  if alone:  # The file by itself, copied beside the model.
    shutil.copy(artefact.__file__, tmp_path / "copied.py")
  script = _ALONE.format(
    place=str(tmp_path if alone else root),
    folder=str(folder),
    module="copied" if alone else "dynashare_jax.infer",
    foreign=_FOREIGN,
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
  )
  assert done.returncode == 0, done.stderr
  value, modules = done.stdout.splitlines()
  assert float(value) == pytest.approx(4 * 7 / 255, rel=1e-5)
  own = [] if alone else ["dynashare_jax", "dynashare_jax.infer", "dynashare_jax.infer.artefact"]
  assert modules == f"[] {own}"


@pytest.mark.parametrize("place", (60, 30, 0.1, 0.5, 0.9, -1))
def test_a_flipped_bit_is_found(packed, folder, place):
  data = bytearray(packed)
  data[int(place * len(data)) if isinstance(place, float) else place] ^= 4
  (folder / artefact.FILE).write_bytes(data)
  with pytest.raises(ValueError, match=r"model.stablehlo is damaged: its \d+"):
    infer.load(folder)


@pytest.mark.parametrize("size", (10, 40, 100, 0.5, -1))
def test_a_truncated_file_is_found(packed, folder, size):
  end = int(size * len(packed)) if isinstance(size, float) else size
  (folder / artefact.FILE).write_bytes(packed[:end])
  with pytest.raises(ValueError, match="is damaged"):
    infer.load(folder)


def test_a_foreign_file_is_refused(folder):
  for data in (b"PK\3\4 something else", b"", b"DYNASHARE-MODELS" * 9):
    (folder / artefact.FILE).write_bytes(data)
    with pytest.raises(ValueError, match="is no artefact of dynashare_jax"):
      infer.load(folder)


def test_another_format_version_is_refused(packed, folder):
  data = packed[:16] + struct.pack("<I", 2) + packed[20:]
  (folder / artefact.FILE).write_bytes(data)
  with pytest.raises(ValueError, match="has format version 2; this program"):
    infer.load(folder)


def test_a_missing_artefact_is_refused(tmp_path):
  with pytest.raises(ValueError, match="model.stablehlo is missing. Write one"):
    infer.load(tmp_path)
  with pytest.raises(ValueError, match="There is no artefact at .*nowhere"):
    infer.load(tmp_path / "nowhere")


def test_a_missing_platform_is_refused(packed, folder):
  manifest = artefact.unpack(packed, "")[0]["manifest"]
  data = artefact.pack(manifest | {"platforms": ["cuda", "tpu"]}, {}, [])
  (folder / artefact.FILE).write_bytes(data)
  with pytest.raises(
    ValueError, match="exported for cuda, tpu, but this process runs on cpu.*--platforms=cpu"
  ):
    infer.load(folder)


def test_a_program_of_another_jax_is_refused(packed, folder):
  manifest = artefact.unpack(packed, "")[0]["manifest"] | {"jax": "9.9"}
  entry = {"role": "run", "platforms": ["cpu"], "smallest": 1}
  data = artefact.pack(manifest, {}, [(entry, b"from the future")])
  (folder / artefact.FILE).write_bytes(data)
  with pytest.raises(ValueError, match="cannot read; jax 9.9 wrote it"):
    infer.load(folder)


@pytest.mark.parametrize(
  "inputs, text",
  (
    (
      np.zeros((2, 2, 3), np.float32),
      r"image is \(2, 2, 3\); this model takes"
      r" \(batch, 2, 2, 3\)",
    ),
    (np.zeros((2, 3, 2, 3), np.float32), r"Wrong input shape: image is \(2, 3"),
    (np.zeros((1, 2, 2, 3)), "dtype: image is float64; this model takes float32 or uint8"),
    (np.zeros((1, 2, 2, 3), np.int32), "Wrong input dtype: image is int32"),
    (np.zeros((0, 2, 2, 3), np.float32), "at least one example"),
    (np.full((1, 2, 2, 3), np.nan, np.float32), "Wrong input: image has numbers that are not"),
    (
      {"picture": np.zeros((1, 2, 2, 3), np.uint8)},
      r"\['picture'\]; this model"
      r" takes a dict of \['image'\]",
    ),
    ([[1.0]], "Wrong input dtype: image is float64"),
    (np.float32(1), r"image is \(\); this model"),
    (jnp.zeros((1, 2, 2, 3), jnp.int8), "Wrong input dtype: image is int8"),
    (jnp.zeros((1, 2, 2)), r"image is \(1, 2, 2\); this model"),
  ),
)
def test_wrong_inputs_are_refused(folder, inputs, text):
  with pytest.raises(ValueError, match=text):
    infer.load(folder)(inputs)


def test_what_is_packed_comes_out(packed):
  weights = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": jnp.ones((3,), jnp.bfloat16)}
  weights = {name: np.asarray(a) for name, a in weights.items()}
  data = artefact.pack({"x": [1, "é"]}, weights, [({"role": "r"}, b"code")])
  index, sections = artefact.unpack(data, "")
  assert json.dumps(index["manifest"]) == json.dumps({"x": [1, "é"]})
  for name, dtype, shape, at, size in index["weights"]:
    assert at % 64 == 0
    found = sections[at : at + size].view(jnp.dtype(dtype)).reshape(shape)
    np.testing.assert_array_equal(found, weights[name])
  (entry,) = index["programs"]
  code = sections[entry["at"] : entry["at"] + entry["size"]].tobytes()
  assert code == b"code"


@pytest.mark.parametrize(
  "change",
  [
    lambda index: index.pop("manifest"),
    lambda index: index["manifest"].pop("platforms"),
    lambda index: index["manifest"].update(inputs={}),
    lambda index: index["manifest"].update(tasks=None),
    lambda index: index["weights"][0].__setitem__(1, "float33"),
    lambda index: index["weights"][0].__setitem__(2, [7]),
    lambda index: index.update(programs=[]),
    lambda index: index["programs"][0].update(role="fly"),
    lambda index: index["programs"][0].update(smallest="z"),
    list,
  ],
)
def test_an_index_that_says_something_else_is_one_line(packed, folder, change):
  """With a checksum that fits, as another program may write it."""
  index, sections = artefact.unpack(packed, "")
  index = [] if change is list else (change(index), index)[1]
  text = json.dumps(index).encode()
  text += b" " * (-(len(text) + artefact._HEAD.size) % 64)
  rest = struct.pack("<IQ", artefact.VERSION, len(text)) + text + sections.tobytes()
  digest = hashlib.sha256(rest).digest()
  head = artefact._HEAD.pack(artefact._MARK, artefact.VERSION, len(text), digest)
  (folder / artefact.FILE).write_bytes(head + rest[12:])
  with pytest.raises(ValueError, match="holds no model that this program reads") as error:
    infer.load(folder)
  assert str(error.value).startswith(str(folder / artefact.FILE))
