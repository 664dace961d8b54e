"""Restoring pictures by a chain whose predictions know the measurement.

With a denoiser that is exact, E[x0_s | x_t] becomes E[x0_s | x_t, y] by the measurement (``guidance``), and the steps that draw
x_0 from one draw it from the posterior p(x_0 | y) by the other, at every resolution: it is a chain of the process for pictures
of that distribution. For Gaussian pictures PiGDM and MMPS give that denoiser to rounding, so that only the steps err.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.diffusion.denoiser import Denoiser
from scalespace.diffusion.prediction import Sample
from scalespace.errors import UserError
from scalespace.operators.linear import Size
from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.tasks.chain import Generators, PipelineDenoiser, own_scheduler, shown
from scalespace.tasks.restoring.ddrm import DDRM
from scalespace.tasks.restoring.guidance import Guided
from scalespace.tasks.restoring.measurement import Measurement
from scalespace.tasks.restoring.prior import Prior, natural_spectrum
from scalespace.tasks.restoring.told import Told, ToldByLevel

__all__ = ["GuidanceName", "Restoration", "restore", "restored"]

GuidanceName = Literal["ddrm", "pigdm", "mmps"]
"""How predictions are guided; ``guidance`` and ``ddrm`` say what each does."""

_ITERATIONS = 2
_MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Restoration:
    """How pictures are restored.

    Args:
        guidance: "mmps", "pigdm" or "ddrm".
        iterations: Steps of conjugate gradients, 1 to 100. Only used with "mmps"; each costs about two network calls.

    Raises:
        UserError: If one of them is not of its kind.
    """

    guidance: GuidanceName = "mmps"
    iterations: int = _ITERATIONS

    def __post_init__(self):
        if self.guidance not in ("ddrm", "pigdm", "mmps"):
            raise UserError(f'guidance "{self.guidance}" is unknown; use one of ddrm, pigdm, mmps')
        if not 1 <= self.iterations <= _MOST_ITERATIONS:
            raise UserError(f"iterations is {self.iterations}; give a number from 1 to {_MOST_ITERATIONS}")


def restored(
    denoiser: Denoiser,
    scheduler: ScaleSpaceScheduler,
    prior: Prior,
    told: dict[Size, Told],
    state: Tensor,
    how: Restoration,
    generator: Generators = None,
    after_step: Callable[[Tensor], None] = lambda prediction: None,
) -> Tensor:
    """The pictures that a chain with any denoiser draws of a measurement.

    Args:
        denoiser: Predicts x0_s from x_t, and can be differentiated.
        scheduler: Takes the steps, with its timesteps chosen. Its ``prediction`` must be ``Sample``.
        prior: The Gaussian of the clean pictures.
        told: What the measurement tells at every level.
        state: The state at the first timestep, shape (B, C, h, w).
        how: How to guide.
        generator: Source of the noise of the steps.
        after_step: Is shown the prediction of every step.

    Returns:
        Shape (B, C, H, W).
    """
    process = scheduler.process
    points = [timestep + 1 for timestep in scheduler.timesteps.tolist()]
    ddrm = DDRM(process, told) if how.guidance == "ddrm" else None
    guided = Guided(denoiser, prior, told, how.iterations if how.guidance == "mmps" else 0)
    for t, s in zip(points, (*points[1:], 0), strict=True):
        if ddrm is None:
            x0 = scheduler.limited(guided(state, t, s))
            state = scheduler.step(x0, t - 1, state, generator).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
        else:
            with torch.no_grad():
                x0 = scheduler.limited(denoiser(state, t, s))
            noise, fresh = (
                randn_tensor(tuple(x0.shape), generator=generator, device=x0.device, dtype=x0.dtype) for _ in range(2)
            )
            state = ddrm.step(state, x0, t, s, noise, fresh)
        after_step(x0)
    return state


def restore(
    pipeline: ScaleSpacePipeline,
    measured: Tensor,
    measurement: Measurement | ToldByLevel,
    how: Restoration | None = None,
    *,
    spectrum: Tensor | None = None,
    generator: Generators = None,
    num_inference_steps: int = 50,
    class_labels: ClassLabels | None = None,
    after_step: Callable[[Tensor], None] = lambda prediction: None,
) -> Tensor:
    """Draw pictures of which measurements are given. Several of one measurement are draws of what it leaves open.

    Args:
        pipeline: The model; its resolution changes at a few points, or never.
        measured: y, for pixels in [-1, 1], shape (B, C, h, w).
        measurement: How it was measured. A ``ToldByLevel`` of this model keeps its matrices for the next call.
        how: How to guide. None is MMPS.
        spectrum: Mean square of the pictures' DCT coefficients, shape (H, W) (``scalespace.data.spectrum.mean_spectrum``). None
            takes ``natural_spectrum``. Not with a ``ToldByLevel``, which has its own.
        generator: Source of all noise; a list has one for each picture.
        num_inference_steps: Steps of the chain, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        class_labels: As the pipeline takes them, if the network has classes.
        after_step: Is shown the prediction of every step in [-1, 1], at the size that it has by then.

    Returns:
        Pictures in [0, 1], shape (B, C, H, W).

    Raises:
        ValueError: If an argument does not fit the model or the measurement.
        UserError: If measurement, spectrum or model are not of those that can be restored from.
    """
    scheduler = own_scheduler(pipeline)
    if isinstance(measurement, ToldByLevel):
        if spectrum is not None:
            raise ValueError("a ToldByLevel has a spectrum of its own; leave spectrum out")
        by_level = measurement
    else:
        spectrum = natural_spectrum(scheduler.image_size) if spectrum is None else spectrum
        by_level = ToldByLevel(Prior(scheduler.process, spectrum), measurement)
    shape = (pipeline.unet.in_channels, *by_level.measurement.operator.out_size)
    if measured.dim() != 4 or tuple(measured.shape[1:]) != shape:
        raise ValueError(
            f"the measurements are a tensor of shape {tuple(measured.shape)}; this measurement gives "
            f"{('B', *shape)}".replace("'", "")
        )
    if not bool(measured.isfinite().all()):
        raise ValueError("the measurements hold numbers that are not finite; give finite ones")
    labels = pipeline.label_numbers(class_labels)
    scheduler.set_timesteps(num_inference_steps)
    scheduler.prediction = Sample(scheduler.process.noise)
    given = measured.to(pipeline.device, torch.float32)
    noise_shape = (*given.shape[:2], *scheduler.noise_size)
    state = randn_tensor(noise_shape, generator=generator, device=given.device, dtype=torch.float32)
    predict = PipelineDenoiser(pipeline, None if labels is None else labels.reshape(-1)).differentiable
    found = restored(
        predict, scheduler, by_level.prior, by_level.levels(given), state, how or Restoration(), generator, after_step
    )
    return shown(found)
