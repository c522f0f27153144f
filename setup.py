"""Puts the configurations, which stand at the top, into the package; all else: setup.cfg."""

import setuptools

setuptools.setup(
  packages=[
    *setuptools.find_packages(include=["dynashare_jax", "dynashare_jax.*"]),
    "dynashare_jax.configs",
  ],
  package_dir={"dynashare_jax.configs": "configs"},
)
