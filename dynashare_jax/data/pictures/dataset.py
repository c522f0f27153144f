"""Data sets of pictures with dense labels: what all of them share.

A data set's own file says where the pictures lie (`Found`); this one gives the
rest: splits, single examples, whole splits, augmentation.

An example is read in two steps, so that a converted copy of the data (see
`data.store`) holds exactly what the files held: `read` gives the raw fields as
they are stored, `decode` makes inputs, targets and masks of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.data import memory
from dynashare_jax.data import options
from dynashare_jax.data.pictures import augment as transforms
from dynashare_jax.data.pictures import layouts
from dynashare_jax.data.pictures import store

Fields = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
  """A data set as it lies on disk.

  Attributes:
    layout: what was found, in words for the user.
    keys: split -> names of its examples, in order. Splits: `train`, `test`, `validation` where it
      is official, and `small`, a part of test that AdaShare validates on.
    read: a name -> the raw fields of the example; must be picklable, as worker processes call it.
    decode: raw fields -> the example, a `Batch` without the leading axis with RGB float32 inputs in
      0..1 `[H, W, 3]`; must be picklable.
    notes: for the user.
  """

  layout: str
  keys: Mapping[str, tuple[str, ...]]
  read: Callable[[str], Fields]
  decode: Callable[[Fields], types.Batch]
  notes: tuple[str, ...] = ()


def defaults() -> dict[str, Any]:
  """Returns the values of `config.data` that all these data sets have.

  validation: where model selection gets its examples from when there is no official validation
  split: `train` (a share of the training examples) or `test` (one half of the test examples; the
  other half stays test). validation_share: of the training examples. split_seed: chooses them (the
  run's seed does not). augment: whether training examples are varied at all. crop: height and width
  of a training example. scales: lowest and highest factor on a training picture's size. mirror:
  half of the training examples. jitter: of brightness, contrast and saturation, 0 for none.
  """
  return {
    "validation": "train",
    "validation_share": 0.1,
    "split_seed": 0,
    "augment": True,
    "crop": (321, 321),
    "scales": (0.5, 1.5),
    "mirror": True,
    "jitter": 0.0,
  }


def compat() -> dict[str, Any]:
  """Returns the switches that all these data sets have, at their corrected values.

  depth: `scaled`, or `unscaled`: the authors scale the picture alone. mirror: `negated`, or
  `plain`: the authors mirror normals of NYU v2 without negating their x component.
  """
  return {"depth": "scaled", "mirror": "negated"}


class Wanted(NamedTuple):
  """The part of a data set that a run asks for.

  Attributes:
    config: `config.data`.
    compat: `config.compat`.
    tasks: in order.
    fields: stored ones, `image` first.
    size: height and width to bring everything to; None leaves it.
    mixed: fields whose pixels may be mixed then.
  """

  config: ConfigDict
  compat: ConfigDict
  tasks: tuple[str, ...]
  fields: tuple[str, ...]
  size: tuple[int, int] | None
  mixed: tuple[str, ...] = ("image",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet(abc.ABC):
  """A published data set of pictures: what all of them do alike.

  A subclass declares what only it has. The methods `defaults`, `compat`, `build`,
  `outline` and `original` of its one object are the functions of its module.

  Attributes:
    name: of the module.
    title: for messages.
    tasks: that it has labels of.
    sizes: published split -> number of examples.
    stored: layout, or `auto` for any other -> height and width of its pictures.
    values: of `config.data`, beside those of `defaults`.
    switches: of `config.compat` at their corrected values, beside those of `compat`.
  """

  name: str
  title: str
  tasks: tuple[str, ...]
  sizes: Mapping[str, int]
  stored: Mapping[str, tuple[int, int]]
  values: Mapping[str, Any]
  switches: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @abc.abstractmethod
  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Checks `config` and returns every task, without weight and way of counting.

    Args:
      facts: of `find`; empty before anything was found.
    """

  @abc.abstractmethod
  def find(self, wanted: Wanted, data_dir: str | None) -> store.Original:
    """Finds the files of the fields that are wanted, which are read at the size."""

  @abc.abstractmethod
  def found(self, wanted: Wanted, original: store.Original) -> Found:
    """Adds splits, decoding and notes to files, or a converted copy, that were found."""

  def fields(self, config: ConfigDict, compat: ConfigDict) -> tuple[str, ...]:
    """Returns the stored fields that are needed beside `image` and those of the tasks."""
    del config, compat
    return ()

  def mixed(self, compat: ConfigDict) -> tuple[str, ...]:
    """Returns the fields whose pixels may be mixed when they are resized."""
    del compat
    return ("image",)

  def defaults(self) -> dict[str, Any]:
    """Returns the default values of `config.data`."""
    return {**defaults(), **self.values}

  def compat(self) -> dict[str, Any]:
    """Returns the switches of `config.compat` at their corrected values."""
    return {**compat(), **self.switches}

  def build(
    self, config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int
  ) -> types.Dataset:
    """Finds the data set; pictures are read when they are asked for.

    Args:
      data_dir: a folder in one of the layouts of the data set, or a converted copy.
      seed: not used; `config.split_seed` chooses the examples of validation.

    Raises:
      ValueError: a wrong value in `config` or `compat`, no data set in the folder, or
        an example that cannot be read.
    """
    del seed
    self._specs(config, compat, {})  # checks before anything is looked for
    wanted = self._wanted(config, compat)
    original = self._open(wanted, data_dir)
    tasks = self._specs(config, compat, original.facts)
    return assemble(self.name, tasks, self.found(wanted, original), config, compat)

  def outline(self, config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
    """Returns what is known before the data set is on disk; see `outline`.

    Raises:
      ValueError: a wrong value in `config` or `compat`.
    """
    tasks = self._specs(config, compat, {})
    usual = self.stored.get(config.layout, self.stored["auto"])
    size = layouts.wanted_size(config) or usual
    return outline(self.name, tasks, size, self.sizes, config, compat)

  def original(
    self, config: ConfigDict, compat: ConfigDict, data_dir: str | None
  ) -> store.Original:
    """Returns the files that `store_writer.convert` makes a copy of.

    Raises:
      ValueError: see `build`.
    """
    return self._open(self._wanted(config, compat), data_dir)

  def _wanted(self, config: ConfigDict, compat: ConfigDict) -> Wanted:
    tasks = options.tasks(self.title, config.tasks, self.tasks)
    fields = ("image", *tasks, *self.fields(config, compat))
    return Wanted(config, compat, tasks, fields, layouts.wanted_size(config), self.mixed(compat))

  def _open(self, wanted: Wanted, data_dir: str | None) -> store.Original:
    """Finds the files, or a converted copy of them."""
    if data_dir and store.is_copy(data_dir):
      return store.open_copy(data_dir, self.name, *wanted[3:])
    return self.find(wanted, data_dir)

  def _specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> tuple[types.TaskSpec, ...]:
    """The chosen tasks, in order."""
    chosen = options.tasks(self.title, config.tasks, self.tasks)
    specs, metrics = self.specs(config, compat, facts), compat.get("metrics", "pooled")
    return tuple(
      dataclasses.replace(specs[task], weight=options.weight(config, task), metrics=metrics)
      for task in chosen
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Source(Sequence[types.Batch]):
  """Random access to examples with inputs of `shape`; picklable. Attributes as in `Found`."""

  keys: Sequence[str]
  read: Callable[[str], Fields]
  decode: Callable[[Fields], types.Batch]
  shape: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.keys)

  def __getitem__(self, index: Any) -> types.Batch:  # type: ignore[override]
    """Returns one example.

    Raises:
      IndexError: beyond the split.
      ValueError: the example cannot be read, or has another size; names it.
    """
    key = self.keys[int(index)]
    example = _example(self.read, self.decode, key)
    if example.inputs.shape != self.shape:
      raise ValueError(
        f"Example {key!r} is {layouts.times(example.inputs.shape[:2])}, the first one"
        f" {layouts.times(self.shape[:2])}: all must have one size. Give"
        " config.data.height and width, where the data set has them."
      )
    return example


def _example(
  read: Callable[[str], Fields], decode: Callable[[Fields], types.Batch], key: str
) -> types.Batch:
  """Reads one example; every error names it."""
  try:
    return decode(read(key))
  except (OSError, KeyError, ValueError) as error:
    raise ValueError(f"Example {key!r}: {error}") from error


def assemble(
  name: str, tasks: tuple[types.TaskSpec, ...], found: Found, config: Any, switches: Any
) -> types.Dataset:
  """Returns the data set of what was found on disk.

  Args:
    name: of the data set's module.
    found: with at least the splits `train` and `test`.
    config: `config.data`, with the fields of `defaults`.
    switches: `config.compat`, with those of `compat`; also read: `selection`.

  Raises:
    ValueError: a wrong value, an empty split, or a first example that cannot be read.
  """
  keys, note = splits(found.keys, config, switches.get("selection"))
  first = _example(found.read, found.decode, keys["train"][0])
  shape = first.inputs.shape
  if len(shape) != 3 or shape[2] != 3:
    raise ValueError(f"{name}: the first picture has the shape {shape}; it must be [H, W, 3].")
  notes = (f"found: {found.layout}", note, *found.notes)
  augment = augmentation(tasks, config, switches)
  spec = _spec(name, tasks, shape, keys, notes, augment)
  sources = {split: Source(names, found.read, found.decode, shape) for split, names in keys.items()}
  return memory.dataset(spec, sources, augment=augment)


def _spec(
  name: str,
  tasks: tuple[types.TaskSpec, ...],
  shape: tuple[int, ...],
  keys: Mapping[str, Sequence[str]],
  notes: tuple[str, ...],
  augment: transforms.Augmentation | None,
) -> types.DatasetSpec:
  sizes = {split: len(names) for split, names in keys.items()}
  crop = augment.crop if augment else None
  return types.DatasetSpec(name, tasks, "image", shape, sizes, notes=notes, crop=crop)


def outline(
  name: str,
  tasks: tuple[types.TaskSpec, ...],
  size: tuple[int, int],
  sizes: Mapping[str, int],
  config: Any,
  switches: Any,
) -> types.DatasetSpec:
  """Returns what is known of a data set before it is on disk.

  Args:
    name: of the data set's module.
    size: height and width of a whole picture.
    sizes: published split -> examples.

  Raises:
    ValueError: a wrong value.
  """
  numbers = {s: tuple(map(str, range(n))) for s, n in sizes.items()}
  keys, note = splits(numbers, config, switches.get("selection"))
  notes = ("numbers of examples as published; nothing was read", note)
  return _spec(name, tasks, (*size, 3), keys, notes, augmentation(tasks, config, switches))


def augmentation(
  tasks: tuple[types.TaskSpec, ...], config: Any, switches: Any
) -> transforms.Augmentation | None:
  """Returns the augmentation of `config.data`; None when it is switched off."""
  scaled = options.switch(switches, "depth", ("scaled", "unscaled")) == "scaled"
  negated = options.switch(switches, "mirror", ("negated", "plain")) == "negated"
  if not config.augment:
    return None
  for field in ("crop", "scales"):
    if len(config[field]) != 2:
      raise ValueError(f"config.data.{field} must be two numbers, but is {tuple(config[field])}.")
  return transforms.Augmentation(
    tasks,
    tuple(config.crop),
    tuple(config.scales),
    bool(config.mirror),
    float(config.jitter),
    scaled,
    # Raw normals of NYU v2 have no component that could be negated.
    negated and switches.get("normals") != "raw",
  )


def splits(
  keys: Mapping[str, Sequence[str]], config: Any, selection: str | None
) -> tuple[dict[str, tuple[str, ...]], str]:
  """Adds a validation split where there is no official one.

  Args:
    keys: of `Found`.
    config: with `validation`, `validation_share` and `split_seed`.
    selection: `config.compat.selection`; `test`, as the authors do, trains on
      all training examples and validates on test.

  Returns:
    Names of every split, each in the given order, and a note about validation.

  Raises:
    ValueError: an unknown way, or a split that would be empty.
  """
  train, test = tuple(keys.get("train", ())), tuple(keys.get("test", ()))
  if not train or not test:
    raise ValueError(f"Training and test need examples; found {len(train)} and {len(test)}.")
  if selection == "test":
    small = tuple(keys.get("small", ()))
    validation, part = small or test, f"test_small: {len(small)} examples of test"
    note = f"validation is {part if small else 'the test split'} (compat.selection)"
  elif keys.get("validation"):
    validation, note = tuple(keys["validation"]), "official validation split"
    if validation == test:
      note = "validation and test are the same examples"
  elif lookup.one_of("config.data.validation", config.validation, ("train", "test")) == "train":
    kept, cut = loader.halves(len(train), config.split_seed, 1 - config.validation_share)
    note = f"validation: {len(cut)} of {len(train)} training examples, seeded"
    train, validation = tuple(train[i] for i in kept), tuple(train[i] for i in cut)
  else:
    cut, kept = loader.halves(len(test), config.split_seed, 0.5)
    note = f"validation: one half of the {len(test)} test examples, seeded"
    validation, test = tuple(test[i] for i in cut), tuple(test[i] for i in kept)
  return {"train": train, "validation": validation, "test": test}, note
