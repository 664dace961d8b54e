"""Which features a comparison takes, by what the user named."""

from __future__ import annotations

import os
from typing import Literal

import torch

from scalespace.metrics.extractors.efficientnet import EFFICIENTNET, EfficientNetFeatures
from scalespace.metrics.features import (
    BuiltInFeatures,
    FeatureExtractor,
    InceptionFeatures,
    ResizeRule,
    TorchScriptFeatures,
)

__all__ = ["INCEPTION_VARIABLE", "Learned", "chosen_extractor"]

Learned = Literal["efficientnet-lite0"]
"""Networks that come with the extra "features"."""

INCEPTION_VARIABLE = "SCALESPACE_INCEPTION_WEIGHTS"


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
