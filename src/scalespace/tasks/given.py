"""Pictures that are given to a task: files, folders, zips and whatever else holds pictures, taken as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import Tensor

from scalespace.data.left_out import kind_of
from scalespace.data.luminance import luminance
from scalespace.data.reader import quiet
from scalespace.data.sources.decoding import reason
from scalespace.data.sources.files import Files
from scalespace.data.sources.opening import open_source
from scalespace.errors import UserError
from scalespace.memory import memory_ran_out
from scalespace.operators.linear import Size
from scalespace.reading import check_readable, path_of

__all__ = ["Given", "is_file", "open_given", "open_mask"]

_BRIGHT = 127  # levels of a mask up to which a pixel is known


class _Pictures(Protocol):
    """What is needed of a ``Source``."""

    names: tuple[str, ...]

    def load(self, index: int, image_size: Size) -> tuple[np.ndarray, frozenset[str]]: ...

    def native_size(self, index: int) -> Size | None: ...


@dataclass(frozen=True)
class Given:
    """Pictures of one size, read when they are asked for.

    Args:
        pictures: Source of every picture, and its number there.
        size: Height and width of all of them.
        channels: 3, or 1 for the luminance.
    """

    pictures: tuple[tuple[_Pictures, int], ...]
    size: Size
    channels: int

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures inside the paths that were given."""
        return tuple(source.names[index] for source, index in self.pictures)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """Some of the pictures in [-1, 1], shape (B, C, H, W).

        Raises:
            UserError: If one cannot be decoded.
        """
        return torch.stack([self._one(number) for number in numbers])

    def _one(self, number: int) -> Tensor:
        source, index = self.pictures[number]
        try:
            with quiet():
                pixels, _ = source.load(index, self.size)
        except Exception as error:  # A damaged file can raise nearly anything from a decoder.
            if memory_ran_out(error):
                raise
            raise UserError(
                f"{source.names[index]} cannot be decoded ({reason(error)}); replace it, or leave it out"
            ) from error
        levels = torch.from_numpy((luminance(pixels) if self.channels == 1 else pixels).copy())
        return levels.permute(2, 0, 1) / 127.5 - 1


def open_given(paths: Sequence[str], sizes: Sequence[Size], channels: int, progress: bool = True) -> Given:
    """Find pictures, which must have one of the sizes that a task takes: nothing is cropped or resized.

    Args:
        paths: Files of pictures, or whatever ``open_source`` takes.
        sizes: Heights and widths that are taken; all pictures have the same.
        channels: Channels of the model.
        progress: Whether a library that downloads or unpacks may show its bars on stderr.

    Raises:
        UserError: If something is no picture, a picture has another size, or the model draws what files do not hold.
    """
    if channels not in (1, 3):
        raise UserError(
            f"the model has {channels} channels, and files have 3, or 1 for grey; give it tensors, in Python"
        )
    if not paths:
        raise UserError("no pictures are given; name files, a folder or a zip")
    pictures: list[tuple[_Pictures, int]] = []
    for path in paths:
        source: _Pictures = _File(path) if is_file(path) else open_source(path, progress)
        pictures += [(source, index) for index in range(len(source.names))]
    first: Size | None = None
    for source, index in pictures:
        with quiet():
            size = source.native_size(index)
        # What cannot be read has no size, and is told of when it is decoded.
        if size is not None and size not in sizes:
            raise UserError(_other_size(source.names[index], size, sizes))
        if size is not None and first is not None and size != first:
            raise UserError(
                "the pictures have {}x{} and {}x{} pixels, and all of one command must have one size; give them "
                "one size after the other".format(*first, *size)
            )
        first = first or size
    return Given(tuple(pictures), first or sizes[0], channels)


def open_mask(path: str, size: Size) -> Tensor:
    """A mask from a picture file: True where it is black and the pixel is kept, False where it is white; shape (1, 1, H, W).

    What is brighter than the middle grey counts as white.

    Raises:
        UserError: If there is no such file, or it has another size.
    """
    if not is_file(path):
        raise UserError(f"the mask {path} is no picture file; give a black and white picture, white where to draw anew")
    found = open_given([path], [size], 1)
    return (found.batch([0]) + 1) * 127.5 <= _BRIGHT + 0.5


def is_file(path: str) -> bool:
    """Whether a path names one picture file."""
    try:
        name = Path(path).name
        return bool(name) and kind_of(name) is None and path_of(path).is_file()
    except (OSError, ValueError):
        return False


class _File(Files):
    """One picture that is a file of its own."""

    def __init__(self, path: str):
        self._path = path_of(path)
        check_readable(self._path)
        self.names = (path,)

    def open(self, index: int) -> IO[bytes]:
        return self._path.open("rb")


def _other_size(name: str, size: Size, sizes: Sequence[Size]) -> str:
    taken = " or ".join("{}x{}".format(*one) for one in sizes)
    largest = max(sizes)
    return (
        "{} has {}x{} pixels (height by width), and {} taken; bring the pictures to one of these with scalespace prepare "
        "PICTURES --size {} {} --output NEW".format(
            name, *size, f"{taken} is" if len(sizes) == 1 else f"{taken} are", *largest
        )
    )
