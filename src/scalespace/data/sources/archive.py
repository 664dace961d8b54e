"""A zip of pictures."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from scalespace.data.left_out import LeftOut, is_hidden, kind_of
from scalespace.data.sources.checksums import checksum
from scalespace.data.sources.files import Files

__all__ = ["Zip"]


class Zip(Files):
    """Pictures of a zip.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, ValueError or struct.error: If it cannot be read or is no zip.
    """

    def __init__(self, path: Path):
        self._path = path
        self._archive: zipfile.ZipFile | None = zipfile.ZipFile(path)
        self._process = os.getpid()
        self.left_out = LeftOut()
        found: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for entry in self._archive.infolist():
            # Some programs on Windows write their own separator, against the format.
            name = entry.filename.replace("\\", "/")
            if name.endswith("/"):
                folders.add(PurePosixPath(name).as_posix())
            elif (kind := kind_of(name)) is not None:
                self.left_out.files[kind] += 1
            elif name in found:
                self.left_out.files["of a name that comes again"] += 1
                found[name] = entry
            else:
                found[name] = entry
        self.names = tuple(sorted(found))
        self.folders = tuple(sorted(name for name in folders if not any(map(is_hidden, name.split("/")))))
        self._entries = tuple(found[name] for name in self.names)

    def open(self, index: int) -> IO[bytes]:
        # Forked processes share one file offset, so each opens the archive for itself.
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self._path), os.getpid()
        return self._archive.open(self._entries[index])

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return [checksum(self._entries[index].file_size, self._entries[index].CRC) for index in indices]

    def former_signature(self) -> Iterator[str]:
        return (f"{entry.filename} {entry.CRC:08x}" for entry in self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}
