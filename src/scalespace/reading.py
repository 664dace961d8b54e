"""Reading files, with the two kinds of faults kept apart: what cannot be read is not damaged.

A file that is damaged may be deleted, and a sentence that calls it so says what to put in its place. A file that may not be
read, or that lies on a disk that fails, can be whole, and nobody should be told to delete it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalespace.errors import UserError, cause
from scalespace.memory import memory_ran_out

__all__ = ["check_readable", "parse_json", "path_of", "read_json", "reading", "unreadable"]

_LARGEST_JSON, _DEEPEST_JSON = 64 << 20, 100  # bytes; objects and lists inside each other
_TOO_DEEP = "nested too deeply"


def path_of(name: str) -> Path:
    """The path that a user names, where ~ is the home folder. ``Path.expanduser`` raises where there is no such user."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


@contextmanager
def reading(path: Path, remedy: str, *damage: type[BaseException], fault: str = "is damaged") -> Iterator[None]:
    """Around what reads a file or a folder.

    Args:
        path: The file; or the folder, of which every file is then read.
        remedy: What to do if it is damaged, after "PATH is damaged (...); ".
        damage: Errors that a damaged file raises, besides errors of input and output. It is ``Exception`` where what reads the
            file can raise nearly anything.
        fault: What is wrong with it then, after "PATH ".

    Raises:
        UserError: If the path cannot be read, or what was read is damaged; only the second is said to be damaged.
    """
    # safetensors says of a file that may not be read that there is none, so each is read here first.
    for file in _files(path):
        check_readable(file)
    try:
        yield
    except UserError:
        raise
    except (OSError, *damage) as error:
        if memory_ran_out(error):
            raise
        if unreadable(error):
            raise _unreadable(path, error) from error
        raise UserError(f"{path} {fault} ({cause(error)}); {remedy}") from error


def unreadable(error: BaseException) -> bool:
    """Whether an error says that a file could not be read, which tells nothing of what is in it.

    Decoders raise OSError for damage too, but without a number; where damaged contents lead to a place before the file's
    beginning its number is that of an invalid argument; and a file that is not there is missing.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL)


def check_readable(path: Path) -> None:
    """Refuse what is there and cannot be read.

    Raises:
        UserError: If the path is no file, which also a pipe or a device is not, or may not or cannot be read.
    """
    try:
        # Opening a pipe would wait for somebody to write into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file but a folder, a pipe or a device; give a file")
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file.
        remedy: What to do if it is damaged.

    Raises:
        UserError: If the file cannot be read, or holds no JSON object, or one with a name that comes twice.
    """
    with reading(path, remedy, ValueError):
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size >> 20} MiB are too large for its settings")
        content = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content


def parse_json(text: str) -> Any:
    """What a JSON text says, strictly: no name twice in an object, no NaN or infinity, no nesting without end.

    Raises:
        ValueError: If it is none.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    depth, values = 0, [content]
    while values:
        values = [
            inner
            for value in values
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
        if depth > _DEEPEST_JSON:
            raise ValueError(_TOO_DEEP)
    return content


def _files(path: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise _unreadable(path, error) from error

    if not os.path.isdir(path):  # noqa: PTH112  # A path may raise where its folder may not be searched.
        yield path
        return
    for folder, _, names in os.walk(path, onerror=stop):
        yield from (Path(folder, name) for name in names)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} comes twice")
        content[name] = value
    return content


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} cannot be read ({cause(error)}); check that you may read it and that its disk is sound")
