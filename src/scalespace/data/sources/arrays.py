"""Pictures in one array of a NumPy archive (.npz), as guided-diffusion (ADM) writes its samples and its reference batches.

arr_0     pictures, uint8 of shape (N, H, W, 3), or (N, H, W, 1) where they are grey
arr_1     numbers of their classes, integers of shape (N,), if they have any
about     JSON: what drew them, if ``scalespace sample`` did; guided-diffusion has no such array

Such files come from strangers and are opened as such (``scalespace.data.sources.headers``). An array that was stored as it is,
which is NumPy's default, is mapped and not read.

Source: Dhariwal and Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, the format of its evaluations.
"""

from __future__ import annotations

import math
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
from scalespace.data.sources.headers import ENDING, Header
from scalespace.data.sources.labelled import class_folders
from scalespace.memory import check_memory
from scalespace.reading import reading

__all__ = ["ABOUT", "LABELS", "PICTURES", "Arrays"]

PICTURES, LABELS, ABOUT = "arr_0", "arr_1", "about"
_NAME = 64  # bytes that the name of a picture takes at least
_REMEDY = f"give one with {PICTURES} as uint8 of shape (N, height, width, 3), or a folder or a zip of pictures"


class Arrays:
    """Pictures of an archive, each in the folder of its class if there are classes.

    Args:
        place: The archive.

    Raises:
        UserError: If it cannot be read, is damaged, or its arrays are no pictures.
    """

    def __init__(self, place: Path):
        self._place = place
        self._pixels: np.ndarray | None
        with reading(place, _REMEDY, Exception, fault="holds no whole array of pictures"):
            with zipfile.ZipFile(place) as archive:
                self._header = Header.of(archive, PICTURES)
                _check_pictures(self._header)
                _check_memory(place, self._header)
                labels = _labels(archive, self._header.shape[0])
                others = set(archive.namelist()) - {name + ENDING for name in (PICTURES, LABELS, ABOUT)}
            # What was compressed is read now, so that what is wrong with it is seen now.
            self._pixels = None if self._header.start is not None else self._header.array(place)
        self.left_out = LeftOut()
        if others:
            self.left_out.files[ENDING] = len(others)
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
            self._pixels = self._header.array(self._place)
        return self._pixels[self._numbers[index]]


def _check_pictures(header: Header) -> None:
    if header.kind != np.uint8 or len(header.shape) != 4 or header.shape[-1] not in (1, 3) or 0 in header.shape[1:]:
        raise ValueError(f"{PICTURES} is {header.kind} of shape {header.shape}")


def _check_memory(place: Path, header: Header) -> None:
    """Refuse what a small file can be unpacked to, as gigabytes of zeros can be packed in kilobytes."""
    count, *picture = header.shape
    unpacked = 0 if header.start is not None else math.prod(picture)
    check_memory(
        f"reading {place}",
        {"its pictures": count * (unpacked + _NAME)},
        "save it by numpy.savez, which does not compress it, or in parts",
    )


def _labels(archive: zipfile.ZipFile, count: int) -> np.ndarray | None:
    if LABELS + ENDING not in archive.namelist():
        return None
    header = Header.of(archive, LABELS)
    if header.shape != (count,) or not np.issubdtype(header.kind, np.integer):
        raise ValueError(f"{LABELS} is {header.kind} of shape {header.shape} for {count} pictures")
    with archive.open(LABELS + ENDING) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
