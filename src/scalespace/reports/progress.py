"""Progress bars, all of which look alike: on stderr, and only for what takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]

_DELAY = 2.0  # seconds without a bar


def progress_bar(what: Iterable[Any] | int, doing: str, unit: str, shown: bool) -> tqdm:
    """Make a progress bar.

    Args:
        what: Items to go through, or a number of them, for a bar that its user moves on.
        doing: What is being done, for example "reading pictures".
        unit: Name of the items in the plural.
        shown: Whether there is a bar at all.
    """
    items, total = (None, what) if isinstance(what, int) else (what, None)
    return tqdm(items, total=total, desc=doing, unit=f" {unit}", delay=_DELAY, disable=not shown, file=sys.stderr)
