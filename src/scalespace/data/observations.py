"""What is met while pictures are decoded, and told to the user: that some were smaller, animated, or of other colours."""

from __future__ import annotations

import numpy as np

from scalespace.data.left_out import counted
from scalespace.data.sources import ANIMATED, ENLARGED

__all__ = ["COLOUR", "GREY", "Observations"]

GREY, COLOUR = "grey", "in colour"
"""What there is to be told of a picture besides, where its channels are not those that were asked for."""

_TOLD = {
    ENLARGED: "smaller than the image size and enlarged to it",
    ANIMATED: "animated, and only the first frame is used",
    COLOUR: "in colour and converted to luminance",
    GREY: "grey, with three equal channels",
}


class Observations:
    """What was met in numbered pictures.

    Args:
        pictures: Number of pictures.
    """

    def __init__(self, pictures: int):
        self._seen = np.zeros(pictures, bool)
        self._told = {word: np.zeros(pictures, bool) for word in _TOLD}

    def see(self, index: int, words: frozenset[str] = frozenset()) -> None:
        """Remember that a picture was decoded, and what there is to be told of it."""
        self._seen[index] = True
        for word in words:
            self._told[word][index] = True

    def count(self, word: str) -> int:
        """Number of pictures of which a word is to be told."""
        return int(self._told[word].sum())

    def lines(self, damaged: int) -> tuple[str, ...]:
        """All of it, one sentence a line.

        Args:
            damaged: Number of pictures that could not be decoded.
        """
        seen = int(self._seen.sum())
        pictures = counted(seen, "picture")
        of_all = f"of {pictures}" if seen == len(self._seen) else f"of the {pictures} read so far"
        counts = {word: self.count(word) for word in _TOLD}
        lines = [f"{n:,} {of_all} {'is' if n == 1 else 'are'} {_TOLD[word]}" for word, n in counts.items() if n]
        if counts[GREY] and counts[GREY] == seen:
            lines.append("all are grey; --process.channels 1 trains on one channel")
        if damaged:
            lines.append(f"{damaged:,} {of_all} could not be decoded and {'was' if damaged == 1 else 'were'} skipped")
        return tuple(lines)
