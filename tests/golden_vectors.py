"""Numbers of the paper authors' released code, and the inputs that they were computed from.

`small32_3L` lies in `tests/golden`; the larger cases lie outside the repository, in `$SCALESPACE_SHARED/golden`
(by default `../shared/golden`, seen from the repository), and a test that asks for one is skipped where it is absent.
Times are the released indices, 0..T-1: index t here is grid point t + 1 of this package. Draws use NumPy's legacy
generator, because the recorded numbers do.
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

__all__ = ["GOLDEN_CASES", "GoldenCase", "golden_case", "golden_folder", "standard_normal"]

GOLDEN_CASES = ("small32_3L", "celeba64_2L", "celeba64_4L", "respaced50_64_4L")

_TESTS = Path(__file__).resolve().parent


def golden_folder(name: str) -> Path:
    """Folder that holds NAME.json, the repository's own first; skips the calling test where there is none."""
    shared = Path(os.environ.get("SCALESPACE_SHARED", _TESTS.parent.parent / "shared"))
    for folder in (_TESTS / "golden", shared / "golden"):
        if (folder / f"{name}.json").is_file():
            return folder
    pytest.skip(f"golden case {name} is not in {shared / 'golden'}; set SCALESPACE_SHARED to the folder of golden/")


def standard_normal(seed: int, *shape: int) -> Tensor:
    """Standard normal float32 tensor of the given shape."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@dataclass(frozen=True)
class GoldenCase:
    """One configuration of the released code: `arrays["t{t}.x_t"]` and so on, and what they were made from."""

    name: str
    image_size: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    resolutions: tuple[int, ...]  # of the levels, largest first
    timesteps: tuple[int, ...]  # released indices with arrays
    timestep_map: tuple[int, ...]  # released index -> index of the full process, which is what the network is given
    resolution_of_t: tuple[int, ...]
    parameter_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    arrays: dict[str, Tensor]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level, largest first."""
        return tuple((side, side) for side in self.resolutions)

    def array(self, t: int, key: str) -> Tensor:
        """Recorded array `t{t}.{key}`: x_rt, x_rs, x_t, net, mean, noise, weight or loss."""
        return self.arrays[f"t{t}.{key}"]

    def next_index(self, t: int) -> int:
        """Released index that a step from t goes to; 0 goes to itself."""
        return max(t - 1, 0)

    def clean(self) -> Tensor:
        """Clean batch x_0, shape (2, 3, S, S), values in (-1, 1)."""
        return torch.tanh(standard_normal(1, 2, 3, self.image_size, self.image_size))

    def noise(self, t: int) -> Tensor:
        """Noise of the state at released index t, shape (2, 3, r(t), r(t))."""
        side = self.resolution_of_t[t]
        return standard_normal(100 + t, 2, 3, side, side)

    def posterior_noise(self, t: int) -> Tensor:
        """Noise of the posterior draw from t, shape (2, 3, r(s), r(s))."""
        side = self.resolution_of_t[self.next_index(t)]
        return standard_normal(900 + t, 2, 3, side, side)

    def parameters(self) -> dict[str, Tensor]:
        """State dictionary of the released layout, float32, in its order."""
        return {name: _parameter(name, shape) for name, shape in self.parameter_shapes}


def golden_case(name: str) -> GoldenCase:
    """Read one of `GOLDEN_CASES`; skips the calling test where it is absent."""
    folder = golden_folder(name)
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as archive:
        arrays = {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}
    config = record["config"]
    return GoldenCase(
        name=name,
        image_size=config["image_size"],
        base_channels=config["ch"],
        channel_multipliers=tuple(int(multiplier) for multiplier in config["mult"].split(",")),
        resolutions=tuple(sorted(record["resolutions"], reverse=True)),
        timesteps=tuple(record["timesteps"]),
        timestep_map=tuple(record["timestep_map"]),
        resolution_of_t=tuple(record["resolution_of_t"]),
        parameter_shapes=tuple((name, tuple(shape)) for name, shape in record["params"]),
        arrays=arrays,
    )


def _parameter(name: str, shape: tuple[int, ...]) -> Tensor:
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(shape)
    if len(shape) > 1:
        z = z / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.from_numpy(z.astype(np.float32))
