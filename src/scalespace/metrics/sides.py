"""The two sides of a comparison: where their pictures come from.

A side is a folder or a zip of pictures of one size, ``synthetic:shapes:N``, a statistics file (.npz), or the folder of a model,
from which pictures are drawn: picture i depends on the seed and i alone, however many processes share the work.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from tqdm import tqdm

from scalespace.data.sources import Source, open_source, reason
from scalespace.errors import UserError, cause
from scalespace.metrics.statistics import Statistics, read_statistics
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.saving import load_pipeline

__all__ = ["Sampling", "Side", "is_model", "open_side"]

_Item = TypeVar("_Item")
_SYNTHETIC_SIZE = (64, 64)
_BAR_DELAY = 2.0  # seconds without a bar
_THREADS = 2
_IN_MEMORY = 4 * 1024**3  # bytes
# What ``scalespace sample`` writes beside its pictures, and how it names the first of these.
_SHEETS, _FIRST_SAMPLE = ("grid.png", "trajectory.png"), "000000.png"


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn from a model.

    Args:
        num_images: Number of pictures.
        steps: Sampling steps.
        seed: Of the pictures.
        batch_size: Pictures drawn together.
        solver: As ``ScaleSpaceScheduler`` names them; the model's own if None, and so the next two.
        eta: Of DDIM.
        spacing: Of the steps, its timestep_spacing.
        device: Where to draw.
    """

    num_images: int = 1000
    steps: int = 50
    seed: int = 0
    batch_size: int = 16
    solver: str | None = None
    eta: float | None = None
    spacing: str | None = None
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class Side:
    """One side of a comparison; either pictures or statistics.

    Args:
        name: For people.
        image_size: (height, width).
        count: Number of pictures.
        pictures: uint8, shape (N, 3, H, W).
        statistics: What is left of pictures that are not here.
    """

    name: str
    image_size: tuple[int, int]
    count: int
    pictures: Tensor | None = None
    statistics: Statistics | None = None

    def __str__(self) -> str:
        return "{}: {} pictures of {}x{}".format(self.name, self.count, *self.image_size)


def is_model(path: str) -> bool:
    """Whether a side is the folder of a model, or of a run that holds one."""
    place = Path(path).expanduser()
    return (place / "model_index.json").is_file() or (place / "model" / "model_index.json").is_file()


def open_side(
    path: str, sampling: Sampling, synthetic_size: tuple[int, int] = _SYNTHETIC_SIZE, progress: bool = True
) -> Side:
    """Open one side of a comparison.

    Args:
        path: Of a folder, a zip, a statistics file or a model folder, or synthetic:shapes:N.
        sampling: How to draw, if it is a model.
        synthetic_size: (height, width) of synthetic pictures.
        progress: Whether what takes over two seconds shows a bar on stderr.

    Raises:
        UserError: If it is nothing of these, is damaged, holds fewer than two pictures, or pictures of several sizes.
    """
    place = Path(path).expanduser()
    if place.suffix == ".npz" and place.is_file():
        statistics = read_statistics(place)
        return Side(f"{path} ({statistics.name})", statistics.image_size, statistics.moments.count, None, statistics)
    if is_model(path):
        pictures = _drawn(load_pipeline(place), sampling, progress)
        name = f"{path} ({sampling.steps} steps, seed {sampling.seed})"
    else:
        pictures = _read(path, synthetic_size, progress)
        name = path
    if len(pictures) < 2:
        raise UserError(f"{path} gives {len(pictures)} picture; a distance of sets needs at least 2 on each side")
    height, width = pictures.shape[-2:]
    return Side(name, (height, width), len(pictures), pictures)


def _read(path: str, synthetic_size: tuple[int, int], progress: bool) -> Tensor:
    source = open_source(path)
    numbers = [
        number
        for number, name in enumerate(source.names)
        # They show the pictures once more.
        if not (name in _SHEETS and _FIRST_SAMPLE in source.names)
    ]
    size = _common_size(path, source, numbers) or synthetic_size
    pictures = _room(len(numbers), size)

    def decode(row: int) -> None:
        # A damaged picture is no picture of the set, and a replacement would count another one twice.
        try:
            pixels, _ = source.load(numbers[row], size)
        except Exception as error:  # A damaged file can raise nearly anything from a decoder.
            raise UserError(
                f"{source.names[numbers[row]]} in {path} cannot be decoded ({reason(error)}); replace or remove it"
            ) from error
        pictures[row] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    rows = range(len(numbers))
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for _ in _bar(pool.map(decode, rows), f"reading {path}", len(numbers), progress):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return pictures


def _room(count: int, size: tuple[int, int]) -> Tensor:
    """A place for so many pictures: memory, or a file without a name for what would fill it."""
    shape = (count, 3, *size)
    if math.prod(shape) <= _IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _common_size(path: str, source: Source, numbers: Sequence[int]) -> tuple[int, int] | None:
    """(height, width) of all pictures that have one; those that are damaged are met when they are decoded."""
    first: tuple[tuple[int, int], str] | None = None
    for number in numbers:
        size, name = source.native_size(number), source.names[number]
        if size is None:
            continue
        first = first or (size, name)
        if size != first[0]:
            raise UserError(
                "the pictures of {} differ in size: {} is {}x{} and {} is {}x{} (height by width); "
                "resize them to one size, since resizing here would change what is measured".format(
                    path, first[1], *first[0], name, *size
                )
            )
    return None if first is None else first[0]


def _drawn(pipeline: ScaleSpacePipeline, sampling: Sampling, progress: bool) -> Tensor:
    """Pictures drawn from a model by all processes, on each of them; uint8, shape (N, 3, H, W), on the CPU."""
    count = sampling.num_images
    for name, value in (("num-images", count), ("batch-size", sampling.batch_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give at least 1")
    choices = {"solver": sampling.solver, "eta": sampling.eta, "timestep_spacing": sampling.spacing}
    try:
        use_solver(pipeline, **{name: choice for name, choice in choices.items() if choice is not None})
    except ValueError as error:
        raise UserError(cause(error)) from error
    state = PartialState(cpu=torch.device(sampling.device).type == "cpu")
    pipeline.to(state.device if state.num_processes > 1 else sampling.device)
    pipeline.set_progress_bar_config(disable=True)
    classes = pipeline.unet.config.num_classes
    # Every process draws as many, so that they can be gathered; what is drawn twice is dropped.
    share = -(-count // state.num_processes)
    own = torch.arange(share) * state.num_processes + state.process_index
    drawn: list[Tensor] = []
    batches = (own % count).split(sampling.batch_size)
    try:
        for numbers in _bar(batches, "drawing pictures", len(batches), progress and state.is_main_process, "batches"):
            images = pipeline(
                len(numbers),
                generator=image_generators(sampling.seed, numbers.tolist()),
                num_inference_steps=sampling.steps,
                class_labels=None if classes is None else numbers % classes,
                output_type="pt",
                return_dict=False,
            )[0]
            drawn.append(to_uint8(2 * images - 1))
    except ValueError as error:
        raise UserError(cause(error)) from error
    pictures = torch.cat(drawn)
    if state.num_processes > 1:
        gathered: Any = gather(pictures)
        pictures = gathered.unflatten(0, (state.num_processes, share)).transpose(0, 1).flatten(0, 1)
    return pictures[:count].expand(-1, 3, -1, -1).cpu().contiguous()


def _bar(items: Iterable[_Item], description: str, total: int, progress: bool, unit: str = "pictures") -> tqdm[_Item]:
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=f" {unit}",
        delay=_BAR_DELAY,
        disable=not progress,
        file=sys.stderr,
    )
