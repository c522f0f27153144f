"""The first name of `python -m dynashare_jax predict`."""

if __name__ == "__main__":
  from dynashare_jax.cli import predict

  predict.cli()
