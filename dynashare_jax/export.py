"""The first name of `python -m dynashare_jax export`."""

if __name__ == "__main__":
  from dynashare_jax.cli import export

  export.cli()
