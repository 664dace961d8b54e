"""A model of one resolution, trained as diffusers' users train one: its network, its noise, its averages, and none of ours.

The objective is DDPM's, the mean squared error of the predicted noise over uniform timesteps. Every step draws from a generator
keyed by (seed, step), so that a run that was stopped goes on, bit for bit if it counts steps. Only the order of the pictures
comes from the package.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from scalespace.data.batches import BatchOrder, to_model
from scalespace.data.images import ImageDataset, open_images
from scalespace.errors import UserError
from scalespace.files import write_directory, write_file

__all__ = ["MODEL", "Recipe", "network", "train"]

MODEL, STATE, LOG, RECIPE = "model", "state.pt", "log.jsonl", "recipe.json"
WIDTHS: dict[int, tuple[int, ...]] = {8: (8, 16), 16: (32, 64), 32: (32, 64, 128), 64: (32, 64, 128, 128)}
"""Channels of the levels of the network, by the side of the pictures. The last level has attention."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; at a step's place in the run the rate rises, stays, and falls to zero.

    Args:
        data: Pictures to train on.
        size: Their height and width.
        seed: Of weights, order, times and noise.
        batch_size: Pictures a step.
        learning_rate: Of AdamW, at its largest.
        steps: Number of steps; None if the time counts.
        minutes: Minutes of training, over all starts; None if the steps count.
        bf16: Whether the network computes in bf16; weights, loss and averages stay in float32.
    """

    data: str
    size: int
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    steps: int | None = None
    minutes: float | None = None
    bf16: bool = True

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1."""
        return step / self.steps if self.steps is not None else min(seconds / 60 / (self.minutes or 1), 1.0)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step."""
        return self.learning_rate * min(1.0, (step + 1) / 100, (1 - progress) / 0.4)


def network(size: int, channels: int = 3) -> UNet2DModel:
    """A network for pictures of this side with fresh weights, of 2.7 million parameters at 32 pixels."""
    widths = WIDTHS[size]
    plain = len(widths) - 1
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        norm_num_groups=8,
        attention_head_dim=min(32, widths[-1]),
    )


class Training:
    """What the next step depends on, and the step.

    Args:
        recipe: How to train.
        data: The pictures.
    """

    def __init__(self, recipe: Recipe, data: ImageDataset):
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.order = recipe, data, BatchOrder(len(data), recipe.seed)
        self.unet = network(recipe.size)
        self.scheduler: Any = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=2e-2)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
        self.ema = EMAModel(self.unet.parameters(), decay=0.9995, use_ema_warmup=True, power=0.75, foreach=True)
        self.taken, self.seconds = 0, 0.0
        """Steps that were taken, and the seconds that they took."""

    @property
    def progress(self) -> float:
        """How much of the run is over, 0 to 1."""
        return self.recipe.progress(self.taken, self.seconds)

    def step(self) -> float:
        """Take the next step; its loss."""
        started, size = time.perf_counter(), self.recipe.batch_size
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.taken, self.progress)
        loss = self.loss(range(self.taken * size, (self.taken + 1) * size))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.unet.parameters())
        self.taken += 1
        self.seconds += time.perf_counter() - started
        return loss.item()

    def loss(self, positions: range) -> Tensor:
        """DDPM's loss of the pictures at these positions of the stream."""
        key = np.random.SeedSequence((self.recipe.seed, positions.start)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(key >> np.uint64(1)))
        clean = to_model(self.data.batch(self.order.indices(positions))[0], self.order.flips(positions))
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(self.scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            predicted = self.unet(noisy, times).sample
        return torch.nn.functional.mse_loss(predicted.float(), noise)

    def save(self, file: Path) -> None:
        """Write all that the next step depends on."""
        state = {
            "unet": self.unet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.ema.shadow_params,
            "averaged": self.ema.optimization_step,
            "taken": self.taken,
            "seconds": self.seconds,
        }
        write_file(file, lambda place: torch.save(state, place), durable=True)

    def restore(self, file: Path) -> None:
        """Go on from what ``save`` wrote."""
        state = torch.load(file, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.optimizer.load_state_dict(state["optimizer"])
        for average, kept in zip(self.ema.shadow_params, state["averages"], strict=True):
            average.copy_(kept)
        self.ema.optimization_step = state["averaged"]
        self.taken, self.seconds = state["taken"], state["seconds"]

    def save_model(self, folder: Path) -> None:
        """Write the averaged weights as a pipeline of diffusers."""
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        pipeline = DDPMPipeline(self.unet, self.scheduler)
        write_directory(folder, lambda place: pipeline.save_pretrained(place))
        self.ema.restore(self.unet.parameters())


def train(recipe: Recipe, output: Path, every: float = 120.0, say: Callable[[str], None] = print) -> Path:
    """Train a model, or go on with one.

    Args:
        recipe: How to train. Only steps and minutes may differ from those that the run was begun with.
        output: Folder of the run.
        every: Seconds between two checkpoints.
        say: Takes a line for every one of them. The model so far is written then too.

    Returns:
        Folder of the model, a ``DDPMPipeline``.

    Raises:
        UserError: If the folder has a run with another recipe.
    """
    known = {name: value for name, value in vars(recipe).items() if name not in ("steps", "minutes")}
    output.mkdir(parents=True, exist_ok=True)
    if (output / RECIPE).exists() and (begun := json.loads((output / RECIPE).read_text())) != known:
        others = [f"{name} {begun.get(name)}" for name, value in known.items() if begun.get(name) != value]
        raise UserError(f"{output} was begun with {', '.join(others)}; go on with that, or name another --output")
    (output / RECIPE).write_text(json.dumps(known, indent=2) + "\n")
    training = Training(recipe, open_images(recipe.data, (recipe.size, recipe.size), progress=False))
    if (output / STATE).exists():
        training.restore(output / STATE)
    kept, losses = training.seconds, []
    while training.progress < 1:
        losses.append(training.step())
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss of step {training.taken} is {losses[-1]}; lower --learning-rate")
        if training.seconds - kept >= every or training.progress >= 1:
            kept = training.seconds
            training.save(output / STATE)
            training.save_model(output / MODEL)
            line = {"step": training.taken, "pictures": training.taken * recipe.batch_size, "seconds": round(kept, 1)}
            line["loss"] = round(sum(losses) / len(losses), 5)
            losses = []
            with (output / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(json.dumps(line))
    return output / MODEL
