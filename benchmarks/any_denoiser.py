"""A denoiser that knows full-resolution pictures alone, at low resolution: what is lost, in closed form.

    python -m benchmarks.any_denoiser                            prints two tables in Markdown

Gaussian pictures of 16 x 16 pixels with the spectrum S(k) = (1 + k)^-p. The one denoiser knows the spectrum of the small
pictures, which is S(k) / r^2 for sides r times as small. The other is an ideal convolutional network that was trained at full
resolution: to it a small picture is a part of a large one, with the same power at the same frequency per pixel, S(r k). They
agree where p = 2 and k is large. Errors are squared Frechet distances of drawn to true data over the trace of the data's
covariance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.bridges import SpectralExpansion
from scalespace.diffusion.degradation import DCTResizing, Levels, OrthonormalResizing
from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import Corrected
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.operators.dct import dct_matrix
from scalespace.oracles.gaussian import (
    chain_covariance,
    frechet_distance_squared,
    octave_variances,
    power_law,
    spectral_covariance,
)

SIZE, CALLS, EXPONENTS, TOLERANCES = (16, 16), 40, (1.5, 2.0, 3.0), (0.01, 0.1)
COLUMNS = ("one level", "trained", "cannot go up", "untrained", "expansion", "expansion, untrained")


@dataclass(frozen=True)
class Staying:
    """The exact prediction at the size of the state, carried up: the best of all networks that cannot go up."""

    exact: GaussianDenoiser
    mean = None

    @property
    def process(self) -> ScaleSpaceProcess:
        return self.exact.process

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        return carried(self.process, self.exact(x_t, t, t), t, s)


@dataclass(frozen=True)
class FullResolution:
    """An ideal convolutional denoiser of full-resolution pictures: one gain for every frequency per pixel, at any size."""

    process: ScaleSpaceProcess
    spectrum: Callable[[Tensor], Tensor]
    """Variance of a coefficient at full resolution, by its |k|."""
    mean = None

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        height, width = x_t.shape[-2:]
        ratio = self.process.size(0)[0] / height
        k = torch.hypot(torch.arange(height).double()[:, None], torch.arange(width).double())
        power, alpha, sigma = self.spectrum(ratio * k), self.process.noise.alpha(t), self.process.noise.sigma(t)
        rows, columns = dct_matrix(height), dct_matrix(width)
        gain = alpha * power / (alpha**2 * power + sigma**2)
        return carried(self.process, rows.mT @ (gain * (rows @ x_t @ columns.mT)) @ columns, t, s)


def carried(process: ScaleSpaceProcess, x0_t: Tensor, t: int, s: int) -> Tensor:
    """M^+ of a prediction at the size of the state."""
    return process.degradation.operator(s, t).adjoint_function(lambda e: 1 / e, x0_t)


def errors(exponent: float, levels: int, tolerance: float) -> tuple[tuple[int, ...], list[float]]:
    """The change points, and the error in every one of the columns.

    Raises:
        ValueError: If an octave does not sink below the tolerance.
    """
    spectrum = power_law(SIZE, exponent)
    covariance, scale = spectral_covariance(spectrum), float(spectrum[0, 0])
    sizes = tuple((SIZE[0] >> level, SIZE[1] >> level) for level in range(levels))
    points = FromSpectrum(spectrum, sizes, LinearBeta(), tolerance).change_points(1000)

    def process(kind: type[Levels], above: int = levels) -> ScaleSpaceProcess:
        degradation = kind(sizes[:above], points[: above - 1])
        return ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)

    def error(denoiser: Any, bridge: bool = False) -> float:
        chain: ScaleSpaceProcess = denoiser.process
        solver = SpectralExpansion(chain, Corrected(chain)) if bridge else Corrected(chain)
        drawn = chain_covariance(solver, denoiser, log_snr_grid(chain, CALLS))
        return frechet_distance_squared(drawn, covariance) / float(covariance.trace())

    one, ours, dct = process(OrthonormalResizing, 1), process(OrthonormalResizing), process(DCTResizing)
    at_full = lambda k: scale * (1 + k) ** -exponent  # noqa: E731
    return points, [
        error(GaussianDenoiser(one, covariance)),
        error(GaussianDenoiser(ours, covariance)),
        error(Staying(GaussianDenoiser(ours, covariance))),
        error(FullResolution(ours, at_full)),
        error(GaussianDenoiser(dct, covariance), bridge=True),
        error(FullResolution(dct, at_full), bridge=True),
    ]


def variances(exponent: float) -> dict[tuple[int, int], float]:
    """Drawn over true variance by octave, with the denoiser of full-resolution pictures, 2 levels and the first tolerance."""
    spectrum = power_law(SIZE, exponent)
    sizes = (SIZE, (SIZE[0] // 2, SIZE[1] // 2))
    points = FromSpectrum(spectrum, sizes, LinearBeta(), TOLERANCES[0]).change_points(1000)
    degradation = OrthonormalResizing(sizes, points)
    process = ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)
    denoiser: Any = FullResolution(process, lambda k: float(spectrum[0, 0]) * (1 + k) ** -exponent)
    drawn = chain_covariance(Corrected(process), denoiser, log_snr_grid(process, CALLS))
    true = octave_variances(spectral_covariance(spectrum), SIZE)
    return {octave: value / true[octave] for octave, value in octave_variances(drawn, SIZE).items()}


def main() -> None:
    """Print all rows as Markdown, one by one."""
    print(f"| p | levels | tolerance | changes at t | {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * (len(COLUMNS) + 4)}")
    for exponent in EXPONENTS:
        for levels in (2, 3):
            for tolerance in TOLERANCES:
                points, found = errors(exponent, levels, tolerance)
                changes, cells = ", ".join(map(str, points)), " | ".join(f"{value:.1e}" for value in found)
                print(f"| {exponent:g} | {levels} | {tolerance:g} | {changes} | {cells} |", flush=True)
    rows = {exponent: variances(exponent) for exponent in EXPONENTS}
    names = (f"{first}" if first == last else f"{first} to {last}" for first, last in rows[EXPONENTS[0]])
    print(f"\n| p | {' | '.join(f'k = {name}' for name in names)} |\n|{'---|' * 6}")
    for exponent, found in rows.items():
        print(f"| {exponent:g} | {' | '.join(f'{ratio:.2f}' for ratio in found.values())} |")


if __name__ == "__main__":
    main()
