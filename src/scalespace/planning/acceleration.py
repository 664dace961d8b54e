"""A pretrained model of one resolution, made to sample progressively: where its resolution may change, and what that saves.

The changes are those of ``FromSpectrum``: a level is left as soon as noise has drowned the octave that it alone holds. The
noise is that of the network's training, shifted at every change, so that the network is never shown an SNR that is new to it.
That it was trained at the full resolution alone is said and not mended: at a lower one it is used as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.spectral import FromSpectrum
from scalespace.errors import UserError, cause
from scalespace.networks.flops import path_gflops
from scalespace.operators.linear import Size
from scalespace.pipelines.folders.card import Made
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.source import Pretrained
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.planning.cost import Plan, plan_of

__all__ = ["Acceleration", "Change", "accelerate"]


@dataclass(frozen=True)
class Change:
    """What one change of resolution takes away, and when.

    Args:
        size: Height and width before it.
        next_size: Height and width after it.
        power: Mean square of the DCT coefficients that only ``size`` holds, of pictures in [-1, 1].
        first: First grid point t of ``next_size``.
        mode_snr: SNR_t times power there, in the noise of the network's training.
    """

    size: Size
    next_size: Size
    power: float
    first: int
    mode_snr: float


@dataclass(frozen=True)
class Acceleration:
    """A pretrained model that samples progressively.

    Args:
        source: The model.
        scheduler: Its process with several resolutions.
        changes: The changes of resolution.
        tolerance: Mode-SNR below which an octave is left; None with one resolution.
        plan: What it costs.
        notes: What is to be known, in sentences.
    """

    source: Pretrained
    scheduler: ScaleSpaceScheduler
    changes: tuple[Change, ...]
    tolerance: float | None
    plan: Plan
    notes: tuple[str, ...]

    def pipeline(self, data: str | None, variant: str | None = None) -> ScaleSpacePipeline:
        """The model with its weights.

        Args:
            data: Name of the pictures that the changes were read off.
            variant: Name of the weights to take. None takes those without a name.

        Raises:
            UserError: If the weights are missing, damaged or not its own, or the parts do not fit each other.
        """
        network = self.source.network(self.scheduler.sizes, variant)
        labels: Any = self.source.labels
        try:
            pipeline = ScaleSpacePipeline(network, self.scheduler, labels)
        except ValueError as error:
            raise UserError(f"model {self.source.folder} cannot be taken: {cause(error)}") from error
        read_off = [] if data is None else [f"The changes of resolution were read off the spectrum of {data}."]
        told = [
            f"Not trained here: the network is that of {self.source.folder.name}, as it is.",
            *read_off,
            *self.notes,
        ]
        pipeline.made = Made(data=[line for note in told for line in (note, "")][:-1])
        return pipeline

    def as_dict(self) -> dict[str, Any]:
        """What ``as_text`` says, as a dictionary that can be written as JSON."""
        timesteps = self.scheduler.process.timesteps
        return {
            "tolerance": self.tolerance,
            "prediction": self.source.prediction_type,
            "solver": self.source.solver,
            "changes": [asdict(change) for change in self.changes],
            "plan": self.plan.as_dict(),
            "chain_gflops": timesteps * self.plan.average_gflops,
            "one_level_chain_gflops": timesteps * self.plan.one_level_gflops,
            "saved": 1 - self.plan.share,
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """The plan, the changes and what is to be known, as text."""
        timesteps, plan = self.scheduler.process.timesteps, self.plan
        lines = [plan.as_text()]
        if self.changes:
            lines += ["", f"{'change':>20} {'power lost':>12} {'from t':>8} {'mode-SNR':>10}"]
        for change in self.changes:
            sizes = "{}x{} -> {}x{}".format(*change.size, *change.next_size)
            lines.append(f"{sizes:>20} {change.power:>12.2e} {change.first:>8} {change.mode_snr:>10.2g}")
        whole, one = timesteps * plan.average_gflops, timesteps * plan.one_level_gflops
        lines += [
            "",
            f"whole chain         {whole:,.2f} GFLOPs a picture in {timesteps} calls, {one:,.2f} with one level",
            f"compute saved       {1 - plan.share:.1%}",
            *self.notes,
        ]
        return "\n".join(lines)


def accelerate(source: Pretrained, levels: int, tolerance: float, measure: Callable[[Size], Tensor]) -> Acceleration:
    """Place the changes of resolution of a pretrained model, and count what they save.

    Args:
        source: The model.
        levels: Number of resolutions, each of half the height and width of the one before. 1 leaves the model as it is.
        tolerance: Mode-SNR below which the octave that a change removes counts as drowned, in (0, 1).
        measure: Gives the mean spectrum of the pictures of a size (``mean_spectrum``); called once, when the rest is known to
            fit, and not at all with one level.

    Raises:
        UserError: If the network does not take the sizes, or spectrum and tolerance leave no level.
    """
    if levels < 1:
        raise UserError(f"--levels is {levels}; give at least 1")
    height, width = source.size
    # Of more levels than a side has bits the last ones have no pixels, which the network says.
    sizes = tuple((height >> level, width >> level) for level in range(min(levels, 64)))
    outline = source.network(sizes, outline=True)
    changes: tuple[Change, ...] = ()
    if levels > 1:
        noise = source.scheduler(sizes[:1], ()).process.noise
        try:
            # What can be known to be wrong is, before the pictures are read.
            FromSpectrum(torch.ones(sizes[0]), sizes, noise, tolerance)
            schedule = FromSpectrum(measure(sizes[0]), sizes, noise, tolerance)
            points = schedule.change_points(noise.timesteps)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"no level can be placed: {cause(error)}") from error
        changes = tuple(
            Change(sizes[k], sizes[k + 1], schedule.octaves[k], point, schedule.mode_snr(point)[k])
            for k, point in enumerate(points)
        )
    scheduler = source.scheduler(sizes, [change.first for change in changes])
    try:
        outline.time_of(scheduler.process.noise.log_snr_table[1:])
    except ValueError as error:
        raise UserError(f"model {source.folder} cannot be taken: {cause(error)}") from error
    # It cannot go up, so a call costs what its input does.
    of_size = cache(lambda size: path_gflops(outline, size, size))
    parameters = sum(parameter.numel() for parameter in outline.parameters())
    plan = plan_of(scheduler.process, parameters, lambda size, target_size: of_size(size))
    notes = (*source.notes, *_sizes_told(source, sizes))
    return Acceleration(source, scheduler, changes, tolerance if changes else None, plan, notes)


def _sizes_told(source: Pretrained, sizes: tuple[Size, ...]) -> list[str]:
    """What the network was not made for."""
    if len(sizes) == 1:
        return []
    blocks = [str(block) for block in source.unet["down_block_types"]]
    with_attention = [level for level, block in enumerate(blocks) if "Attn" in block]

    def seen(size: Size) -> str:
        return ", ".join(f"{size[0] >> level}x{size[1] >> level}" for level in with_attention)

    small = sizes[-1]
    attention = (
        f" Its attention saw {seen(sizes[0])} there and sees {seen(small)} at the last." if with_attention else ""
    )
    names = " and ".join("{}x{}".format(*size) for size in sizes[1:])
    return [
        f"The network was trained at {sizes[0][0]}x{sizes[0][1]} and never saw pictures of {names}; look at what it draws, and "
        f"compare it with one level.{attention}"
    ]
