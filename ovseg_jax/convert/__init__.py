"""Foreign checkpoints in, our parameters out, and back: name maps as tables."""
