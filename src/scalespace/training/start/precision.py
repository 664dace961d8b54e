"""Which precision the network's arithmetic has, where the user leaves it to the machine or to accelerate's configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch

from scalespace.errors import UserError
from scalespace.processes import join
from scalespace.training.configuration import TrainConfig
from scalespace.training.run_directory import recorded

__all__ = ["computes_bf16", "with_precision"]

_SETTING = "ACCELERATE_MIXED_PRECISION"


def with_precision(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The run with a precision, where its configuration leaves that open.

    It is then the one that accelerate is configured for, the one that the run began with, or what the device is fast at.
    accelerate launch says "no" unless it is told otherwise, so that counts only for a run that has not begun.

    Raises:
        UserError: If accelerate is configured for another one than the run.
    """
    asked, setting = config.mixed_precision, os.environ.get(_SETTING, "").lower()
    half = setting in ("bf16", "fp16")
    if asked != "auto":
        if half and setting != asked:
            raise UserError(
                f"accelerate is configured for precision {setting} ({_SETTING}), and --mixed-precision is {asked}; give both "
                "the same, or leave one of them out"
            )
        return config
    device, begun = join().own_device(), recorded(config.output_dir, "mixed_precision")
    if half:
        precision, why = setting, "as accelerate is configured"
    elif begun in ("no", "bf16", "fp16"):
        precision, why = begun, "as the run began"
    elif setting == "no":
        precision, why = setting, "as accelerate is configured"
    elif computes_bf16(device):
        precision, why = "bf16", f"the {device} multiplies it"
    else:
        precision, why = "no", f"the {device} has no fast bf16"
    say(f"precision {precision} ({why}; --mixed-precision chooses another)")
    return replace(config, mixed_precision=precision)


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
