"""Models of diffusers in the place of a network: with one resolution they sample as they do there."""

import json
import shutil
from itertools import product

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tests.pretrained_models import SIZE, stock_folder, stock_network, stock_pipeline
from torch.testing import assert_close

from scalespace.diffusion.noise import LinearBeta, ScaledLinearBeta
from scalespace.diffusion.prediction import clean_image
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.source import read_pretrained
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.saving import load_pipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SIZES = ((SIZE, SIZE), (SIZE // 2, SIZE // 2))


UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return {sampler: stock_folder(tmp_path_factory.mktemp(sampler), sampler) for sampler in ("ddpm", "ddim")}


def _edited(folder, tmp_path, name, **changes):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return copy


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _one_level(folder) -> ScaleSpacePipeline:
    # As the command does it; counting FLOPs would take most of the time of these tests.
    source, sizes = read_pretrained(folder), SIZES[:1]
    pipeline = ScaleSpacePipeline(source.network(sizes), source.scheduler(sizes, ()))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _two_levels(**noise) -> ScaleSpacePipeline:
    config = {name: value for name, value in stock_network().config.items() if name[0] != "_"}
    network = PretrainedUNet(config, SIZES, **noise)
    network.network.load_state_dict(stock_network().state_dict())
    scheduler = ScaleSpaceScheduler(
        sizes=SIZES,
        change_points=(400,),
        degradation="orthonormal",
        shifted=True,
        solver="ddim",
        prediction_type="epsilon",
        **noise,
    )
    pipeline = ScaleSpacePipeline(network.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("sampler", "schedule", "prediction"), list(product(("ddpm", "ddim"), SCHEDULES, PREDICTIONS)))
def test_with_one_level_a_model_samples_as_in_diffusers(stock, tmp_path, sampler, schedule, prediction):
    noise = {"beta_schedule": schedule, "prediction_type": prediction}
    theirs = stock_pipeline(sampler, **noise)
    ours = _one_level(_edited(stock[sampler], tmp_path, SCHEDULER, **noise))
    options = {} if sampler == "ddpm" else {"use_clipped_model_output": True}
    expected = theirs(2, generator=_generator(), num_inference_steps=5, output_type="np", **options).images
    timesteps = theirs.scheduler.timesteps.tolist()
    found = ours(2, generator=_generator(), timesteps=timesteps, output_type="np").images
    assert expected.std() > 0.05
    assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-5)


# Noise that no name tells: growing betas, and no signal at the last timestep.
BETAS = torch.linspace(0.02, 0.1, 1000).square().tolist()
OWN_NOISE = {
    "betas": {"trained_betas": BETAS, "prediction_type": "epsilon"},
    "zero": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "both": {"trained_betas": BETAS, "rescale_betas_zero_snr": True, "prediction_type": "sample"},
}


@pytest.mark.parametrize(("sampler", "kind"), list(product(("ddpm", "ddim"), OWN_NOISE)))
def test_with_noise_of_its_own_a_model_samples_as_in_diffusers(stock, tmp_path, sampler, kind):
    noise = OWN_NOISE[kind]
    theirs = stock_pipeline(sampler, **noise)
    ours = _one_level(_edited(stock[sampler], tmp_path, SCHEDULER, **noise))
    options = {} if sampler == "ddpm" else {"use_clipped_model_output": True}
    draw = {"num_inference_steps": 5, "output_type": "np"}
    expected = theirs(2, generator=_generator(), **draw, **options).images
    timesteps = theirs.scheduler.timesteps.tolist()
    found = ours(2, generator=_generator(), timesteps=timesteps, output_type="np").images
    assert expected.std() > 0.05
    assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-5)
    other = _one_level(_edited(stock[sampler], tmp_path / "other", SCHEDULER, prediction_type=noise["prediction_type"]))
    plain = other(2, generator=_generator(), timesteps=timesteps, output_type="np").images
    assert abs(plain - expected).max() > 1e-3

    ours.save_pretrained(tmp_path / "saved")
    again = load_pipeline(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again.unet.noise.log_snr_table, ours.unet.noise.log_snr_table)
    assert (again(2, generator=_generator(), timesteps=timesteps, output_type="np").images == found).all()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_step_from_noise_alone_is_that_of_diffusers_but_for_the_signal_that_is_left(stock, tmp_path, sampler):
    noise = {**OWN_NOISE["zero"], "timestep_spacing": "trailing"}
    theirs = stock_pipeline(sampler, **noise)
    ours = _one_level(_edited(stock[sampler], tmp_path, SCHEDULER, **noise))
    theirs.scheduler.set_timesteps(5)
    timesteps = theirs.scheduler.timesteps.tolist()
    assert timesteps[0] == 999
    ours.scheduler.set_timesteps(timesteps=timesteps)
    x_t = torch.randn(2, 3, SIZE, SIZE, generator=_generator())
    with torch.no_grad():
        output = theirs.unet(x_t, 999).sample
    options = {} if sampler == "ddpm" else {"use_clipped_model_output": True}
    expected = theirs.scheduler.step(output, 999, x_t, generator=_generator(), **options)
    found = ours.scheduler.step(output, 999, x_t, _generator())
    # alpha is 2^-12 here and 0 there. So is what is left of x_t: alpha in x_0, which lies in [-1, 1], and alpha / alpha_s in
    # the mean of the posterior.
    c = 2**-12 / ours.scheduler.process.noise.alpha(timesteps[1] + 1)
    for name, share in (("pred_original_sample", 2**-12), ("prev_sample", c)):
        apart = (getattr(found, name) - getattr(expected, name)).abs()
        assert (apart <= share * (x_t.abs() + 1) + 1e-5).all()
        assert apart.max() > 1e-4


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_with_one_level_and_no_clipping_every_state_is_that_of_diffusers(tmp_path, sampler):
    theirs = stock_pipeline(sampler, {"num_class_embeds": 3}, clip_sample=False)
    theirs.save_pretrained(tmp_path)
    ours = _one_level(tmp_path)
    labels = torch.tensor([0, 2])
    theirs.scheduler.set_timesteps(5)
    generator, states, found = _generator(), [], []
    sample = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    for timestep in theirs.scheduler.timesteps:
        with torch.no_grad():
            output = theirs.unet(sample, timestep, class_labels=labels).sample
        sample = theirs.scheduler.step(output, timestep, sample, generator=generator).prev_sample
        states.append(sample)
    timesteps = theirs.scheduler.timesteps.tolist()
    ours(
        class_labels=labels,
        generator=_generator(),
        timesteps=timesteps,
        output_type="latent",
        callback_on_step_end=lambda pipeline, step, timestep, tensors: found.append(tensors["latents"]),
    )
    for state, expected in zip(found, states, strict=True):
        assert_close(state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_network_is_told_the_time_at_which_its_training_had_the_snr_of_the_state(schedule):
    pipeline = _two_levels(beta_schedule=schedule)
    own, noise = pipeline.unet.noise.log_snr_table[1:], pipeline.scheduler.process.noise.log_snr_table[1:]
    times = pipeline.unet.time_of(noise).double()
    assert_close(times[:399], torch.arange(399).double(), rtol=0, atol=1e-3)
    lower = times.floor().long().clamp_max(998)
    interpolated = own[lower] + (times - lower) * (own[lower + 1] - own[lower])
    assert_close(interpolated, noise, rtol=1e-4, atol=1e-4)
    # The change gives back a factor of 4 of SNR, which is many timesteps.
    assert times[398] - times[399] > 50
    learned = _two_levels(beta_schedule=schedule)
    learned.unet.network.register_to_config(time_embedding_type="learned")
    nearest = learned.unet.time_of(noise)
    assert nearest.dtype == torch.int64
    assert (nearest - times).abs().max() <= 0.5 + 1e-3


def test_a_network_is_asked_at_those_times_and_at_the_sizes_of_the_states(monkeypatch):
    pipeline, asked = _two_levels(), []
    forward = pipeline.unet.network.forward

    def listening(sample, time, **options):
        asked.append((sample.shape[-1], float(time)))
        return forward(sample, time, **options)

    monkeypatch.setattr(pipeline.unet.network, "forward", listening)
    pictures = pipeline(1, generator=_generator(), num_inference_steps=6, output_type="pt").images
    assert pictures.shape[-2:] == SIZES[0]
    grid = pipeline.scheduler.timesteps + 1
    times = pipeline.unet.time_of(pipeline.scheduler.process.noise.log_snr_table[grid])
    assert [size for size, _ in asked] == [pipeline.scheduler.process.size(int(t))[0] for t in grid]
    assert [time for _, time in asked] == times.tolist()


def test_at_a_change_a_prediction_at_the_size_of_the_state_is_carried_up_by_the_pseudo_inverse():
    scheduler = _two_levels().scheduler
    M = scheduler.process.degradation.operator(399, 400)
    x_t, output = torch.randn(2, 2, 3, *SIZES[1], generator=_generator())
    alpha, sigma = scheduler.process.noise.alpha(400), scheduler.process.noise.sigma(400)
    x0_t = ((x_t - sigma * output) / alpha).clamp(-1, 1)
    scheduler.set_timesteps(timesteps=[399, 398])
    x0_s = scheduler.step(output, 399, x_t, _generator()).pred_original_sample
    assert x0_s.shape[-2:] == SIZES[0]
    assert_close(M(x0_s), x0_t)
    # Nothing is in the kernel of M, so that this is the smallest of all pictures that M makes x0_t of.
    assert_close(M.gram_function(torch.zeros_like, x0_s, kernel=1.0), torch.zeros_like(x0_s), rtol=0, atol=1e-5)
    # For epsilon it is what the output is when it is carried up itself, as eps is by DDIM.
    carried = M.adjoint_function(torch.rsqrt, output)
    whole = clean_image(scheduler.prediction, carried, x_t, 400, M)
    assert_close(clean_image(scheduler.prediction, output, x_t, 400, M), whole, rtol=1e-4, atol=1e-5)


def test_a_saved_model_is_loaded_by_the_package_and_by_diffusers(tmp_path):
    pipeline = _two_levels()
    pipeline.save_pretrained(tmp_path)
    draw = {"num_inference_steps": 4, "output_type": "pt"}
    expected = pipeline(1, generator=_generator(), **draw).images
    for loaded in (load_pipeline(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)):
        assert type(loaded.unet) is PretrainedUNet
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(loaded(1, generator=_generator(), **draw).images, expected)


def test_scaled_betas_have_roots_in_equal_steps():
    noise = ScaledLinearBeta(50, 0.01, 0.16)
    kept = 1 + (-noise.log_snr_table[1:]).exp()
    betas = 1 - kept.reciprocal() * torch.cat([kept.new_ones(1), kept[:-1]])
    assert_close(betas.sqrt(), torch.linspace(0.1, 0.4, 50, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"beta_end is 1.5; every beta adds noise"):
        ScaledLinearBeta(50, 0.01, 1.5)


def test_a_process_with_noise_that_the_network_does_not_know_is_refused():
    pipeline = _two_levels()
    other = ScaleSpaceScheduler(sizes=SIZES[:1], change_points=(), beta_start=1e-6)
    with pytest.raises(ValueError, match=r"no time of a log-SNR of 13.82, since it was trained from -10.12 to 9.21"):
        pipeline.scheduler = other
    low, high = LinearBeta().log_snr_table[[1000, 1]].tolist()
    assert_close(pipeline.unet.time_of(torch.tensor([low, high])), torch.tensor([999.0, 0.0]))
    for beyond in (low - 0.01, high + 0.01):
        with pytest.raises(ValueError, match="has no time of a log-SNR"):
            pipeline.unet.time_of(torch.tensor([beyond]))


@pytest.mark.parametrize(
    ("sizes", "unet", "words"),
    [
        (((16, 16), (8, 8), (4, 4), (1, 1)), {}, "halves its input 1 times, and 2 does not divide 1x1"),
        (((18, 16), (9, 8)), {}, "2 does not divide 9x8"),
        (SIZES, {"class_embed_type": "identity"}, 'class_embed_type "identity"'),
    ],
)
def test_what_a_network_is_not_made_for_is_refused(sizes, unet, words):
    config = {name: value for name, value in stock_network().config.items() if name[0] != "_"}
    with pytest.raises(ValueError, match=words):
        PretrainedUNet(config | unet, sizes)


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"height and width \(4, 4\), which the network was not prepared for"):
        _two_levels().unet(torch.zeros(1, 3, 4, 4), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stock_folder(tmp_path_factory.mktemp("stock"), "ddim", {"num_class_embeds": 2})


def test_the_files_of_both_parts_may_lie_in_one_folder_or_without_an_index(folder, tmp_path):
    flat, plain = tmp_path / "flat", tmp_path / "plain"
    flat.mkdir()
    for file in (
        *(folder / "unet").iterdir(),
        folder / "scheduler" / "scheduler_config.json",
        folder / "model_index.json",
    ):
        shutil.copy(file, flat)
    shutil.copytree(folder, plain)
    (plain / "model_index.json").unlink()
    weights = [read_pretrained(path).network(((SIZE, SIZE),)).state_dict() for path in (folder, flat, plain)]
    for name, value in weights[0].items():
        assert all(torch.equal(value, other[name]) for other in weights[1:])


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "holds a DDIMPipeline with vae besides a network"),
        (INDEX, {"_class_name": "ScaleSpacePipeline"}, "is a model of scalespace already"),
        (UNET, {"_class_name": "UNet2DConditionModel"}, "is of a UNet2DConditionModel, which is told a text"),
        (UNET, {"_class_name": "UNet3DConditionModel"}, "is of a UNet3DConditionModel, which draws videos"),
        (
            UNET,
            {"_class_name": "DiTTransformer2DModel"},
            "is of a DiTTransformer2DModel; give a model with a UNet2DModel",
        ),
        (UNET, {"out_channels": 6}, "turns 3 channels into 6, as networks do that predict variances"),
        (UNET, {"sample_size": None}, "has the sample_size None"),
        (UNET, {"sample_size": 15}, "2 does not divide 15x15"),
        (UNET, {"time_embedding_type": "fourier"}, "is told the logarithm of sigma"),
        (UNET, {"down_block_types": 3}, "is damaged"),
        (UNET, {"down_block_types": ["NoBlock", "DownBlock2D"]}, "cannot be taken: ValueError"),
        (UNET, {"layers_per_block": 2}, "do not belong to its config.json"),
        (
            SCHEDULER,
            {"_class_name": "ScoreSdeVeScheduler"},
            "is of a ScoreSdeVeScheduler, and known are schedulers whose",
        ),
        (SCHEDULER, {"prediction_type": "flow"}, 'has the prediction type "flow"'),
        (
            SCHEDULER,
            {"beta_schedule": "sigmoid"},
            'beta_schedule "sigmoid" is unknown; use one of linear, scaled_linear',
        ),
        (SCHEDULER, {"beta_end": "much"}, "has no noise schedule that is known"),
        (SCHEDULER, {"trained_betas": [0.1]}, "1 trained_betas are not one for each of 1000 timesteps"),
        (SCHEDULER, {"trained_betas": [2.0]}, "beta 1 is 2.0; every beta adds noise"),
        (SCHEDULER, {"trained_betas": "many"}, "has no noise schedule that is known"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, 'prediction_type "epsilon" tells nothing of the picture where'),
    ],
)
def test_another_kind_of_folder_is_one_sentence(folder, tmp_path, name, changes, words):
    copy = _edited(folder, tmp_path, name, **changes)
    sizes = ((SIZE, SIZE),) if "sample_size" not in changes else ((15, 15),)

    def taken() -> None:
        source = read_pretrained(copy)
        source.network(sizes)
        source.scheduler(sizes, ())

    with pytest.raises(UserError, match=words) as error:
        taken()
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_a_pickle_or_damaged_are_one_sentence(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    unet = tmp_path / "copy" / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    for content, words in ((b"", "damaged|cannot be read"), (None, "has no diffusion_pytorch_model.safetensors")):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_pretrained(tmp_path / "copy").network(((SIZE, SIZE),))
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="as a pickle"):
        read_pretrained(tmp_path / "copy").network(((SIZE, SIZE),))
    with pytest.raises(UserError, match='variant "a/b" is no name of weights'):
        read_pretrained(tmp_path / "copy").network(((SIZE, SIZE),), "a/b")
    shutil.rmtree(unet)
    with pytest.raises(UserError, match=r"lacks unet/config\.json"):
        read_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match="does not exist; give the folder of a model that diffusers saved"):
        read_pretrained(tmp_path / "nothing")


def test_what_the_scheduler_does_otherwise_is_said(folder, tmp_path):
    changes = {"set_alpha_to_one": False, "thresholding": True}
    notes = read_pretrained(_edited(folder, tmp_path, SCHEDULER, **changes)).notes
    assert [note.partition(" ")[0] for note in notes] == ["Its", "Its"]
    assert "set_alpha_to_one" in notes[1]
    large = read_pretrained(stock_folder(tmp_path / "large", variance_type="fixed_large"))
    assert "variance fixed_large" in large.notes[0]
