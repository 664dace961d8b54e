"""Pictures of a source brought to one size, one by one or all, and what is met on the way.

A picture that cannot be decoded is named, counted, and replaced by the next good one; more than 1 % of them are an error.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from scalespace.data.identity import fingerprint
from scalespace.data.luminance import luminance
from scalespace.data.observations import COLOUR, DAMAGED, GREY, Observations
from scalespace.data.sources.decoding import DECODING_RULE, reason
from scalespace.data.sources.source import Source
from scalespace.errors import UserError
from scalespace.memory import memory_ran_out
from scalespace.reading import unreadable
from scalespace.reports.progress import progress_bar

__all__ = ["BadImage", "Reader", "quiet"]

_BAD_SHARE = 0.01
_THREADS = 2
_CHUNK = 32  # pictures a task where all are read

_T = TypeVar("_T")


@dataclass(frozen=True)
class BadImage:
    """A picture that could not be read or decoded, and why."""

    name: str
    reason: str
    damaged: bool = True
    """Whether it was read and is damaged; otherwise it may not or could not be read."""


class Reader:
    """Reads pictures of a source at one size.

    Args:
        path: The path as the user gave it.
        source: The pictures.
        image_size: (height, width) in pixels.
        channels: C: 3, or 1 for the luminance.
        progress: Whether reading that takes over two seconds shows a bar on stderr.
        on_bad: Called once for every picture that cannot be decoded, when it is met in this process.

    Attributes:
        shape: (N, C, H, W) of all pictures.
        observed: What was met so far.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        image_size: tuple[int, int],
        channels: int,
        progress: bool,
        on_bad: Callable[[BadImage], None] | None,
    ):
        self.path = path
        self.source = source
        self.shape = (len(source.names), channels, *image_size)
        self.observed = Observations(len(source.names))
        self._progress = progress
        self._on_bad = on_bad
        self._bad: dict[int, BadImage] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Workers report nothing to the main process, and what reports there (a closure, a bar) cannot be pickled.
        return self.__dict__ | {"_on_bad": None}

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Pictures that could not be decoded, in the order of the source."""
        return tuple(self._bad[index] for index in sorted(self._bad))

    @property
    def rule(self) -> str:
        """How the files become pictures."""
        grey = "; luminance" if self.shape[1] == 1 else ""
        return "{}x{}; {}{}".format(*self.shape[2:], DECODING_RULE, grey)

    def fingerprint(self, numbers: Sequence[int] | None = None) -> str:
        """The identity of the pictures with these indices as they are now. None takes all pictures."""
        return fingerprint(self.source, self.rule, numbers, self._progress)

    def some(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Decode some pictures.

        Args:
            index: Numbers 0..N - 1, shape (B,), int64.

        Returns:
            Pictures, uint8 of shape (B, C, H, W), and the numbers of those that are shown.

        Raises:
            UserError: If more than 1 % of all pictures have turned out to be bad.
        """
        shown, images = index.clone(), torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        with quiet(), ThreadPoolExecutor(_THREADS) as pool:
            for row, loaded in enumerate(pool.map(self._load, index.tolist())):
                number = int(index[row])
                while isinstance(loaded, BadImage):
                    self._report(number, loaded)
                    self._stop_if_too_many(f"{len(self._bad)} pictures met so far")
                    number = (number + 1) % len(self.source.names)
                    loaded = self._load(number)
                pixels, told = loaded
                images[row] = torch.from_numpy(pixels)
                self.observed.see(number, told)
                shown[row] = number
        return images, shown

    def all(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decode all pictures, in order and some at a time, as if none had been met before.

        Yields:
            Pixels, uint8 of shape (n, C, H, W), zeros for a bad picture, and flags, as ``observed`` has them, shape (n,).

        Raises:
            UserError: If more than 1 % of all pictures have turned out to be bad.
        """
        total = self.shape[0]
        self.observed, self._bad = Observations(total), {}

        def decode(start: int) -> tuple[np.ndarray, list[frozenset[str] | BadImage]]:
            numbers = range(start, min(start + _CHUNK, total))
            pixels = np.zeros((len(numbers), *self.shape[1:]), np.uint8)
            results: list[frozenset[str] | BadImage] = []
            for row, index in enumerate(numbers):
                loaded = self._load(index)
                if isinstance(loaded, BadImage):
                    results.append(loaded)
                else:
                    pixels[row] = loaded[0]
                    results.append(loaded[1])
            return pixels, results

        bar = progress_bar(total, "reading pictures", "pictures", self._progress)
        pool = ThreadPoolExecutor(_THREADS)
        seen = 0
        try:
            with quiet(), bar:
                for pixels, results in _ahead(pool, decode, range(0, total, _CHUNK)):
                    for index, result in enumerate(results, start=seen):
                        if isinstance(result, BadImage):
                            self._report(index, result)
                        else:
                            self.observed.see(index, result)
                    yield pixels, self.observed.flags[seen : seen + len(results)]
                    seen += len(results)
                    bar.update(len(results))
                    self._stop_if_too_many(f"{len(self._bad)} of the first {seen} pictures")
        finally:
            pool.shutdown(cancel_futures=True)

    def recall(self, flags: np.ndarray) -> bool:
        """Take over what was met when all pictures were decoded before.

        A zip tells what its contents should be, so a whole copy and a damaged one look the same. Therefore the pictures that
        were damaged are tried again.

        Args:
            flags: Flags that ``all`` gave, shape (N,).

        Returns:
            Whether this is still so; False where a picture that was damaged is not any more.

        Raises:
            UserError: If more than 1 % of all pictures are bad.
        """
        observed = Observations(self.shape[0])
        observed.flags = flags
        numbers = observed.where(DAMAGED).tolist()
        with quiet():
            loaded = [self._load(number) for number in numbers]
        bad = [image for image in loaded if isinstance(image, BadImage)]
        if len(bad) < len(numbers):
            return False
        self.observed = observed
        for number, image in zip(numbers, bad, strict=True):
            self._report(number, image)
        self._stop_if_too_many(f"{len(self._bad)} pictures")
        return True

    def stand_ins(self) -> Tensor:
        """The picture that is shown for each: the next good one for a bad one. Shape (N,), int64."""
        total = self.shape[0]
        shown = torch.arange(total)
        for index in self._bad:
            following = ((index + step) % total for step in range(1, total))
            shown[index] = next(number for number in following if number not in self._bad)
        return shown

    def _load(self, index: int) -> tuple[np.ndarray, frozenset[str]] | BadImage:
        """Pixels (C, H, W), and what there is to be told of them."""
        try:
            pixels, told = self.source.load(index, (self.shape[2], self.shape[3]))
            # What counts is whether there is a colour, since grey pictures are often stored with three channels.
            grey = bool((pixels == pixels[..., :1]).all())
            if self.shape[1] == 1:
                pixels = luminance(pixels)
            if grey != (self.shape[1] == 1):
                told |= {GREY if grey else COLOUR}
            return np.ascontiguousarray(pixels.transpose(2, 0, 1)), told
        except Exception as error:  # A damaged file can raise nearly anything from a decoder.
            if memory_ran_out(error):
                raise
            return BadImage(self.source.names[index], reason(error), damaged=not unreadable(error))

    def _report(self, index: int, bad: BadImage) -> None:
        self.observed.see(index, frozenset({DAMAGED}))
        if index not in self._bad:
            self._bad[index] = bad
            if self._on_bad is not None:
                self._on_bad(bad)

    def _stop_if_too_many(self, count: str) -> None:
        if len(self._bad) > _BAD_SHARE * self.shape[0]:
            first = "; ".join(f"{bad.name}: {bad.reason}" for bad in self.bad[:3])
            remedy = (
                "replace or remove the damaged files"
                if all(bad.damaged for bad in self.bad)
                else "check that you may read them and that their disk is sound"
            )
            raise UserError(
                f"{count} in {self.path} cannot be decoded, more than 1 % of all {self.shape[0]} ({first}); {remedy}"
            )


def _ahead(pool: ThreadPoolExecutor, do: Callable[[int], _T], starts: Iterable[int]) -> Iterator[_T]:
    """What ``do`` returns for each start, in order, a few at a time: what is done is not kept long before it is taken."""
    pending: deque[Future[_T]] = deque()
    for start in starts:
        pending.append(pool.submit(do, start))
        if len(pending) > 4 * _THREADS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block nothing that Pillow warns of is printed."""
    # Pillow warns of odd metadata and of very large pictures; what it can decode is good, what it cannot is counted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
