"""Pictures of an experiment: check that they are the paper's, hold some out, and write them at one size into one zip.

The paper does not say how CelebA is cropped. Here it is what ADM's code, which the paper builds on, does to any picture: the
largest centred square, 178 x 178 of the aligned 178 x 218, is resized, and enlarged where 256 pixels are wanted.

Sources: Liu et al. 2015, Deep learning face attributes in the wild (CelebA); Russakovsky et al. 2015, ImageNet large scale
visual recognition challenge; Dhariwal and Nichol 2021, Diffusion models beat GANs on image synthesis (ADM).
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from scalespace.data.sources import Source, open_source, reason
from scalespace.errors import UserError
from scalespace.files import write_file

__all__ = ["CELEBA", "IMAGENET", "DataSet", "check_data", "hold_out", "prepare"]

_SIZES_LOOKED_AT = 256
_BAD_SHARE = 0.01
_BAR_DELAY = 2.0  # seconds without a bar
_THREADS = min(8, os.cpu_count() or 1)
_CHUNK = 256  # pictures that are held at once
_DATE = (1980, 1, 1, 0, 0, 0)  # of everything in a zip, so that the same pictures are the same file
_SPLIT = 2  # word of the random key that keeps the split apart from what else a seed draws


@dataclass(frozen=True)
class DataSet:
    """What a folder of a well-known data set holds.

    Args:
        name: Name of the data set.
        pictures: Number of pictures.
        folders: Number of folders that the pictures lie in. None is not checked.
        size: (height, width) of every picture. None if pictures differ in size.
        where: Name of the folder in the official distribution.
    """

    name: str
    pictures: int
    folders: int | None
    size: tuple[int, int] | None
    where: str


CELEBA = DataSet("aligned CelebA", 202_599, None, (218, 178), "img_align_celeba")
IMAGENET = DataSet("the training part of ImageNet", 1_281_167, 1000, None, "ILSVRC2012_img_train, unpacked")


def check_data(path: str, expected: DataSet) -> None:
    """Check that pictures are those of a data set, by their number, their folders and the sizes of some of them.

    Args:
        path: Folder or zip of pictures.
        expected: The data set that they should be.

    Raises:
        UserError: If they are another data set, or not all of it.
    """
    source = open_source(path)
    what = f"{path} is not {expected.name}"
    remedy = f"give the whole of it ({expected.where}) as a folder or a zip"
    if len(source.names) != expected.pictures:
        raise UserError(f"{what}: it holds {len(source.names):,} pictures, not {expected.pictures:,}; {remedy}")
    folders = {PurePosixPath(name).parent for name in source.names}
    if expected.folders is not None and len(folders) != expected.folders:
        raise UserError(f"{what}: its pictures lie in {len(folders):,} folders, not {expected.folders:,}; {remedy}")
    if expected.size is None:
        return
    for index in range(0, len(source.names), -(-len(source.names) // _SIZES_LOOKED_AT)):
        size = source.native_size(index)
        if size is not None and size != expected.size:
            raise UserError(
                "{}: {} is {}x{}, not {}x{} (height by width); {}".format(
                    what, source.names[index], *size, *expected.size, remedy
                )
            )


def hold_out(count: int, share: float, least: int, most: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split pictures at random into training and held-out ones.

    Args:
        count: Number of pictures.
        share: Fraction that is held out, within the next two bounds.
        least: Smallest number of held-out pictures.
        most: Largest number of held-out pictures.
        seed: Seed of the split. The same seed gives the same split.

    Returns:
        Indices of the training pictures, and indices of the held-out ones, both ascending.

    Raises:
        ValueError: If there are fewer than 2 * least pictures.
    """
    if count < 2 * least:
        raise ValueError(
            f"{count} pictures, of which at least {least} have to be held out; give {2 * least} or more, or name others to "
            "compare with by --heldout"
        )
    number = min(max(round(share * count), least), most)
    order = np.random.default_rng([seed, _SPLIT]).permutation(count).tolist()
    return tuple(sorted(order[number:])), tuple(sorted(order[:number]))


def prepare(
    source: Source, chosen: Sequence[int], image_size: tuple[int, int], target: Path, progress: bool = True
) -> tuple[str, ...]:
    """Write pictures at one size into a zip of PNG files. The zip appears under its name when it is complete.

    Args:
        source: Source of the pictures.
        chosen: Indices of the pictures to write.
        image_size: (height, width) to write. The largest centred box of that aspect is resized to it, up or down.
        target: Path of the zip.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Returns:
        For each picture that could not be decoded and was left out, its name and the reason.

    Raises:
        UserError: If more than 1 % of the pictures are damaged, or the zip cannot be written.
    """
    bad: list[str] = []

    def encode(index: int) -> bytes | str:
        try:
            pixels, _ = source.load(index, image_size)
        except Exception as error:  # A damaged file can raise nearly anything from a decoder.
            return f"{source.names[index]}: {reason(error)}"
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def encoded() -> Iterator[tuple[int, bytes | str]]:
        # In chunks, since a pool would run ahead of the disk and fill the memory.
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(chosen), _CHUNK):
                chunk = chosen[start : start + _CHUNK]
                yield from zip(chunk, pool.map(encode, chunk), strict=True)

    def write(file: Path) -> None:
        bar = tqdm(
            encoded(),
            desc=f"preparing {target.stem}",
            total=len(chosen),
            unit=" pictures",
            delay=_BAR_DELAY,
            disable=not progress,
            file=sys.stderr,
        )
        with zipfile.ZipFile(file, "w") as archive:
            for index, result in bar:
                if isinstance(result, bytes):
                    # Two pictures may differ in the ending alone.
                    archive.writestr(zipfile.ZipInfo(f"{source.names[index]}.png", _DATE), result)
                    continue
                bad.append(result)
                if len(bad) > _BAD_SHARE * len(chosen):
                    raise UserError(
                        f"more than 1 % of the pictures cannot be decoded ({'; '.join(bad[:3])}); replace or remove "
                        "the damaged files"
                    )

    write_file(target, write)
    return tuple(bad)
