"""What diffusers' own tests ask of every scheduler, asked of this one. docs/diffusers.md lists them by their names."""

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.training_utils import compute_snr
from tests.small_models import CHANGE, TIMESTEPS, small_network, small_pipeline, small_scheduler
from torch import Tensor
from torch.testing import assert_close

from scalespace.diffusion.noise import ZeroTerminal
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

ONE_SIZE: dict[str, Any] = {"sizes": ((8, 8),), "change_points": ()}
ZERO_SNR: dict[str, Any] = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
PREDICTIONS = ("sample", "epsilon", "v_prediction")
SOLVERS = ("ancestral", "ddim", "multistep", "corrected")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed)).to(dtype)


def _one_size(**options: Any) -> ScaleSpaceScheduler:
    return ScaleSpaceScheduler(**({"sizes": ((4, 6),), "change_points": ()} | options))


def _step(scheduler: ScaleSpaceScheduler, timestep: int) -> Tensor:
    state = _normal(2, 3, *scheduler.process.size(timestep + 1))
    output = 1.5 * _normal(2, 3, *scheduler.target_size(timestep), seed=1)
    return scheduler.step(output, timestep, state, _generator(2)).prev_sample


def _chain(scheduler: Any, start: Tensor, target: tuple[int, int] | None = None) -> Tensor:
    """All of the timesteps in use, with a network that is a formula and depends on state and time."""
    state, generator = start, _generator(3)
    for timestep in scheduler.timesteps:
        size = target or scheduler.target_size(timestep)
        seen = torch.nn.functional.interpolate(state.float(), size).to(state.dtype)
        output = torch.sin(seen + 0.01 * float(timestep))
        extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        state = scheduler.step(output, timestep, state, **extra).prev_sample
    return state


# A saved configuration is the scheduler


def _configurations() -> Iterator[dict[str, Any]]:
    yield {}
    yield from ({"num_train_timesteps": count, **ONE_SIZE} for count in (1, 5, 1000))
    yield from ({"beta_start": start, "beta_end": end} for start, end in ((1e-4, 2e-3), (1e-2, 0.2), (0.1, 0.9)))
    yield from ({"beta_schedule": name} for name in ("linear", "squaredcos_cap_v2"))
    yield from ({"clip_sample": clip, "clip_sample_range": 0.7} for clip in (True, False))
    yield from ({"prediction_type": kind} for kind in PREDICTIONS)
    for largest in (0.5, 1.0, 2.0):
        yield from ({"prediction_type": p, "thresholding": True, "sample_max_value": largest} for p in PREDICTIONS)
    yield {"thresholding": True, "dynamic_thresholding_ratio": 0.5, "sample_max_value": 3.0}
    yield from ({"timestep_spacing": spacing} for spacing in ("linspace", "trailing", "log_snr"))
    yield from ({"solver": solver} for solver in SOLVERS)
    yield {"solver": "ddim", "eta": 0.4}
    yield {**ZERO_SNR, "shifted": True, "degradation": "orthonormal"}
    yield {**ZERO_SNR, "solver": "multistep", "sigma_data": 0.5}
    yield {**ONE_SIZE, "trained_betas": [0.1, 0.3, 0.2]}


@pytest.mark.parametrize("options", list(_configurations()), ids=str)
def test_a_loaded_scheduler_has_the_same_configuration_and_takes_the_same_steps(options: dict, tmp_path):
    before = {"num_train_timesteps": TIMESTEPS, "beta_start": 0.02, "beta_end": 0.4}
    sizes = {"sizes": ((8, 8), (4, 4)), "change_points": (CHANGE,)}
    scheduler = ScaleSpaceScheduler(**((sizes if "trained_betas" in options else before | sizes) | options))
    scheduler.save_pretrained(tmp_path)
    loaded = ScaleSpaceScheduler.from_pretrained(tmp_path)
    config = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
    assert config == dict(loaded.config)
    for timestep in {0, len(scheduler) // 2, len(scheduler) - 1}:
        stepped = _step(scheduler, timestep)
        assert stepped.isfinite().all()
        assert_close(stepped, _step(loaded, timestep), rtol=0, atol=0)
    if len(scheduler) > 5:
        scheduler.set_timesteps(6)
        loaded.set_timesteps(6)
        assert loaded.timesteps.tolist() == scheduler.timesteps.tolist()


def test_options_left_out_are_the_defaults_and_options_that_were_given_stay():
    scheduler = ScaleSpaceScheduler.from_config(ScaleSpaceScheduler(num_train_timesteps=1000, solver="ddim").config)
    assert (scheduler.config.solver, scheduler.config.timestep_spacing) == ("ddim", "linspace")
    changed = ScaleSpaceScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    assert (changed.config.solver, changed.config.timestep_spacing) == ("ddim", "trailing")
    again = ScaleSpaceScheduler.from_config(changed.config)
    assert again.config.timestep_spacing == "trailing"
    assert again.process == changed.process == scheduler.process


def test_an_option_that_is_not_known_is_told(tmp_path, caplog):
    scheduler = small_scheduler()
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(caplog.handler)
    try:
        other = ScaleSpaceScheduler.from_config({**scheduler.config, "unexpected": True})
    finally:
        logger.removeHandler(caplog.handler)
    assert "{'unexpected': True} were passed to ScaleSpaceScheduler, but are not expected" in caplog.text
    assert other.process == scheduler.process


@pytest.mark.parametrize("make", [small_scheduler, small_network, small_pipeline])
def test_attributes_are_found_and_options_are_read_from_the_configuration(make):
    part = make()
    part.dummy_attribute = 5
    assert part.dummy_attribute == 5
    assert part.save_pretrained == part.save_pretrained
    part.register_to_config(test_attribute=5)
    if not isinstance(part, ScaleSpacePipeline):
        with pytest.warns(FutureWarning, match="test_attribute"):
            assert part.test_attribute == 5
    with pytest.raises(AttributeError, match=f"'{type(part).__name__}' object has no attribute 'does_not_exist'"):
        _ = part.does_not_exist


@pytest.mark.parametrize("kind", [ScaleSpaceScheduler, FlexiUNet, ScaleSpacePipeline])
def test_every_argument_has_a_name_of_its_own_and_none_is_deprecated(kind: Any):
    parameters = inspect.signature(kind.__init__).parameters.values()
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)
    assert getattr(kind, "_deprecated_kwargs", []) == []


def test_another_solver_and_back_is_the_same_scheduler():
    scheduler = small_scheduler(solver="multistep", prediction_type="v_prediction")
    start = _normal(2, 3, 4, 4)
    scheduler.set_timesteps(8)
    expected, others = _chain(scheduler, start), []
    other: Any = scheduler
    for solver in SOLVERS:
        other = ScaleSpaceScheduler.from_config(other.config, solver=solver)
        other.set_timesteps(8)
        others.append(_chain(other, start))
    assert all((other - expected).abs().max() > 1e-3 for other in (others[0], others[1], others[3]))
    assert_close(others[2], expected, rtol=0, atol=0)


# The interface


def test_what_pipelines_read_is_there():
    scheduler = small_scheduler()
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.order == 1
    assert len(scheduler) == scheduler.config.num_train_timesteps == TIMESTEPS
    sample = _normal(2, 3, 4, 4)
    assert scheduler.scale_model_input(sample, 3) is sample


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tuple_holds_what_the_object_does_in_the_shape_of_the_prediction(solver: str):
    for timestep, size in ((0, 8), (1, 8), (CHANGE - 1, 8), (CHANGE, 4)):
        scheduler = small_scheduler(solver=solver)
        state, output = _normal(4, 3, *scheduler.process.size(timestep + 1)), _normal(4, 3, size, size, seed=1)
        given = (output, timestep, state)
        held = small_scheduler(solver=solver).step(*given, _generator())
        pair = scheduler.step(*given, _generator(), return_dict=False)
        assert_close(pair, (held.prev_sample, held.pred_original_sample), rtol=0, atol=0)
        assert held.prev_sample.shape == output.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_is_added_in_the_number_format_of_the_pictures_at_times_of_any_form(dtype: torch.dtype):
    scheduler = small_scheduler()
    pictures, noise = _normal(4, 3, 8, 8, dtype=dtype), _normal(4, 3, 8, 8, seed=1, dtype=dtype)
    one = scheduler.add_noise(pictures, noise, 5)
    alpha, sigma = scheduler.alphas_cumprod[5] ** 0.5, (1 - scheduler.alphas_cumprod[5]) ** 0.5
    assert one.dtype == dtype
    assert_close(one.float(), alpha * pictures.float() + sigma * noise.float(), rtol=0, atol=0.05)
    for times in (torch.tensor(5), torch.tensor([5]), torch.full((4,), 5), torch.full((4,), 5, dtype=torch.int32)):
        assert_close(scheduler.add_noise(pictures, noise, times), one, rtol=0, atol=4 * torch.finfo(dtype).eps)
    scheduler.set_timesteps(6)
    assert scheduler.add_noise(pictures, noise, scheduler.timesteps[-2][None]).shape == pictures.shape
    small = scheduler.add_noise(pictures, _normal(4, 3, 4, 4, dtype=dtype), scheduler.timesteps[0][None])
    assert (small.shape, small.dtype) == ((4, 3, 4, 4), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_chain_in_half_precision_stays_in_half_precision(solver: str, dtype: torch.dtype):
    scheduler = small_scheduler(solver=solver, thresholding=True, dynamic_thresholding_ratio=0.0)
    scheduler.set_timesteps(10)
    drawn = _chain(scheduler, _normal(2, 3, 4, 4, dtype=dtype))
    assert drawn.dtype == dtype
    assert drawn.isfinite().all()


@pytest.mark.parametrize(
    ("spacing", "counts"), [("linspace", (2, 3, 5, 20)), ("trailing", (1, 2, 3, 5, 20)), ("log_snr", (3, 5, 20))]
)
def test_any_number_of_steps_makes_a_chain_without_repetition(spacing: str, counts: tuple[int, ...]):
    for count in counts:
        scheduler = small_scheduler(timestep_spacing=spacing, solver="multistep")
        scheduler.set_timesteps(count)
        timesteps = scheduler.timesteps.tolist()
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert len(timesteps) == scheduler.num_inference_steps >= count
        assert_close(_chain(scheduler, _normal(1, 3, 4, 4)).shape, (1, 3, 8, 8))
    assert scheduler.num_inference_steps == TIMESTEPS


def test_steps_trail_as_in_diffusers():
    for count in (1, 3, 7, 10, 50, 1000):
        ours, theirs = _one_size(timestep_spacing="trailing"), DDIMScheduler(timestep_spacing="trailing")
        ours.set_timesteps(count)
        theirs.set_timesteps(count)
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    changes = ScaleSpaceScheduler(timestep_spacing="trailing")
    changes.set_timesteps(10)
    assert {437, 438, 749, 750, 936, 937} <= set(changes.timesteps.tolist())


# Timesteps by hand


def test_every_timestep_chosen_by_hand_leads_to_the_next_one():
    scheduler, chosen = ScaleSpaceScheduler(), [900, 870, 500, 100, 87, 50, 1, 0]
    for timesteps in (chosen, torch.tensor(chosen), np.array(chosen)):
        scheduler.set_timesteps(timesteps=timesteps)
        assert scheduler.timesteps.tolist() == chosen
        assert [scheduler.previous_timestep(timestep) for timestep in chosen] == [*chosen[1:], -1]
        assert [scheduler.previous_timestep(timestep).item() for timestep in scheduler.timesteps] == [*chosen[1:], -1]


def test_timesteps_by_hand_that_a_number_would_have_made_draw_the_same():
    for solver in SOLVERS:
        for prediction in PREDICTIONS:
            left = small_scheduler(solver=solver, prediction_type=prediction)
            right = small_scheduler(solver=solver, prediction_type=prediction)
            left.set_timesteps(8)
            right.set_timesteps(timesteps=left.timesteps)
            start = _normal(1, 3, 4, 4)
            assert_close(_chain(left, start), _chain(right, start), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timesteps": [10, 8, 5, 6, 0]}, "timesteps are 10, 8, 5, 6, 0; give numbers from 19 to 0, each smaller"),
        ({"timesteps": [TIMESTEPS]}, "timesteps are 20; give numbers from 19 to 0"),
        ({"timesteps": [3, -1]}, "timesteps are 3, -1; give numbers from 19 to 0"),
        ({"timesteps": []}, "timesteps are none; give numbers"),
        ({"timesteps": [3, 2], "num_inference_steps": 2}, "and both were given; give one of them"),
        ({}, "and neither was given; give one of them"),
    ],
)
def test_timesteps_by_hand_that_make_no_chain_are_refused(options: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        small_scheduler().set_timesteps(**options)


# Betas


@pytest.mark.parametrize("options", [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"beta_start": 0.01, "beta_end": 0.2}])
def test_with_one_size_the_tables_are_those_of_diffusers(options: dict):
    ours, theirs = _one_size(**options), DDPMScheduler(**options)
    for name in ("alphas_cumprod", "alphas", "betas"):
        table = getattr(ours, name)
        assert (table.shape, table.dtype) == ((1000,), torch.float32)
        assert_close(table, getattr(theirs, name), rtol=1e-5, atol=2e-6)
    times = torch.tensor([0, 10, 999])
    assert_close(compute_snr(ours, times).double(), ours.process.noise.snr(times + 1), rtol=1e-3, atol=1e-30)


def test_betas_given_one_by_one_are_the_noise_and_are_saved(tmp_path):
    betas = np.array([0.1, 0.3, 0.05])
    scheduler = _one_size(trained_betas=betas)
    scheduler.save_pretrained(tmp_path)
    loaded = ScaleSpaceScheduler.from_pretrained(tmp_path)
    assert scheduler.betas.tolist() == loaded.betas.tolist()
    assert_close(scheduler.betas, torch.tensor([0.1, 0.3, 0.05]))
    assert_close(scheduler.alphas_cumprod, DDPMScheduler(trained_betas=betas).alphas_cumprod.float())
    assert len(loaded) == loaded.config.num_train_timesteps == 3
    changing = ScaleSpaceScheduler(trained_betas=[0.2] * 10, sizes=((8, 8), (4, 4)), change_points=(6,))
    assert changing.sizes == ((8, 8), (4, 4))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trained_betas": [0.1, 1.0]}, r"beta 2 is 1.0; every beta adds noise and keeps some signal"),
        ({"trained_betas": [0.0, 0.5]}, r"beta 1 is 0.0; every beta adds noise"),
        ({"trained_betas": []}, "process of 0 timesteps"),
        ({"trained_betas": [0.1, 0.2], "beta_end": 0.5}, r"trained_betas of 2 numbers was given, and beta_end besides"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 7}, "and num_train_timesteps besides, which describe"),
        ({"beta_end": 2.0}, "beta_end is 2.0"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "epsilon"},
            "epsilon.* tells nothing of the picture where",
        ),
        ({"rescale_betas_zero_snr": True, "num_train_timesteps": 1}, "1 timestep cannot end without signal and begin"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio is 1.5; give a share"),
        ({"thresholding": True, "dynamic_thresholding_ratio": float("nan")}, "dynamic_thresholding_ratio is nan"),
        ({"thresholding": True, "sample_max_value": 0.0}, "sample_max_value is 0.0; give a number above 0"),
        ({"timestep_spacing": "leading"}, "is unknown; use one of linspace, trailing, log_snr"),
        ({"process": small_scheduler().process, "trained_betas": [0.1]}, "a process was given, and .*trained_betas"),
        ({"process": small_scheduler().process, "rescale_betas_zero_snr": True}, "a process was given, and .*rescale"),
    ],
)
def test_options_that_have_no_meaning_are_one_sentence(options: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as raised:
        ScaleSpaceScheduler(**(({} if "process" in options else ONE_SIZE) | options))
    assert "\n" not in str(raised.value)


def test_noise_can_be_stretched_until_nothing_is_left_at_the_last_timestep():
    scheduler = _one_size(**ZERO_SNR)
    expected = 1 - rescale_zero_terminal_snr(DDPMScheduler().betas)
    assert_close(scheduler.alphas_cumprod, expected.cumprod(0), rtol=0, atol=1e-6)
    assert scheduler.alphas_cumprod[-1] == 2.0**-24
    assert scheduler.alphas_cumprod[0] == _one_size().alphas_cumprod[0]
    assert scheduler.process.noise == ZeroTerminal(_one_size().process.noise)
    for solver in SOLVERS:
        for shifted in (False, True):
            other = ScaleSpaceScheduler(
                **ZERO_SNR, solver=solver, shifted=shifted, sizes=((8, 8), (4, 4)), change_points=(300,)
            )
            other.set_timesteps(6)
            drawn = _chain(other, _normal(1, 3, 4, 4))
            assert drawn.abs().max() <= 1


# Bounds of predictions


def test_thresholding_is_that_of_diffusers_of_each_picture_by_itself():
    pictures = _normal(3, 3, 8, 8) * torch.tensor([0.2, 1.0, 4.0]).reshape(3, 1, 1, 1)
    for ratio, largest in ((0.995, 1.0), (0.9, 2.0), (0.0, 2.0), (1.0, 100.0), (0.5, 0.5)):
        options: dict[str, Any] = {
            "dynamic_thresholding_ratio": ratio,
            "sample_max_value": largest,
            "thresholding": True,
        }
        theirs = DDPMScheduler(**options)._threshold_sample(pictures)
        ours = small_scheduler(**options).step(pictures, 3, pictures).pred_original_sample
        assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    alone = small_scheduler(**options).step(pictures[1:2], 3, pictures[1:2]).pred_original_sample
    assert_close(ours[1:2], alone, rtol=0, atol=0)
    clipped = small_scheduler(thresholding=True).step(pictures, 3, pictures).pred_original_sample
    assert_close(clipped, pictures.clamp(-1, 1), rtol=0, atol=0)


# Whole chains


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_chain_is_that_of_ddim(prediction: str, eta: float):
    ours = _one_size(solver="ddim", eta=eta, prediction_type=prediction, timestep_spacing="trailing")
    theirs = DDIMScheduler(prediction_type=prediction, timestep_spacing="trailing")
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    step = theirs.step

    def with_eta(output: Tensor, timestep: Tensor, sample: Tensor, generator: torch.Generator) -> Any:
        # Else what was clipped off a prediction stays in the noise.
        return step(output, timestep, sample, eta=eta, use_clipped_model_output=True, generator=generator)

    theirs.step = with_eta
    start = _normal(2, 3, 4, 6)
    for begin in (0, 8):
        # From the middle of a chain with a picture to which noise was added, as in changing pictures.
        if begin:
            noise = _normal(2, 3, 4, 6, seed=5)
            start = ours.add_noise(torch.tanh(start), noise, ours.timesteps[begin : begin + 1])
            ours.set_timesteps(timesteps=ours.timesteps[begin:])
            theirs.timesteps = theirs.timesteps[begin:]
        left, right = _chain(ours, start), _chain(theirs, start, (4, 6))
        assert left.std() > 0.01
        assert_close(left, right, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "bounds", [{}, {"thresholding": True, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}]
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_chain_of_second_order_is_that_of_dpm_solver(prediction: str, bounds: dict):
    ours = _one_size(solver="multistep", clip_sample=False, prediction_type=prediction, **bounds)
    theirs: Any = DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=prediction,
        final_sigmas_type="zero",
        lower_order_final=True,
        **bounds,
    )
    ours.set_timesteps(10)
    theirs.set_timesteps(timesteps=ours.timesteps.tolist())
    start = _normal(2, 3, 4, 6)
    assert_close(_chain(ours, start), _chain(theirs, start, (4, 6)), rtol=1e-3, atol=1e-3)
