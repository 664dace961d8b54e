"""The pictures that a run draws of itself from time to time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from scalespace.data.batches import to_model
from scalespace.data.images import ImageDataset
from scalespace.files import write_file
from scalespace.pipelines.pictures import image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.training.level_sampling import share
from scalespace.training.trainer import Trainer

__all__ = ["save_grid"]


def save_grid(trainer: Trainer, path: Path, data: ImageDataset, progress: bool = True) -> None:
    """Draw a grid of pictures with the averaged weights; the same noise every time, so that grids compare.

    A network that is conditioned on smaller pictures is given those of the first pictures of the data.

    Args:
        trainer: Has the network. All processes of the run draw their share of the pictures.
        path: File of the grid.
        data: The pictures that the run is trained on.
        progress: Whether drawing that takes over two seconds shows a bar on stderr.

    Raises:
        UserError: If the file cannot be written.
    """
    processes = trainer.processes
    own = share(range(trainer.config.sample_images), processes.rank, processes.count)
    with trainer.averaged() as network:
        drawn = _draw(trainer, network, own, data, progress) if own else []
    pictures = [picture for theirs in processes.gather(drawn) for picture in theirs]
    processes.first(lambda: write_file(path, picture_grid(pictures).save))


def _draw(trainer: Trainer, network: Any, numbers: range, data: ImageDataset, progress: bool) -> list[Image]:
    """Pictures of the grid, each by its number."""
    config = trainer.config
    classes, indices = config.network.num_classes, torch.tensor(numbers)
    labels, condition = None if classes is None else indices % classes, None
    if config.network.condition_size is not None:
        condition = trainer.smaller(to_model(data.batch(indices % len(data))[0]))
    pipeline = ScaleSpacePipeline(network, trainer.scheduler)
    pipeline.set_progress_bar_config(desc="sampling", leave=False, delay=2, disable=not progress)
    images = pipeline(
        len(numbers),
        generator=image_generators(config.seed, numbers),
        num_inference_steps=min(config.sample_steps, trainer.process.timesteps),
        class_labels=labels,
        output_type="pt",
        return_dict=False,
        condition=condition,
    )[0]
    return [to_picture(2 * image - 1) for image in images]
