"""The spectrum of the data, and when its octaves drown, as a picture."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from scalespace.evaluation.cost import PlanFromData
from scalespace.training.run_directory import write_file

__all__ = ["plot_spectrum"]

_OURS, _BASELINE = "tab:blue", "0.45"
_STYLES = ("-", "--", "-.", ":")
_RANGE = 1e-3, 1e7  # of the mode-SNR, in tolerances


def plot_spectrum(plan: PlanFromData, path: Path, title: str, caption: str) -> None:
    """Draw the mean spectrum with the octaves that the changes remove, and the mode-SNR of each over t.

    Args:
        plan: What to draw.
        path: Picture to write.
        title: Above the axes.
        caption: Below them; where the figure comes from.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        ValueError: If the ending of the path is no format of a picture.
        UserError: If the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    schedule, sizes = plan.schedule, plan.schedule.sizes
    grid = range(1, schedule.noise.timesteps + 1)
    height = sizes[0][0]

    frequencies, power = _shells(schedule.spectrum)
    left.plot(frequencies, power, color=_BASELINE, linewidth=1.5, label="mean of each frequency")
    for octave, style in zip(plan.octaves, cycle(_STYLES), strict=False):
        name = "{}x{} to {}x{}".format(*octave.size, *octave.next_size)
        low, high = (0.5 * size[0] / height for size in (octave.next_size, octave.size))
        left.axvline(low, color=_BASELINE, linewidth=0.8, linestyle=":")
        left.plot([low, high], [octave.power] * 2, style, color=_OURS, linewidth=2.5, label=f"lost from {name}")
        right.plot(
            grid,
            schedule.noise.snr(torch.tensor(grid)) * octave.power,
            style,
            color=_OURS,
            linewidth=2,
            label=f"{name}: t = {octave.change} ({octave.reference_change})",
        )
        right.plot(octave.change, octave.mode_snr, "o", color=_OURS, markersize=9)
        right.plot(octave.reference_change, octave.reference_mode_snr, "s", color=_BASELINE, markersize=8)
    left.set(
        xlabel="frequency, larger of both directions (cycles per pixel)",
        ylabel="mean square DCT coefficient",
        title="Spectrum, and what each change removes",
        xscale="log",
        yscale="log",
    )
    right.axhline(schedule.tolerance, color="black", linewidth=1, label=f"tolerance {schedule.tolerance:g}")
    right.plot([], [], "o", color=_OURS, markersize=9, label=f"by the data: {plan.plan.share:.0%} of the compute")
    right.plot(
        [],
        [],
        "s",
        color=_BASELINE,
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
    for axes, place in ((left, "lower left"), (right, "upper right")):
        axes.legend(fontsize="small", loc=place, handlelength=3)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    figure.supxlabel(caption, fontsize="x-small", color="0.3")
    write_file(path, lambda file: figure.savefig(file, dpi=150))


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
