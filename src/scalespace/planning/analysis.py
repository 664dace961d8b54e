"""How much resolution pictures need at every t, and how much the paper's schedules give them: ``scalespace analyze``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalespace.data.batches import to_model
from scalespace.data.images import ImageDataset, open_images
from scalespace.data.spectrum import PICTURES, mean_spectrum
from scalespace.diffusion.resolution import ConvexDecay, Equal, ResolutionSchedule, SigmoidLike, TanhLike
from scalespace.planning.cost import PlanFromData, make_plan_from_data
from scalespace.planning.information import (
    area,
    closest_area,
    distance,
    equal_information_side,
    signal_modes,
    signal_modes_outside,
    signal_pixels,
    signal_pixels_if_uniform,
)
from scalespace.reports.progress import progress_bar
from scalespace.reports.provenance import Provenance
from scalespace.reports.table import Cell, Column, markdown
from scalespace.training.build import build_scheduler, without_data
from scalespace.training.configuration import ModelConfig

__all__ = ["DEFINITIONS", "Analysis", "Comparison", "Octave", "analyze", "analyze_pictures", "pixel_counts"]

DEFINITIONS = (
    "Pixels is the share of the pixels where |sigma_t eps| <= |alpha_t x_0| (the paper's definition), averaged over the noise "
    "and over the pixels of the pictures. If uniform: averaged over x_0 uniform in [-1, 1], as the paper simplifies.",
    "Modes is the share of the DCT coefficients f with SNR_t S(f) >= 1, where S is the mean power of the pictures.",
    "r* is the side of the square that has this share of the picture's pixels. SNR_t is that of full resolution, unshifted.",
    "Area is the share of the pixels that a schedule has at t. A distance is the mean over t of the absolute difference of two "
    "shares. Enough for pixels (or modes) is the share of the t at which the area is at least that of pixels (or modes). Modes "
    "lost is the largest share, over t, of modes that are signal-dominated but that the resolution cannot hold.",
)

_LEVELS = 256  # values of an 8-bit pixel
_BATCH, _BATCH_BYTES = 64, 2**28  # pictures that are counted together, and their size
_SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of T, in the table over t


@dataclass(frozen=True)
class Octave:
    """The power in the frequencies that one level holds and the next does not, or in all frequencies of the lowest level.

    Args:
        name: The two sizes in words.
        modes: Number of frequencies.
        power: Mean square of their DCT coefficients, for pictures in [-1, 1].
        share: Fraction of the power of the pictures that is in these frequencies.
    """

    name: str
    modes: int
    power: float
    share: float


@dataclass(frozen=True)
class Comparison:
    """How a resolution schedule compares with what survives the noise.

    Args:
        name: Name of the schedule.
        changes: First t of every level but the highest. None if the schedule has no levels.
        area: Fraction of the pixels that the states have, mean over t.
        to_pixels: Distance between the area and the share of signal-dominated pixels.
        to_modes: Distance between the area and the share of signal-dominated modes.
        enough_for_pixels: Fraction of the t at which the area is at least the share of pixels.
        enough_for_modes: Fraction of the t at which the area is at least the share of modes.
        modes_lost: Largest fraction, over t, of modes that are signal-dominated but that the resolution cannot hold. None if
            the schedule has no levels.
    """

    name: str
    changes: tuple[int, ...] | None
    area: float
    to_pixels: float
    to_modes: float
    enough_for_pixels: float
    enough_for_modes: float
    modes_lost: float | None


@dataclass(frozen=True, eq=False)
class Analysis:
    """What survives of pictures at t = 1..T, and what the resolution schedules keep.

    Args:
        data: Name of the data.
        pictures: Number of pictures that were measured.
        plan: Their spectrum, the change points read off it and the cost, beside the model's own schedule.
        pixels: Share of signal-dominated pixels, shape (T,).
        pixels_if_uniform: Share of signal-dominated pixels if pixels were uniform in [-1, 1], shape (T,).
        modes: Share of signal-dominated modes, shape (T,).
    """

    data: str
    pictures: int
    plan: PlanFromData
    pixels: Tensor
    pixels_if_uniform: Tensor
    modes: Tensor

    @property
    def timesteps(self) -> int:
        """Number of timesteps, T."""
        return len(self.modes)

    @property
    def changes_by_data(self) -> tuple[int, ...]:
        """First t of every level but the highest, in the schedule that is read off the spectrum."""
        return tuple(octave.change for octave in self.plan.octaves)

    @property
    def reference_changes(self) -> tuple[int, ...]:
        """First t of every level but the highest, in the model's own schedule."""
        return tuple(octave.reference_change for octave in self.plan.octaves)

    @property
    def name_by_data(self) -> str:
        """Name of the schedule that is read off the spectrum."""
        return f"by the data, {self.plan.schedule.tolerance:g}"

    def area(self, changes: Sequence[int]) -> Tensor:
        """Share of the pixels that the states have at every t if levels change at ``changes``, shape (T,)."""
        return area(self.plan.schedule.sizes, changes, self.timesteps)

    @cached_property
    def schedules(self) -> dict[str, tuple[int, ...]]:
        """Change points by name: the paper's schedules that leave every level a timestep, the model's, and the data's."""
        levels = len(self.plan.schedule.sizes)
        found = dict(_of_the_paper(levels, self.timesteps))
        found.setdefault(self.plan.reference_name, self.reference_changes)
        return found | {self.name_by_data: self.changes_by_data}

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every schedule compared with pixels and modes. The last three rows are references and no schedules."""
        schedule = self.plan.schedule
        tau = torch.arange(self.timesteps, dtype=torch.float64) / max(self.timesteps - 1, 1)
        others = {
            "levels closest to pixels": closest_area(self.pixels, schedule.sizes),
            "levels closest to modes": closest_area(self.modes, schedule.sizes),
            "side falling in a line to 0": (1 - tau).square(),
        }
        return (
            *(self._compare(name, self.area(changes), changes) for name, changes in self.schedules.items()),
            *(self._compare(name, shares, None) for name, shares in others.items()),
        )

    @cached_property
    def octaves(self) -> tuple[Octave, ...]:
        """How the power of the pictures is spread over the octaves."""
        spectrum, sizes = self.plan.schedule.spectrum.double(), self.plan.schedule.sizes
        total = float(spectrum.sum())
        counts = [math.prod(above) - math.prod(below) for above, below in pairwise(sizes)]
        names = ["{}x{} to {}x{}".format(*above, *below) for above, below in pairwise(sizes)]
        height, width = sizes[-1]
        powers = [*self.plan.schedule.octaves, float(spectrum[:height, :width].mean())]
        names.append("{}x{} and below".format(*sizes[-1]))
        counts.append(math.prod(sizes[-1]))
        rows = zip(names, counts, powers, strict=True)
        return tuple(Octave(name, count, power, count * power / total) for name, count, power in rows)

    def as_dict(self, provenance: Provenance) -> dict[str, Any]:
        """A dictionary for JSON, with the curves at every t."""
        size = self.plan.schedule.sizes[0]
        return {
            "data": self.data,
            "pictures": self.pictures,
            "definitions": list(DEFINITIONS),
            "octaves": [asdict(octave) for octave in self.octaves],
            "t": list(range(1, self.timesteps + 1)),
            "pixels": self.pixels.tolist(),
            "pixels_if_uniform": self.pixels_if_uniform.tolist(),
            "modes": self.modes.tolist(),
            "equal_information_side_of_pixels": equal_information_side(self.pixels, size).tolist(),
            "equal_information_side_of_modes": equal_information_side(self.modes, size).tolist(),
            "schedules": [asdict(comparison) for comparison in self.comparisons],
            "plan": self.plan.as_dict(),
            "provenance": provenance.as_dict(),
        }

    def as_text(self) -> str:
        """The tables as text."""
        plan, size = self.plan, "{}x{}".format(*self.plan.schedule.sizes[0])
        uniform = distance(self.pixels, self.pixels_if_uniform)
        return "\n".join(
            [
                f"{self.data} at {size}, {self.pictures} pictures",
                "",
                *(self._octave_table(), "", self._table_over_t(), "", self._comparison_table(), ""),
                f"pixels if uniform   {uniform:.4f} from the pixels measured",
                f"GFLOPs on average   {plan.plan.average_gflops:.2f} by the data, {plan.reference.average_gflops:.2f} by "
                f"{plan.reference_name}, {plan.plan.one_level_gflops:.2f} of one level",
                f"compute saved       {plan.saved:.1%} of {plan.reference_name}, {1 - plan.plan.share:.1%} of one level",
                "",
                *DEFINITIONS,
            ]
        )

    def _octave_table(self) -> str:
        columns = (
            Column("name", "octave"),
            Column("modes", "modes"),
            Column("power", "mean power", ".2e"),
            Column("share", "of all power", ".1%"),
            Column("change", "left at t"),
            Column("mode_snr", "mode-SNR there", ".2g"),
            Column("reference_change", f"by {self.plan.reference_name}"),
            Column("reference_mode_snr", "mode-SNR there", ".2g"),
        )
        left: list[tuple[Cell, ...]] = [
            (change.change, change.mode_snr, change.reference_change, change.reference_mode_snr)
            for change in self.plan.octaves
        ]
        rows = [
            (octave.name, octave.modes, octave.power, octave.share, *change)
            for octave, change in zip(self.octaves, [*left, (None,) * 4], strict=True)
        ]
        return markdown(columns, rows)

    def _table_over_t(self) -> str:
        schedule = self.plan.schedule
        size = schedule.sizes[0]
        curves = {
            "pixels": (self.pixels, ".1%"),
            "if uniform": (self.pixels_if_uniform, ".1%"),
            "modes": (self.modes, ".1%"),
            "r* of pixels": (equal_information_side(self.pixels, size), ".1f"),
            "r* of modes": (equal_information_side(self.modes, size), ".1f"),
            f"r of {self.plan.reference_name}": (
                equal_information_side(self.area(self.reference_changes), size),
                ".3g",
            ),
            "r by the data": (equal_information_side(self.area(self.changes_by_data), size), ".3g"),
        }
        shown = sorted({max(1, round(share * self.timesteps)) for share in (0, *_SHOWN)})
        columns = [Column("t", "t"), Column("snr", "SNR", ".2g")]
        columns += [Column(name, name, written) for name, (_, written) in curves.items()]
        rows = [(t, schedule.noise.snr(t), *(float(curve[t - 1]) for curve, _ in curves.values())) for t in shown]
        return markdown(columns, rows)

    def _comparison_table(self) -> str:
        columns = (
            Column("name", "schedule"),
            Column("changes", "changes at t"),
            Column("area", "mean area", ".3f"),
            Column("to_pixels", "distance to pixels", ".3f"),
            Column("to_modes", "to modes", ".3f"),
            Column("enough_for_pixels", "enough for pixels", ".1%"),
            Column("enough_for_modes", "for modes", ".1%"),
            Column("modes_lost", "modes lost", ".2%"),
        )
        rows = [
            tuple(
                ", ".join(map(str, value or ())) if name == "changes" else value
                for name, value in asdict(comparison).items()
            )
            for comparison in self.comparisons
        ]
        return markdown(columns, rows)

    def _compare(self, name: str, shares: Tensor, changes: tuple[int, ...] | None) -> Comparison:
        lost = None
        if changes is not None:
            schedule = self.plan.schedule
            snr = schedule.noise.snr(torch.arange(1, self.timesteps + 1))
            lost = float(signal_modes_outside(schedule.spectrum, snr, schedule.sizes, changes).max())
        return Comparison(
            name,
            changes,
            float(shares.mean()),
            distance(shares, self.pixels),
            distance(shares, self.modes),
            float((shares >= self.pixels).double().mean()),
            float((shares >= self.modes).double().mean()),
            lost,
        )


def analyze_pictures(
    model: ModelConfig, path: str, progress: bool = True, tell: Callable[[Sequence[str]], None] = lambda lines: None
) -> Analysis:
    """Measure pictures, and analyze them for a model.

    Args:
        model: Gives sizes, noise, tolerance and cost. Its resolution schedule is compared as well as the paper's.
        path: Folder, zip or synthetic source, as for ``open_images``.
        progress: Whether measurements of more than two seconds show a progress bar on stderr.
        tell: Takes lines for the user: which pictures were found, what was not read, and what was done to some.

    Raises:
        UserError: If the parts of the model do not fit each other, or the pictures cannot be read or are flat.
    """
    size = build_scheduler(without_data(model)).image_size
    # Only the pictures that are measured are decoded.
    data = open_images(path, size, channels=model.process.channels, cache_bytes=0, progress=progress)
    plan = make_plan_from_data(model, lambda _: mean_spectrum(data, progress))
    counts = pixel_counts(data, progress)
    tell((*data.found(), *data.met()))
    return analyze(Path(path).name, min(len(data), PICTURES), plan, counts)


def analyze(data: str, pictures: int, plan: PlanFromData, counts: Tensor) -> Analysis:
    """Analyze pictures that have been measured.

    Args:
        data: Name of the data.
        pictures: Number of pictures that were measured.
        plan: Plan that was made from their spectrum.
        counts: How often each of the 256 values of a pixel occurs, shape (256,).
    """
    noise = plan.schedule.noise
    snr = noise.snr(torch.arange(1, noise.timesteps + 1))
    return Analysis(
        data,
        pictures,
        plan,
        signal_pixels(to_model(torch.arange(_LEVELS, dtype=torch.uint8)), counts, snr),
        signal_pixels_if_uniform(snr),
        signal_modes(plan.schedule.spectrum, snr),
    )


def pixel_counts(data: ImageDataset, progress: bool = True) -> Tensor:
    """Count how often each of the 256 values occurs in the pictures that ``mean_spectrum`` measures, all channels together.

    Args:
        data: Data set. At most ``PICTURES`` of its pictures are read.
        progress: Whether a count of more than two seconds shows a progress bar on stderr.

    Returns:
        Shape (256,), int64.

    Raises:
        UserError: If more than 1 % of the pictures are damaged.
    """
    count = min(len(data), PICTURES)
    numbers = torch.arange(count) * len(data) // count
    total = torch.zeros(_LEVELS, dtype=torch.int64)
    bar = progress_bar(count, "counting pixels", "pictures", progress)
    with bar:
        for chosen in numbers.split(max(1, min(_BATCH, _BATCH_BYTES // (3 * math.prod(data.image_size))))):
            total += data.batch(chosen)[0].flatten().bincount(minlength=_LEVELS)
            bar.update(len(chosen))
    return total


def _of_the_paper(levels: int, timesteps: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    schedules: dict[str, ResolutionSchedule] = {
        "Equal": Equal(levels),
        "ConvexDecay 0.5": ConvexDecay(levels, 0.5),
        "ConvexDecay 2": ConvexDecay(levels, 2.0),
        "SigmoidLike 3": SigmoidLike(levels, 3.0),
        "TanhLike 3": TanhLike(levels, 3.0),
    }
    for name, schedule in schedules.items():
        try:
            yield name, schedule.change_points(timesteps)
        except ValueError:
            # On a coarse grid a level would have no point.
            continue
