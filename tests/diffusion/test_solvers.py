"""The ancestral step."""

import pytest
import torch
from tests.strategies import normal

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import Ancestral


@pytest.mark.parametrize(("t", "s"), [(12, 10), (9, 8), (9, 2), (5, 4), (3, 0)])
def test_ancestral_step_is_a_draw_from_the_posterior(t, s):
    process = ScaleSpaceProcess(LinearBeta(12, 0.05, 0.6), Resizing(((8, 6), (4, 3), (3, 2)), (4, 9), 12))
    x_t, x0_s = normal(process.size(t), 0, batch=(2, 3)), normal(process.size(s), 1, batch=(2, 3))
    generator = torch.Generator().manual_seed(5)
    drawn = process.posterior(x_t, x0_s, t, s).sample(generator)
    noise = torch.randn(x0_s.shape, generator=generator.manual_seed(5), dtype=torch.float64)
    assert torch.equal(Ancestral(process).step(x_t, x0_s, t, s, noise), drawn)
