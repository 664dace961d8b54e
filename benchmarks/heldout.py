"""The training objective of models on held-out pictures, with the same noise for all: a measure with little noise of its own.

    python -m benchmarks.heldout runs/a runs/b --heldout emoji64-heldout.zip

Every picture is taken at the same times of every path, with the same noise; the loss of a path is the mean of the weighted
squared error of x_0, and the objective their mean by the share of the steps. --training gives the same of training pictures,
so that a network that learns pictures by heart is seen. One JSON line is printed for each run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from scalespace.data.batches import to_model
from scalespace.data.images import ImageDataset, open_images
from scalespace.diffusion.loss import MinSNR, x0_loss
from scalespace.pipelines.saving import load_pipeline
from scalespace.training.time_sampling import TimeSampler

BATCH = 64


@torch.no_grad()
def losses(model: Path, pictures: torch.Tensor, draws: int, seed: int) -> dict[str, float]:
    """The loss of every path without a change of resolution, and their mean by the shares of the steps."""
    pipeline = load_pipeline(str(model))
    process, scheduler = pipeline.scheduler.process, pipeline.scheduler
    weight, found, mean, shares = MinSNR(), {}, 0.0, 0.0
    for group in TimeSampler(process).groups:
        if group.is_change:
            continue
        generator = torch.Generator().manual_seed(seed)
        total = 0.0
        for _ in range(draws):
            for part in pictures.split(BATCH):
                x_0 = to_model(part, None)
                # Times spread evenly over the path, so that few pictures cover all of it.
                spread = (torch.arange(len(part)) + torch.rand(1, generator=generator)) / len(part)
                t = group.first + (spread * len(group)).long().clamp(max=len(group) - 1)
                marginal = process.marginal(x_0, t)
                x_t = marginal.draw(torch.randn(marginal.mean.shape, generator=generator))
                output = pipeline.unet(x_t, t - 1, group.target_size).sample
                prediction = scheduler.prediction.x0(output, x_t, t, process.degradation.operators(t - 1, t))
                clean = process.degradation.operators(0 * t, t - 1)(x_0)
                total += float(x0_loss(prediction, clean, weight(process.noise.snr(t))).sum())
        loss = total / draws / len(pictures)
        found["{}x{}".format(*group.size)] = loss
        mean, shares = mean + loss * len(group), shares + len(group)
    return found | {"objective": mean / shares}


def chosen(data: ImageDataset, count: int, seed: int) -> torch.Tensor:
    numbers = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return data.batch(numbers)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or of models")
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--training", type=Path, help="also measure as many of the training pictures")
    parser.add_argument("--count", type=int, default=357, help="pictures at most")
    parser.add_argument("--draws", type=int, default=4, help="times and noises of each picture and path")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for run in arguments.runs:
        model = run / "model" if (run / "model").is_dir() else run
        size = load_pipeline(str(model)).scheduler.image_size
        record = {"run": str(run), "seed": arguments.seed, "draws": arguments.draws}
        for name in ("heldout", "training"):
            if (path := getattr(arguments, name)) is not None:
                data = open_images(str(path), size, progress=False)
                pictures = chosen(data, arguments.count, arguments.seed)
                record[name] = losses(model, pictures, arguments.draws, arguments.seed)
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
