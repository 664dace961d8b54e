"""Pictures in one array of a NumPy archive (.npz), as guided-diffusion (ADM) writes its samples and its reference batches.

arr_0     pictures, uint8 of shape (N, H, W, 3), or (N, H, W, 1) where they are grey
arr_1     numbers of their classes, integers of shape (N,), if they have any

Such files come from strangers, so nothing in them is unpickled, and what a header says of its array is checked against what
there is before any memory is taken. An array that was stored as it is, which is NumPy's default, is mapped and not read.

Source: Dhariwal and Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, the format of its evaluations.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalespace.data.left_out import LeftOut
from scalespace.data.sources.checksums import checksum
from scalespace.data.sources.decoding import cropped
from scalespace.data.sources.labelled import class_folders
from scalespace.errors import UserError, cause
from scalespace.memory import check_memory, memory_ran_out
from scalespace.reading import check_readable, unreadable

__all__ = ["LABELS", "PICTURES", "Arrays", "arrays_of"]

PICTURES, LABELS = "arr_0", "arr_1"
_ENDING = ".npy"
_NAME = 64  # bytes that the name of a picture takes at least
_LOCAL_HEADER = struct.Struct("<26xHH")  # of an entry of a zip, before its name and its extra field


def arrays_of(place: Path) -> tuple[str, ...]:
    """Names of the arrays in an archive; none where there is no such file, or it cannot be read."""
    try:
        with zipfile.ZipFile(place) as archive:
            return tuple(name.removesuffix(_ENDING) for name in archive.namelist() if name.endswith(_ENDING))
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        return ()


class Arrays:
    """Pictures of an archive, each in the folder of its class if there are classes.

    Args:
        place: The archive.

    Raises:
        UserError: If it cannot be read, is damaged, or its arrays are no pictures.
    """

    def __init__(self, place: Path):
        check_readable(place)
        self._place = place
        self._pixels: np.ndarray | None
        try:
            with zipfile.ZipFile(place) as archive:
                self._header = _Header.of(archive, PICTURES)
                _check_pictures(self._header)
                _check_memory(place, self._header)
                labels = _labels(archive, self._header.shape[0])
                others = set(archive.namelist()) - {PICTURES + _ENDING, LABELS + _ENDING}
            # What was compressed is read now, so that what is wrong with it is seen now.
            self._pixels = None if self._header.start is not None else self._header.pixels(place)
        except UserError:
            raise
        except Exception as error:  # A damaged file can raise nearly anything.
            if memory_ran_out(error) or unreadable(error):
                raise
            raise UserError(
                f"{place} holds no whole array of pictures ({cause(error)}); give one with {PICTURES} as uint8 of shape "
                "(N, height, width, 3), or a folder or a zip of pictures"
            ) from error
        self.left_out = LeftOut()
        if others:
            self.left_out.files[_ENDING] = len(others)
        count = self._header.shape[0]
        names = [f"{number:0{len(str(max(0, count - 1)))}}" for number in range(count)]
        self.folders: tuple[str, ...] = ()
        if labels is not None:
            folders = class_folders([str(label) for label in np.unique(labels)])
            self.folders = tuple(sorted(folders.values()))
            names = [f"{folders[str(label)]}/{name}" for label, name in zip(labels, names, strict=True)]
        self._numbers = tuple(sorted(range(count), key=names.__getitem__))
        self.names = tuple(names[number] for number in self._numbers)

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        pixels = self._picture(index)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return cropped(picture.convert("RGB"), image_size)

    def native_size(self, index: int) -> tuple[int, int] | None:
        _, height, width, _ = self._header.shape
        return height, width

    def stored_in_grey(self, index: int) -> bool:
        return self._header.shape[-1] == 1

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        size = "x".join(map(str, self._header.shape[1:]))
        pictures = (np.ascontiguousarray(self._picture(index)) for index in indices)
        return [f"{size} {checksum(pixels.nbytes, zlib.crc32(pixels.data))}" for pixels in pictures]

    def former_signature(self) -> Iterator[str]:
        # Earlier versions did not read such files.
        return iter(self.names)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file for itself.
        return self.__dict__ | {"_pixels": None}

    def _picture(self, index: int) -> np.ndarray:
        if self._pixels is None:
            self._pixels = self._header.pixels(self._place)
        return self._pixels[self._numbers[index]]


class _Header:
    """What an archive says of one of its arrays, checked against what there is.

    Raises:
        KeyError, ValueError or an error of zipfile: If there is no such array, or it is cut short.
    """

    def __init__(self, shape: tuple[int, ...], transposed: bool, kind: np.dtype, start: int | None):
        self.shape, self.transposed, self.kind, self.start = shape, transposed, kind, start

    @classmethod
    def of(cls, archive: zipfile.ZipFile, name: str) -> _Header:
        entry = archive.getinfo(name + _ENDING)
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, transposed, kind = read(member)
            before = member.tell()
        if kind.hasobject:
            raise ValueError(f"{name} holds pickled objects, which are programs")
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize > entry.file_size - before:
            raise ValueError(f"{name} is cut short")
        start = None
        if entry.compress_type == zipfile.ZIP_STORED and archive.fp is not None:
            archive.fp.seek(entry.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(archive.fp.read(_LOCAL_HEADER.size))
            start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + before
        return cls(shape, transposed, kind, start)

    def pixels(self, place: Path) -> np.ndarray:
        """The array: mapped where it was stored as it is, and read where it was compressed."""
        if self.start is not None:
            order = "F" if self.transposed else "C"
            return np.memmap(place, self.kind, "r", self.start, self.shape, order)
        with np.load(place, allow_pickle=False) as archive:
            return archive[PICTURES]


def _check_pictures(header: _Header) -> None:
    if header.kind != np.uint8 or len(header.shape) != 4 or header.shape[-1] not in (1, 3) or 0 in header.shape[1:]:
        raise ValueError(f"{PICTURES} is {header.kind} of shape {header.shape}")


def _check_memory(place: Path, header: _Header) -> None:
    """Refuse what a small file can be unpacked to, as gigabytes of zeros can be packed in kilobytes."""
    count, *picture = header.shape
    unpacked = 0 if header.start is not None else math.prod(picture)
    check_memory(
        f"reading {place}",
        {"its pictures": count * (unpacked + _NAME)},
        "save it by numpy.savez, which does not compress it, or in parts",
    )


def _labels(archive: zipfile.ZipFile, count: int) -> np.ndarray | None:
    if LABELS + _ENDING not in archive.namelist():
        return None
    header = _Header.of(archive, LABELS)
    if header.shape != (count,) or not np.issubdtype(header.kind, np.integer):
        raise ValueError(f"{LABELS} is {header.kind} of shape {header.shape} for {count} pictures")
    with archive.open(LABELS + _ENDING) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
