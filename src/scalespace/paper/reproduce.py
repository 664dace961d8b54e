"""The paper's tables, computed again: ``scalespace reproduce TABLE``.

Every table is a function from a request to a ``Table``, listed in ``TABLES``. The tables in ``JOBS`` draw pictures from models
that are trained for them. At the paper's scale that takes days, so the pictures are checked and the cost is printed before
anything starts.

A training step counts as three network calls, since a backward pass costs two. Time is operations divided by a throughput. The
paper's own hours and GFLOPs amount to 78 to 91 TFLOP/s on an H100.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), table 2.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from scalespace.errors import UserError, printable
from scalespace.metrics.evaluate import INCEPTION_VARIABLE
from scalespace.metrics.extractors.efficientnet import EFFICIENTNET, EfficientNetFeatures
from scalespace.metrics.features import BuiltInFeatures, FeatureExtractor, InceptionFeatures
from scalespace.paper.data import CELEBA, IMAGENET, check_data
from scalespace.paper.experiments import Experiments
from scalespace.paper.gflops import Counted, average_gflops, gflops, picture_gflops
from scalespace.paper.information import information
from scalespace.paper.request import Request
from scalespace.paper.scale import PAPER, TINY, Reproduction, Scale
from scalespace.paper.tables import JOBS, anisotropic, architecture, main, schedules, steps
from scalespace.reports.provenance import Provenance
from scalespace.reports.table import Cell, Column, Table

__all__ = ["TABLES", "cost", "paper_table", "reproduce"]

_FOLDER = "runs/reproduce"
_PASSES = 3  # forward passes that a training step costs

TABLES: dict[str, Callable[[Request], Table]] = {
    "main": main,
    "architecture": architecture,
    "schedules": schedules,
    "anisotropic": anisotropic,
    "steps": steps,
    "information": information,
    "gflops": gflops,
}
"""The tables that can be computed, by name."""


def paper_table(name: str) -> Callable[[Request], Table]:
    """The function that makes the table of this name.

    Raises:
        UserError: If there is no such table. The message names the nearest ones.
    """
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=3, cutoff=0.5) or list(TABLES)
        raise UserError(f'there is no table "{name}"; did you mean {" or ".join(near)}?')
    return TABLES[name]


def reproduce(
    name: str,
    options: Reproduction,
    provenance: Provenance,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
    scale: Scale | None = None,
) -> Table:
    """Make a table of the paper, and write it into the folder that the options name.

    Args:
        name: Name of the table.
        options: Options that the user chose.
        provenance: Command and commit that the table is to carry. The seed is added if the table depends on it.
        device: Device that pictures are drawn on.
        progress: Whether to show progress bars and messages on stderr.
        scale: Settings to use instead of those that the options name.

    Raises:
        UserError: If there is no such table, if the pictures are missing, too few or not what the scale needs, if Inception
            is missing, or if the cost has been printed and --yes was not given.
    """
    make = paper_table(name)
    scale = scale or (TINY if options.scale == "tiny" else PAPER[options.dataset])
    request = Request(provenance, progress, scale, options.data)
    folder = options.output
    if name in JOBS:
        folder = folder or _FOLDER
        request = replace(request, provenance=replace(provenance, seed=options.seed))
        experiments = _experiments(name, options, request, Path(folder), device)
        request = replace(request, experiments=experiments)
    table = make(request)
    if folder is not None:
        files = table.write(Path(folder))
        try:
            files += table.draw(Path(folder))
        except ImportError:
            _say(request, "no figure: matplotlib is not installed (pip install scale-space-diffusion[plot])")
        if name in JOBS:
            _say(request, f"written: {', '.join(map(str, files))}")
    return table


def cost(name: str, scale: Scale, tflops: float, provenance: Provenance) -> Table:
    """Make a table of what the models and pictures of another table cost, if nothing has been computed yet.

    Args:
        name: Name of the other table, one of ``JOBS``.
        scale: Settings of that table.
        tflops: Throughput of the machine in TFLOP/s.
        provenance: Command and commit that the table is to carry.
    """
    counted: Counted = {}
    rows: list[tuple[Cell, ...]] = []
    trained: set[str] = set()
    total = 0.0
    for arm, sampler in JOBS[name](scale):
        config, gflops_a_call = arm.config, average_gflops(arm.config, counted).all
        training = 0.0
        if arm.name not in trained:
            training = _PASSES * gflops_a_call * config.batch_size * config.max_steps / 1e9
            trained.add(arm.name)
        drawing = picture_gflops(arm.config, sampler, counted) * scale.samples / 1e9
        hours = (training + drawing) * 1e6 / tflops / 3600
        total += hours
        size = (config.max_steps, config.batch_size) if training else (None, None)
        rows.append((arm.name, *size, gflops_a_call, training or None, sampler.name, drawing, hours))
    rows.append(("all", None, None, None, None, "", None, total))
    columns = (
        Column("model", "model"),
        Column("steps", "training steps", ","),
        Column("batch", "batch"),
        Column("gflops", "GFLOPs a call", ".2f"),
        Column("training", "training, EFLOP", ".3g"),
        Column("sampler", "sampler"),
        Column("drawing", f"{scale.samples:,} pictures, EFLOP", ".3g"),
        Column("hours", "hours", ".3g"),
    )
    notes = (
        f"At {tflops:g} TFLOP/s (--tflops); features and decoding of pictures come on top. The paper's own hours amount to "
        "78 to 91 TFLOP/s on an H100.",
        "What an earlier run with the same --output has trained or drawn costs nothing again.",
    )
    return Table("cost", f"Cost of the table {name} on {scale.pictures}", columns, tuple(rows), notes, provenance)


def _experiments(
    name: str, options: Reproduction, request: Request, folder: Path, device: torch.device | str
) -> Experiments:
    scale, data = request.scale, request.needs_data()
    if options.scale == "tiny":
        learned = options.features == EFFICIENTNET
        extractor: FeatureExtractor = EfficientNetFeatures(device=device) if learned else BuiltInFeatures(device)
    else:
        if not options.tflops > 0:
            raise UserError(f"--tflops is {options.tflops}; give a number above 0")
        check_data(data, IMAGENET if options.dataset.startswith("imagenet") else CELEBA)
        weights = options.inception_weights or os.environ.get(INCEPTION_VARIABLE)
        if weights is None:
            raise UserError(
                "the paper's FID needs Inception; give the path of inception-2015-12-05.pt by --inception-weights"
            )
        # The rule of the first FID, and of the code that the paper builds on.
        extractor = InceptionFeatures(weights, "legacy", device)
        told = cost(name, scale, options.tflops, request.provenance)
        tqdm.write(f"{told.as_markdown()}\n", file=sys.stderr)
        if not options.yes:
            raise UserError("nothing has been started; give --yes to start at that cost")
    return Experiments(
        scale,
        data,
        folder / f"{scale.name}-seed{options.seed}",
        extractor,
        heldout=options.heldout,
        seed=options.seed,
        device=device,
        progress=request.progress,
    )


def _say(request: Request, line: str) -> None:
    if request.progress:
        tqdm.write(printable(line), file=sys.stderr)
