"""Filling in a part of a picture: what is known of it at every resolution, and drawing the rest.

Some pixels of x_0 are known, the others are to be drawn. At a grid point t the state is x_t = alpha_t x0_t + sigma_t eps with
x0_t = M_{0->t} x_0, and one pixel of x0_t is a weighted sum of pixels of x_0. It is known if all pixels that it sees are; of
the others nothing is taken for known, though a sum over some of them may be. (A weight counts as none if what the pixel sees
of unknown pixels cannot change it by half a level of 255. Bilinear weights end after a few pixels, orthonormal ones only
fade.) So less is known the lower the resolution, and what is conditioned on is

    for every t the pixels of x0_t that see known pixels alone.

Predictions x0_s have these pixels put in, so the finished picture has the known pixels as they were. States have them by
their marginal: where a chain or a level begins, known pixels of the state are drawn from q(x_t | x_0), each with noise of its
own; and a step inside a level whose prediction is right there keeps them on it, whatever the solver. What a network does with
the context is up to it: this is no draw of the posterior of the unknown pixels, but of a chain in which known and unknown
ones were noised apart.

So the parts may not fit each other. Resampling brings them together: after a stretch of steps the state is noised up again by
the transition q(x_t | x_s), exact across changes of resolution too, and the stretch is drawn again with what it has seen.

Source: Lugmayr et al. 2022, RePaint (arXiv 2201.09865), which draws the known pixels anew at every step of one resolution;
putting them into predictions, Wang, Yu and Zhang 2022, DDNM (arXiv 2212.00490). The masks of the resolutions are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.diffusion.degradation import Degradation
from scalespace.diffusion.prediction import Prediction
from scalespace.operators.linear import Identity, LinearOperator, Size
from scalespace.operators.resize import Separable
from scalespace.operators.singular import dense
from scalespace.pipelines.guidance import Guidance, guidance_given
from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.tasks.chain import Generators, check_pictures, own_scheduler, rest_of_chain, shown

__all__ = ["Context", "inpaint", "known_at"]

_HALF_LEVEL = 1 / 255  # of pixels in [-1, 1]


def known_at(M: LinearOperator, known: Tensor) -> Tensor:
    """Which pixels of M x are known.

    Args:
        M: The map M_{0->t}.
        known: Which pixels of x are, bool, shape (..., H, W).

    Returns:
        bool, shape (..., h, w).
    """
    if isinstance(M, Identity):
        return known
    unknown = (~known).double().cpu()
    if isinstance(M, Separable):
        rows, columns = (matrix.abs() for matrix in M.matrices)
        seen = rows @ unknown @ columns.mT
    else:
        seen = (unknown.flatten(-2) @ dense(M).abs().mT).unflatten(-1, M.out_size)
    return (seen < _HALF_LEVEL).to(known.device)


@dataclass(frozen=True)
class Context:
    """What is known at every resolution.

    Args:
        degradation: The degradation of the process, one of levels.
        picture: The picture, unknown pixels of which do not matter, shape (B, C, H, W).
        known: Which of its pixels are known, bool, shape (B, 1, H, W) or (1, 1, H, W).
    """

    degradation: Degradation
    picture: Tensor
    known: Tensor

    def at(self, t: int) -> tuple[Tensor, Tensor]:
        """The pixels of x0_t, shape (B, C, h, w), and which of them are known, shape (B, 1, h, w)."""
        M = self.degradation.operator(0, t)
        return M(torch.where(self.known, self.picture, 0.0)), known_at(M, self.known)

    def by_size(self) -> dict[Size, tuple[Tensor, Tensor]]:
        """``at`` of every resolution."""
        return {self.degradation.size(t): self.at(t) for t in (0, *self.degradation.jumps)}


@dataclass(frozen=True)
class _PutIn(Prediction):
    """Another prediction, with the known pixels put in."""

    base: Prediction
    context: dict[Size, tuple[Tensor, Tensor]]

    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        pixels, known = self.context[(output.shape[-2], output.shape[-1])]
        return torch.where(known, pixels, self.base.x0(output, x_t, t, M))


def inpaint(
    pipeline: ScaleSpacePipeline,
    pictures: Tensor,
    known: Tensor,
    *,
    resamplings: int = 2,
    jump: int = 5,
    generator: Generators = None,
    num_inference_steps: int = 50,
    class_labels: ClassLabels | None = None,
    guidance: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw the unknown pixels of pictures.

    Args:
        pipeline: A model that resizes, or has one resolution.
        pictures: Pictures in [-1, 1], shape (B, C, H, W), of the model's size. Unknown pixels may hold anything finite.
        known: True for the pixels that are kept, bool, shape (H, W), (1, 1, H, W) or (B, 1, H, W).
        resamplings: How many times every stretch of steps is noised up and drawn again. Each costs as many calls as a chain.
        jump: Number of steps of a stretch. Only used with resamplings.
        generator: Source of all noise; a list has one for each picture.
        num_inference_steps: Steps of a chain, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        class_labels: As the pipeline takes them, if the network has classes.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the pipeline's call; None for no guidance.

    Returns:
        Pictures in [0, 1], shape (B, C, H, W), with the known pixels as they were.

    Raises:
        ValueError: If an argument does not fit the model or the pictures, or nothing or everything is known.
    """
    scheduler, given = own_scheduler(pipeline), check_pictures(pipeline, pictures)
    degradation = scheduler.process.degradation
    if len(degradation.jumps) < len(degradation.change_points):
        raise ValueError("a blur that grows with every step leaves no pixel known; take a model that resizes")
    if resamplings < 0 or jump < 1:
        raise ValueError(f"resamplings is {resamplings} and jump {jump}; give at least 0 and at least 1")
    mask = _mask(known, given)
    scheduler.set_timesteps(num_inference_steps)
    chosen = _guidance(pipeline, scheduler, guidance or {}, class_labels is not None)
    context = Context(degradation, given, mask).by_size()
    scheduler.prediction = _PutIn(scheduler.process.noise, scheduler.prediction, context)
    start = int(scheduler.timesteps[0]) + 1
    state = _Known(scheduler, context, generator).put(_noise(given, scheduler.process.size(start), generator), start)
    points = [*scheduler.timesteps.tolist(), -1]
    if resamplings == 0:
        jump = len(points)

    def guided(stretch: Sequence[int]) -> Mapping[str, Any] | None:
        # The whole chain has steps inside the interval, but a stretch of it need not.
        return guidance if any(chosen.guides(scheduler, timestep) for timestep in stretch) else None

    for first in range(0, len(points) - 1, jump):
        last = min(first + jump, len(points) - 1)
        for repetition in range(resamplings + 1):
            if repetition:
                up = scheduler.process.transition(state, points[last] + 1, points[first] + 1)
                state = up.draw(_noise(given, scheduler.process.size(points[first] + 1), generator))
            steps = _Known(scheduler, context, generator, last - first)
            state = rest_of_chain(
                pipeline, scheduler, state, points[first:-1], generator, class_labels, steps, guided(points[first:last])
            )
    return shown(state)


def _guidance(
    pipeline: ScaleSpacePipeline, scheduler: ScaleSpaceScheduler, given: Mapping[str, Any], labelled: bool
) -> Guidance:
    """The guidance, if it is any for the whole chain."""
    chosen = guidance_given(given, ScaleSpacePipeline, pipeline.unet, scheduler)
    chosen.check(pipeline.unet, labelled, scheduler)
    return chosen


class _Known:
    """Puts known pixels into the state where a level begins, and ends a stretch after its steps."""

    def __init__(
        self, scheduler: ScaleSpaceScheduler, context: dict[Size, tuple[Tensor, Tensor]], generator: Any, steps: int = 0
    ):
        self._process, self._context = scheduler.process, context
        self._generator, self._steps = generator, steps

    def put(self, x_t: Tensor, t: int) -> Tensor:
        pixels, known = self._context[self._process.size(t)]
        noise = _noise(x_t, self._process.size(t), self._generator)
        drawn = self._process.noise.alpha(t) * pixels + self._process.noise.sigma(t) * noise
        return torch.where(known, drawn, x_t)

    def __call__(
        self, pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        state, timesteps = tensors["latents"], pipeline.scheduler.timesteps.tolist()
        s = timesteps[step + 1] + 1 if step + 1 < len(timesteps) else 0
        if s > 0 and self._process.size(s) != self._process.size(timestep + 1):
            state = self.put(state, s)
        if step + 1 == self._steps:
            pipeline._interrupt = True
        return {"latents": state}


def _noise(like: Tensor, size: Size, generator: Generators) -> Tensor:
    return randn_tensor((*like.shape[:2], *size), generator=generator, device=like.device, dtype=torch.float32)


def _mask(known: Tensor, pictures: Tensor) -> Tensor:
    count, (height, width) = len(pictures), pictures.shape[-2:]
    if known.dtype != torch.bool or tuple(known.shape) not in (
        (height, width),
        (1, 1, height, width),
        (count, 1, height, width),
    ):
        raise ValueError(
            f"the mask is {known.dtype} of shape {tuple(known.shape)}; give booleans of shape ({height}, {width}) or one for "
            f"each picture, ({count}, 1, {height}, {width})"
        )
    mask = known.reshape(-1, 1, height, width).to(pictures.device)
    for what, wrong in (("everything", mask.flatten(1).all(1)), ("nothing", ~mask.flatten(1).any(1))):
        if bool(wrong.any()):
            raise ValueError(
                f"the mask says that {what} is known; "
                + (
                    "there is nothing to draw"
                    if what == "everything"
                    else "draw a picture without one (scalespace sample)"
                )
            )
    return mask
