"""A lock on the folder of a run, so that two processes never write into it at once.

It is the operating system's (flock): it goes with its process, however that ends, and nothing has to be cleared by hand.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalespace.errors import UserError, cause
from scalespace.files import REMEDY, make_directory, why

__all__ = ["LOCK", "check_unlocked", "locked"]

LOCK = ".lock"
"""Name of the file in the folder; it tells who has the lock, or had it last."""

_BUSY = (errno.EACCES, errno.EAGAIN)


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another process has locked; nothing is written.

    Raises:
        UserError: If one has; it tells which.
    """
    try:
        number = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        # Without a file, or without the right to write it, that is said where it matters.
        return
    try:
        _take(number, folder)
    finally:
        os.close(number)


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder inside the block. The folder is made if absent.

    Args:
        folder: The folder.
        say: Takes a line for the user where the file system has no locks.

    Raises:
        UserError: If another process holds it, which may be on another machine, or the folder cannot be written.
    """
    try:
        make_directory(folder, durable=True)
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {folder / LOCK} ({why(error, folder / LOCK)}); {REMEDY}") from error
    try:
        if not _take(number, folder):
            say(f"{folder} cannot be locked on this file system; start no second run in it")
        # Only words for whoever is refused: without them, as on a full disk, the lock is the same.
        with contextlib.suppress(OSError):
            os.ftruncate(number, 0)
            os.write(number, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(number)


def _take(number: int, folder: Path) -> bool:
    """Take the lock of an open file; False where there are no locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            return False
        holder = os.pread(number, 200, 0).decode(errors="replace").strip() or cause(error)
        raise UserError(
            f"{folder} is in use by another run ({holder}); wait until it ends, stop it, or give another --output-dir"
        ) from error
    return True
