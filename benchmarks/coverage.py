"""How often the intervals of ``scalespace evaluate`` hold what they are intervals for, in simulations.

    python -m benchmarks.coverage --replicates 200 --count 300

Both sides are drawn anew for every replicate, and an interval should hold the mean of its figure over all replicates in 95 % of
them. Printed are that share in percent and, in brackets, the mean half width of the intervals over 1.96 standard deviations of
the figure, for features and pictures of several kinds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.picture_distances import colour_distances, spectrum_distance
from scalespace.metrics.precision_recall import prdc
from scalespace.metrics.resampling import Measurement
from scalespace.metrics.sliced_wasserstein import sliced_wasserstein_bands

Sides = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

PRDC = ("precision", "recall", "density", "coverage")
COLOURS = ("channels", "saturation", "brightness", "contrast")


def gaussian(dimensions: int, scale: float, shift: float) -> Sides:
    """Gaussian features, one side scaled and shifted."""

    def sides(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, count, dimensions, generator=generator)
        return x * scale + shift, y

    return sides


def heavy_tails(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features in 64 dimensions of falling variance, some pictures far out."""
    sizes = 0.5 + 2 * torch.rand(2, count, 1, generator=generator)
    x, y = torch.randn(2, count, 64, generator=generator) * sizes * torch.arange(1, 65) ** -0.5
    return x + 0.1, y


def few_modes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One side has 2 of the 40 kinds of pictures that the other has."""
    centres = 6 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    kinds = [torch.randint(0, number, (count,), generator=generator) for number in (2, 40)]
    x, y = (centres[kind] + torch.randn(count, 8, generator=generator) for kind in kinds)
    return x, y


def pictures(contrast: float, brightness: float) -> Sides:
    """Pictures of 32 x 32 with a spectrum that falls, and a brightness, contrast and tint of their own."""
    frequency = torch.fft.fftfreq(32)
    falling = 1 / (1 / 32 + torch.hypot(frequency[:, None], frequency[None, :]))
    falling /= falling.square().mean().sqrt()

    def side(count: int, generator: torch.Generator, contrast: float, brightness: float) -> Tensor:
        noise = torch.randn(count, 3, 32, 32, generator=generator)
        fields = torch.fft.ifft2(torch.fft.fft2(noise) * falling).real
        deviations = contrast * (0.5 + torch.rand(count, 1, 1, 1, generator=generator))
        means = 20 * torch.randn(count, 1, 1, 1, generator=generator) + 8 * torch.randn(
            count, 3, 1, 1, generator=generator
        )
        return (fields * deviations + means + brightness).round().clamp(0, 255).byte()

    def sides(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return side(count, generator, contrast, brightness), side(count, generator, 40.0, 127.0)

    return sides


FEATURES: dict[str, Sides] = {
    "features of one distribution": gaussian(16, 1.0, 0.0),
    "features a little apart": gaussian(16, 1.1, 0.1),
    "features of heavy tails": heavy_tails,
    "features of two of 40 kinds": few_modes,
    "features of much less variety": gaussian(8, 0.35, 0.0),
    "features far apart": gaussian(8, 1.0, 2.2),
    "features in 128 dimensions": gaussian(128, 1.02, 0.05),
}
PICTURES: dict[str, Sides] = {
    "pictures of one distribution": pictures(40.0, 127.0),
    "pictures a little brighter": pictures(40.0, 130.0),
    "pictures with less contrast": pictures(30.0, 127.0),
}


def of_features(x: Tensor, y: Tensor, seed: int) -> dict[str, Measurement]:
    """All figures of features."""
    shares = prdc(x, y, seed=seed)
    return {
        "fid": frechet(x, y, seed=seed),
        "kid": kid(x, y, subsets=1, subset_size=10, seed=seed).all_pairs,
    } | {name: getattr(shares, name) for name in PRDC}


def of_pictures(x: Tensor, y: Tensor, seed: int) -> dict[str, Measurement]:
    """All figures of pictures, sliced Wasserstein distances of few patches along few directions."""
    colours = colour_distances(x, y, seed=seed)
    # The directions and places are the same every time, since an interval tells what other pictures would change.
    bands = sliced_wasserstein_bands(x, y, patches=8, directions=32)
    return (
        {f"swd_{band}": measured for band, measured in bands.items()}
        | {"spectrum": spectrum_distance(x, y, seed=seed)}
        | {f"colour_{name}": getattr(colours, name) for name in COLOURS}
    )


@dataclass(frozen=True)
class Coverage:
    """What the intervals of one figure did.

    Args:
        mean: Mean of the figure over the replicates.
        held: Share of the intervals that hold it.
        width: Mean half width over 1.96 standard deviations of the figure, infinite where the figure never varies.
    """

    mean: float
    held: float
    width: float

    def __str__(self) -> str:
        return f"{100 * self.held:.1f}" + (f" ({self.width:.2f})" if self.width < 100 else "")


def simulate(sides: Sides, count: int, replicates: int, seed: int = 0, progress: bool = False) -> dict[str, Coverage]:
    """The coverage of every figure for one kind of sides.

    Args:
        sides: Draws both sides.
        count: Number of pictures of either side.
        replicates: Number of times that both sides are drawn.
        seed: Seed of the draws.
        progress: Whether to show a progress bar on stderr.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for replicate in tqdm(range(replicates), delay=2, disable=not progress):
        x, y = sides(count, generator)
        for name, m in (of_pictures if x.ndim == 4 else of_features)(x, y, replicate).items():
            assert m.low is not None
            assert m.high is not None
            found.setdefault(name, []).append((m.value, m.low, m.high))
    return {name: _coverage(torch.tensor(rows, dtype=torch.float64)) for name, rows in found.items()}


def _coverage(rows: Tensor) -> Coverage:
    values, low, high = rows.T
    # Rounding alone, where the figure is always the same.
    mean, slack = values.mean(), 1e-9 * values.abs().max()
    held = ((low <= mean + slack) & (mean - slack <= high)).double().mean()
    return Coverage(float(mean), float(held), float((high - low).mean() / (2 * 1.96 * values.std())))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--count", type=int, default=300, help="pictures of either side")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for kinds in (FEATURES, PICTURES):
        heading: list[str] = []
        for kind, sides in kinds.items():
            found = simulate(sides, arguments.count, arguments.replicates, arguments.seed, True)
            if not heading:
                heading = ["", *found]
                print(_row(heading) + "\n" + _row(["---"] * len(heading)))
            print(_row([kind, *map(str, found.values())]), flush=True)
        print()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
