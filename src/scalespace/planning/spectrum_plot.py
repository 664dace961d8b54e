"""Figure of the spectrum of the data, and of the timesteps at which noise drowns its octaves."""

from __future__ import annotations

from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalespace.diffusion.spectral import FromSpectrum
from scalespace.planning.cost import PlanFromData
from scalespace.reports.figure import BASELINE, OURS, STYLES, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_spectrum", "plot_spectrum"]

_RANGE = 1e-3, 1e7  # of the mode-SNR, in tolerances


def plot_spectrum(plan: PlanFromData, path: Path, title: str, caption: str) -> None:
    """Draw the mean spectrum with the octaves that the changes remove, and the mode-SNR of each over t.

    Args:
        plan: The plan to draw.
        path: Picture file to write.
        title: Title above the axes.
        caption: Text below the axes that tells where the figure comes from.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If the ending of the path is no format of a picture, or the picture cannot be written.
    """
    figure = new_figure(9, 4.6)
    left, right = figure.subplots(1, 2)
    schedule = plan.schedule
    grid = range(1, schedule.noise.timesteps + 1)

    draw_spectrum(left, schedule)
    for octave, style in zip(plan.octaves, cycle(STYLES), strict=False):
        name = "{}x{} to {}x{}".format(*octave.size, *octave.next_size)
        right.plot(
            grid,
            schedule.noise.snr(torch.tensor(grid)) * octave.power,
            style,
            color=OURS,
            linewidth=2,
            label=f"{name}: t = {octave.change} ({octave.reference_change})",
        )
        right.plot(octave.change, octave.mode_snr, "o", color=OURS, markersize=9)
        right.plot(octave.reference_change, octave.reference_mode_snr, "s", color=BASELINE, markersize=8)
    right.axhline(schedule.tolerance, color="black", linewidth=1, label=f"tolerance {schedule.tolerance:g}")
    right.plot([], [], "o", color=OURS, markersize=9, label=f"by the data: {plan.plan.share:.0%} of the compute")
    right.plot(
        [],
        [],
        "s",
        color=BASELINE,
        markersize=8,
        label=f"({plan.reference_name}): {plan.reference.share:.0%}",
    )
    right.set(
        xlabel="grid point t",
        ylabel="mode-SNR: SNR of t times mean square",
        title="What is lost when",
        yscale="log",
        ylim=tuple(schedule.tolerance * bound for bound in _RANGE),
    )
    right.legend(fontsize="small", loc="upper right", handlelength=3)
    right.grid(alpha=0.25)
    save_figure(figure, path, title, caption)


def draw_spectrum(axes: Axes, schedule: FromSpectrum) -> None:
    """Draw the mean spectrum with the mean power of the octaves that the changes remove.

    Args:
        axes: Axes to draw on.
        schedule: Schedule with the spectrum, the sizes and the octaves.
    """
    frequencies, power = _shells(schedule.spectrum)
    axes.plot(frequencies, power, color=BASELINE, linewidth=1.5, label="mean of each frequency")
    height = schedule.sizes[0][0]
    changes = zip(pairwise(schedule.sizes), schedule.octaves, cycle(STYLES), strict=False)
    for (size, next_size), octave, style in changes:
        name = "{}x{} to {}x{}".format(*size, *next_size)
        low, high = (0.5 * pixels[0] / height for pixels in (next_size, size))
        axes.axvline(low, color=BASELINE, linewidth=0.8, linestyle=":")
        axes.plot([low, high], [octave] * 2, style, color=OURS, linewidth=2.5, label=f"lost from {name}")
    axes.set(
        xlabel="frequency, larger of both directions (cycles per pixel)",
        ylabel="mean square DCT coefficient",
        title="Spectrum, and what each change removes",
        xscale="log",
        yscale="log",
    )
    axes.legend(fontsize="small", loc="lower left", handlelength=3)
    axes.grid(alpha=0.25)


def _shells(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of S over square shells of equal frequency without the constant, and their frequencies in cycles per pixel."""
    height, width = spectrum.shape
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    count = max(height, width)
    shell = (torch.maximum(rows[:, None], columns[None, :]) * count).round().long().flatten()
    power = torch.zeros(count, dtype=torch.float64).index_add(0, shell, spectrum.double().flatten())
    members = shell.bincount(minlength=count)
    kept = members > 0
    kept[0] = False
    return (torch.arange(count) / (2 * count))[kept], (power / members)[kept]
