"""Training pictures: a folder, a zip or any other source, as one indexable data set of uint8 pictures.

Pictures that are not too many are decoded once and kept in a file that is mapped into memory (`scalespace.data.decoded`);
otherwise each is decoded when it is asked for, also inside the workers of a DataLoader.

Everything that is done to a picture besides, or that is not read at all, is counted and can be told (`ImageDataset.found`,
`ImageDataset.met`).
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalespace.data.classes import Classes, find_classes
from scalespace.data.decoded import DecodedPictures, all_decoded, read_decoded
from scalespace.data.identity import former_fingerprint
from scalespace.data.left_out import LeftOut, counted
from scalespace.data.observations import COLOUR
from scalespace.data.reader import BadImage, Reader, quiet
from scalespace.data.sources.decoding import ANIMATED, ENLARGED
from scalespace.data.sources.opening import open_source
from scalespace.data.sources.source import Source
from scalespace.errors import UserError

__all__ = ["BadImage", "ImageDataset", "open_images"]

_SIZES_LOOKED_AT = 256
_LOOKED_AT = 32


class ImageDataset(Dataset[dict[str, Any]]):
    """Pictures of one size with class labels; made by `open_images`.

    Item i is `{"image": uint8 tensor (C, H, W), "label": int}`. A bad picture keeps its number and is replaced by the
    next good one, so that the order of the data is the same whether it is cached or not. Where it is not, `bad`,
    `enlarged` and `met` know what this process has met so far.

    Attributes:
        path: The path as the user gave it.
        image_size: (height, width) in pixels.
        channels: C: 3, red, green and blue, or 1, the luminance.
        labelling: The classes of the pictures, and why there are none; all labels are 0 then.
    """

    def __init__(
        self,
        reader: Reader,
        labelling: Classes,
        cache_bytes: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.path = reader.path
        self.image_size = reader.shape[2], reader.shape[3]
        self.channels = reader.shape[1]
        self.labelling = labelling
        self._reader = reader
        self._labels = torch.tensor(self.labelling.labels, dtype=torch.int64)
        fits = math.prod(reader.shape) <= cache_bytes
        self._decoded: DecodedPictures | None = all_decoded(reader, cache_bytes, say) if fits else None
        # Which picture is shown for each; None where all are good or are met one by one.
        self._shown = reader.stand_ins() if self._decoded is not None and reader.bad else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in natural order; labels index into it. Empty where there are none."""
        return self.labelling.names

    @property
    def cached(self) -> bool:
        """Whether all pictures are decoded."""
        return self._decoded is not None

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Pictures that could not be decoded, in the order of the data set."""
        return self._reader.bad

    @property
    def enlarged(self) -> int:
        """Number of pictures that were smaller than the image size and were enlarged to it."""
        return self._reader.observed.count(ENLARGED)

    @property
    def animated(self) -> int:
        """Number of pictures of which only the first frame is used."""
        return self._reader.observed.count(ANIMATED)

    @property
    def converted(self) -> int:
        """Number of pictures in colour that were converted to luminance."""
        return self._reader.observed.count(COLOUR)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of all pictures: their contents, names and order, the image size and how they are decoded.

        It does not depend on where they lie. Files are read for it, each only once (`scalespace.data.sources.checksums`).
        """
        return (self._decoded and self._decoded.content) or self.fingerprint_of(None)

    @property
    def former_fingerprint(self) -> str:
        """What runs of earlier versions know the pictures by."""
        return former_fingerprint(self._reader.source, self._reader.rule)

    def fingerprint_of(self, numbers: Sequence[int] | None) -> str:
        """The identity, as ``fingerprint`` has it, of the pictures with these indices. None takes all pictures."""
        return self._reader.fingerprint(numbers)

    def found(self) -> tuple[str, ...]:
        """What was found at the path and what was not read, one sentence a line."""
        left_out = str(self.left_out)
        of_classes = f" in {counted(len(self.classes), 'class')}" if self.classes else ""
        first = f"{counted(len(self), 'picture')}{of_classes}{f'; {left_out}' if left_out else ''}"
        return (first, *self.labelling.lines())

    def look(self) -> None:
        """Decode some pictures, evenly spaced, for what there is to be told of the data before all are decoded."""
        step = -(-len(self) // _LOOKED_AT)
        self.batch(range(0, len(self), step))

    def met(self) -> tuple[str, ...]:
        """What had to be done to some of the pictures that were decoded so far, one sentence a line."""
        return self._reader.observed.lines()

    @property
    def left_out(self) -> LeftOut:
        """What lies beside the pictures and is not read."""
        return self._reader.source.left_out

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures inside the path, in the order of the data set."""
        return self._reader.source.names

    def native_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of a picture as it is stored; None where it has none or is damaged."""
        with quiet():
            return self._reader.source.native_size(index)

    def stored_in_grey(self, index: int) -> bool:
        """Whether a picture is stored without any colour, in one channel."""
        with quiet():
            return self._reader.source.stored_in_grey(index)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        images, labels = self.batch([index % len(self)])
        return {"image": images[0], "label": int(labels[0])}

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file for itself.
        mapped = self._decoded is not None and self._decoded.place
        return self.__dict__ | ({"_decoded": mapped} if mapped else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._decoded, Path):
            # Where the file is gone, pictures are decoded one by one.
            self._decoded = read_decoded(self._decoded, self._reader.shape)

    def batch(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Several pictures at once: one indexing operation where they are cached.

        Args:
            indices: Numbers 0..len - 1, shape (B,).

        Returns:
            Pictures, uint8 of shape (B, C, H, W), and labels, int64 of shape (B,).

        Raises:
            IndexError: If a picture does not exist.
            UserError: If more than 1 % of all pictures have turned out to be bad (only where they are not cached).
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        if ((index < -len(self)) | (index >= len(self))).any():
            raise IndexError(f"pictures {index.tolist()} of {len(self)}")
        index = index % len(self)
        if self._decoded is None:
            images, index = self._reader.some(index)
            return images, self._labels[index]
        if self._shown is not None:
            index = self._shown[index]
        images, damaged = self._decoded.take(index)
        if damaged:
            images[damaged], _ = self._reader.some(index[damaged])
        return images, self._labels[index]


def open_images(
    path: str,
    image_size: tuple[int, int],
    *,
    channels: int = 3,
    cache_bytes: int = 4 * 1024**3,
    progress: bool = True,
    on_bad: Callable[[BadImage], None] | None = None,
    may_enlarge: bool = False,
    num_classes: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ImageDataset:
    """Open a folder, a zip or another source as a data set of pictures of one size.

    PNG, JPEG, WebP and BMP files count as pictures (by their extension); hidden files and `__MACOSX` do not. Pictures
    smaller than the image size are enlarged and counted; if most are, the image size is taken for a mistake.

    Args:
        path: A folder (searched to the bottom), a zip file, tar files or a data set of Hugging Face (`open_source` has their
            forms), or `synthetic:shapes`, 10,000 procedural pictures; `synthetic:shapes:500` is the first 500 of them.
        image_size: (height, width) in pixels.
        channels: 3, or 1 for ``luminance``.
        cache_bytes: The pictures are decoded now and kept in the user's cache folder if they take no more than this. It is
            also what all data sets together may take there.
        progress: Whether decoding that takes over two seconds shows a bar on stderr.
        on_bad: Called once for every picture that cannot be decoded, when it is met in this process.
        may_enlarge: Whether most pictures may be smaller than the image size.
        num_classes: Classes that the pictures must have; None where it does not matter.
        say: Takes a line for the user where decoded pictures cannot be kept, or another process has to be waited for.

    Returns:
        The data set, in the order of the names.

    Raises:
        UserError: If there is no such path, source or picture, they have not those classes, more than 1 % of the pictures
            are damaged, or most of them are smaller than `image_size` and may not be.
    """
    height, width = image_size
    if height < 1 or width < 1:
        raise UserError(f"image size {height}x{width} holds no pixels; use at least 1x1")
    if channels not in (1, 3):
        raise UserError(f"--process.channels is {channels}; pictures from files have 3 channels, or 1 for grey")
    source = open_source(path, progress)
    if not may_enlarge:
        _check_native_sizes(path, source, image_size)
    labelling = find_classes(path, source.names, source.folders)
    if num_classes is not None:
        labelling.check(path, num_classes)
    reader = Reader(path, source, image_size, channels, progress, on_bad)
    return ImageDataset(reader, labelling, cache_bytes, say)


def _check_native_sizes(path: str, source: Source, image_size: tuple[int, int]) -> None:
    """Refuse an image size that most pictures do not reach, judged by the headers of some of them."""
    height, width = image_size
    step = -(-len(source.names) // _SIZES_LOOKED_AT)
    with quiet():
        sizes = [(source.native_size(index), source.names[index]) for index in range(0, len(source.names), step)]
    known = [(*size, name) for size, name in sizes if size is not None]
    small = [entry for entry in known if entry[0] < height or entry[1] < width]
    if len(small) * 2 > len(known):
        h, w, name = small[0]
        raise UserError(
            f"{len(small)} of {len(known)} pictures looked at in {path} are smaller than "
            f"the image size {height}x{width} ({name} is {h}x{w}, height by width); "
            "use a smaller image size or larger pictures"
        )
