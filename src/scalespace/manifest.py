"""Manifests: what a folder held when it was written, as the size and the SHA-256 of each of its files.

A manifest is written last, so a folder that has one was whole. Later it proves that the files are still those: a bit that
flipped, a tail that was lost, or a file of another folder changes a checksum. It is no guard against forgery, since whoever
can write the folder can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scalespace.errors import UserError
from scalespace.reading import check_readable, read_json, reading

__all__ = ["MANIFEST", "Manifest", "checksum", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
"""Name of the file, inside the folder that it tells about."""

_PIECE = 1 << 20  # bytes read at once
_BAR_DELAY = 2.0  # seconds without a bar


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Args:
        facts: What else was true of the folder.
        files: Size in bytes and SHA-256 of its files, by their paths inside it.
    """

    facts: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]

    def change(self, folder: Path, names: Iterable[str] | None = None, progress: bool = False) -> str | None:
        """What is different in the first file that is not as it was written; None where all are.

        Args:
            folder: The folder.
            names: Look at these files only.
            progress: Whether reading that takes over two seconds shows a bar on stderr.

        Raises:
            UserError: If a file cannot be read, which tells nothing of what is in it.
        """
        chosen = sorted(self.files if names is None else names)
        # Sizes first, which cost nothing.
        for name in chosen:
            if (found := self.change_of_size(folder, name)) is not None:
                return found
        total = sum(self.files[name][0] for name in chosen)
        with tqdm(
            desc=f"checking {folder.name}",
            total=total,
            unit="B",
            unit_scale=True,
            delay=_BAR_DELAY,
            leave=False,
            disable=not progress,
            file=sys.stderr,
        ) as bar:
            for name in chosen:
                with reading(folder / name, "restore it"):
                    if checksum(folder / name, bar) != self.files[name][1]:
                        return f"{name} has other contents than were written"
        return None

    def change_of_size(self, folder: Path, name: str) -> str | None:
        """What is different in a file, as far as it can be seen without reading it; None if nothing is."""
        if name not in self.files:
            return f"{name} is not in {MANIFEST}"
        size, file = self.files[name][0], folder / name
        check_readable(file)
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, and {size:,} were written"
        return None


def write_manifest(
    folder: Path,
    names: Iterable[str] | None = None,
    facts: Mapping[str, Any] | None = None,
    known: Mapping[str, tuple[int, str]] | None = None,
) -> None:
    """Write the manifest of a folder into it.

    Args:
        folder: The folder, with everything else in it.
        names: Paths of the files to put into it; None takes all.
        facts: What else is to be known of the folder; anything that JSON holds.
        known: Entries of files that an earlier manifest proves and that have not been written since.

    Raises:
        OSError: If a file cannot be read, or the manifest cannot be written.
    """
    if names is None:
        found = (path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in found if path != folder / MANIFEST]
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": checksum(folder / name)} for name in sorted(names)
    } | {name: {"size": size, "sha256": sha256} for name, (size, sha256) in (known or {}).items()}
    text = json.dumps({**(facts or {}), "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path, remedy: str) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Args:
        folder: The folder.
        remedy: What to do if it is damaged.

    Raises:
        UserError: If it cannot be read or is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    content = read_json(file, remedy)
    files = content.pop("files", None)
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        raise UserError(f"{file} is damaged (no sizes and checksums of files); {remedy}")
    return Manifest(content, {name: (entry["size"], entry["sha256"]) for name, entry in files.items()})


def checksum(file: Path, bar: tqdm | None = None) -> str:
    """SHA-256 of a file, as hexadecimal digits; a bar is told the bytes that were read."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
            if bar is not None:
                bar.update(len(piece))
    return digest.hexdigest()


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"size", "sha256"}
        and type(entry["size"]) is int
        and isinstance(entry["sha256"], str)
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
    )
