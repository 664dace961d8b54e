import dataclasses
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from tests.small_models import small_config

from scalespace.commands import evaluate, sample
from scalespace.diffusion.degradation import Blurring
from scalespace.diffusion.loss import ConstantWeight, MaxSNR, MinSNR, SNRWeight, VelocityWeight
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.prediction import Epsilon, Sample, Velocity
from scalespace.diffusion.resolution import ChangesAt, ConvexDecay, Equal, SigmoidLike, TanhLike
from scalespace.errors import UserError
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.build import build_network, build_scheduler, loss_weight
from scalespace.training.configuration import (
    PRESETS,
    ModelConfig,
    NetworkConfig,
    ProcessConfig,
    TransformerConfig,
    preset,
)


def _process(**changes: Any) -> ModelConfig:
    return ModelConfig(ProcessConfig(**changes))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_its_name_says_what_it_is(name: str):
    model = preset(name)
    scheduler = build_scheduler(model)
    with torch.device("meta"):
        network = build_network(model, scheduler.sizes)
    assert network.sizes == scheduler.sizes
    if not name.startswith("tiny"):
        pixels, levels = name.lstrip("abcdefghijklmnopqrstuvwxyz").removesuffix("l").split("-")
        assert scheduler.sizes == tuple((int(pixels) >> level,) * 2 for level in range(int(levels)))
        assert scheduler.process.timesteps == 1000
    # The paper's behaviour is a preset away.
    paper = name.startswith(("celeba", "imagenet"))
    assert (model.process.shifted, model.solver) == ((False, "ancestral") if paper else (True, "corrected"))
    assert network.num_classes == (1000 if name.startswith("imagenet") else None)
    assert isinstance(network, FlexiTransformer) == ("transformer" in name)


def test_the_transformers_of_presets_have_as_many_parameters_as_their_u_nets():
    for unet, transformer in (("tiny", "tiny-transformer"), ("shifted64-4l", "transformer64-4l")):
        counts = []
        for name in (unet, transformer):
            sizes = build_scheduler(preset(name)).sizes
            with torch.device("meta"):
                network = build_network(preset(name), sizes)
            counts.append(sum(parameter.numel() for parameter in network.parameters()))
        assert counts[1] == pytest.approx(counts[0], rel=0.02)
        assert preset(unet).process == preset(transformer).process


@pytest.mark.parametrize(
    ("config", "field", "option"),
    [
        (ProcessConfig, "noise", "beta_schedule"),
        (ProcessConfig, "degradation", "degradation"),
        (ModelConfig, "prediction", "prediction_type"),
        (ModelConfig, "solver", "solver"),
        (ModelConfig, "spacing", "timestep_spacing"),
        (sample.Arguments, "solver", "solver"),
        (sample.Arguments, "spacing", "timestep_spacing"),
        (sample.Arguments, "bridge", "bridge"),
        (evaluate.Arguments, "solver", "solver"),
        (evaluate.Arguments, "spacing", "timestep_spacing"),
    ],
)
def test_options_offer_all_that_the_scheduler_knows_and_nothing_else(config: type, field: str, option: str):
    hint = get_type_hints(config)[field]
    (offered,) = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    other_names = {"cosine": "squaredcos_cap_v2", "v": "v_prediction"}
    with pytest.raises(ValueError, match=f'{option} "unheard of" is unknown; use one of ') as refused:
        ScaleSpaceScheduler(**{option: "unheard of"})
    known = str(refused.value).partition("use one of ")[2].split(", ")
    assert sorted(other_names.get(name, name) for name in get_args(offered)) == sorted(known)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("celeba64", "celeba64-4l"), ("Tiny", "tiny"), ("imagenet64", "imagenet64-2l"), ("xyz", "tiny")],
)
def test_an_unknown_preset_is_answered_with_the_nearest_names(name: str, nearest: str):
    with pytest.raises(UserError, match=f'there is no preset "{name}"; did you mean .*{nearest}'):
        preset(name)


def test_configurations_are_frozen():
    for config in (ProcessConfig(), NetworkConfig(), TransformerConfig(), ModelConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.levels = 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("changes", "schedule"),
    [
        ({"resolution": "convex", "gamma": 2.0}, ConvexDecay(3, 2.0)),
        ({"resolution": "equal"}, Equal(3)),
        ({"resolution": "sigmoid", "gamma": 2.0}, SigmoidLike(3, 2.0)),
        ({"resolution": "tanh", "gamma": 2.0}, TanhLike(3, 2.0)),
        ({"change_points": (100, 900)}, ChangesAt((100, 900))),
    ],
)
def test_the_resolution_schedule_is_the_one_that_is_named(changes: dict, schedule):
    process = build_scheduler(_process(levels=3, **changes)).process
    assert process.degradation.change_points == schedule.change_points(1000)


def test_sizes_by_hand_take_the_place_of_halvings():
    scheduler = build_scheduler(_process(sizes=((48, 40), (32, 40), (11, 7)), resolution="equal"))
    assert scheduler.sizes == ((48, 40), (32, 40), (11, 7))
    assert scheduler.process.degradation.change_points == Equal(3).change_points(1000)


def test_odd_pictures_halve_rounding_down():
    assert build_scheduler(_process(image_size=(33, 47), levels=3)).sizes == ((33, 47), (16, 23), (8, 11))


def test_betas_reach_the_noise_schedule():
    noise = build_scheduler(_process(timesteps=100, beta_start=0.01, beta_end=0.2, shifted=False)).process.noise
    assert noise == LinearBeta(100, 0.01, 0.2)


def test_a_blur_is_a_degradation_of_one_level():
    process = ProcessConfig((8, 12), levels=1, degradation="blurring", sigma_blur=3.0, timesteps=20, beta_end=0.5)
    model = ModelConfig(process, prediction="epsilon", solver="ddim")
    scheduler = build_scheduler(model)
    assert scheduler.process.degradation == Blurring((8, 12), 20, 3.0)
    assert isinstance(scheduler.prediction, Epsilon)
    with pytest.raises(UserError, match=r"blurring keeps one resolution, and 4 sizes .*--process\.levels 1"):
        build_scheduler(replace(model, process=replace(process, levels=4, image_size=(64, 64))))
    with pytest.raises(UserError, match=r'"sample" does not go with blurring.*--prediction epsilon'):
        build_scheduler(replace(model, prediction="sample"))
    with pytest.raises(UserError, match=r'"corrected" needs steps that .*use "ancestral" or "ddim"'):
        build_scheduler(replace(model, solver="corrected"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": (32, 32), "levels": 7}, "use at most 6 levels"),
        ({"image_size": (0, 0)}, "image size of 0x0 holds no pixels"),
        ({"levels": 0}, "a schedule of 0 levels; give at least 1"),
        ({"timesteps": 1, "levels": 1}, "1 timesteps cannot be sampled; give at least 2"),
        ({"timesteps": 0}, "0 timesteps cannot be sampled"),
        ({"timesteps": 3, "levels": 4}, "leave a level without a grid point"),
        ({"beta_start": -1e-4}, "beta_start is -0.0001"),
        ({"beta_end": 1.0}, "beta_end is 1.0"),
        ({"beta_start": 0.9, "beta_end": 0.9}, "use smaller betas"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"change_points": (5, 3)}, "give ascending points between 2 and 1000"),
        ({"sizes": ((8, 8), (8, 8))}, "every level must be smaller than the one before"),
        ({"sizes": ((8, 8), (4, 4)), "change_points": (5, 6)}, "give one size more than change points"),
    ],
)
def test_a_process_that_cannot_be_is_refused(changes: dict, words: str):
    with pytest.raises(UserError, match=f"the process cannot be built: .*{words}"):
        build_scheduler(_process(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"channel_multipliers": (1, 2), "paths": "flexi"},
            "which fit the first 2 of the sizes; leave the others out, add multipliers or use paths",
        ),
        ({"channel_multipliers": ()}, "channel_multipliers gives 0"),
        ({"base_channels": 7}, "must be positive and even"),
        ({"attention_heads": 3}, "choose a divisor"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"num_classes": 0}, "num_classes holds 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes: dict, words: str):
    model = ModelConfig(network=NetworkConfig(**changes))
    with pytest.raises(UserError, match=f"the network cannot be built: .*{words}"):
        build_network(model, build_scheduler(model).sizes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"patch_size": 16},
            r"patches of 16x16 pixels do not divide 8x8 pixels; give .* \(the largest is 8\), fewer levels",
        ),
        ({"width": 100}, "heads 12 do not divide the width 100 into multiples of 4 features"),
        ({"depth": 0}, "depth holds 0"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(changes: dict, words: str):
    model = ModelConfig(backbone="transformer", transformer=TransformerConfig(**changes))
    with pytest.raises(UserError, match=f"the network cannot be built: .*{words}"):
        build_network(model, build_scheduler(model).sizes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; give a number above 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"seed": 2**32}, "seed is 4294967296; give at most 4294967295"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"sample_steps": 1}, "sample_steps is 1; give at least 2"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"change_share": 1.5}, "change_share is 1.5; a share lies between 0 and 1"),
    ],
)
def test_numbers_that_make_no_run_are_refused(changes: dict, words: str, tmp_path):
    with pytest.raises(UserError, match=words):
        small_config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("min-snr", MinSNR(3.0)),
        ("constant", ConstantWeight()),
        ("snr", SNRWeight()),
        ("max-snr", MaxSNR()),
        ("v", VelocityWeight(0.5)),
    ],
)
def test_the_weight_is_the_one_that_is_named(name: str, weight, tmp_path):
    config = small_config(tmp_path, weight=name, weight_gamma=3.0, sigma_data=0.5)
    process, t = build_scheduler(config).process, torch.tensor([1, 7, 20])
    assert torch.equal(loss_weight(config, process)(t), weight(process.noise.snr(t)))


def test_an_offset_is_added_to_the_weight_at_every_snr(tmp_path):
    plain, more = small_config(tmp_path), small_config(tmp_path, weight_offset=0.75)
    process, t = build_scheduler(plain).process, torch.arange(1, 21)
    torch.testing.assert_close(loss_weight(more, process)(t), loss_weight(plain, process)(t) + 0.75)
    with pytest.raises(UserError, match=r"weight_offset is -1\.0; give 0 or more"):
        small_config(tmp_path, weight_offset=-1.0)


def test_the_weight_may_be_that_of_the_noise_before_its_shift(tmp_path):
    process = small_config(tmp_path).process
    own, base = (small_config(tmp_path, process=process, weight="snr", weight_snr=snr) for snr in ("own", "base"))
    scheduler, t = build_scheduler(own), torch.arange(1, 21)
    low = scheduler.process.degradation.change_points[0]
    ratio = loss_weight(own, scheduler.process)(t) / loss_weight(base, scheduler.process)(t)
    assert torch.equal(ratio[: low - 1], torch.ones(low - 1).double())
    assert ratio[low - 1] > 3


@pytest.mark.parametrize(
    ("prediction", "kind"), [("sample", Sample), ("epsilon", Epsilon), ("v", Velocity)], ids=["sample", "epsilon", "v"]
)
def test_the_prediction_is_the_one_that_is_named(prediction: str, kind: type, tmp_path):
    scheduler = build_scheduler(small_config(tmp_path, prediction=prediction, sigma_data=0.5))
    assert type(scheduler.prediction) is kind
    assert getattr(scheduler.prediction, "sigma_data", 0.5) == 0.5


def test_a_picture_without_spread_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sigma_data is 0.0; the standard deviation of pictures is above 0"):
        build_scheduler(small_config(tmp_path, prediction="v", sigma_data=0.0))
