"""The pictures of a task into a folder: one PNG for each, and a grid of the first of them beside what they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.files import write_file
from scalespace.memory import check_disk
from scalespace.pipelines.drawn_by import DrawnBy, file_name
from scalespace.pipelines.pictures import image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch
from scalespace.reports.progress import progress_bar
from scalespace.tasks.given import Given
from scalespace.tasks.interpolation import between
from scalespace.tasks.inversion import invert, reconstruct

__all__ = ["Drawn", "Way", "draw_into", "write_way"]

_ROWS = 8  # of the grid
_MOST = 1000  # variations of a picture

Draw = Callable[[Tensor, list[Any]], Tensor]
"""Takes pictures in [-1, 1], shape (B, C, H, W), and a generator for each; gives pictures in [0, 1]."""


@dataclass(frozen=True)
class Drawn:
    """What was written.

    Args:
        pictures: For every picture that was given, its name and the files of its variations.
        grid: The first of them, a row each: as given, and all variations.
    """

    pictures: tuple[tuple[str, tuple[Path, ...]], ...]
    grid: Path

    def as_json(self) -> dict[str, Any]:
        """Everything as values that JSON knows."""
        drawn = [{"given": name, "drawn": [str(path) for path in paths]} for name, paths in self.pictures]
        return {"pictures": drawn, "grid": str(self.grid)}


def draw_into(
    folder: Path,
    given: Given,
    pipeline: ScaleSpacePipeline,
    draw: Draw,
    *,
    variations: int,
    seed: int,
    batch_size: int,
    facts: Mapping[str, Any],
    others: Mapping[str, ScaleSpacePipeline | None] | None = None,
    copies: int = 1,
    progress: bool = True,
    look: Callable[[Tensor, Tensor], None] = lambda given, drawn: None,
) -> Drawn:
    """Draw variations of all pictures that are given, and write them.

    Variation v of picture number i depends on the seed, i and v alone, up to the rounding of the network.

    Args:
        folder: New folder.
        given: The pictures.
        pipeline: The model.
        draw: Draws one picture for each that it is given.
        variations: Number of pictures that are drawn for each.
        seed: Seed of the pictures, 0..2^32 - 1.
        batch_size: Number of pictures drawn together.
        facts: What is written into every file, besides model and seed.
        others: Other models that have a part in it, by their parts, which are written into every file too.
        copies: How often the network runs on every picture at once.
        progress: Whether work of more than two seconds shows a bar on stderr.
        look: Is shown every batch, as given in [-1, 1] and as drawn in [0, 1].

    Raises:
        UserError: If an argument does not fit, the folder holds something, or a file cannot be read or written.
    """
    if not 1 <= variations <= _MOST:
        raise UserError(f"--variations is {variations}; give a number from 1 to {_MOST}")
    count = len(given) * variations
    _check_room(folder, count, pipeline, seed, batch_size, "give a smaller --variations", copies)
    drawn_by = DrawnBy.of(pipeline, others or {}, {**facts, "seed": seed})
    rows: list[list[Image.Image]] = []
    bar = progress_bar(count, "drawing", "pictures", progress)
    with bar:
        for first in range(0, count, batch_size):
            numbers = range(first, min(first + batch_size, count))
            pictures = given.batch([number // variations for number in numbers])
            keys = [_MOST * (number // variations) + number % variations for number in numbers]
            with _refusals():
                images = draw(pictures, image_generators(seed, keys))
            look(pictures, images)
            for number, before, image in zip(numbers, pictures, images, strict=True):
                picture = to_picture(2 * image - 1)
                write_file(
                    folder / _name(number, variations), lambda file, picture=picture: drawn_by.save(picture, file)
                )
                if number // variations < _ROWS:
                    if number % variations == 0:
                        rows.append([to_picture(before).resize(picture.size, Image.Resampling.NEAREST)])
                    rows[-1].append(picture)
            bar.update(len(numbers))
    names = given.names
    files = tuple(
        (names[i], tuple(folder / _name(i * variations + v, variations) for v in range(variations)))
        for i in range(len(given))
    )
    return Drawn(files, _write_sheet(folder, rows))


@dataclass(frozen=True)
class Way:
    """What ``write_way`` has written.

    Args:
        pictures: The pictures, from one end to the other.
        grid: All of them side by side.
        losses: For both ends, what the chain does not bring back, root mean square in levels of 255.
    """

    pictures: tuple[Path, ...]
    grid: Path
    losses: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Everything as values that JSON knows."""
        return {"pictures": [str(path) for path in self.pictures], "grid": str(self.grid), "losses": list(self.losses)}


def write_way(
    folder: Path,
    ends: Given,
    pipeline: ScaleSpacePipeline,
    *,
    frames: int,
    steps: int,
    repetitions: int = 3,
    seed: int = 0,
    batch_size: int = 16,
    class_label: int | None = None,
    progress: bool = True,
) -> Way:
    """Draw the pictures on the way from one to another, and write them.

    Args:
        folder: New folder.
        ends: Two pictures.
        pipeline: The model.
        frames: Number of pictures, both ends among them.
        steps: Steps of the chain.
        repetitions: As ``invert`` takes them.
        seed: Seed of the noise that the inversion starts with, 0..2^32 - 1.
        batch_size: Number of pictures drawn together.
        class_label: Number of the class of all pictures.
        progress: Whether work of more than two seconds shows a bar on stderr.

    Raises:
        UserError: If an argument does not fit, the folder holds something, or a file cannot be read or written.
    """
    if not 2 <= frames <= _MOST:
        raise UserError(f"--frames is {frames}; give a number from 2, the pictures at both ends, to {_MOST}")
    _check_room(folder, frames, pipeline, seed, batch_size, "give fewer --frames")
    facts = {"task": "interpolate", "steps": steps, "repetitions": repetitions, "class": class_label, "seed": seed}
    drawn_by = DrawnBy.of(pipeline, {}, facts)
    paths = tuple(folder / file_name(number) for number in range(frames))
    pictures: list[Image.Image] = []
    bar = progress_bar(2 + frames, "interpolating", "pictures", progress)
    with bar, _refusals():
        inversion = invert(
            pipeline,
            ends.batch(range(2)),
            generator=image_generators(seed, range(2)),
            num_inference_steps=steps,
            repetitions=repetitions,
            class_labels=class_label,
        )
        bar.update(2)
        for part in torch.linspace(0, 1, frames, dtype=torch.float64).split(batch_size):
            images = reconstruct(pipeline, between(inversion, part), class_labels=class_label)
            for image in images:
                pictures.append(to_picture(2 * image - 1))
                write_file(
                    paths[len(pictures) - 1],
                    lambda file, picture=pictures[-1]: drawn_by.save(picture, file),
                )
            bar.update(len(part))
    assert inversion.remainder is not None
    first, second = (127.5 * inversion.remainder.square().mean((1, 2, 3)).sqrt()).tolist()
    return Way(paths, _write_sheet(folder, [pictures]), (first, second))


@contextmanager
def _refusals() -> Iterator[None]:
    """What does not fit a model is an error for users."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(cause(error)) from error


def _check_room(
    folder: Path, count: int, pipeline: ScaleSpacePipeline, seed: int, batch_size: int, lower: str, copies: int = 1
) -> None:
    """Refuse what cannot be drawn into a folder, before it is begun."""
    _check_empty(folder)
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; give at least 1")
    with _refusals():
        image_generators(seed, ())
    check_disk(f"{count:,} pictures", folder, count, 0, f"{lower}, or another --output")
    check_batch(pipeline.unet, copies * min(batch_size, count), pipeline.device, "lower --batch-size")


def _check_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: If it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give a new one with --output")


def _write_sheet(folder: Path, rows: Sequence[Sequence[Image.Image]]) -> Path:
    """Write grid.png, with a row of pictures for each of the rows."""
    grid = folder / "grid.png"
    write_file(grid, picture_grid([picture for row in rows for picture in row], columns=len(rows[0])).save)
    return grid


def _name(number: int, variations: int) -> str:
    picture, variation = divmod(number, variations)
    return f"{picture:06d}.png" if variations == 1 else f"{picture:06d}-{variation:03d}.png"
