"""Where drawn pictures go: into a folder, or into one archive in the form of guided-diffusion.

While they are drawn each is a PNG file with what drew it in its metadata, so that processes can share the work, and a command
that was stopped goes on. An archive is packed when all are there, from a folder beside it, which is removed then:

arr_0     uint8, shape (N, H, W, C), in the order of the pictures' numbers
arr_1     int64, shape (N,): numbers of their classes, where the model has any
about     JSON: what drew them

Source: Dhariwal and Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, the format of its samples.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from scalespace.data.sources.arrays import ABOUT, LABELS, PICTURES
from scalespace.data.sources.headers import ENDING, Header, arrays_of
from scalespace.errors import UserError, cause
from scalespace.files import check_folder, check_writable, remove_directory, write_file
from scalespace.pipelines.drawn_by import DrawnBy, file_name
from scalespace.pipelines.pictures import picture_grid
from scalespace.reading import parse_json, reading
from scalespace.reports.progress import progress_bar

__all__ = ["Archive", "Folder", "Place", "check_place", "is_archive", "place_at"]

_GRID_PICTURES = 64
_UNFINISHED = ".partial"
_REMEDY = "give another name with --output, or remove it"


def is_archive(output: str | Path) -> bool:
    """Whether pictures are written there as one archive: the name ends in .npz."""
    return Path(output).suffix.lower() == ".npz"


def check_place(output: Path) -> None:
    """Refuse a folder or an archive that cannot be written to. Nothing is made.

    Raises:
        UserError: If so.
    """
    (check_writable if is_archive(output) else check_folder)(output)


def place_at(output: Path) -> Place:
    """The place of that name."""
    return Archive(output) if is_archive(output) else Folder(output)


class Place(ABC):
    """Abstract: where pictures go.

    Args:
        folder: Folder of the PNG files while the pictures are drawn.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def picture(self, number: int) -> Path:
        """The PNG file of a picture while the pictures are drawn."""
        return self.folder / file_name(number)

    @abstractmethod
    def check(self, channels: int, trajectory: bool) -> None:
        """Refuse what the place cannot hold.

        Args:
            channels: Channels of the pictures.
            trajectory: Whether a picture of the way up is asked for.

        Raises:
            UserError: If it cannot.
        """

    @abstractmethod
    def found(self, drawn_by: DrawnBy, count: int) -> frozenset[int]:
        """The numbers of the pictures 0..count - 1 that are there already; the folder is made where some are missing.

        Raises:
            UserError: If something else is there.
        """

    @abstractmethod
    def finish(self, drawn_by: DrawnBy, count: int, labels: Tensor | None, progress: bool) -> None:
        """Complete the place once all pictures are drawn.

        Args:
            drawn_by: What has drawn them.
            count: Number of pictures.
            labels: Numbers of their classes, shape (count,); None where they have none.
            progress: Whether work of more than two seconds shows a bar on stderr.

        Raises:
            UserError: If a file cannot be written.
        """


class Folder(Place):
    """A folder with a PNG file for each picture, and the first 64 side by side in grid.png."""

    @property
    def grid(self) -> Path:
        return self.folder / "grid.png"

    def check(self, channels: int, trajectory: bool) -> None: ...

    def found(self, drawn_by: DrawnBy, count: int) -> frozenset[int]:
        return drawn_by.found(self.folder, count)

    def finish(self, drawn_by: DrawnBy, count: int, labels: Tensor | None, progress: bool) -> None:
        shown = [Image.open(self.picture(number)) for number in range(min(count, _GRID_PICTURES))]
        write_file(self.grid, picture_grid(shown).save)


class Archive(Place):
    """One .npz file.

    Args:
        file: The file.
    """

    def __init__(self, file: Path):
        super().__init__(file.with_name(file.name + _UNFINISHED))
        self.file = file

    def check(self, channels: int, trajectory: bool) -> None:
        if channels not in (1, 3):
            raise UserError(
                f"the model draws pictures of {channels} channels, and {PICTURES} in an .npz file has 3, or 1; give a folder "
                "with --output"
            )
        if trajectory:
            raise UserError("the trajectory has no place in an .npz file; give a folder with --output, or a --preview")

    def found(self, drawn_by: DrawnBy, count: int) -> frozenset[int]:
        there = self._count()
        if there:
            self._check_drawn_by(drawn_by)
        if there > count:
            raise UserError(
                f"{self.file} holds {there} pictures, which are more than {count}; give another name with --output, or "
                f"--num-images {there}"
            )
        if there == count:
            # Of a command that was killed before it had removed it.
            if self.folder.exists():
                drawn_by.found(self.folder, count)
            return frozenset(range(count))
        if there:
            with reading(self.file, _REMEDY, Exception), np.load(self.file, allow_pickle=False) as archive:
                pictures = archive[PICTURES]
            for number, pixels in enumerate(pictures):
                if not self.picture(number).exists():
                    self._unpack(pixels, self.picture(number), drawn_by)
        return drawn_by.found(self.folder, count)

    def finish(self, drawn_by: DrawnBy, count: int, labels: Tensor | None, progress: bool) -> None:
        if self._count() < count:
            # What it is made of is removed after it.
            write_file(self.file, lambda file: self._pack(file, drawn_by, count, labels, progress), durable=True)
        try:
            if self.folder.exists():
                remove_directory(self.folder)
        except OSError as error:
            raise UserError(
                f"cannot remove {self.folder} ({cause(error)}); {self.file} is whole, so remove it by hand"
            ) from error

    def _count(self) -> int:
        """Number of pictures in the file; 0 where there is none."""
        if not self.file.exists():
            return 0
        if not {PICTURES, ABOUT} <= {*arrays_of(self.file)}:
            raise UserError(f"{self.file} is there already and is none of these archives; {_REMEDY}")
        with reading(self.file, _REMEDY, Exception), zipfile.ZipFile(self.file) as archive:
            return Header.of(archive, PICTURES).shape[0]

    def _check_drawn_by(self, drawn_by: DrawnBy) -> None:
        with reading(self.file, _REMEDY, Exception), np.load(self.file, allow_pickle=False) as archive:
            facts = parse_json(str(archive[ABOUT]))
        drawn_by.check(facts if isinstance(facts, dict) else {}, self.file)

    def _unpack(self, pixels: np.ndarray, file: Path, drawn_by: DrawnBy) -> None:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        write_file(file, lambda partial: drawn_by.save(picture, partial))

    def _pack(self, file: Path, drawn_by: DrawnBy, count: int, labels: Tensor | None, progress: bool) -> None:
        # Picture by picture, and with the time that zipfile gives by itself, so that the same pictures are the same bytes.
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo(PICTURES + ENDING), "w", force_zip64=True) as member:
                for number in progress_bar(range(count), "packing", "pictures", progress):
                    with Image.open(self.picture(number)) as picture:
                        pixels = np.asarray(picture)
                    if number == 0:
                        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
                        shape = (count, *pixels.shape[:2], channels)
                        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(member, about)
                    member.write(pixels.tobytes())
            others: dict[str, Any] = {} if labels is None else {LABELS: labels.numpy()}
            for name, array in (others | {ABOUT: np.array(drawn_by.as_json())}).items():
                with archive.open(zipfile.ZipInfo(name + ENDING), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
