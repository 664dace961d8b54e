"""The two sides of a comparison: where their pictures come from.

A side is a folder or a zip of pictures, ``synthetic:shapes:N``, an .npz file of statistics or, as guided-diffusion writes them,
of pictures, or the folder of a model, from which pictures are drawn: picture i depends on the seed and i alone, however many
processes share the work. Both sides are compared at one size, to which pictures are brought as training does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.luminance import luminance
from scalespace.data.measurements import measured_once
from scalespace.data.preparation import Preparation, good_pictures
from scalespace.data.sources.arrays import PICTURES
from scalespace.data.sources.decoding import DECODING_RULE
from scalespace.data.sources.headers import arrays_of
from scalespace.data.sources.opening import names_data
from scalespace.errors import UserError
from scalespace.metrics.drawing import Sampling, draw, room_for
from scalespace.metrics.statistics import Statistics, holds_features, read_statistics
from scalespace.pipelines.folders.hub import is_hub_name
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.reading import path_of
from scalespace.training.models import is_model, open_model

__all__ = ["Held", "Side", "drawn_side", "held_at", "may_be_model", "open_pictures", "open_side", "open_sides"]

Held = Literal["moments", "features", "pictures"]
"""What may be known of a side. Of pictures the other two can be computed."""

_SYNTHETIC_SIZE = (64, 64)
_BATCH = 256  # pictures


@dataclass(frozen=True)
class Side:
    """One side of a comparison: pictures, or the statistics of pictures.

    Args:
        name: Name that people are shown.
        image_size: (height, width) of the pictures.
        count: Number of pictures; 0 where statistics do not tell it.
        read: Function that returns the pictures; None if there are only statistics.
        statistics: Statistics of pictures that are not here; None if the pictures are.
        preparation: What happened to picture files when they were brought to the image size; None if there were no files.
        grey: Whether all pictures are grey; None where that is not known.
        constant: Whether all pictures are the same.
        content: Fingerprint of the pictures and of their preparation. What is measured is kept under it; None keeps nothing.
    """

    name: str
    image_size: tuple[int, int]
    count: int
    read: Callable[[], Tensor] | None = None
    statistics: Statistics | None = None
    preparation: Preparation | None = None
    grey: bool | None = None
    constant: bool = False
    content: str | None = None

    @cached_property
    def pictures(self) -> Tensor | None:
        """The pictures, uint8 of shape (N, 3, H, W), read on first use; None if there are only statistics."""
        return None if self.read is None else self.read()

    @property
    def held(self) -> Held:
        """The most that is known of the side."""
        if self.statistics is None:
            return "pictures"
        return "moments" if self.statistics.features is None else "features"

    def measured(self, what: str, measure: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Measure the pictures, or take the result of an earlier run, which needs no pictures to be read.

        Args:
            what: Name of the measurement, with everything besides the pictures that the result depends on.
            measure: Function of the pictures that returns the result.
        """

        def of_pictures() -> dict[str, Tensor]:
            assert self.pictures is not None
            return measure(self.pictures)

        return measured_once(self.content, what, of_pictures)

    def __str__(self) -> str:
        if not self.count:
            return f"{self.name}: mean and covariance alone"
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
    Where the generated pictures have one channel, a reference in colour is converted to luminance.

    Args:
        generated: Path of a folder, a zip, a statistics file or a model folder, or synthetic:shapes:N.
        reference: Path of the reference side, in any of the same forms.
        sampling: Settings of the drawing from a model.
        image_size: (height, width) to compare at; None takes that of the sides.
        cache: Whether what is measured of the reference is kept in the user's cache folder.
        progress: Whether what takes over two seconds shows a progress bar on stderr.

    Raises:
        UserError: If a side is nothing of these, is damaged, or holds fewer than two pictures, if most pictures of one are
            smaller than the image size, or if no side has a size.
    """
    found = (_find(generated, sampling, progress), _find(reference, sampling, progress))
    size = _size_of_both(found, image_size)
    # Drawing takes long, so what can be wrong with the other side is seen before.
    channels = 1 if _is_stored_in_grey(found[0]) else 3
    opened: dict[int, Side] = {}
    for number in sorted((0, 1), key=lambda number: found[number].pipeline is not None):
        opened[number] = _open(found[number], sampling, size, channels, cache and number == 1, progress)
    return opened[0], opened[1]


def open_side(path: str, sampling: Sampling, image_size: tuple[int, int] | None = None, progress: bool = True) -> Side:
    """Open one side by itself.

    Args:
        path: Path as in ``open_sides``.
        sampling: Settings of the drawing from a model.
        image_size: (height, width) to bring pictures to; None takes that of the side.
        progress: Whether what takes over two seconds shows a progress bar on stderr.

    Raises:
        UserError: If the side cannot be opened.
    """
    found = _find(path, sampling, progress)
    return _open(found, sampling, _size_of_both((found, found), image_size), 3, False, progress)


def may_be_model(path: str) -> bool:
    """Whether a side is a model to draw pictures from, or nothing is there, which is said where it is opened."""
    return is_model(path_of(path)) or not (names_data(path) or path_of(path).exists())


def held_at(path: str) -> Held:
    """What may be known of a side, before it is opened."""
    place = path_of(path)
    if not _is_statistics(place):
        return "pictures"
    return "features" if holds_features(place) else "moments"


@dataclass(frozen=True)
class _Found:
    """What is at the path of a side, before pictures are read or drawn."""

    path: str
    statistics: Statistics | None = None
    pipeline: ScaleSpacePipeline | None = None
    worse: ScaleSpacePipeline | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of a model or of statistics."""
        if self.statistics is not None:
            return self.statistics.image_size
        return None if self.pipeline is None else self.pipeline.scheduler.image_size

    @property
    def synthetic(self) -> bool:
        return self.path.startswith("synthetic:")


def _find(path: str, sampling: Sampling, progress: bool) -> _Found:
    place = path_of(path)
    if _is_statistics(place):
        statistics = read_statistics(place)
        made = statistics.preparation
        if made is not None and made.resized and made.rule != DECODING_RULE:
            raise UserError(
                f"the pictures of the statistics {path} were brought to their size by another rule than that of this version "
                f'("{made.rule}" and not "{DECODING_RULE}"); make them again'
            )
        return _Found(path, statistics)
    if not is_model(place):
        return _Found(path)
    worse = sampling.guidance_model
    return _Found(
        path,
        pipeline=_model(place, sampling, progress),
        worse=None if worse is None else _model(path_of(worse), sampling, progress),
    )


def _model(place: Path, sampling: Sampling, progress: bool) -> ScaleSpacePipeline:
    return open_model(
        place,
        _note,
        progress,
        variant=sampling.variant,
        revision=sampling.revision if is_hub_name(str(place)) else None,
        dtype=sampling.dtype,
        trust=sampling.trust_model,
    )


def _note(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _is_statistics(place: Path) -> bool:
    return place.suffix == ".npz" and place.is_file() and PICTURES not in arrays_of(place)


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
    files = [side for side in dict.fromkeys(found) if not (side.synthetic or side.statistics)]
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
    data = open_images(path, (1, 1), cache_bytes=0)
    sizes: set[tuple[int, int]] = set()
    for number in range(len(data)):
        size = data.native_size(number)
        sizes |= set() if size is None else {size}
        if len(sizes) > 1:
            return None
    # Where all are damaged this is said when they are read, at whatever size.
    return sizes.pop() if sizes else (1, 1)


def _is_stored_in_grey(found: _Found) -> bool:
    """Whether the pictures of a side have one channel to begin with."""
    if found.pipeline is not None:
        return found.pipeline.unet.in_channels == 1
    if found.statistics is not None:
        return bool(found.statistics.grey)
    data = open_images(found.path, (1, 1), cache_bytes=0)
    return all(map(data.stored_in_grey, range(len(data))))


def _open(found: _Found, sampling: Sampling, size: tuple[int, int], channels: int, cache: bool, progress: bool) -> Side:
    path, statistics = found.path, found.statistics
    if statistics is not None:
        count, made = statistics.moments.count, statistics.preparation
        name = path if statistics.mode is None else f"{path} ({statistics.name})"
        return Side(name, statistics.image_size or size, count, None, statistics, made, statistics.grey)
    if found.pipeline is not None:
        pictures = draw(found.pipeline, sampling, progress, found.worse)
        height, width = pictures.shape[-2:]
        by_chance = channels != 1 and not _is_stored_in_grey(found) and _is_grey(pictures)
        converted = channels == 1 and not _is_grey(pictures)
        for part in pictures.split(_BATCH) if converted else ():
            part[:] = torch.from_numpy(luminance(part.movedim(1, -1).numpy())).movedim(-1, 1)
        made = Preparation((height, width), luminance=len(pictures)) if converted else None
        drawn = drawn_side(f"{path} ({sampling})", pictures)
        # A model of colours that has drawn none of them so far is none of grey pictures.
        side = replace(drawn, preparation=made, grey=None if by_chance else drawn.grey)
    else:
        side = open_pictures(path, size, channels, cache, progress)
    if side.count < 2:
        raise UserError(f"{path} gives {side.count} picture; a distance of sets needs at least 2 on each side")
    return side


def drawn_side(name: str, pictures: Tensor) -> Side:
    """Pictures that were drawn, uint8 of shape (N, 3, H, W), as a side of that name."""
    height, width = pictures.shape[-2:]
    return Side(
        name,
        (height, width),
        len(pictures),
        lambda: pictures,
        grey=_is_grey(pictures),
        constant=_is_constant(pictures),
    )


def open_pictures(path: str, size: tuple[int, int], channels: int, cache: bool, progress: bool) -> Side:
    """Open a folder or a zip of pictures as a side, at a size to which they are brought as training does.

    Args:
        path: Path of the pictures, or synthetic:shapes:N.
        size: (height, width) to bring them to.
        channels: 3, or 1 for pictures in luminance.
        cache: Whether what is measured of them is kept in the user's cache folder.
        progress: Whether what takes over two seconds shows a bar on stderr.

    Raises:
        UserError: If they cannot be opened.
    """
    data = open_images(path, size, channels=channels, cache_bytes=0, progress=progress)
    numbers = range(len(data))
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

    content = data.fingerprint_of(numbers) if cache else None
    known = measured_once(content, "facts", facts)
    count, grey, constant = known["facts"].tolist()
    about = json.loads(bytes(known["preparation"].tolist()).decode("utf-8", "surrogateescape"))
    return Side(
        path,
        size,
        count,
        read,
        # What lies beside the pictures is not part of what they are known by.
        preparation=replace(Preparation.from_dict(about), not_read=str(data.left_out)),
        grey=bool(grey),
        constant=bool(constant),
        content=content,
    )


def _read(data: ImageDataset, numbers: Sequence[int], progress: bool) -> Tensor:
    pictures, count = room_for(len(numbers), data.image_size), 0
    for part, images in good_pictures(data, numbers, f"reading {data.path}", progress):
        pictures[count : count + len(part)] = images
        count += len(part)
    return pictures[:count]


def _is_grey(pictures: Tensor) -> bool:
    return all(bool((part == part[:, :1]).all()) for part in pictures.split(_BATCH))


def _is_constant(pictures: Tensor) -> bool:
    return all(bool((part == pictures[0]).all()) for part in pictures.split(_BATCH))
