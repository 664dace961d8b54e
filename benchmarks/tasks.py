"""What tasks make of pictures that the model in the box has not seen.

    python -m benchmarks.tasks upscale --heldout emoji64-heldout.zip
    python -m benchmarks.tasks invert --heldout emoji64-heldout.zip
    python -m benchmarks.tasks exact

``upscale`` brings held-out pictures to 16 pixels and enlarges them by the model, without its guide and with it, and by bicubic
interpolation: how far all are from the small pictures when they are brought down again, and from the pictures as they were.
``invert`` inverts pictures and draws them again, and ``exact`` does so with the exact denoiser of Gaussian pictures. Each
writes a table, and the first a sheet of pictures, to docs/results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalespace import (
    ConvexDecay,
    GaussianDenoiser,
    LinearBeta,
    Resizing,
    ScaleSpaceProcess,
    Shifted,
    invert,
    load_shipped,
    log_snr_grid,
    open_images,
    picture_grid,
    power_law,
    reconstruct,
    spectral_covariance,
    to_picture,
    upscale,
)
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures
from scalespace.metrics.features import extract
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.picture_distances import spectrum_distance
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.shipped import shipped_guidance
from scalespace.reports.provenance import provenance, typed
from scalespace.reports.table import Column, Table
from scalespace.tasks.inversion import inverted, redrawn
from scalespace.tasks.upscaling import brought_down

DOCS = Path(__file__).parents[1] / "docs/results"
SMALL = (16, 16)
_SHOWN, _BATCH = 8, 16


def heldout(given: argparse.Namespace, pipeline: Any) -> Tensor:
    """Some of the held-out pictures in [-1, 1], evenly spaced."""
    data = open_images(str(given.heldout), pipeline.scheduler.image_size)
    chosen = torch.linspace(0, len(data) - 1, given.count).round().long()
    return data.batch(chosen)[0] / 127.5 - 1


def rounded(pictures: Tensor) -> Tensor:
    """As a file of 8 bits holds them."""
    return to_uint8(pictures) / 127.5 - 1


def levels(difference: Tensor) -> float:
    return 127.5 * float(difference.double().square().mean().sqrt())


def of_upscale(given: argparse.Namespace) -> tuple[tuple[Column, ...], list[tuple[Any, ...]], tuple[str, ...]]:
    pipeline = load_shipped()
    pipeline.set_progress_bar_config(disable=True)
    full = heldout(given, pipeline)
    small = rounded(brought_down(pipeline, full, SMALL))
    drawn = _upscaled(given, pipeline, small, None)
    guided = _upscaled(given, pipeline, small, shipped_guidance())
    bicubic = torch.stack([_enlarged(one, Image.Resampling.BICUBIC) for one in small])
    extractor = EfficientNetFeatures()
    features = extract(extractor, to_uint8(full), progress=False)
    rows = []
    for name, side in (("the model", drawn), ("the model, guided", guided), ("bicubic", bicubic)):
        theirs = extract(extractor, to_uint8(side), progress=False)
        rows.append(
            (
                name,
                levels(brought_down(pipeline, side, SMALL) - small),
                spectrum_distance(to_uint8(side), to_uint8(full), intervals=False).value,
                1000 * kid(theirs, features, intervals=False).all_pairs.value,
                float((theirs - features).norm(dim=1).mean() / features.norm(dim=1).mean()),
                levels(side - full),
            )
        )
    cells = [
        picture
        for i in range(_SHOWN)
        for picture in (
            _large(small[i]),
            to_picture(bicubic[i]),
            to_picture(guided[i]),
            to_picture(full[i]),
        )
    ]
    ordered = [cells[4 * i + row] for row in range(4) for i in range(_SHOWN)]
    picture_grid(ordered, columns=_SHOWN).save(DOCS / "tasks-upscale.png")
    columns = (
        Column("by", "enlarged by"),
        Column("agreement", "brought down again, levels of 255", ".2f"),
        Column("spectrum", "spectrum, dB", ".2f"),
        Column("kernel", "kernel distance x 1000, EfficientNet-Lite0", ".1f"),
        Column("features", "features of each, share of their length", ".3f"),
        Column("pixels", "pixels of each, levels of 255", ".1f"),
    )
    notes = (
        f"{len(full)} held-out emoji at 16x16 pixels, enlarged to 64x64 in the rest of {given.steps} steps.",
        "The first column compares with the small pictures; all others compare with the pictures as they were, the kernel "
        "distance and the spectrum as sets, the last two columns each picture with its own.",
    )
    return columns, rows, notes


def _upscaled(given: argparse.Namespace, pipeline: Any, small: Tensor, guidance: Mapping[str, Any] | None) -> Tensor:
    drawn = []
    for first in range(0, len(small), _BATCH):
        part = small[first : first + _BATCH]
        generators = image_generators(given.seed, range(first, first + len(part)))
        drawn.append(
            2 * upscale(pipeline, part, generator=generators, num_inference_steps=given.steps, guidance=guidance) - 1
        )
        print(first + len(part), flush=True)
    return rounded(torch.cat(drawn))


def of_invert(given: argparse.Namespace) -> tuple[tuple[Column, ...], list[tuple[Any, ...]], tuple[str, ...]]:
    pipeline = load_shipped()
    pipeline.set_progress_bar_config(disable=True)
    full = heldout(given, pipeline)
    rows = []
    for start in (0.0, 0.06):
        generators = image_generators(given.seed, range(len(full)))
        found = invert(pipeline, full, generator=generators, num_inference_steps=given.steps, start=start)
        assert found.remainder is not None
        whole = 2 * reconstruct(pipeline, found) - 1
        other = 2 * reconstruct(pipeline, found.with_details(torch.Generator().manual_seed(given.seed))) - 1
        rows.append(
            (
                start,
                float(found.noise.square().mean().sqrt()),
                levels(found.remainder),
                levels(whole - full),
                levels(other - full),
                levels(brought_down(pipeline, other - full, SMALL)),
            )
        )
        print(rows[-1], flush=True)
    columns = (
        Column("start", "start, sigma", "g"),
        Column("noise", "noise x_T, root mean square", ".2f"),
        Column("chain", "brought back, error in levels of 255", ".2f"),
        Column("whole", "with the remainder", ".2g"),
        Column("other", "with other details", ".1f"),
        Column("small", "the same at 16x16", ".1f"),
    )
    return (
        columns,
        rows,
        (f"{len(full)} held-out emoji, {given.steps} steps. White noise has a root mean square of 1.",),
    )


def of_exact(given: argparse.Namespace) -> tuple[tuple[Column, ...], list[tuple[Any, ...]], tuple[str, ...]]:
    size = (16, 16)
    degradation = Resizing.octaves(size, ConvexDecay(3))
    process = ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)
    covariance = spectral_covariance(power_law(size))
    generator = torch.Generator().manual_seed(given.seed)
    white = torch.randn(given.count, 256, generator=generator, dtype=torch.float64)
    pictures = (white @ torch.linalg.cholesky(covariance).mT).reshape(-1, 1, *size)
    denoiser, rows = GaussianDenoiser(process, covariance), []

    def error(other: Tensor) -> float:
        return float((other - pictures).norm() / pictures.norm())

    for steps in (30, 50, 100):
        for repetitions in (1, 3, 5):
            found = inverted(process, denoiser, log_snr_grid(process, steps), pictures, repetitions)
            other = redrawn(process, denoiser, found.with_details(torch.Generator().manual_seed(given.seed)))
            whole = redrawn(process, denoiser, found)
            rows.append((steps, repetitions, error(whole), error(other), float(found.noise.square().mean().sqrt())))
    columns = (
        Column("steps", "steps", "d"),
        Column("repetitions", "repetitions", "d"),
        Column("error", "error, share of the pictures", ".1e"),
        Column("other", "with other details", ".2f"),
        Column("noise", "noise x_T, root mean square", ".3f"),
    )
    notes = (
        f"{given.count} Gaussian pictures of 16x16 pixels with the spectrum (1 + k)^-2, 3 levels, shifted noise, in float64; "
        "no remainder is added.",
    )
    return columns, rows, notes


def _enlarged(small: Tensor, how: Image.Resampling) -> Tensor:
    picture = to_picture(small).resize((64, 64), how)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(64, 64, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1


def _large(small: Tensor) -> Image.Image:
    return to_picture(small).resize((64, 64), Image.Resampling.NEAREST)


PARTS = {
    "upscale": (of_upscale, "Held-out emoji, enlarged from 16 to 64 pixels"),
    "invert": (of_invert, "Held-out emoji, inverted and drawn again"),
    "exact": (of_exact, "Gaussian pictures, inverted and drawn again with the exact denoiser"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, count, steps in (("upscale", 64, 30), ("invert", 2, 50), ("exact", 64, 50)):
        part = parts.add_parser(name)
        part.add_argument("--count", type=int, default=count, help="number of pictures")
        part.add_argument("--seed", type=int, default=0)
        if name != "exact":
            part.add_argument("--heldout", type=Path, required=True)
            part.add_argument("--steps", type=int, default=steps)
    given = parser.parse_args()
    source = provenance(typed("python -m benchmarks.tasks", sys.argv[1:], folders=False), given.seed)
    measure, title = PARTS[given.part]
    columns, rows, notes = measure(given)
    table = Table(f"tasks-{given.part}", title, columns, tuple(rows), notes, source)
    table.write(DOCS)
    print(table.as_markdown())


if __name__ == "__main__":
    main()
