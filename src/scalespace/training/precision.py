"""Which precision the network's arithmetic has, where the user leaves it to the machine."""

from __future__ import annotations

import torch

__all__ = ["computes_bf16"]


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in its hardware, so that bf16 is faster than float32.

    It is read off the capability flags of processor and driver, not timed: the answer is the same for every start of a run on
    one machine, however busy that is. A CPU must have AVX512-BF16 or AMX; one that only emulates bf16 is slower with it.
    """
    if device.type == "cpu":
        # Older versions of torch do not tell.
        flags = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported(including_emulation=False)
    return False
