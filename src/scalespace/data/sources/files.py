"""Pictures that are files somewhere: in a folder, a zip, or whatever else gives their bytes."""

from abc import ABC, abstractmethod
from typing import IO

import numpy as np
from PIL import Image

from scalespace.data.left_out import LeftOut
from scalespace.data.sources.decoding import FORMATS, decode_image, stored_size

__all__ = ["LARGEST_FILE", "Files"]

LARGEST_FILE = 256 << 20
"""Bytes that a picture may have at most before it is decoded."""


class Files(ABC):
    """Pictures that are files somewhere; subclasses say where."""

    names: tuple[str, ...]
    folders: tuple[str, ...]
    left_out: LeftOut

    @abstractmethod
    def open(self, index: int) -> IO[bytes]: ...

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        with self.open(index) as file:
            # A zip can hold gigabytes of zeros in a few kilobytes.
            data = file.read(LARGEST_FILE + 1)
        if not data:
            raise OSError("the file is empty")
        if len(data) > LARGEST_FILE:
            raise OSError(f"the file is larger than {LARGEST_FILE >> 20} MiB")
        return decode_image(data, image_size)

    def native_size(self, index: int) -> tuple[int, int] | None:
        try:
            with self.open(index) as file, Image.open(file, formats=FORMATS) as picture:
                return stored_size(picture)
        except Exception:  # Damaged pictures are met and counted when they are decoded.
            return None

    def stored_in_grey(self, index: int) -> bool:
        try:
            with self.open(index) as file, Image.open(file, formats=FORMATS) as picture:
                return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
        except Exception:  # Damaged pictures are met and counted when they are decoded.
            return False
