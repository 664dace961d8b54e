"""Pictures of an experiment: check that they are the paper's, and hold some out.

The paper does not say how CelebA is cropped. Here it is what ADM's code, which the paper builds on, does to any picture: the
largest centred square, 178 x 178 of the aligned 178 x 218, is resized, and enlarged where 256 pixels are wanted.

Sources: Liu et al. 2015, Deep learning face attributes in the wild (CelebA); Russakovsky et al. 2015, ImageNet large scale
visual recognition challenge; Dhariwal and Nichol 2021, Diffusion models beat GANs on image synthesis (ADM).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from scalespace.data.prepared_sets import split
from scalespace.data.sources.opening import open_source
from scalespace.errors import UserError

__all__ = ["CELEBA", "IMAGENET", "DataSet", "check_data", "hold_out"]

_SIZES_LOOKED_AT = 256


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
    return split(count, min(max(round(share * count), least), most), seed)
