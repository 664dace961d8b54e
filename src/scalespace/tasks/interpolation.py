"""From one picture to another through the noise that both are made of.

Both are inverted. White noise of many pixels has always nearly the same length, so between two of them lies the arc and not
the straight line (slerp): with theta the angle between a and b, the point at the share f of the way is

    (sin((1 - f) theta) a + sin(f theta) b) / sin theta.

The noise at the smallest resolution and that of the details of every change go along an arc of their own. What the chain does
not bring back of the pictures fades out until the middle, so that both ends are the pictures and no frame shows both at once.

Source: Shoemake 1985 for slerp; Song, Meng and Ermon 2020 (arXiv 2010.02502) for interpolation in the noise of DDIM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalespace.pipelines.labels import ClassLabels
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.tasks.chain import Generators
from scalespace.tasks.inversion import Inversion, invert, reconstruct

__all__ = ["between", "interpolate", "slerp"]


def slerp(first: Tensor, second: Tensor, fraction: Tensor) -> Tensor:
    """Points on the arc between two tensors.

    Args:
        first: Shape (C, H, W).
        second: The same shape.
        fraction: 0..1, shape (N,).

    Returns:
        Shape (N, C, H, W). Where the two are parallel, or one is zero, the points lie on the straight line.
    """
    a, b = first.double(), second.double()
    f = fraction.double().to(a.device).reshape(-1, *[1] * a.dim())
    lengths = a.norm() * b.norm()
    cosine = (a * b).sum() / lengths if lengths > 0 else torch.ones((), dtype=a.dtype)
    theta = cosine.clamp(-1, 1).acos()
    sine = theta.sin()
    if sine < 1e-6:
        return ((1 - f) * a + f * b).to(first.dtype)
    return (((((1 - f) * theta).sin()) * a + (f * theta).sin() * b) / sine).to(first.dtype)


def between(inversion: Inversion, fraction: Tensor) -> Inversion:
    """Inversions on the way from the first picture of an inversion to the second.

    Args:
        inversion: Of two pictures.
        fraction: 0..1, shape (N,).

    Returns:
        An inversion of N pictures.

    Raises:
        ValueError: If the inversion is not of two pictures.
    """
    if len(inversion.noise) != 2:
        raise ValueError(f"the inversion is of {len(inversion.noise)} pictures; invert two together")
    remainder = inversion.remainder
    if remainder is not None:
        f = fraction.to(remainder).reshape(-1, 1, 1, 1)
        remainder = (1 - 2 * f).clamp_min(0) * remainder[0] + (2 * f - 1).clamp_min(0) * remainder[1]
    details = {s: slerp(detail[0], detail[1], fraction) for s, detail in inversion.details.items()}
    noise = slerp(inversion.noise[0], inversion.noise[1], fraction)
    return Inversion(noise, details, inversion.grid, remainder)


def interpolate(
    pipeline: ScaleSpacePipeline,
    first: Tensor,
    second: Tensor,
    frames: int = 8,
    *,
    generator: Generators = None,
    num_inference_steps: int = 50,
    repetitions: int = 3,
    batch_size: int = 16,
    class_labels: ClassLabels | None = None,
) -> Tensor:
    """Draw the pictures on the way from one to another.

    Args:
        pipeline: The model.
        first: Picture in [-1, 1], shape (C, H, W), of the model's size.
        second: The same shape.
        frames: Number of pictures, the two ends among them; at least 2.
        generator: Source of the noise at the start, as ``invert`` takes it; a list has two.
        num_inference_steps: Steps of the chain.
        repetitions: As ``invert`` takes them.
        batch_size: Number of pictures drawn together.
        class_labels: Class of all pictures, if the network has classes.

    Returns:
        Pictures in [0, 1], shape (frames, C, H, W). The first and the last are the two given ones, to rounding.

    Raises:
        ValueError: If an argument does not fit.
    """
    if frames < 2:
        raise ValueError(f"frames is {frames}; give at least 2, the pictures at both ends")
    if first.shape != second.shape:
        raise ValueError(
            f"the pictures have shapes {tuple(first.shape)} and {tuple(second.shape)}; give two of one shape"
        )
    inversion = invert(
        pipeline,
        torch.stack([first, second]),
        generator=generator,
        num_inference_steps=num_inference_steps,
        repetitions=repetitions,
        class_labels=class_labels,
    )
    fractions = torch.linspace(0, 1, frames, dtype=torch.float64)
    parts = [between(inversion, part) for part in fractions.split(batch_size)]
    return torch.cat([reconstruct(pipeline, part, class_labels=class_labels) for part in parts])
