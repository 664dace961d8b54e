"""What a source of pictures is: a numbered list of them, wherever they lie."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from scalespace.data.left_out import LeftOut

__all__ = ["Source"]


class Source(Protocol):
    """Numbered pictures; picklable, and safe to read from threads and from the workers of a DataLoader."""

    names: tuple[str, ...]
    folders: tuple[str, ...]
    """Paths of all folders inside it, also of those without pictures."""
    left_out: LeftOut
    """What was found and is not read."""

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        """Pixels (H, W, 3), and what there is to be told of them, as of ``decode_image``."""
        ...

    def native_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the picture as it is stored; None where it has none or is damaged."""
        ...

    def stored_in_grey(self, index: int) -> bool:
        """Whether the picture is stored without any colour, in one channel."""
        ...

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        """What identifies the contents of some pictures, one word each; reading files may show a bar on stderr."""
        ...

    def former_signature(self) -> Iterator[str]:
        """What identified all pictures before their contents did, one word each."""
        ...
