"""Procedural pictures as a source."""

from collections.abc import Iterator, Sequence

import numpy as np

from scalespace.data.left_out import LeftOut
from scalespace.data.shapes import SHAPES_VERSION, shapes
from scalespace.data.sources.source import Source
from scalespace.errors import UserError

__all__ = ["open_synthetic"]

_SYNTHETIC = ("shapes",)
_SYNTHETIC_LENGTH, _MOST_SYNTHETIC = 10_000, 1_000_000


class _Shapes:
    def __init__(self, length: int):
        digits = len(str(length - 1))
        self.names = tuple(f"shapes-{index:0{digits}}" for index in range(length))
        self.folders: tuple[str, ...] = ()
        self.left_out = LeftOut()

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        return shapes(index, image_size), frozenset()

    def native_size(self, index: int) -> tuple[int, int] | None:
        return None

    def stored_in_grey(self, index: int) -> bool:
        return False

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return [f"synthetic {SHAPES_VERSION}"] * len(indices)

    def former_signature(self) -> Iterator[str]:
        yield f"synthetic shapes {SHAPES_VERSION} {len(self.names)}"


def open_synthetic(path: str) -> Source:
    """The procedural pictures that a path names.

    Args:
        path: `synthetic:NAME` with an optional `:LENGTH`.

    Raises:
        UserError: If there is no such source, or not so many pictures.
    """
    _, name, *length = path.split(":")
    if name not in _SYNTHETIC:
        raise UserError(f"there is no synthetic source {name!r}; use one of: {', '.join(_SYNTHETIC)}")
    if not length:
        return _Shapes(_SYNTHETIC_LENGTH)
    if len(length) > 1 or not length[0].isdecimal() or not length[0].strip("0"):
        raise UserError(
            f"{path!r} does not say how many pictures; write synthetic:{name}:1000 for the first 1000 of them"
        )
    # Of very many digits int() makes no number.
    if len(length[0].lstrip("0")) > 9 or int(length[0]) > _MOST_SYNTHETIC:
        raise UserError(f"{path} are more pictures than anybody needs; give synthetic:{name}:{_MOST_SYNTHETIC} at most")
    return _Shapes(int(length[0]))
