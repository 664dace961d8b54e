"""The oracle bench: what samplers draw when the denoiser is exact, in closed form or nearly.

    python -m benchmarks.oracle line                             1-D Gaussian data: error against network calls
    python -m benchmarks.oracle plane                            the same for 16 x 16 pictures
    python -m benchmarks.oracle early                            changes placed by the data, and errors by octave
    python -m benchmarks.oracle placement                        where the grid points should lie
    python -m benchmarks.oracle mixture --data photos64.zip      a Gaussian mixture fitted to patches of pictures

Each prints a table in Markdown and writes it, and a plot where there is one, into --output. The error is the squared
Frechet distance of drawn to true data over the trace of the data's covariance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from benchmarks.placement import best_division, best_points, even_grid, kept_points, uniform_calls
from torch import Tensor
from tqdm import tqdm

from scalespace.data.images import open_images
from scalespace.diffusion.bridges import Bridge, Isotropic, UpsampledPrediction, UpsampledState
from scalespace.diffusion.degradation import Levels, OrthonormalResizing, Resizing
from scalespace.diffusion.denoiser import GaussianDenoiser, GaussianMixtureDenoiser
from scalespace.diffusion.grids import calls_by_level, log_snr_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.operators.linear import Size
from scalespace.oracles.gaussian import (
    chain_covariance,
    frechet_distance_squared,
    lorentzian,
    octave_variances,
    power_law,
    sampled_covariance,
    spectral_covariance,
)
from scalespace.oracles.mixture import fit_mixture, grey_patches, mixture_moments
from scalespace.oracles.mixture_errors import draw_chain, mixture_errors
from scalespace.reports.figure import new_figure, save_figure
from scalespace.reports.provenance import provenance

Grid = tuple[int, ...]
REMEMBERING = ("Multistep", "Corrected")
SOLVERS = {"Ancestral": Ancestral, "DDIM(0)": DDIM, "Multistep": Multistep, "Corrected": Corrected}
LINE, PLANE = (1, 64), (16, 16)


@dataclass(frozen=True)
class Case:
    """A process and how its resolutions are bridged."""

    name: str
    levels: int
    shifted: bool = False
    degradation: type[Levels] = Resizing
    bridge: type[Bridge] | None = None

    def process(self, size: Size, changes: Grid | None = None) -> ScaleSpaceProcess:
        points = ConvexDecay(self.levels).change_points(1000) if changes is None else changes
        sizes = tuple((max(1, size[0] >> level), max(1, size[1] >> level)) for level in range(self.levels))
        degradation = self.degradation(sizes, points)
        return ScaleSpaceProcess(Shifted(LinearBeta(), degradation) if self.shifted else LinearBeta(), degradation)

    def solver(self, process: ScaleSpaceProcess, name: str):
        inner = SOLVERS[name](process)
        return inner if self.bridge is None else self.bridge(process, inner)


DDPM = Case("DDPM", 1)


def processes(levels: Iterable[int]) -> list[Case]:
    return [
        Case(name, count, shifted, degradation)
        for name, shifted, degradation in (
            ("SSD, the paper's", False, Resizing),
            ("SSD, shifted", True, Resizing),
            ("SSD, orthonormal", True, OrthonormalResizing),
        )
        for count in levels
    ]


def baselines(levels: Iterable[int]) -> list[Case]:
    return [
        Case(name, count, shifted, Resizing, bridge)
        for name, shifted, bridge in (
            ("isotropic noise, the paper's", False, Isotropic),
            ("isotropic noise, shifted", True, Isotropic),
            ("upsampled prediction, the paper's", False, UpsampledPrediction),
            ("upsampled prediction, shifted", True, UpsampledPrediction),
            ("upsampled state, shifted", True, UpsampledState),
        )
        for count in levels
    ]


def gaussian_error(case: Case, process: ScaleSpaceProcess, solver: str, data: GaussianDenoiser, grid: Grid) -> float:
    """Squared Frechet distance of what is drawn to the data, over the trace of the data's covariance."""
    return _distance(_covariance(case, process, solver, data, grid), data.covariance)


def _covariance(case: Case, process: ScaleSpaceProcess, solver: str, data: GaussianDenoiser, grid: Grid) -> Tensor:
    covariance = chain_covariance if solver in REMEMBERING else sampled_covariance
    return covariance(case.solver(process, solver), data, grid)


def _distance(drawn: Tensor, covariance: Tensor) -> float:
    return frechet_distance_squared(drawn, covariance) / float(covariance.trace())


def grid_of(process: ScaleSpaceProcess, calls: int) -> Grid | None:
    """``log_snr_grid``, all points for 1000 calls, nothing where the calls do not suffice."""
    if calls == process.timesteps:
        return tuple(range(calls, 0, -1))
    return log_snr_grid(process, calls) if calls >= len(kept_points(process)) else None


def drowned_at(tolerance: float) -> Grid:
    """Change points of 4 levels of the line, each where the octave it removes is drowned."""
    sizes = tuple((1, LINE[1] >> level) for level in range(4))
    return FromSpectrum(power_law(LINE), sizes, LinearBeta(), tolerance).change_points(1000)


def sweep(size: Size, covariance: Tensor, cases: list[Case], calls: dict[str, Grid], quiet: bool) -> list[dict]:
    records = []
    for case in tqdm(cases, unit=" processes", disable=quiet, file=sys.stderr):
        process = case.process(size)
        data = GaussianDenoiser(process, covariance)
        for solver, counts in calls.items():
            for count in counts:
                grid = grid_of(process, count)
                if grid is not None:
                    error = gaussian_error(case, process, solver, data, grid)
                    records.append(
                        {"process": case.name, "levels": case.levels, "solver": solver, "calls": count, "error": error}
                    )
    return records


def line(arguments: argparse.Namespace) -> tuple[str, list[dict]]:
    few = (10, 20, 30, 55, 100, 250)
    cases = [DDPM, *processes((2, 4, 6)), *baselines((2, 4, 6))]
    calls = {"Ancestral": (*few, 1000), "DDIM(0)": few, "Multistep": few, "Corrected": few}
    records = sweep(LINE, spectral_covariance(power_law(LINE)), cases, calls, arguments.quiet)
    path, source = arguments.output / "oracle-line.png", provenance("python -m benchmarks.oracle line")
    plot(records, (4, 6), path, "64 samples, spectrum 1 / (k + 1)^2", source.caption())
    return tables(records), records


def plane(arguments: argparse.Namespace) -> tuple[str, list[dict]]:
    few = (10, 20, 30, 55, 100)
    cases = [DDPM, *processes((3,)), *baselines((3,))]
    calls = {"Ancestral": (*few, 1000), "DDIM(0)": few, "Multistep": few, "Corrected": few}
    records = sweep(PLANE, spectral_covariance(lorentzian(PLANE)), cases, calls, arguments.quiet)
    path, source = arguments.output / "oracle-plane.png", provenance("python -m benchmarks.oracle plane")
    plot(records, (3,), path, "16 x 16, spectrum 1 / (1 + kh^2 + kw^2)", source.caption())
    return tables(records), records


def early(arguments: argparse.Namespace) -> tuple[str, list[dict]]:
    covariance = spectral_covariance(power_law(LINE))
    true = octave_variances(covariance, LINE)
    cases, records, rows = processes((4,)), [], []
    bands: dict[str, dict[str, dict[tuple[int, int], float]]] = {}
    for tau in (None, 0.01, 0.03, 0.1):
        changes = ConvexDecay(4).change_points(1000) if tau is None else drowned_at(tau)
        place = "ConvexDecay(0.5)" if tau is None else f"tau = {tau}"
        row = [place, ", ".join(map(str, changes))]
        for solver, count in (("Ancestral", 1000), ("Multistep", 55), ("Corrected", 30)):
            for case in cases:
                process = case.process(LINE, changes)
                grid = grid_of(process, count)
                drawn = _covariance(case, process, solver, GaussianDenoiser(process, covariance), grid or ())
                error = _distance(drawn, covariance)
                row.append(f"{error:.6f}")
                ratios = {band: value / true[band] for band, value in octave_variances(drawn, LINE).items()}
                bands.setdefault(f"{place}, {solver}, {count} calls", {})[case.name] = ratios
                records.append(
                    {"changes": changes, "process": case.name, "solver": solver, "calls": count, "error": error}
                    | {"bands": [[*band, ratio] for band, ratio in ratios.items()]}
                )
        rows.append(row)
    header = [
        "changes",
        "at t",
        *(f"{s}: {c.name}" for s in ("ancestral 1000", "Multistep 55", "Corrected 30") for c in cases),
    ]
    text = [markdown(header, rows)]
    for title in (title for title in bands if title.startswith(("Convex", "tau = 0.01"))):
        octaves = [f"{first}-{last}" if first != last else str(first) for first, last in true]
        text.append(f"Variance drawn / true, by octave. {title}:")
        text.append(
            markdown(
                ["process", *octaves],
                [[name, *(f"{r:.4f}" for r in ratios.values())] for name, ratios in bands[title].items()],
            )
        )
    return "\n\n".join(text), records


def placement(arguments: argparse.Namespace) -> tuple[str, list[dict]]:
    covariance = spectral_covariance(power_law(LINE))
    ours = [case for case in processes((4, 6)) if case.name == "SSD, shifted"]
    places: dict[str, tuple[Case, Grid | None]] = {
        DDPM.name: (DDPM, None),
        "shifted, 4L": (ours[0], None),
        "shifted, 6L": (ours[1], None),
        "shifted, 4L, tau = 0.01": (ours[0], drowned_at(0.01)),
    }
    windows = ((18, 19, 20), (28, 29, 30), (53, 54, 55))
    rules: dict[str, Callable[[ScaleSpaceProcess, int], Grid]] = {
        "uniform in t": uniform_calls,
        "log-SNR": even_grid,
        "by level": lambda process, calls: log_snr_grid(process, calls, 1.0, 0.0),
        "by level, first 0.4": lambda process, calls: log_snr_grid(process, calls, 0.4, 0.0),
        "by level, tilt 0.03": lambda process, calls: log_snr_grid(process, calls, 1.0, 0.03),
        "by level, first 0.4, tilt 0.03": log_snr_grid,
        "by level, first 0.2, tilt 0.03": lambda process, calls: log_snr_grid(process, calls, 0.2, 0.03),
        "by level, first 0.4, tilt 0.06": lambda process, calls: log_snr_grid(process, calls, 0.4, 0.06),
    }
    records, rows = [], []
    jobs = [(place, solver) for solver in ("Multistep", "Corrected", "Ancestral") for place in places]
    for place, solver in tqdm(jobs, unit=" processes", disable=arguments.quiet, file=sys.stderr):
        case, changes = places[place]
        process = case.process(LINE, changes)
        data = GaussianDenoiser(process, covariance)

        def error(grid: Grid, case=case, process=process, solver=solver, data=data) -> float:
            return gaussian_error(case, process, solver, data, grid)

        def record(name: str, grids: list[Grid], place=place, solver=solver, process=process, error=error) -> str:
            errors = sorted(error(grid) for grid in grids)
            records.append(
                {"process": place, "solver": solver, "calls": max(map(len, grids)), "placement": name}
                | {"median": errors[len(errors) // 2], "worst": errors[-1], "grid": grids[-1]}
                | {"by_level": calls_by_level(process, grids[-1])}
            )
            spread = f"{errors[len(errors) // 2]:.1e}" + (f" ({errors[-1]:.1e})" if len(grids) > 1 else "")
            return f"{spread} [{' '.join(map(str, reversed(records[-1]['by_level'])))}]"

        for name, rule in rules.items():
            cells = [record(name, [rule(process, calls) for calls in window]) for window in windows]
            rows.append([place, solver, name, *cells])
        if solver in REMEMBERING:
            divided, single = [], []
            for window in windows:
                start = calls_by_level(process, log_snr_grid(process, window[-1]))
                grid = best_division(process, start, error)
                divided.append(record("best division found", [grid]))
                single.append(record("best points found", [best_points(process, grid, error, rounds=10)]))
            rows += [[place, solver, "best division found", *divided], [place, solver, "best points found", *single]]
    header = ["process", "solver", "placement", *(f"{window[0]}-{window[-1]} calls" for window in windows)]
    return markdown(header, rows), records


def mixture(arguments: argparse.Namespace) -> tuple[str, list[dict]]:
    generator = torch.Generator().manual_seed(arguments.seed)
    pictures = open_images(str(arguments.data), (64, 64), cache_bytes=0, progress=not arguments.quiet)
    chosen = torch.randperm(len(pictures), generator=generator)[:2000].sort().values
    patches = grey_patches(pictures.batch(chosen)[0], 16, 10_000, generator)
    scores: list[float] = []
    fitted = fit_mixture(patches, 80, 16, generator, iterations=10, on_iteration=scores.append)
    _, covariance = mixture_moments(fitted)
    print(
        f"{len(fitted.weights)} components of rank 16 and noise {fitted.variance:.2e} fitted to {len(patches)} patches; "
        f"log-likelihood by iteration {', '.join(f'{score:.1f}' for score in scores)}; "
        f"variance a pixel {float(covariance.trace()) / 256:.4f}",
        file=sys.stderr,
    )
    cases = [DDPM, *processes((3,)), *baselines((3,))]
    jobs = [
        (case, solver, calls)
        for case in cases
        for solver, counts in (
            ("Ancestral", (100,)),
            ("DDIM(0)", (55,)),
            *((solver, (12, 20, 30, 55)) for solver in REMEMBERING),
        )
        for calls in counts
        # The baselines differ at the changes alone; the best solver shows it.
        if case.bridge is None or (solver == "Corrected" and calls in (20, 55))
    ]
    records, rows = [], []
    for case, solver, calls in tqdm(jobs, unit=" samplers", disable=arguments.quiet, file=sys.stderr):
        process = case.process(PLANE)
        denoiser, grid = GaussianMixtureDenoiser(process, fitted), log_snr_grid(process, calls)

        def draw(count: int, noise: torch.Generator, case=case, solver=solver, denoiser=denoiser, grid=grid) -> Tensor:
            return draw_chain(case.solver(denoiser.process, solver), denoiser, grid, count, noise)

        found = mixture_errors(fitted, draw, arguments.samples, seed=arguments.seed)
        records.append(
            {"process": case.name, "levels": case.levels, "solver": solver, "calls": len(grid)} | asdict(found)
        )
        estimates = (found.frechet, found.sliced_wasserstein, found.log_likelihood_gap)
        rows.append(
            [f"{case.name}, {case.levels}L" if case.levels > 1 else case.name, solver, str(len(grid))]
            + [f"{estimate.value:+.5f} ± {estimate.error:.5f}" for estimate in estimates]
        )
    header = ["process", "solver", "calls", "Frechet", "sliced Wasserstein", "log-likelihood gap, nats a pixel"]
    return markdown(header, rows), records


def tables(records: list[dict]) -> str:
    """One table a solver: processes down, calls across."""
    parts = []
    for solver in dict.fromkeys(record["solver"] for record in records):
        chosen = {(r["process"], r["levels"], r["calls"]): r["error"] for r in records if r["solver"] == solver}
        calls = sorted({count for *_, count in chosen})
        names = list(dict.fromkeys((name, levels) for name, levels, _ in chosen))
        rows = [
            [f"{name}, {levels}L" if levels > 1 else name]
            + [f"{chosen[name, levels, count]:.1e}" if (name, levels, count) in chosen else "" for count in calls]
            for name, levels in names
        ]
        parts.append(markdown([f"{solver}, calls:", *map(str, calls)], rows))
    return "\n\n".join(parts)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


# Ours in one colour, baselines in grey, told apart by dashes and markers.
_STYLES = {
    "DDPM": {"color": "0.15", "linestyle": "-", "marker": "o"},
    "SSD, the paper's": {"color": "0.35", "linestyle": "--", "marker": "s"},
    "SSD, shifted": {"color": "tab:blue", "linestyle": "-", "marker": "^"},
    "SSD, orthonormal": {"color": "tab:blue", "linestyle": "--", "marker": "v"},
    "isotropic noise, the paper's": {"color": "0.6", "linestyle": "--", "marker": "x"},
    "isotropic noise, shifted": {"color": "0.6", "linestyle": ":", "marker": "x"},
    "upsampled prediction, the paper's": {"color": "0.6", "linestyle": "--", "marker": "+"},
    "upsampled prediction, shifted": {"color": "0.6", "linestyle": ":", "marker": "+"},
    "upsampled state, shifted": {"color": "0.6", "linestyle": ":", "marker": "d"},
}


def plot(records: list[dict], levels: Grid, path: Path, data: str, caption: str) -> None:
    """Error against calls: a column for each solver, a row for each number of levels, DDPM in all."""
    solvers = list(dict.fromkeys(record["solver"] for record in records))
    figure = new_figure(3.4 * len(solvers) + 3, 3 * len(levels) + 1.2)
    grid = figure.subplots(len(levels), len(solvers), sharex=True, sharey=True, squeeze=False)
    for row, count in zip(grid, levels, strict=True):
        for axes, solver in zip(row, solvers, strict=True):
            for name, style in _STYLES.items():
                points = [
                    (r["calls"], r["error"])
                    for r in records
                    if r["process"] == name and r["solver"] == solver and r["levels"] in (1, count)
                ]
                axes.plot(*zip(*points, strict=True), label=name, markersize=5, linewidth=1.4, **style)
            axes.set(xscale="log", yscale="log", title=f"{solver}, {count} levels")
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("network calls")
    for row in grid:
        row[0].set_ylabel("error (share of the variance)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right center")
    save_figure(figure, path, f"Error with an exact denoiser: {data}", caption)


COMMANDS: dict[str, Callable[[argparse.Namespace], tuple[str, list[dict]]]] = {
    command.__name__: command for command in (line, plane, early, placement, mixture)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--output", type=Path, default=Path("runs/oracle"), help="folder for the table and the plot")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--data", type=Path, help="pictures of 64 pixels and more, for mixture")
    parser.add_argument("--samples", type=int, default=2000, help="pictures of each of 4 repeats, for mixture")
    parser.add_argument("--seed", type=int, default=0, help="of the fit and the draws, for mixture")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()
    if arguments.command == "mixture" and arguments.data is None:
        parser.error("mixture is fitted to pictures; give a folder or a zip of them with --data")
    started = time.perf_counter()
    text, records = COMMANDS[arguments.command](arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"oracle-{arguments.command}.md").write_text(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    print(text)
    print(f"{time.perf_counter() - started:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
