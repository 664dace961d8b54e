"""Noise in the small pictures of a cascade."""

import torch
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.conditioning import augmented


def test_every_picture_has_its_own_level_of_noise():
    z, noise = normal((4, 5), 0, batch=(3, 2)), normal((4, 5), 1, batch=(3, 2))
    mixed = augmented(z, torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64), noise)
    assert_close(mixed, torch.stack([z[0], 0.8 * z[1] + 0.6 * noise[1], noise[2]]))
