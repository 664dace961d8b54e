"""Enlarging a small picture by the rest of the chain.

The state at a grid point t of a low resolution depends on the picture through its small version alone: x_t = alpha_t y +
sigma_t eps with y = M_{0->t} x_0. So a small picture gives x_t exactly, and the steps from t on draw what it does not tell.
On the way each prediction x0_s is replaced by the nearest one whose small version is y,

    x0_s + A^+ (y - A x0_s),  A = M_{s->t}

so that the result, brought down again, is the small picture, up to the range of pixels, in which the result is clipped.

Source of the replacement: Wang, Yu and Zhang 2022, DDNM (arXiv 2212.00490), here with the degradation of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.diffusion.degradation import Degradation
from scalespace.diffusion.prediction import Prediction
from scalespace.operators.linear import LinearOperator, Size
from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline, StepCallback
from scalespace.tasks.chain import Generators, check_pictures, own_scheduler, rest_of_chain, shown

__all__ = ["Consistent", "brought_down", "small_sizes", "upscale"]


@dataclass(frozen=True)
class Consistent(Prediction):
    """Another prediction, corrected so that its small version is a given picture.

    Args:
        noise: The noise of the process.
        base: The prediction to correct.
        degradation: The degradation of the process.
        small: The small picture y in [-1, 1], shape (B, C, h, w).
        at: A grid point of its resolution.
    """

    base: Prediction
    degradation: Degradation
    small: Tensor
    at: int

    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        x0_s = self.base.x0(output, x_t, t, M)
        A = self.degradation.operator(int(t), self.at) @ M
        return x0_s + A.adjoint_function(lambda e: 1 / e, self.small - A(x0_s))


def small_sizes(pipeline: ScaleSpacePipeline) -> tuple[Size, ...]:
    """Heights and widths of the pictures that a model can enlarge, from the largest down.

    Raises:
        ValueError: If there are none.
    """
    small = pipeline.scheduler.sizes[1:]
    if not small:
        raise ValueError(
            "the model has one resolution, {}x{}, and no rest of a chain that could enlarge pictures; take a model of several "
            "(--process.levels)".format(*pipeline.scheduler.image_size)
        )
    return small


def brought_down(pipeline: ScaleSpacePipeline, pictures: Tensor, size: Size) -> Tensor:
    """Pictures of the full resolution, shape (B, C, H, W), at another one of the model, by the maps of its process."""
    degradation = pipeline.scheduler.process.degradation
    at = next(t for t in (0, *degradation.jumps) if degradation.size(t) == size)
    return degradation.operator(0, at)(pictures)


def upscale(
    pipeline: ScaleSpacePipeline,
    pictures: Tensor,
    *,
    generator: Generators = None,
    num_inference_steps: int = 50,
    class_labels: ClassLabels | None = None,
    after_step: StepCallback | None = None,
    guidance: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw large pictures of which small ones are given. Several of one picture are variations of it.

    Args:
        pipeline: A model of several resolutions.
        pictures: Pictures in [-1, 1], shape (B, C, h, w), with (h, w) one of the model's resolutions below the full one.
        generator: Source of all noise; a list has one for each picture.
        num_inference_steps: Steps of a whole chain, as ``ScaleSpaceScheduler.set_timesteps`` takes them. Those from the
            resolution of the pictures up are taken.
        class_labels: As the pipeline takes them, if the network has classes.
        after_step: ``callback_on_step_end`` of the pipeline, for the steps that are taken.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the pipeline's call; None for no guidance.

    Returns:
        Pictures in [0, 1], shape (B, C, H, W).

    Raises:
        ValueError: If the model has no such resolution or other channels, or another argument does not fit.
    """
    scheduler = own_scheduler(pipeline)
    size, low = (pictures.shape[-2], pictures.shape[-1]), small_sizes(pipeline)
    if pictures.dim() != 4 or size not in low or pictures.shape[1] != pipeline.unet.in_channels:
        raise ValueError(
            f"the pictures are a tensor of shape {tuple(pictures.shape)}; the model enlarges shapes "
            f"{' or '.join('(B, {}, {}, {})'.format(pipeline.unet.in_channels, *one) for one in low)}"
        )
    small = check_pictures(pipeline, pictures, size)
    process = scheduler.process
    # The point of this resolution with the least noise, of which the picture tells the most.
    start = next(t for t in process.degradation.jumps if process.size(t) == size)
    noise = randn_tensor(tuple(small.shape), generator=generator, device=small.device, dtype=small.dtype)
    scheduler.set_timesteps(num_inference_steps)
    due = [timestep for timestep in scheduler.timesteps.tolist() if timestep < start]
    scheduler.prediction = Consistent(process.noise, scheduler.prediction, process.degradation, small, start)
    state = process.noise.alpha(start) * small + process.noise.sigma(start) * noise
    return shown(rest_of_chain(pipeline, scheduler, state, due, generator, class_labels, after_step, guidance))
