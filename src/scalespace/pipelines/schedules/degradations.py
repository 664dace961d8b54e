"""The names that configurations and saved models have for degradations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scalespace.diffusion.degradation import Blurring, Degradation, OrthonormalResizing, Resizing
from scalespace.diffusion.degradations.own import is_own, own_degradation
from scalespace.diffusion.degradations.pyramid import GaussianPyramid
from scalespace.operators.linear import Size

__all__ = ["DEGRADATIONS", "degradation_named"]


def degradation_named(
    name: str, sizes: Sequence[Size], change_points: Sequence[int], timesteps: int, sigma_blur: float
) -> Degradation:
    """The degradation of a name, or of MODULE:CLASS where that module has been imported.

    Args:
        name: The name.
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point of every level but the highest.
        timesteps: Number of timesteps, T.
        sigma_blur: Standard deviation of the blur at T, of "blurring".

    Raises:
        ValueError: If there is none of that name, or it cannot be of these sizes.
    """
    levels, points = tuple((height, width) for height, width in sizes), tuple(change_points)
    if is_own(name):
        return own_degradation(name, levels, points, timesteps)
    if name not in DEGRADATIONS:
        raise ValueError(
            f'no MODULE:CLASS of your own was given, and degradation "{name}" is unknown; use one of {", ".join(DEGRADATIONS)}'
        )
    return DEGRADATIONS[name](levels, points, timesteps, sigma_blur)


def _blurring(sizes: tuple[Size, ...], change_points: tuple[int, ...], timesteps: int, sigma_blur: float) -> Blurring:
    if len(sizes) != 1 or change_points:
        raise ValueError(
            f"blurring keeps one resolution, and {len(sizes)} sizes and {len(change_points)} change points were given; "
            "give one size and no change points (--process.levels 1)"
        )
    return Blurring(sizes[0], timesteps, sigma_blur)


DEGRADATIONS: dict[str, Callable[[tuple[Size, ...], tuple[int, ...], int, float], Degradation]] = {
    "bilinear": lambda sizes, points, timesteps, sigma_blur: Resizing(sizes, points, timesteps),
    "orthonormal": lambda sizes, points, timesteps, sigma_blur: OrthonormalResizing(sizes, points, timesteps),
    "pyramid": lambda sizes, points, timesteps, sigma_blur: GaussianPyramid(sizes, points, timesteps),
    "blurring": _blurring,
}
