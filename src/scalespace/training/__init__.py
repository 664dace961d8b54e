"""Configurations, time sampling, the training loop and its checkpoints."""
