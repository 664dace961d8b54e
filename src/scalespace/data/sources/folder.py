"""A folder of pictures, searched to the bottom."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from scalespace.data.left_out import LeftOut, is_hidden, kind_of
from scalespace.data.sources.checksums import file_checksums
from scalespace.data.sources.decoding import reason
from scalespace.data.sources.files import Files

__all__ = ["Folder"]


class Folder(Files):
    """Pictures of a folder.

    Raises:
        OSError: If it cannot be read.
    """

    def __init__(self, root: Path):
        self._root = root
        self.left_out = LeftOut()
        self.names, self._bytes, self.folders = _walk(root, self.left_out)

    def open(self, index: int) -> IO[bytes]:
        return (self._root / self.names[index]).open("rb")

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return file_checksums(self._root, [self.names[index] for index in indices], progress)

    def former_signature(self) -> Iterator[str]:
        return (f"{name} {size}" for name, size in zip(self.names, self._bytes, strict=True))


def _walk(root: Path, left_out: LeftOut) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
    """Names of the pictures below `root` in sorted order, with sizes in bytes, and all folders."""

    def stop(error: OSError) -> None:
        if os.fspath(error.filename) == os.fspath(root):
            raise error
        left_out.add_folder(f"cannot be read ({reason(error)})", inside(error.filename))

    def inside(path: str | Path) -> str:
        return Path(path).relative_to(root).as_posix()

    found: dict[str, int] = {}
    folders: list[str] = []
    entered: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=stop):
        # Links are followed, but not in circles.
        for name in sorted(filter(is_hidden, below)):
            left_out.add_folder("hidden", inside(Path(folder, name)))
        below[:] = sorted(name for name in below if not is_hidden(name))
        if os.path.realpath(folder) in entered:
            left_out.add_folder("is read already under another name", inside(folder))
            below.clear()
            continue
        entered.add(os.path.realpath(folder))
        folders.append(inside(folder))
        above = "" if folder == os.fspath(root) else f"{folders[-1]}/"
        for file in files:
            kind = kind_of(file)
            if kind is None:
                try:
                    # A Path for each of many files would take longer than looking at them.
                    state = os.stat(f"{folder}/{file}")  # noqa: PTH116
                except OSError:
                    # A link may lead nowhere, which is met when the picture is decoded.
                    found[above + file] = 0
                    continue
                # Reading a pipe would wait for ever, and reading a device might not end.
                if stat.S_ISREG(state.st_mode):
                    found[above + file] = state.st_size
                else:
                    left_out.files["pipes or devices"] += 1
            else:
                left_out.files[kind] += 1
    names = tuple(sorted(found))
    return names, tuple(found[name] for name in names), tuple(name for name in folders if name != ".")
