"""Pictures drawn from a model to be measured, by all processes of a distributed run.

Picture i depends on the seed and i alone, however many processes share the work.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.memory import check_disk
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch, check_guidance, class_number, use_solver
from scalespace.processes import join
from scalespace.reports.progress import progress_bar

__all__ = ["Sampling", "draw", "room_for"]

_IN_MEMORY = 4 * 1024**3  # bytes
_LONGEST = 30 * 24 * 3600.0  # seconds of drawing that are not taken for a mistake


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn from a model.

    Args:
        num_images: Number of pictures.
        steps: Number of sampling steps.
        seed: Seed of the pictures.
        batch_size: Number of pictures drawn together.
        solver: Solver, as ``ScaleSpaceScheduler`` names it. None takes the model's own, here and in the next two.
        eta: Only used with DDIM: from 0, deterministic, to 1, ancestral.
        spacing: Spacing of the steps, the timestep_spacing of ``ScaleSpaceScheduler``.
        class_label: Class of all pictures, its name or its number. None takes the classes of a model in turn.
        guidance_scale: As a call of the model takes it, and the next one.
        guidance_interval: Smallest and largest sigma / alpha at which there is guidance.
        guidance_model: Folder or name of a worse model to guide away from.
        device: Device to draw on.
        variant: Weights to take of a model, as in ``load_pipeline``; so the next two.
        revision: Branch, tag or commit of a model on the Hub.
        dtype: Number format of the network.
        trust_model: Whether to import the module of a degradation that the model names.
    """

    num_images: int = 1000
    steps: int = 50
    seed: int = 0
    batch_size: int = 16
    solver: str | None = None
    eta: float | None = None
    spacing: str | None = None
    class_label: str | None = None
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_model: str | None = None
    device: torch.device | str = "cpu"
    variant: str | None = None
    revision: str | None = None
    dtype: torch.dtype = torch.float32
    trust_model: bool = False

    def __str__(self) -> str:
        parts = [f"{self.steps} steps, seed {self.seed}"]
        if self.class_label is not None:
            parts.append(f"class {self.class_label}")
        if self.guidance_scale != 1:
            place = (
                ""
                if self.guidance_interval is None
                else " for sigma / alpha of {:g} to {:g}".format(*self.guidance_interval)
            )
            worse = "" if self.guidance_model is None else f" away from {self.guidance_model}"
            parts.append(f"guidance {self.guidance_scale:g}{worse}{place}")
        return ", ".join(parts)


def draw(
    pipeline: ScaleSpacePipeline, sampling: Sampling, progress: bool, worse: ScaleSpacePipeline | None = None
) -> Tensor:
    """Draw pictures on all processes.

    Args:
        pipeline: A trained model. Its solver is changed.
        sampling: Settings of the drawing.
        progress: Whether what takes over two seconds shows a progress bar on stderr.
        worse: The model that ``sampling.guidance_model`` names.

    Returns:
        uint8, shape (N, 3, H, W), on the CPU, the same on every process.

    Raises:
        UserError: If the model cannot be sampled so, or the pictures are out of all proportion to memory, disk or time.
    """
    shared = join()
    guidance = {
        "guidance_scale": sampling.guidance_scale,
        "guidance_interval": sampling.guidance_interval,
        "guidance_model": worse,
    }
    batch = _checked_batch(pipeline, sampling, guidance)
    label = class_number(pipeline, sampling.class_label)
    for model in filter(None, (pipeline, worse)):
        model.to(sampling.device)
    pipeline.set_progress_bar_config(disable=True)
    classes = pipeline.unet.num_classes
    count, processes = sampling.num_images, shared.count
    pictures = room_for(count, pipeline.scheduler.image_size)
    bar = progress_bar(count, "drawing pictures", "pictures", progress and shared.is_first)
    started = time.perf_counter()
    with bar:
        for first in range(0, count, batch * processes):
            # Every process draws as many, so that they can be gathered; what is drawn twice is dropped.
            together = torch.arange(first, min(first + batch * processes, -(-count // processes) * processes))
            numbers = together[shared.rank :: processes] % count
            try:
                images = pipeline(
                    len(numbers),
                    generator=image_generators(sampling.seed, numbers.tolist()),
                    num_inference_steps=sampling.steps,
                    class_labels=label if classes is None or label is not None else numbers % classes,
                    output_type="pt",
                    return_dict=False,
                    **guidance,
                )[0]
            except ValueError as error:
                raise UserError(cause(error)) from error
            # They come process by process.
            drawn = torch.stack(shared.gather(to_uint8(2 * images - 1).cpu()), dim=1).flatten(0, 1)
            own = together < count
            pictures[together[own]] = drawn[own].expand(-1, 3, -1, -1)
            if first == 0:
                _check_time(sampling, int(own.sum()), time.perf_counter() - started)
            bar.update(int(own.sum()))
    return pictures


def room_for(count: int, size: tuple[int, int]) -> Tensor:
    """A place for pictures: in memory, or in a file without a name where they would fill it.

    Args:
        count: Number of pictures.
        size: Height and width of the pictures.

    Returns:
        uint8, shape (count, 3, H, W).

    Raises:
        UserError: If the disk has no room for the file.
    """
    shape = (count, 3, *size)
    if math.prod(shape) <= _IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    what, lower = f"{count:,} pictures of {size[0]}x{size[1]}", "take fewer, or name a larger disk by TMPDIR"
    check_disk(what, Path(tempfile.gettempdir()), 1, math.prod(shape), lower)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _checked_batch(pipeline: ScaleSpacePipeline, sampling: Sampling, guidance: Mapping[str, Any]) -> int:
    """Set the solver and the steps, and refuse what cannot be drawn; number of pictures that a process draws together."""
    for name, value in (("num-images", sampling.num_images), ("batch-size", sampling.batch_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give at least 1")
    choices = {"solver": sampling.solver, "eta": sampling.eta, "timestep_spacing": sampling.spacing}
    try:
        use_solver(pipeline, **{name: choice for name, choice in choices.items() if choice is not None})
        pipeline.scheduler.set_timesteps(sampling.steps)
        guided = check_guidance(pipeline, guidance)
    except ValueError as error:
        raise UserError(cause(error)) from error
    batch = min(sampling.batch_size, sampling.num_images)
    # Guidance by the model itself runs it on twice the pictures.
    copies = 2 if guided and guidance["guidance_model"] is None else 1
    check_batch(pipeline.unet, copies * batch, sampling.device, "lower --batch-size")
    return batch


def _check_time(sampling: Sampling, drawn: int, seconds: float) -> None:
    whole = seconds * sampling.num_images / drawn
    if whole > _LONGEST:
        raise UserError(
            f"--num-images {sampling.num_images} would take about {whole / 86400:,.0f} days, since the first {drawn:,} "
            f"pictures took {seconds:.1f} seconds; give fewer pictures or --steps"
        )
