"""The first name of `python -m dynashare_jax data`."""

if __name__ == "__main__":
  from dynashare_jax.cli import data

  data.cli()
