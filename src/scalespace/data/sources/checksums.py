"""Checksums of the contents of files, each file read once.

The checksum is the size with the CRC-32, which a zip has of its entries anyway, so that a folder and a zip of the same files
have the same ones. Contents that change by chance keep theirs with a probability of 2^-32; it is no guard against forgery.

Checksums are kept in the user's cache folder, each under the name, size, inode and both times of its file (modification and
change). No ordinary program can write a file and keep its time of change, so a file whose contents differ is read again, also
where a copy has the old name, size and time of modification. Checksums of files that changed in the last two seconds are not
kept, since a clock that ticks slowly could hide a second change.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scalespace.data.user_cache import keep, kept_file
from scalespace.reports.progress import progress_bar

__all__ = ["checksum", "file_checksums", "file_states", "packed_checksums"]

_THREADS = 4  # reading waits for the disk more than it computes
_CHUNK = 64  # files a task
_PIECE = 1 << 20  # bytes read at once
_SETTLED = 2 * 10**9  # nanoseconds after a change
_UNREADABLE = "unreadable"


def checksum(size: int, crc: int) -> str:
    """The word for contents of that size in bytes and that CRC-32."""
    return f"{size} {crc:08x}"


def file_checksums(root: Path, names: Sequence[str], progress: bool = True) -> list[str]:
    """Checksums of files; "unreadable" for one that cannot be read.

    Args:
        root: Folder with the files.
        names: Paths of the files inside it.
        progress: Whether reading that takes over two seconds shows a bar on stderr.
    """
    # A folder that has moved is read again; a cache file for each folder keeps them small.
    place = kept_file("checksums", os.path.realpath(root), ".json")
    known = _load(place)
    now = time.time_ns()
    states = [_state(f"{root}/{name}") for name in names]
    before = [known.get(name, ("", "")) for name in names]
    unknown = [number for number, state in enumerate(states) if before[number][0] != _written(state)]
    words = [word for _, word in before]
    bar = progress_bar(len(unknown), "reading contents", "files", progress)

    def read(start: int) -> None:
        chunk = unknown[start : start + _CHUNK]
        for number in chunk:
            words[number] = _read(root / names[number])
        bar.update(len(chunk))

    with bar, ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(read, range(0, len(unknown), _CHUNK)):
            pass
    settled = {
        names[number]: [_written(states[number]), words[number]]
        for number in unknown
        if words[number] != _UNREADABLE and max(states[number][:2], default=now) < now - _SETTLED
    }
    if settled:
        # Only a part of a folder may have been asked for, so the rest stays.
        _save(place, known | settled)
    return words


def packed_checksums(
    files: Sequence[Path], what: str, numbers: Sequence[int], read: Callable[[int], bytes], progress: bool = True
) -> list[str]:
    """Checksums of pictures that lie inside of larger files, kept until one of these changes.

    Args:
        files: The larger files. Nothing is kept where there are none, since all is in memory.
        what: What is read of them, if not all is.
        numbers: Which of the pictures, 0 or more.
        read: Gives the contents of a picture.
        progress: Whether reading that takes over two seconds shows a bar on stderr.

    Returns:
        The checksums; "unreadable" for a picture that cannot be read.
    """
    place = kept_file("checksums", "\n".join([what, *map(os.path.realpath, files)]), ".json") if files else None
    states = [_state(str(file)) for file in files]
    written, known = [_written(state) for state in states], _load(place)
    words = known.get("words", []) if known.get("states") == written else []
    words += [""] * (max(numbers, default=-1) + 1 - len(words))
    unknown = [number for number in numbers if not words[number]]
    bar = progress_bar(len(unknown), "reading contents", "pictures", progress)

    def make(start: int) -> None:
        chunk = unknown[start : start + _CHUNK]
        for number in chunk:
            try:
                content = read(number)
                words[number] = checksum(len(content), zlib.crc32(content))
            except OSError:
                words[number] = _UNREADABLE
        bar.update(len(chunk))

    now = time.time_ns()
    with bar, ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(make, range(0, len(unknown), _CHUNK)):
            pass
    found = [words[number] for number in numbers]
    if unknown and all(max(state[:2], default=now) < now - _SETTLED for state in states):
        _save(place, {"states": written, "words": ["" if word == _UNREADABLE else word for word in words]})
    return found


def file_states(files: Sequence[Path]) -> list[str]:
    """A word for each file that changes with its contents."""
    return [_written(_state(str(file))) for file in files]


def _state(path: str) -> tuple[int, ...]:
    """What changes with the contents of a file, times first; empty where it is gone."""
    try:
        # A Path for each of many files would take longer than looking at them.
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _written(state: tuple[int, ...]) -> str:
    return " ".join(map(str, state)) or "gone"


def _read(path: Path) -> str:
    size = crc = 0
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                size, crc = size + len(piece), zlib.crc32(piece, crc)
    except OSError:
        return _UNREADABLE
    return checksum(size, crc)


def _load(place: Path | None) -> dict[str, list[str]]:
    """Read the states and checksums of files that were kept, by name."""
    if place is None:
        return {}
    try:
        digest, _, content = place.read_bytes().partition(b"\n")
    except OSError:
        return {}
    return json.loads(content) if hashlib.sha256(content).hexdigest().encode() == digest else {}


def _save(place: Path | None, words: dict[str, list[str]]) -> None:
    content = json.dumps(words, separators=(",", ":")).encode()
    keep(place, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
