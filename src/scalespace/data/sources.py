"""Where training pictures come from, and how one file becomes pixels.

A source is a numbered list of pictures: the files of a folder, the entries of a zip, or procedural pictures. A file
is turned upright by its EXIF orientation, laid on white where it is transparent, cropped around its centre to the
aspect of the image size and resized with Pillow's Lanczos filter.
"""

import io
import os
import stat
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from scalespace.data.checksums import checksum, file_checksums
from scalespace.data.left_out import EXTENSIONS, LeftOut, is_hidden, kind_of
from scalespace.data.shapes import SHAPES_VERSION, shapes
from scalespace.errors import UserError, cause
from scalespace.reading import check_readable, path_of

__all__ = ["ANIMATED", "DECODING_RULE", "ENLARGED", "Source", "decode_image", "open_source", "reason"]

ENLARGED, ANIMATED = "enlarged", "animated"
"""What there is to be told of a decoded picture: it was smaller than wanted, or only the first of its frames was taken."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SYNTHETIC = ("shapes",)
_SYNTHETIC_LENGTH, _MOST_SYNTHETIC = 10_000, 1_000_000
_LARGEST_FILE = 256 << 20  # bytes
# A JPEG decoder halves a picture for nothing, and where this many times the pixels are left no difference is seen. It
# could also divide by 4 or 8, but then edges differ by tens of levels.
_JPEG_GAP = 4
# Part of the fingerprint: to be changed with anything that changes the decoded pixels.
DECODING_RULE = "centre crop, Lanczos, on white, 1"


class Source(Protocol):
    """Numbered pictures; picklable, and safe to read from threads and from the workers of a DataLoader."""

    names: tuple[str, ...]
    folders: tuple[str, ...]
    """Paths of all folders inside it, also of those without pictures."""
    left_out: LeftOut
    """What was found and is not read."""

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        """Pixels (H, W, 3), and what there is to be told of them, as of ``decode_image``."""
        ...

    def native_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the picture as it is stored; None where it has none or is damaged."""
        ...

    def stored_in_grey(self, index: int) -> bool:
        """Whether the picture is stored without any colour, in one channel."""
        ...

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        """What identifies the contents of some pictures, one word each; reading files may show a bar on stderr."""
        ...

    def former_signature(self) -> Iterator[str]:
        """What identified all pictures before their contents did, one word each."""
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
    place = path_of(path)
    try:
        if not path:
            raise FileNotFoundError
        if not stat.S_ISDIR(place.stat().st_mode):
            check_readable(place)
        source = _Folder(place) if place.is_dir() else _Zip(place)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"there is no data at {path!r}; give a folder of pictures, a zip of pictures, or synthetic:shapes"
        ) from error
    except UserError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError(
            f"{path} is neither a folder nor a whole zip file ({reason(error)}); "
            "give a folder or a zip of pictures, or copy the zip again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); check that it is whole and that you may read it"
        ) from error
    if not source.names:
        left_out = f" ({source.left_out})" if str(source.left_out) else ""
        raise UserError(
            f"{path} holds no pictures{left_out}; give a folder or a zip with PNG, JPEG, WebP or BMP files "
            f"(named {', '.join(EXTENSIONS)}), or synthetic:shapes"
        )
    return source


def decode_image(data: bytes, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
    """A picture file as pixels of one size.

    Args:
        data: The bytes of a PNG, JPEG, WebP or BMP file.
        image_size: (height, width) in pixels.

    Returns:
        Pixels, uint8 of shape (height, width, 3), and what there is to be told of them: some of ``ENLARGED``, ``ANIMATED``.

    Raises:
        Exception: If the file is damaged. Pillow raises nearly any type.
    """
    height, width = image_size
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        # The orientation may still swap the sides, so the shorter one is held against the longer one asked for.
        if min(picture.size) >= 2 * _JPEG_GAP * max(image_size):
            picture.draft(None, (picture.width // 2, picture.height // 2))
        # Pictures of a telephone may hold a second, smaller one (MPO), which is no animation.
        animated = picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
        picture.load()
        rgb = _on_white(_upright(picture))
    # The largest centred box of the wanted aspect, in whole pixels: nothing is resampled that need not be.
    box_width = min(rgb.width, max(1, round(rgb.height * width / height)))
    box_height = min(rgb.height, max(1, round(rgb.width * height / width)))
    left, top = (rgb.width - box_width) // 2, (rgb.height - box_height) // 2
    box = (left, top, left + box_width, top + box_height)
    resized = rgb.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    told = {ENLARGED: box_width < width or box_height < height, ANIMATED: animated}
    return np.asarray(resized), frozenset(word for word, holds in told.items() if holds)


def reason(error: Exception) -> str:
    """Say in a few words of one line why reading or decoding failed."""
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP picture"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than any camera takes"
    return cause(error)


class _Files(ABC):
    """Pictures that are files somewhere; subclasses say where."""

    names: tuple[str, ...]
    folders: tuple[str, ...]
    left_out: LeftOut

    @abstractmethod
    def open(self, index: int) -> IO[bytes]: ...

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        with self.open(index) as file:
            # A zip can hold gigabytes of zeros in a few kilobytes.
            data = file.read(_LARGEST_FILE + 1)
        if not data:
            raise OSError("the file is empty")
        if len(data) > _LARGEST_FILE:
            raise OSError(f"the file is larger than {_LARGEST_FILE >> 20} MiB")
        return decode_image(data, image_size)

    def native_size(self, index: int) -> tuple[int, int] | None:
        try:
            with self.open(index) as file, Image.open(file, formats=_FORMATS) as picture:
                return _stored_size(picture)
        except Exception:  # Damaged pictures are met and counted when they are decoded.
            return None

    def stored_in_grey(self, index: int) -> bool:
        try:
            with self.open(index) as file, Image.open(file, formats=_FORMATS) as picture:
                return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
        except Exception:  # Damaged pictures are met and counted when they are decoded.
            return False


class _Folder(_Files):
    def __init__(self, root: Path):
        self._root = root
        self.left_out = LeftOut()
        self.names, self._bytes, self.folders = _walk(root, self.left_out)

    def open(self, index: int) -> IO[bytes]:
        return (self._root / self.names[index]).open("rb")

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return file_checksums(self._root, [self.names[index] for index in indices], progress)

    def former_signature(self) -> Iterator[str]:
        return (f"{name} {size}" for name, size in zip(self.names, self._bytes, strict=True))


class _Zip(_Files):
    def __init__(self, path: Path):
        self._path = path
        self._archive: zipfile.ZipFile | None = zipfile.ZipFile(path)
        self._process = os.getpid()
        self.left_out = LeftOut()
        found: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for entry in self._archive.infolist():
            # Some programs on Windows write their own separator, against the format.
            name = entry.filename.replace("\\", "/")
            if name.endswith("/"):
                folders.add(PurePosixPath(name).as_posix())
            elif (kind := kind_of(name)) is not None:
                self.left_out.files[kind] += 1
            elif name in found:
                self.left_out.files["of a name that comes again"] += 1
                found[name] = entry
            else:
                found[name] = entry
        self.names = tuple(sorted(found))
        self.folders = tuple(sorted(name for name in folders if not any(map(is_hidden, name.split("/")))))
        self._entries = tuple(found[name] for name in self.names)

    def open(self, index: int) -> IO[bytes]:
        # Forked processes share one file offset, so each opens the archive for itself.
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self._path), os.getpid()
        return self._archive.open(self._entries[index])

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return [checksum(self._entries[index].file_size, self._entries[index].CRC) for index in indices]

    def former_signature(self) -> Iterator[str]:
        return (f"{entry.filename} {entry.CRC:08x}" for entry in self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}


class _Shapes:
    def __init__(self, length: int):
        digits = len(str(length - 1))
        self.names = tuple(f"shapes-{index:0{digits}}" for index in range(length))
        self.folders: tuple[str, ...] = ()
        self.left_out = LeftOut()

    def load(self, index: int, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
        return shapes(index, image_size), frozenset()

    def native_size(self, index: int) -> tuple[int, int] | None:
        return None

    def stored_in_grey(self, index: int) -> bool:
        return False

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return [f"synthetic {SHAPES_VERSION}"] * len(indices)

    def former_signature(self) -> Iterator[str]:
        yield f"synthetic shapes {SHAPES_VERSION} {len(self.names)}"


def _open_synthetic(path: str) -> Source:
    _, name, *length = path.split(":")
    if name not in _SYNTHETIC:
        raise UserError(f"there is no synthetic source {name!r}; use one of: {', '.join(_SYNTHETIC)}")
    if not length:
        return _Shapes(_SYNTHETIC_LENGTH)
    if len(length) > 1 or not length[0].isdecimal() or not length[0].strip("0"):
        raise UserError(
            f"{path!r} does not say how many pictures; write synthetic:{name}:1000 for the first 1000 of them"
        )
    # Of very many digits int() makes no number.
    if len(length[0].lstrip("0")) > 9 or int(length[0]) > _MOST_SYNTHETIC:
        raise UserError(f"{path} are more pictures than anybody needs; give synthetic:{name}:{_MOST_SYNTHETIC} at most")
    return _Shapes(int(length[0]))


def _walk(root: Path, left_out: LeftOut) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
    """Names of the pictures below `root` in sorted order, with sizes in bytes, and all folders."""

    def stop(error: OSError) -> None:
        if os.fspath(error.filename) == os.fspath(root):
            raise error
        left_out.add_folder(f"cannot be read ({reason(error)})", inside(error.filename))

    def inside(path: str | Path) -> str:
        return Path(path).relative_to(root).as_posix()

    found: dict[str, int] = {}
    folders: list[str] = []
    entered: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=stop):
        # Links are followed, but not in circles.
        for name in sorted(filter(is_hidden, below)):
            left_out.add_folder("hidden", inside(Path(folder, name)))
        below[:] = sorted(name for name in below if not is_hidden(name))
        if os.path.realpath(folder) in entered:
            left_out.add_folder("is read already under another name", inside(folder))
            below.clear()
            continue
        entered.add(os.path.realpath(folder))
        folders.append(inside(folder))
        above = "" if folder == os.fspath(root) else f"{folders[-1]}/"
        for file in files:
            kind = kind_of(file)
            if kind is None:
                path = Path(folder, file)
                try:
                    state = path.stat()
                except OSError:
                    # A link may lead nowhere, which is met when the picture is decoded.
                    found[above + file] = 0
                    continue
                # Reading a pipe would wait for ever, and reading a device might not end.
                if stat.S_ISREG(state.st_mode):
                    found[above + file] = state.st_size
                else:
                    left_out.files["pipes or devices"] += 1
            else:
                left_out.files[kind] += 1
    names = tuple(sorted(found))
    return names, tuple(found[name] for name in names), tuple(name for name in folders if name != ".")


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
