"""All values that a run has, with their defaults; other configs override them.

Not a run of its own. Steps are optimiser steps, never epochs. The values and what
they mean stand in dynashare_jax/defaults.py.
"""

import ml_collections

from dynashare_jax import defaults


def get_config() -> ml_collections.ConfigDict:
  return defaults.get_config()
