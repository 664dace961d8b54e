"""Classes of pictures: the folders that they lie in, numbered in natural order.

As in torchvision's ImageFolder the first folder of a picture's path is its class, and folders further down belong to it.
Folders that all pictures have in common (``photos/`` in ``photos/CLASS/0001.jpg``) only wrap the others and are no classes.
There are no classes where a picture lies in none of the folders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from scalespace.data.left_out import counted
from scalespace.errors import UserError

__all__ = ["Classes", "find_classes", "listed", "natural_order", "parts_of", "wrapping_folders"]

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_SHOWN, _LONGEST = 10, 300  # classes that are named, and characters of their names together


@dataclass(frozen=True)
class Classes:
    """The classes of numbered pictures.

    Args:
        names: Names of the classes; a label is an index into it. Empty where there are no classes.
        labels: The label of every picture; 0 where there are no classes.
        obstacle: Why there are no classes, as the end of a sentence about the data; empty where there are some.
        stray: Whether that is because of pictures beside the folders of others.
        empty: Folders without any picture in them.
        deeper: Whether a picture of a class lies in a folder below the class's own.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    obstacle: str
    stray: bool
    empty: tuple[str, ...]
    deeper: bool

    def lines(self) -> tuple[str, ...]:
        """What a user wants to know of the classes before a training, one sentence a line."""
        lines: list[str] = []
        if self.names:
            counts = Counter(self.labels)
            told = listed([f"{name} ({counts[number]:,})" for number, name in enumerate(self.names)])
            deeper = "; pictures in folders further down belong to the first folder" if self.deeper else ""
            lines.append(f"classes: {told}{deeper}")
        elif self.stray:
            lines.append(f"no classes, since {self.obstacle}")
        if self.empty:
            lines.append(f"no pictures in {listed(self.empty)}")
        return tuple(lines)

    def check(self, path: str, num_classes: int) -> None:
        """Refuse data whose classes are not as many as a network is to have.

        Args:
            path: Path of the data, for the message.
            num_classes: Number of classes of the network.

        Raises:
            UserError: If there are none, or more or fewer.
        """
        empty = f" (no pictures in {listed(self.empty)})" if self.empty else ""
        if not self.names:
            raise UserError(
                f"--network.num-classes is {num_classes}, and {path} has no classes, since {self.obstacle}{empty}; put every "
                "picture into the folder of its class, give every one a label, or give --network.num-classes None"
            )
        if len(self.names) != num_classes:
            raise UserError(
                f"--network.num-classes is {num_classes}, and {path} has {counted(len(self.names), 'class folder')}: "
                f"{listed(self.names)}{empty}; give --network.num-classes {len(self.names)}, or None to leave classes out"
            )


def find_classes(path: str, names: Sequence[str], folders: Iterable[str] = ()) -> Classes:
    """The classes of pictures by their names.

    Args:
        path: Path of the data, for messages.
        names: Paths of the pictures inside the data, with "/" between folders.
        folders: Paths of all folders of the data, of which some may hold no pictures.

    Raises:
        UserError: If the top folders are splits, such as train and test, and not classes.
    """
    parents = [parts_of(name)[:-1] for name in names]
    wrapping = _shared(parents)
    depth = len(wrapping)
    tops = [parts[depth] if len(parts) > depth else None for parts in parents]
    classes = natural_order({top for top in tops if top is not None})
    if len(classes) > 1 and all(top.lower() in _SPLITS for top in classes):
        raise UserError(
            f"{path} holds several splits ({', '.join(classes)}) and not classes; give one of them alone, "
            "as a folder or a zip of its own"
        )
    filled = {"/".join(parts[:length]) for parts in set(parents) for length in range(1, len(parts) + 1)}
    # Of folders without a picture that lie in each other the topmost one is told.
    above = {".", *filled}
    empty = {name for name in folders if name not in filled and PurePosixPath(name).parent.as_posix() in above}
    outside = [name for name, top in zip(names, tops, strict=True) if top is None]
    if outside or not classes:
        obstacle = _obstacle(outside, classes, "/".join(wrapping))
        return Classes((), (0,) * len(names), obstacle, bool(classes), natural_order(empty), False)
    number = {name: label for label, name in enumerate(classes)}
    labels = tuple(number[top] for top in tops if top is not None)
    deeper = any(len(parts) > depth + 1 for parts in parents)
    return Classes(classes, labels, "", False, natural_order(empty), deeper)


def wrapping_folders(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that all pictures have in common."""
    return _shared([parts_of(name)[:-1] for name in names])


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a path inside the data. ``PurePosixPath.parts`` takes long for each of many."""
    parts = name.split("/")
    return PurePosixPath(name).parts if "" in parts or "." in parts else tuple(parts)


def _shared(parents: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    # What the first and the last in sorted order have in common, all have.
    first, last = min(parents, default=()), max(parents, default=())
    depth = next((depth for depth, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[: min(len(first), len(last)) if depth is None else depth]


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted as people count: "2" before "10"."""

    def key(name: str) -> tuple[list[object], str]:
        # Words and numbers take turns. Of numbers without leading zeros the longer one is larger.
        parts = [part.lstrip("0") if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))]
        return [(len(part), part) if place % 2 else part for place, part in enumerate(parts)], name

    return tuple(sorted(names, key=key))


def listed(names: Sequence[str]) -> str:
    """Names with commas between them, of many or long ones the first and how many there are besides."""
    shown = list(names[:_SHOWN])
    while len(shown) > 1 and len(", ".join(shown)) > _LONGEST:
        shown.pop()
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _obstacle(outside: Sequence[str], classes: Sequence[str], wrapping: str) -> str:
    if classes:
        more = f" and {len(outside) - 1:,} more" if len(outside) > 1 else ""
        lies = "lie" if len(outside) > 1 else "lies"
        return f"{outside[0]}{more} {lies} beside the folders {listed(classes)}"
    if wrapping:
        return f"all its pictures lie in one folder, {wrapping}"
    return f"its pictures lie in no folder ({outside[0]})"
