"""A picture by the 64-pixel 4-level preset in 50 calls, against the 1000 calls of DDPM: FLOPs and time."""

import time

import torch

from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler
from scalespace.networks.flops import path_gflops

SIZES = ((64, 64), (32, 32), (16, 16), (8, 8))
DDPM_CALLS = 50  # of the 1000, which all cost the same


def chain(network, scheduler):
    """Seconds of a chain of 50 calls for one picture."""
    pipeline = ScaleSpacePipeline(network.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    pipeline(1, num_inference_steps=50, generator=torch.Generator().manual_seed(0), output_type="pt")
    return time.perf_counter() - start


def test_fifty_calls_against_a_thousand(report):
    levels = ScaleSpaceScheduler(solver="multistep", timestep_spacing="log_snr", shifted=True)
    ddpm = ScaleSpaceScheduler(sizes=SIZES[:1], change_points=())
    networks = FlexiUNet(sizes=SIZES), FlexiUNet(sizes=SIZES[:1])
    chain(networks[0], levels)
    seconds = chain(networks[0], levels), chain(networks[1], ddpm) * 1000 / DDPM_CALLS
    assert len(ddpm.timesteps) == DDPM_CALLS
    with torch.device("meta"):
        counted = FlexiUNet(sizes=SIZES)
    sizes = [(levels.process.size(int(i) + 1), levels.target_size(i)) for i in levels.timesteps]
    flops = sum(path_gflops(counted, *pair) for pair in sizes), 1000 * path_gflops(counted, SIZES[0], SIZES[0])
    report(
        f"one picture, {len(sizes)} calls of 4 levels against 1000 of DDPM: FLOPs 1/{flops[1] / flops[0]:.1f}, "
        f"time 1/{seconds[1] / seconds[0]:.1f} ({seconds[0]:.1f} s against {seconds[1]:.0f} s)"
    )
    assert flops[1] > 25 * flops[0]
