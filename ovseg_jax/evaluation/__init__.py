"""What an evaluation counts and reads off the counts; `ovseg_jax.evaluate` puts it together."""
