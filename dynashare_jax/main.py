"""Trains a run: `python -m dynashare_jax.main --config=FILE`, or `run(config, workdir)`."""

from dynashare_jax import runs
from dynashare_jax.cli import train

cli = train.cli
run = runs.run

if __name__ == "__main__":
  cli()
