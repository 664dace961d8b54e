"""Noise schedules: the published ones, and what every one of them promises."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from scalespace.diffusion.noise import Betas, Cosine, LinearBeta, NoiseSchedule, ZeroTerminal

SCHEDULES = [
    LinearBeta(),
    Cosine(),
    LinearBeta(50, 1e-3, 0.3),
    Cosine(50),
    LinearBeta(1),
    Cosine(1),
    Cosine(7, offset=0.0),
    Betas((0.3, 1e-4, 0.9)),
    ZeroTerminal(LinearBeta()),
    ZeroTerminal(Cosine()),
    ZeroTerminal(Betas((0.1, 0.2))),
    ZeroTerminal(LinearBeta(1000, 0.1, 0.9)),
]
every_schedule = pytest.mark.parametrize("noise", SCHEDULES, ids=str)


@every_schedule
def test_signal_and_noise_keep_unit_variance(noise: NoiseSchedule):
    t = torch.arange(noise.timesteps + 1)
    assert_close(noise.alpha(t) ** 2 + noise.sigma(t) ** 2, torch.ones(len(t), dtype=torch.float64), rtol=0, atol=1e-15)


@every_schedule
def test_clean_image_is_at_zero(noise: NoiseSchedule):
    assert (noise.alpha(0), noise.sigma(0), noise.snr(0), noise.log_snr(0)) == (1.0, 0.0, float("inf"), float("inf"))


@every_schedule
def test_log_snr_falls_strictly_and_stays_finite(noise: NoiseSchedule):
    assert noise.log_snr_table.shape == (noise.timesteps + 1,)
    assert noise.log_snr_table.dtype == torch.float64
    assert (noise.log_snr_table.diff() < 0).all()
    assert noise.log_snr_table[1:].isfinite().all()


@every_schedule
def test_snr_is_signal_over_noise(noise: NoiseSchedule):
    t = torch.arange(1, noise.timesteps + 1)
    assert_close(noise.snr(t), (noise.alpha(t) / noise.sigma(t)) ** 2, rtol=1e-12, atol=0)
    assert_close(noise.log_snr(t), noise.snr(t).log(), rtol=1e-12, atol=1e-12)


@every_schedule
def test_tensors_and_integers_look_up_the_same(noise: NoiseSchedule):
    t = torch.tensor([[noise.timesteps, 0], [1, noise.timesteps]])
    for lookup in (noise.alpha, noise.sigma, noise.snr, noise.log_snr):
        values = lookup(t)
        assert values.dtype == torch.float64
        assert values.tolist() == [[lookup(int(point)) for point in row] for row in t]
        assert isinstance(lookup(1), float)


@pytest.mark.parametrize(("noise", "name"), [(LinearBeta(), "linear"), (Cosine(), "squaredcos_cap_v2")])
def test_schedules_are_those_of_diffusers(noise: NoiseSchedule, name: str):
    expected = DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
    assert_close(noise.alpha(torch.arange(1, 1001)) ** 2, expected, rtol=0, atol=1e-6)


@given(betas=st.tuples(st.floats(1e-5, 0.9), st.floats(1e-5, 0.9)), timesteps=st.integers(1, 40))
def test_linear_betas_multiply_to_the_signal(betas, timesteps):
    steps = torch.linspace(*betas, timesteps, dtype=torch.float64)
    noise = LinearBeta(timesteps, *betas)
    assert_close(noise.alpha(torch.arange(1, timesteps + 1)) ** 2, (1 - steps).cumprod(0), rtol=1e-10, atol=0)


@given(betas=st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=40))
def test_betas_one_by_one_multiply_to_the_signal(betas):
    noise = Betas(tuple(betas))
    expected = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    assert_close(noise.alpha(torch.arange(1, noise.timesteps + 1)) ** 2, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("base", [LinearBeta(), Cosine(), LinearBeta(50, 1e-3, 0.3)], ids=str)
def test_stretched_noise_keeps_the_first_signal_and_its_shape_and_leaves_none_at_the_end(base: NoiseSchedule):
    noise, t = ZeroTerminal(base), torch.arange(1, base.timesteps + 1)
    assert noise.alpha(1) == pytest.approx(base.alpha(1), rel=1e-12)
    assert noise.alpha(base.timesteps) == pytest.approx(2.0**-12)
    before = base.alpha(t)
    straight = (before - before[-1]) * before[0] / (before[0] - before[-1])
    # All but the few last ones, which fall to the floor in equal steps.
    above = straight**2 > 2.0**-24 * (base.timesteps + 1 - t)
    assert above.double().mean() > 0.9
    assert_close(noise.alpha(t)[above], straight[above], rtol=1e-9, atol=0)


def test_cosine_betas_are_capped():
    noise = Cosine(10, beta_max=0.5)
    signal = noise.alpha(torch.arange(11)) ** 2
    assert float((1 - signal[1:] / signal[:-1]).max()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearBeta(0), "process of 0 timesteps"),
        (lambda: Cosine(-5), "process of -5 timesteps"),
        (lambda: LinearBeta(beta_start=0.0), "beta_start is 0.0"),
        (lambda: LinearBeta(beta_end=1.0), "beta_end is 1.0"),
        (lambda: LinearBeta(beta_end=float("nan")), "beta_end is nan"),
        (lambda: Cosine(offset=-0.1), "offset cannot be negative"),
        (lambda: Cosine(beta_max=1.0), r"beta_max lies in \(0, 1\)"),
        (lambda: Betas(()), "process of 0 timesteps"),
        (lambda: Betas((0.5, 1.0)), "beta 2 is 1.0"),
        (lambda: Betas((float("nan"),)), "beta 1 is nan"),
        (lambda: ZeroTerminal(LinearBeta(1)), "1 timestep cannot end without signal"),
    ],
)
def test_schedules_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
