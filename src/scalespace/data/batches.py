"""The order of the data, and pictures as the model sees them.

The stream of training pictures is a function of the seed alone. Position p of the stream belongs to epoch e = p // N
and holds picture permutation_e[p mod N], where permutation_e is drawn from (seed, e). Step k of a run on R processes
with B pictures each takes the positions k R B .. (k + 1) R B - 1, and process r the r-th block of B among them. So

- every picture comes once an epoch, and epochs run on into each other without a ragged batch;
- nothing has to be stored: a run resumed at step k sees exactly what the uninterrupted run would have seen;
- the same global batch R B gives the same pictures, however many processes share it.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchOrder", "to_model"]

# Words of the random keys that keep permutations and flips of one seed apart.
_ORDER, _FLIPS = 0, 1


class BatchOrder:
    """Which pictures, flipped or not, make up the batch of a step on one process; stateless.

    Args:
        num_images: N, pictures in the data set.
        batch_size: B, pictures a step on this process; may exceed N.
        seed: Any non-negative integer; one seed is one stream.
        rank: r, this process, 0..world_size - 1.
        world_size: R, number of processes that share the stream.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        if num_images < 1 or batch_size < 1:
            raise ValueError(
                f"{num_images} pictures and a batch of {batch_size} make no batches; both must be at least 1"
            )
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of the {world_size} processes 0..{world_size - 1}")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def epoch(self, step: int) -> float:
        """Passes over the data that are complete before `step`, counted over all processes."""
        return step * self.batch_size * self.world_size / self.num_images

    def indices(self, step: int) -> Tensor:
        """Indices into the data set of this process's batch.

        Args:
            step: Global step, counted from 0.

        Returns:
            Integers 0..num_images - 1, shape (batch_size,), int64.
        """
        first = (self._checked(step) * self.world_size + self.rank) * self.batch_size
        epochs, offsets = np.divmod(np.arange(first, first + self.batch_size), self.num_images)
        parts = [
            _permutation(self.seed, int(epoch), self.num_images)[offsets[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        return torch.from_numpy(np.concatenate(parts))

    def flips(self, step: int) -> Tensor:
        """Which pictures of this process's batch are mirrored left to right, each with probability 1/2.

        Args:
            step: Global step, counted from 0.

        Returns:
            Booleans, shape (batch_size,).
        """
        # Drawn for the whole global batch, so that a picture's flip does not depend on how many processes share it.
        draws = np.random.default_rng([self.seed, _FLIPS, self._checked(step)]).random(
            self.world_size * self.batch_size
        )
        first = self.rank * self.batch_size
        return torch.from_numpy(draws[first : first + self.batch_size] < 0.5)

    @staticmethod
    def _checked(step: int) -> int:
        if step < 0:
            raise ValueError(f"step {step} is negative; steps are counted from 0")
        return step


# Two epochs are alive around an epoch's end; processes of one test run may hold two orders.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    permutation = np.random.default_rng([seed, _ORDER, epoch]).permutation(num_images)
    permutation.flags.writeable = False
    return permutation.astype(np.int64, copy=False)


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
