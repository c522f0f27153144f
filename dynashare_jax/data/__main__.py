"""`python -m dynashare_jax.data check` and `convert`; see `data_command`."""

if __name__ == "__main__":
  from dynashare_jax import data_command

  data_command.cli()
