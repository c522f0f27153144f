"""The first name of `python -m dynashare_jax benchmark`."""

if __name__ == "__main__":
  from dynashare_jax.cli import benchmark

  benchmark.cli()
