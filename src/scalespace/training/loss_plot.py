"""The loss curve of a run as a picture, one line for each resolution."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from scalespace.errors import printable
from scalespace.files import write_file

__all__ = ["plot_losses"]

_POINTS = 200


def plot_losses(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the losses of a log, averaged over windows of it, and over the changes of resolution together.

    Args:
        records: Lines of log.jsonl.
        path: Picture file to write.
        title: Title above the axes.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = sorted({name for record in records for name in record.get("losses", ())}, key=_resolution)
    inside = [name for name in names if "->" not in name]
    for name, style in zip(inside, cycle(("-", "--", "-.", ":")), strict=False):
        axes.plot(*_smoothed(records, name), linestyle=style, label=name)
    for name in names:
        if "->" in name:
            steps = [record["step"] for record in records if name in record.get("losses", ())]
            values = [record["losses"][name] for record in records if name in record.get("losses", ())]
            axes.plot(steps, values, ".", markersize=3, alpha=0.6, label=name)
    axes.set(xlabel="training step", ylabel="weighted loss", yscale="log")
    # Names of data hold dollars, and are no mathematics.
    axes.set_title(printable(title), parse_math=False)
    if names:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    write_file(path, lambda file: figure.savefig(file, dpi=120))


def _resolution(name: str) -> tuple[bool, int]:
    return "->" in name, -int(name.split("x")[0])


def _smoothed(records: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    window = max(1, len(records) // _POINTS)
    steps, values = [], []
    for start in range(0, len(records), window):
        found = [(r["step"], r["losses"][name]) for r in records[start : start + window] if name in r.get("losses", ())]
        if found:
            steps.append(sum(step for step, _ in found) / len(found))
            values.append(sum(value for _, value in found) / len(found))
    return steps, values
