"""What tasks share: pictures that are checked, the rest of a chain from a state, and a model as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.prediction import clean_image
from scalespace.networks.network import ask, dtype_of
from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline, StepCallback
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

__all__ = ["Generators", "PipelineDenoiser", "check_pictures", "own_scheduler", "rest_of_chain", "shown"]

Generators = torch.Generator | list[torch.Generator] | None
"""Source of all noise; a list has one for each picture, and then a picture does not depend on the rest of its batch."""


def own_scheduler(pipeline: ScaleSpacePipeline) -> ScaleSpaceScheduler:
    """A scheduler like the model's, which a task can change while the model's stays as it is."""
    scheduler: Any = ScaleSpaceScheduler.from_config(pipeline.scheduler.config)
    return scheduler


def check_pictures(pipeline: ScaleSpacePipeline, pictures: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Pictures in float32 on the device of a model.

    Args:
        pipeline: The model.
        pictures: In [-1, 1], shape (B, C, H, W).
        size: Height and width that they must have. None takes that of the model's pictures.

    Raises:
        ValueError: If they are not of this shape, or hold numbers that are not finite.
    """
    channels, (height, width) = pipeline.unet.in_channels, size or pipeline.scheduler.image_size
    if pictures.dim() != 4 or tuple(pictures.shape[1:]) != (channels, height, width):
        raise ValueError(
            f"the pictures are a tensor of shape {tuple(pictures.shape)}; the model has pictures of shape "
            f"(B, {channels}, {height}, {width})"
        )
    if not bool(pictures.isfinite().all()):
        raise ValueError("the pictures hold numbers that are not finite; give pixels in [-1, 1]")
    return pictures.to(pipeline.device, torch.float32)


def rest_of_chain(
    pipeline: ScaleSpacePipeline,
    scheduler: ScaleSpaceScheduler,
    state: Tensor,
    timesteps: Sequence[int],
    generator: Generators,
    class_labels: ClassLabels | None,
    after_step: StepCallback | None = None,
    guidance: Mapping[str, Any] | None = None,
) -> Tensor:
    """The state that the steps from a given one on lead to, about -1..1.

    Args:
        pipeline: The model.
        scheduler: The scheduler to step with, in the place of the model's.
        state: State at the first of the timesteps.
        timesteps: Timesteps to stop at, as diffusers counts them, in falling order.
        generator: Source of all noise.
        class_labels: As the pipeline takes them.
        after_step: ``callback_on_step_end`` of the pipeline.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the pipeline's call; None for no guidance.
    """
    rest = ScaleSpacePipeline(pipeline.unet, scheduler)
    # Names of classes are the model's.
    rest.labels = pipeline.labels
    rest.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    found: Any = rest(
        generator=generator,
        class_labels=class_labels,
        output_type="latent",
        return_dict=False,
        latents=state,
        timesteps=timesteps,
        callback_on_step_end=after_step,
        **(guidance or {}),
    )[0]
    return found


def shown(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] of a clean state in [-1, 1], cut to that."""
    return (pictures / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class PipelineDenoiser:
    """A model as a ``Denoiser``: it predicts the clean image at r(s) from the state at t, for any s < t.

    Args:
        pipeline: The model.
        labels: Numbers of the classes, shape (B,) or (1,); None without classes.
    """

    pipeline: ScaleSpacePipeline
    labels: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        return self.differentiable(x_t, t, s)

    def differentiable(self, x_t: Tensor, t: int, s: int) -> Tensor:
        """The same prediction, with what its derivative in x_t needs."""
        network, scheduler = self.pipeline.unet, self.pipeline.scheduler
        process = scheduler.process
        time = torch.tensor(t - 1, device=x_t.device)
        labels = None if self.labels is None else self.labels.expand(len(x_t)).to(x_t.device)
        state = x_t.to(dtype_of(network))
        output = ask(network, state, time, process.noise.log_snr_table[t], process.size(s), labels).float()
        return clean_image(scheduler.prediction, output, x_t, t, process.degradation.operator(s, t), scheduler.limited)
