"""NumPy's archives of arrays (.npz), looked into before anything of them is read.

Such files come from strangers. Nothing in them is unpickled, and what a header says of its array is checked against what there
is before any memory is taken.
"""

from __future__ import annotations

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["ENDING", "Header", "arrays_of"]

ENDING = ".npy"
"""How the entries of an archive end, after the names of their arrays."""

_LOCAL_HEADER = struct.Struct("<26xHH")  # of an entry of a zip, before its name and its extra field


def arrays_of(place: Path) -> tuple[str, ...]:
    """Names of the arrays in an archive; none where there is no such file, or it cannot be read."""
    try:
        with zipfile.ZipFile(place) as archive:
            return tuple(name.removesuffix(ENDING) for name in archive.namelist() if name.endswith(ENDING))
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        return ()


@dataclass(frozen=True)
class Header:
    """What an archive says of one of its arrays, checked against what there is.

    Args:
        name: Name of the array.
        shape: Its shape.
        transposed: Whether it is stored column by column.
        kind: Its dtype.
        start: Where its first byte is in the file; None where it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    kind: np.dtype
    start: int | None

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.kind.itemsize

    @classmethod
    def of(cls, archive: zipfile.ZipFile, name: str) -> Header:
        """The header of an array.

        Raises:
            KeyError, ValueError or an error of zipfile: If there is no such array, it holds pickles, or it is cut short.
        """
        entry = archive.getinfo(name + ENDING)
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, transposed, kind = read(member)
            before = member.tell()
        if kind.hasobject:
            raise ValueError(f"{name} holds pickled objects, which are programs")
        start = None
        if entry.compress_type == zipfile.ZIP_STORED and archive.fp is not None:
            archive.fp.seek(entry.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(archive.fp.read(_LOCAL_HEADER.size))
            start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + before
        header = cls(name, shape, transposed, kind, start)
        if min(shape, default=0) < 0 or header.size > entry.file_size - before:
            raise ValueError(f"{name} is cut short")
        return header

    def array(self, place: Path) -> np.ndarray:
        """The array: mapped where it was stored as it is, which is NumPy's default, and read where it was compressed.

        Args:
            place: The archive.
        """
        if self.start is not None:
            order = "F" if self.transposed else "C"
            return np.memmap(place, self.kind, "r", self.start, self.shape, order)
        with np.load(place, allow_pickle=False) as archive:
            return archive[self.name]
