"""Sets of pictures at one size, written as PNG files into a zip or a folder by ``scalespace prepare``.

Names, folders and order stay. So training on such a set sees the same pictures, classes and batches as training on the files
it was made from. The same pictures give the same bytes.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.preparation import Preparation, good_pictures
from scalespace.errors import UserError
from scalespace.files import check_absent, write_directory, write_file
from scalespace.reading import path_of

__all__ = ["HeldOut", "PreparedSet", "prepare", "split", "write_pictures"]

_THREADS = min(8, os.cpu_count() or 1)
_DATE = (1980, 1, 1, 0, 0, 0)  # of everything in a zip, so that the same pictures are the same file
_READABLE = 0o644 << 16  # of everything in a zip, once it is unpacked
_SPLIT = 2  # word of the random key that keeps the split apart from what else a seed draws


@dataclass(frozen=True)
class HeldOut:
    """Which pictures are held out, so that a model that is trained on the others can be compared with them.

    Args:
        output: Path of the new zip or folder for the held-out pictures.
        share: Fraction of all pictures that is held out, above 0 and below 1.
        seed: Seed of the random choice. The same seed gives the same split.
    """

    output: str
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"--held-out-share is {self.share}; give a share above 0 and below 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; give 0 or more")


@dataclass(frozen=True)
class PreparedSet:
    """Report on a set that was written.

    Args:
        output: Path of the zip or folder.
        count: Number of pictures in it.
        held_out: Place of the held-out pictures and how they were chosen. None if there are none.
        held_out_count: Number of held-out pictures.
        found: What was found in the data and what was not read, one sentence an item.
        classes: Names of the classes.
        preparation: What happened to the pictures of both parts.
    """

    output: str
    count: int
    held_out: HeldOut | None
    held_out_count: int
    found: tuple[str, ...]
    classes: tuple[str, ...]
    preparation: Preparation

    def as_dict(self) -> dict[str, Any]:
        """The report as a dictionary that can be written as JSON."""
        held_out = self.held_out and {
            "output": self.held_out.output,
            "count": self.held_out_count,
            "share": self.held_out.share,
            "seed": self.held_out.seed,
        }
        return {
            "output": self.output,
            "count": self.count,
            "held_out": held_out,
            "found": self.found,
            "classes": self.classes,
            "preparation": self.preparation.as_dict(),
        }

    def as_text(self) -> str:
        """The report as text for the terminal."""
        size = "{}x{}".format(*self.preparation.image_size)
        lines = [f"prepared   {self.count:,} pictures of {size} in {self.output}"]
        if self.held_out is not None:
            how = f"drawn at random with seed {self.held_out.seed}"
            lines.append(f"held out   {self.held_out_count:,} pictures in {self.held_out.output}, {how}")
        lines += [f"found      {line}" for line in self.found]
        # What was not read stands in what was found.
        told = str(replace(self.preparation, not_read=""))
        lines.append(f"pictures   {told}" if told else f"pictures   all were {size} before")
        return "\n".join(lines)


def prepare(
    path: str, image_size: tuple[int, int], output: str, held_out: HeldOut | None = None, progress: bool = True
) -> PreparedSet:
    """Write pictures at one size, exactly as training would see them.

    Args:
        path: Folder, zip or synthetic source, as ``open_images`` takes it.
        image_size: (height, width) in pixels.
        output: Path of the new set: a zip if the name ends in .zip, otherwise a folder.
        held_out: Which pictures to hold out, and where to write them; None holds none out.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Raises:
        UserError: If the pictures cannot be read, most are smaller than the image size, an output exists already or lies in
            the input folder, or writing fails. Nothing is left behind then.
    """
    height, width = image_size
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise UserError(
            f"--size {height} {width} is more than the {Image.MAX_IMAGE_PIXELS:,} pixels that a picture may have"
        )
    outputs = [path_of(name) for name in (output, *([held_out.output] if held_out else []))]
    _check_outputs(path, outputs)
    data = open_images(path, image_size, cache_bytes=0, progress=progress)
    parts = [tuple(range(len(data)))]
    if held_out is not None:
        parts = split(len(data), round(held_out.share * len(data)), held_out.seed)
        if not all(parts):
            raise UserError(
                f"{path} holds {len(data)} pictures, and a share of {held_out.share} of them leaves one part empty; "
                "give another --held-out-share or more pictures"
            )
    counts: list[int] = []
    try:
        for numbers, target in zip(parts, outputs, strict=True):
            counts.append(write_pictures(data, numbers, target, progress))
    except BaseException:
        # A set without its other half would be taken for the whole.
        for target in outputs[: len(counts)]:
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        raise
    preparation = Preparation.of(data, range(len(data)))
    return PreparedSet(output, counts[0], held_out, sum(counts[1:]), data.found(), data.classes, preparation)


def _check_outputs(path: str, outputs: Sequence[Path]) -> None:
    if len({output.resolve() for output in outputs}) < len(outputs):
        raise UserError(f"--output and --held-out are both {outputs[0]}; give two names")
    source = path_of(path).resolve()
    for output in outputs:
        check_absent(output)
        if source.is_dir() and output.resolve().is_relative_to(source):
            raise UserError(f"{output} lies in {path}, whose pictures are read; give a place outside of it")


def split(count: int, number: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split picture indices into two parts at random.

    Args:
        count: Number of pictures.
        number: Number of pictures to draw.
        seed: Seed of the draw. The same seed gives the same split.

    Returns:
        Indices of the pictures that remain, and of those that were drawn, both ascending.
    """
    order = np.random.default_rng([seed, _SPLIT]).permutation(count).tolist()
    return tuple(sorted(order[number:])), tuple(sorted(order[:number]))


def write_pictures(data: ImageDataset, numbers: Sequence[int], target: Path, progress: bool = True) -> int:
    """Write pictures of a data set as PNG files into a zip or a folder. It appears under its name when it is complete.

    Names and folders stay, so order and classes stay too. The same pictures give the same bytes.

    Args:
        data: Data set to read from, at the size to write.
        numbers: Indices of the pictures to write, ascending.
        target: Path of the zip, if the name ends in .zip, otherwise of the folder.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Returns:
        Number of pictures written. Those that cannot be decoded are left out.

    Raises:
        UserError: If more than 1 % of all pictures are damaged, a name cannot be written, or writing fails.
    """
    names = _png_names(data.path, [data.names[number] for number in numbers])
    new_names = dict(zip(numbers, names, strict=True))
    written = 0

    def files() -> Iterator[tuple[str, bytes]]:
        nonlocal written
        with ThreadPoolExecutor(_THREADS) as pool:
            for part, images in good_pictures(data, numbers, f"preparing {target.stem}", progress):
                for number, content in zip(part, pool.map(_png, images), strict=True):
                    yield new_names[number], content
                    written += 1

    def zipped(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = _READABLE
                archive.writestr(entry, content)

    def unpacked(folder: Path) -> None:
        for name, content in files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    if target.suffix.lower() == ".zip":
        write_file(target, zipped)
    else:
        write_directory(target, unpacked)
    return written


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _png_names(path: str, names: Sequence[str]) -> list[str]:
    """New names in the same order, since the order of the names is the order of training."""
    for name in names:
        # Names with ".." are no pictures to begin with.
        if PurePosixPath(name).is_absolute():
            raise UserError(f"{name} in {path} leads out of its place; pack the pictures again without such names")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{name!a} in {path} is no name in UTF-8; rename it") from error
    # Where two pictures differ in the ending alone, both keep it.
    for renamed in ([str(PurePosixPath(name).with_suffix(".png")) for name in names], [f"{n}.png" for n in names]):
        if all(first < second for first, second in pairwise(renamed)):
            return renamed
    raise UserError(
        f"the names in {path} sort differently once they end in .png; rename pictures that differ in the ending"
    )
