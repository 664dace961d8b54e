"""Training pictures: a folder, a zip or a synthetic source, as one indexable data set of uint8 pictures.

Pictures that fit into memory are decoded once and kept as one uint8 array; otherwise each is decoded when it is asked
for, also inside the workers of a DataLoader.

Everything that is done to a picture besides, or that is not read at all, is counted and can be told (`ImageDataset.found`,
`ImageDataset.met`).
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalespace.data.classes import Classes, find_classes
from scalespace.data.identity import fingerprint, former_fingerprint
from scalespace.data.left_out import LeftOut, counted
from scalespace.data.luminance import luminance
from scalespace.data.observations import COLOUR, GREY, Observations
from scalespace.data.sources import ANIMATED, DECODING_RULE, ENLARGED, Source, open_source, reason
from scalespace.errors import UserError
from scalespace.memory import check_memory, memory_ran_out
from scalespace.reading import unreadable
from scalespace.reports.progress import progress_bar

__all__ = ["BadImage", "ImageDataset", "open_images"]

_BAD_SHARE = 0.01
_THREADS = 2
_CHUNK = 32  # pictures a task of the first decoding
_SIZES_LOOKED_AT = 256
_LOOKED_AT = 32


@dataclass(frozen=True)
class BadImage:
    """A picture that could not be read or decoded, and why."""

    name: str
    reason: str
    damaged: bool = True
    """Whether it was read and is damaged; otherwise it may not or could not be read."""


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
        path: str,
        source: Source,
        labelling: Classes,
        image_size: tuple[int, int],
        *,
        channels: int,
        cached: bool,
        progress: bool,
        on_bad: Callable[[BadImage], None] | None,
    ):
        self.path = path
        self.image_size = image_size
        self.channels = channels
        self.labelling = labelling
        self._source = source
        self._progress = progress
        self._on_bad = on_bad
        self._bad: dict[int, BadImage] = {}
        self._observed = Observations(len(source.names))
        self._labels = torch.tensor(self.labelling.labels, dtype=torch.int64)
        self._cache = self._decode_all(progress) if cached else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in natural order; labels index into it. Empty where there are none."""
        return self.labelling.names

    @property
    def cached(self) -> bool:
        """Whether all pictures are in memory."""
        return self._cache is not None

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Pictures that could not be decoded, in the order of the data set."""
        return tuple(self._bad[index] for index in sorted(self._bad))

    @property
    def enlarged(self) -> int:
        """Number of pictures that were smaller than the image size and were enlarged to it."""
        return self._observed.count(ENLARGED)

    @property
    def animated(self) -> int:
        """Number of pictures of which only the first frame is used."""
        return self._observed.count(ANIMATED)

    @property
    def converted(self) -> int:
        """Number of pictures in colour that were converted to luminance."""
        return self._observed.count(COLOUR)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of all pictures: their contents, names and order, the image size and how they are decoded.

        It does not depend on where they lie. Files are read for it, each only once (`scalespace.data.checksums`).
        """
        return self.fingerprint_of(None)

    @property
    def former_fingerprint(self) -> str:
        """What runs of earlier versions know the pictures by."""
        return former_fingerprint(self._source, self._rule)

    def fingerprint_of(self, numbers: Sequence[int] | None) -> str:
        """The identity, as ``fingerprint`` has it, of the pictures with these indices. None takes all pictures."""
        return fingerprint(self._source, self._rule, numbers, self._progress)

    @property
    def _rule(self) -> str:
        grey = "; luminance" if self.channels == 1 else ""
        return "{}x{}; {}{}".format(*self.image_size, DECODING_RULE, grey)

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
        return self._observed.lines(len(self._bad))

    @property
    def left_out(self) -> LeftOut:
        """What lies beside the pictures and is not read."""
        return self._source.left_out

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures inside the path, in the order of the data set."""
        return self._source.names

    def native_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of a picture as it is stored; None where it has none or is damaged."""
        with _quiet():
            return self._source.native_size(index)

    def stored_in_grey(self, index: int) -> bool:
        """Whether a picture is stored without any colour, in one channel."""
        with _quiet():
            return self._source.stored_in_grey(index)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        images, labels = self.batch([index % len(self)])
        return {"image": images[0], "label": int(labels[0])}

    def __getstate__(self) -> dict[str, Any]:
        # Workers report nothing to the main process, and what reports there (a closure, a bar) cannot be pickled.
        return self.__dict__ | {"_on_bad": None}

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
        if self._cache is not None:
            return self._cache[index], self._labels[index]
        if any(not -len(self) <= number < len(self) for number in index.tolist()):
            raise IndexError(f"pictures {index.tolist()} of {len(self)}")
        index = index % len(self)
        images = torch.empty(len(index), self.channels, *self.image_size, dtype=torch.uint8)
        with _quiet(), ThreadPoolExecutor(_THREADS) as pool:
            for row, loaded in enumerate(pool.map(self._load, index.tolist())):
                number = int(index[row])
                while isinstance(loaded, BadImage):
                    self._report(number, loaded)
                    self._stop_if_too_many(f"{len(self._bad)} pictures met so far")
                    number = (number + 1) % len(self)
                    loaded = self._load(number)
                pixels, told = loaded
                images[row] = torch.from_numpy(pixels)
                self._observed.see(number, told)
                index[row] = number
        return images, self._labels[index]

    def _load(self, index: int) -> tuple[np.ndarray, frozenset[str]] | BadImage:
        """Pixels (C, H, W), and what there is to be told of them."""
        try:
            pixels, told = self._source.load(index, self.image_size)
            # What counts is whether there is a colour, since grey pictures are often stored with three channels.
            grey = bool((pixels == pixels[..., :1]).all())
            if self.channels == 1:
                pixels = luminance(pixels)
            if grey != (self.channels == 1):
                told |= {GREY if grey else COLOUR}
            return np.ascontiguousarray(pixels.transpose(2, 0, 1)), told
        except Exception as error:  # A damaged file can raise nearly anything from a decoder.
            if memory_ran_out(error):
                raise
            return BadImage(self._source.names[index], reason(error), damaged=not unreadable(error))

    def _report(self, index: int, bad: BadImage) -> None:
        self._observed.see(index)
        if index not in self._bad:
            self._bad[index] = bad
            if self._on_bad is not None:
                self._on_bad(bad)

    def _stop_if_too_many(self, count: str) -> None:
        if len(self._bad) > _BAD_SHARE * len(self):
            first = "; ".join(f"{bad.name}: {bad.reason}" for bad in self.bad[:3])
            remedy = (
                "replace or remove the damaged files"
                if all(bad.damaged for bad in self.bad)
                else "check that you may read them and that their disk is sound"
            )
            raise UserError(
                f"{count} in {self.path} cannot be decoded, more than 1 % of all {len(self)} ({first}); {remedy}"
            )

    def _decode_all(self, progress: bool) -> Tensor:
        total = len(self)
        check_memory(
            f"keeping {counted(total, 'picture')} of {self.path}",
            {"the decoded pictures": total * self.channels * math.prod(self.image_size)},
            "lower --cache-gib, so that pictures are decoded when they are needed",
        )
        cache = torch.empty(total, self.channels, *self.image_size, dtype=torch.uint8)
        pixels = cache.numpy()

        def decode(start: int) -> list[frozenset[str] | BadImage]:
            results: list[frozenset[str] | BadImage] = []
            for index in range(start, min(start + _CHUNK, total)):
                loaded = self._load(index)
                if isinstance(loaded, BadImage):
                    results.append(loaded)
                else:
                    pixels[index] = loaded[0]
                    results.append(loaded[1])
            return results

        bar = progress_bar(total, "reading pictures", "pictures", progress)
        pool = ThreadPoolExecutor(_THREADS)
        seen = 0
        try:
            with _quiet(), bar:
                for results in pool.map(decode, range(0, total, _CHUNK)):
                    for index, result in enumerate(results, start=seen):
                        if isinstance(result, BadImage):
                            self._report(index, result)
                        else:
                            self._observed.see(index, result)
                    seen += len(results)
                    bar.update(len(results))
                    self._stop_if_too_many(f"{len(self._bad)} of the first {seen} pictures")
        finally:
            pool.shutdown(cancel_futures=True)
        for index in self._bad:
            replacement = next(i for i in _following(index, total) if i not in self._bad)
            cache[index], self._labels[index] = cache[replacement], self._labels[replacement]
        return cache


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
) -> ImageDataset:
    """Open a folder, a zip or a synthetic source as a data set of pictures of one size.

    PNG, JPEG, WebP and BMP files count as pictures (by their extension); hidden files and `__MACOSX` do not. Pictures
    smaller than the image size are enlarged and counted; if most are, the image size is taken for a mistake.

    Args:
        path: A folder (searched to the bottom), a zip file, or `synthetic:shapes`, 10,000 procedural pictures;
            `synthetic:shapes:500` is the first 500 of them.
        image_size: (height, width) in pixels.
        channels: 3, or 1 for ``luminance``.
        cache_bytes: The pictures are decoded now and kept in memory if they take no more than this.
        progress: Whether decoding that takes over two seconds shows a bar on stderr.
        on_bad: Called once for every picture that cannot be decoded, when it is met in this process.
        may_enlarge: Whether most pictures may be smaller than the image size.
        num_classes: Classes that the pictures must have; None where it does not matter.

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
    source = open_source(path)
    if not may_enlarge:
        _check_native_sizes(path, source, image_size)
    cached = len(source.names) * channels * height * width <= cache_bytes
    labelling = find_classes(path, source.names, source.folders)
    if num_classes is not None:
        labelling.check(path, num_classes)
    return ImageDataset(
        path, source, labelling, image_size, channels=channels, cached=cached, progress=progress, on_bad=on_bad
    )


def _check_native_sizes(path: str, source: Source, image_size: tuple[int, int]) -> None:
    """Refuse an image size that most pictures do not reach, judged by the headers of some of them."""
    height, width = image_size
    step = -(-len(source.names) // _SIZES_LOOKED_AT)
    with _quiet():
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


def _following(index: int, total: int) -> Iterator[int]:
    return ((index + step) % total for step in range(1, total))


@contextmanager
def _quiet() -> Iterator[None]:
    # Pillow warns of odd metadata and of very large pictures; what it can decode is good, what it cannot is counted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
