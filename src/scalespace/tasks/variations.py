"""Variations of a picture: noise it up to a grid point t, and come back by the chain.

The marginal q(x_t | x_0) = N(alpha_t M_{0->t} x_0, sigma_t^2 I) gives the state at t exactly, at the resolution of t. The
further t, the less of the picture is left in it: the chain comes back with another picture that has in common with the first
what noise and resolution at t leave. With the exact denoiser of the data the variations are pictures of the data's own
distribution, whatever t, if the given ones are.

Source: Meng et al. 2021, SDEdit (arXiv 2108.01073); in a chain of resolutions the state is small as well as noisy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline, StepCallback
from scalespace.tasks.chain import Generators, check_pictures, own_scheduler, rest_of_chain, shown

__all__ = ["point_of", "vary"]


def point_of(strength: float, timesteps: int) -> int:
    """The grid point that a strength stands for: its share of the T timesteps, rounded up.

    Raises:
        ValueError: If the strength is not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength}; give a number from 0, which leaves the picture as it is, to 1, which leaves next to "
            "nothing of it"
        )
    return math.ceil(strength * timesteps)


def vary(
    pipeline: ScaleSpacePipeline,
    pictures: Tensor,
    strength: float = 0.5,
    *,
    generator: Generators = None,
    num_inference_steps: int = 50,
    class_labels: ClassLabels | None = None,
    after_step: StepCallback | None = None,
    guidance: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw variations of pictures.

    Args:
        pipeline: The model.
        pictures: Pictures in [-1, 1], shape (B, C, H, W), of the model's size.
        strength: How far to go, as a share of the timesteps, in [0, 1]. 0 leaves the picture as it is.
        generator: Source of all noise; a list has one for each picture.
        num_inference_steps: Steps of a whole chain, as ``ScaleSpaceScheduler.set_timesteps`` takes them. Those below the point
            that is gone to are taken.
        class_labels: As the pipeline takes them, if the network has classes.
        after_step: ``callback_on_step_end`` of the pipeline, for the steps that are taken.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the pipeline's call; None for no guidance.

    Returns:
        Pictures in [0, 1], shape (B, C, H, W).

    Raises:
        ValueError: If an argument does not fit the model.
    """
    scheduler, given = own_scheduler(pipeline), check_pictures(pipeline, pictures)
    t = point_of(strength, scheduler.process.timesteps)
    scheduler.set_timesteps(num_inference_steps)
    if t == 0:
        return shown(given)
    marginal = scheduler.process.marginal(given, t)
    noise = randn_tensor(tuple(marginal.mean.shape), generator=generator, device=given.device, dtype=given.dtype)
    # The point itself, since what the picture is left with should not depend on the steps.
    due = [t - 1, *(timestep for timestep in scheduler.timesteps.tolist() if timestep < t - 1)]
    return shown(
        rest_of_chain(pipeline, scheduler, marginal.draw(noise), due, generator, class_labels, after_step, guidance)
    )
