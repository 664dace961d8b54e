"""Draws the figures and the table of docs/results/quality.md, and the figures of its appendix, from the appendix's tables.

    python -m benchmarks.figures                                 replaces the figures, and the table inside quality.md

No number is typed here: docs/results/quality-appendix.md is the only place where they stand. A caption has the command, the
commit and the seed that stand above the table there.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.oracle import plot

from scalespace.reports.figure import BASELINE, OURS, new_figure, save_figure

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DRAWN = "Drawn by python -m benchmarks.figures."
LEVELS = ("2L", "4L", "6L")
NOISES = {
    "the paper's": {"color": BASELINE, "linestyle": "--", "marker": "s", "label": "the paper's noise"},
    "shifted": {"color": OURS, "linestyle": "-", "marker": "^", "label": "shifted noise"},
    "orthonormal": {
        "color": OURS,
        "linestyle": ":",
        "marker": "o",
        "label": "shifted noise, orthonormal resize",
        "markersize": 11,
        "markerfacecolor": "none",
    },
}
SOLVERS = {
    "Ancestral": {"linestyle": ":", "marker": "o"},
    "DDIM(0)": {"linestyle": "-.", "marker": "D"},
    "Multistep": {"linestyle": "--", "marker": "s"},
    "Corrected": {"linestyle": "-", "marker": "^"},
}
DATA = {
    "CIFAR-10 at 16 pixels": "o",
    "Photographs at 16 pixels": "s",
    "CIFAR-10 at 32 pixels": "^",
    "Emoji at 16 pixels": "v",
}
ALL = "All runs together"
ARMS = {
    "paper": "the paper's noise",
    "shifted": "shifted noise",
    "shifted-auto": "shifted noise, levels off the data",
}
DISTANCES = {
    "Frechet, features": "Frechet distance in features",
    "Frechet, pixels": "in pixels",
    "SWD": "sliced Wasserstein",
}

Table = list[dict[str, str]]


class Source(NamedTuple):
    """A command as it was typed, and its commit and seed in words."""

    command: str
    commit: str

    def __str__(self) -> str:
        return f"{self.command} ({self.commit})"


class Estimate(NamedTuple):
    """A number and its interval; both ends are the number where the table has no interval."""

    value: float
    low: float
    high: float


class Appendix:
    """The appendix, by heading.

    Args:
        text: The appendix as Markdown.
    """

    def __init__(self, text: str):
        parts = re.split(r"^##+ (.*)$", text, flags=re.MULTILINE)
        self.sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    def tables(self, heading: str) -> list[Table]:
        """The tables of a section, each a list of rows from the heading of a column to its cell."""
        blocks = re.findall(r"(?:^\|.*\n)+", self.sections[heading], re.MULTILINE)
        found = []
        for block in blocks:
            head, _, *rows = [
                [cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()
            ]
            found.append([dict(zip(head, row, strict=True)) for row in rows])
        return found

    def source(self, heading: str) -> Source:
        """Where a section's tables come from."""
        found = re.search(r"^`(python -m [^`]*)`\s+\((.*?)\)$", self.sections[heading], re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f'the section "{heading}" of the appendix does not begin with a command and its commit')
        return Source(found[1], " ".join(found[2].replace("`", "").split()))

    def errors(self, heading: str) -> list[dict[str, Any]]:
        """Errors by process, levels, solver and calls, as ``benchmarks.oracle`` has them."""
        records = []
        for table in self.tables(heading):
            first, *calls = table[0]
            for row in table:
                process, levels = re.fullmatch(r"(.*?)(?:, (\d+)L)?", row[first]).groups()  # pyright: ignore[reportOptionalMemberAccess]
                records += [
                    {"process": process, "levels": int(levels or 1), "solver": first.split(",")[0]}
                    | {"calls": int(count), "error": float(row[count])}
                    for count in calls
                    if row[count]
                ]
        return records

    def error(self, process: str, solver: str, calls: int) -> float:
        """Error in one dimension of a process that is called "DDPM", or "SSD, shifted, 4L"."""
        return next(
            float(row[str(calls)])
            for table in self.tables("One dimension")
            for row in table
            if row.get(f"{solver}, calls:") == process
        )

    def trained(self, heading: str) -> dict[str, dict[str, str]]:
        """The rows of trained networks on one set of pictures, by arm."""
        return {row["process"].split("`")[1]: row for row in self.tables(heading)[0] if "`" in row["process"]}

    def multiple(self, arm: str, distance: str, heading: str) -> Estimate:
        """An arm's distance over DDPM's, on one set of pictures or over all runs.

        The interval on one set of pictures is that of a quotient of independent means, to first order in their half widths.
        """
        rows = self.trained(heading)
        if heading == ALL:
            return Estimate(*map(float, re.findall(r"[\d.]+", rows[arm][distance])))
        key = distance if distance in rows[arm] else f"{distance} mean"
        (value, half), (base, base_half) = (_spread(rows[name][key]) for name in (arm, "ddpm"))
        width = math.hypot(half / value, base_half / base)
        return Estimate(value / base, value / base * math.exp(-width), value / base * math.exp(width))


def _spread(cell: str) -> tuple[float, float]:
    value, _, half = cell.partition(" ± ")
    return float(value), float(half or 0)


def draw_levels(appendix: Appendix, path: Path) -> None:
    """Error with an exact denoiser over the number of levels."""
    figure = new_figure(9.6, 4.4)
    solvers = {"Ancestral": 1000, "Corrected": 55}
    for axes, (solver, calls) in zip(figure.subplots(1, 2, sharey=True), solvers.items(), strict=True):
        axes.axhline(appendix.error("DDPM", solver, calls), color="black", linewidth=1, label="DDPM (1 level)")
        for noise, style in NOISES.items():
            errors = [appendix.error(f"SSD, {noise}, {levels}", solver, calls) for levels in LEVELS]
            axes.plot(LEVELS, errors, **{"linewidth": 2, "markersize": 7} | style)
        axes.set_xticks(range(len(LEVELS)), [levels.rstrip("L") for levels in LEVELS])
        axes.set(yscale="log", xlabel="number of levels", title=f"{solver}, {calls} calls")
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
        axes.set_ylabel("error (share of the variance)" if solver == "Ancestral" else "")
    figure.axes[0].legend(loc="lower left")
    caption = f"Exact denoiser, one dimension. {appendix.source('One dimension')}. {DRAWN}"
    save_figure(figure, path, "Exact denoiser: levels cost almost nothing once the noise is shifted", caption)


def draw_calls(appendix: Appendix, path: Path) -> None:
    """Error with an exact denoiser over the number of network calls, by solver."""
    figure = new_figure(10, 4.4)
    panels = {
        "DDPM (1 level)": ("DDPM", BASELINE),
        "4 levels, the paper's noise": ("SSD, the paper's", BASELINE),
        "4 levels, shifted noise": ("SSD, shifted", OURS),
    }
    records = appendix.errors("One dimension")
    for axes, (title, (process, color)) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), panels.items(), strict=True
    ):
        for solver, style in SOLVERS.items():
            points = [
                (record["calls"], record["error"])
                for record in records
                if (record["process"], record["solver"]) == (process, solver) and record["levels"] in (1, 4)
            ]
            axes.plot(*zip(*points, strict=True), color=color, label=solver, linewidth=2, markersize=6, **style)
        axes.set(xscale="log", yscale="log", xlabel="network calls", title=title)
        axes.set_xticks([10, 100, 1000], ["10", "100", "1000"])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("error (share of the variance)")
    figure.axes[0].legend(loc="upper right")
    caption = f"Exact denoiser, one dimension. {appendix.source('One dimension')}. {DRAWN}"
    save_figure(figure, path, "Exact denoiser: how many network calls each solver needs", caption)


def draw_trained(appendix: Appendix, path: Path) -> None:
    """Distances of trained networks at equal compute, as multiples of DDPM's."""
    figure = new_figure(10.5, 6)
    panels = figure.subplots(1, 3, sharey=True)
    labels: list[str] = []
    for arm, name in ARMS.items():
        labels.append(name)
        for heading in (*DATA, ALL):
            if arm not in appendix.trained(heading):
                continue
            for axes, distance in zip(panels, DISTANCES, strict=True):
                _draw_multiple(axes, len(labels), arm, heading, appendix.multiple(arm, distance, heading))
            labels.append(heading)
        labels.append("")
    for axes, title in zip(panels, DISTANCES.values(), strict=True):
        axes.axvline(1, color="black", linewidth=1)
        axes.set(xscale="log", title=title, xlabel="multiple of DDPM's distance", xlim=(0.48, 2.1))
        axes.set_xticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3, axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 1.3, -0.7)
    for text in panels[0].get_yticklabels():
        text.set_fontweight("bold" if text.get_text() in ARMS.values() else "normal")
    sources = " ".join(f"{heading}: {appendix.source(heading).commit}." for heading in DATA)
    command = appendix.source(ALL).command
    caption = f"95 % intervals over the seeds; without one, a single seed. {command}. {sources} {DRAWN}"
    save_figure(figure, path, "Trained networks at equal compute: left of 1 is better than DDPM", caption)


def _draw_multiple(axes: Any, place: int, arm: str, heading: str, found: Estimate) -> None:
    whole = heading == ALL
    axes.errorbar(
        [found.value],
        [place],
        xerr=[[found.value - found.low], [found.high - found.value]],
        color=BASELINE if arm == "paper" else OURS,
        marker="D" if whole else DATA[heading],
        markersize=9 if whole else 7,
        markerfacecolor=None if whole else "white",
        linewidth=3 if whole else 1.2,
        capsize=4 if found.low < found.value else 0,
    )


def draw_oracle(appendix: Appendix, path: Path) -> None:
    """The figures of the appendix: every process and solver, in one or two dimensions."""
    heading, levels, data = {
        "oracle-line.png": ("One dimension", (4, 6), "64 samples, spectrum 1 / (k + 1)^2"),
        "oracle-plane.png": ("Two dimensions", (3,), "16 x 16, spectrum 1 / (1 + kh^2 + kw^2)"),
    }[path.name]
    plot(appendix.errors(heading), levels, path, data, f"{appendix.source(heading)}. {DRAWN}")


FIGURES = {
    "quality-levels.png": draw_levels,
    "quality-calls.png": draw_calls,
    "quality-trained.png": draw_trained,
    "oracle-line.png": draw_oracle,
    "oracle-plane.png": draw_oracle,
}


def summary(appendix: Appendix) -> str:
    """The table of quality.md."""
    by_changes = {row["changes"]: row for row in appendix.tables("Changes placed by the data, and errors by octave")[0]}
    of_the_paper, of_the_data = by_changes["ConvexDecay(0.5)"], by_changes["tau = 0.01"]
    processes = {
        "DDPM (1 level)": ("ddpm", f"{appendix.error('DDPM', 'Ancestral', 1000):.6f}"),
        ARMS["paper"]: ("paper", of_the_paper["ancestral 1000: SSD, the paper's"]),
        ARMS["shifted"]: ("shifted", of_the_paper["ancestral 1000: SSD, shifted"]),
        ARMS["shifted-auto"]: ("shifted-auto", of_the_data["ancestral 1000: SSD, shifted"]),
    }
    head = ["process", "error, exact denoiser", "compute a step", *DISTANCES, "runs"]
    lines = [head, ["---"] * len(head)]
    for name, (arm, error) in processes.items():
        shares = [float(rows[arm]["compute a step"]) for rows in map(appendix.trained, DATA) if arm in rows]
        together = appendix.trained(ALL).get(arm, dict.fromkeys(DISTANCES, "1") | {"runs": ""})
        spread = f"{min(shares):.2f}" + (f" to {max(shares):.2f}" if len(set(shares)) > 1 else "")
        lines.append([name, error, spread, *(together[key] for key in DISTANCES), together["runs"]])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_summary(page: str, appendix: Appendix) -> str:
    """The text of quality.md with its table in it, in the place of an older one."""
    return re.sub(r"(?:^\|.*\n)+", lambda _: f"{summary(appendix)}\n", page, count=1, flags=re.MULTILINE)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder with quality.md, for the figures")
    folder = parser.parse_args(words).output
    appendix = Appendix((RESULTS / "quality-appendix.md").read_text())
    for path in written(appendix, folder):
        print(path)


def written(appendix: Appendix, folder: Path) -> Iterator[Path]:
    """Write the figures, and the table into quality.md, and yield their paths."""
    for name, draw in FIGURES.items():
        draw(appendix, folder / name)
        yield folder / name
    page = folder / "quality.md"
    page.write_text(with_summary(page.read_text(), appendix))
    yield page


if __name__ == "__main__":
    main()
