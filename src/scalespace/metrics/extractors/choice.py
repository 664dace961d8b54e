"""Which features a comparison takes, by what the user named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import torch

from scalespace.errors import UserError
from scalespace.metrics.extractors.efficientnet import EFFICIENTNET, EfficientNetFeatures
from scalespace.metrics.features import (
    BuiltInFeatures,
    FeatureExtractor,
    InceptionFeatures,
    ResizeRule,
    TorchScriptFeatures,
)
from scalespace.metrics.statistics import holds_no_mode, read_statistics
from scalespace.reading import path_of

__all__ = ["INCEPTION_VARIABLE", "Learned", "check_named", "chosen_extractor"]

Learned = Literal["efficientnet-lite0"]
"""Networks that come with the extra "features"."""

INCEPTION_VARIABLE = "SCALESPACE_INCEPTION_WEIGHTS"

_TRIED = (64, 64)  # height and width of a picture that an extractor is tried with


def chosen_extractor(
    features: str | None,
    inception_weights: str | None,
    *,
    size: int | None,
    resize: ResizeRule,
    trust: bool,
    device: torch.device | str,
) -> FeatureExtractor:
    """The extractor that was named, or the built-in one.

    Args:
        features: efficientnet-lite0, or the TorchScript file of another extractor.
        inception_weights: File of Inception. None takes the environment's SCALESPACE_INCEPTION_WEIGHTS, if it is set.
        size: Pixels that pictures are resized to for a TorchScript file. None leaves them as they are.
        resize: How pictures are resized for a network.
        trust: Whether to run the program that a TorchScript file is.
        device: Device that the network runs on.

    Raises:
        UserError: If a file or a package is missing, damaged or not trusted.
    """
    if features == EFFICIENTNET:
        return EfficientNetFeatures(resize, device)
    if features is not None:
        return TorchScriptFeatures(features, size, resize, device, trust)
    weights = inception_weights or os.environ.get(INCEPTION_VARIABLE)
    return InceptionFeatures(weights, resize, device) if weights else BuiltInFeatures(device)


def check_named(paths: Sequence[str], extractor: FeatureExtractor, saves: bool) -> None:
    """Refuse statistics of another program that cannot be compared, before anything is drawn.

    They do not say what their features are, so that the user has to; that these are as many as the extractor's is all that
    can be checked.

    Args:
        paths: The generated and the reference side.
        extractor: The extractor of this comparison.
        saves: Whether the statistics of the reference are to be saved.

    Raises:
        UserError: If both sides are such files, no extractor was named, it has other dimensions, or the file would be saved.
    """
    unnamed = [path for path in paths if holds_no_mode(path_of(path))]
    if not unnamed:
        return
    path = unnamed[0]
    if len(unnamed) > 1:
        raise UserError(
            f"neither {path} nor {unnamed[1]} says which features it is of, so that they may be of different ones; give the "
            "pictures of one side"
        )
    if isinstance(extractor, BuiltInFeatures):
        raise UserError(
            f"{path} does not say which features it is of; name their extractor by --inception-weights or --features"
        )
    if saves and path == paths[1]:
        raise UserError(
            f"{path} does not say which features it is of, nor of how many pictures, and cannot be saved as statistics that "
            "do; leave --save-statistics out, or give the pictures"
        )
    theirs = len(read_statistics(path_of(path)).moments.mean)
    own = theirs
    # An extractor that takes no such picture is met with those of the other side.
    with suppress(UserError), torch.no_grad():
        own = extractor(torch.zeros(1, 3, *_TRIED, dtype=torch.uint8)).shape[1]
    if own != theirs:
        raise UserError(
            f"{path} is of {theirs} features a picture, and the {extractor.mode.extractor} extractor gives {own}; name the "
            "extractor that it was made with by --inception-weights or --features"
        )
