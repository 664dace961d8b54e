"""Which source a path names."""

import stat
import struct
import zipfile

from scalespace.data.left_out import EXTENSIONS
from scalespace.data.sources.archive import Zip
from scalespace.data.sources.decoding import reason
from scalespace.data.sources.folder import Folder
from scalespace.data.sources.source import Source
from scalespace.data.sources.synthetic import open_synthetic
from scalespace.errors import UserError
from scalespace.reading import check_readable, path_of

__all__ = ["open_source"]


def open_source(path: str) -> Source:
    """The pictures at a path, sorted by name.

    Args:
        path: A folder, a zip file, or `synthetic:NAME` with an optional `:LENGTH`.

    Raises:
        UserError: If nothing is there, it cannot be read, or it holds no pictures.
    """
    if path.startswith("synthetic:"):
        return open_synthetic(path)
    place = path_of(path)
    try:
        if not path:
            raise FileNotFoundError
        if not stat.S_ISDIR(place.stat().st_mode):
            check_readable(place)
        source = Folder(place) if place.is_dir() else Zip(place)
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
