"""Every baseline is a configuration of the same process, trainer and pipeline, and is what it says it is."""

import shlex
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from tests.small_models import cli_error, small_config, small_network, small_scheduler, train_words
from tests.strategies import normal
from torch import Tensor
from torch.nn.functional import interpolate
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.data.batches import to_model
from scalespace.diffusion.degradation import Blurring, Unchanged
from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.noise import Cosine, LinearBeta, NoiseSchedule
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import Ancestral
from scalespace.networks.conditioned import DenoiserOutput
from scalespace.operators.dct import dct_matrix
from scalespace.oracles.gaussian import frechet_distance_squared, power_law, sampled_covariance, spectral_covariance
from scalespace.pipelines.pictures import image_generators
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.saving import load_pipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.planning.cost import make_plan
from scalespace.processes import Processes
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ProcessConfig, TrainConfig
from scalespace.training.level_sampling import Batch
from scalespace.training.loop import train
from scalespace.training.trainer import Trainer

ONE_LEVEL: dict[str, Any] = {
    "image_size": (8, 8),
    "levels": 1,
    "timesteps": 20,
    "beta_start": 0.02,
    "beta_end": 0.4,
}
BLUR: dict[str, Any] = ONE_LEVEL | {"degradation": "blurring", "sigma_blur": 2.0}

EPSILON: dict[str, Any] = {"prediction": "epsilon", "weight": "snr", "solver": "ancestral"}


def drawn(config: TrainConfig, **options: Any) -> Tensor:
    """Pictures of a run, through the model that it saved."""
    run = train(config, progress=False, say=lambda line: None)
    assert all(0 < line["loss"] < 1e3 for line in run.read_log())
    pipeline = load_pipeline(run.model_path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(2, image_generators(0, range(2)), 5, output_type="pt", **options).images


class Output(torch.nn.Module):
    """Puts out noise, and remembers what it was asked for it."""

    def forward(
        self, sample: Tensor, timestep: Tensor, target_size: tuple[int, int], labels: None, **conditions: Tensor
    ) -> DenoiserOutput:
        self.sample, self.timestep, self.conditions = sample, timestep, conditions
        self.output = normal(target_size, 5, torch.float32, (len(sample), 3))
        return DenoiserOutput(sample=self.output)


def one_loss(config: TrainConfig) -> tuple[float, Output, Tensor]:
    """The trainer's loss of a batch, the network that was asked, and the clean pictures."""
    scheduler = build_scheduler(config)
    trainer = Trainer(config, Accelerator(), scheduler, build_network(config, scheduler.sizes), Processes())
    trainer.network = asked = Output()
    images = (127.5 * (1 + normal((8, 8), 3, batch=(16, 3)).tanh())).to(torch.uint8)
    group = trainer.times.draw(torch.Generator().manual_seed(0))
    batch = Batch(group, range(16), range(16), images, torch.zeros(16, dtype=torch.int64), None)
    return float(trainer.loss(3, batch)), asked, to_model(images)


# DDPM


def in_double(scheduler: Any) -> Any:
    """diffusers' scheduler with the same tables in float64."""
    scheduler.betas = torch.linspace(0.02, 0.4, 20, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


@pytest.mark.parametrize(("weight", "prediction"), [("snr", "epsilon"), ("v", "v"), ("constant", "sample")])
def test_the_loss_of_ddpm_is_the_plain_error_of_what_the_network_puts_out(weight: str, prediction: str, tmp_path):
    process = ProcessConfig(**ONE_LEVEL)
    config = small_config(tmp_path, process=process, weight=weight, prediction=prediction, sigma_data=1.0)
    loss, asked, x_0 = one_loss(config)
    ddpm = in_double(DDPMScheduler(num_train_timesteps=20, beta_start=0.02, beta_end=0.4))
    assert len(asked.timestep.unique()) > 5
    alpha = ddpm.alphas_cumprod[asked.timestep].sqrt().reshape(-1, 1, 1, 1)
    noise = (asked.sample - alpha * x_0) / (1 - alpha**2).sqrt()
    assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
    assert_close(ddpm.add_noise(x_0.double(), noise, asked.timestep), asked.sample.double())
    target = {
        "epsilon": noise,
        "v": ddpm.get_velocity(x_0.double(), noise, asked.timestep),
        "sample": x_0.double(),
    }[prediction]
    assert loss == pytest.approx(float((asked.output - target).square().mean()), rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
def test_the_pipeline_of_ddpm_draws_what_diffusers_draws(solver: str, prediction: str):
    network = small_network(sizes=((8, 8),))
    ours = small_scheduler(sizes=((8, 8),), change_points=(), prediction_type=prediction, solver=solver)
    pipeline = ScaleSpacePipeline(network, ours)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(1), 20, output_type="pt").images

    options: dict[str, Any] = {"num_train_timesteps": 20, "beta_start": 0.02, "beta_end": 0.4}
    options |= {"prediction_type": prediction, "timestep_spacing": "linspace"}
    theirs = in_double(
        DDPMScheduler(**options, variance_type="fixed_small") if solver == "ancestral" else DDIMScheduler(**options)
    )
    theirs.set_timesteps(20)
    generator = torch.Generator().manual_seed(1)
    sample = randn_tensor((2, 3, 8, 8), generator=generator)
    # From the clipped picture both go on with the noise that fits it.
    step_options = {} if solver == "ancestral" else {"use_clipped_model_output": True}
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    for timestep in theirs.timesteps.tolist():
        with torch.no_grad():
            output = network(sample, timestep).sample
        sample = theirs.step(output, timestep, sample, generator=generator, **step_options).prev_sample
    assert images.std() > 0.1
    assert_close(images, (sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


# Blurring Diffusion


@pytest.mark.parametrize("noise", [LinearBeta(), Cosine()], ids=["linear", "cosine"])
def test_blurring_recovers_gaussian_data_nearly_as_well_as_ddpm(noise: NoiseSchedule):
    data = spectral_covariance(power_law((1, 64)))

    def error(degradation: Any) -> float:
        process = ScaleSpaceProcess(noise, degradation)
        covariance = sampled_covariance(Ancestral(process), GaussianDenoiser(process, data), tuple(range(1000, 0, -1)))
        return frechet_distance_squared(covariance, data) / float(data.trace())

    # A blur that ends at 20 pixels makes single steps for the high frequencies longer: 3 % and 17 % more error.
    assert error(Blurring((1, 64))) < 1.2 * error(Unchanged((1, 64)))


def test_the_loss_of_blurring_is_the_error_of_the_noise_deblurred_by_one_step(tmp_path):
    config = small_config(tmp_path, process=ProcessConfig(**BLUR), **EPSILON)
    loss, asked, x_0 = one_loss(config)
    t = asked.timestep + 1
    assert len(t.unique()) > 5
    blurring, C = Blurring((8, 8), 20, 2.0), dct_matrix(8)
    now, before = (torch.stack([blurring.gains(int(point)) for point in points])[:, None] for points in (t, t - 1))
    sigma = LinearBeta(20, 0.02, 0.4).sigma(t).reshape(-1, 1, 1, 1)
    alpha = (1 - sigma**2).sqrt()
    noise = (asked.sample - alpha * (C.mT @ (now * (C @ x_0.double() @ C.mT)) @ C)) / sigma
    assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
    # The basis is orthonormal, so the error may be counted by frequency.
    error = (C @ (asked.output - noise) @ C.mT) * before / now
    assert loss == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_blurring_trains_and_samples(tmp_path):
    images = drawn(small_config(tmp_path, process=ProcessConfig(**BLUR), **EPSILON))
    assert images.shape == (2, 3, 8, 8)
    assert (images[0] - images[1]).abs().max() > 0.01


# SSD's process with a U-Net that has no short paths


def test_a_full_u_net_costs_on_every_path_what_it_costs_at_full_resolution(tmp_path):
    plan, flexi = (make_plan(small_config(tmp_path, network={"paths": paths})) for paths in ("full", "flexi"))
    assert [path.gflops for path in plan.paths] == [flexi.one_level_gflops] * 3
    assert plan.average_gflops == pytest.approx(plan.one_level_gflops)
    assert flexi.share < 0.9
    assert plan.parameters == flexi.parameters


def test_a_full_u_net_trains_and_samples(tmp_path):
    images = drawn(small_config(tmp_path / "full", network={"paths": "full"}, change_share=0.3))
    assert load_pipeline(tmp_path / "full" / "model").unet.config["paths"] == "full"
    assert images.shape == (2, 3, 8, 8)
    assert (
        images - drawn(small_config(tmp_path / "flexi", network={"paths": "flexi"}, change_share=0.3))
    ).abs().max() > 0.01


# Other bridges between the levels


@pytest.mark.parametrize("bridge", ["isotropic", "upsampled-prediction", "upsampled-state"])
def test_a_model_samples_across_other_bridges(bridge: str):
    scheduler = ScaleSpaceScheduler(sizes=((8, 8), (4, 4)), change_points=(400,), shifted=True)
    pipeline = ScaleSpacePipeline(small_network(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for name in ("exact", bridge):
        use_solver(pipeline, bridge=name)
        pictures.append(pipeline(2, image_generators(0, range(2)), 5, output_type="pt").images)
    assert pictures[0].shape == pictures[1].shape == (2, 3, 8, 8)
    assert (pictures[0] - pictures[1]).abs().max() > 0.01


# A cascade of two models

LARGE: dict[str, Any] = {
    "process": ProcessConfig(**ONE_LEVEL),
    "network": {"condition_size": (4, 6)},
    "solver": "ancestral",
}


def test_the_second_model_is_told_the_small_picture_and_how_noisy_it_is(tmp_path):
    config = small_config(tmp_path, **LARGE, condition_noise=0.4)
    _, asked, x_0 = one_loss(config)
    level = asked.conditions["condition_noise"]
    assert level.shape == (16,)
    assert 0 <= level.min() < 0.2 < level.max() <= 0.4
    # Of the mixture all but the clean picture is white noise of that level.
    small = interpolate(x_0, size=(4, 6), mode="bilinear", antialias=True)
    a = level[:, None, None, None]
    noise = (asked.conditions["condition"] - (1 - a**2).sqrt() * small) / a
    assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    # The state is the one that a model without it is given.
    _, plain, _ = one_loss(small_config(tmp_path, process=LARGE["process"]))
    assert torch.equal(plain.sample, asked.sample)
    assert plain.conditions == {}


def test_a_model_that_enlarges_draws_from_what_it_is_given(tmp_path):
    run = train(small_config(tmp_path, **LARGE, sample_every=6), progress=False, say=lambda line: None)
    assert (run.path / "samples" / "step-00000006.png").is_file()
    assert load_pipeline(run.model_path).unet.condition_size == (4, 6)
    pipeline = ScaleSpacePipeline(
        small_network(sizes=((8, 8),), condition_size=(4, 6)), small_scheduler(sizes=((8, 8),), change_points=())
    )
    pipeline.set_progress_bar_config(disable=True)

    def enlarged(condition: Tensor | None, **options: Any) -> Tensor:
        generators = image_generators(0, range(2))
        return pipeline(2, generators, 5, output_type="pt", condition=condition, **options).images

    small = normal((4, 6), 1, torch.float32, (2, 3)).tanh()
    images = enlarged(small)
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images, enlarged(small))
    assert (images - enlarged(-small)).abs().max() > 0.01
    assert (images - enlarged(small, condition_noise=0.5)).abs().max() > 0.01
    # At the level 1 nothing of the small picture is left.
    assert torch.equal(enlarged(small, condition_noise=1.0), enlarged(-small, condition_noise=1.0))
    with pytest.raises(ValueError, match="condition_noise is 2; give a level from 0 to 1"):
        enlarged(small, condition_noise=2)
    with pytest.raises(ValueError, match="the model enlarges small pictures; give them as condition"):
        enlarged(None)
    pipeline = ScaleSpacePipeline(small_network(), small_scheduler())
    with pytest.raises(ValueError, match="enlarges no small pictures; leave condition out"):
        enlarged(small)


def test_a_cascade_is_trained_and_sampled_at_the_command_line(tmp_path, capsys):
    low, high = (str(tmp_path / name) for name in ("low", "high"))
    one_level = shlex.split("--process.levels 1 --solver ancestral --spacing linspace")
    main(train_words(tmp_path / "low", *one_level, "--process.image-size", "4", "4"))
    main(train_words(tmp_path / "high", *one_level, "--network.condition-size", "4", "4"))
    capsys.readouterr()
    words = ["sample", f"{low}/model", "--num-images", "3", "--batch-size", "2", "--steps", "5", "--quiet"]
    main([*words, "--upsample", f"{high}/model", "--output", str(tmp_path / "pictures")])
    assert "3 in" in (printed := capsys.readouterr().out)
    assert "10 network calls each" in printed
    with Image.open(tmp_path / "pictures" / "000002.png") as picture:
        assert picture.size == (8, 8)
    output = ["--output", str(tmp_path / "none"), "--steps", "5"]
    assert "the model only enlarges small pictures" in cli_error(capsys, ["sample", f"{high}/model", *output])
    wrong = cli_error(capsys, ["sample", f"{low}/model", "--upsample", f"{low}/model", *output])
    assert "--upsample enlarges pictures of height and width None, and the first model draws (4, 4)" in wrong
    words = train_words(tmp_path / "none", "--process.levels", "1", "--network.condition-size", "9", "4")
    assert "condition_size (9, 4) is no size of smaller pictures" in cli_error(capsys, words)
    assert "condition_noise is 2.0" in cli_error(
        capsys, train_words(tmp_path / "none", "--condition-noise", "2", *words[-3:])
    )
    assert not (tmp_path / "none").exists()


def test_the_cost_of_a_model_that_enlarges_is_that_of_its_wider_entrance(tmp_path):
    plain, large = (make_plan(small_config(tmp_path, **LARGE | {"network": n})) for n in ({}, LARGE["network"]))
    # Three more channels into a 3 x 3 convolution to 8, and a second embedding of 8 to 32 to 32 features.
    multiply_adds = 8 * 8 * 8 * 3 * 9 + 8 * 32 + 32 * 32
    assert large.average_gflops - plain.average_gflops == pytest.approx(2e-9 * multiply_adds)
