"""The process: every distribution against dense Gaussians, the released code, and DDPM."""

import math
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.golden_vectors import GOLDEN_CASES, golden_case
from tests.strategies import blur, box_average, normal, seeds, shrinking_sizes
from torch import Tensor
from torch.testing import assert_close

from scalespace.diffusion.degradation import Degradation, Levels, Resizing, Unchanged
from scalespace.diffusion.denoiser import dense
from scalespace.diffusion.gaussian import Gaussian
from scalespace.diffusion.loss import MinSNR, x0_loss
from scalespace.diffusion.noise import Cosine, LinearBeta, NoiseSchedule
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.errors import UserError
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Identity, LinearOperator, Size

T = 12
NOISE = LinearBeta(T, 0.05, 0.6)
POINTS = (3, 4, 9)


@dataclass(frozen=True)
class BlurredPyramid(Degradation):
    """Blur and average over 2 x 2 at every change, from functions whose transposes nobody wrote down."""

    image_size: Size = (8, 12)
    change_points: tuple[int, ...] = (4, 9)
    timesteps: int = T

    def size(self, t: int) -> Size:
        height, width = self.image_size
        level = sum(point <= t for point in self.change_points)
        return height >> level, width >> level

    def operator(self, s: int, t: int) -> LinearOperator:
        M: LinearOperator = Identity(self.size(s))
        for point in self.change_points:
            if s < point <= t:
                M = box_average(M.out_size) @ (blur(M.out_size) @ M)
        return M


@dataclass(frozen=True)
class BlockSums(Degradation):
    """Sums where averages belong: a halving of norm 2."""

    timesteps: int = 1000
    change_points: tuple[int, ...] = (500,)

    def size(self, t: int) -> Size:
        return (4, 4) if t < 500 else (2, 2)

    def operator(self, s: int, t: int) -> LinearOperator:
        if s < 500 <= t:
            average = box_average((4, 4))
            return FunctionOperator(lambda x: 4 * average(x), (4, 4), (2, 2))
        return Identity(self.size(s))


@dataclass(frozen=True)
class LogSNR(NoiseSchedule):
    """A schedule written down by hand."""

    values: tuple[float, ...]

    @property
    def timesteps(self) -> int:
        return len(self.values) - 1

    @cached_property
    def log_snr_table(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


PYRAMID = ScaleSpaceProcess(NOISE, BlurredPyramid())
times = st.tuples(st.integers(0, T), st.integers(0, T)).filter(lambda pair: pair[0] != pair[1]).map(sorted)


@st.composite
def processes(draw) -> ScaleSpaceProcess:
    """DDPM, four levels of any sizes (non-integer factors among them), or the user's own degradation."""
    kind = draw(st.sampled_from(["unchanged", "resizing", "pyramid"]))
    if kind == "unchanged":
        return ScaleSpaceProcess(NOISE, Unchanged((4, 5), T))
    if kind == "pyramid":
        return PYRAMID
    try:
        return ScaleSpaceProcess(NOISE, Resizing(draw(shrinking_sizes(4, 8)), POINTS, T))
    except ValueError as error:
        # A change by very little has a norm over 1, which only a faster fall of SNR allows.
        assume("lambda_max" not in str(error))
        raise


def unit_pictures(size: Size) -> Tensor:
    return torch.eye(size[0] * size[1], dtype=torch.float64).unflatten(-1, size)


def dense_covariance(gaussian: Gaussian) -> Tensor:
    return gaussian.covariance(unit_pictures(gaussian.mean.shape[-2:])).flatten(1)


def dense_transition(process: ScaleSpaceProcess, s: int, t: int) -> tuple[Tensor, Tensor]:
    """A and Q of x_t = A x_s + N(0, Q), multiplied up from single steps written out from the definition."""
    A = torch.eye(math.prod(process.size(s)), dtype=torch.float64)
    Q = torch.zeros_like(A)
    noise = process.noise
    for point in range(s + 1, t + 1):
        M = dense(process.degradation.operator(point - 1, point))
        step = noise.alpha(point) / noise.alpha(point - 1) * M
        added = (
            noise.sigma(point) ** 2 * torch.eye(len(M), dtype=torch.float64)
            - noise.sigma(point - 1) ** 2 * step @ step.mT
        )
        A, Q = step @ A, step @ Q @ step.mT + added
    return A, Q


@given(process=processes(), pair=times, seed=seeds())
def test_maps_compose(process, pair, seed):
    # M_{s->t} M_{0->s} = M_{0->t}
    s, t = pair
    x_0, M = normal(process.size(0), seed), process.degradation.operator
    assert_close(M(s, t)(M(0, s)(x_0)), M(0, t)(x_0), rtol=0, atol=1e-13)


@given(process=processes(), pair=times, seed=seeds())
def test_marginal_is_the_transition_of_the_marginal(process, pair, seed):
    s, t = pair
    x_0 = normal(process.size(0), seed, batch=(1, 1))
    at_s, at_t = process.marginal(x_0, s), process.marginal(x_0, t)
    step = process.transition(at_s.mean, s, t)
    A = process.noise.alpha(t) / process.noise.alpha(s) * dense(process.degradation.operator(s, t))
    assert_close(step.mean, at_t.mean, rtol=0, atol=1e-12)
    carried = A @ dense_covariance(at_s) @ A.mT + dense_covariance(step)
    assert_close(carried, dense_covariance(at_t), rtol=0, atol=1e-11)


@given(process=processes(), pair=times, seed=seeds())
def test_transition_is_the_chain_of_single_steps(process, pair, seed):
    s, t = pair
    A, Q = dense_transition(process, s, t)
    x_s = normal(process.size(s), seed, batch=(1,))
    step = process.transition(x_s, s, t)
    assert_close(step.mean.flatten(), A @ x_s.flatten(), rtol=0, atol=1e-12)
    assert_close(dense_covariance(step), Q, rtol=0, atol=1e-10)


@given(process=processes(), pair=times, seed=seeds())
def test_posterior_is_dense_gaussian_conditioning(process, pair, seed):
    # Condition the joint Gaussian of (x_s, x_t) on x_t, with no formula of the process in it.
    s, t = pair
    x_0, x_t = normal(process.size(0), seed, batch=(1,)), normal(process.size(t), seed + 1, batch=(1,))
    x0_s = process.degradation.operator(0, s)(x_0)
    A, Q = dense_transition(process, s, t)
    mu_s = process.noise.alpha(s) * x0_s.flatten()
    S_ss = process.noise.sigma(s) ** 2 * torch.eye(len(mu_s), dtype=torch.float64)
    S_ts = A @ S_ss
    gain = torch.linalg.solve(S_ts @ A.mT + Q, S_ts).mT
    posterior = process.posterior(x_t, x0_s, t, s)
    assert_close(posterior.mean.flatten(), mu_s + gain @ (x_t.flatten() - A @ mu_s), rtol=0, atol=1e-10)
    assert_close(dense_covariance(posterior), S_ss - gain @ S_ts, rtol=0, atol=1e-10)


@given(process=processes(), pair=times, seed=seeds())
def test_draws_have_the_covariance_of_their_distribution(process, pair, seed):
    s, t = pair
    x_s, x_t = normal(process.size(s), seed, batch=(1,)), normal(process.size(t), seed, batch=(1,))
    for gaussian in (
        process.transition(x_s, s, t),
        process.posterior(x_t, x_s, t, s),
        process.marginal(normal(process.size(0), batch=(1,)), t),
    ):
        L = (gaussian.draw(unit_pictures(gaussian.mean.shape[-2:])) - gaussian.mean).flatten(1)
        assert_close(L @ L.mT, dense_covariance(gaussian), rtol=0, atol=1e-9)


@given(process=processes(), t=st.integers(1, T), seed=seeds())
def test_posterior_at_zero_is_the_clean_image(process, t, seed):
    x_t, x_0 = normal(process.size(t), seed), normal(process.size(0), seed)
    posterior = process.posterior(x_t, x_0, t, 0)
    assert torch.equal(posterior.draw(normal(process.size(0))), x_0)


def test_marginal_at_zero_is_the_clean_image():
    x_0 = normal((8, 12), batch=(2, 3))
    assert torch.equal(PYRAMID.marginal(x_0, 0).sample(), x_0)


@given(process=processes(), pair=times, seed=seeds())
def test_float32_agrees_with_float64(process, pair, seed):
    s, t = pair
    x_0, x_s, x_t = (normal(process.size(point), seed) for point in (0, s, t))
    for distribution, points in (
        (process.marginal, (x_0, t)),
        (process.transition, (x_s, s, t)),
        (process.posterior, (x_t, x_s, t, s)),
    ):
        double = distribution(*points)
        single = distribution(*(point.float() if isinstance(point, Tensor) else point for point in points))
        noise = normal(double.mean.shape[-2:], seed + 1)
        assert single.mean.dtype == single.draw(noise.float()).dtype == torch.float32
        assert_close(single.mean.double(), double.mean, rtol=0, atol=1e-5)
        # The root of 1 - rho e loses half the digits where rho e comes to 1; here it stays well below.
        assert_close(single.draw(noise.float()).double(), double.draw(noise), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_released_code_is_reproduced(name):
    case = golden_case(name)
    size = case.sizes[0]
    process = ScaleSpaceProcess(LinearBeta(), Resizing.octaves(size, ConvexDecay(len(case.sizes))))
    M, x_0 = process.degradation.operator, case.clean()
    assert process.degradation.sizes == case.sizes
    for i in case.timesteps:
        t, s = case.timestep_map[i] + 1, case.timestep_map[case.next_index(i)] + 1
        assert process.size(t) == (case.resolution_of_t[i],) * 2

        def close(ours: Tensor, key: str, i: int = i) -> None:
            assert_close(ours, case.array(i, key), rtol=0, atol=1e-5, msg=lambda text: f"t{i}.{key}: {text}")

        points = torch.tensor([t, t])
        x_t = process.marginal(x_0, points).draw(case.noise(i))
        close(M(0, t)(x_0), "x_rt")
        close(M(0, s)(x_0), "x_rs")
        close(x_t, "x_t")
        prediction = case.array(i, "net")
        if i > 0:
            posterior = process.posterior(x_t, prediction.clamp(-1, 1), t, s)
            close(posterior.mean, "mean")
            close(posterior.draw(case.posterior_noise(i)) - posterior.mean, "noise")
        weight = MinSNR()(process.noise.snr(points))
        close(weight.float(), "weight")
        close(x0_loss(prediction, M(0, s)(x_0), weight), "loss")


def ddpm(exact: bool, **options) -> DDPMScheduler:
    scheduler = DDPMScheduler(prediction_type="sample", variance_type="fixed_small", clip_sample=False, **options)
    if exact:
        # Its float32 table of alpha-bar has few digits left in 1 - alpha-bar of the first steps; this one has them all.
        scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)).cumprod(0)
        scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize("noise", [LinearBeta(), Cosine()], ids=["linear", "squaredcos_cap_v2"])
def test_unchanged_marginal_is_that_of_ddpm(noise, request):
    scheduler = ddpm(exact=False, beta_schedule=request.node.callspec.id)
    process = ScaleSpaceProcess(noise, Unchanged((8, 6)))
    x_0, eps = normal((8, 6), 0, torch.float32, (4, 3)), normal((8, 6), 1, torch.float32, (4, 3))
    t = torch.tensor([200, 450, 700, 1000])
    assert_close(process.marginal(x_0, t).draw(eps), scheduler.add_noise(x_0, eps, t - 1), rtol=0, atol=1e-6)


def test_unchanged_marginal_is_that_of_ddpm_in_float64_at_every_point():
    scheduler, process = ddpm(exact=True), ScaleSpaceProcess(LinearBeta(), Unchanged((2, 3)))
    x_0, eps, t = normal((2, 3), 0, batch=(1000, 1)), normal((2, 3), 1, batch=(1000, 1)), torch.arange(1, 1001)
    assert_close(process.marginal(x_0, t).draw(eps), scheduler.add_noise(x_0, eps, t - 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_unchanged_ancestral_step_is_that_of_ddpm(steps, dtype, atol):
    scheduler, process = ddpm(exact=True), ScaleSpaceProcess(LinearBeta(), Unchanged((8, 6)))
    scheduler.set_timesteps(steps)
    x_t, x0_s = normal((8, 6), 0, dtype, (2, 3)), normal((8, 6), 1, dtype, (2, 3))
    for index in scheduler.timesteps.tolist():
        t, s = index + 1, max(index - 1000 // steps + 1, 0)
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(index), dtype=dtype)
        theirs = scheduler.step(x0_s, index, x_t, generator=torch.Generator().manual_seed(index)).prev_sample
        ours = process.posterior(x_t, x0_s, t, s).draw(noise)
        assert_close(ours, theirs, rtol=0, atol=atol, msg=lambda text, t=t: f"t = {t}: {text}")


@given(process=processes(), points=st.tuples(st.integers(4, 8), st.integers(4, 8), st.integers(4, 8)), seed=seeds())
def test_a_grid_point_for_each_picture_equals_one_by_one(process, points, seed):
    if process.size(4) != process.size(8):
        process = PYRAMID
    x_0, noise = normal(process.size(0), seed, batch=(3, 2)), normal(process.size(4), seed, batch=(3, 2))
    together = process.marginal(x_0, torch.tensor(points))
    for index, t in enumerate(points):
        alone = process.marginal(x_0[index : index + 1], t)
        assert_close(together.mean[index : index + 1], alone.mean, rtol=0, atol=1e-15)
        assert_close(together.draw(noise)[index : index + 1], alone.draw(noise[index : index + 1]), rtol=0, atol=1e-14)


def test_grid_points_for_each_picture_keep_the_dtype_of_the_pictures():
    x_0, noise = normal((8, 12), batch=(2, 3)), normal((4, 6), batch=(2, 3))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        drawn = PYRAMID.marginal(x_0.to(dtype), torch.tensor([5, 8])).draw(noise.to(dtype))
        assert drawn.dtype == dtype


def test_grid_points_of_two_resolutions_in_a_batch_are_refused():
    message = r"grid points 3 and 4 of one batch differ in resolution or blur, \(8, 12\) and \(4, 6\); group"
    with pytest.raises(ValueError, match=message):
        PYRAMID.marginal(normal((8, 12), batch=(2, 3)), torch.tensor([4, 3]))


def test_margin_is_the_room_in_the_inequality():
    process = ScaleSpaceProcess(LinearBeta(), Resizing.octaves((64, 64), ConvexDecay(4)))
    margins = process.margins()
    assert tuple(margins) == process.degradation.change_points
    for t, margin in margins.items():
        norm = process.degradation.operator(t - 1, t).norm_squared()
        assert margin == pytest.approx(process.noise.snr(t - 1) / (process.noise.snr(t) * norm))
        # Averages divide the noise by a little less than 4, and SNR falls a little besides.
        assert 3.9 < margin < 4.1
    assert ScaleSpaceProcess(LinearBeta(), Unchanged((8, 8))).margins() == {}


@dataclass(frozen=True)
class Blind(Levels):
    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return FunctionOperator(lambda x: x.new_zeros(*x.shape[:-2], *next_size), size, next_size)


def test_a_map_to_zero_leaves_room_without_end():
    process = ScaleSpaceProcess(NOISE, Blind(((4, 4), (2, 2)), (5,), T))
    assert process.margins() == {5: math.inf}


def test_margin_of_one_is_the_edge_of_validity():
    # An average over 2 x 2 has lambda_max 1/4: SNR may rise by up to 4 there.
    edge = math.log(4)
    for rise, valid in ((edge - 1e-6, True), (edge, True), (edge + 1e-6, False)):
        degradation = Resizing(((2, 2), (1, 1)), (2,), 2)
        noise = LogSNR((math.inf, 0.0, rise))
        if valid:
            process = ScaleSpaceProcess(noise, degradation)
            assert process.margins()[2] == pytest.approx(math.exp(edge - rise))
            draw = process.posterior(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 2), 2, 1).sample()
            assert draw.isfinite().all()
        else:
            with pytest.raises(ValueError, match="no transition from s = 1 to t = 2"):
                ScaleSpaceProcess(noise, degradation)


def test_snr_that_rises_is_refused_with_both_sides_named():
    noise = LogSNR((math.inf, math.log(4.0), math.log(2.0), math.log(3.0), 0.0))
    message = (
        r"no transition from s = 2 to t = 3: SNR_t \* lambda_max\(M M\^T\) = 3 \* 1 exceeds SNR_s = 2; "
        "use a noise schedule whose SNR falls"
    )
    with pytest.raises(ValueError, match=message):
        ScaleSpaceProcess(noise, Unchanged((4, 4), 4))


def test_operator_that_amplifies_is_refused_with_both_sides_named():
    snr = LinearBeta().snr
    message = (
        rf"from s = 499 to t = 500: .* = {snr(500):.6g} \* 4 exceeds SNR_s = {snr(499):.6g}; .* stronger reduction"
    )
    with pytest.raises(ValueError, match=message):
        ScaleSpaceProcess(LinearBeta(), BlockSums())


@dataclass(frozen=True)
class BlurAtEveryStep(Degradation):
    """Blurs whose operators forget what was before s, or that claim other sizes."""

    kind: str
    timesteps: int = T
    change_points: tuple[int, ...] = tuple(range(2, T + 1))

    def size(self, t: int) -> Size:
        return (4, 5) if self.kind == "of another size" and t == 7 else (4, 4)

    def operator(self, s: int, t: int) -> LinearOperator:
        steps = sum(s < point <= t for point in self.change_points)
        if not steps:
            return Identity((4, 4))
        M = blur((4, 4))
        for _ in range(steps - 1 if self.kind != "forgetful" else 0):
            M = blur((4, 4)) @ M
        return M


def test_operators_that_do_not_compose_are_refused():
    noise = LinearBeta(T, 0.4, 0.9)
    ScaleSpaceProcess(noise, BlurAtEveryStep("sound"))
    with pytest.raises(
        UserError, match=r"do not compose at t = 3: the one from 2 to 3 after the one from 0 to 2 is off by"
    ):
        ScaleSpaceProcess(noise, BlurAtEveryStep("forgetful"))


def test_operators_of_other_sizes_than_they_should_have_are_refused():
    with pytest.raises(
        UserError,
        match=r"from s = 6 to t = 7 maps \(4, 4\) to \(4, 4\), where the degradation has \(4, 4\) and \(4, 5\)",
    ):
        ScaleSpaceProcess(LinearBeta(T, 0.4, 0.9), BlurAtEveryStep("of another size"))


def test_grids_of_two_lengths_are_refused():
    with pytest.raises(
        ValueError, match="noise schedule has 10 timesteps and the degradation 1000; give both the same"
    ):
        ScaleSpaceProcess(LinearBeta(10), Unchanged((4, 4)))


def test_pictures_of_another_size_are_refused():
    full, half = normal((8, 12)), normal((4, 6))
    for refused, message in (
        (lambda: PYRAMID.marginal(half, 5), r"x_0 has size \(4, 6\), but r\(0\) is \(8, 12\)"),
        (lambda: PYRAMID.transition(half, 3, 4), r"x_s has size \(4, 6\), but r\(3\) is \(8, 12\)"),
        (lambda: PYRAMID.posterior(full, full, 4, 3), r"x_t has size \(8, 12\), but r\(4\) is \(4, 6\)"),
        (lambda: PYRAMID.posterior(half, half, 4, 3), r"x0_s has size \(4, 6\), but r\(3\) is \(8, 12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.parametrize(("s", "t"), [(5, 5), (6, 5), (-1, 2), (2, T + 1)])
def test_steps_backwards_or_off_the_grid_are_refused(s, t):
    x = normal((4, 5))
    process = ScaleSpaceProcess(NOISE, Unchanged((4, 5), T))
    for refused in (lambda: process.transition(x, s, t), lambda: process.posterior(x, x, t, s)):
        with pytest.raises(ValueError, match=f"cannot go between s = {s} and t = {t}; need 0 <= s < t <= {T}"):
            refused()


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_runs_on_the_device_of_its_arguments(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    process = ScaleSpaceProcess(NOISE, Resizing(((8, 6), (4, 3), (3, 3), (1, 2)), POINTS, T))
    x_0, x_s, x_t = (torch.zeros(2, 3, *process.size(point), device=device) for point in (0, 3, 9))
    for gaussian in (
        process.marginal(x_0, 9),
        process.marginal(x_0, torch.tensor([9, 12])),
        process.transition(x_s, 3, 9),
        process.posterior(x_t, x_s, 9, 3),
    ):
        assert gaussian.sample().device.type == gaussian.covariance(gaussian.mean).device.type == device
