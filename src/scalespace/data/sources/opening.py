"""Which source a path names."""

import stat
import struct
import zipfile
from pathlib import Path

from scalespace.data.left_out import EXTENSIONS, is_hidden
from scalespace.data.sources.archive import Zip
from scalespace.data.sources.arrays import PICTURES, Arrays
from scalespace.data.sources.decoding import reason
from scalespace.data.sources.drawn import without_sheets
from scalespace.data.sources.folder import Folder
from scalespace.data.sources.headers import arrays_of
from scalespace.data.sources.hugging_face import PREFIX, STREAM, HuggingFace, is_saved
from scalespace.data.sources.shards import Shards, expanded
from scalespace.data.sources.source import Source
from scalespace.data.sources.synthetic import open_synthetic
from scalespace.errors import UserError
from scalespace.reading import check_readable, path_of

__all__ = ["names_data", "open_source"]

_TAR = ".tar"


def names_data(path: str) -> bool:
    """Whether a path can name nothing but pictures, whatever lies there."""
    return path.startswith(("synthetic:", PREFIX, STREAM)) or path.endswith(_TAR)


def open_source(path: str, progress: bool = True) -> Source:
    """The pictures at a path, sorted by name.

    Args:
        path: A folder, a zip file, an .npz file with pictures as guided-diffusion writes them, tar files (one, a pattern such
            as `{000..009}.tar`, or a folder of them), a data set of Hugging Face (`hf:NAME` with an optional `:SPLIT`), or
            `synthetic:NAME` with an optional `:LENGTH`.
        progress: Whether a library that downloads or unpacks may show its bars on stderr.

    Raises:
        UserError: If nothing is there, it cannot be read, or it holds no pictures.
    """
    if path.startswith("synthetic:"):
        return open_synthetic(path)
    if path.startswith(STREAM):
        raise UserError(
            f"{path} is a stream, which has neither a number of pictures nor a place for each, so that order, epochs and "
            f"resuming have no meaning; give {PREFIX}{path.removeprefix(STREAM)}, which is downloaded once, or tar files"
        )
    if path.startswith(PREFIX):
        return _filled(path, HuggingFace(path, progress))
    place = path_of(path)
    if path.endswith(_TAR) and not place.is_dir():
        return _filled(path, without_sheets(Shards([path_of(name) for name in expanded(path)])))
    try:
        if not path:
            raise FileNotFoundError
        if place.is_file() and is_saved(place):
            return _filled(path, HuggingFace(path, progress))
        if not stat.S_ISDIR(place.stat().st_mode):
            check_readable(place)
        if PICTURES in arrays_of(place):
            return _filled(path, Arrays(place))
        source = _folder(path, place, progress) if place.is_dir() else without_sheets(Zip(place))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"there is no data at {path!r}; give a folder, a zip or tar files of pictures, hf:NAME, or synthetic:shapes"
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
    return _filled(path, source)


def _folder(path: str, place: Path, progress: bool) -> Source:
    """What a folder holds: pictures, or else tar files or a data set that was saved."""
    source = Folder(place)
    if source.names:
        return without_sheets(source)
    shards = [
        file for file in place.iterdir() if file.name.endswith(_TAR) and file.is_file() and not is_hidden(file.name)
    ]
    if shards:
        return without_sheets(Shards(shards))
    return HuggingFace(path, progress) if is_saved(place) else source


def _filled(path: str, source: Source) -> Source:
    if not source.names:
        left_out = f" ({source.left_out})" if str(source.left_out) else ""
        raise UserError(
            f"{path} holds no pictures{left_out}; give a folder, a zip or tar files with PNG, JPEG, WebP or BMP files "
            f"(named {', '.join(EXTENSIONS)}), or synthetic:shapes"
        )
    return source
