"""Folders of drawn pictures, which know what their pictures are.

``scalespace sample`` and the commands that draw pictures from pictures write into the metadata of every picture what drew it.
The sheets that lie beside them, grid.png and trajectory.png, show the same pictures once more. They are no pictures of the set,
wherever the folder is read: in a training, in a comparison, or packed into a zip or a tar file. A file of such a name beside
other pictures is a picture like any other.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import PurePosixPath
from typing import IO, Protocol

import numpy as np
from PIL import Image

from scalespace.data.sources.source import Source

__all__ = ["DRAWN_BY", "SHEETS", "without_sheets"]

DRAWN_BY = "scalespace"
"""Name of the text in the metadata of a PNG file that tells what drew it."""
SHEETS = frozenset({"grid.png", "trajectory.png"})
"""Names of the sheets beside drawn pictures."""

_FIRST = re.compile(r"000000(-000)?\.png")
_KIND = "of other drawn pictures side by side"


class _Files(Source, Protocol):
    def open(self, index: int) -> IO[bytes]: ...


def without_sheets(source: _Files) -> Source:
    """The source without the sheets that lie beside drawn pictures; what is left out is counted."""
    if not any(name.endswith(tuple(SHEETS)) for name in source.names):
        return source
    places = [PurePosixPath(name) for name in source.names]
    firsts = {place.parent: number for number, place in enumerate(places) if _FIRST.fullmatch(place.name)}
    sheets = [place.name in SHEETS and place.parent in firsts for place in places]
    drawn = {place.parent: _is_drawn(source, firsts[place.parent]) for place in compress(places, sheets)}
    kept = [not (sheet and drawn[place.parent]) for place, sheet in zip(places, sheets, strict=True)]
    if all(kept):
        return source
    source.left_out.files[_KIND] += kept.count(False)
    return _Part(source, kept)


def _is_drawn(source: _Files, number: int) -> bool:
    try:
        with source.open(number) as file, Image.open(file, formats=("PNG",)) as picture:
            return DRAWN_BY in picture.info
    except Exception:  # Damaged pictures are met and counted when they are decoded.
        return False


class _Part:
    """Some pictures of a source.

    Args:
        source: The source.
        kept: Whether each of its pictures is one of them.
    """

    def __init__(self, source: Source, kept: Sequence[bool]):
        self._source, self._kept = source, tuple(kept)
        self._numbers = tuple(compress(range(len(kept)), kept))
        self.names = tuple(compress(source.names, kept))
        self.folders, self.left_out = source.folders, source.left_out

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        return self._source.load(self._numbers[index], image_size)

    def native_size(self, index: int) -> tuple[int, int] | None:
        return self._source.native_size(self._numbers[index])

    def stored_in_grey(self, index: int) -> bool:
        return self._source.stored_in_grey(self._numbers[index])

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return self._source.checksums([self._numbers[index] for index in indices], progress)

    def former_signature(self) -> Iterator[str]:
        return compress(self._source.former_signature(), self._kept)
