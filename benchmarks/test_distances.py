"""Distances of 50,000 pictures to 50,000 by 2048 features: time and memory."""

import resource
import time

import pytest
import torch
from torch import Tensor

from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.precision_recall import prdc

COUNT, DIMENSIONS = 50_000, 2048


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    """Not negative, correlated, of falling variance and of two slightly different means, like Inception's."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator) / 45 * torch.linspace(1, 0.05, DIMENSIONS)
    sides = torch.empty(2, COUNT, DIMENSIONS)
    for side, mean in zip(sides, (0.4, 0.41), strict=True):
        for part in side.split(5000):
            part.copy_((torch.randn(part.shape, generator=generator) @ mixing + mean).relu_())
    return sides[0], sides[1]


@pytest.mark.parametrize("distance", [frechet, kid, prdc])
def test_fifty_thousand_pictures(distance, features: tuple[Tensor, Tensor], report):
    start = time.perf_counter()
    found = distance(*features)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report(
        f"{distance.__name__}, {COUNT:,} x {DIMENSIONS}, with its interval: {seconds:.0f} s, peak so far {peak:.2f} GiB"
    )
    report(f"  {found}")
    assert seconds < 300
    assert peak < 6
