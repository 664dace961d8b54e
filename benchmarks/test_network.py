"""Flexi-UNet: against diffusers' UNet2DModel of the same widths, in both precisions, and the time and memory of every path."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from scalespace import FlexiUNet
from scalespace.networks.flops import path_gflops
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import preset

SIZES = ((64, 64), (32, 32), (16, 16), (8, 8))
PATHS = [(size, target) for i, size in enumerate(SIZES) for target in SIZES[max(i - 1, 0) : i + 1][::-1]]
_MEDIANS: dict[Any, float] = {}


def flexi_unet():
    """The 64-pixel preset."""
    return FlexiUNet(sizes=SIZES)


def diffusers_unet():
    """A UNet2DModel of the same widths, attention and normalisation."""
    return UNet2DModel(
        sample_size=64,
        block_out_channels=(128, 256, 384, 512),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=96,
        resnet_time_scale_shift="scale_shift",
        norm_eps=1e-5,
    )


def forward_and_backward(network, x, target=None, bf16=False):
    """One training step's work on the network, its gradients dropped."""
    arguments = {} if target is None else {"target_size": target}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prediction = network(x, torch.full((len(x),), 500), **arguments).sample
    prediction.float().square().mean().backward()
    network.zero_grad(set_to_none=True)


def median_of(benchmark, *arguments, rounds=5, **options):
    benchmark.pedantic(forward_and_backward, args=arguments, kwargs=options, rounds=rounds, warmup_rounds=1)
    return benchmark.stats.stats.median


def test_full_path_forward_and_backward(benchmark):
    _MEDIANS["ours"] = median_of(benchmark, flexi_unet(), torch.randn(4, 3, 64, 64))


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_diffusers_unet_forward_and_backward(benchmark, report, bf16):
    network = diffusers_unet()
    median = _MEDIANS["diffusers", bf16] = median_of(benchmark, network, torch.randn(4, 3, 64, 64), bf16=bf16)
    if bf16:
        return
    ours, theirs = (sum(p.numel() for p in n.parameters()) / 1e6 for n in (flexi_unet(), network))
    report(
        f"forward and backward, 4 x 3 x 64 x 64: Flexi-UNet ({ours:.1f} M parameters) / diffusers' UNet2DModel "
        f"({theirs:.1f} M) = {_MEDIANS['ours'] / median:.2f} of the time"
    )


@pytest.mark.parametrize(("size", "target"), PATHS, ids=[f"{a[0]}to{b[0]}" for a, b in PATHS])
def test_path_in_bf16_against_diffusers_unet(benchmark, report, size, target):
    network = flexi_unet()
    median = median_of(benchmark, network, torch.randn(4, 3, *size), target, bf16=True)
    share = path_gflops(network, size, target) / path_gflops(network, SIZES[0], SIZES[0])
    in_float32, in_bf16 = (median / _MEDIANS["diffusers", bf16] for bf16 in (False, True))
    report(
        f"path {size[0]:2d} -> {target[0]:2d} in bf16 at batch 4, FLOPs {share:.3f}: {in_float32:.3f} of the time of "
        f"diffusers' UNet2DModel in float32 ({in_float32 / share:.2f} per FLOP), {in_bf16:.3f} of its time in bf16"
    )


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("size", [32, 16, 8])
def test_path_of_tiny(benchmark, report, size, bf16):
    torch.manual_seed(0)
    model = preset("tiny")
    network = build_network(model, build_scheduler(model).sizes)
    median = _MEDIANS[f"tiny {size}", bf16] = median_of(benchmark, network, torch.randn(32, 3, size, size), bf16=bf16)
    if bf16:
        report(
            f"tiny, {size:2d} -> {size:2d} at batch 32: bf16 {median / _MEDIANS[f'tiny {size}', False]:.2f} of float32's time"
        )


@pytest.mark.parametrize(("size", "target"), PATHS, ids=[f"{a[0]}to{b[0]}" for a, b in PATHS])
def test_path_forward_and_backward(benchmark, report, size, target):
    network, x = flexi_unet(), torch.randn(16, 3, *size)
    _MEDIANS[f"{size}{target}"] = median_of(benchmark, network, x, target, rounds=3)
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
