"""Pictures of data sets in the format of Hugging Face's library ``datasets``: by name, saved to disk, or Parquet files.

Their rows have a number and are read in any order, so order, epochs and resuming are those of files. A stream has neither a
number of rows nor a place for each, which is why ``hf-stream:`` is refused.

No code of a data set is run and nothing is unpickled: only Parquet and Arrow are read, with the pictures inside of them, as
the bytes of files that are decoded as any others.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from scalespace.data.left_out import LeftOut
from scalespace.data.sources.checksums import file_states, packed_checksums
from scalespace.data.sources.files import LARGEST_FILE, Files
from scalespace.data.sources.labelled import class_folders
from scalespace.errors import UserError, cause
from scalespace.reading import path_of

__all__ = ["PREFIX", "STREAM", "HuggingFace", "is_saved"]

PREFIX, STREAM = "hf:", "hf-stream:"
"""How the names of such data sets begin, and of streams of them."""

_FORMATS = ("parquet", "arrow")
_SAVED = ("dataset_dict.json", "state.json")
_PICTURES, _LABEL = ("image", "img", "jpg", "png"), "label"
_PARQUET = "*.parquet"


def is_saved(place: Path) -> bool:
    """Whether a path is a folder that ``save_to_disk`` wrote, or holds Parquet files, or is one."""
    if not place.is_dir():
        return place.suffix == ".parquet"
    return any((place / name).is_file() for name in _SAVED) or any(place.rglob(_PARQUET))


class HuggingFace(Files):
    """Pictures in the rows of a data set, with their class if it has a column of them.

    Args:
        path: The path as the user gave it: ``hf:NAME``, ``hf:NAME:SPLIT``, or with a folder or a file in the place of the name.
        progress: Whether the library may show its bars on stderr.

    Raises:
        UserError: If the library is absent, or there is no such data set, split or column of pictures.
    """

    def __init__(self, path: str, progress: bool = True):
        found = find_spec("datasets")
        # A folder of that name beside the user is a package too, of which there is no file.
        if found is None or found.origin is None:
            raise UserError(f"{path} needs the library datasets; run pip install 'scale-space-diffusion[datasets]'")
        name, split = _name_and_split(path.removeprefix(PREFIX))
        with _quiet(progress):
            rows = _one_split(path, name, split, _opened(path, name))
            column = _column_of_pictures(path, rows.features)
            self._rows = _bytes_alone(path, rows, column)
        self._column = column
        self._paths = tuple(Path(entry["filename"]) for entry in rows.cache_files)
        self._what = f"{column} {rows.num_rows} {rows._fingerprint}"
        self.left_out = LeftOut()
        width = len(str(max(0, rows.num_rows - 1)))
        names = [f"{number:0{width}}" for number in range(rows.num_rows)]
        self.folders: tuple[str, ...] = ()
        labels = _column_of_labels(rows.features)
        if labels is not None:
            words: list[str] = rows.features[labels].names
            folders = [class_folders(words)[word] for word in words]
            self.folders = tuple(sorted(folders))
            given: list[int | None] = rows.with_format(None).select_columns([labels])[:][labels]
            names = [
                name if label is None or label < 0 else f"{folders[label]}/{name}"
                for name, label in zip(names, given, strict=True)
            ]
        self._numbers = tuple(sorted(range(len(names)), key=names.__getitem__))
        self.names = tuple(names[number] for number in self._numbers)

    def open(self, index: int) -> IO[bytes]:
        return io.BytesIO(self._read(index)[: LARGEST_FILE + 1])

    def checksums(self, indices: Sequence[int], progress: bool) -> list[str]:
        return packed_checksums(self._paths, self._what, indices, self._read, progress)

    def former_signature(self) -> Iterator[str]:
        # Earlier versions did not read such data.
        return iter(self.names)

    def _read(self, index: int) -> bytes:
        content = self._rows[self._numbers[index]][self._column]
        content = content["bytes"] if isinstance(content, dict) else content
        if content is None:
            raise OSError("the row holds no picture")
        return content


def _library() -> Any:
    # By its name, since it may be absent.
    return import_module("datasets")


def _name_and_split(name: str) -> tuple[str, str | None]:
    if ":" not in name or path_of(name).exists():
        return name, None
    name, _, split = name.rpartition(":")
    return name, split


def _opened(path: str, name: str) -> Any:
    """All splits of a data set, by their names."""
    datasets = _library()
    place = path_of(name)
    if not name or ((place.is_absolute() or name.startswith((".", "~"))) and not place.exists()):
        raise UserError(f"there is no data at {name!r}; give hf:NAME of a data set, or hf:FOLDER of one that was saved")
    saved = place.exists()
    try:
        if any((place / file).is_file() for file in _SAVED):
            return datasets.load_from_disk(str(place))
        if saved:
            files = [place] if place.is_file() else sorted(place.rglob(_PARQUET))
            if not files:
                raise UserError(
                    f"{path} is neither a folder that datasets.save_to_disk wrote nor holds Parquet files; give one of these"
                )
            # The library takes files of one time for the same, so what it keeps of them is told apart by their state.
            state = hashlib.sha256("\n".join(file_states(files)).encode()).hexdigest()[:16]
            where = {"data_files": [str(place)]} if place.is_file() else {"data_dir": str(place)}
            return datasets.load_dataset("parquet", state, **where)
        builder = datasets.load_dataset_builder(name)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind not in _FORMATS:
            raise UserError(
                f"{path} is stored as {kind}, and only data sets that are stored as {' or '.join(_FORMATS)} are read; "
                "download it, and give its folder or its tar files"
            )
        builder.download_and_prepare()
        return builder.as_dataset()
    except UserError:
        raise
    except Exception as error:  # The library and those below it raise nearly any type.
        if saved:
            raise UserError(
                f"{path} cannot be read as a data set ({cause(error)}); save or download it again"
            ) from error
        raise UserError(
            f"the data set {name} was not found or cannot be reached ({cause(error)}); check its name and the connection, "
            "or give hf:FOLDER of one that was saved"
        ) from error


def _one_split(path: str, name: str, split: str | None, found: Any) -> Any:
    datasets = _library()
    if isinstance(found, datasets.Dataset):
        if split is None or split == str(found.split):
            return found
        there = [str(found.split)] if found.split is not None else []
        has = f"only the split {there[0]}" if there else "no splits"
        raise UserError(f"{path} names the split {split}, and {name} has {has}; give hf:{name}")
    splits = list(found)
    if split is None and len(splits) == 1:
        return found[splits[0]]
    if split in found:
        return found[split]
    named = "names none of its splits" if split is None else f"names the split {split}, which it does not have"
    raise UserError(f"{path} {named}: {', '.join(splits)}; give one of them, such as hf:{name}:{splits[0]}")


def _column_of_pictures(path: str, features: Any) -> str:
    datasets = _library()
    of_pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    # Other programs write the bytes as they are.
    raw = [name for name in _PICTURES if name in features and _is_bytes(features[name])]
    chosen = [name for name in _PICTURES if name in of_pictures] or of_pictures[:2] or raw[:1]
    if not chosen:
        raise UserError(
            f"{path} has no column of pictures, only {', '.join(features)}; give a data set with a column of the type Image"
        )
    if len(of_pictures) > 1 and chosen[0] not in _PICTURES:
        raise UserError(
            f"{path} has several columns of pictures ({', '.join(of_pictures)}); rename the one to be read to image"
        )
    return chosen[0]


def _is_bytes(feature: Any) -> bool:
    datasets = _library()
    if isinstance(feature, dict):
        return isinstance(feature.get("bytes"), datasets.Value) and "binary" in feature["bytes"].dtype
    return isinstance(feature, datasets.Value) and "binary" in feature.dtype


def _column_of_labels(features: Any) -> str | None:
    datasets = _library()
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return _LABEL if _LABEL in found else found[0] if len(found) == 1 else None


def _bytes_alone(path: str, rows: Any, column: str) -> Any:
    """The column of pictures, as the bytes that are stored."""
    datasets = _library()
    rows = rows.with_format(None).select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
        if rows.num_rows and rows[0][column] is not None and rows[0][column]["bytes"] is None:
            raise UserError(f"{path} holds paths and no pictures; give the folder of the pictures itself")
    return rows


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Inside the block these libraries print nothing but, if they may, their bars."""
    datasets = _library()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec")]
    before, bars = [logger.level for logger in loggers], datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        (datasets.enable_progress_bars if progress else datasets.disable_progress_bars)()
        try:
            yield
        finally:
            (datasets.disable_progress_bars if bars else datasets.enable_progress_bars)()
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
