"""What a model will cost, before anything is spent: FLOPs of every path by torch's counter, on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.networks.flops import path_gflops
from scalespace.operators.linear import Size
from scalespace.training.build import build_network, build_scheduler, spectral_schedule, with_data, without_data
from scalespace.training.configuration import ModelConfig, ProcessConfig
from scalespace.training.time_sampling import TimeSampler

__all__ = ["Octave", "PathCost", "Plan", "PlanFromData", "make_plan", "make_plan_from_data", "plan_of"]


@dataclass(frozen=True)
class PathCost:
    """The steps that take one path through the network.

    Args:
        size: Height and width r(t) of the state.
        target_size: Height and width r(t - 1) of the prediction.
        first: First grid point t.
        last: Last grid point t.
        gflops: GFLOPs of one call for one picture; a multiply-add counts as two.
        margin: SNR_s / (SNR_t lambda_max(M M^T)) of a resolution change, valid from 1 up; None inside a level.
    """

    size: Size
    target_size: Size
    first: int
    last: int
    gflops: float
    margin: float | None


@dataclass(frozen=True)
class Plan:
    """The cost of a model.

    Args:
        parameters: Number of parameters.
        paths: Every path, from the clean end to noise.
        average_gflops: Mean GFLOPs of a call for one picture, over all grid points.
        one_level_gflops: GFLOPs of a call of the same network at the full resolution.
        share: Share of compute, average_gflops / one_level_gflops.
    """

    parameters: int
    paths: tuple[PathCost, ...]
    average_gflops: float
    one_level_gflops: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        """The plan as a dictionary that can be written as JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """The plan as a table in text."""
        lines = [
            f"{'step':>20} {'grid points':>13} {'share of steps':>15} {'GFLOPs a call':>14} {'validity margin':>16}"
        ]
        total = sum(path.last - path.first + 1 for path in self.paths)
        for path in self.paths:
            size, target = ("{}x{}".format(*side) for side in (path.size, path.target_size))
            points = f"{path.first}-{path.last}" if path.last > path.first else str(path.first)
            lines.append(
                f"{size if size == target else f'{size} -> {target}':>20} {points:>13} "
                f"{(path.last - path.first + 1) / total:>15.1%} {path.gflops:>14.2f} "
                f"{'' if path.margin is None else f'{path.margin:.3f}':>16}"
            )
        levels = len({path.size for path in self.paths})
        lines += [
            "",
            f"levels              {levels}",
            f"parameters          {self.parameters / 1e6:.2f} million",
            f"GFLOPs on average   {self.average_gflops:.2f} a call (a multiply-add counts as two)",
            f"GFLOPs of one level {self.one_level_gflops:.2f}",
            f"share of compute    {self.share:.1%} of one level",
            "A change is valid where its margin, SNR_s / (SNR_t lambda_max), is at least 1.",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Octave:
    """What one change of resolution takes away, and when.

    Args:
        size: Height and width before the change.
        next_size: Height and width after the change.
        power: Mean square of the DCT coefficients that only ``size`` holds, of pictures in [-1, 1].
        change: First grid point of ``next_size`` by the data.
        mode_snr: SNR times power at that point.
        reference_change: First grid point of ``next_size`` by the other schedule.
        reference_mode_snr: SNR times power at that point.
    """

    size: Size
    next_size: Size
    power: float
    change: int
    mode_snr: float
    reference_change: int
    reference_mode_snr: float


@dataclass(frozen=True)
class PlanFromData:
    """The cost of a model whose resolutions are read off its data, beside that of a schedule by formula.

    Args:
        schedule: The data's, with its spectrum.
        octaves: What each change takes away.
        plan: The cost with the data's change points.
        reference: The cost with the change points of the other schedule.
        reference_name: What the other schedule is called.
        saved: 1 - plan.average_gflops / reference.average_gflops.
    """

    schedule: FromSpectrum
    octaves: tuple[Octave, ...]
    plan: Plan
    reference: Plan
    reference_name: str
    saved: float

    def as_dict(self) -> dict[str, Any]:
        """The plan as a dictionary that can be written as JSON."""
        return {
            "tolerance": self.schedule.tolerance,
            "octaves": [asdict(octave) for octave in self.octaves],
            "plan": self.plan.as_dict(),
            "reference": self.reference.as_dict(),
            "reference_name": self.reference_name,
            "saved": self.saved,
        }

    def as_text(self) -> str:
        """The plan, and a table of both schedules, as text."""
        ours, theirs, name = self.plan, self.reference, f"t of {self.reference_name}"
        wide = max(len(name), 14)
        lines = [
            ours.as_text(),
            "",
            f"{'change':>20} {'power lost':>12} {'t of data':>12} {'mode-SNR':>10} {name:>{wide}} {'mode-SNR':>10}",
        ]
        for octave in self.octaves:
            sizes = "{}x{} -> {}x{}".format(*octave.size, *octave.next_size)
            lines.append(
                f"{sizes:>20} {octave.power:>12.2e} {octave.change:>12} {octave.mode_snr:>10.2g} "
                f"{octave.reference_change:>{wide}} {octave.reference_mode_snr:>10.2g}"
            )
        lines += [
            f"{'GFLOPs on average':>33} {ours.average_gflops:>12.2f} {'':>10} {theirs.average_gflops:>{wide}.2f}",
            f"{'share of compute':>33} {ours.share:>12.1%} {'':>10} {theirs.share:>{wide}.1%}",
            "",
            f"compute saved       {self.saved:.1%} of {self.reference_name}, {1 - ours.share:.1%} of one level",
            f"A level is left where the mode-SNR, SNR_t times the power lost, sinks below {self.schedule.tolerance:g}.",
        ]
        return "\n".join(lines)


def make_plan(model: ModelConfig) -> Plan:
    """Count what a model costs, without allocating it.

    Raises:
        UserError: If the parts of the model do not fit each other.
    """
    scheduler = build_scheduler(model)
    return plan_of(scheduler.process, *_path_costs(model, scheduler.sizes))


def make_plan_from_data(model: ModelConfig, measure: Callable[[Size], Tensor]) -> PlanFromData:
    """Count what a model costs when its resolutions are read off its data, and what it costs with its own schedule.

    Args:
        model: Compared with its own resolution schedule, or with ConvexDecay where that is "auto".
        measure: Gives the mean spectrum of the data's pictures of a size (``mean_spectrum``), shape (H, W); called once, when
            the rest is known to fit.

    Raises:
        UserError: If the parts of the model do not fit each other, or spectrum and tolerance leave no level.
    """
    config = model.process
    other = replace(model, process=replace(config, resolution="convex")) if config.awaits_data else model
    theirs = build_scheduler(other)
    # What can be known to be wrong is, before the pictures are read.
    without_data(replace(model, process=replace(config, resolution="auto", change_points=())))
    costs = _path_costs(model, theirs.sizes)
    spectrum = measure(theirs.image_size)
    schedule, ours = spectral_schedule(model, spectrum), build_scheduler(with_data(model, spectrum))
    changes = zip(
        *(scheduler.process.degradation.jumps for scheduler in (ours, theirs)),
        strict=True,
    )
    octaves = tuple(
        Octave(
            schedule.sizes[level],
            schedule.sizes[level + 1],
            schedule.octaves[level],
            *(change, schedule.mode_snr(change)[level]),
            *(other_change, schedule.mode_snr(other_change)[level]),
        )
        for level, (change, other_change) in enumerate(changes)
    )
    plan, reference = plan_of(ours.process, *costs), plan_of(theirs.process, *costs)
    saved = 1 - plan.average_gflops / reference.average_gflops
    return PlanFromData(schedule, octaves, plan, reference, _schedule_name(other.process), saved)


def _schedule_name(config: ProcessConfig) -> str:
    if config.change_points:
        return "points by hand"
    names = {
        "convex": "ConvexDecay",
        "equal": "Equal",
        "sigmoid": "SigmoidLike",
        "tanh": "TanhLike",
        "auto": "one level",
    }
    name = names[config.resolution]
    return name if config.resolution in ("equal", "auto") else f"{name} {config.gamma:g}"


def _path_costs(model: ModelConfig, sizes: Sequence[Size]) -> tuple[int, Callable[[Size, Size], float]]:
    """What ``plan_of`` is told of a model's network."""
    with torch.device("meta"):
        network = build_network(model, sizes)
    # Counted once for all plans of the network.
    return sum(parameter.numel() for parameter in network.parameters()), cache(partial(path_gflops, network))


def plan_of(process: ScaleSpaceProcess, parameters: int, gflops: Callable[[Size, Size], float]) -> Plan:
    """The cost of a process with a network.

    Args:
        process: The process.
        parameters: Number of parameters of the network.
        gflops: GFLOPs of one call for one picture, from a state of one size to a prediction of another.
    """
    margins = process.margins()
    paths = tuple(
        PathCost(
            group.size,
            group.target_size,
            group.first,
            group.last,
            gflops(group.size, group.target_size),
            margins.get(group.first) if group.is_change else None,
        )
        for group in TimeSampler(process).groups
    )
    full = gflops(process.size(0), process.size(0))
    average = sum(path.gflops * (path.last - path.first + 1) for path in paths) / process.timesteps
    return Plan(parameters, paths, average, full, average / full)
