"""Solvers and processes compared with the exact denoiser, without a network and without drawing anything.

The data are Gaussian lines of 64 samples whose power falls with frequency, as in photographs. Their best denoiser is a
matrix, so what a sampler draws is Gaussian too, with a covariance that is computed. Out comes a table of errors, the
squared Frechet distance of drawn to true data over the variance of the data, by process, solver and number of calls.

Read in it: with the paper's noise four levels leave an error that further calls do not take away; with shifted noise they
end where DDPM does. In 30 calls the second-order solvers, Multistep and Corrected, beat the others in 100.
"""

import sys
from pathlib import Path

from scalespace import (
    DDIM,
    Ancestral,
    ConvexDecay,
    Corrected,
    GaussianDenoiser,
    LinearBeta,
    Multistep,
    Resizing,
    ScaleSpaceProcess,
    Shifted,
    chain_covariance,
    frechet_distance_squared,
    log_snr_grid,
    power_law,
    sampled_covariance,
    spectral_covariance,
)


def error(solver, covariance, calls: int) -> float:
    """What a solver's pictures lack of the data, from 0 (nothing) to about 1."""
    denoiser, grid = GaussianDenoiser(solver.process, covariance), log_snr_grid(solver.process, calls)
    # A solver that remembers earlier steps is followed as a whole, another step by step.
    drawn = chain_covariance if isinstance(solver, Multistep | Corrected) else sampled_covariance
    return frechet_distance_squared(drawn(solver, denoiser, grid), covariance) / float(covariance.trace())


def main(output: str = "runs/examples/solvers.md", *, samples: int = 64, levels: tuple[int, ...] = (1, 2, 4)) -> None:
    covariance = spectral_covariance(power_law((1, samples)))
    calls = (10, 20, 30, 55, 100)
    lines = [
        f"| process | solver | {' | '.join(f'{count} calls' for count in calls)} |",
        "| --- " * (len(calls) + 2) + "|",
    ]
    for count in levels:
        sizes = tuple((1, samples >> level) for level in range(count))
        resizing = Resizing(sizes, ConvexDecay(count).change_points(1000))
        noises = {"the paper's noise": LinearBeta(), "shifted noise": Shifted(LinearBeta(), resizing)}
        if count == 1:
            noises = {"DDPM": LinearBeta()}
        for name, noise in noises.items():
            process = ScaleSpaceProcess(noise, resizing)
            title = name if count == 1 else f"{count} levels, {name}"
            for solver in (Ancestral, DDIM, Multistep, Corrected):
                errors = [f"{error(solver(process), covariance, n):.1e}" for n in calls]
                lines.append(f"| {title} | {solver.__name__} | {' | '.join(errors)} |")
    print("\n".join(lines))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
