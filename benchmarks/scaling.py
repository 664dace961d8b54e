"""Quality against compute: how much training compute does one process need for what another one reaches?

    python -m benchmarks.scaling gather runs/trained-75 runs/trained-300 runs/trained-1200
    python -m benchmarks.scaling draw
    python -m benchmarks.scaling grids runs/trained-1200

``gather`` takes the records of folders of ``benchmarks.trained``, one folder for each budget, into docs/results/scaling.json.
``draw`` makes the tables and figures of docs/results/scaling.md from that file alone. ``grids`` puts the
pictures of a budget side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.trained import ARMS, LEVELS, SAMPLERS, STUDENT, markdown, network_of
from matplotlib.lines import Line2D
from PIL import Image

from scalespace.diffusion.grids import log_snr_grid
from scalespace.networks.flops import path_gflops
from scalespace.reports.figure import BASELINE, OURS, new_figure, save_figure
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ModelConfig, ProcessConfig

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORDS, PAGE = RESULTS / "scaling.json", RESULTS / "scaling.md"
DISTANCES = {
    "kernel_efficientnet_lite0": "kernel distance x 1000, EfficientNet-Lite0",
    "frechet_efficientnet_lite0": "Frechet, EfficientNet-Lite0",
    "swd_mean": "SWD x 1000",
    "frechet_pixels": "Frechet, pixels",
}
LEARNED = tuple(DISTANCES)[:2]
PROCESSES = {
    "ddpm": "DDPM, x_0",
    "ddpm-v": "DDPM, v",
    "paper": "the paper's noise and resolutions",
    "shifted": "shifted noise, the paper's resolutions",
    "shifted-auto": "shifted noise, resolutions off the data",
    "ddpm-offset": "DDPM, x_0, min-SNR + 1",
    "offset": "shifted noise, resolutions off the data, min-SNR + 1",
    "shared-offset": "shared layers, resolutions off the data, min-SNR + 1",
}
BASELINES = {"offset": "ddpm-offset", "shared-offset": "ddpm-offset"}
"""What a process is compared with; the others with "ddpm". The weight of the loss is the same on both sides."""
TRAININGS = {
    "shifted-auto": "natural, uniform in t, min-SNR",
    "even": "the same number of batches for every level",
    "high": "batches 4 : 2 : 1, most at the full resolution",
    "base-snr-auto": "weight of the base noise's SNR",
    "constant-compute": "batches of constant compute",
    "least-variance": "batches of least variance",
    "v-auto": "v",
    "offset": "min-SNR + 1",
    "offset-high": "min-SNR + 1, batches 4 : 2 : 1",
    "shared": "shared layers",
    "shared-offset": "shared layers, min-SNR + 1",
    "shared-offset-even": "shared layers, min-SNR + 1, as many batches for every level",
    "shared-offset-high": "shared layers, min-SNR + 1, batches 4 : 2 : 1",
    "shared-offset-constant-compute": "shared layers, min-SNR + 1, batches of constant compute",
    "shared-offset-constant-memory": "shared layers, min-SNR + 1, batches of constant memory",
    "shared-offset-least-variance": "shared layers, min-SNR + 1, batches of least variance",
    "shared-offset-log-snr": "shared layers, min-SNR + 1, uniform in log-SNR",
    "shared-offset-log-normal": "shared layers, min-SNR + 1, EDM's log-normal times",
    "shared-sigmoid": "shared layers, sigmoid weight of SiD2",
}
BACKBONES = {
    "ddpm-offset": "U-Net, DDPM",
    "shared-offset": "U-Net, three levels",
    "transformer-ddpm-offset": "transformer, DDPM",
    "transformer-offset": "transformer, three levels",
}
"""All with resolutions off the data and min-SNR + 1."""
LOOKS: dict[str, dict[str, Any]] = {
    "ddpm": {"color": BASELINE, "linestyle": "-", "marker": "s"},
    "ddpm-v": {"color": BASELINE, "linestyle": ":", "marker": "D"},
    "paper": {"color": "tab:orange", "linestyle": "--", "marker": "v"},
    "shifted": {"color": OURS, "linestyle": "--", "marker": "o"},
    "shifted-auto": {"color": OURS, "linestyle": ":", "marker": "^"},
    "ddpm-offset": {"color": BASELINE, "linestyle": "--", "marker": "o"},
    "offset": {"color": OURS, "linestyle": "--", "marker": "v"},
    "shared-offset": {"color": OURS, "linestyle": "-", "marker": "*"},
}
NAMES = {"emoji64": "Emoji", "cifar10-32": "CIFAR-10"}
SAMPLER = "corrected-20"
VARIANCES_FROM = 500  # steps, from which measured variances have a say
BACKWARD = 2  # a training step is a forward pass and a backward pass of twice its FLOPs

Record = dict[str, Any]


class Ratio(NamedTuple):
    """Compute for equal quality over that of the baseline, and its 95 % interval. An end that is None is not determined."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "not determined"
        low, high = ("?" if end is None else f"{end:.2f}" for end in self[1:])
        return f"{self.value:.2f} ({low} to {high})"


class Point(NamedTuple):
    """A run: which pictures, the compute of its training, and the distance it reached."""

    pictures: str
    compute: float
    distance: float


def compute_ratio(baseline: Sequence[Point], other: Sequence[Point]) -> Ratio:
    """The compute at which a process has the distance of another one, as a multiple of the other's compute.

    Log distance is taken to fall in straight lines over log compute, all with one slope, and for all pictures with one gap
    between the processes. The interval is Fieller's (1954) for the quotient of two estimates, here of gap and slope.

    Args:
        baseline: Every run of the process to compare with.
        other: Every run of the other process.

    Returns:
        The ratio. Nothing is determined where the runs do not tell the slope from none.
    """
    runs = [(0.0, point) for point in baseline] + [(1.0, point) for point in other]
    kinds = sorted({point.pictures for _, point in runs})
    rows = [
        [kind, -math.log(point.compute), *(float(point.pictures == name) for name in kinds)] for kind, point in runs
    ]
    design = torch.tensor(rows, dtype=torch.float64)
    logs = torch.tensor([math.log(point.distance) for _, point in runs], dtype=torch.float64)
    inverse = torch.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ logs
    gap, slope = fitted[:2].tolist()
    freedom = min(len(runs) - len(fitted), max(STUDENT) - 1)
    variance = float((logs - design @ fitted).square().sum()) / (len(runs) - len(fitted))
    (vgap, both), (_, vslope) = (inverse[:2, :2] * variance * STUDENT[freedom + 1] ** 2).tolist()
    a, b, c = slope**2 - vslope, gap * slope - both, gap**2 - vgap
    if slope <= 0 or a <= 0:
        return Ratio(None, None, None)
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return Ratio(math.exp(gap / slope), math.exp((b - root) / a), math.exp((b + root) / a))


def gather(folders: Sequence[Path], commit: str) -> None:
    """The records of all folders, and of before, in one file; the last of the same run counts."""
    records = json.loads(RECORDS.read_text())["records"] if RECORDS.exists() else []
    for folder in folders:
        found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        records += [record | {"commit": commit} for record in found]
    known = {tuple(r[key] for key in IDENTITY): r for r in records}
    lines = ",\n".join(json.dumps(known[key]) for key in sorted(known))
    RECORDS.write_text(f'{{"records": [\n{lines}\n]}}\n')


IDENTITY = ("data", "size", "steps_of_one_level", "arm", "mixed_precision", "sampler", "seed")


@lru_cache
def gflops(arm: str, size: int, changes: tuple[int, ...], sampler: str) -> tuple[float, float]:
    """GFLOPs of one call at full resolution, and of all calls for one picture."""
    options = ARMS[arm][0] | {"resolution": "auto" if changes else "convex", "change_points": changes}
    process = replace(ProcessConfig((size, size), levels=LEVELS[size]), **options)
    backbone = {name: ARMS[arm][1][name] for name in ("backbone", "transformer") if name in ARMS[arm][1]}
    model = ModelConfig(process=process, network=network_of(arm, size), **backbone)
    scheduler = build_scheduler(model)
    process = scheduler.process
    with torch.device("meta"):
        network = build_network(model, scheduler.sizes)
    grid = (*log_snr_grid(process, SAMPLERS[sampler][2]), 0)
    calls = Counter((process.size(t), process.size(s)) for t, s in pairwise(grid))
    spent = sum(count * path_gflops(network, *pair) for pair, count in calls.items())
    return path_gflops(network, process.size(0), process.size(0)), spent


def training_teraflops(record: Record) -> float:
    """FLOPs of the training, in 10^12: those of so many steps of one level."""
    full, _ = gflops("ddpm", record["size"], (), record["sampler"])
    return record["steps_of_one_level"] * record["batch_size"] * full * (1 + BACKWARD) / 1e3


def sampling_gflops(record: Record) -> float:
    """FLOPs of all calls for one picture, in 10^9."""
    return gflops(record["arm"], record["size"], tuple(record["changes"]), record["sampler"])[1]


def scaled(key: str) -> float:
    """Small distances are shown times 1000, except those that are recorded so."""
    return 1000.0 if key.startswith("kernel") else 1.0


def shown(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def comparison(records: Sequence[Record], arms: dict[str, str]) -> str:
    """A table for every size and set of pictures: distances by budget and arm, one for each seed."""
    parts = []
    for size, data in sorted({(r["size"], r["data"]) for r in records if r["arm"] in arms}, key=_by_name):
        alike = [r for r in records if (r["size"], r["data"]) == (size, data)]
        rows = []
        for steps in sorted({r["steps_of_one_level"] for r in alike}):
            for arm, name in arms.items():
                runs = [r for r in alike if (r["steps_of_one_level"], r["arm"]) == (steps, arm)]
                if not runs:
                    continue
                cells = [", ".join(shown(scaled(key) * r[key]) for r in runs) for key in DISTANCES]
                spent = [
                    f"{training_teraflops(runs[0]):.1f}",
                    f"{runs[0]['steps']:,}",
                    ", ".join(f"{r['training_seconds'] / 60:.1f}" for r in runs),
                    f"{sampling_gflops(runs[0]):.1f}",
                ]
                rows.append([name, str(len(runs)), *spent, *cells])
        header = ["", "seeds", "training, 10^12 FLOPs", "steps", "core minutes", "drawing, GFLOPs a picture"]
        parts.append(f"{NAMES[data]} at {size} pixels:\n\n{markdown([*header, *DISTANCES.values()], rows)}")
    return "\n\n".join(parts)


def _by_name(place: tuple[int, str]) -> tuple[int, int]:
    return place[0], list(NAMES).index(place[1])


def ratios(records: Sequence[Record]) -> str:
    """How much compute every process needs for DDPM's quality, with each set of pictures and with both."""
    records = [r for r in records if r["size"] == 32]
    rows = []
    for names in ([*NAMES], *([name] for name in NAMES)):
        for arm, title in PROCESSES.items():
            if arm in ("ddpm", "ddpm-offset"):
                continue
            baseline = BASELINES.get(arm, "ddpm")
            kinds = [
                {
                    (r["data"], r["steps_of_one_level"], r["seed"])
                    for r in records
                    if r["arm"] == one and r["data"] in names
                }
                for one in (baseline, arm)
            ]
            # Only what both have, so that neither is judged by budgets or seeds of its own.
            shared = kinds[0] & kinds[1]
            if len({steps for _, steps, _ in shared}) < 2:
                continue
            cells = []
            for key in DISTANCES:
                sides = [
                    [
                        Point(r["data"], training_teraflops(r), r[key])
                        for r in records
                        if r["arm"] == one and (r["data"], r["steps_of_one_level"], r["seed"]) in shared
                    ]
                    for one in (baseline, arm)
                ]
                cells.append(str(compute_ratio(*sides)))
            rows.append([" and ".join(NAMES[name] for name in names), title, str(len(shared)), *cells])
    return markdown(["pictures", "process", "pairs of runs", *DISTANCES.values()], rows)


def drawing_steps(records: Sequence[Record]) -> str:
    """The same models drawn in fewer and in more steps."""
    rows = []
    models = {tuple(r[key] for key in IDENTITY if key != "sampler"): r for r in records if r["sampler"] != SAMPLER}
    for identity, model in models.items():
        for r in records:
            if tuple(r[key] for key in IDENTITY if key != "sampler") == identity:
                cells = [shown(scaled(key) * r[key]) for key in DISTANCES]
                rows.append([NAMES[model["data"]], PROCESSES[r["arm"]], str(r["calls"]), *cells])
    return markdown(["pictures", "process", "calls", *DISTANCES.values()], rows)


def precisions(records: Sequence[Record]) -> str:
    """The same runs in bf16 and in float32, a row for each seed."""
    rows = []
    kept = [r for r in records if r["sampler"] == SAMPLER]
    for exact in (r for r in kept if r["mixed_precision"] == "no"):
        same = [key for key in IDENTITY if key != "mixed_precision"]
        for r in kept:
            if r["mixed_precision"] == "bf16" and all(r[key] == exact[key] for key in same):
                cells = [f"{shown(scaled(key) * r[key])} / {shown(scaled(key) * exact[key])}" for key in DISTANCES]
                budget = f"{training_teraflops(r):.1f}"
                rows.append([NAMES[r["data"]], PROCESSES[r["arm"]], budget, str(r["seed"]), *cells])
    return markdown(["pictures", "process", "training, 10^12 FLOPs", "seed", *DISTANCES.values()], rows)


def draw_curves(records: Sequence[Record], path: Path, source: str) -> None:
    """Learned distances over training compute, a line for every process through the means of its seeds."""
    figure = new_figure(10, 7.5)
    axes = figure.subplots(2, 2, sharex=True)
    for column, (data, name) in enumerate(NAMES.items()):
        for row, key in enumerate(LEARNED):
            panel = axes[row][column]
            for arm in PROCESSES:
                runs = [r for r in records if (r["data"], r["arm"]) == (data, arm)]
                if not runs:
                    continue
                by_budget: dict[float, list[float]] = {}
                for r in runs:
                    by_budget.setdefault(training_teraflops(r), []).append(scaled(key) * r[key])
                spent = sorted(by_budget)
                means = [math.exp(sum(map(math.log, by_budget[c])) / len(by_budget[c])) for c in spent]
                panel.plot(spent, means, **(LOOKS[arm] | {"marker": ""}))
                for c in spent:
                    panel.plot([c] * len(by_budget[c]), by_budget[c], **(LOOKS[arm] | {"linestyle": ""}))
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_title(name if row == 0 else "")
            panel.set_ylabel(DISTANCES[key] if column == 0 else "")
            panel.set_xlabel("training, 10^12 FLOPs" if row == 1 else "")
            panel.grid(True, which="both", alpha=0.2)
    # Of all panels together: not every process was trained on every set of pictures.
    trained = {r["arm"] for r in records}
    handles = [Line2D([], [], label=title, **LOOKS[arm]) for arm, title in PROCESSES.items() if arm in trained]
    axes[0][0].legend(handles=handles, fontsize="small")
    save_figure(figure, path, "Distance to held-out pictures over training compute, 32 pixels", source)


def tables(records: Sequence[Record]) -> dict[str, str]:
    """The tables of the page by name."""
    in_bf16 = [r for r in records if r["mixed_precision"] == "bf16" and r["sampler"] == SAMPLER]
    budget = itemgetter("data", "size", "steps_of_one_level")
    with_transformers = {budget(r) for r in in_bf16 if r["arm"].startswith("transformer")}
    return {
        "ratios": ratios(in_bf16),
        "processes": comparison(in_bf16, PROCESSES),
        # Shorter runs of it are those of "natural".
        "trainings": comparison(
            [r for r in in_bf16 if r["arm"] != "least-variance" or r["steps"] > VARIANCES_FROM], TRAININGS
        ),
        "steps": drawing_steps(records),
        "backbones": comparison([r for r in in_bf16 if budget(r) in with_transformers], BACKBONES),
        "precisions": precisions(records),
    }


def with_tables(page: str, found: dict[str, str]) -> str:
    """The text of the page with its tables in it, in the place of older ones.

    Raises:
        ValueError: If the page has no place for one.
    """
    for name, table in found.items():
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page, count = re.subn(marked, lambda m, text=table: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"the page has {count} places for the table {name}, and not one")
    return page


def draw() -> None:
    """Write tables and figure of the page."""
    records = json.loads(RECORDS.read_text())["records"]
    PAGE.write_text(with_tables(PAGE.read_text(), tables(records)))
    processes = [
        r
        for r in records
        if r["arm"] in PROCESSES and r["mixed_precision"] == "bf16" and r["sampler"] == SAMPLER and r["size"] == 32
    ]
    commits = ", ".join(sorted({r["commit"] for r in processes}))
    source = f"python -m benchmarks.scaling draw (trained at commit {commits}, seeds 0 and 1)"
    draw_curves(processes, RESULTS / "scaling.png", source)


def grids(folder: Path) -> None:
    """The first 64 pictures of DDPM, left, and of shared layers, right, for every set of pictures."""
    sheets = []
    for data in NAMES:
        for arm in ("ddpm-offset", "shared-offset"):
            with Image.open(folder / f"{data}-32-{arm}-0-bf16" / f"{SAMPLER}.png") as grid:
                sheets.append(grid.convert("RGB"))
    width, height = (side + 20 for side in sheets[0].size)
    page = Image.new("RGB", (2 * width - 20, len(NAMES) * height - 20), "white")
    for index, sheet in enumerate(sheets):
        page.paste(sheet, (index % 2 * width, index // 2 * height))
    page.resize((2 * page.width, 2 * page.height), Image.Resampling.NEAREST).save(RESULTS / "scaling-grids.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    taken = parts.add_parser("gather")
    taken.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    taken.add_argument("--commit", required=True, help="that the runs were made at")
    parts.add_parser("draw")
    parts.add_parser("grids").add_argument("folder", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.part == "gather":
        gather(given.folders, given.commit)
    elif given.part == "grids":
        grids(given.folder)
    else:
        draw()


if __name__ == "__main__":
    main()
