"""Mesh and sharding, parameter groups, optimizers, schedules, checkpoints and logs."""
