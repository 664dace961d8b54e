"""What was measured of pictures, kept in the user's cache folder, so that the same pictures need not be read again.

A measurement is a function of the pictures' contents, of how they are brought to their size, and of what is measured. Its file
is named by these, and holds a checksum. A file that is damaged is measured and written again, and where nothing can be kept
everything works, only slower. The oldest files make room for new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scalespace.data.user_cache import keep, kept_file, make_room

__all__ = ["measured_once"]

# Part of a file's name: to be changed with anything that changes a measurement.
_METHOD = "1"
_LARGEST, _TOTAL = 2**29, 2**31  # bytes of one file and of all


def measured_once(
    content: str | None,
    what: str,
    measure: Callable[[], dict[str, Tensor]],
    may_be_kept: Callable[[], bool] = lambda: True,
) -> dict[str, Tensor]:
    """Take a measurement from the user's cache folder, or make it and keep it there.

    Args:
        content: Fingerprint of the pictures and of their preparation. None measures without keeping anything.
        what: What is measured, with everything else that the result depends on.
        measure: Function that makes the measurement.
        may_be_kept: Says, once the measurement is made, whether it depends on nothing but ``content`` and ``what``.
    """
    if content is None:
        return measure()
    place = kept_file("measurements", f"{content}; {what}; {_METHOD}", ".safetensors")
    found = _load(place)
    if found is None:
        found = measure()
        data = {name: tensor.contiguous() for name, tensor in found.items()}
        if sum(tensor.nbytes for tensor in data.values()) <= _LARGEST and may_be_kept():
            keep(place, save(data, {"checksum": _checksum(data)}))
            if place is not None:
                make_room(place, _TOTAL)
    return found


def _load(place: Path | None) -> dict[str, Tensor] | None:
    """Read a measurement that was kept. None if there is none, or it is damaged."""
    try:
        if place is None or not place.is_file():
            return None
        with safe_open(place, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            checksum = (file.metadata() or {}).get("checksum")
    except (OSError, ValueError, SafetensorError):
        return None
    if _checksum(found) != checksum:
        return None
    with contextlib.suppress(OSError):
        place.touch()
    return found


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().flatten().numpy().data)
    return digest.hexdigest()
