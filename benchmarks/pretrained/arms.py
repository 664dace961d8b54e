"""What is compared: the same network, sampled at one resolution, by another method's expansion, by ours, and trained further.

The expansion is that of Spectral Progressive Diffusion (Xiao et al. 2026, arXiv 2605.18736): pictures made smaller in the
orthonormal DCT, the new band filled with noise, and changes where the spectrum of the pictures sinks below their delta of 0.01.
Approximate in it: the changes lie where ``FromSpectrum`` puts them; the noise is ``Shifted``, which aligns times at a change as
theirs does and comes back to the last SNR of the training; and the steps inside a level are our second-order solver's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from scalespace.diffusion.bridges import SpectralExpansion
from scalespace.diffusion.degradation import DCTResizing
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.manifest import checksum
from scalespace.networks.flops import path_gflops
from scalespace.operators.linear import Size
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.source import Pretrained, read_pretrained
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.planning.acceleration import accelerate
from scalespace.training.models import opened

__all__ = ["ARMS", "DELTA", "Arm", "arms", "chain_gflops", "in_bf16"]

DELTA = 0.01
"""Where Spectral Progressive Diffusion leaves a level."""
ARMS = {
    "full-ddim": "full resolution, DDIM",
    "full": "full resolution, second order",
    "expansion": "expansion (Xiao et al. 2026)",
    "ours": "ours, untrained",
    "tuned": "ours, trained further",
    "control": "full resolution, trained further",
}


@dataclass(frozen=True)
class Arm:
    """One way of drawing.

    Args:
        name: One of ``ARMS``.
        pipeline: Draws.
        weights: Checksum of the weights.
    """

    name: str
    pipeline: ScaleSpacePipeline
    weights: str


class Expanding(ScaleSpaceScheduler):
    """Raises the resolution by ``SpectralExpansion``."""

    def _use(self, grid: tuple[int, ...], device: str | torch.device | None = None) -> None:
        super()._use(grid, device)
        self._solver: Any = SpectralExpansion(self.process, self._solver)


def arms(
    model: Path,
    levels: int,
    tolerance: float,
    measure: Callable[[Size], Tensor],
    further: dict[str, Path],
    names: tuple[str, ...],
) -> list[Arm]:
    """The ways of drawing that are asked for.

    Args:
        model: Folder of a pretrained model.
        levels: Number of its resolutions, where it samples progressively.
        tolerance: Where ours leaves a level.
        measure: Gives the mean spectrum of the pictures of a size.
        further: Folders of models or runs that were trained further, by the names of their arms.
        names: Some of ``ARMS``.

    Raises:
        UserError: If a model cannot be read, or has no such levels.
    """
    source, measured = read_pretrained(model), cache(measure)
    digest = checksum(next(source.part.glob("*.safetensors")))
    made = {
        "full-ddim": lambda: _sampled(accelerate(source, 1, tolerance, measured).pipeline(None), "ddim", "linspace"),
        "full": lambda: _sampled(accelerate(source, 1, tolerance, measured).pipeline(None)),
        "expansion": lambda: _expansion(source, levels, measured),
        "ours": lambda: _sampled(accelerate(source, levels, tolerance, measured).pipeline(None)),
    }
    found = [Arm(name, make(), digest) for name, make in made.items() if name in names]
    for name, path in further.items():
        if name in names:
            pipeline, file = opened(path, print, progress=False)
            found.append(Arm(name, _sampled(pipeline), checksum(file)))
    return found


def _sampled(pipeline: ScaleSpacePipeline, solver: str = "corrected", spacing: str = "log_snr") -> ScaleSpacePipeline:
    use_solver(pipeline, solver=solver, timestep_spacing=spacing)
    return pipeline


def _expansion(source: Pretrained, levels: int, measure: Callable[[Size], Tensor]) -> ScaleSpacePipeline:
    placed = accelerate(source, levels, DELTA, measure)
    degradation = DCTResizing(placed.scheduler.sizes, tuple(change.first for change in placed.changes))
    noise = source.scheduler(placed.scheduler.sizes[:1], ()).process.noise
    scheduler = Expanding(
        process=ScaleSpaceProcess(Shifted(noise, degradation), degradation),
        prediction_type=source.prediction_type,
        solver="corrected",
        timestep_spacing="log_snr",
        **source.clipping,
    )
    return ScaleSpacePipeline(source.network(scheduler.sizes), scheduler)


def chain_gflops(pipeline: ScaleSpacePipeline) -> float:
    """GFLOPs of all calls for one picture, at the timesteps that were chosen last."""
    unet, process = pipeline.unet, pipeline.scheduler.process
    with torch.device("meta"):
        outline = type(unet).from_config(unet.config)
    of_size = cache(partial(path_gflops, outline))
    sizes = [process.size(timestep + 1) for timestep in pipeline.scheduler.timesteps.tolist()]
    return sum(of_size(size, size) for size in sizes)


def in_bf16(pipeline: ScaleSpacePipeline) -> None:
    """Let the network compute in bf16, as it was trained; states, weights and predictions stay in float32."""
    forward = pipeline.unet.forward

    def halved(*given: Any, **options: Any) -> UNet2DOutput:
        with torch.autocast(pipeline.device.type, torch.bfloat16):
            output = forward(*given, **options)
        return UNet2DOutput(sample=output.sample.float())

    pipeline.unet.forward = halved
