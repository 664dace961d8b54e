"""Where drawn pictures lose variance: sampling from true states before and after every change of resolution.

    python -m benchmarks.jumps --data cifar10-32-heldout.zip runs/trained/cifar10-32-16-paper-0/run/model ...

For every model, which predicts x_0, and every start, the variance of what Corrected draws over that of the pictures it
started from: by the network, from noised pictures, and by the exact denoiser of Gaussian data with the spectrum of these
pictures, from noised draws of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from scalespace.data.images import open_images
from scalespace.diffusion.denoiser import Denoiser, GaussianDenoiser
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import Corrected
from scalespace.operators.dct import dct_matrix
from scalespace.oracles.gaussian import spectral_covariance
from scalespace.pipelines.saving import load_pipeline

BATCH = 250
GAUSSIANS = 4000  # cheap to denoise exactly


def network_denoiser(network: torch.nn.Module, process: ScaleSpaceProcess) -> Denoiser:
    @torch.no_grad()
    def denoise(x_t: Tensor, t: int, s: int) -> Tensor:
        parts = [network(part, t - 1, process.size(s)).sample for part in x_t.split(BATCH)]
        return torch.cat(parts).clamp(-1, 1)

    return denoise


def gaussian_like(pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures whose DCT coefficients are independent and of the same mean power, and that power, shape (H, W)."""
    rows, columns = (dct_matrix(side).to(pictures) for side in pictures.shape[-2:])
    spectrum = (rows @ (pictures - pictures.mean(0)) @ columns.mT).square().mean((0, 1))
    noise = torch.randn(GAUSSIANS, *pictures.shape[1:], generator=generator)
    return rows.mT @ (spectrum.sqrt() * noise) @ columns, spectrum


def drawn_from(
    process: ScaleSpaceProcess, denoise: Denoiser, pictures: Tensor, grid: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """What is drawn from the pictures' own states at the first point of a grid."""
    solver = Corrected(process)
    state = process.marginal(pictures, grid[0]).sample(generator)
    for t, s in tqdm([*zip(grid, (*grid[1:], 0), strict=True)], desc=f"from t = {grid[0]}", leave=False):
        x0_s = denoise(state, t, s)
        state = solver.step(state, x0_s, t, s, torch.randn(x0_s.shape, generator=generator))
    return state


def variance(pictures: Tensor) -> float:
    return float(pictures.double().var(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model folders, as training wrote them")
    parser.add_argument("--data", type=Path, required=True, help="pictures to start from")
    parser.add_argument("--samples", type=int, default=500, help="pictures for every start")
    parser.add_argument("--calls", type=int, default=50, help="of a whole chain")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| model | from t | at | network | exact denoiser |\n| --- | --- | --- | --- | --- |")
    for path in arguments.models:
        pipeline = load_pipeline(path)
        process = pipeline.scheduler.process
        generator = torch.Generator().manual_seed(arguments.seed)
        data = open_images(str(arguments.data), process.size(0))
        chosen = torch.randperm(len(data), generator=generator)[: arguments.samples]
        pictures = data.batch(chosen)[0].float() / 127.5 - 1
        gaussian, spectrum = gaussian_like(pictures, generator)
        by_network = network_denoiser(pipeline.unet, process)
        exact = GaussianDenoiser(process, spectral_covariance(spectrum.double()))
        grid = log_snr_grid(process, arguments.calls)
        sides = {t for change in process.degradation.change_points for t in (change, change - 1)}
        for start in sorted({grid[0], *sides}, reverse=True):
            rest = tuple(t for t in grid if t <= start)
            drawn = drawn_from(process, by_network, pictures, rest, generator).clamp(-1, 1)
            exactly = drawn_from(process, exact, gaussian, rest, generator)
            shares = variance(drawn) / variance(pictures), variance(exactly) / variance(gaussian)
            size = "{} x {}".format(*process.size(start))
            print(f"| {path} | {start} | {size} | {shares[0]:.3f} | {shares[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
