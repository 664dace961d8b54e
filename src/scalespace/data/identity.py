"""What identifies pictures: their contents, their order, and their names inside the folders that wrap all of them.

It does not depend on where they lie. A folder, the same folder elsewhere and a zip of it hold the same pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from scalespace.data.classes import parts_of, wrapping_folders
from scalespace.data.sources.source import Source

__all__ = ["fingerprint", "former_fingerprint"]


def fingerprint(source: Source, rule: str, numbers: Sequence[int] | None = None, progress: bool = True) -> str:
    """The identity of pictures, as a word of letters and digits after "contents:".

    Args:
        source: The pictures.
        rule: What else makes a picture what it is.
        numbers: Which of the pictures; all of them where None.
        progress: Whether reading files that takes over two seconds shows a bar on stderr.
    """
    chosen = range(len(source.names)) if numbers is None else numbers
    wrapping = len(wrapping_folders(source.names))
    digest = hashlib.sha256(f"{rule}\n".encode())
    for number, word in zip(chosen, source.checksums(chosen, progress), strict=True):
        name = "/".join(parts_of(source.names[number])[wrapping:])
        digest.update(f"{name} {word}\n".encode("utf-8", "surrogateescape"))
    return f"contents:{digest.hexdigest()}"


def former_fingerprint(source: Source, rule: str) -> str:
    """What runs of earlier versions know the pictures by: names with sizes or, in a zip, checksums."""
    digest = hashlib.sha256(f"{rule}\n".encode())
    for word in source.former_signature():
        digest.update(word.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
