"""What ``scalespace evaluate`` found: for people one line a figure, for programs JSON, both with counts and intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from scalespace.metrics.features import Mode
from scalespace.metrics.resampling import LEVEL, Measurement
from scalespace.metrics.sides import Side
from scalespace.metrics.statistics import Statistics

__all__ = ["Evaluation", "Row"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        key: Name of the figure in JSON.
        name: Name of the figure for people, with its unit.
        measured: The figure with its interval.
        counts: Number of pictures of either side that the figure was computed from; 0 where it is not known.
        better: Whether lower or higher is better.
        remark: What is printed after the figure.
        patches: Number of patches of either side that the figure was computed from; None if it needs no patches.
    """

    key: str
    name: str
    measured: Measurement
    counts: tuple[int, int]
    better: str = "lower"
    remark: str = ""
    patches: tuple[int, int] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All figures, and what they are figures of."""

    generated: Side
    reference: Side
    mode: Mode | None
    dimensions: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    groups: int
    seed: int
    statistics: Statistics | None = None
    """Statistics of the reference, if they were asked for."""

    def as_dict(self) -> dict[str, Any]:
        """All figures as a dictionary that can be written as JSON."""
        sides = {
            name: {
                "name": side.name,
                "count": side.count or None,
                "image_size": side.image_size,
                "preparation": side.preparation and side.preparation.as_dict(),
            }
            for name, side in (("generated", self.generated), ("reference", self.reference))
        }
        features = None if self.mode is None else self.mode.as_dict() | {"dimensions": self.dimensions}
        rows = [
            {
                "key": row.key,
                "name": row.name,
                **asdict(row.measured),
                "counts": _known(row.counts),
                "better": row.better,
            }
            | ({"remark": row.remark} if row.remark else {})
            | ({"patches": row.patches} if row.patches else {})
            for row in self.rows
        ]
        intervals = {"nominal_level": LEVEL, "method": "jackknife", "groups": self.groups, "seed": self.seed}
        return sides | {"features": features, "intervals": intervals, "metrics": rows, "notes": self.notes}

    def as_text(self) -> str:
        """All figures as text for people, one line for each figure."""
        lines = [f"generated  {self.generated}", f"reference  {self.reference}"]
        if self.mode is not None:
            lines.append(f"features   {self.dimensions} of {self.mode}")
        if self.groups:
            lines.append(
                f"intervals  nominally {LEVEL:.0%}, by leaving out one of {self.groups} groups of pictures at a time, "
                f"seed {self.seed}"
            )
        width = max(len(row.name) for row in self.rows)
        lines.append("")
        for row in self.rows:
            m = row.measured
            ends = "" if m.low is None or m.high is None else f"{_number(m.low)} to {_number(m.high)}"
            counts = "{} and {}".format(*("?" if count is None else count for count in _known(row.counts)))
            remark = f"  {row.remark}" if row.remark else ""
            lines.append(f"{row.name:{width}}  {_number(m.value):>9}  {ends:>20}  {counts:>15}  {row.better}{remark}")
        return "\n".join([*lines, "", *self.notes])


def _known(counts: tuple[int, int]) -> tuple[int | None, int | None]:
    first, second = (count or None for count in counts)
    return first, second


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
