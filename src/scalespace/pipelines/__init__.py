"""Scheduler and pipeline in the conventions of diffusers, and the import of released checkpoints."""
