"""Where training pictures come from, and how one file becomes pixels.

A source is a numbered list of pictures: the files of a folder, the entries of a zip, or procedural pictures. A file
is turned upright by its EXIF orientation, laid on white where it is transparent, cropped around its centre to the
aspect of the image size and resized with Pillow's Lanczos filter.
"""

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from scalespace.data.shapes import SHAPES_VERSION, shapes
from scalespace.errors import UserError, cause

__all__ = ["DECODING_RULE", "Source", "decode_image", "open_source", "reason"]

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SYNTHETIC = ("shapes",)
_SYNTHETIC_LENGTH = 10_000
# A JPEG decoder halves a picture for nothing, and where this many times the pixels are left no difference is seen. It
# could also divide by 4 or 8, but then edges differ by tens of levels.
_JPEG_GAP = 4
# Part of the fingerprint: to be changed with anything that changes the decoded pixels.
DECODING_RULE = "centre crop, Lanczos, on white, 1"


class Source(Protocol):
    """Numbered pictures; picklable, and safe to read from threads and from the workers of a DataLoader."""

    names: tuple[str, ...]

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, bool]:
        """Pixels (H, W, 3) and whether they had to be enlarged."""
        ...

    def native_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the picture as it is stored; None where it has none or is damaged."""
        ...

    def signature(self) -> Iterator[str]:
        """What identifies the pictures, one word each."""
        ...


def open_source(path: str) -> Source:
    """The pictures at a path, sorted by name.

    Args:
        path: A folder, a zip file, or `synthetic:NAME` with an optional `:LENGTH`.

    Raises:
        UserError: If nothing is there, it cannot be read, or it holds no pictures.
    """
    if path.startswith("synthetic:"):
        return _open_synthetic(path)
    place = Path(path).expanduser()
    if not path or not place.exists():
        raise UserError(
            f"there is no data at {path!r}; give a folder of pictures, a zip of pictures, or synthetic:shapes"
        )
    try:
        source = _Folder(place) if place.is_dir() else _Zip(place)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is neither a folder nor a whole zip file ({reason(error)}); "
            "give a folder or a zip of pictures, or copy the zip again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); check that it is whole and that you may read it"
        ) from error
    if not source.names:
        raise UserError(
            f"{path} holds no pictures; give a folder or a zip with PNG, JPEG, WebP or BMP files "
            f"(named {', '.join(_EXTENSIONS)}), or synthetic:shapes"
        )
    return source


def decode_image(data: bytes, image_size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """A picture file as pixels of one size.

    Args:
        data: The bytes of a PNG, JPEG, WebP or BMP file.
        image_size: (height, width) in pixels.

    Returns:
        Pixels, uint8 of shape (height, width, 3), and whether the picture was smaller than that.

    Raises:
        Exception: Of nearly any type, from Pillow, if the file is damaged.
    """
    height, width = image_size
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        # The orientation may still swap the sides, so the shorter one is held against the longer one asked for.
        if min(picture.size) >= 2 * _JPEG_GAP * max(image_size):
            picture.draft(None, (picture.width // 2, picture.height // 2))
        picture.load()
        rgb = _on_white(_upright(picture))
    # The largest centred box of the wanted aspect, in whole pixels: nothing is resampled that need not be.
    box_width = min(rgb.width, max(1, round(rgb.height * width / height)))
    box_height = min(rgb.height, max(1, round(rgb.width * height / width)))
    left, top = (rgb.width - box_width) // 2, (rgb.height - box_height) // 2
    box = (left, top, left + box_width, top + box_height)
    resized = rgb.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized), box_width < width or box_height < height


def reason(error: Exception) -> str:
    """In a few words of one line, why reading or decoding failed."""
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP picture"
    return cause(error)


class _Files(ABC):
    """Pictures that are files somewhere; subclasses say where."""

    names: tuple[str, ...]

    @abstractmethod
    def open(self, index: int) -> IO[bytes]: ...

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, bool]:
        with self.open(index) as file:
            data = file.read()
        if not data:
            raise OSError("the file is empty")
        return decode_image(data, image_size)

    def native_size(self, index: int) -> tuple[int, int] | None:
        try:
            with self.open(index) as file, Image.open(file, formats=_FORMATS) as picture:
                return _stored_size(picture)
        except Exception:  # Damaged pictures are met and counted when they are decoded.
            return None


class _Folder(_Files):
    def __init__(self, root: Path):
        self._root = root
        self.names, self._bytes = _walk(root)

    def open(self, index: int) -> IO[bytes]:
        return (self._root / self.names[index]).open("rb")

    def signature(self) -> Iterator[str]:
        return (f"{name} {size}" for name, size in zip(self.names, self._bytes, strict=True))


class _Zip(_Files):
    def __init__(self, path: Path):
        self._path = path
        self._archive: zipfile.ZipFile | None = zipfile.ZipFile(path)
        self._process = os.getpid()
        entries = {entry.filename: entry for entry in self._archive.infolist() if _is_picture(entry.filename)}
        self.names = tuple(sorted(entries))
        self._checksums = tuple(entries[name].CRC for name in self.names)

    def open(self, index: int) -> IO[bytes]:
        # Forked processes share one file offset, so each opens the archive for itself.
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self._path), os.getpid()
        return self._archive.open(self.names[index])

    def signature(self) -> Iterator[str]:
        return (f"{name} {checksum:08x}" for name, checksum in zip(self.names, self._checksums, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}


class _Shapes:
    def __init__(self, length: int):
        digits = len(str(length - 1))
        self.names = tuple(f"shapes-{index:0{digits}}" for index in range(length))

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, bool]:
        return shapes(index, image_size), False

    def native_size(self, index: int) -> tuple[int, int] | None:
        return None

    def signature(self) -> Iterator[str]:
        yield f"synthetic shapes {SHAPES_VERSION} {len(self.names)}"


def _open_synthetic(path: str) -> Source:
    _, name, *length = path.split(":")
    if name not in _SYNTHETIC:
        raise UserError(f"there is no synthetic source {name!r}; use one of: {', '.join(_SYNTHETIC)}")
    if not length:
        return _Shapes(_SYNTHETIC_LENGTH)
    if len(length) > 1 or not length[0].isdecimal() or int(length[0]) < 1:
        raise UserError(
            f"{path!r} does not say how many pictures; write synthetic:{name}:1000 for the first 1000 of them"
        )
    return _Shapes(int(length[0]))


def _is_picture(name: str) -> bool:
    """Whether a path inside the source counts as a picture; hidden files and what macOS adds to zips do not."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in _EXTENSIONS and not name.endswith("/")


def _walk(root: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names below `root` in sorted order, with sizes in bytes."""

    def stop(error: OSError) -> None:
        raise error

    found: dict[str, int] = {}
    entered: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=stop):
        # Links are followed, but not in circles.
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX"]
        if os.path.realpath(folder) in entered:
            below.clear()
            continue
        entered.add(os.path.realpath(folder))
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if _is_picture(name):
                found[name] = path.stat().st_size if path.exists() else 0
    names = tuple(sorted(found))
    return names, tuple(found[name] for name in names)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    except Exception:  # Damaged metadata is no reason to lose the picture.
        return picture


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of the picture once it is upright."""
    # Orientations from 5 on swap the sides.
    return (picture.width, picture.height) if _orientation(picture) >= 5 else (picture.height, picture.width)


def _orientation(picture: Image.Image) -> int:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip; 65535 / 257 = 255.
        levels = np.asarray(picture).astype(np.float32)
        levels[levels == picture.info.get("transparency", -1)] = 65535
        picture = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
