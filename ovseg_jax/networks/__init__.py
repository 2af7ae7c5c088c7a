"""Neural networks as pure Flax modules: arrays in, arrays out."""
