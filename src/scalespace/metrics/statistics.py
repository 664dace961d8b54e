"""Statistics of a set of pictures in a file, so that a reference is measured once: NumPy's .npz without pickles.

about       JSON: mode of the features, name, number and size of the pictures, and how they were brought to it
mean        (d,), float64
covariance  (d, d), float64
features    (N, d), float32, if kept; distances other than Frechet's need them
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalespace.data.preparation import Preparation
from scalespace.errors import UserError, cause
from scalespace.files import check_writable, write_file
from scalespace.memory import check_memory, memory_ran_out
from scalespace.metrics.features import Mode
from scalespace.metrics.frechet_distance import Moments
from scalespace.reading import check_readable, parse_json, unreadable
from scalespace.values import misfit

__all__ = ["Statistics", "check_statistics_path", "holds_features", "read_statistics", "write_statistics"]

_FORMAT = "scalespace statistics 1"


@dataclass(frozen=True)
class Statistics:
    """Moments of features, perhaps with the features themselves.

    Args:
        mode: Extractor and resizing that the features were computed with.
        name: Name of the pictures, for people.
        image_size: (height, width) of the pictures.
        moments: Mean and covariance of the features.
        features: The features, shape (N, d), float32; None if they are not kept.
        preparation: What happened to files that were brought to that size.
        grey: Whether all pictures are grey; None where that is not known.
    """

    mode: Mode
    name: str
    image_size: tuple[int, int]
    moments: Moments
    features: Tensor | None = None
    preparation: Preparation | None = None
    grey: bool | None = None


def check_statistics_path(path: Path) -> None:
    """Refuse a path that no statistics can be written to, as far as that is known before they are.

    Raises:
        UserError: If the name does not end in .npz, is a folder's, or its folder cannot be written to or made.
    """
    if path.suffix != ".npz":
        raise UserError(f"statistics are written as .npz, and {path} ends otherwise; name it {path.stem}.npz")
    check_writable(path)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a statistics file whole or not at all.

    Raises:
        UserError: If the name does not end in .npz, or writing fails.
    """
    check_statistics_path(path)
    about = {
        "format": _FORMAT,
        "mode": statistics.mode.as_dict(),
        "name": statistics.name,
        "count": statistics.moments.count,
        "image_size": statistics.image_size,
        "preparation": statistics.preparation and statistics.preparation.as_dict(),
        "grey": statistics.grey,
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    arrays |= {"mean": statistics.moments.mean.numpy(), "covariance": statistics.moments.covariance.numpy()}
    if statistics.features is not None:
        arrays["features"] = statistics.features.numpy()

    write_file(path, lambda file: np.savez(file, **arrays))


def holds_features(path: Path) -> bool:
    """Whether a statistics file holds the features of all pictures, as far as its table of contents can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "features.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        # What is wrong with the file is said where it is read.
        return True


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file.

    Raises:
        UserError: If it is missing, damaged, or of another program, whose resize and weights are not known.
    """
    check_readable(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_size(path, archive)
            if "about" not in archive.files:
                raise UserError(
                    f"{path} does not say which features and which resize it was made with (it holds "
                    f"{', '.join(archive.files[:5])}); make it with scalespace evaluate --save-statistics"
                )
            about = parse_json(str(archive["about"]))
            if about["format"] != _FORMAT:
                raise UserError(f"{path} is of another version ({about['format']}); make it again")
            if (fault := misfit(about, _about, ("name", "count", "image_size"))) is not None:
                raise ValueError(fault)
            if (fault := misfit(about["mode"], Mode, ("extractor", "resize", "fingerprint"))) is not None:
                raise ValueError(fault)
            height, width = about["image_size"]
            mean, covariance = (torch.from_numpy(archive[name]) for name in ("mean", "covariance"))
            features = torch.from_numpy(archive["features"]) if "features" in archive.files else None
            dimensions, count = mean.numel(), about["count"]
            if (mean.shape, covariance.shape) != ((dimensions,), (dimensions, dimensions)) or (
                features is not None and features.shape != (count, dimensions)
            ):
                raise ValueError("shapes do not fit each other")
            if min(count, height, width, dimensions) < 1:
                raise ValueError("there are no pictures")
            for array in (mean, covariance, *([] if features is None else [features])):
                if not array.is_floating_point() or not bool(array.isfinite().all()):
                    raise ValueError("values are not finite")
            # Earlier versions brought no pictures to a size.
            preparation = Preparation.from_dict(about["preparation"]) if about.get("preparation") else None
            # What is told of it can be told.
            str(preparation)
            moments = Moments(mean.double(), covariance.double(), count)
            mode = Mode(**about["mode"])
            return Statistics(mode, about["name"], (height, width), moments, features, preparation, about.get("grey"))
    except UserError:
        raise
    except Exception as error:  # A damaged file can raise nearly anything.
        if memory_ran_out(error) or unreadable(error):
            raise
        raise UserError(
            f"{path} is no whole statistics file ({cause(error)}); make it again with --save-statistics"
        ) from error


def _about(name: str, count: int, image_size: tuple[int, int], mode: dict, grey: bool | None = None) -> None:
    """The types of what a file says of itself."""


def _check_size(path: Path, archive: Any) -> None:
    """Refuse arrays that are larger than the memory, or than what there is of them."""
    sizes = 0
    for name in archive.files:
        with archive.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(member)
        size = math.prod(shape) * kind.itemsize
        if size > archive.zip.getinfo(f"{name}.npy").file_size:
            raise ValueError(f"{name} is cut short")
        sizes += size
    check_memory(f"reading {path}", {"its arrays": sizes}, "use a machine with more memory")
