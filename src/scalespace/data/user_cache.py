"""What is worth keeping between two commands: files in the user's cache folder, whole or absent, without which all works."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from scalespace.errors import UserError
from scalespace.files import write_file

__all__ = ["keep", "kept_file", "make_room"]


def kept_file(kind: str, key: str, ending: str) -> Path | None:
    """Path of something that is kept. None if the user has no folder for such things.

    Args:
        kind: Name of a folder for things of its kind.
        key: All that the content depends on.
        ending: Ending of the file's name, for example ".json".
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        try:
            root = Path.home() / ".cache"
        except RuntimeError:
            return None
    return root / "scalespace" / kind / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}{ending}"


def keep(place: Path | None, content: bytes) -> None:
    """Write a file that may be lost: on a full disk, or where there is no place, nothing happens.

    Args:
        place: Path that ``kept_file`` gave.
        content: Content of the file.
    """
    if place is None:
        return

    def write(file: Path) -> None:
        file.write_bytes(content)

    with contextlib.suppress(UserError):
        write_file(place, write)


def make_room(place: Path, largest: int) -> None:
    """Remove the files of its kind that were not used for longest, as far as all together are too large.

    Args:
        place: Path that ``kept_file`` gave. Files beside it with the same ending are of its kind.
        largest: Bytes that all of them may take.
    """
    # Another process may remove files at the same time.
    with contextlib.suppress(OSError):
        states = [(path.stat(), path) for path in place.parent.glob(f"*{place.suffix}")]
        total = sum(state.st_size for state, _ in states)
        for state, path in sorted(states, key=lambda entry: entry[0].st_mtime_ns):
            if total <= largest:
                break
            path.unlink(missing_ok=True)
            total -= state.st_size
