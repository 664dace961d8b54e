"""Writing files and folders whole or not at all: under another name first, and then renamed."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from scalespace.errors import UserError, cause

__all__ = ["REMEDY", "why", "write_directory", "write_file"]

REMEDY = "free space or choose another place"
"""What a user can do where writing fails."""

_FULL = 1 << 20  # bytes


def write_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder and give it its name only when it is whole, in the place of an older one.

    Args:
        path: The final name.
        write: Writes the contents into the folder it is given.

    Raises:
        UserError: If writing fails, as on a full disk; an older folder of that name stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    outdated = path.with_name(f".{path.name}.outdated")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        shutil.rmtree(outdated, ignore_errors=True)
        if path.exists():
            path.rename(outdated)
        partial.rename(path)
        shutil.rmtree(outdated, ignore_errors=True)
    except BaseException as error:
        reason = why(error, path)
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, (OSError, RuntimeError, SafetensorError)):
            raise
        raise UserError(f"cannot write {path} ({reason}); {REMEDY}") from error


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all, in the place of an older one.

    Args:
        path: The final name; its folder is made if absent.
        write: Writes the file it is given, whose name has the ending of the final one.

    Raises:
        UserError: If writing fails, as on a full disk; an older file of that name stays.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except BaseException as error:
        reason = why(error, path)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path} ({reason}); {REMEDY}") from error


def why(error: BaseException, path: Path) -> str:
    """In a few words of one line, why writing below the folder of ``path`` failed."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    # torch and safetensors report a full disk in words of their own; what they have written still fills it here.
    if not isinstance(error, OSError) and path.parent.exists() and shutil.disk_usage(path.parent).free < _FULL:
        return "the disk is full"
    return cause(error)
