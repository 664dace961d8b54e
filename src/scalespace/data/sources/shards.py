"""Pictures in tar files, named as webdataset names them: ``KEY.jpg`` with its label in ``KEY.cls`` or ``KEY.json``.

The headers are read once, so that every picture can be read by its place in its file, in any order, from any process.
Nothing but text is taken of labels: a number or a name in ``KEY.cls``, or under "cls", "class" or "label" in ``KEY.json``.
"""

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scalespace.data.left_out import LeftOut, counted, kind_of
from scalespace.data.sources.checksums import packed_checksums
from scalespace.data.sources.files import LARGEST_FILE, Files
from scalespace.data.sources.labelled import class_folders
from scalespace.errors import UserError, cause
from scalespace.reading import check_readable

__all__ = ["Shards", "expanded"]

_LABELS = (".cls", ".json")
_FIELDS = ("cls", "class", "label")
_LARGEST_LABEL = 1 << 20  # bytes
_MOST = 1_000_000  # shards


@dataclass(frozen=True)
class _Entry:
    shard: int
    name: str
    start: int
    size: int


class Shards(Files):
    """Pictures of tar files.

    Args:
        paths: The files; their order makes no difference.

    Raises:
        UserError: If one is not there, cannot be read, is compressed or is no whole tar file.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = tuple(sorted(paths))
        self.left_out = LeftOut()
        self.folders: tuple[str, ...] = ()
        pictures: list[_Entry] = []
        labels: dict[tuple[int, str], str] = {}
        for shard in range(len(self._paths)):
            for entry in self._entries_of(shard):
                kind = kind_of(entry.name)
                if kind is None:
                    pictures.append(entry)
                elif kind not in _LABELS:
                    self.left_out.files[kind] += 1
                elif (label := self._label(entry, kind)) is not None:
                    labels[shard, _key(entry.name)] = label
        named = class_folders(sorted(set(labels.values())))
        names = []
        for entry in pictures:
            label = labels.get((entry.shard, _key(entry.name)))
            names.append(entry.name if label is None else f"{named[label]}/{entry.name}")
        # Some sets count anew in every shard.
        if len(set(names)) < len(names):
            names = [
                _in_shard(name, self._paths[entry.shard].stem) for name, entry in zip(names, pictures, strict=True)
            ]
        if len(set(names)) < len(names):
            name = next(name for name, count in Counter(names).items() if count > 1)
            raise UserError(f"{self._paths[0].parent} holds two pictures {name}; give every picture a name of its own")
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = tuple(names[number] for number in order)
        self._pictures = tuple(pictures[number] for number in order)

    def open(self, index: int) -> IO[bytes]:
        return io.BytesIO(self._read(self._pictures[index], LARGEST_FILE + 1))

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return packed_checksums(
            self._paths, "", indices, lambda index: self._read(self._pictures[index], LARGEST_FILE), progress
        )

    def former_signature(self) -> Iterator[str]:
        return (f"{name} {entry.size}" for name, entry in zip(self.names, self._pictures, strict=True))

    def _entries_of(self, shard: int) -> Iterator[_Entry]:
        path = self._paths[shard]
        if not path.exists():
            raise UserError(
                f"there is no shard {path}; give the shards that are there, such as 'shards/{{000..009}}.tar'"
            )
        check_readable(path)
        try:
            # Not "r", which would also unpack: what is compressed has no places to read from.
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isreg() and not member.issparse():
                        yield _Entry(shard, member.name.removeprefix("./"), member.offset_data, member.size)
                    elif not member.isdir():
                        self.left_out.files["links or devices"] += 1
                end = archive.offset
            # To tarfile a file that is cut inside of a header just ends there.
            with path.open("rb") as file:
                file.seek(end)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise EOFError("its end is missing")
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is no whole tar file without compression ({cause(error)}); copy it again, or unpack it with gunzip"
            ) from error

    def _read(self, entry: _Entry, most: int) -> bytes:
        # Opened each time, since processes that were forked would share one place to read from.
        with self._paths[entry.shard].open("rb") as file:
            file.seek(entry.start)
            content = file.read(min(entry.size, most))
        if len(content) < min(entry.size, most):
            raise OSError("the shard ends before its picture does")
        return content

    def _label(self, entry: _Entry, kind: str) -> str | None:
        text = self._read(entry, _LARGEST_LABEL).decode("utf-8", "replace").strip()
        if kind == ".cls":
            return text or None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        values = [found[name] for name in _FIELDS if name in found] if isinstance(found, dict) else []
        return str(values[0]) if values and isinstance(values[0], str | int) and str(values[0]) else None


def expanded(pattern: str) -> tuple[str, ...]:
    """The paths that a pattern stands for: ``{000..009}`` for numbers and ``{a,b}`` for words, any number of them.

    Raises:
        UserError: If they are more than a million.
    """
    paths = [""]
    for part in re.split(r"(\{[^{}]*\})", pattern):
        inner = part[1:-1]
        numbers = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", inner) if part.startswith("{") else None
        if numbers is not None:
            first, last = numbers.groups()
            count = range(int(first), int(last) + 1)
            width = len(first) if first.startswith("0") else 0
            if len(count) * len(paths) > _MOST:
                raise UserError(f"{pattern} stands for more than {counted(_MOST, 'shard')}; give fewer")
            choices = [f"{number:0{width}}" for number in count]
        else:
            choices = inner.split(",") if part.startswith("{") else [part]
        paths = [path + choice for path in paths for choice in choices]
    return tuple(dict.fromkeys(paths))


def _key(name: str) -> str:
    """What the files of one sample have in common: their name up to its first dot."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _in_shard(name: str, shard: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{shard} {file}" if folder else f"{shard} {file}"
