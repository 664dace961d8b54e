"""Sampling with exact denoisers: the errors of process, solver and grid in closed form."""
