"""The paper's tables of trained models, computed again: ``scalespace reproduce main`` and its companions.

    main          DDPM, blurring, Scale Space Diffusion by levels: quality, hours of training, GFLOPs (tables 2 and 3)
    architecture  the full U-Net against Flexi-UNet: quality, seconds a picture (table 4)
    schedules     the resolution schedules (figure 5)
    anisotropic   exact noise at the changes of resolution against white noise (figure 10, table 8)
    steps         fewer sampling steps with the same models (table 7)

Each is a function from a request to a table. ``JOBS`` lists the models and samplers of every table, so that the cost is known
before anything starts.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from scalespace.metrics.resampling import LEVEL, Measurement
from scalespace.paper.experiments import Experiments
from scalespace.paper.figures import plot_schedules, plot_steps
from scalespace.paper.gflops import Counted, average_gflops, picture_gflops
from scalespace.paper.request import Request
from scalespace.paper.scale import Arm, Sampler, Scale, Schedule
from scalespace.paper.values import ARCHITECTURE, MAIN, NOISE_SECONDS, SCHEDULES, STEPS
from scalespace.reports.progress import progress_bar
from scalespace.reports.table import Cell, Column, Table
from scalespace.training.build import build_network, build_scheduler

__all__ = ["JOBS", "anisotropic", "architecture", "main", "schedules", "steps"]

Job = tuple[Arm, Sampler]
Row = tuple[Cell, ...]

_SCHEDULES = (
    Schedule("equal"),
    Schedule("convex", 2.0),
    Schedule("convex", 0.5),
    Schedule("sigmoid", 3.0),
    Schedule("tanh", 3.0),
)


def main(request: Request) -> Table:
    """Make the main table: quality, training hours and GFLOPs of DDPM, Blurring Diffusion and Scale Space Diffusion."""
    experiments = request.needs_experiments()
    scale, counted = experiments.scale, Counted()
    rows: list[Row] = []
    if (floor := experiments.floor()) is not None:
        rows.append(("training pictures", *_ends(floor), None, None))
    for arm, sampler in _each(request, "main"):
        distance, hours = experiments.distance(arm, sampler), experiments.hours(arm)
        rows.append((arm.method, *_ends(distance), hours, average_gflops(arm.config, counted).all))
    columns = (
        Column("method", "method"),
        *_distance_columns(experiments),
        Column("hours", "training, hours", ".3g"),
        Column("gflops", "GFLOPs a call", ".4g"),
    )
    columns, rows = _beside(
        *(columns, rows),
        *(Column("paper_fid", "paper: FID", ".2f"), Column("paper_hours", "paper: hours", ".2f")),
        printed=[MAIN.get((scale.name, str(row[0]))) for row in rows],
    )
    return _table(request, "main", f"DDPM and Scale Space Diffusion on {scale.pictures}", columns, rows)


def architecture(request: Request) -> Table:
    """Make the table of architectures: quality and seconds per picture of the full U-Net and of Flexi-UNet."""
    experiments = request.needs_experiments()
    scale, counted = experiments.scale, Counted()
    rows: list[Row] = []
    for arm, sampler in _each(request, "architecture"):
        distance, seconds = experiments.distance(arm, sampler), experiments.latency(arm, sampler)
        kind = "full U-Net" if arm.config.network.paths == "full" else "Flexi-UNet"
        gflops = average_gflops(arm.config, counted).all
        rows.append((f"{kind}, {arm.config.process.levels}L", *_ends(distance), seconds, gflops))
    columns = (
        Column("method", "method"),
        *_distance_columns(experiments),
        Column("seconds", "seconds a picture, alone", ".3g"),
        Column("gflops", "GFLOPs a call", ".4g"),
    )
    columns, rows = _beside(
        *(columns, rows),
        *(Column("paper_fid", "paper: FID", ".2f"), Column("paper_seconds", "paper: seconds (A4000)", ".2f")),
        printed=[ARCHITECTURE.get((scale.name, str(row[0]))) for row in rows],
    )
    notes = (
        "The full U-Net resizes every state up to the full resolution; the paper's takes it at its own, so that it costs less.",
        f"Seconds: median of {scale.timed_pictures} pictures drawn one by one in {scale.sampling_steps} steps.",
    )
    return _table(request, "architecture", f"Full U-Net and Flexi-UNet on {scale.pictures}", columns, rows, *notes)


def schedules(request: Request) -> Table:
    """Make the table of resolution schedules: quality and training hours of each."""
    experiments = request.needs_experiments()
    scale, counted = experiments.scale, Counted()
    rows: list[Row] = []
    curves: dict[str, list[int]] = {}
    for (arm, sampler), schedule in zip(_each(request, "schedules"), _SCHEDULES, strict=True):
        distance, hours = experiments.distance(arm, sampler), experiments.hours(arm)
        process = build_scheduler(arm.config).process
        curves[schedule.name] = [process.size(t)[0] for t in range(1, process.timesteps + 1)]
        changes = ", ".join(map(str, process.degradation.change_points))
        gflops = average_gflops(arm.config, counted).all
        rows.append((schedule.name, changes, *_ends(distance), hours, gflops))
    columns = (
        Column("schedule", "schedule"),
        Column("changes", "levels change at t ="),
        *_distance_columns(experiments),
        Column("hours", "training, hours", ".3g"),
        Column("gflops", "GFLOPs a call", ".4g"),
    )
    columns, rows = _beside(
        *(columns, rows),
        *(Column("paper_fid", "paper: FID", ".2f"), Column("paper_hours", "paper: hours", ".2f")),
        printed=[SCHEDULES.get((scale.name, str(row[0]))) for row in rows],
    )
    levels = scale.ablation_levels[-1]
    title = f"Resolution schedules of {levels} levels on {scale.pictures}"
    table = _table(request, "schedules", title, columns, rows)
    return replace(table, figure=partial(plot_schedules, curves))


def anisotropic(request: Request) -> Table:
    """Make the table of noise at changes: quality and seconds per picture with exact and with white noise."""
    experiments = request.needs_experiments()
    scale = experiments.scale
    rows: list[Row] = []
    for arm, sampler in _each(request, "anisotropic"):
        distance, seconds = experiments.distance(arm, sampler), experiments.latency(arm, sampler)
        noise = "anisotropic" if sampler.bridge == "exact" else "isotropic"
        rows.append((arm.method, noise, *_ends(distance), seconds))
    columns = (
        Column("method", "method"),
        Column("noise", "noise at changes"),
        *_distance_columns(experiments),
        Column("seconds", "seconds a picture, alone", ".3g"),
    )
    columns, rows = _beside(
        *(columns, rows),
        Column("paper_seconds", "paper: seconds (A4000)", ".2f"),
        printed=[
            None if seconds is None else (seconds,)
            for seconds in (NOISE_SECONDS.get((scale.name, str(row[0]), str(row[1]))) for row in rows)
        ],
    )
    notes = (
        "Isotropic: white noise of the posterior's mean variance in its place, in the steps that change the resolution.",
        f"Seconds: median of {scale.timed_pictures} pictures drawn one by one in {scale.sampling_steps} steps.",
    )
    return _table(request, "anisotropic", f"Noise at changes of resolution on {scale.pictures}", columns, rows, *notes)


def steps(request: Request) -> Table:
    """Make the table of fewer sampling steps: quality and time of the same models with each number of steps."""
    experiments = request.needs_experiments()
    scale, counted = experiments.scale, Counted()
    rows: list[Row] = []
    slowest: float | None = None
    for arm, sampler in _each(request, "steps"):
        distance, drawn = experiments.distance(arm, sampler), experiments.drawn(arm, sampler)
        slowest = slowest or drawn.seconds
        gflops = picture_gflops(arm.config, sampler, counted)
        name = {"ancestral": "ancestral", "ddim": "DDIM"}[sampler.solver]
        rows.append((arm.method, name, drawn.calls, *_ends(distance), gflops, drawn.seconds, slowest / drawn.seconds))
    columns = (
        Column("method", "method"),
        Column("sampler", "sampler"),
        Column("calls", "calls"),
        *_distance_columns(experiments),
        Column("gflops", "GFLOPs a picture", ".4g"),
        Column("seconds", "seconds a picture", ".3g"),
        Column("speedup", "speedup", ".2f"),
    )
    columns, rows = _beside(
        *(columns, rows),
        *(Column("paper_fid", "paper: FID", ".2f"), Column("paper_speedup", "paper: speedup", ".2f")),
        printed=[STEPS.get((scale.name, arm.method, sampler.name)) for arm, sampler in JOBS["steps"](scale)],
    )
    notes = (
        f"Seconds: of pictures drawn {min(scale.draw_batch, scale.samples)} at once; speedup over the first row.",
        "The paper has no DDIM for Scale Space Diffusion; across a change it is this package's extension.",
    )
    table = _table(request, "steps", f"Fewer sampling steps on {scale.pictures}", columns, rows, *notes)
    return replace(table, figure=plot_steps)


def _main_jobs(scale: Scale) -> list[Job]:
    baselines = (scale.ddpm("epsilon"), scale.ddpm("sample"), scale.blurring())
    arms = (*baselines, *(scale.ssd(levels) for levels in scale.levels))
    return [(arm, scale.sampler) for arm in arms]


def _architecture_jobs(scale: Scale) -> list[Job]:
    return [
        (scale.ssd(levels, full=full, steps=scale.ablation_steps), scale.sampler)
        for levels in scale.ablation_levels
        for full in (True, False)
    ]


def _schedules_jobs(scale: Scale) -> list[Job]:
    levels, length, batch = scale.ablation_levels[-1], scale.ablation_steps, scale.schedules_batch_size
    return [(scale.ssd(levels, schedule, length, batch), scale.sampler) for schedule in _SCHEDULES]


def _anisotropic_jobs(scale: Scale) -> list[Job]:
    samplers = (scale.sampler, Sampler(scale.sampling_steps, bridge="isotropic"))
    return [(scale.ssd(levels), sampler) for levels in scale.ablation_levels for sampler in samplers]


def _steps_jobs(scale: Scale) -> list[Job]:
    arms = (scale.ddpm("sample"), scale.ddpm("epsilon"), *(scale.ssd(levels) for levels in scale.ablation_levels))
    samplers = (scale.sampler, *map(Sampler, scale.fewer_steps), Sampler(scale.ddim_steps, "ddim"))
    return [(arm, sampler) for arm in arms for sampler in samplers]


JOBS: dict[str, Callable[[Scale], list[Job]]] = {
    "main": _main_jobs,
    "architecture": _architecture_jobs,
    "schedules": _schedules_jobs,
    "anisotropic": _anisotropic_jobs,
    "steps": _steps_jobs,
}
"""The models and samplers that the rows of each table are drawn from."""


def _each(request: Request, name: str) -> Iterator[Job]:
    jobs = JOBS[name](request.needs_experiments().scale)
    bar = progress_bar(jobs, name, "rows", request.progress)
    return iter(bar)


def _distance_columns(experiments: Experiments) -> tuple[Column, ...]:
    kind = experiments.extractor.mode.extractor
    name = "FID" if kind == "inception" else f"Frechet distance, {kind} features"
    return Column("distance", name, ".2f"), Column("low", f"{LEVEL:.0%} from", ".2f"), Column("high", "to", ".2f")


def _ends(measured: Measurement) -> tuple[float, float | None, float | None]:
    return measured.value, measured.low, measured.high


def _beside(
    columns: Sequence[Column], rows: Sequence[Row], *paper: Column, printed: Sequence[tuple[float | None, ...] | None]
) -> tuple[tuple[Column, ...], list[Row]]:
    """Append the paper's own numbers as columns, if the paper has any for this scale."""
    if not any(printed):
        return tuple(columns), list(rows)
    empty = (None,) * len(paper)
    return (*columns, *paper), [(*row, *(values or empty)) for row, values in zip(rows, printed, strict=True)]


def _table(request: Request, name: str, title: str, columns: Any, rows: Sequence[Row], *notes: str) -> Table:
    experiments = request.needs_experiments()
    return Table(name, title, columns, tuple(rows), (*notes, *_notes(experiments)), request.provenance)


def _notes(experiments: Experiments) -> Iterator[str]:
    scale = experiments.scale
    if scale.name == "tiny":
        arm = scale.ssd(scale.levels[-1])
        sizes = build_scheduler(arm.config).sizes
        with torch.device("meta"):
            network = build_network(arm.config, sizes)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        yield (
            f"These numbers are not the paper's: {scale.pictures}, {parameters / 1e6:.1f} million parameters, "
            f"{scale.steps} steps of {scale.batch_size} pictures, {scale.sampling_steps} sampling steps and no Inception. They "
            "show that every part runs; with so little training the order of the rows may differ from the paper's."
        )
        yield (
            f"{arm.config.change_share:.0%} of the training batches lie at changes of resolution; the paper draws all times "
            "evenly, and these few steps would leave the changes untrained."
        )
    else:
        yield (
            "As the paper has it, but: all models draw with the posterior's variance, where its DDPM has the larger fixed one; "
            "Flexi-UNet has the last block that the released code leaves out; what the paper does not state is this package's "
            "default."
        )
    yield (
        f"Of {experiments.compared}. Intervals are over the pictures, not over other trainings; such a distance is biased "
        "upwards, the more the fewer the pictures, so compare it inside this table only."
    )
    yield (
        f"Hours and seconds are of {experiments.device_name}; what an earlier command trained or drew has those of then. "
        f"Seed {experiments.seed} of everything that is drawn."
    )
