"""What lies beside the pictures of a folder or a zip and is not read, counted by kind so that it can be told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["EXTENSIONS", "LeftOut", "counted", "is_hidden", "kind_of"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
"""Endings of the files that are read as pictures."""

_SHOWN = 6  # kinds that are told one by one


@dataclass
class LeftOut:
    """Files and folders that were found and not read."""

    files: Counter[str] = field(default_factory=Counter)
    """Number of files of every kind, for example {".gif": 5, "hidden": 2}."""
    folders: dict[str, list[str]] = field(default_factory=dict)
    """Names of folders whose contents were not looked at, by the reason."""

    def add_folder(self, why: str, name: str) -> None:
        """Count a folder that was not entered.

        Args:
            why: "hidden", or the end of a sentence such as "cannot be read".
            name: Path inside the data.
        """
        self.folders.setdefault(why, []).append(name)

    def __str__(self) -> str:
        """For example "7 files were not read: 5 .gif, 2 hidden"; empty where nothing was left out."""
        parts: list[str] = []
        if self.files:
            kinds = sorted(self.files.items(), key=lambda item: (-item[1], item[0]))
            told = [f"{number:,} {kind}" for kind, number in kinds[:_SHOWN]]
            rest = sum(number for _, number in kinds[_SHOWN:])
            told += [f"{rest:,} of other kinds"] if rest else []
            total = self.files.total()
            were = "was" if total == 1 else "were"
            parts.append(f"{counted(total, 'file')} {were} not read: {', '.join(told)}")
        for why, names in self.folders.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            if why == "hidden":
                parts.append(f"{counted(len(names), 'hidden folder')} not entered ({names[0]}{more})")
            else:
                parts.append(f"the folder {names[0]}{more} {why}")
        return "; ".join(parts)


def kind_of(name: str) -> str | None:
    """Why a file is not read as a picture; None where it is one.

    Args:
        name: Path inside the data, with "/" between folders.

    Returns:
        "hidden", also inside hidden folders and what macOS adds to zips, or the file's ending.
    """
    parts = [part for part in name.split("/") if part != "."]
    if any(map(is_hidden, parts)):
        return "hidden"
    stem, _, ending = parts[-1].rpartition(".")
    ending = f".{ending.lower()}" if stem and ending else ""
    return None if ending in EXTENSIONS else ending or "without an ending"


def is_hidden(part: str) -> bool:
    """Whether a file or folder of that name is none of the user's own."""
    return part.startswith(".") or part == "__MACOSX"


def counted(number: int, thing: str) -> str:
    """A number with its noun, for example "1 file", "1,204 files" or "2 classes"."""
    return f"{number:,} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"
