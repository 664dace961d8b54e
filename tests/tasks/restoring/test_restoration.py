"""Restoring Gaussian pictures, whose posterior is known: at every level, across changes, and as a distribution."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.tasks.exact import COVARIANCE, exact_pipeline
from torch import Tensor
from torch.testing import assert_close

from scalespace import (
    DDIM,
    GaussianDenoiser,
    Measurement,
    Multistep,
    Restoration,
    ScaleSpaceProcess,
    gaussian_blur,
    log_snr_grid,
    power_law,
    restore,
    spectral_covariance,
    super_resolution,
)
from scalespace.errors import UserError
from scalespace.operators.linear import LinearOperator
from scalespace.operators.resize import SeparableProduct
from scalespace.operators.singular import dense
from scalespace.oracles.gaussian import chain_covariance, frechet_distance_squared, lorentzian
from scalespace.pipelines.pictures import image_generators
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.tasks.restoring.ddrm import DDRM
from scalespace.tasks.restoring.guidance import Guided, conjugate_gradients
from scalespace.tasks.restoring.prior import Prior
from scalespace.tasks.restoring.told import Told, ToldByLevel

SIZE, CHANGE = (8, 8), 278
PROCESS = ScaleSpaceScheduler(sizes=(SIZE, (4, 4)), change_points=(CHANGE,), shifted=True).process
SPECTRUM = power_law(SIZE)
DATA = spectral_covariance(SPECTRUM)
DENOISER = GaussianDenoiser(PROCESS, DATA)
PRIOR = Prior(PROCESS, SPECTRUM)


def seen_rows() -> SeparableProduct:
    """Five sums of rows, with weights of both signs: no resize and no blur."""
    weights = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return SeparableProduct(weights, torch.eye(8, dtype=torch.float64))


OPERATORS = {
    "super-resolution": super_resolution(SIZE, 2),
    "super-resolution by 4": super_resolution(SIZE, 4),
    "blur": gaussian_blur(SIZE, 1.0),
    "rows": seen_rows(),
}


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior(A: LinearOperator, noise: float, y: Tensor, data: Tensor = DATA) -> tuple[Tensor, Tensor]:
    """Mean, of the shape of pictures, and covariance of x_0 given y, by dense matrices."""
    matrix = dense(A)
    gain = torch.linalg.solve(
        matrix @ data @ matrix.mT + noise**2 * torch.eye(len(matrix), dtype=torch.float64), matrix @ data
    )
    mean = (y.flatten(-2) @ gain).unflatten(-1, A.in_size)
    return mean, data - data @ matrix.mT @ gain


def measured(A: LinearOperator, noise: float, count: int = 2) -> tuple[Measurement, Tensor]:
    pictures = (white(count, 64) @ torch.linalg.cholesky(DATA).mT).reshape(-1, 1, *SIZE)
    measurement = Measurement(A, noise)
    return measurement, measurement.taken(pictures, white(count, 1, *A.out_size, seed=1))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize(("t", "s"), [(100, 50), (60, 0), (CHANGE, CHANGE - 1), (CHANGE, 0), (400, 300), (1000, 700)])
def test_a_guided_prediction_is_the_exact_one_of_the_posterior(operator: str, iterations: int, t: int, s: int):
    A = OPERATORS[operator]
    measurement, y = measured(A, 0.1)
    told = ToldByLevel(PRIOR, measurement)
    mean, covariance = posterior(A, 0.1, y)
    x_t = white(2, 1, *PROCESS.size(t), seed=2)
    found = Guided(DENOISER, PRIOR, told.levels(y), iterations)(x_t, t, s)
    for i in range(2):
        exact = GaussianDenoiser(PROCESS, covariance, mean[i, 0])(x_t[i : i + 1], t, s)
        assert_close(found[i : i + 1], exact, rtol=1e-9, atol=1e-10)


def test_the_wiener_filter_is_the_mean_of_the_posterior():
    for A in OPERATORS.values():
        measurement, y = measured(A, 0.1)
        assert_close(ToldByLevel(PRIOR, measurement).expected(y), posterior(A, 0.1, y)[0])


def test_moments_of_the_denoiser_count_more_than_those_of_a_wrong_spectrum():
    # Inside the full level MMPS has nothing from the spectrum but its preconditioner; PiGDM inverts by it.
    A = OPERATORS["super-resolution"]
    measurement, y = measured(A, 0.1, 1)
    mean, covariance = posterior(A, 0.1, y)
    prior = Prior(PROCESS, lorentzian(SIZE, mean=1.0).flip(0, 1))
    told, x_t = ToldByLevel(prior, measurement).levels(y), white(1, 1, *SIZE, seed=2)
    exact = GaussianDenoiser(PROCESS, covariance, mean[0, 0])(x_t, 200, 100)
    errors = [float((Guided(DENOISER, prior, told, steps)(x_t, 200, 100) - exact).norm()) for steps in (0, 2, 5, 20)]
    assert errors[0] > 1e-2
    assert sorted(errors, reverse=True) == errors
    assert errors[-1] < 1e-8


@dataclass(frozen=True, eq=False)
class _Linear:
    """A guided denoiser without a measured value, and so without a mean, as the oracle takes it."""

    guided: Guided
    process: ScaleSpaceProcess
    mean = None

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        return self.guided(x_t, t, s)


def _errors(prior: Prior, A: LinearOperator, solver: type[DDIM] | type[Multistep], steps: int) -> tuple[float, float]:
    """Of a chain: the squared distance of its covariance over the trace, and the error of its mean."""
    process, (measurement, y) = prior.process, measured(A, 0.2, 1)
    mean, covariance = posterior(A, 0.2, y)
    denoiser, told = GaussianDenoiser(process, DATA), ToldByLevel(prior, measurement)
    linear: Any = _Linear(Guided(denoiser, prior, told.levels(0 * y), 0), process)
    grid = log_snr_grid(process, steps)
    distance = frechet_distance_squared(chain_covariance(solver(process), linear, grid), covariance)
    # Without noise a chain goes from mean to mean.
    state = torch.zeros(1, 1, *process.size(grid[0]), dtype=torch.float64)
    guided, chain = Guided(denoiser, prior, told.levels(y), 0), solver(process)
    for t, s in zip(grid, (*grid[1:], 0), strict=True):
        x0 = guided(state, t, s)
        state = chain.step(state, x0, t, s, torch.zeros_like(x0))
    return distance / float(covariance.trace()), float((state - mean).norm() / mean.norm())


def test_chains_converge_to_the_posterior():
    one_level = Prior(ScaleSpaceScheduler(sizes=(SIZE,), change_points=()).process, SPECTRUM)
    few, more, many = (_errors(one_level, OPERATORS["super-resolution"], DDIM, steps) for steps in (6, 18, 54))
    # Of first order: a third of the step, a third of the error and a ninth of its square.
    assert few[0] > 6 * more[0] > 36 * many[0]
    assert many[0] < 2.5e-3
    # What is left of the mean is what a chain that begins with noise alone does not know of it.
    assert max(few[1], more[1], many[1]) < 3e-3


def test_a_change_of_resolution_costs_the_posterior_no_more_than_the_data():
    # The step over a change leaves out how uncertain the prediction of the new octave is, with a measurement or without one.
    plain = chain_covariance(Multistep(PROCESS), DENOISER, log_snr_grid(PROCESS, 12))
    unguided = frechet_distance_squared(plain, DATA) / float(DATA.trace())
    distance, mean = _errors(PRIOR, OPERATORS["super-resolution"], Multistep, 12)
    assert distance < 1.2 * unguided < 2e-3
    assert mean < 3e-3


@pytest.mark.parametrize("guidance", ["pigdm", "mmps"])
def test_drawn_pictures_have_the_distribution_of_the_posterior(guidance: str):
    count, A, noise = 1000, super_resolution(SIZE, 2), 0.02
    picture = (white(64, seed=5) @ torch.linalg.cholesky(COVARIANCE).mT).reshape(1, 1, *SIZE)
    measurement = Measurement(A, noise)
    y = measurement.taken(picture, white(1, 1, 4, 4, seed=6)).float()
    drawn = restore(
        exact_pipeline(),
        y.expand(count, -1, -1, -1),
        measurement,
        Restoration(guidance, 1),  # pyright: ignore[reportArgumentType]
        spectrum=power_law(SIZE, mean=0.005),
        generator=torch.Generator().manual_seed(1),
        num_inference_steps=40,
    )
    mean, covariance = posterior(A, noise, y.double(), COVARIANCE)
    rest = (2 * drawn.double() - 1 - mean).flatten(1)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), rest.mT, upper=False)
    excess = whitened @ whitened.mT / count - torch.eye(64, dtype=torch.float64)
    # As in test_variations: chi^2 of 64 * 65 / 2, and of 64.
    assert abs(count * float(excess.square().sum()) / 2 - 2080) < 6 * 64.5
    assert whitened.mean(1).square().sum() * count < 64 + 6 * 11.3


@pytest.mark.parametrize(("t", "s"), [(200, 100), (30, 10), (CHANGE, CHANGE - 1), (600, 400)])
@pytest.mark.parametrize(("eta", "b"), [(0.85, 1.0), (0.3, 0.6)])
def test_ddrm_keeps_the_marginal_of_a_true_prediction(t: int, s: int, eta: float, b: float):
    # The step is linear in the noises of state, measurement and step: what each of their unit vectors becomes.
    A = OPERATORS["super-resolution"]
    picture = (white(1, 64) @ torch.linalg.cholesky(DATA).mT).reshape(1, 1, *SIZE)
    told = ToldByLevel(PRIOR, Measurement(A, 0.1)).levels(A(picture))[PROCESS.size(s)]
    (h, w), (H, W), G = PROCESS.size(t), PROCESS.size(s), told.operator
    x0_s = PROCESS.degradation.operator(0, s)(picture)
    x0_t = PROCESS.degradation.operator(0, t)(picture)
    kinds = [(h, w), G.out_size, (H, W), (H, W)]
    total = 0.0
    for k in range(len(kinds)):
        n = kinds[k][0] * kinds[k][1]
        noises = [torch.zeros(n, 1, *size, dtype=torch.float64) for size in kinds]
        noises[k] = torch.eye(n, dtype=torch.float64).reshape(n, 1, *kinds[k])
        at = Told(G, told.noise, G(x0_s) + told.noise * noises[1])
        x_t = PROCESS.noise.alpha(t) * x0_t + PROCESS.noise.sigma(t) * noises[0]
        step = DDRM(PROCESS, {(H, W): at}, eta, b).step
        x_s = step(x_t, x0_s.expand(n, -1, -1, -1), t, s, noises[2], noises[3])
        rows = (x_s - PROCESS.noise.alpha(s) * x0_s).flatten(1)
        total = total + rows.mT @ rows
    assert_close(total, PROCESS.noise.sigma(s) ** 2 * torch.eye(H * W, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_ddrm_ends_with_the_prediction_and_pulls_states_to_the_measurement():
    A = OPERATORS["super-resolution"]
    measurement, y = measured(A, 0.05, 1)
    told, x0 = ToldByLevel(PRIOR, measurement).levels(y), torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    ddrm, x_t = DDRM(PROCESS, told), white(1, 1, *SIZE)
    assert ddrm.step(x_t, x0, 100, 0, x0, x0) is x0
    # Without noise, and with a measurement that is better than the state, the state shows what was measured.
    alpha = PROCESS.noise.alpha(200)
    x_s = DDRM(PROCESS, told, eta=1.0).step(x_t, x0, 270, 200, x0, x0)
    assert_close(A(x_s) / alpha, y)


def test_conjugate_gradients_solve_every_picture_by_itself():
    root = white(12, 12)
    matrix = root @ root.mT + torch.eye(12, dtype=torch.float64)
    b = white(3, 1, 3, 4, seed=1) * torch.tensor([1.0, 1e-6, 0.0]).reshape(3, 1, 1, 1)

    def product(v: Tensor) -> Tensor:
        return (v.flatten(1) @ matrix).reshape(v.shape)

    exact = torch.linalg.solve(matrix, b.flatten(1).mT).mT.reshape(b.shape)
    assert_close(conjugate_gradients(product, b, 12), exact, rtol=1e-8, atol=1e-12)
    assert_close(
        conjugate_gradients(product, b, 3), torch.cat([conjugate_gradients(product, one[None], 3) for one in b])
    )
    inverse = torch.linalg.inv(matrix)
    once = conjugate_gradients(product, b, 1, lambda r: (r.flatten(1) @ inverse).reshape(r.shape))
    assert_close(once, exact, rtol=1e-8, atol=1e-12)
    # A Jacobian that is no covariance leaves its own picture, and no other.
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    mixed = conjugate_gradients(lambda v: sign * product(v), b, 12)
    assert (mixed[1] == 0).all()
    assert_close(mixed[0], exact[0], rtol=1e-8, atol=1e-12)


def test_a_restored_picture_depends_on_its_generator_alone():
    measurement = Measurement(super_resolution(SIZE, 2), 0.1)
    y, pipeline = 0.1 * white(3, 1, 4, 4).float(), exact_pipeline()
    together = restore(pipeline, y, measurement, generator=image_generators(0, range(3)), num_inference_steps=8)
    alone = restore(pipeline, y[1:2], measurement, generator=image_generators(0, [1]), num_inference_steps=8)
    assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    # The model's own scheduler is as it was.
    assert pipeline.scheduler.config["solver"] == "corrected"


def test_measurements_are_what_they_are_called():
    picture = white(1, 1, 32, 32)
    small = torch.nn.functional.interpolate(picture, scale_factor=0.25, mode="bilinear", antialias=True)
    assert_close(super_resolution((32, 32), 4)(picture), small, rtol=1e-6, atol=1e-6)
    point = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    point[..., 16, 16] = 1
    spread = gaussian_blur((33, 33), 2.0)(point)[0, 0]
    offset = torch.arange(33, dtype=torch.float64) - 16
    assert_close(spread.sum(), torch.ones((), dtype=torch.float64))
    assert_close((spread.sum(0) * offset**2).sum(), torch.tensor(4.0, dtype=torch.float64), rtol=1e-3, atol=0)
    measurement = Measurement(super_resolution((32, 32), 4), 0.05)
    pictures = white(50, 1, 32, 32)
    misfit = measurement.misfit(measurement.taken(pictures, white(50, 1, 8, 8, seed=1)), pictures)
    # Of 50 * 64 squares: the deviation of their mean is sqrt(2 / 3200).
    assert abs(float(misfit.square().mean()) - 1) < 5 * (2 / 3200) ** 0.5


def test_what_cannot_be_restored_is_refused():
    pipeline, y = exact_pipeline(), torch.zeros(1, 1, 4, 4)
    measurement = Measurement(super_resolution(SIZE, 2), 0.1)
    with pytest.raises(ValueError, match=r"this measurement gives \(B, 1, 4, 4\)"):
        restore(pipeline, torch.zeros(1, 1, 8, 8), measurement)
    with pytest.raises(ValueError, match="not finite"):
        restore(pipeline, y / 0, measurement)
    with pytest.raises(ValueError, match="leave spectrum out"):
        restore(pipeline, y, ToldByLevel(PRIOR, measurement), spectrum=SPECTRUM)
    with pytest.raises(UserError, match=r"pictures of \(16, 16\), and the model draws \(8, 8\)"):
        restore(pipeline, y, Measurement(super_resolution((16, 16), 4), 0.1))
    with pytest.raises(UserError, match="the spectrum has shape"):
        restore(pipeline, y, measurement, spectrum=torch.ones(4, 4))
    with pytest.raises(UserError, match="not positive everywhere"):
        restore(pipeline, y, measurement, spectrum=torch.zeros(8, 8))
    with pytest.raises(UserError, match='guidance "dps" is unknown'):
        Restoration("dps")  # pyright: ignore[reportArgumentType]
    blurring = ScaleSpaceScheduler(sizes=(SIZE,), change_points=(), degradation="blurring", prediction_type="epsilon")
    with pytest.raises(UserError, match="blur that grows with every step"):
        Prior(blurring.process, SPECTRUM)
    large = ScaleSpaceScheduler(sizes=((144, 144), (72, 72)), change_points=(CHANGE,)).process
    with pytest.raises(UserError, match="a level of 72x72 pixels below its full size"):
        Prior(large, torch.ones(144, 144))
    one_level = ScaleSpaceScheduler(sizes=((144, 144),), change_points=()).process
    with pytest.raises(UserError, match="gives 72x72 numbers"):
        ToldByLevel(Prior(one_level, torch.ones(144, 144)), Measurement(super_resolution((144, 144), 2), 0.1))
