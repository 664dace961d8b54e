"""Statistics of a set of pictures in a file, so that a reference is measured once: NumPy's .npz without pickles.

about       JSON: mode of the features, name, number and size of the pictures, and how they were brought to it
mean        (d,), float64
covariance  (d, d), float64
features    (N, d), float32, if kept; distances other than Frechet's need them
"""

from __future__ import annotations

import json
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
from scalespace.metrics.features import Mode
from scalespace.metrics.frechet_distance import Moments

__all__ = ["Statistics", "check_statistics_path", "read_statistics", "write_statistics"]

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


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file.

    Raises:
        UserError: If it is missing, damaged, or of another program, whose resize and weights are not known.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "about" not in archive.files:
                raise UserError(
                    f"{path} does not say which features and which resize it was made with (it holds "
                    f"{', '.join(archive.files[:5])}); make it with scalespace evaluate --save-statistics"
                )
            about = json.loads(str(archive["about"]))
            if about["format"] != _FORMAT:
                raise UserError(f"{path} is of another version ({about['format']}); make it again")
            height, width = about["image_size"]
            mean, covariance = (torch.from_numpy(archive[name]) for name in ("mean", "covariance"))
            features = torch.from_numpy(archive["features"]) if "features" in archive.files else None
            dimensions, count = len(mean), int(about["count"])
            if covariance.shape != (dimensions, dimensions) or (
                features is not None and features.shape != (count, dimensions)
            ):
                raise ValueError("shapes do not fit each other")
            if not all(bool(array.isfinite().all()) for array in (mean, covariance)):
                raise ValueError("values are not finite")
            return Statistics(
                Mode(**about["mode"]),
                about["name"],
                (height, width),
                Moments(mean.double(), covariance.double(), count),
                features,
                # Earlier versions brought no pictures to a size.
                Preparation.from_dict(about["preparation"]) if about.get("preparation") else None,
                about.get("grey"),
            )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no whole statistics file ({cause(error)}); make it again with --save-statistics"
        ) from error
