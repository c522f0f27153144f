"""The first name of `python -m dynashare_jax cost`."""

if __name__ == "__main__":
  from dynashare_jax.cli import cost

  cost.cli()
