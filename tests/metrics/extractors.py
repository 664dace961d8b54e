"""Small networks in TorchScript files, in the place of those that people download."""

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Canary", "Inception", "Means", "saved"]


class Means(torch.nn.Module):
    """Mean and deviation of each channel: 6 features."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.flatten(2).std(2)], 1) / 255


class Maps(torch.nn.Module):
    """Not one row a picture."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Blind(torch.nn.Module):
    """Features that are no numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) / 0 * 0


class Needs32(torch.nn.Module):
    """Takes 32 pixels and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3, 32, 32).mean((2, 3))


class Layers(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)
        return pooled.repeat(1, 11)[:, :2048]


class Inception(torch.nn.Module):
    """The interface of inception-2015-12-05.pt, with pooling in the place of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        x = torch.nn.functional.interpolate(x, [299, 299], mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        return features if return_features else features.mean(1)


class Canary(torch.nn.Module):
    """Writes a file when it is opened: what TorchScript can do, and no more harm than that."""

    def __init__(self, marker: Path):
        super().__init__()
        self.marker = str(marker)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.marker = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def saved(module: torch.nn.Module, path: Path) -> tuple[str, str]:
    """Write a module as TorchScript; its path and SHA-256."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()
