"""The two sides of a comparison: where their pictures come from.

A side is a folder or a zip of pictures, ``synthetic:shapes:N``, a statistics file (.npz), or the folder of a model, from which
pictures are drawn: picture i depends on the seed and i alone, however many processes share the work. Both sides are compared at
one size, to which pictures are brought as training does.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from tqdm import tqdm

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.preparation import Preparation, good_pictures
from scalespace.data.sources import DECODING_RULE, open_source
from scalespace.errors import UserError, cause
from scalespace.metrics.reference_cache import measured_once
from scalespace.metrics.statistics import Statistics, read_statistics
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.saving import load_pipeline

__all__ = ["Sampling", "Side", "open_side", "open_sides"]

_Item = TypeVar("_Item")
_SYNTHETIC_SIZE = (64, 64)
_BAR_DELAY = 2.0  # seconds without a bar
_BATCH = 256  # pictures
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
    """One side of a comparison: pictures, or the statistics of pictures.

    Args:
        name: Its name for people.
        image_size: (height, width).
        count: Number of pictures.
        read: Gives the pictures; None where there are only statistics.
        statistics: What is left of pictures that are not here.
        preparation: What happened to files that were brought to the image size.
        grey: Whether all pictures are grey.
        constant: Whether all pictures are the same.
        content: Fingerprint of the pictures and of their preparation, under which what is measured is kept; None keeps nothing.
    """

    name: str
    image_size: tuple[int, int]
    count: int
    read: Callable[[], Tensor] | None = None
    statistics: Statistics | None = None
    preparation: Preparation | None = None
    grey: bool = False
    constant: bool = False
    content: str | None = None

    @cached_property
    def pictures(self) -> Tensor | None:
        """uint8, shape (N, 3, H, W), read when they are asked for; None where there are only statistics."""
        return None if self.read is None else self.read()

    def measured(self, what: str, measure: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Something that is measured of the pictures, which need not be read where it was kept.

        Args:
            what: What is measured, with everything else that the result depends on.
            measure: Takes the pictures.
        """

        def of_pictures() -> dict[str, Tensor]:
            assert self.pictures is not None
            return measure(self.pictures)

        return measured_once(self.content, what, of_pictures)

    def __str__(self) -> str:
        told = str(self.preparation or "")
        size = "" if self.preparation is not None and self.preparation.resized else " of {}x{}".format(*self.image_size)
        return f"{self.name}: {self.count:,} pictures{size}{f', {told}' if told else ''}"


def open_sides(
    generated: str,
    reference: str,
    sampling: Sampling,
    image_size: tuple[int, int] | None = None,
    cache: bool = True,
    progress: bool = True,
) -> tuple[Side, Side]:
    """Open both sides of a comparison at one size.

    A model and a statistics file have a size. Where neither side is one, a folder or zip whose pictures are all of one size
    gives it, the generated side before the reference. Other pictures are brought to that size exactly as training does.

    Args:
        generated: Path of a folder, a zip, a statistics file or a model folder, or synthetic:shapes:N.
        reference: The same.
        sampling: How to draw from a model.
        image_size: (height, width) to compare at; None takes that of the sides.
        cache: Whether what is measured of the reference is kept in the user's cache folder.
        progress: Whether what takes over two seconds shows a progress bar on stderr.

    Raises:
        UserError: If a side is nothing of these, is damaged, or holds fewer than two pictures, if most pictures of one are
            smaller than the image size, or if no side has a size.
    """
    found = (_find(generated), _find(reference))
    size = _size_of_both(found, image_size)
    # Drawing takes long, so what can be wrong with the other side is seen before.
    opened: dict[int, Side] = {}
    for number in sorted((0, 1), key=lambda number: found[number].pipeline is not None):
        opened[number] = _open(found[number], sampling, size, cache and number == 1, progress)
    return opened[0], opened[1]


def open_side(path: str, sampling: Sampling, image_size: tuple[int, int] | None = None, progress: bool = True) -> Side:
    """Open one side by itself.

    Args:
        path: As of ``open_sides``.
        sampling: How to draw from a model.
        image_size: (height, width) to bring pictures to; None takes that of the side.
        progress: Whether what takes over two seconds shows a progress bar on stderr.

    Raises:
        UserError: As of ``open_sides``.
    """
    found = _find(path)
    return _open(found, sampling, _size_of_both((found, found), image_size), False, progress)


@dataclass(frozen=True)
class _Found:
    """What is at the path of a side, before pictures are read or drawn."""

    path: str
    statistics: Statistics | None = None
    pipeline: ScaleSpacePipeline | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of a model or of statistics."""
        if self.statistics is not None:
            return self.statistics.image_size
        return None if self.pipeline is None else self.pipeline.scheduler.image_size

    @property
    def synthetic(self) -> bool:
        return self.path.startswith("synthetic:")


def _find(path: str) -> _Found:
    place = Path(path).expanduser()
    if place.suffix == ".npz" and place.is_file():
        statistics = read_statistics(place)
        made = statistics.preparation
        if made is not None and made.resized and made.rule != DECODING_RULE:
            raise UserError(
                f"the pictures of the statistics {path} were brought to their size by another rule than that of this version "
                f'("{made.rule}" and not "{DECODING_RULE}"); make them again'
            )
        return _Found(path, statistics)
    # The folder of a run holds a model too, which is then named.
    models = (place / "model_index.json", place / "model" / "model_index.json")
    return _Found(path, pipeline=load_pipeline(place) if any(model.is_file() for model in models) else None)


def _size_of_both(found: tuple[_Found, _Found], asked: tuple[int, int] | None) -> tuple[int, int]:
    fixed = [(side.path, side.size) for side in found if side.size is not None]
    for path, size in fixed:
        if asked is not None and size != asked:
            raise UserError(
                "--size is {}x{}, and {} has pictures of {}x{} (height by width); leave --size out or give these".format(
                    *asked, path, *size
                )
            )
        if size != fixed[0][1]:
            raise UserError(
                "{} has pictures of {}x{} and {} of {}x{} (height by width); give both sides one size".format(
                    fixed[0][0], *fixed[0][1], path, *size
                )
            )
    if asked is not None or fixed:
        return asked or fixed[0][1]
    files = [side for side in dict.fromkeys(found) if not side.synthetic]
    for side in files:
        size = _stored_size(side.path)
        if size is not None:
            return size
    if not files:
        return _SYNTHETIC_SIZE
    names = " and of ".join(side.path for side in files)
    raise UserError(
        f"the pictures of {names} differ in size, so they do not say at which size to compare them; "
        "give it by --size HEIGHT WIDTH"
    )


def _stored_size(path: str) -> tuple[int, int] | None:
    """(height, width) of all pictures of a folder or zip that have one, as they are stored."""
    source = open_source(path)
    sizes: set[tuple[int, int]] = set()
    for number in _own_pictures(source.names):
        size = source.native_size(number)
        sizes |= set() if size is None else {size}
        if len(sizes) > 1:
            return None
    # Where all are damaged this is said when they are read, at whatever size.
    return sizes.pop() if sizes else (1, 1)


def _own_pictures(names: Sequence[str]) -> list[int]:
    """Indices of the pictures that are not sheets which show the others once more."""
    drawn = _FIRST_SAMPLE in names
    return [number for number, name in enumerate(names) if not (drawn and name in _SHEETS)]


def _open(found: _Found, sampling: Sampling, size: tuple[int, int], cache: bool, progress: bool) -> Side:
    path, statistics = found.path, found.statistics
    if statistics is not None:
        name = f"{path} ({statistics.name})"
        return Side(name, statistics.image_size, statistics.moments.count, None, statistics, statistics.preparation)
    if found.pipeline is not None:
        pictures = _drawn(found.pipeline, sampling, progress)
        height, width = pictures.shape[-2:]
        side = Side(
            f"{path} ({sampling.steps} steps, seed {sampling.seed})",
            (height, width),
            len(pictures),
            lambda: pictures,
            grey=_is_grey(pictures),
            constant=_is_constant(pictures),
        )
    else:
        side = _open_files(path, size, cache, progress)
    if side.count < 2:
        raise UserError(f"{path} gives {side.count} picture; a distance of sets needs at least 2 on each side")
    return side


def _open_files(path: str, size: tuple[int, int], cache: bool, progress: bool) -> Side:
    data = open_images(path, size, cache_bytes=0, progress=progress)
    numbers = _own_pictures(data.names)
    pictures: list[Tensor] = []

    def read() -> Tensor:
        if not pictures:
            pictures.append(_read(data, numbers, progress))
        return pictures[0]

    def facts() -> dict[str, Tensor]:
        found = read()
        about = json.dumps(Preparation.of(data, numbers).as_dict()).encode("utf-8", "surrogateescape")
        told = [len(found), int(_is_grey(found)), int(_is_constant(found))]
        return {"facts": torch.tensor(told), "preparation": torch.tensor(list(about), dtype=torch.uint8)}

    content = data.fingerprint if cache else None
    known = measured_once(content, "facts", facts)
    count, grey, constant = known["facts"].tolist()
    about = json.loads(bytes(known["preparation"].tolist()).decode("utf-8", "surrogateescape"))
    return Side(
        path,
        size,
        count,
        read,
        preparation=Preparation.from_dict(about),
        grey=bool(grey),
        constant=bool(constant),
        content=content,
    )


def _read(data: ImageDataset, numbers: Sequence[int], progress: bool) -> Tensor:
    pictures, count = _room(len(numbers), data.image_size), 0
    for part, images in good_pictures(data, numbers, f"reading {data.path}", progress):
        pictures[count : count + len(part)] = images
        count += len(part)
    return pictures[:count]


def _room(count: int, size: tuple[int, int]) -> Tensor:
    """A place for so many pictures: memory, or a file without a name for what would fill it."""
    shape = (count, 3, *size)
    if math.prod(shape) <= _IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _is_grey(pictures: Tensor) -> bool:
    return all(bool((part == part[:, :1]).all()) for part in pictures.split(_BATCH))


def _is_constant(pictures: Tensor) -> bool:
    return all(bool((part == pictures[0]).all()) for part in pictures.split(_BATCH))


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
