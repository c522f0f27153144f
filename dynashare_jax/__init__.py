"""One network for many tasks that learns what to share, and runs only what it needs.

  import dynashare_jax as ds

  data = ds.arrays(frame, {"churn": churn, "spend": spend})
  run = ds.fit(data, method="dynashare")
  print(run)
  run.predict(new_rows)

`arrays`, `fit`, `compare` and `load` train and explain; `gates`, `policy`, `routes`, `balance`,
`delta` and `metrics` are pieces for training loops of one's own. What is listed here is public;
everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
  from dynashare_jax import balance as balance
  from dynashare_jax import delta as delta
  from dynashare_jax import gates as gates
  from dynashare_jax import metrics as metrics
  from dynashare_jax import policy as policy
  from dynashare_jax import routes as routes
  from dynashare_jax.library.data import arrays as arrays
  from dynashare_jax.library.data import Data as Data
  from dynashare_jax.library.fit import compare as compare
  from dynashare_jax.library.fit import Comparison as Comparison
  from dynashare_jax.library.fit import fit as fit
  from dynashare_jax.library.fit import run_config as run_config
  from dynashare_jax.library.run import load as load
  from dynashare_jax.library.run import Run as Run
  from dynashare_jax.library.tasks import binary as binary
  from dynashare_jax.library.tasks import depth as depth
  from dynashare_jax.library.tasks import multiclass as multiclass
  from dynashare_jax.library.tasks import multilabel as multilabel
  from dynashare_jax.library.tasks import normals as normals
  from dynashare_jax.library.tasks import pixels as pixels
  from dynashare_jax.library.tasks import regression as regression
  from dynashare_jax.library.tasks import segmentation as segmentation

_HOMES = {
  "data": ("Data", "arrays"),
  "fit": ("Comparison", "compare", "fit", "run_config"),
  "run": ("Run", "load"),
  "tasks": (
    "binary",
    "depth",
    "multiclass",
    "multilabel",
    "normals",
    "pixels",
    "regression",
    "segmentation",
  ),
}
_PIECES = ("balance", "delta", "gates", "metrics", "policy", "routes")
_PLACES = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
  "Comparison",
  "Data",
  "Run",
  "arrays",
  "balance",
  "binary",
  "compare",
  "delta",
  "depth",
  "fit",
  "gates",
  "load",
  "metrics",
  "multiclass",
  "multilabel",
  "normals",
  "pixels",
  "policy",
  "regression",
  "routes",
  "run_config",
  "segmentation",
]


def __getattr__(name: str) -> Any:
  """Imports what is public when it is first asked for."""
  if name in _PIECES:
    return importlib.import_module(f"{__name__}.{name}")
  if name == "__version__":
    return importlib.import_module(f"{__name__}.version").__version__
  if name not in _PLACES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  found = getattr(importlib.import_module(f"{__name__}.library.{_PLACES[name]}"), name)
  globals()[name] = found
  return found


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
