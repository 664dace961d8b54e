"""The order of the data, and pictures as the model sees them.

The stream of training pictures is a function of the seed alone. Position p of the stream belongs to epoch e = p // N
and holds picture permutation_e[p mod N], where permutation_e is drawn from (seed, e). Whether the picture at p is mirrored is
a function of (seed, p). A step takes the positions that follow those of the step before, however many it needs, and the
processes of a run share them out. So

- every picture comes once an epoch, and epochs run on into each other without a ragged batch;
- nothing has to be stored but the position: a resumed run sees exactly what the uninterrupted one would have seen;
- the same global batch holds the same pictures, however many processes share it.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchOrder", "to_model"]

# Words of the random keys that keep permutations and flips of one seed apart.
_ORDER, _FLIPS = 0, 1
_BLOCK = 4096  # positions whose flips are drawn together


class BatchOrder:
    """Which picture, flipped or not, stands at a position of the stream; stateless.

    Args:
        num_images: N, pictures in the data set.
        seed: Any non-negative integer; one seed is one stream.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, num_images: int, seed: int):
        if num_images < 1:
            raise ValueError(f"{num_images} pictures make no stream; give at least 1")
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        self.num_images = num_images
        self.seed = seed

    def indices(self, positions: range) -> Tensor:
        """Indices into the data set, integers 0..num_images - 1, shape (len(positions),), int64.

        Raises:
            ValueError: If a position is negative.
        """
        epochs, offsets = np.divmod(_checked(positions), self.num_images)
        parts = [
            _permutation(self.seed, int(epoch), self.num_images)[offsets[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        return torch.from_numpy(np.concatenate(parts))

    def flips(self, positions: range) -> Tensor:
        """Which pictures are mirrored left to right, each with probability 1/2; booleans, shape (len(positions),).

        Raises:
            ValueError: If a position is negative.
        """
        blocks, offsets = np.divmod(_checked(positions), _BLOCK)
        parts = [_flips(self.seed, int(block))[offsets[blocks == block]] for block in np.unique(blocks)]
        return torch.from_numpy(np.concatenate(parts))


def _checked(positions: range) -> np.ndarray:
    if not positions or positions[0] < 0:
        raise ValueError(f"positions {positions} of the stream; give at least one, and none below 0")
    return np.arange(positions.start, positions.stop, positions.step)


# Two epochs are alive around an epoch's end; processes of one test run may hold two orders.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    permutation = np.random.default_rng([seed, _ORDER, epoch]).permutation(num_images)
    permutation.flags.writeable = False
    return permutation.astype(np.int64, copy=False)


@lru_cache(maxsize=4)
def _flips(seed: int, block: int) -> np.ndarray:
    return np.random.default_rng([seed, _FLIPS, block]).random(_BLOCK) < 0.5


def to_model(images: Tensor, flips: Tensor | None = None) -> Tensor:
    """Pictures as the model sees them.

    Args:
        images: Shape (B, C, H, W), uint8, on any device.
        flips: Booleans of shape (B,), the pictures to be mirrored left to right; none where not given.

    Returns:
        Shape (B, C, H, W), float32 in [-1, 1].
    """
    if flips is not None:
        images = torch.where(flips.to(images.device)[:, None, None, None], images.flip(-1), images)
    return images.to(torch.float32) / 127.5 - 1
