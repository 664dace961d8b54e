"""The paper's analysis of information, on pictures: ``scalespace reproduce information``.

The paper counts the pixels where the signal dominates the noise, for pixels uniform in [-1, 1] (figure 2a). It takes the
information of a resolution r as proportional to its area, r^2 (figure 2b). The table also has the same count for the pixels of
real pictures and for their modes. Its last column is the resolution that the paper's schedule has at t.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), section 3.2.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from scalespace.paper.request import Request
from scalespace.planning.analysis import DEFINITIONS, Analysis, analyze_pictures
from scalespace.planning.information import equal_information_side
from scalespace.planning.information_plot import plot_information
from scalespace.reports.table import Column, Table

__all__ = ["information"]

_SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of T


def information(request: Request) -> Table:
    """Make the table of how much of the pictures survives at t, and which resolution holds that much."""
    scale = request.scale
    analysis = analyze_pictures(scale.ssd(scale.levels[-1]).config, request.needs_data(), request.progress)
    schedule = analysis.plan.schedule
    size = schedule.sizes[0]
    own = analysis.area(analysis.reference_changes)
    curves = (
        analysis.pixels_if_uniform,
        equal_information_side(analysis.pixels_if_uniform, size),
        analysis.pixels,
        equal_information_side(analysis.pixels, size),
        analysis.modes,
        equal_information_side(analysis.modes, size),
        equal_information_side(own, size),
    )
    shown = sorted({max(1, round(share * analysis.timesteps)) for share in (0, *_SHOWN)})
    rows = tuple((t, schedule.noise.snr(t), *(float(curve[t - 1]) for curve in curves)) for t in shown)
    columns = (
        Column("t", "t"),
        Column("snr", "SNR", ".2g"),
        Column("if_uniform", "pixels if uniform (the paper's)", ".1%"),
        Column("side_if_uniform", "r*", ".1f"),
        Column("pixels", "pixels", ".1%"),
        Column("side_of_pixels", "r* of pixels", ".1f"),
        Column("modes", "modes", ".1%"),
        Column("side_of_modes", "r* of modes", ".1f"),
        Column("schedule", f"r of {analysis.plan.reference_name}", ".3g"),
    )
    notes = (
        f"{analysis.pictures} pictures of {analysis.data} at {size[0]}x{size[1]}.",
        *DEFINITIONS[:3],
        "A state has more pixels than its information amounts to where r of the schedule is above r*.",
    )
    title = f"Information in {analysis.data} over the noise"
    table = Table("information", title, columns, rows, notes, request.provenance)
    return replace(table, figure=partial(_draw, analysis))


def _draw(analysis: Analysis, table: Table, path: Path) -> None:
    plot_information(analysis, path, table.title, table.provenance.caption())
