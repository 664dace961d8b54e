"""Power-function averages of the weights, and averages of any width made from them after training.

The average of exponent gamma after t steps is that of all weights so far under the density (gamma + 1) tau^gamma / t^(gamma+1)
of the time tau. Its width is the standard deviation of that density over t. A run keeps snapshots of two such averages. The
average of any other width is the combination of snapshots whose density is nearest to the wanted one in least squares.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), section 3
and appendix C.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "WIDTHS",
    "PowerAverage",
    "Snapshot",
    "average_of",
    "combination",
    "exponent",
    "read_averages",
    "width",
    "write_averages",
]

WIDTHS = (0.05, 0.10)
"""Widths of the averages that a run keeps, the paper's."""
WIDEST = 0.25
"""Above about 0.28 no exponent above 0 gives the width; the density would fall with time."""


def exponent(width: float) -> float:
    """Find the exponent gamma of the average of a width.

    Args:
        width: Standard deviation of the density over the length of the training, above 0 and at most 0.25.

    Raises:
        ValueError: If the width is out of its range.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"a width of {width}; give one above 0 and at most {WIDEST}")
    # width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), as a polynomial in gamma.
    inverse = width**-2
    companion = torch.tensor([[-7.0, inverse - 16, inverse - 12], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    roots = torch.linalg.eigvals(companion)
    return float(roots.real[roots.imag.abs() < 1e-6 * roots.abs()].max())


def width(gamma: float) -> float:
    """Width of the average with exponent ``gamma``, the inverse of ``exponent``."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


class PowerAverage:
    """The average of exponent gamma, step by step.

    Args:
        parameters: What is averaged, with the weights before the first step; they do not count.
        gamma: The exponent, at least 0.
    """

    def __init__(self, parameters: Iterable[Tensor], gamma: float):
        self.gamma = gamma
        self.steps = 0
        """Steps averaged so far."""
        self.values = [parameter.detach().clone().float() for parameter in parameters]
        """The averages, float32, on the parameters' device."""

    @torch.no_grad()
    def step(self, parameters: Iterable[Tensor]) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        kept = (1 - 1 / self.steps) ** (self.gamma + 1)
        for value, parameter in zip(self.values, parameters, strict=True):
            value.lerp_(parameter.float(), 1 - kept)


class Snapshot(NamedTuple):
    """An average that was kept.

    Args:
        steps: Number of steps that it averages.
        gamma: Exponent of the average.
    """

    steps: int
    gamma: float


def write_averages(
    path: Path, names: Sequence[str], averages: Sequence[PowerAverage], dtype: torch.dtype = torch.float32
) -> None:
    """Write averages into one file.

    Args:
        path: Safetensors file to write.
        names: Names of the parameters.
        averages: Averages of the parameters, all at the same step.
        dtype: Type of the numbers in the file.
    """
    tensors = {
        f"{index}.{name}": value.to(dtype)
        for index, average in enumerate(averages)
        for name, value in zip(names, average.values, strict=True)
    }
    gammas = json.dumps([average.gamma for average in averages])
    save_file(tensors, path, {"steps": str(averages[0].steps), "gammas": gammas})


def read_averages(
    path: Path,
    names: Sequence[str],
    averages: Sequence[PowerAverage],
    part: Callable[[Tensor], Tensor] = lambda whole: whole,
) -> None:
    """Take averages back from what ``write_averages`` wrote of them, or the ``part`` of each that is held here."""
    with safe_open(path, framework="pt") as file:
        for index, average in enumerate(averages):
            for name, value in zip(names, average.values, strict=True):
                value.copy_(part(file.get_tensor(f"{index}.{name}")))
            average.steps = int(file.metadata()["steps"])


def average_of(files: Sequence[Path], wanted: Snapshot) -> dict[str, Tensor]:
    """Make an average from what ``write_averages`` wrote at several steps.

    Args:
        files: Files with snapshots of one run.
        wanted: The average to make; not after the last snapshot.

    Returns:
        The averages by the names of the parameters, float32.

    Raises:
        ValueError: If the last snapshot is before the wanted step.
    """
    snapshots, places = [], []
    for path in files:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        for index, gamma in enumerate(json.loads(metadata["gammas"])):
            snapshots.append(Snapshot(int(metadata["steps"]), gamma))
            places.append((path, f"{index}."))
    made: dict[str, Tensor] = {}
    for factor, (path, prefix) in zip(combination(snapshots, wanted), places, strict=True):
        with safe_open(path, framework="pt") as file:
            for key in filter(lambda key: key.startswith(prefix), file.keys()):
                name, value = key.removeprefix(prefix), factor * file.get_tensor(key).float()
                made[name] = made[name] + value if name in made else value
    return made


def combination(snapshots: Sequence[Snapshot], wanted: Snapshot) -> list[float]:
    """The factors of snapshots whose sum is nearest to an average that was not kept.

    Args:
        snapshots: Those at hand, at least one.
        wanted: The average to make; not after the last snapshot.

    Returns:
        A factor for every snapshot. They sum to 1.

    Raises:
        ValueError: If there is no snapshot, or the last one is before the wanted step.
    """
    if not snapshots or wanted.steps > max(snapshot.steps for snapshot in snapshots):
        raise ValueError(f"no snapshot at step {wanted.steps} or after it")
    count = len(snapshots)
    # Times over the wanted one, so that all numbers are near 1.
    scaled = [(snapshot.steps / wanted.steps, snapshot.gamma) for snapshot in snapshots]
    products = torch.tensor([[_product(a, b) for b in scaled] for a in scaled], dtype=torch.float64)
    aims = torch.tensor([_product(a, (1.0, wanted.gamma)) for a in scaled], dtype=torch.float64)
    # The factors sum to 1, so that weights that do not change stay what they are: a Lagrange multiplier.
    system = torch.ones(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count], system[count, count] = products, 0
    solved = torch.linalg.lstsq(system, torch.cat([aims, aims.new_ones(1)])[:, None], driver="gelsd").solution
    return solved[:count, 0].tolist()


def _product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Integral of the product of two densities, given as (time, gamma)."""
    (first, early), (last, late) = sorted((a, b))
    return (early + 1) * (late + 1) / (early + late + 1) * (first / last) ** late / last
