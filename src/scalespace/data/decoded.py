"""Decoded pictures in one file of the user's cache folder, mapped into memory and shared by all processes that read it.

The file is named by all that its contents depend on, and is a safetensors file with

    pixels      (N, C, H, W), uint8
    flags       (N,), uint8: what there is to be told of each picture
    checksums   (N,), int64: the CRC-32 of each picture's pixels
    seal        (32,), uint8: SHA-256 of flags and checksums

It is written whole or not at all. A file of other shapes or with a wrong seal is made again. The pixels are checked when
they are read for the first time: to check all of them at the start would take longer than a start should.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalespace.data.left_out import counted
from scalespace.data.reader import Reader
from scalespace.data.sources.decoding import decoder
from scalespace.data.user_cache import kept_file, make_room
from scalespace.errors import UserError, cause
from scalespace.files import make_directory, write_file
from scalespace.memory import check_memory

__all__ = ["DecodedPictures", "all_decoded", "read_decoded"]

_NAMES = ("pixels", "flags", "checksums", "seal")
_TYPES = {torch.uint8: "U8", torch.int64: "I64"}


# Part of a file's name: to be changed with anything that changes its contents.
_METHOD = "1"


class _Unkept(Exception):  # noqa: N818 - it is no error
    """Raised where pictures that are decoded may not be kept for the next start; its text says why."""


@dataclass
class DecodedPictures:
    """All pictures of a data set, decoded.

    Args:
        pixels: Shape (N, C, H, W), uint8.
        flags: What there is to be told of each picture, shape (N,), uint8.
        checksums: CRC-32 of each picture's pixels, shape (N,); None where the pixels are in this process's own memory.
        place: The file that the pixels are mapped from.
        content: Fingerprint of the pictures that were decoded; None where it was not compared with them.
    """

    pixels: Tensor
    flags: np.ndarray
    checksums: np.ndarray | None = None
    place: Path | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        self._unchecked = np.full(len(self.flags), self.checksums is not None)

    def take(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """Some of the pictures.

        Args:
            index: Numbers 0..N - 1, shape (B,), int64.

        Returns:
            Shape (B, C, H, W), uint8, and the rows of it that are damaged. The file is removed if there are any.
        """
        images = self.pixels[index]
        damaged: list[int] = []
        if self.checksums is not None and self._unchecked.any():
            numbers = index.numpy()
            for row in np.flatnonzero(self._unchecked[numbers]).tolist():
                if zlib.crc32(images[row].numpy().tobytes()) == self.checksums[numbers[row]]:
                    self._unchecked[numbers[row]] = False
                else:
                    damaged.append(row)
        if damaged and self.place is not None:
            with contextlib.suppress(OSError):
                self.place.unlink(missing_ok=True)
        return images, damaged


def read_decoded(place: Path, shape: tuple[int, ...]) -> DecodedPictures | None:
    """Map the pictures of a file that was kept.

    Args:
        place: Path of the file.
        shape: (N, C, H, W) that its pixels must have.

    Returns:
        The pictures, or None if there is no such file or it is damaged.
    """
    try:
        if not place.is_file():
            return None
        with safe_open(place, framework="pt") as file:
            pixels, flags, checksums, seal = (file.get_tensor(name) for name in _NAMES)
    except (OSError, ValueError, RuntimeError, SafetensorError):
        return None
    flags, checksums = flags.numpy().copy(), checksums.numpy().copy()
    fits = (tuple(pixels.shape), pixels.dtype) == (shape, torch.uint8) and len(flags) == len(checksums) == shape[0]
    if not fits or seal.numpy().tobytes() != _seal(flags, checksums):
        return None
    with contextlib.suppress(OSError):
        place.touch()
    return DecodedPictures(pixels, flags, checksums, place)


def all_decoded(reader: Reader, largest: int, say: Callable[[str], None]) -> DecodedPictures | None:
    """All pictures, decoded before or now.

    Args:
        reader: The pictures; it knows afterwards what was met in all of them.
        largest: Bytes that all files together may take; those that were not used for longest make room.
        say: Takes a line for the user where pictures cannot be kept, or another process has to be waited for.

    Returns:
        The pictures. None if they fit neither on the disk nor into memory.

    Raises:
        UserError: If more than 1 % of the pictures are bad.
    """
    content = reader.fingerprint()
    place = kept_file("pictures", f"{content}; {decoder()}; {_METHOD}", ".safetensors")
    if place is not None:
        kept = _recalled(place, reader)
        if kept is None:
            with _alone_with(place, say):
                # Another process may have made it by now.
                kept = _recalled(place, reader) or _keep(place, reader, content, largest)
        if isinstance(kept, DecodedPictures):
            return replace(kept, content=content)
        say(f"the decoded pictures are not kept for the next start: {kept}")
    return _in_memory(reader, say)


def _recalled(place: Path, reader: Reader) -> DecodedPictures | None:
    kept = read_decoded(place, reader.shape)
    return kept if kept is not None and reader.recall(kept.flags) else None


def _keep(place: Path, reader: Reader, content: str, largest: int) -> DecodedPictures | str:
    """Decode pictures into a file; the reason as a sentence where they cannot be kept."""
    refused: UserError | None = None

    def write(path: Path) -> None:
        nonlocal refused
        try:
            with path.open("r+b") as file:
                _write(file, reader)
        except UserError as error:
            refused = error
            raise
        unread = next((bad for bad in reader.bad if not bad.damaged), None)
        if unread is not None:
            raise _Unkept(f"{unread.name} could not be read ({unread.reason})")
        if reader.fingerprint() != content:
            raise _Unkept(f"{reader.path} changed while it was read")

    try:
        make_room(place, largest - math.prod(reader.shape))
        write_file(place, write)
    except _Unkept as why:
        return cause(why)
    except UserError as error:
        if refused is not None:
            raise
        return str(error)
    return read_decoded(place, reader.shape) or f"{place} cannot be read again; check its disk"


def _in_memory(reader: Reader, say: Callable[[str], None]) -> DecodedPictures | None:
    size = {"the decoded pictures": math.prod(reader.shape)}
    try:
        check_memory(
            f"keeping {counted(reader.shape[0], 'picture')} of {reader.path}", size, "each is decoded on every use"
        )
    except UserError as error:
        say(str(error))
        return None
    pixels, seen = torch.empty(reader.shape, dtype=torch.uint8), 0
    for part, _ in reader.all():
        pixels[seen : seen + len(part)] = torch.from_numpy(part)
        seen += len(part)
    return DecodedPictures(pixels, reader.observed.flags)


def _write(file: BinaryIO, reader: Reader) -> None:
    shape = reader.shape
    sizes = {"pixels": (torch.uint8, shape), "flags": (torch.uint8, shape[:1])}
    sizes |= {"checksums": (torch.int64, shape[:1]), "seal": (torch.uint8, (32,))}
    header, end = {}, 0
    for name, (dtype, size) in sizes.items():
        begin, end = end, end + math.prod(size) * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": size, "data_offsets": (begin, end)}
    words = json.dumps(header).encode()
    # Pixels begin at a multiple of 64 bytes, as safetensors allows by spaces.
    words += b" " * (-(8 + len(words)) % 64)
    if hasattr(os, "posix_fallocate"):
        # A full disk is met before anything is decoded.
        os.posix_fallocate(file.fileno(), 0, 8 + len(words) + end)
    file.write(len(words).to_bytes(8, "little") + words)
    flags, checksums = [], []
    for pixels, told in reader.all():
        file.write(pixels.data)
        flags.append(told)
        checksums += [zlib.crc32(picture.tobytes()) for picture in pixels]
    tables = np.concatenate(flags), np.array(checksums, np.int64)
    file.write(b"".join(table.tobytes() for table in tables) + _seal(*tables))


def _seal(flags: np.ndarray, checksums: np.ndarray) -> bytes:
    return hashlib.sha256(flags.tobytes() + checksums.tobytes()).digest()


@contextmanager
def _alone_with(place: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block no other process makes this file, where the file system has locks.

    Args:
        place: Path of the file.
        say: Takes a line for the user where another process has to be waited for.
    """
    lock = place.with_suffix(".lock")
    try:
        make_directory(lock.parent)
        number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        # That nothing can be written is told where the pictures are.
        yield
        return
    try:
        _wait(number, say)
        yield
    finally:
        # Who waits for it meanwhile finds the file made.
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        os.close(number)


def _wait(number: int, say: Callable[[str], None]) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    with contextlib.suppress(OSError):
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process, which decodes the same pictures")
            fcntl.flock(number, fcntl.LOCK_EX)
