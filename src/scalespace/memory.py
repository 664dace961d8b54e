"""How much memory and disk there is, so that what is out of all proportion is refused before any of it is taken.

Who takes much says beforehand what it will take at least. Such a need is a lower bound: what is refused could not have
worked. A little too much still runs out of memory, which ``memory_ran_out`` tells from other errors.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from scalespace.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["check_disk", "check_memory", "free_memory", "memory_ran_out", "readable_bytes"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
"""Files in which Linux tells the memory limit of a container, for both versions of control groups."""
_BLOCK = 4096  # bytes of a disk that even the smallest file takes
# Words of torch's, of its allocators' for the kinds of devices, and of NumPy's.
_RAN_OUT = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "unable to allocate",
    "storage size calculation overflowed",
    "invalid buffer size",
)


def check_memory(task: str, needs: Mapping[str, int], lower: str, device: torch.device | str = "cpu") -> None:
    """Refuse what needs more memory than there is.

    Args:
        task: What needs it, as the beginning of a sentence: "training".
        needs: Bytes that it needs at least, by what they are for.
        lower: What to lower, as the end of a sentence: "lower --batch-size".
        device: Device that the memory is needed on.

    Raises:
        UserError: If more is needed than is free.
    """
    free, total = free_memory(device), sum(needs.values())
    if free is not None and total > free:
        largest = max(needs, key=lambda name: needs[name])
        most = f", most of it for {largest}" if len(needs) > 1 else f" for {largest}"
        here = "this machine" if str(device) == "cpu" else f"device {device}"
        raise UserError(
            f"{task} needs at least {readable_bytes(total)} of memory{most}, and {here} has {readable_bytes(free)} free; "
            f"{lower}"
        )


def check_disk(task: str, folder: Path, files: int, size: int, lower: str) -> None:
    """Refuse to write what the disk has no room for.

    Args:
        task: What would be written, as the beginning of a sentence: "100 pictures".
        folder: Where; it need not be there yet.
        files: Number of files; each takes some of the disk, however small it is.
        size: Bytes of all of them at least.
        lower: What to lower, as the end of a sentence.

    Raises:
        UserError: If more is needed than is free.
    """
    place = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), None)
    if place is None:
        return
    needed, free = max(size, files * _BLOCK), shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{task} need at least {readable_bytes(needed)} of disk, and {folder} has {readable_bytes(free)} free; {lower}"
        )


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that this process can still take on a device; None where that is not told."""
    if str(device).partition(":")[0] != "cpu":
        return _free_on_accelerator(device)
    memory = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([memory, *_limits()])


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on any device and in the words of any library."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError | ValueError) and any(words in str(error).lower() for words in _RAN_OUT)


def readable_bytes(number: int) -> str:
    """A number of bytes as text, for example "37 TB"."""
    value, unit = float(min(number, 10**30)), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if unit else f"{number} bytes"


def _limits() -> list[int]:
    found = []
    for file in _LIMITS:
        try:
            found.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            # Not Linux, no container, or "max".
            continue
    try:
        import resource
    except ImportError:
        return found
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        found.append(max(0, most - psutil.Process().memory_info().vms))
    return found


def _free_on_accelerator(device: torch.device | str) -> int | None:
    import torch

    kind = torch.device(device).type
    if kind in ("cuda", "xpu"):
        module = getattr(torch, kind)
        free, _ = module.mem_get_info(device)
        # What torch keeps for later tensors is free for them too.
        return free + module.memory_reserved(device) - module.memory_allocated(device)
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None
