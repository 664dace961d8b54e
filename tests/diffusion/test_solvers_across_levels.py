"""DDIM and Multistep: their family, their parity with diffusers, and what they do to noise across resolutions."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.degradation import Degradation, OrthonormalResizing, Resizing, Unchanged
from scalespace.diffusion.denoiser import dense
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Identity

SIZES, CHANGES, T = ((6, 8), (4, 5), (2, 3)), (4, 9), 12
NOISE = LinearBeta(T, 0.05, 0.6)


@dataclass(frozen=True)
class BoxAverage(Degradation):
    """No closed form known to the package, so that everything goes through Lanczos."""

    timesteps: int = T
    change_points: tuple[int, ...] = (6,)

    def size(self, t):
        return (6, 8) if t < 6 else (3, 4)

    def operator(self, s, t):
        if self.size(s) == self.size(t):
            return Identity(self.size(t))
        return FunctionOperator(
            lambda x: x.unflatten(-1, (4, 2)).unflatten(-3, (3, 2)).mean((-1, -3)), self.size(s), self.size(t)
        )


DEGRADATIONS = [Resizing(SIZES, CHANGES, T), OrthonormalResizing(SIZES, CHANGES, T), BoxAverage()]
PROCESSES = [ScaleSpaceProcess(noise, d) for d in DEGRADATIONS for noise in (NOISE, Shifted(NOISE, d))]
STEPS = [(9, 8), (9, 3), (6, 5), (5, 4), (12, 2), (3, 0)]


def linear_parts(solver, process, t, s):
    """Matrices of a step in the noise eps_t (at x0_s = 0) and in the fresh noise, shape (n_s, n_t) and (n_s, n_s)."""
    eye = {
        p: torch.eye(p_size, dtype=torch.float64) for p, p_size in ((t, pixels(process, t)), (s, pixels(process, s)))
    }
    states, noises = (eye[p].unflatten(-1, process.size(p))[:, None] for p in (t, s))
    zeros = states.new_zeros(len(states), 1, *process.size(s))
    carried = solver.step(states * process.noise.sigma(t), zeros, t, s, zeros)
    fresh = solver.step(states.new_zeros(len(noises), 1, *process.size(t)), 0 * noises, t, s, noises)
    return carried.flatten(1).mT, fresh.flatten(1).mT


def pixels(process, t):
    height, width = process.size(t)
    return height * width


@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("process", PROCESSES)
def test_ddim_with_eta_one_is_the_ancestral_step(process, t, s):
    x_t, x0_s, noise = normal(process.size(t), 0), normal(process.size(s), 1), normal(process.size(s), 2)
    expected = Ancestral(process).step(x_t, x0_s, t, s, noise)
    assert_close(DDIM(process, eta=1.0).step(x_t, x0_s, t, s, noise), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_noise_of_a_step_keeps_the_marginal(process, t, s, eta):
    carried, fresh = linear_parts(DDIM(process, eta), process, t, s)
    identity = torch.eye(pixels(process, s), dtype=torch.float64)
    assert_close(carried @ carried.mT + fresh @ fresh.mT, process.noise.sigma(s) ** 2 * identity, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("t", "s"), [(9, 8), (9, 3), (6, 5), (4, 3)])
@pytest.mark.parametrize("process", PROCESSES)
def test_lift_is_a_partial_isometry_that_the_forward_map_undoes(process, t, s):
    L = linear_parts(DDIM(process), process, t, s)[0] / process.noise.sigma(s)
    identity = torch.eye(pixels(process, t), dtype=torch.float64)
    assert_close(L.mT @ L, identity, rtol=0, atol=1e-10)
    # M is its polar factor times a positive matrix, so that M L is (M M^T)^(1/2): what is carried up comes down again.
    M = dense(process.degradation.operator(s, t))
    root = M @ L
    assert_close(root @ root, M @ M.mT, rtol=0, atol=1e-10)
    assert (torch.linalg.eigvalsh(root) > 0).all()


def test_ddim_needs_no_inequality():
    # From t = 9 straight to 1 and back in the other noise; any order of SNR will do for a deterministic step.
    process = PROCESSES[0]
    x_t, x0_s = normal(process.size(9), 0), normal(process.size(1), 1)
    assert DDIM(process).step(x_t, x0_s, 9, 1, torch.zeros_like(x0_s)).isfinite().all()


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_ddim_refuses_other_etas(eta):
    with pytest.raises(ValueError, match="eta is"):
        DDIM(PROCESSES[0], eta)


PLAIN = ScaleSpaceProcess(LinearBeta(1000), Unchanged((4, 4)))
GRID = tuple(range(1000, 0, -50))


def predictor(x, t):
    """A nonlinear stand-in for a network."""
    return torch.tanh(x * (1 + t / 1000))


def chain(solver):
    x = normal((4, 4), 3, batch=(2, 3))
    for t, s in pairwise((*GRID, 0)):
        x = solver.step(x, predictor(x, t), t, s, torch.zeros_like(x))
    return x


def diffusers_chain(scheduler):
    x = normal((4, 4), 3, batch=(2, 3))
    for index in scheduler.timesteps:
        x = scheduler.step(predictor(x, int(index) + 1), int(index), x).prev_sample
    return x


def test_ddim_equals_diffusers():
    theirs = DDIMScheduler(
        beta_start=1e-4, beta_end=2e-2, prediction_type="sample", clip_sample=False, set_alpha_to_one=True
    )
    theirs.alphas_cumprod = PLAIN.noise.alpha(torch.arange(1, 1001)) ** 2
    # "trailing" puts 20 steps at the indices 999, 949, ..., 49.
    theirs = theirs.from_config(theirs.config, timestep_spacing="trailing")
    theirs.alphas_cumprod = PLAIN.noise.alpha(torch.arange(1, 1001)) ** 2
    theirs.set_timesteps(len(GRID))
    assert (theirs.timesteps + 1).tolist() == list(GRID)
    assert_close(chain(DDIM(PLAIN)), diffusers_chain(theirs), rtol=0, atol=1e-5)


# diffusers' own way of making an array of a tensor.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_multistep_equals_diffusers():
    theirs = DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=2e-2,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(timesteps=[t - 1 for t in GRID])
    # Its own table is float32; ours in its place, so that the formulas are compared and not the roundings.
    noise = PLAIN.noise
    theirs.sigmas = torch.tensor([noise.sigma(t) / noise.alpha(t) for t in GRID] + [0.0], dtype=torch.float64)
    assert_close(chain(Multistep(PLAIN)), diffusers_chain(theirs), rtol=0, atol=1e-5)


def test_multistep_is_second_order_inside_a_level_and_forgets_at_a_change():
    process = PROCESSES[1]
    solver, grid = Multistep(process), (12, 11, 10, 9, 8, 7, 6)
    x, ddim_like = normal(process.size(12), 0), []
    for t, s in pairwise(grid):
        x0_s, noise = normal(process.size(s), t), normal(process.size(s), 100 + t)
        after = solver.step(x, x0_s, t, s, noise)
        ddim_like.append(torch.allclose(after, DDIM(process).step(x, x0_s, t, s, noise), rtol=0, atol=1e-12))
        x = after
    # The first step, the change from 9 to 8, and the step after it have no history.
    assert ddim_like == [True, False, False, True, True, False]


@pytest.mark.parametrize("kind", [Multistep, Corrected])
def test_a_step_goes_on_from_the_last_one_only_where_that_ended(kind):
    solver, x = kind(PLAIN), normal((4, 4), 0)
    for t, s in ((900, 800), (800, 0)):
        solver.step(x, normal((4, 4), t), t, s, x)
    # Another chain, a gap, a step that overlaps the last one, and one that is taken twice.
    for t, s in ((900, 800), (790, 700), (750, 650), (750, 650)):
        step = x, normal((4, 4), t), t, s, x
        assert_close(solver.step(*step), DDIM(PLAIN).step(*step), rtol=0, atol=1e-12)
    step = x, normal((4, 4), 1), 650, 500, x
    assert not torch.allclose(solver.step(*step), DDIM(PLAIN).step(*step), rtol=0, atol=1e-2)


def test_corrected_steps_are_exact_where_the_prediction_is_a_line_in_lambda():
    noise = PLAIN.noise
    lamb = [noise.log_snr(t) / 2 for t in GRID]
    first, slope = normal((4, 4), 1, batch=(2, 3)), normal((4, 4), 2, batch=(2, 3))
    solver, x = Corrected(PLAIN), normal((4, 4), 3, batch=(2, 3))
    start = x
    for t, s, at in zip(GRID, GRID[1:], lamb, strict=False):
        x = solver.step(x, first + slope * at, t, s, torch.zeros_like(x))
    # x_s / sigma_s = x_t / sigma_t + the integral of e^lambda x0(lambda): of a line, e^lambda (x0 - slope).
    before, after = (math.exp(at) * (first + slope * (at - 1)) for at in (lamb[0], lamb[-2]))
    exact = noise.sigma(GRID[-2]) * (start / noise.sigma(GRID[0]) + after - before)
    assert_close(solver._before[2], exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_corrected_begins_anew_after_a_change(process):
    change = process.degradation.change_points[-1]
    grid = (12, 11, change, change - 1)
    solver, x = Corrected(process), normal(process.size(12), 0)
    for t, s in pairwise(grid):
        x = solver.step(x, normal(process.size(s), t), t, s, normal(process.size(s), 100 + t))
    after = (x, normal(process.size(change - 2), 1), change - 1, change - 2, x)
    assert_close(solver.step(*after), Multistep(process).step(*after))


@pytest.mark.parametrize("process", PROCESSES)
def test_corrected_takes_the_step_before_a_change_again_with_what_the_change_predicts(process):
    change = process.degradation.change_points[-1]
    solver, x = Corrected(process), normal(process.size(12), 0)
    x0_t, x0_s = normal(process.size(12), 1), normal(process.size(change - 1), 2)
    state = solver.step(x, x0_t, 12, change, x)
    crossed = solver.step(state, x0_s, change, change - 1, torch.zeros_like(x0_s))
    noise, again = process.noise, process.degradation.operator(change - 1, change)(x0_s)
    h = (noise.log_snr(change) - noise.log_snr(12)) / 2
    share = 1 - (1 - math.exp(-h)) / h
    mean = (1 - math.exp(-h)) * x0_t + share * (again - x0_t)
    state = noise.sigma(change) / noise.sigma(12) * x + noise.alpha(change) * mean
    expected = DDIM(process).step(state, x0_s, change, change - 1, torch.zeros_like(x0_s))
    assert_close(crossed, expected, rtol=0, atol=1e-10)
