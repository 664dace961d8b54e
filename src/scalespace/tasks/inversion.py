"""From a picture back to the noise that the deterministic solver makes it of, and from that noise to the picture again.

A deterministic step (``DDIM`` with eta = 0) goes from t to s < t by

    x_s = alpha_s x0_s + sigma_s (L eps_t + (I - L L^T) xi),  eps_t = (x_t - alpha_t M x0_s) / sigma_t,

where M = M_{s->t}, L = M^T (M M^T)^(-1/2), and x0_s is predicted from x_t. With eps_s = (x_s - alpha_s x0_s) / sigma_s it is
undone by

    x_t = alpha_t M x0_s + sigma_t L^T eps_s,  xi = (I - L L^T) eps_s.

Inside a level L is the identity, and xi is nothing. At a change of resolution x_t has fewer pixels than x_s: what M does not
see of the noise, xi, would be lost on the way down. So it is kept: an inversion is the noise at the smallest resolution
together with the xi of every change, in all as many numbers as the picture has. With both, the steps down again are undone;
with another xi other detail is drawn upon the same small picture.

Since x0_s is predicted from the x_t that is looked for, the equation is solved by repetition, from the prediction of the step
before. A repetition takes the error by about alpha_t |e^h - 1| times the derivative of the prediction, with h the way in
log(alpha / sigma): steps must be short, as 50 in a whole chain are. The last step, from t = 1 to the picture, is the
prediction alone, and x_1 is found by repeating x_1 + alpha_1 (x_0 - x0(x_1)).

A trained network is worse than the noise is weak: where it errs by more than sigma_t, the eps that explains the picture is
larger than noise ever is, and the more so all that follows. So an inversion can start at a noise level, with noise that is
drawn. What the chain then does not bring back of the picture is told as the remainder.

Sources: Song, Meng and Ermon 2020, DDIM (arXiv 2010.02502), section 4.3; repetition for inversion, Pan et al. 2023 (arXiv
2309.04907). The parts that M does not see are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.diffusion.denoiser import Denoiser
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import DDIM
from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.tasks.chain import Generators, PipelineDenoiser, check_pictures, own_scheduler, shown

__all__ = ["Inversion", "invert", "inverted", "reconstruct", "redrawn"]

_START = 0.06


@dataclass(frozen=True, eq=False)
class Inversion:
    """All that the deterministic solver makes pictures of.

    Args:
        noise: x_T, shape (B, C, h, w) at the smallest resolution.
        details: By the grid point s after every change of resolution the noise xi there that the lower resolution does not
            see, shape (B, C, H_s, W_s).
        grid: The grid points of the chain, in falling order.
        remainder: What the chain does not bring back of the pictures, shape (B, C, H, W). None where it was not asked for.
    """

    noise: Tensor = field(repr=False)
    details: Mapping[int, Tensor] = field(repr=False)
    grid: tuple[int, ...] = field(repr=False)
    remainder: Tensor | None = field(default=None, repr=False)

    def with_details(self, generator: Generators = None) -> Inversion:
        """The same noise with other details, drawn anew: what is lost if only the smallest resolution is kept."""
        drawn = {
            s: randn_tensor(tuple(detail.shape), generator=generator, device=detail.device, dtype=detail.dtype)
            for s, detail in self.details.items()
        }
        return replace(self, details=drawn, remainder=None)


def inverted(
    process: ScaleSpaceProcess,
    denoiser: Denoiser,
    grid: tuple[int, ...],
    pictures: Tensor,
    repetitions: int = 3,
    noise: Tensor | None = None,
) -> Inversion:
    """Invert pictures with any denoiser.

    Args:
        process: The process.
        denoiser: Predicts x0_s from x_t; called ``repetitions`` times for every step.
        grid: Grid points of the chain, in falling order.
        pictures: Shape (B, C, H, W).
        repetitions: How often the equation of a step is repeated, at least 1.
        noise: White noise of the shape of the pictures, with which the state at the last point of the grid is their
            marginal. None solves for that state.

    Returns:
        The inversion, without remainder.
    """
    alpha, sigma, operator = process.noise.alpha, process.noise.sigma, process.degradation.operator
    last = grid[-1]
    M = operator(0, last)
    if noise is None:
        x, x0 = alpha(last) * M(pictures), pictures
        for _ in range(repetitions):
            x0 = denoiser(x, last, 0)
            x = x + alpha(last) * M(pictures - x0)
    else:
        x, x0 = alpha(last) * M(pictures) + sigma(last) * noise, pictures
    x0 = M(x0)
    details: dict[int, Tensor] = {}
    for s, t in pairwise(reversed(grid)):
        M = operator(s, t)
        eps = (x - alpha(s) * x0) / sigma(s)
        x_t = alpha(t) * M(x0) + sigma(t) * _lowered(M, eps)
        for _ in range(repetitions):
            x0 = denoiser(x_t, t, s)
            eps = (x - alpha(s) * x0) / sigma(s)
            x_t = alpha(t) * M(x0) + sigma(t) * _lowered(M, eps)
        if process.size(s) != process.size(t):
            details[s] = M.gram_function(torch.zeros_like, eps, kernel=1.0)
        x, x0 = x_t, M(x0)
    return Inversion(x, details, grid)


def redrawn(process: ScaleSpaceProcess, denoiser: Denoiser, inversion: Inversion) -> Tensor:
    """The pictures that the chain makes of an inversion, without its remainder, shape (B, C, H, W)."""
    x, solver = inversion.noise, DDIM(process)
    for t, s in pairwise((*inversion.grid, 0)):
        x0 = denoiser(x, t, s)
        x = solver.step(x, x0, t, s, inversion.details.get(s, torch.zeros_like(x0)))
    return x


def invert(
    pipeline: ScaleSpacePipeline,
    pictures: Tensor,
    *,
    generator: Generators = None,
    num_inference_steps: int = 50,
    repetitions: int = 3,
    start: float = _START,
    class_labels: ClassLabels | None = None,
) -> Inversion:
    """Find the noise that pictures are made of.

    Args:
        pipeline: The model. Whatever its solver is, the steps are those of DDIM with eta = 0.
        pictures: Pictures in [-1, 1], shape (B, C, H, W), of the model's size.
        generator: Source of the noise at the start; a list has one for each picture.
        num_inference_steps: Steps of the chain, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        repetitions: How often the equation of a step is repeated; each repetition is a network call.
        start: Noise level sigma at which to start, in [0, 1): steps below it are left out. It should be above what the model's
            predictions err by there. 0 starts at the first step and draws no noise.
        class_labels: As the pipeline takes them, if the network has classes.

    Returns:
        The inversion, whose remainder is what the chain does not bring back of the pictures.

    Raises:
        ValueError: If an argument does not fit the model.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}; give at least 1")
    process, given = pipeline.scheduler.process, check_pictures(pipeline, pictures)
    scheduler = own_scheduler(pipeline)
    scheduler.set_timesteps(num_inference_steps)
    points = tuple(timestep + 1 for timestep in scheduler.timesteps.tolist())
    first = _first(process, points, start)
    noise = None
    if start > 0:
        noise = randn_tensor(tuple(given.shape), generator=generator, device=given.device, dtype=given.dtype)
    denoiser = _denoiser(pipeline, class_labels, len(given))
    found = inverted(process, denoiser, tuple(t for t in points if t >= first), given, repetitions, noise)
    # On the way back the steps below the start are taken, too.
    found = replace(found, grid=points)
    return replace(found, remainder=given - redrawn(process, denoiser, found))


def reconstruct(
    pipeline: ScaleSpacePipeline, inversion: Inversion, *, class_labels: ClassLabels | None = None
) -> Tensor:
    """The pictures of an inversion, with its remainder if it has one.

    Args:
        pipeline: The model that it was made with.
        inversion: Its noise may be changed, and its details and remainder be replaced.
        class_labels: As the pipeline takes them, if the network has classes.

    Returns:
        Pictures in [0, 1], shape (B, C, H, W).

    Raises:
        ValueError: If an argument does not fit the model.
    """
    process = pipeline.scheduler.process
    if inversion.grid[0] > process.timesteps or inversion.noise.shape[-2:] != process.size(inversion.grid[0]):
        raise ValueError(
            f"the inversion starts at grid point {inversion.grid[0]} with noise of shape {tuple(inversion.noise.shape)}, where "
            "the model has another size; take it from the same model"
        )
    found = redrawn(process, _denoiser(pipeline, class_labels, len(inversion.noise)), inversion)
    return shown(found if inversion.remainder is None else found + inversion.remainder)


def _lowered(M: Any, eps: Tensor) -> Tensor:
    """L^T eps, with L the partial isometry of M."""
    return M.T.adjoint_function(torch.rsqrt, eps)


def _first(process: ScaleSpaceProcess, points: tuple[int, ...], start: float) -> int:
    """The first grid point of an inversion, at the full resolution with a noise level of at least ``start``."""
    full = {t: process.noise.sigma(t) for t in points if process.size(t) == process.size(0)}
    loud = [t for t, sigma in full.items() if sigma >= start]
    if not start >= 0 or not loud:
        raise ValueError(
            f"start is {start}; give a noise level from 0 to {max(full.values()):.2g}, that of the last step at the full "
            "resolution"
        )
    return min(loud)


def _denoiser(pipeline: ScaleSpacePipeline, class_labels: ClassLabels | None, count: int) -> PipelineDenoiser:
    labels = pipeline.label_numbers(class_labels)
    if labels is not None and labels.ndim and len(labels) not in (1, count):
        raise ValueError(
            f"class_labels are for {len(labels)} pictures and there are {count}; give one for each, or one"
        )
    return PipelineDenoiser(pipeline, None if labels is None else labels.reshape(-1))
