"""Names for pictures that have labels and no folders: each lies in the folder of its class, as files would.

With that the classes, their numbers, and what is written by ``scalespace prepare`` are those of a folder.
"""

from collections import Counter
from collections.abc import Sequence

__all__ = ["class_folders"]


def class_folders(labels: Sequence[str]) -> dict[str, str]:
    """A folder's name for every class.

    Args:
        labels: Names of the classes, any text.
    """
    plain = {label: "".join("-" if part in "/\\" or ord(part) < 32 else part for part in label) for label in labels}
    plain = {label: name.lstrip(".").strip() or "-" for label, name in plain.items()}
    # Names that differ only in what cannot be written get their number besides.
    twice = {name for name, count in Counter(plain.values()).items() if count > 1}
    return {label: f"{name} {number}" if name in twice else name for number, (label, name) in enumerate(plain.items())}
