"""Figure of how much of the pictures survives at t, which resolution holds that much, and what the schedules have."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from scalespace.planning.analysis import Analysis
from scalespace.planning.information import equal_information_side
from scalespace.planning.spectrum_plot import draw_spectrum
from scalespace.reports.figure import BASELINE, OURS, new_figure, save_figure
from scalespace.reports.provenance import Provenance
from scalespace.reports.table import write_text

__all__ = ["analysis_files", "plot_information", "write_analysis"]

_OTHERS = "0.75"
_LEAST_SIDE = 0.5  # pixels that are still drawn


def analysis_files(folder: Path) -> tuple[Path, Path, Path]:
    """The files of an analysis: two figures, and a JSON file."""
    return folder / "information.png", folder / "information.svg", folder / "information.json"


def write_analysis(analysis: Analysis, folder: Path, provenance: Provenance) -> tuple[Path, ...]:
    """Write information.png, information.svg and information.json.

    Args:
        analysis: The analysis to write.
        folder: Folder to write to. It is made if it does not exist, and older files of these names are replaced.
        provenance: Command and commit that the files are to carry.

    Returns:
        Paths of the three files.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If they cannot be written.
    """
    title = f"Information in {analysis.data} over the noise"
    paths = analysis_files(folder)
    for path in paths[:2]:
        plot_information(analysis, path, title, provenance.caption())
    write_text(paths[2], json.dumps(analysis.as_dict(provenance)))
    return paths


def plot_information(analysis: Analysis, path: Path, title: str, caption: str) -> None:
    """Draw the spectrum, the shares of pixels and modes that signal dominates, and the resolutions that hold as much.

    Args:
        analysis: The analysis to draw.
        path: Picture file to write.
        title: Title above the axes.
        caption: Text below the axes that tells where the figure comes from.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If the ending of the path is no format of a picture, or the picture cannot be written.
    """
    figure = new_figure(14, 5)
    left, middle, right = figure.subplots(1, 3)
    schedule = analysis.plan.schedule
    size = schedule.sizes[0]
    t = torch.arange(1, analysis.timesteps + 1)
    own, by_data = analysis.plan.reference_name, analysis.name_by_data

    draw_spectrum(left, schedule)

    curves = (
        ("signal-dominated pixels", analysis.pixels, "-", 2.5),
        ("the same, if pixels were uniform", analysis.pixels_if_uniform, ":", 1.5),
        ("signal-dominated modes", analysis.modes, "--", 2.5),
    )
    for axes, drawn in ((middle, lambda share: share), (right, lambda share: equal_information_side(share, size))):
        for name, share, style, width in curves:
            axes.plot(t, drawn(share), style, color="black", linewidth=width, label=name)
        for name, changes in analysis.schedules.items():
            label, style, color, width = f"schedule {name}", "-.", BASELINE, 1.8
            if name == by_data:
                style, color = "-", OURS
            elif name != own:
                label, style, color, width = "_other", "-", _OTHERS, 1
            shares = drawn(analysis.area(changes))
            # The two schedules that are compared lie above the others.
            axes.step(t, shares, style, where="post", color=color, linewidth=width, label=label, zorder=1 + width)
        axes.plot([], [], color=_OTHERS, linewidth=1, label="other schedules of the paper")
        axes.set(xlabel="grid point t")
        axes.grid(alpha=0.25)
    middle.set(
        ylabel="share of pixels, or of modes",
        title="Signal at t, and pixels of the schedules",
        ylim=(-0.02, 1.02),
    )
    right.set(
        ylabel="side (pixels)",
        title="Equal-information resolution r*",
        ylim=(_LEAST_SIDE, max(size) * 1.2),
    )
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter("{x:g}")
    # One legend for both, where there is room.
    right.legend(fontsize="small", loc="lower left", handlelength=3)
    save_figure(figure, path, title, caption)
