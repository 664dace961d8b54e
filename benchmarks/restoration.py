"""Held-out pictures restored by the model in the box, from two measurements and by three guidances.

    python -m benchmarks.restoration --heldout emoji64-heldout.zip --data emoji64.zip

Every picture is measured with noise of tau 0.05: made four times smaller, or blurred by a Gaussian of 2 pixels. The Gaussian of
the clean pictures has the spectrum of the training pictures. It writes a table to docs/results/restoration.md and .json, and a
sheet of the first pictures to docs/results/restoration.png.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalespace import load_shipped, open_images, picture_grid, to_picture
from scalespace.data.spectrum import mean_spectrum
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures
from scalespace.metrics.features import extract
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.sampling import use_solver
from scalespace.reports.provenance import provenance
from scalespace.reports.table import Column, Table
from scalespace.tasks.restoring.measurement import Measurement, gaussian_blur, super_resolution
from scalespace.tasks.restoring.prior import Prior
from scalespace.tasks.restoring.restoration import Restoration, restore
from scalespace.tasks.restoring.told import ToldByLevel

DOCS = Path(__file__).parents[1] / "docs/results"
NOISE, SHOWN = 0.05, 4
SIZE = (64, 64)
TASKS = {
    "super-resolution, 4 times": super_resolution(SIZE, 4),
    "blur of 2 pixels": gaussian_blur(SIZE, 2.0),
}
GUIDANCES = {
    "DDRM": Restoration("ddrm"),
    "PiGDM": Restoration("pigdm"),
    "MMPS": Restoration("mmps"),
}


def psnr(pictures: Tensor, true: Tensor) -> Tensor:
    """Of every picture, in dB."""
    return 10 * torch.log10(4 / (pictures - true).double().square().mean((1, 2, 3)))


def enlarged(small: Tensor, how: Image.Resampling) -> Tensor:
    picture = to_picture(small).resize(SIZE, how)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(*SIZE, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="pictures that the model was trained on, for their spectrum"
    )
    parser.add_argument("--count", type=int, default=8, help="number of pictures")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    source = provenance(f"python -m benchmarks.restoration {shlex.join(words)}", given.seed)
    pipeline = load_shipped()
    pipeline.set_progress_bar_config(disable=True)
    use_solver(pipeline, solver="ancestral")
    spectrum = mean_spectrum(open_images(str(given.data), SIZE), progress=False)
    data = open_images(str(given.heldout), SIZE)
    true = data.batch(torch.linspace(0, len(data) - 1, given.count).round().long())[0] / 127.5 - 1
    extractor = EfficientNetFeatures()
    features = extract(extractor, to_uint8(true), progress=False)
    rows: list[tuple[Any, ...]] = []
    sheets: list[list[Tensor]] = []
    for task, A in TASKS.items():
        measurement = Measurement(A, NOISE)
        told = ToldByLevel(Prior(pipeline.scheduler.process, spectrum), measurement)
        noise = torch.randn(
            (len(true), 3, *A.out_size), generator=torch.Generator().manual_seed(given.seed), dtype=torch.float32
        )
        measured = measurement.taken(true, noise)
        small = A.out_size != SIZE
        found = {
            "bicubic" if small else "as measured": torch.stack(
                [enlarged(one, Image.Resampling.BICUBIC) for one in measured]
            ),
            "Wiener": told.expected(measured.double()).float().clamp(-1, 1),
        }
        for name, how in GUIDANCES.items():
            generators = image_generators(given.seed, range(len(true)))
            drawn = restore(pipeline, measured, told, how, generator=generators, num_inference_steps=given.steps)
            found[name] = 2 * drawn - 1
            print(task, name, f"{float(psnr(found[name], true).mean()):.2f} dB", flush=True)
        for name, pictures in found.items():
            theirs = extract(extractor, to_uint8(pictures), progress=False)
            scores = psnr(pictures, true)
            rows.append(
                (
                    task,
                    name,
                    float(scores.mean()),
                    float(scores.std() / len(scores) ** 0.5),
                    float((theirs - features).norm(dim=1).mean() / features.norm(dim=1).mean()),
                    float(measurement.misfit(measured, pictures).mean()),
                )
            )
        shown = torch.stack([enlarged(one, Image.Resampling.NEAREST) for one in measured[:SHOWN]])
        sheets.append([shown, *(pictures[:SHOWN] for pictures in found.values()), true[:SHOWN]])
    cells = [to_picture(one) for row in zip(*sheets, strict=True) for part in row for one in part]
    picture_grid(cells, columns=len(TASKS) * SHOWN).save(DOCS / "restoration.png")
    columns = (
        Column("task", "measured by"),
        Column("by", "restored by"),
        Column("psnr", "PSNR, dB", ".2f"),
        Column("psnr_error", "its standard error", ".2f"),
        Column("features", "features of each, EfficientNet-Lite0, share of their length", ".3f"),
        Column("misfit", "distance to the measurement over its noise", ".2f"),
    )
    notes = (
        f"{len(true)} held-out emoji of 64x64 pixels, noise 0.05 of pixels in [-1, 1]; {given.steps} steps of the ancestral "
        f"solver for PiGDM and MMPS ({GUIDANCES['MMPS'].iterations} steps of conjugate gradients); one draw of each.",
        "The last column is |y - A x| over what the noise is expected to have; of the true pictures it is 1.",
        "Wiener is the mean under the Gaussian with the spectrum of the training pictures, clipped to the range of pixels.",
    )
    table = Table("restoration", "Held-out emoji, restored from measurements", columns, tuple(rows), notes, source)
    table.write(DOCS)
    print(table.as_markdown())


if __name__ == "__main__":
    main()
