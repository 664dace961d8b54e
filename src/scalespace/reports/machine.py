"""What a result was computed on, by name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["device_name"]

_PROCESSORS = Path("/proc/cpuinfo")
"""Where Linux tells the processor; Python's own answer there is often empty."""


def device_name(device: torch.device) -> str:
    """Name of the accelerator or of the processor, as its maker calls it where that is known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = _PROCESSORS.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
