"""A training run as one page that a browser shows without a server: curves, grids over time, configuration, data, machine.

The page has all its numbers in it; the sample grids it shows lie beside it in the run's folder. It asks for nothing from
elsewhere. While the run goes on it loads itself again from time to time, and keeps what the reader has chosen.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from scalespace.reports.table import write_text

__all__ = ["RunPage", "write_page"]

_POINTS = 400
"""Points of a curve; longer logs are averaged over windows."""
_TEMPLATE = "run_page.html"
_SHARES = "precision, recall, density, coverage"
"""Metrics in one chart, whose names have no beginning in common."""


@dataclass(frozen=True)
class RunPage:
    """What the page shows.

    Args:
        title: Name of the run.
        state: What the run is doing, as a word: "running", "finished" or "stopped".
        step: Number of steps taken.
        max_steps: Steps of the whole run.
        seconds_left: Time that the remaining steps will take. None where that is not known.
        log: Lines of log.jsonl.
        grids: Step and file of every sample grid, relative to the page.
        tables: Tables of names and values, by their headings; empty ones are left out.
        evaluations: Lines of evaluations.jsonl.
    """

    title: str
    state: str
    step: int
    max_steps: int
    seconds_left: float | None
    log: Sequence[Mapping[str, Any]]
    grids: Sequence[tuple[int, str]]
    tables: Mapping[str, Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]] = ()


def write_page(page: RunPage, path: Path) -> None:
    """Write the page as HTML.

    Args:
        page: Contents of the page.
        path: The file, for example RUN/index.html.

    Raises:
        UserError: If it cannot be written.
    """
    template = files("scalespace.reports").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    values = {
        "title": html.escape(page.title),
        "tables": "\n".join(_table(heading, rows) for heading, rows in page.tables.items() if rows),
        # A browser ends a script at the first "</", wherever it stands.
        "data": json.dumps(_data(page)).replace("<", "\\u003c"),
    }
    text = template
    for name, value in values.items():
        text = text.replace(f"%{name}%", value)
    write_text(path, text.rstrip())


def _data(page: RunPage) -> dict[str, Any]:
    curves = {name: _curve((r["step"], r["losses"].get(name)) for r in page.log) for name in _paths(page.log)}
    return {
        "state": page.state,
        "step": page.step,
        "maxSteps": page.max_steps,
        "secondsLeft": page.seconds_left,
        "charts": {
            "weighted loss by resolution": {name: curve for name, curve in curves.items() if "->" not in name},
            "weighted loss at changes of resolution": {name: curve for name, curve in curves.items() if "->" in name},
            **_evaluations(page.evaluations),
            "norm of the gradient": {"": _curve((r["step"], r.get("gradient_norm")) for r in page.log)},
            "pictures a second": {"": _curve((r["step"], r.get("pictures_per_second")) for r in page.log)},
        },
        "grids": [{"step": step, "file": file} for step, file in page.grids],
    }


def _evaluations(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Charts of what was measured: what belongs together, by its name up to the first "_", is in one."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in dict.fromkeys(name for record in records for name in record["metrics"]):
        group, _, part = (_SHARES, "", name) if name in _SHARES else name.partition("_")
        curve = _curve((r["step"], r["metrics"].get(name)) for r in records)
        charts.setdefault(f"from held-out pictures: {group}", {})[part] = curve
    return charts


def _paths(log: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of all paths in the log, from the full resolution down, and the changes after them."""
    names = {name for record in log for name in record["losses"]}
    return sorted(names, key=lambda name: ("->" in name, -int(name.partition("x")[0])))


def _curve(points: Iterable[tuple[int, float | None]]) -> list[tuple[float, float]]:
    """Means over windows of a curve's points, those that are finite."""
    known = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    window = -(-len(known) // _POINTS) if known else 1
    parts = [known[start : start + window] for start in range(0, len(known), window)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _table(heading: str, rows: Mapping[str, Any]) -> str:
    cells = "\n".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_text(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<details open><summary>{html.escape(heading)}</summary><table>\n{cells}\n</table></details>"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
