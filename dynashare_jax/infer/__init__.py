"""Runs trained models; `load` runs an exported one with jax and NumPy alone."""

from dynashare_jax.infer.artefact import Artefact
from dynashare_jax.infer.artefact import load

__all__ = ["Artefact", "load"]
