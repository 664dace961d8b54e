"""Figures of those tables that the paper shows as figures. They are drawn from the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalespace.reports.figure import BASELINE, OURS, STYLES, new_figure, save_figure
from scalespace.reports.table import Table

__all__ = ["plot_schedules", "plot_steps"]

_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_OWN = "ConvexDecay 0.5"  # the paper's choice
_BASELINE_METHOD = "DDPM"


def plot_schedules(curves: Mapping[str, Sequence[int]], table: Table, path: Path) -> None:
    """Draw the resolution of every schedule over t, and quality over training hours.

    Args:
        curves: For each schedule, the side of the state in pixels at t = 1..T.
        table: The table ``schedules``.
        path: Picture file to write.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If the picture cannot be written.
    """
    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    rows = _by_key(table)
    others = iter(_DASHES)
    for number, row in enumerate(rows):
        name, sides = row["schedule"], curves[row["schedule"]]
        color, style, width = (OURS, "-", 2.5) if name == _OWN else (BASELINE, next(others), 1.5)
        times = range(1, len(sides) + 1)
        left.step(times, sides, where="post", color=color, linestyle=style, linewidth=width, label=name)
        _point(right, row["hours"], row, color=color, marker=_MARKERS[number % len(_MARKERS)], label=name)
    sides = sorted({side for values in curves.values() for side in values})
    left.set_yscale("log", base=2)
    left.set_yticks(sides, [str(side) for side in sides])
    left.set(xlabel="grid point t", ylabel="side of the state (pixels)", title="Resolution schedules")
    right.set(xlabel="training (hours)", ylabel=_heading(table), title="Quality, 95 % over the pictures")
    right.locator_params(axis="x", nbins=5)
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    save_figure(figure, path, table.title, table.provenance.caption())


def plot_steps(table: Table, path: Path) -> None:
    """Draw quality over network calls, for every method and sampler.

    Args:
        table: The table ``steps``.
        path: Picture file to write.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If the picture cannot be written.
    """
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    rows = _by_key(table)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for number, method in enumerate(methods):
        color = BASELINE if method.startswith(_BASELINE_METHOD) else OURS
        marker, style = _MARKERS[number % len(_MARKERS)], STYLES[number % len(STYLES)]
        for sampler, filled in (("ancestral", True), ("DDIM", False)):
            own = sorted((row for row in rows if (row["method"], row["sampler"]) == (method, sampler)), key=_calls)
            if not own:
                continue
            axes.plot([row["calls"] for row in own], [row["distance"] for row in own], style, color=color)
            for place, row in enumerate(own):
                fill = color if filled else "white"
                label = f"{method}, {sampler}" if place == 0 else None
                _point(axes, row["calls"], row, color=color, marker=marker, markerfacecolor=fill, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    least, most = (limit(map(_calls, rows)) for limit in (min, max))
    ticks = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if least / 2 <= tick <= 2 * most])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="calls of the network", ylabel=_heading(table))
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize="small")
    save_figure(figure, path, table.title, table.provenance.caption())


def _by_key(table: Table) -> list[dict[str, Any]]:
    return table.as_dict()["rows"]


def _heading(table: Table) -> str:
    return next(column.heading for column in table.columns if column.key == "distance")


def _calls(row: dict[str, Any]) -> int:
    return row["calls"]


def _point(axes: Any, x: float, row: dict[str, Any], **style: Any) -> None:
    value, low, high = row["distance"], row["low"], row["high"]
    bars = None if low is None or high is None else [[value - low], [high - value]]
    axes.errorbar([x], [value], yerr=bars, linestyle="none", capsize=3, **style)
