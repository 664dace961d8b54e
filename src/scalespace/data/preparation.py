"""Pictures brought to one size exactly as training brings them there, to be measured or to be written to disk.

Everything here goes through ``ImageDataset``, so a picture comes out as training would see it. There is one difference.
Training shows the next picture in the place of one that cannot be decoded. Here such a picture is left out and reported,
because a set that is measured or written must hold no picture twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scalespace.data.images import ImageDataset
from scalespace.data.reader import BadImage
from scalespace.data.sources.decoding import DECODING_RULE
from scalespace.reports.progress import progress_bar

__all__ = ["Preparation", "good_pictures"]

_BATCH, _BATCH_BYTES = 256, 2**26  # pictures that are held at once, and their size
_SHOWN = 3  # pictures that a sentence names
_SIZES = 20  # that are remembered one by one


@dataclass(frozen=True)
class Preparation:
    """What happened to pictures that were brought to one size.

    Args:
        image_size: (height, width) that the pictures were brought to.
        sizes: The most frequent sizes (height, width) of the files, each with its number of pictures; at most 20, and none
            for synthetic pictures.
        other_sizes: Number of further sizes.
        enlarged: Number of pictures that were smaller than the image size.
        animated: Number of pictures of which only the first frame is used.
        left_out: The pictures that cannot be decoded.
        rule: The rule by which files become pictures.
        luminance: Number of pictures in colour that were converted to their luminance.
        not_read: What lies beside the pictures and is not read, as a sentence.
    """

    image_size: tuple[int, int]
    sizes: tuple[tuple[tuple[int, int], int], ...] = ()
    other_sizes: int = 0
    enlarged: int = 0
    animated: int = 0
    left_out: tuple[BadImage, ...] = ()
    rule: str = DECODING_RULE
    luminance: int = 0
    not_read: str = ""

    @classmethod
    def of(cls, data: ImageDataset, numbers: Iterable[int]) -> Preparation:
        """The preparation of some pictures of a data set. All of them must have been read before."""
        found = Counter(size for size in map(data.native_size, numbers) if size is not None)
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        more = max(0, len(ordered) - _SIZES)
        return cls(
            data.image_size,
            tuple(ordered[:_SIZES]),
            more,
            data.enlarged,
            data.animated,
            data.bad,
            luminance=data.converted,
            not_read=str(data.left_out),
        )

    @property
    def resized(self) -> bool:
        """Whether any picture had a size other than the image size."""
        return any(size != self.image_size for size, _ in self.sizes)

    def __str__(self) -> str:
        parts: list[str] = []
        if self.resized:
            others = [size for size, _ in self.sizes if size != self.image_size]
            number = len(others) - 1 + self.other_sizes
            more = f" and {number:,} other size{'s' * (number > 1)}" if number else ""
            parts.append(
                "brought from {}x{}{} to {}x{} (height by width) as training does".format(
                    *others[0], more, *self.image_size
                )
            )
        if self.enlarged:
            parts.append(f"{self.enlarged:,} of them smaller and enlarged")
        if self.animated:
            parts.append(f"{self.animated:,} of them animated, of which the first frame is taken")
        if self.luminance:
            parts.append(f"{self.luminance:,} of them in colour and converted to luminance")
        if self.left_out:
            named = "; ".join(f"{bad.name}: {bad.reason}" for bad in self.left_out[:_SHOWN])
            more = "; ..." if len(self.left_out) > _SHOWN else ""
            parts.append(f"{len(self.left_out):,} left out that cannot be decoded ({named}{more})")
        if self.not_read:
            parts.append(self.not_read)
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The preparation as a dictionary that can be written as JSON."""
        return {
            "rule": self.rule,
            "image_size": self.image_size,
            "sizes": [{"size": size, "count": count} for size, count in self.sizes],
            "other_sizes": self.other_sizes,
            "resized": self.resized,
            "enlarged": self.enlarged,
            "animated": self.animated,
            "left_out": [{"name": bad.name, "reason": bad.reason} for bad in self.left_out],
            "luminance": self.luminance,
            "not_read": self.not_read,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Preparation:
        """The preparation that ``as_dict`` tells.

        Raises:
            KeyError: If something is missing, or another error if it is damaged.
        """
        height, width = told["image_size"]
        sizes = tuple(((entry["size"][0], entry["size"][1]), entry["count"]) for entry in told["sizes"])
        left_out = tuple(BadImage(bad["name"], bad["reason"]) for bad in told["left_out"])
        return cls(
            (height, width),
            sizes,
            told["other_sizes"],
            told["enlarged"],
            told["animated"],
            left_out,
            told["rule"],
            # Earlier versions do not tell these.
            told.get("luminance", 0),
            told.get("not_read", ""),
        )


def good_pictures(
    data: ImageDataset, numbers: Sequence[int], description: str, progress: bool = True
) -> Iterator[tuple[list[int], Tensor]]:
    """Read pictures as training sees them, in batches, and leave out those that cannot be decoded.

    Args:
        data: Data set to read from.
        numbers: Indices of the pictures to read.
        description: Text of the progress bar.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Yields:
        Indices of the pictures in a batch, and the pictures, uint8 of shape (B, 3, H, W).

    Raises:
        UserError: If more than 1 % of all pictures are damaged.
    """
    size = max(1, min(_BATCH, _BATCH_BYTES // (3 * data.image_size[0] * data.image_size[1])))
    bar = progress_bar(len(numbers), description, "pictures", progress)
    with bar:
        for first in range(0, len(numbers), size):
            part = list(numbers[first : first + size])
            images, _ = data.batch(part)
            bad = {image.name for image in data.bad}
            rows = [row for row, number in enumerate(part) if data.names[number] not in bad]
            if rows:
                yield [part[row] for row in rows], images if len(rows) == len(part) else images[rows]
            bar.update(len(part))
