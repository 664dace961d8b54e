import time

import pytest
import torch

from scalespace.diffusion.degradation import Blurring, OrthonormalResizing, Resizing
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.limits import LARGEST_SIDE, MOST_TIMESTEPS
from scalespace.diffusion.noise import Cosine, LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay, Equal, SigmoidLike, TanhLike
from scalespace.diffusion.shifted import Shifted
from scalespace.pipelines.scheduler import ScaleSpaceScheduler


@pytest.mark.parametrize(
    "make",
    [
        LinearBeta,
        Cosine,
        Equal(4).change_points,
        ConvexDecay(4).change_points,
        SigmoidLike(4).change_points,
        TanhLike(4).change_points,
        ScaleSpaceScheduler,
        lambda timesteps: ScaleSpaceScheduler(timesteps, beta_schedule="squaredcos_cap_v2"),
        lambda timesteps: ScaleSpaceScheduler(timesteps, sizes=((8, 8),), change_points=()),
    ],
)
@pytest.mark.parametrize("timesteps", [MOST_TIMESTEPS + 1, 10**9, 10**30])
def test_timesteps_out_of_proportion_are_refused_before_any_table_is_made(make, timesteps: int, monkeypatch):
    for name in ("linspace", "arange"):
        monkeypatch.setattr(torch, name, pytest.fail)
    with pytest.raises(
        ValueError, match=f"of {timesteps} timesteps is out of proportion; give at most {MOST_TIMESTEPS}"
    ):
        make(timesteps)


@pytest.mark.parametrize("levels", [21, 10**6, 10**30])
def test_levels_out_of_proportion_are_refused_in_few_words(levels: int):
    for schedule in (Equal(levels), ConvexDecay(levels), SigmoidLike(levels), TanhLike(levels)):
        with pytest.raises(ValueError, match="without a grid point") as refused:
            schedule.change_points(20)
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize("size", [(LARGEST_SIDE + 1, 8), (8, 10**30), (100_000, 100_000)])
def test_sides_out_of_proportion_are_refused(size):
    for make in (
        lambda: Resizing.octaves(size, Equal(3), 20),
        lambda: OrthonormalResizing.octaves(size, Equal(3), 20),
        lambda: Blurring(size, 20),
        lambda: ScaleSpaceScheduler(20, sizes=(size, (4, 4)), change_points=(10,)),
    ):
        with pytest.raises(ValueError, match="pixels are too large; give at most 4096 pixels a side"):
            make()


@pytest.mark.parametrize("kind", [Resizing, OrthonormalResizing])
def test_a_process_at_both_limits_is_made_in_seconds(kind):
    before = time.process_time()
    levels = kind.octaves((64, LARGEST_SIDE), Equal(4), MOST_TIMESTEPS)
    noise = Shifted(LinearBeta(MOST_TIMESTEPS, 1e-7, 1e-4), levels)
    process = ScaleSpaceProcess(noise, levels)
    assert min(process.margins().values()) >= 1
    # As many points as there are, of which each against each would be 80 GB.
    assert len(log_snr_grid(process, MOST_TIMESTEPS)) == MOST_TIMESTEPS
    assert time.process_time() - before < 20


def test_a_long_blur_is_checked_without_making_every_map(monkeypatch):
    blur = Blurring((8, 8), 50)
    for t in (1, 2, 25, 50):
        assert blur.norm_squared(t) == pytest.approx(blur.operator(t - 1, t).norm_squared(), rel=1e-14)
    monkeypatch.setattr(Blurring, "operator", pytest.fail)
    ScaleSpaceProcess(LinearBeta(1000), Blurring((8, 8), 1000))
