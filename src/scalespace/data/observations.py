"""What is met while pictures are decoded, and told to the user: that some were smaller, animated, or of other colours."""

from __future__ import annotations

import numpy as np

from scalespace.data.left_out import counted
from scalespace.data.sources.decoding import ANIMATED, ENLARGED

__all__ = ["COLOUR", "DAMAGED", "GREY", "Observations"]

GREY, COLOUR = "grey", "in colour"
"""What there is to be told of a picture besides, where its channels are not those that were asked for."""

DAMAGED = "damaged"
"""Of a picture that could not be decoded."""

_TOLD = {
    ENLARGED: "smaller than the image size and enlarged to it",
    ANIMATED: "animated, and only the first frame is used",
    COLOUR: "in colour and converted to luminance",
    GREY: "grey, with three equal channels",
}


_SEEN = 1
# Bits of the flags, which are kept on disk.
_BITS = {DAMAGED: 2, ENLARGED: 4, ANIMATED: 8, COLOUR: 16, GREY: 32}


class Observations:
    """What was met in numbered pictures.

    Args:
        pictures: Number of pictures.

    Attributes:
        flags: All of it, a byte for each picture; 0 for those that were not decoded yet.
    """

    def __init__(self, pictures: int):
        self.flags = np.zeros(pictures, np.uint8)

    def see(self, index: int, words: frozenset[str] = frozenset()) -> None:
        """Remember that a picture was decoded, and what there is to be told of it."""
        self.flags[index] |= _SEEN | sum(_BITS[word] for word in words)

    def where(self, word: str) -> np.ndarray:
        """Numbers of the pictures of which a word is to be told, ascending."""
        return np.flatnonzero(self.flags & _BITS[word])

    def count(self, word: str) -> int:
        """Number of pictures of which a word is to be told."""
        return len(self.where(word))

    def lines(self) -> tuple[str, ...]:
        """All of it, one sentence a line."""
        seen, damaged = int(np.count_nonzero(self.flags)), self.count(DAMAGED)
        pictures = counted(seen, "picture")
        of_all = f"of {pictures}" if seen == len(self.flags) else f"of the {pictures} read so far"
        counts = {word: self.count(word) for word in _TOLD}
        lines = [f"{n:,} {of_all} {'is' if n == 1 else 'are'} {_TOLD[word]}" for word, n in counts.items() if n]
        if counts[GREY] and counts[GREY] == seen:
            lines.append("all are grey; --process.channels 1 trains on one channel")
        if damaged:
            lines.append(f"{damaged:,} {of_all} could not be decoded and {'was' if damaged == 1 else 'were'} skipped")
        return tuple(lines)
