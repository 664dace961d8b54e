"""The commands, one file each: what the command takes, and what it does."""

__all__ = ["module_of"]

_TASKS = frozenset({"upscale", "vary", "inpaint", "restore", "interpolate"})
"""The commands that lie in the folder ``tasks``."""


def module_of(command: str) -> str:
    """The module of a command."""
    return f"scalespace.commands.{'tasks.' if command in _TASKS else ''}{command}"
