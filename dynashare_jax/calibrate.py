"""The first name of `python -m dynashare_jax calibrate`."""

if __name__ == "__main__":
  from dynashare_jax.cli import calibrate

  calibrate.cli()
