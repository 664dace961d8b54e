"""Where a trained model errs: squared errors of its clean picture by timestep and band of frequencies, on held-out pictures.

    python -m benchmarks.errors runs/trained-300/NAME/run/model ... --heldout cifar10-32-heldout.zip

Prints a table for every model. Bands are those of averages over 2 x 2 pixels: what is left when pictures are halved twice,
what the first of these adds, and what the full resolution of the state adds. Errors of one band may be compared between states
of one size; the sums up to a number of pixels between all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmarks.trained import markdown
from torch import Tensor
from torch.nn import functional

from scalespace.data.images import open_images
from scalespace.diffusion.prediction import clean_image
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline

TIMES = (20, 60, 150, 260, 320, 400, 500, 600, 800)


def bands(error: Tensor) -> list[float]:
    """Mean squares of what pictures (B, C, H, W) have at a quarter of their size, at a half, and at the whole."""
    halved = functional.avg_pool2d(error, 2)
    quartered = functional.avg_pool2d(halved, 2)
    parts = (
        quartered,
        halved - functional.interpolate(quartered, scale_factor=2),
        error - functional.interpolate(halved, scale_factor=2),
    )
    return [float(part.square().mean()) for part in parts]


@torch.no_grad()
def errors(model: ScaleSpacePipeline, pictures: Tensor, t: int) -> list[float]:
    """The bands of the error at a timestep, with noise that depends on the timestep alone."""
    process = model.scheduler.process
    size, generator = process.size(t), torch.Generator().manual_seed(t)
    x_t = process.marginal(pictures, t).draw(torch.randn((len(pictures), 3, *size), generator=generator))
    M = process.degradation.operators(torch.tensor(t - 1), torch.tensor(t))
    output = model.unet(x_t, torch.full((len(pictures),), t - 1), size).sample
    x0 = process.degradation.operators(torch.tensor(0), torch.tensor(t - 1))(pictures)
    return bands(clean_image(model.scheduler.prediction, output, x_t, t, M) - x0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--heldout", type=Path, required=True, help="pictures that the models have not seen")
    parser.add_argument("--pictures", type=int, default=256)
    given = parser.parse_args()
    for name in given.models:
        model = load_pipeline(name)
        side = model.scheduler.sizes[0]
        heldout = open_images(str(given.heldout), side, progress=False)
        pictures = heldout.batch(torch.arange(given.pictures))[0].float() / 127.5 - 1
        rows = []
        for t in TIMES:
            found = errors(model, pictures, t)
            size = "{}x{}".format(*model.scheduler.process.size(t))
            rows.append([str(t), size, *(f"{value:.4f}" for value in (*found, sum(found)))])
        print(f"{name}:\n\n{markdown(['t', 'state', 'a quarter', 'a half', 'the whole', 'all'], rows)}\n")


if __name__ == "__main__":
    main()
