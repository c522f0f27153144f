"""The command that trains a run: `python -m dynashare_jax.main --config=FILE`."""

from dynashare_jax.cli import train

cli = train.cli

if __name__ == "__main__":
  cli()
