"""Comparison with recorded reference arrays: ``python -m ovseg_jax.parity FILE.npz …``."""
