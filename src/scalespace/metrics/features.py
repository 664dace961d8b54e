"""Feature extractors: what turns a picture into the numbers that distances of sets compare.

Three kinds, all of which take uint8 pictures and say exactly what they are:

    built-in     the random network of ``builtin_features``; needs no file, and its distances are no FID,
    inception    Inception-v3 as TorchScript, the file that StyleGAN2-ADA, StyleGAN3, EDM and clean-fid use; FID and KID,
    torchscript  any TorchScript module that takes float pictures in 0..255, (B, 3, H, W), and gives (B, d).

Files are never fetched. A TorchScript file is a program: opening it runs what its author wrote (``__setstate__``), and that can
write files. So it is opened only if it is Inception's, known by its SHA-256, or if the user trusts it. An archive of
``torch.export`` (.pt2) is no way out: torch 2.13 unpickles parts of it with weights_only=False.

Pictures are resized before a network in one of two ways, which give distances that may not be compared:

    legacy  bilinear and without antialiasing, as the first FID did; for Inception by the layer inside the file,
    clean   bicubic with Pillow's antialiasing, in floating point, cut to 0..255 as clean-fid does.

Sources: Heusel et al. 2017, GANs trained by a two time-scale update rule; Karras et al. 2020, Training generative adversarial
networks with limited data (the file); Parmar et al. 2022, On aliased resizing and surprising subtleties in GAN evaluation.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.metrics.builtin_features import builtin_features, builtin_fingerprint
from scalespace.reports.progress import progress_bar

__all__ = [
    "INCEPTION_SHA256",
    "INCEPTION_URL",
    "BuiltInFeatures",
    "FeatureExtractor",
    "InceptionFeatures",
    "Mode",
    "ResizeRule",
    "TorchScriptFeatures",
    "extract",
    "resized",
]

ResizeRule = Literal["legacy", "clean"]

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"

_INCEPTION_SIDE, _INCEPTION_DIMENSIONS = 299, 2048
_LARGEST_SIDE = 4096  # pixels
_BATCH = 64


@dataclass(frozen=True)
class Mode:
    """What features were made with; only features of one mode may be compared.

    Args:
        extractor: built-in, inception or torchscript.
        resize: legacy or clean with the side in pixels, or none.
        fingerprint: SHA-256 of the weights.
    """

    extractor: str
    resize: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.extractor} features, resize {self.resize}, weights sha256 {self.fingerprint}"

    def as_dict(self) -> dict[str, str]:
        """The mode as a dictionary that can be written as JSON."""
        return asdict(self)


class FeatureExtractor(Protocol):
    """Features of pictures, each by itself."""

    @property
    def mode(self) -> Mode:
        """The mode that the features are computed in, which statistics files are checked against."""
        ...

    def __call__(self, pictures: Tensor) -> Tensor:
        """Compute the features of pictures: uint8 of shape (B, 3, H, W) to float of shape (B, d)."""
        ...


class BuiltInFeatures:
    """The network that needs no file, on the pictures as they are."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.mode = Mode("built-in", "none", builtin_fingerprint())
        self._device = device

    def __call__(self, pictures: Tensor) -> Tensor:
        try:
            return builtin_features(pictures.to(self._device))
        except ValueError as error:
            raise UserError(cause(error)) from error


class TorchScriptFeatures:
    """A TorchScript module of the user's. It is a program, and opening the file runs it.

    Args:
        path: Path of the file.
        side: Side in pixels that the pictures are resized to. None leaves them as they are.
        resize: The rule by which they are resized.
        device: Device that the module runs on.
        trust: Whether the user knows what is in the file.

    Raises:
        UserError: If the file is missing, is no TorchScript, or is not trusted.
    """

    def __init__(
        self,
        path: str,
        side: int | None = None,
        resize: ResizeRule = "clean",
        device: torch.device | str = "cpu",
        trust: bool = False,
    ):
        if side is not None and not 1 <= side <= _LARGEST_SIDE:
            raise UserError(f"--features-size is {side}; give 1 to {_LARGEST_SIDE} pixels")
        if not Path(path).is_file():
            raise UserError(f"there is no feature extractor at {path}; give a TorchScript file with --features")
        file = _File.read(path)
        if not file.is_torchscript:
            raise UserError(f"{path} is no TorchScript file; give one that torch.jit.save wrote")
        if not trust:
            raise UserError(
                f"{path} (sha256 {file.sha256}) is TorchScript, a program that can do here whatever you can as soon as it is "
                "opened; add --trust if you know where it is from and that hash is the one its author gives"
            )
        self.mode = Mode("torchscript", "none" if side is None else f"{resize} {side}", file.sha256)
        self._module = file.run(device)
        self._resize: ResizeRule = resize
        self._path, self._side, self._device = path, side, device

    def __call__(self, pictures: Tensor) -> Tensor:
        x = pictures.float() if self._side is None else resized(pictures, self._side, self._resize)
        try:
            features = self._module(x.to(self._device))
        except Exception as error:  # A module can raise anything, and what it says is its author's.
            raise UserError(
                f"the feature extractor {self._path} fails on float pictures of shape {tuple(x.shape)}; "
                "give one that takes (B, 3, H, W) in 0..255, or another --features-size"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
            found = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"the feature extractor {self._path} gave {found} for {len(x)} pictures; "
                "give one whose output is one row of features a picture, (B, d)"
            )
        return features


class InceptionFeatures:
    """Inception-v3 up to its pooled features of 2048 dimensions, as FID and KID are defined with.

    Args:
        path: Path of the file inception-2015-12-05.pt.
        resize: The rule by which pictures become 299 pixels wide.
        device: Device that the network runs on.
        sha256: Hash that the file must have; None takes INCEPTION_SHA256.

    Raises:
        UserError: If the file is missing or another one.
    """

    def __init__(
        self,
        path: str,
        resize: ResizeRule = "clean",
        device: torch.device | str = "cpu",
        sha256: str | None = None,
    ):
        sha256 = sha256 or INCEPTION_SHA256
        source = f"inception-2015-12-05.pt (sha256 {sha256}) from {INCEPTION_URL}"
        if not Path(path).is_file():
            raise UserError(f"there are no Inception weights at {path}; download {source}, and give its path")
        file = _File.read(path)
        if file.sha256 != sha256:
            raise UserError(f"{path} has sha256 {file.sha256} and is not the Inception of FID; download {source}")
        self.mode = Mode("inception", f"{resize} {_INCEPTION_SIDE}", sha256)
        self._network = file.run(device)
        self._resize: ResizeRule = resize
        self._device = device

    def __call__(self, pictures: Tensor) -> Tensor:
        if self._resize == "legacy":
            features = self._network(pictures.float().to(self._device), return_features=True)
        else:
            x = resized(pictures, _INCEPTION_SIDE, self._resize).to(self._device)
            # The file's own normalisation, which comes after its resize.
            features = self._network.layers((x - 128) / 128)
        return features.reshape(len(pictures), _INCEPTION_DIMENSIONS)


def extract(extractor: FeatureExtractor, pictures: Tensor, name: str = "pictures", progress: bool = False) -> Tensor:
    """Features of many pictures.

    Args:
        extractor: Function that computes the features.
        pictures: uint8, shape (N, 3, H, W).
        name: Name of the pictures in the progress bar.
        progress: Whether to show a bar on stderr.

    Returns:
        Shape (N, d), float32, on the CPU.

    Raises:
        UserError: If the extractor fails, or a feature is not finite.
    """
    bar = progress_bar(len(pictures), f"features of {name}", "pictures", progress)
    parts: list[Tensor] = []
    with bar, torch.no_grad():
        for part in pictures.split(_BATCH):
            features = extractor(part).float().cpu()
            if parts and features.shape[1] != parts[0].shape[1]:
                raise UserError(
                    f"the feature extractor gave {parts[0].shape[1]} features a picture and then {features.shape[1]}; "
                    "give one whose output has always the same width"
                )
            if not bool(features.isfinite().all()):
                raise UserError(
                    f"the {extractor.mode.extractor} features of {name} are not all finite; "
                    "the extractor's weights are damaged or it expects other values than 0..255"
                )
            parts.append(features)
            bar.update(len(part))
    return torch.cat(parts)


def resized(pictures: Tensor, side: int, rule: ResizeRule) -> Tensor:
    """Pictures resized to a square by one of the two rules.

    Args:
        pictures: uint8, shape (B, C, H, W).
        side: Side of the square in pixels.
        rule: Name of the rule, "legacy" or "clean".

    Returns:
        float32, shape (B, C, side, side), in 0..255.
    """
    if rule == "legacy":
        return torch.nn.functional.interpolate(pictures.float(), (side, side), mode="bilinear", align_corners=False)
    rows = [
        # Of floats, so that nothing is rounded to whole levels.
        np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC))
        for channel in pictures.flatten(0, 1).float().cpu().numpy()
    ]
    # Bicubic interpolation overshoots at edges by up to 25 levels.
    return torch.from_numpy(np.stack(rows)).clamp_(0, 255).reshape(*pictures.shape[:2], side, side)


@dataclass(frozen=True)
class _File:
    """A file that is read once, so that what is run is what was hashed."""

    path: str
    content: bytes
    sha256: str

    @classmethod
    def read(cls, path: str) -> _File:
        content = Path(path).read_bytes()
        return cls(path, content, hashlib.sha256(content).hexdigest())

    @property
    def is_torchscript(self) -> bool:
        """Whether it is an archive with code in it, which is found out without running any."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                return any("/code/" in name for name in archive.namelist())
        except zipfile.BadZipFile:
            return False

    def run(self, device: torch.device | str) -> Any:
        try:
            with warnings.catch_warnings():
                # torch calls TorchScript outdated, but it is what these networks are published as.
                warnings.simplefilter("ignore", DeprecationWarning)
                return torch.jit.load(io.BytesIO(self.content), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.path} is damaged or of another torch; get it again") from error
