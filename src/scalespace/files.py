"""Writing files and folders whole or not at all: under another name first, and then renamed.

What is written is what a program without such care would have left. It has the mode that the user's umask gives. A symbolic
link stays, and the file that it leads to is replaced. A write-protected file is refused.

What must outlive a power cut is written as ``durable``: every file and then every folder is flushed to the disk before the
rename, and the folder that has the name after it. Without that, a file system may keep the rename and lose the contents.
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
    "allow",
    "check_absent",
    "check_folder",
    "check_writable",
    "flush",
    "make_directory",
    "recover",
    "remove_directory",
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
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems say that flush files alone
# How the names of folders end that are being written, replaced or removed.
_HALF, _OUTDATED, _REMOVED = ".partial", ".outdated", ".removed"


def write_directory(path: Path, write: Callable[[Path], None], *, durable: bool = False) -> None:
    """Fill a folder and give it its name only when it is whole, in the place of an older one.

    Args:
        path: Name that the folder gets when it is whole.
        write: Writes the contents into the folder it is given.
        durable: Whether it must outlive a power cut once this has returned.

    Raises:
        UserError: If something else than a folder has that name, or writing fails, as on a full disk; an older folder of that
            name stays.
    """
    place = Path(os.path.realpath(path))
    partial, outdated = _beside(place, _HALF), _beside(place, _OUTDATED)
    try:
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write {path}, which is no folder; rename it or choose another place")
        shutil.rmtree(partial, ignore_errors=True)
        make_directory(partial.parent, durable)
        partial.mkdir()
        write(partial)
        mode = partial.stat().st_mode
        for file in filter(Path.is_file, partial.rglob("*")):
            allow(file, mode)
        if durable:
            _flush_tree(partial)
        shutil.rmtree(outdated, ignore_errors=True)
        if place.exists():
            _rename(place, outdated)
        try:
            _rename(partial, place)
        except OSError:
            if outdated.exists():
                _rename(outdated, place)
            raise
        if durable:
            flush(place.parent)
        shutil.rmtree(outdated, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if memory_ran_out(error):
            raise
        raise UserError(f"cannot write {path} ({why(error, path)}); {REMEDY}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a folder so that under its name it is whole or absent, also while it is being removed.

    Raises:
        OSError: If it cannot be removed; it may then be gone from its name.
    """
    removed = _beside(path, _REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    _rename(path, removed)
    shutil.rmtree(removed)


def recover(folder: Path) -> None:
    """Clear the folders that a process that was killed has left half written, replaced or removed in a folder.

    One that was replaced gets its name back if the new one had not taken it yet; all others are deleted. No other process may
    be writing folders there.
    """
    for left in sorted(folder.glob(".*")):
        with contextlib.suppress(OSError):
            if left.name.endswith(_OUTDATED) and not (place := _place_of(left)).exists():
                _rename(left, place)
            elif left.name.endswith((_HALF, _OUTDATED, _REMOVED)) and left.is_dir():
                shutil.rmtree(left)


def write_file(path: Path, write: Callable[[Path], None], *, durable: bool = False) -> None:
    """Write a file whole or not at all, in the place of an older one.

    Args:
        path: The final name; its folder is made if absent.
        write: Writes the file it is given, whose name has the ending of the final one.
        durable: Whether it must outlive a power cut once this has returned.

    Raises:
        UserError: If something else than a file has that name, if it is write-protected, or if writing fails, as on a full
            disk; an older file of that name stays.
    """
    place = Path(os.path.realpath(path))
    check_writable(path)
    # A name of its own, since several processes may write at once, and a short one, since the final one may be long.
    partial = place.with_name(f"{PARTIAL}{secrets.token_hex(4)}{place.suffix}")
    try:
        make_directory(place.parent, durable)
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        write(partial)
        allow(partial, mode)
        if durable:
            flush(partial)
        _rename(partial, place)
        if durable:
            flush(place.parent)
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


def flush(path: Path) -> None:
    """Wait until the disk has a file's contents, or a folder's names.

    Raises:
        OSError: If the disk cannot take them.
    """
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if not folder or error.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(number)


def _flush_tree(folder: Path) -> None:
    """Flush everything in a folder and the folder itself, names after the contents that they stand for."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(inner, name))
        flush(Path(inner))


def make_directory(folder: Path, durable: bool = False) -> None:
    """Make a folder if it is absent, and those that it lies in.

    Args:
        folder: The folder.
        durable: Whether it must outlive a power cut once this has returned.

    Raises:
        OSError: If it cannot be made.
    """
    if folder.exists():
        return
    make_directory(folder.parent, durable)
    folder.mkdir(exist_ok=True)
    if durable:
        flush(folder.parent)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(f".{place.name}{ending}")


def _place_of(outdated: Path) -> Path:
    return outdated.with_name(outdated.name.removeprefix(".").removesuffix(_OUTDATED))


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


def allow(file: Path, mode: int) -> None:
    """Give a file the mode of one that was made by its side without further ado: safetensors lets the owner alone read.

    Args:
        file: The file.
        mode: Mode of the other one, or of a folder.
    """
    wanted = mode & _READ_AND_WRITE
    # Some file systems keep no modes and refuse to set them.
    with contextlib.suppress(PermissionError):
        if stat.S_IMODE(file.stat().st_mode) != wanted:
            file.chmod(wanted)
