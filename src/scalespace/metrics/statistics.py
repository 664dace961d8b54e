"""Statistics of a set of pictures in a file, so that a reference is measured once: NumPy's .npz without pickles.

about       JSON: mode of the features, name, number and size of the pictures, and how they were brought to it
mu          mean, (d,), float64
sigma       covariance, (d, d), float64
features    (N, d), float32, if kept; distances other than Frechet's need them

pytorch-fid and guided-diffusion's evaluator name mean and covariance so too, and pytorch-fid reads such a file. Theirs have no
"about": nobody but the user knows what the features are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalespace.data.preparation import Preparation
from scalespace.data.sources.arrays import PICTURES
from scalespace.data.sources.headers import Header, arrays_of
from scalespace.errors import UserError
from scalespace.files import check_writable, write_file
from scalespace.memory import check_memory
from scalespace.metrics.features import Mode
from scalespace.metrics.frechet_distance import Moments
from scalespace.reading import parse_json, reading
from scalespace.values import misfit

__all__ = [
    "Statistics",
    "check_statistics_path",
    "holds_features",
    "holds_no_mode",
    "read_statistics",
    "write_statistics",
]

_FORMAT = "scalespace statistics 2"
_MEAN, _COVARIANCE = "mu", "sigma"
_FORMER = {"scalespace statistics 1": ("mean", "covariance")}
"""What mean and covariance were called in files of earlier versions."""
_ASYMMETRY = 1e-3  # of a covariance's largest entry, for programs that compute in float32


@dataclass(frozen=True)
class Statistics:
    """Moments of features, perhaps with the features themselves.

    Args:
        mode: Extractor and resizing that the features were computed with; None where the file is another program's.
        name: Name of the pictures, for people.
        image_size: (height, width) of the pictures; None where the file is another program's.
        moments: Mean and covariance of the features, of 0 pictures where their number is not told.
        features: The features, shape (N, d), float32; None if they are not kept.
        preparation: What happened to files that were brought to that size.
        grey: Whether all pictures are grey; None where that is not known.
    """

    mode: Mode | None
    name: str
    image_size: tuple[int, int] | None
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
    if statistics.mode is None:
        raise UserError(f"the statistics {statistics.name} do not say what they are of; give the pictures themselves")
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
    arrays |= {_MEAN: statistics.moments.mean.numpy(), _COVARIANCE: statistics.moments.covariance.numpy()}
    if statistics.features is not None:
        arrays["features"] = statistics.features.numpy()

    write_file(path, lambda file: np.savez(file, **arrays))


def holds_features(path: Path) -> bool:
    """Whether a statistics file holds the features of all pictures, as far as its table of contents can be read."""
    names = arrays_of(path)
    # What is wrong with a file that has none is said where it is read.
    return not names or "features" in names


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file, of this package or with ``mu`` and ``sigma`` alone as other programs write them.

    Raises:
        UserError: If it is missing or damaged, or neither of these.
    """
    remedy = "make it again with --save-statistics"
    with (
        reading(path, remedy, Exception, fault="is no whole statistics file"),
        np.load(path, allow_pickle=False) as archive,
    ):
        _check_size(path, archive)
        if "about" not in archive.files:
            if not {_MEAN, _COVARIANCE} <= {*archive.files}:
                raise UserError(
                    f"{path} holds no statistics, which are {_MEAN} and {_COVARIANCE} (it holds "
                    f"{', '.join(archive.files[:5])}); make it with scalespace evaluate --save-statistics"
                )
            return Statistics(None, path.name, None, _moments(archive, _MEAN, _COVARIANCE, 0))
        about = parse_json(str(archive["about"]))
        names = (_MEAN, _COVARIANCE) if about["format"] == _FORMAT else _FORMER.get(about["format"])
        if names is None:
            raise UserError(f"{path} is of another version ({about['format']}); make it again")
        if (fault := misfit(about, _about, ("name", "count", "image_size"))) is not None:
            raise ValueError(fault)
        if (fault := misfit(about["mode"], Mode, ("extractor", "resize", "fingerprint"))) is not None:
            raise ValueError(fault)
        height, width = about["image_size"]
        moments = _moments(archive, *names, about["count"])
        features = torch.from_numpy(archive["features"]) if "features" in archive.files else None
        if features is not None:
            if features.shape != (moments.count, len(moments.mean)):
                raise ValueError("shapes do not fit each other")
            _check_numbers(features)
        if min(moments.count, height, width) < 1:
            raise ValueError("there are no pictures")
        # Earlier versions brought no pictures to a size.
        preparation = Preparation.from_dict(about["preparation"]) if about.get("preparation") else None
        # What is told of it can be told.
        str(preparation)
        mode = Mode(**about["mode"])
        return Statistics(mode, about["name"], (height, width), moments, features, preparation, about.get("grey"))


def holds_no_mode(path: Path) -> bool:
    """Whether a file holds the statistics of another program, which do not say what they are of, and no pictures."""
    names = {*arrays_of(path)}
    return path.suffix == ".npz" and {_MEAN, _COVARIANCE} <= names and names.isdisjoint({"about", PICTURES})


def _moments(archive: Any, mean_name: str, covariance_name: str, count: int) -> Moments:
    mean, covariance = (torch.from_numpy(archive[name]) for name in (mean_name, covariance_name))
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError("shapes do not fit each other")
    if not len(mean):
        raise ValueError("there are no pictures")
    for array in (mean, covariance):
        _check_numbers(array)
    covariance = covariance.double()
    if float((covariance - covariance.mT).abs().max()) > _ASYMMETRY * float(covariance.abs().max()):
        raise ValueError(f"{covariance_name} is not symmetric")
    return Moments(mean.double(), covariance, count)


def _check_numbers(array: Tensor) -> None:
    if not array.is_floating_point() or not bool(array.isfinite().all()):
        raise ValueError("values are not finite")


def _about(name: str, count: int, image_size: tuple[int, int], mode: dict, grey: bool | None = None) -> None:
    """The types of what a file says of itself."""


def _check_size(path: Path, archive: Any) -> None:
    """Refuse arrays that are larger than the memory, or than what there is of them."""
    sizes = sum(Header.of(archive.zip, name).size for name in archive.files)
    check_memory(f"reading {path}", {"its arrays": sizes}, "use a machine with more memory")
