import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from tests.golden_vectors import golden_case
from tests.small_models import CHANGE, TIMESTEPS, small_scheduler
from torch.testing import assert_close

from scalespace.diffusion.degradation import Blurring
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

BLUR = {"degradation": "blurring", "sizes": ((8, 8),), "change_points": (), "prediction_type": "epsilon"}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _both(beta_schedule: str = "linear", steps: int = 1000) -> tuple[ScaleSpaceScheduler, DDPMScheduler]:
    ours = ScaleSpaceScheduler(beta_schedule=beta_schedule, sizes=((4, 6),), change_points=())
    ddpm = DDPMScheduler(
        beta_schedule=beta_schedule,
        beta_start=1e-4,
        beta_end=2e-2,
        prediction_type="sample",
        variance_type="fixed_small",
        timestep_spacing="linspace",
    )
    # It keeps its tables in float32, where 1 - alpha^2 of the first grid points has three digits left; the formulas are
    # compared, so it gets the same tables in float64.
    if beta_schedule == "linear":
        ddpm.betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    else:
        bar = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
        betas = [min(1 - after / before, 0.999) for before, after in pairwise(bar)]
        assert_close(ddpm.betas, torch.tensor(betas), rtol=1e-3, atol=1e-7)
        ddpm.betas = torch.tensor(betas, dtype=torch.float64)
    ddpm.alphas = 1 - ddpm.betas
    ddpm.alphas_cumprod = ddpm.alphas.cumprod(0)
    ddpm.one = torch.tensor(1.0, dtype=torch.float64)
    ours.set_timesteps(steps)
    ddpm.set_timesteps(steps)
    return ours, ddpm


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1000, 50])
def test_with_one_size_every_step_is_ddpm(beta_schedule: str, steps: int):
    ours, ddpm = _both(beta_schedule, steps)
    assert ours.timesteps.tolist() == ddpm.timesteps.tolist()
    sample, prediction = torch.randn(2, 2, 3, 4, 6, generator=_generator())
    for timestep in ours.timesteps[:: steps // 25]:
        left = ours.step(prediction, timestep, sample, _generator(1))
        right = ddpm.step(prediction, int(timestep), sample, _generator(1))
        assert_close(left.prev_sample, right.prev_sample, rtol=0, atol=1e-6)
        assert_close(left.pred_original_sample, right.pred_original_sample, rtol=0, atol=0)


def test_with_one_size_a_whole_chain_is_ddpm():
    ours, ddpm = _both(steps=200)
    states = [torch.randn(2, 3, 4, 6, generator=_generator())] * 2
    generators = [_generator(1), _generator(1)]
    for timestep in ours.timesteps.tolist():
        states = [
            scheduler.step(torch.tanh(state / 2), timestep, state, generator).prev_sample
            for scheduler, state, generator in zip((ours, ddpm), states, generators, strict=True)
        ]
    assert states[0].std() > 0.01
    assert_close(states[0], states[1], rtol=0, atol=1e-5)


def test_with_one_size_noising_is_ddpm():
    ours, ddpm = _both()
    x_0, noise = torch.randn(2, 4, 3, 4, 6, generator=_generator(), dtype=torch.float64)
    times = torch.tensor([0, 10, 500, 999])
    assert_close(ours.add_noise(x_0, noise, times), ddpm.add_noise(x_0, noise, times), rtol=0, atol=1e-6)


def test_fewer_steps_keep_both_points_of_every_change():
    scheduler = ScaleSpaceScheduler()
    scheduler.set_timesteps(50)
    spaced = {round(i * 999 / 49) for i in range(50)}
    assert scheduler.timesteps.tolist() == sorted(spaced | {437, 438, 749, 750, 936, 937}, reverse=True)
    assert scheduler.num_inference_steps == len(scheduler.timesteps) == 56


@pytest.mark.parametrize("spacing", ["linspace", "log_snr"])
def test_of_a_blur_no_point_is_kept_besides(spacing: str):
    scheduler = small_scheduler(**BLUR, timestep_spacing=spacing)
    scheduler.set_timesteps(5)
    assert len(scheduler.timesteps) == 5


def test_a_saved_blur_is_the_same_blur(tmp_path):
    scheduler = small_scheduler(**BLUR, sigma_blur=3.0)
    scheduler.save_pretrained(tmp_path)
    loaded = ScaleSpaceScheduler.from_pretrained(tmp_path)
    assert loaded.process == scheduler.process
    assert loaded.process.degradation == Blurring((8, 8), TIMESTEPS, 3.0)


def test_fewer_steps_are_those_of_the_released_code():
    case = golden_case("respaced50_64_4L")
    scheduler = ScaleSpaceScheduler(released_quirks=True)
    scheduler.set_timesteps(50)
    assert tuple(sorted(scheduler.timesteps.tolist())) == case.timestep_map
    assert [scheduler.process.size(i + 1)[0] for i in case.timestep_map] == list(case.resolution_of_t)


@pytest.mark.parametrize("steps", [-1, 0, 1, TIMESTEPS + 1])
def test_refuses_step_counts_outside_the_process(steps: int):
    with pytest.raises(ValueError, match=f"from 2 to {TIMESTEPS}"):
        small_scheduler().set_timesteps(steps)


def test_target_size_is_the_size_of_the_next_state():
    scheduler = small_scheduler()
    assert {i: scheduler.target_size(i) for i in (CHANGE, CHANGE - 1, CHANGE - 2)} == {
        CHANGE: (4, 4),
        CHANGE - 1: (8, 8),
        CHANGE - 2: (8, 8),
    }
    assert scheduler.noise_size == (4, 4)
    assert scheduler.image_size == (8, 8)
    assert len(scheduler) == TIMESTEPS


def test_a_step_is_the_posterior_with_the_clipped_prediction():
    scheduler = small_scheduler()
    x_t, x0_s = torch.randn(2, 3, 4, 4, generator=_generator()), torch.randn(2, 3, 8, 8, generator=_generator(1))
    output = scheduler.step(x0_s, CHANGE - 1, x_t, _generator(2))
    noise = torch.randn(2, 3, 8, 8, generator=_generator(2))
    posterior = scheduler.process.posterior(x_t, x0_s.clamp(-1, 1), CHANGE, CHANGE - 1)
    assert_close(output.prev_sample, posterior.draw(noise), rtol=0, atol=0)
    assert_close(output.pred_original_sample, x0_s.clamp(-1, 1), rtol=0, atol=0)
    unclipped = small_scheduler(clip_sample=False).step(x0_s, CHANGE - 1, x_t, _generator(2), return_dict=False)
    assert_close(unclipped[1], x0_s, rtol=0, atol=0)


def test_a_list_of_generators_has_one_for_each_picture():
    scheduler = small_scheduler()
    x_t, x0_s = torch.randn(2, 3, 3, 8, 8, generator=_generator())
    together = scheduler.step(x0_s, 3, x_t, [_generator(i) for i in range(3)]).prev_sample
    alone = [scheduler.step(x0_s[i : i + 1], 3, x_t[i : i + 1], _generator(i)).prev_sample for i in range(3)]
    assert_close(together, torch.cat(alone), rtol=0, atol=0)


def test_add_noise_is_the_marginal_at_the_resolution_of_the_timestep():
    scheduler, i = small_scheduler(), CHANGE
    x_0, noise = torch.randn(2, 3, 8, 8, generator=_generator()), torch.randn(2, 3, 4, 4, generator=_generator(1))
    M = scheduler.process.degradation.operator(0, i + 1)
    expected = scheduler.process.noise.alpha(i + 1) * M(x_0) + scheduler.process.noise.sigma(i + 1) * noise
    assert_close(scheduler.add_noise(x_0, noise, torch.tensor([i, i])), expected)
    assert_close(scheduler.add_noise(x_0, noise, i), expected)
    with pytest.raises(ValueError, match="differ in resolution"):
        scheduler.add_noise(x_0, noise, torch.tensor([0, i]))


def test_sampling_ends_on_the_clean_prediction():
    x_1, x0 = torch.randn(2, 1, 3, 8, 8, generator=_generator())
    assert_close(small_scheduler().step(x0, 0, x_1).prev_sample, x0.clamp(-1, 1), rtol=0, atol=0)


def test_released_code_ends_on_the_state_of_the_first_grid_point():
    x_1, x0 = torch.randn(2, 1, 3, 8, 8, generator=_generator())
    scheduler = small_scheduler(released_quirks=True)
    assert_close(scheduler.step(x0, 0, x_1).prev_sample, x_1, rtol=0, atol=0)
    # Nowhere else does it differ.
    left = scheduler.step(x0, 5, x_1, _generator(1)).prev_sample
    assert_close(left, small_scheduler().step(x0, 5, x_1, _generator(1)).prev_sample, rtol=0, atol=0)


def test_a_saved_configuration_makes_the_same_scheduler(tmp_path):
    scheduler = small_scheduler(released_quirks=True, clip_sample_range=2.0, beta_schedule="squaredcos_cap_v2")
    scheduler.save_pretrained(tmp_path)
    loaded = ScaleSpaceScheduler.from_pretrained(tmp_path)
    assert loaded.sizes == scheduler.sizes
    assert loaded.process == scheduler.process
    x_1, x0 = torch.randn(2, 1, 3, 8, 8, generator=_generator())
    for i in (0, 4):
        left, right = (s.step(x0, i, x_1, _generator(1)).prev_sample for s in (scheduler, loaded))
        assert_close(left, right, rtol=0, atol=0)


def test_no_other_scheduler_takes_its_configuration():
    assert ScaleSpaceScheduler().compatibles == []


def test_refuses_a_timestep_that_is_not_in_use():
    scheduler = small_scheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"timestep 3 is not one of the 4 timesteps in use; take them from"):
        scheduler.step(torch.zeros(1, 3, 8, 8), 3, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prediction_type": "flow"}, 'prediction_type "flow" is unknown; use one of sample, epsilon, v_prediction'),
        ({"prediction_type": "v_prediction", "sigma_data": -1.0}, "sigma_data is -1.0"),
        ({"beta_schedule": "sigmoid"}, '"sigmoid" is unknown; use one of linear, scaled_linear, squaredcos_cap_v2'),
        ({"sizes": ((8, 8),)}, "give one size more than change points"),
        (BLUR | {"sizes": ((8, 8), (4, 4))}, "blurring keeps one resolution, and 2 sizes and 0 change points"),
        (BLUR | {"change_points": (5,)}, "blurring keeps one resolution, and 1 sizes and 1 change points"),
        (BLUR | {"prediction_type": "sample"}, 'prediction_type "sample" does not go with blurring'),
        (BLUR | {"prediction_type": "v_prediction"}, 'prediction_type "v_prediction" does not go with blurring'),
        (BLUR | {"solver": "multistep"}, 'solver "multistep" needs steps that change nothing but the noise'),
        (BLUR | {"solver": "corrected"}, 'solver "corrected" needs steps that change nothing but the noise'),
        (BLUR | {"sigma_blur": -1.0}, "give a blur of 0 to 8192 pixels"),
    ],
)
def test_refuses_options_that_make_no_process(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        small_scheduler(**options)


def test_chain_with_changes_visits_every_size_and_keeps_the_noise_in_bounds():
    scheduler = small_scheduler()
    sample, sizes = torch.randn(1, 3, *scheduler.noise_size, generator=_generator()), []
    scheduler.set_timesteps(TIMESTEPS)
    for timestep in scheduler.timesteps:
        prediction = torch.full((1, 3, *scheduler.target_size(timestep)), 0.25)
        sample = scheduler.step(prediction, timestep, scheduler.scale_model_input(sample, timestep)).prev_sample
        sizes.append(tuple(sample.shape[-2:]))
    assert sizes == [(4, 4)] * (TIMESTEPS - CHANGE) + [(8, 8)] * CHANGE
    assert_close(sample, torch.full((1, 3, 8, 8), 0.25), rtol=0, atol=0)
