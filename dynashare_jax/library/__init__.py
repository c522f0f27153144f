"""The Python door: arrays in, trained and explained networks out; see `dynashare_jax`."""
