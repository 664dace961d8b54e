"""The table and the figure of docs/results/pretrained.md, from the lines that ``compare`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.pretrained.arms import ARMS
from benchmarks.pretrained.comparing import RESULTS, TRUTH

from scalespace.errors import UserError
from scalespace.reports.figure import BASELINE, OURS, new_figure, save_figure

__all__ = ["BEGIN", "END", "PAGE", "plot", "records", "table"]

PAGE = Path(__file__).parents[2] / "docs/results/pretrained.md"
BEGIN, END = (
    "<!-- The table below is written by python -m benchmarks.pretrained table. -->\n",
    "<!-- End of the table. -->",
)
_STYLES: dict[str, dict[str, Any]] = {
    "full-ddim": {"color": BASELINE, "linestyle": ":", "marker": "o"},
    "full": {"color": BASELINE, "linestyle": "-", "marker": "s"},
    "expansion": {"color": BASELINE, "linestyle": "--", "marker": "D"},
    "ours": {"color": OURS, "linestyle": "--", "marker": "^"},
    "tuned": {"color": OURS, "linestyle": "-", "marker": "^"},
    "control": {"color": "black", "linestyle": "-", "marker": "s", "markerfacecolor": "none"},
}


def records(output: Path, seed: int) -> list[dict[str, Any]]:
    """What was measured with a seed, by arm and calls; the last line of a cell that was measured twice.

    Raises:
        UserError: If there is nothing.
    """
    file = output / RESULTS
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {(r["arm"], r["calls"]): r for r in lines if r["seed"] == seed}
    if not found:
        raise UserError(f"{file} has no line with seed {seed}; run compare first")
    order = [TRUTH, *ARMS]
    return sorted(found.values(), key=lambda r: (order.index(r["arm"]), r["calls"]))


def table(output: Path, seed: int, page: Path = PAGE) -> str:
    """The table as Markdown, which takes the place of the one in the page.

    Args:
        output: Folder of the results.
        seed: Which of them.
        page: Page with the two marks between which the table stands.

    Raises:
        UserError: If there are no results, or the page lacks a mark.
    """
    found = records(output, seed)
    lines = [
        "| model | calls | changes at t | GFLOPs a picture | kernel distance x 1000 | Frechet distance |",
        "|---|---|---|---|---|---|",
    ]
    for r in found:
        changes = ", ".join(map(str, r["changes"])) or "none"
        spent = ["", "", ""] if r["arm"] == TRUTH else [str(r["calls"]), changes, f"{r['gflops']:.2f}"]
        cells = [ARMS.get(r["arm"], r["arm"]), *spent, _interval(r["kid"]), _interval(r["fid"])]
        lines.append(f"| {' | '.join(cells)} |")
    told = found[-1]
    lines += ["", f"{told['count']:,} pictures of every row against {told['heldout']}, features {told['features']}. "]
    lines[-1] += "".join(f"`{command}` at commit {commit}. " for command, commit in _sources(found)).strip()
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{page} lacks the marks between which the table stands; restore it")
    before, rest = text.split(BEGIN)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1])
    return "\n".join(lines)


def plot(output: Path, seed: int, path: Path) -> None:
    """Kernel distance against compute, with intervals; the training pictures' as a band.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If there are no results.
    """
    found = records(output, seed)
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    for r in found:
        if r["arm"] == TRUTH:
            axes.axhspan(*r["kid"][1:], color="0.9", label=TRUTH)
    for name, style in _STYLES.items():
        rows = [r for r in found if r["arm"] == name]
        if rows:
            values = [r["kid"][0] for r in rows]
            ends = [[r["kid"][0] - r["kid"][1] for r in rows], [r["kid"][2] - r["kid"][0] for r in rows]]
            axes.errorbar([r["gflops"] for r in rows], values, ends, label=ARMS[name], capsize=3, **style)
    axes.set_xscale("log")
    axes.set_xlabel("GFLOPs a picture, all calls together")
    axes.set_ylabel("kernel distance x 1000")
    axes.legend()
    source = "; ".join(f"{command} ({commit})" for command, commit in _sources(found))
    save_figure(figure, path, "A pretrained model, sampled progressively", f"{source}; 95 % intervals")


def _sources(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    pairs = ((r["by"]["command"], (r["by"]["commit"] or "unknown")[:7]) for r in found)
    return list(dict.fromkeys(pairs))


def _interval(values: list[float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)
