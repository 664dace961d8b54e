"""The draw of the posterior's noise at a resolution change: exact eigenbasis against Lanczos."""

import pytest
import torch

from scalespace import Resize
from scalespace.operators.lanczos import krylov_function

_MEDIANS: dict[str, float] = {}


def _sqrt(e):
    # The change from 64 to 32 pixels of the paper's 4-level schedule has rho about 0.98.
    return (1 - 0.98 * e).clamp_min(0).sqrt()


@pytest.fixture
def change():
    generator = torch.Generator().manual_seed(0)
    return Resize((64, 64), (32, 32)), torch.randn(16, 3, 64, 64, generator=generator)


def test_exact_draw(benchmark, change):
    M, noise = change
    M.gram_function(_sqrt, noise)
    benchmark.pedantic(M.gram_function, args=(_sqrt, noise), rounds=50, iterations=5, warmup_rounds=3)
    _MEDIANS["exact"] = benchmark.stats.stats.median


# 40 iterations are those of the paper's released code.
@pytest.mark.parametrize("steps", [40, 64])
def test_lanczos_draw(benchmark, change, report, steps):
    M, noise = change
    gram = lambda v: M.adjoint(M(v))  # noqa: E731
    benchmark.pedantic(krylov_function, args=(gram, _sqrt, noise, steps), rounds=5, warmup_rounds=1)
    exact = M.gram_function(_sqrt, noise.double())
    relative = [
        float((draw - exact).norm() / exact.norm())
        for draw in (M.gram_function(_sqrt, noise), krylov_function(gram, _sqrt, noise, steps)[0])
    ]
    ratio = benchmark.stats.stats.median / _MEDIANS["exact"]
    report(
        f"draw at a change, 16 x 3 x 64 x 64: Lanczos with {steps} steps / exact = {ratio:.0f} "
        f"(relative errors {relative[1]:.1e} and {relative[0]:.1e})"
    )
