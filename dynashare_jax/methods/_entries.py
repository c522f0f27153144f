"""Lists of methods for comparisons, some with settings of their own."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re

from dynashare_jax import lookup
from dynashare_jax import methods
from dynashare_jax.objectives import balancing

SINGLE = "single"
RANDOM = "random_policy"
_LEARNT = ("adashare", "dynashare", "affinity")  # whose routes random ones imitate
_RESERVED = {"method": "--methods", "seed": "--seeds"}
_ONE = {"policy.candidates": "1", "policy.halving": "False"}  # a route each, trained to the end


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table: a method, perhaps with settings of its own.

  Attributes:
    label: name of the row.
    method: a file of `methods`.
    overrides: `name=value` of the configuration.
    balance: the balancer that `--balances` crossed it with.
    number: which of the random routes of `--randoms`, which share a row; from 0, None of none.
  """

  label: str
  method: str
  overrides: tuple[str, ...] = ()
  balance: str = ""
  number: int | None = None

  @property
  def folder(self) -> str:
    """Name of its folders: a seed is added."""
    route = "" if self.number is None else f"-route{self.number}"
    return self.label.replace(" + ", "-") + route


def parse(text: str) -> tuple[Entry, ...]:
  """Reads `--methods`.

  Args:
    text: entries with commas between them: `method`, or `label=method+name=value+name=value` for a
      method with other settings. Commas within brackets belong to a value.

  Raises:
    ValueError: an unknown method, settings without a label, a label that cannot be a folder's name
      or comes twice, or no entry.
  """
  entries = tuple(_entry(part) for part in _split(text) if part)
  if not entries:
    raise ValueError(f"--methods is empty. Name at least one of {', '.join(methods.available())}.")
  labels = [entry.label for entry in entries]
  twice = [label for label in labels if labels.count(label) > 1]
  if twice:
    raise ValueError(
      f"--methods has the label {twice[0]!r} twice. Give each entry a label of"
      " its own, as in other=adashare+policy.candidates=1."
    )
  return entries


def crossed(
  text: str, balances: str, randoms: int, overrides: Sequence[str] = ()
) -> tuple[Entry, ...]:
  """Reads `--methods`, crosses it with `--balances` and spreads it over `--randoms`.

  Args:
    overrides: of all entries.

  Raises:
    ValueError: as `parse`, `cross` and `spread`, or `overrides` set what `--balances` does.
  """
  if balances:
    refuse_balance(overrides)
  return spread(cross(parse(text), balances), randoms)


def cross(entries: Sequence[Entry], text: str) -> tuple[Entry, ...]:
  """Crosses methods with the balancers of `--balances`: one row `method + balancer` each.

  Separate networks have nothing to balance: they stay one row, with fixed weights.

  Args:
    text: names with commas between them; empty leaves the entries as they are.

  Raises:
    ValueError: an unknown balancer, one that comes twice, or an entry that sets one itself.
  """
  names = [name.strip() for name in text.split(",") if name.strip()]
  if not text:
    return tuple(entries)
  if not names or len(set(names)) < len(names):
    raise ValueError(f"--balances must name balancers, each once, but is {text!r}.")
  for name in names:
    lookup.one_of("A name in --balances", name, balancing.available())
  crossed = []
  for entry in entries:
    refuse_balance(entry.overrides)
    for name in [""] if entry.method == SINGLE else names:
      setting = f"balance.name={name or 'fixed'}"
      label = f"{entry.label} + {name}" if name else entry.label
      crossed.append(Entry(label, entry.method, (*entry.overrides, setting), name))
  return tuple(crossed)


def spread(entries: Sequence[Entry], randoms: int) -> tuple[Entry, ...]:
  """Makes of every row of random routes that many, a route each; 0 leaves the entries as they are.

  Raises:
    ValueError: a negative number, one without a row of random routes, or a row that sets what tells
      its routes apart.
  """
  if randoms < 0 or (randoms and not any(e.method == RANDOM for e in entries)):
    raise ValueError(
      f"--randoms={randoms} asks for random routes of every seed: give a number from 1 on, and"
      f" {RANDOM} in --methods."
    )
  found = []
  for entry in entries:
    if not randoms or entry.method != RANDOM:
      found.append(entry)
      continue
    if own := {o.partition("=")[0] for o in entry.overrides} & {"random.number", *_ONE}:
      raise ValueError(f"Leave {min(own)} out of {entry.label}: --randoms sets it.")
    for number in range(randoms):
      settings = (*(f"{name}={value}" for name, value in _ONE.items()), f"random.number={number}")
      overrides = (*entry.overrides, *settings)
      found.append(dataclasses.replace(entry, overrides=overrides, number=number))
  return tuple(found)


def in_turn(entries: Sequence[Entry]) -> list[Entry]:
  """Orders the runs of a seed: `single` first, which others read, and random routes last."""
  return sorted(entries, key=lambda entry: {SINGLE: 0, RANDOM: 2}.get(entry.method, 1))


def made_by(methods: Sequence[str], entry: Entry, entries: Sequence[Entry]) -> Entry | None:
  """Returns the first of `methods` among entries with the same balancer or none, or None."""
  alike = [e for e in entries if e.balance in ("", entry.balance)]
  return next((e for method in methods for e in alike if e.method == method), None)


def imitated(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
  """Returns the entry whose routes those of a random one imitate, or None.

  One that has the random entry's own settings, if there is any.
  """
  if entry.method != RANDOM:
    return None
  of_routes = lambda name: name.startswith("random.") or name in _ONE
  own = {o for o in entry.overrides if not of_routes(o.partition("=")[0])}
  like = [e for e in entries if own <= set(e.overrides)]
  return made_by(_LEARNT, entry, like) or made_by(_LEARNT, entry, entries)


def left_out(names: Sequence[str]) -> tuple[str, ...]:
  """Returns what a table says of the runs of random routes that are not there; nothing if none."""
  if not names:
    return ()
  lost = ", ".join(names)
  return (f"Left out, as too few routes skip as many blocks as the learnt one: {lost}.",)


def refuse_balance(overrides: Sequence[str]) -> None:
  """Raises ValueError where `name=value` are to set what `--balances` does."""
  if any(override.partition("=")[0] == "balance.name" for override in overrides):
    raise ValueError("Leave config.balance.name out: --balances sets it.")


def _split(text: str) -> list[str]:
  """Parts between the commas that are in no bracket."""
  parts, depth = [""], 0
  for letter in text:
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and depth <= 0:
      parts.append("")
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _entry(text: str) -> Entry:
  # A plus sign of a number (1e+3) is followed by no name.
  head, *overrides = re.split(r"\+(?=[A-Za-z_][\w.]*=)", text)
  label, equals, method = head.partition("=")
  method = method if equals else label
  methods.find(method)  # raises if there is none
  if overrides and not equals:
    raise ValueError(
      f"The entry {text!r} of --methods has settings but no label. Write LABEL={text}."
    )
  if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", label):
    raise ValueError(
      f"The label {label!r} in --methods names a folder: use letters, digits,"
      " '_', '-' and '.' only."
    )
  for override in overrides:
    refuse_reserved(override.partition("=")[0])
  return Entry(label, method, tuple(overrides))


def refuse_reserved(name: str) -> None:
  """Raises ValueError for a value that the list and the seeds decide."""
  if name in _RESERVED:
    raise ValueError(f"Leave config.{name} out: {_RESERVED[name]} sets it.")
