"""Writing files and folders whole or not at all: under another name first, and then renamed.

What is written is what a program without such care would have left. It has the mode that the user's umask gives. A symbolic
link stays, and the file that it leads to is replaced. A write-protected file is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from safetensors import SafetensorError

from scalespace.errors import UserError, cause
from scalespace.memory import memory_ran_out

__all__ = [
    "PARTIAL",
    "REMEDY",
    "Output",
    "OutputFile",
    "OutputFolder",
    "OutputPath",
    "check_absent",
    "check_folder",
    "check_writable",
    "why",
    "write_directory",
    "write_file",
]

REMEDY = "free space or choose another place"
"""What a user can do where writing fails."""

PARTIAL = ".partial-"
"""How the names of files that are being written begin."""

_FULL = 1 << 20  # bytes
_READ_AND_WRITE = 0o666


def write_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder and give it its name only when it is whole, in the place of an older one.

    Args:
        path: Name that the folder gets when it is whole.
        write: Writes the contents into the folder it is given.

    Raises:
        UserError: If something else than a folder has that name, or writing fails, as on a full disk; an older folder of that
            name stays.
    """
    place = Path(os.path.realpath(path))
    partial = place.with_name(f".{place.name}.partial")
    outdated = place.with_name(f".{place.name}.outdated")
    try:
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write {path}, which is no folder; rename it or choose another place")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        mode = partial.stat().st_mode
        for file in filter(Path.is_file, partial.rglob("*")):
            _allow(file, mode)
        shutil.rmtree(outdated, ignore_errors=True)
        if place.exists():
            place.rename(outdated)
        try:
            partial.rename(place)
        except OSError:
            if outdated.exists():
                outdated.rename(place)
            raise
        shutil.rmtree(outdated, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if memory_ran_out(error):
            raise
        raise UserError(f"cannot write {path} ({why(error, path)}); {REMEDY}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all, in the place of an older one.

    Args:
        path: The final name; its folder is made if absent.
        write: Writes the file it is given, whose name has the ending of the final one.

    Raises:
        UserError: If something else than a file has that name, if it is write-protected, or if writing fails, as on a full
            disk; an older file of that name stays.
    """
    place = Path(os.path.realpath(path))
    check_writable(path)
    # A name of its own, since several processes may write at once, and a short one, since the final one may be long.
    partial = place.with_name(f"{PARTIAL}{secrets.token_hex(4)}{place.suffix}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        write(partial)
        _allow(partial, mode)
        partial.replace(place)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path} ({why(error, path)}); {REMEDY}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work whose result it will hold. Nothing is made.

    Args:
        path: The final name, as for ``write_file``.

    Raises:
        UserError: If something else than a file has that name, if it is write-protected, if its folder can neither be written
            to nor made, or if the system refuses the name.
    """
    with _writing(path) as place:
        _check_replaceable(path, place)
        _check_room(place.parent)


def check_folder(path: Path) -> None:
    """Refuse a folder that can neither be written to nor made. Nothing is made.

    Raises:
        UserError: If something else than a folder has that name, or nothing can be written to or made there.
    """
    with _writing(path) as place:
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write {path}, which is no folder; rename it or choose another place")
        _check_room(place)


def check_absent(path: Path) -> None:
    """Refuse the name of a new file or folder that is there already, or that cannot be made. Nothing is made.

    Raises:
        UserError: If so.
    """
    with _writing(path) as place:
        if os.path.lexists(path):
            raise UserError(f"{path} is there already; give another name, or remove it first")
        _check_room(place.parent)


@dataclass(frozen=True)
class Output:
    """Mark of an option that names what a command writes, which is checked before the work is begun whose result it holds.

    Args:
        check: Raises a ``UserError`` if a name cannot be written.
    """

    check: Callable[[Path], None]


OutputFile = Annotated[str, Output(check_writable)]
"""Type of an option that names a file, in the place of an older one."""
OutputFolder = Annotated[str, Output(check_folder)]
"""Type of an option that names a folder, new or old."""
OutputPath = Annotated[str, Output(check_absent)]
"""Type of an option that names a new file or folder."""


def why(error: BaseException, path: Path) -> str:
    """Say in a few words of one line why writing below the folder of ``path`` failed."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    # torch and safetensors report a full disk in words of their own; what they have written still fills it here.
    if not isinstance(error, OSError) and path.parent.exists() and shutil.disk_usage(path.parent).free < _FULL:
        return "the disk is full"
    return cause(error)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        yield Path(os.path.realpath(path))
    except OSError as error:
        raise UserError(f"cannot write {path} ({why(error, path)}); {REMEDY}") from error


def _check_room(place: Path) -> None:
    """Refuse to write into a folder, or into what it would be made in, if that is no folder or may not be written to."""
    folder = next(path for path in (place, *place.parents) if path.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _check_replaceable(path: Path, place: Path) -> None:
    try:
        kind = place.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise UserError(f"cannot write {path}, which is a folder; name a file")
    if not stat.S_ISREG(kind):
        raise UserError(f"cannot write {path}, which is a device or a pipe and no file; name a file")
    # Renaming would replace it nevertheless, since for that the folder alone is asked.
    if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"cannot write {path}, which is write-protected; allow writing to it or choose another name")


def _allow(file: Path, mode: int) -> None:
    """Give a file the mode of one that was made by its side without further ado: safetensors lets the owner alone read."""
    wanted = mode & _READ_AND_WRITE
    # Some file systems keep no modes and refuse to set them.
    with contextlib.suppress(PermissionError):
        if stat.S_IMODE(file.stat().st_mode) != wanted:
            file.chmod(wanted)
