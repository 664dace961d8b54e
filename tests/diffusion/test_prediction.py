"""What a network's output stands for."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tests.strategies import normal, tolerance
from torch.testing import assert_close

from scalespace.diffusion.degradation import Blurring, OrthonormalResizing, Resizing
from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.loss import VelocityWeight
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.prediction import Epsilon, Sample, Velocity
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Identity

NOISE = LinearBeta(12, 0.05, 0.6)
DEGRADATION = Resizing(((6, 8), (3, 4)), (6,), 12)
IDENTITY, CHANGE = Identity((6, 8)), DEGRADATION.operator(5, 6)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Epsilon, "epsilon"), (Velocity, "v_prediction"), (Sample, "sample")], ids=str
)
@pytest.mark.parametrize("t", [1, 7, 12])
def test_inside_a_level_predictions_are_those_of_diffusers(ours, theirs, t):
    scheduler = DDIMScheduler(num_train_timesteps=12, prediction_type=theirs, clip_sample=False)
    scheduler.alphas_cumprod = NOISE.alpha(torch.arange(1, 13)) ** 2
    scheduler.set_timesteps(12)
    output, x_t = normal((6, 8), 0, batch=(2, 3)), normal((6, 8), 1, batch=(2, 3))
    expected = scheduler.step(output, t - 1, x_t).pred_original_sample
    assert_close(ours(NOISE).x0(output, x_t, t, IDENTITY), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_velocity_is_the_preconditioned_network_of_edm(sigma_data):
    # EDM's D(y) = c_skip y + c_out F of y = x_t / alpha with its own sigma = sigma_t / alpha_t.
    t = 7
    output, x_t = normal((6, 8), 0, batch=(2, 3)), normal((6, 8), 1, batch=(2, 3))
    sigma, y = NOISE.sigma(t) / NOISE.alpha(t), x_t / NOISE.alpha(t)
    total = sigma**2 + sigma_data**2
    expected = sigma_data**2 / total * y - sigma * sigma_data / total**0.5 * output
    assert_close(Velocity(NOISE, sigma_data).x0(output, x_t, t, IDENTITY), expected, rtol=0, atol=1e-12)
    # The weight that makes the error of x_0 the plain error of the output.
    weight = VelocityWeight(sigma_data)(torch.tensor(NOISE.snr(t), dtype=torch.float64))
    assert float(weight) == pytest.approx(total / (sigma * sigma_data) ** 2)


@pytest.mark.parametrize("kind", [Resizing, OrthonormalResizing])
@pytest.mark.parametrize("shifted", [False, True])
def test_without_output_velocity_is_the_best_guess_for_white_pictures(kind, shifted):
    degradation = kind(((6, 8), (3, 4)), (6,), 12)
    process = ScaleSpaceProcess(Shifted(NOISE, degradation) if shifted else NOISE, degradation)
    denoiser = GaussianDenoiser(process, 0.25 * torch.eye(48, dtype=torch.float64))
    x_t = normal((3, 4), 1, batch=(2, 1))
    guess = Velocity(process.noise, 0.5).x0(normal((6, 8), batch=(2, 1)) * 0, x_t, 6, degradation.operator(5, 6))
    assert_close(guess, denoiser(x_t, 6, 5), rtol=0, atol=1e-10)


@pytest.mark.parametrize("prediction", [Epsilon(NOISE), Velocity(NOISE, 0.5)], ids=["epsilon", "velocity"])
def test_every_picture_may_have_its_own_time(prediction):
    t = torch.tensor([2, 11, 5])
    output, x_t = normal((6, 8), 0, batch=(3, 2)), normal((6, 8), 1, batch=(3, 2))
    together = prediction.x0(output, x_t, t, IDENTITY)
    alone = [prediction.x0(output[i : i + 1], x_t[i : i + 1], int(t[i]), IDENTITY) for i in range(3)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
    across = prediction.x0(normal((6, 8), 2, batch=(3, 2)), normal((3, 4), 3, batch=(3, 2)), 0 * t + 6, CHANGE)
    assert_close(across, prediction.x0(normal((6, 8), 2, batch=(3, 2)), normal((3, 4), 3, batch=(3, 2)), 6, CHANGE))


def test_epsilon_across_a_change_gives_back_what_the_lower_resolution_holds():
    x0_s, eps = normal((6, 8), 0, batch=(2, 3)), normal((3, 4), 1, batch=(2, 3))
    x_t = NOISE.alpha(6) * CHANGE(x0_s) + NOISE.sigma(6) * eps
    # The output that carries the noise up by the isometry U V^T of M = V S U^T.
    dense = CHANGE(torch.eye(48, dtype=torch.float64).unflatten(1, (6, 8))[:, None]).flatten(1).mT
    V, _, U_transposed = torch.linalg.svd(dense, full_matrices=False)
    carried = (eps.flatten(2) @ V @ U_transposed).unflatten(2, (6, 8))
    x0 = Epsilon(NOISE).x0(carried, x_t, 6, CHANGE)
    assert_close(CHANGE(x0), CHANGE(x0_s), rtol=0, atol=1e-10)
    # What the lower resolution does not hold is the output's alone.
    hidden = normal((6, 8), 2, batch=(2, 3))
    hidden = hidden - (hidden.flatten(2) @ U_transposed.mT @ U_transposed).unflatten(2, (6, 8))
    more = Epsilon(NOISE).x0(carried + hidden, x_t, 6, CHANGE)
    assert_close(more - x0, -NOISE.sigma(6) / NOISE.alpha(6) * hidden, rtol=0, atol=1e-9)


# The weak gain is far under the share of the largest that once was taken for a kernel: a gain that is written down is none.
@pytest.mark.parametrize(("sigma_blur", "smallest_gain"), [(2.0, 1e-3), (20.0, 1e-7)])
@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 7), (4, 7), (2, 12)])
def test_the_true_noise_gives_back_the_exact_picture_of_any_blur(s, t, sigma_blur, smallest_gain):
    """The prediction of Blurring Diffusion, u_x = (u_t - sigma_t eps) / alpha_t with alpha_t a gain for each frequency."""
    blurring = Blurring((6, 8), 12, sigma_blur, smallest_gain)
    x_0, eps = normal((6, 8), 0, batch=(2, 3)), normal((6, 8), 1, batch=(2, 3))
    x_t = NOISE.alpha(t) * blurring.operator(0, t)(x_0) + NOISE.sigma(t) * eps
    x0_s = Epsilon(NOISE).x0(eps, x_t, t, blurring.operator(s, t))
    # Deblurring and dividing by alpha_t magnify the rounding of x_t.
    condition = 1 / (NOISE.alpha(t) * float((blurring.gains(t) / blurring.gains(s)).min()))
    assert_close(x0_s, blurring.operator(0, s)(x_0), rtol=0, atol=tolerance(torch.float64, condition))


def test_every_picture_may_have_its_own_blur():
    blurring, t = Blurring((6, 8), 12, sigma_blur=2.0), torch.tensor([2, 11, 5])
    x_0, eps = normal((6, 8), 0, batch=(3, 2)), normal((6, 8), 1, batch=(3, 2))
    x_t = ScaleSpaceProcess(NOISE, blurring).marginal(x_0, t).draw(eps)
    x0_s = Epsilon(NOISE).x0(eps, x_t, t, blurring.operators(t - 1, t))
    assert_close(x0_s, blurring.operators(0 * t, t - 1)(x_0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", [Epsilon(NOISE), Velocity(NOISE, 0.5)], ids=["epsilon", "velocity"])
def test_iterative_operators_agree_with_the_exact_ones(prediction):
    iterative = FunctionOperator(CHANGE, (6, 8), (3, 4))
    output, x_t = normal((6, 8), 0, batch=(2, 3)), normal((3, 4), 1, batch=(2, 3))
    exact = prediction.x0(output, x_t, 6, CHANGE)
    assert_close(prediction.x0(output, x_t, 6, iterative), exact, rtol=0, atol=1e-8)


def test_pictures_without_spread_are_refused():
    with pytest.raises(ValueError, match="sigma_data is 0; the standard deviation"):
        Velocity(NOISE, 0)
