"""Flexi-UNet: against diffusers' UNet2DModel of the same widths, and the time and memory of every path."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from scalespace import FlexiUNet
from scalespace.networks.flops import path_gflops

SIZES = ((64, 64), (32, 32), (16, 16), (8, 8))
PATHS = [(size, target) for i, size in enumerate(SIZES) for target in SIZES[max(i - 1, 0) : i + 1][::-1]]
_MEDIANS: dict[str, float] = {}


def flexi_unet():
    """The 64-pixel preset."""
    return FlexiUNet(sizes=SIZES)


def forward_and_backward(network, x, target=None):
    """One training step's work on the network, its gradients dropped."""
    arguments = {} if target is None else {"target_size": target}
    network(x, torch.full((len(x),), 500), **arguments).sample.square().mean().backward()
    network.zero_grad(set_to_none=True)


def test_full_path_forward_and_backward(benchmark):
    network, x = flexi_unet(), torch.randn(4, 3, 64, 64)
    benchmark.pedantic(forward_and_backward, args=(network, x), rounds=5, warmup_rounds=1)
    _MEDIANS["ours"] = benchmark.stats.stats.median


def test_diffusers_unet_forward_and_backward(benchmark, report):
    network = UNet2DModel(
        sample_size=64,
        block_out_channels=(128, 256, 384, 512),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=96,
        resnet_time_scale_shift="scale_shift",
        norm_eps=1e-5,
    )
    x = torch.randn(4, 3, 64, 64)
    benchmark.pedantic(forward_and_backward, args=(network, x), rounds=5, warmup_rounds=1)
    ours, theirs = (sum(p.numel() for p in n.parameters()) / 1e6 for n in (flexi_unet(), network))
    report(
        f"forward and backward, 4 x 3 x 64 x 64: Flexi-UNet ({ours:.1f} M parameters) / diffusers' UNet2DModel "
        f"({theirs:.1f} M) = {_MEDIANS['ours'] / benchmark.stats.stats.median:.2f} of the time"
    )


@pytest.mark.parametrize(("size", "target"), PATHS, ids=[f"{a[0]}to{b[0]}" for a, b in PATHS])
def test_path_forward_and_backward(benchmark, report, size, target):
    network, x = flexi_unet(), torch.randn(16, 3, *size)
    benchmark.pedantic(forward_and_backward, args=(network, x, target), rounds=3, warmup_rounds=1)
    _MEDIANS[f"{size}{target}"] = benchmark.stats.stats.median
    # Peak memory is the process's, so every path gets a process of its own.
    memory = subprocess.run(
        [sys.executable, __file__, str(size[0]), str(target[0])], check=True, capture_output=True, text=True
    ).stdout
    full = f"{SIZES[0]}{SIZES[0]}"
    time_share = _MEDIANS[f"{size}{target}"] / _MEDIANS[full]
    flops_share = path_gflops(network, size, target) / path_gflops(network, SIZES[0], SIZES[0])
    report(
        f"path {size[0]:2d} -> {target[0]:2d} at batch 16: time {time_share:.3f} of the full path, FLOPs {flops_share:.3f}, "
        f"time / FLOPs {time_share / flops_share:.2f}, peak memory {float(memory):.0f} MiB beyond the weights"
    )


def peak_memory(size, target):
    """MiB that one training step needs at its peak beyond the process with its weights."""
    network = flexi_unet()
    before = memory_in_kib("VmRSS")
    forward_and_backward(network, torch.randn(16, 3, size, size), (target, target))
    return (memory_in_kib("VmHWM") - before) / 1024


def memory_in_kib(field):
    """A field of the kernel's account of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {field}; peak memory is measured on Linux only")


if __name__ == "__main__":
    print(peak_memory(int(sys.argv[1]), int(sys.argv[2])))
