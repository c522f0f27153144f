"""Lowering in kept contexts of MLIR: to make one takes longer than to lower a small program."""

from __future__ import annotations

import threading
from typing import Any

from jax._src.interpreters import mlir

USES = 100  # of a context, which keeps all types and attributes that were ever used


def keep() -> None:
  """Lets every thread use a context for many programs; nothing where this jax makes none so."""
  make, kept = getattr(mlir, "make_ir_context", None), threading.local()
  if make is None:
    return

  def lent() -> Any:
    uses, context = getattr(kept, "last", (0, None))
    kept.last = (uses + 1) % USES, context if uses else make()
    return kept.last[1]

  mlir.make_ir_context = lent
