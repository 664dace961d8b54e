"""Pretrained networks that are trained further: on which process, with which loss, and what is refused."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file
from tests.pretrained_models import SIZE, stock_folder, stock_network
from tests.small_models import cli_error
from torch.testing import assert_close

from scalespace.data.images import open_images
from scalespace.diffusion.degradation import Unchanged
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.source import read_pretrained
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.saving import load_pipeline
from scalespace.processes import Processes
from scalespace.training.configuration import TrainConfig
from scalespace.training.level_sampling import Batch
from scalespace.training.loop import accelerator_for, train
from scalespace.training.models import open_model
from scalespace.training.pretrained.brought import brought
from scalespace.training.trainer import Trainer

DATA = "synthetic:shapes:16"
SIZES = ((SIZE, SIZE), (SIZE // 2, SIZE // 2))
CHANGE = 400


def _fast(folder, change_points=(CHANGE,), network=None, **noise):
    source = read_pretrained(stock_folder(folder / "stock", "ddim", network, **noise))
    sizes = SIZES[: len(change_points) + 1]
    pipeline = ScaleSpacePipeline(source.network(sizes), source.scheduler(sizes, change_points), source.labels)
    pipeline.save_pretrained(folder / "fast")
    return folder / "fast"


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return _fast(tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def whole(fast, tmp_path_factory):
    """A run from its beginning to its end."""
    return _quiet(_config(fast, tmp_path_factory.mktemp("whole") / "run"))


def _config(fast, output_dir, **options) -> TrainConfig:
    model = brought(str(fast), str(output_dir)).model
    return TrainConfig(
        **vars(model),
        **{
            "data": DATA,
            "init_from": str(fast),
            "output_dir": str(output_dir),
            "mixed_precision": "no",
            "max_steps": 2,
            "batch_size": 4,
            "warmup_steps": 0,
            "learning_rate": 1e-3,
            "sample_every": 0,
            "checkpoint_every": 1,
            "micro_batch": 2,
            "gradient_checkpointing": True,
        }
        | options,
    )


def _quiet(config):
    return train(config, progress=False, say=lambda line: None)


def _weights(folder):
    return load_file(folder / "unet/diffusion_pytorch_model.safetensors")


def _batch(trainer, t) -> Batch:
    group = next(group for group in trainer.times.groups if group.first <= t <= group.last)
    data = open_images(DATA, SIZES[0])
    return Batch(group, range(4), range(4), *data.batch(range(4)), None)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_weight_snr_is_the_loss_of_noise_that_diffusers_trains_with(tmp_path, monkeypatch, prediction):
    fast = _fast(tmp_path, prediction_type=prediction)
    config = _config(fast, tmp_path / "run", weight="snr", flip=False)
    network = load_pipeline(fast).unet
    scheduler = brought(str(fast), "").process()
    trainer = Trainer(config, accelerator_for(config), scheduler, network, Processes())
    t = torch.tensor([CHANGE + 100] * 4)
    monkeypatch.setattr(trainer.times, "times", lambda *_: t)
    noise = torch.randn(4, 3, *SIZES[1], generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(trainer, "_noise", lambda *_: noise)
    batch = _batch(trainer, CHANGE + 100)
    found = trainer.loss(0, batch)
    process = scheduler.process
    x_0 = batch.images.float() / 127.5 - 1
    small = process.degradation.operator(0, CHANGE + 100)(x_0)
    alpha, sigma = process.noise.alpha(CHANGE + 100), process.noise.sigma(CHANGE + 100)
    x_t = alpha * small + sigma * noise
    time = network.time_of(process.noise.log_snr_table[CHANGE + 100])
    output = network.network(x_t, time).sample
    eps = {
        "epsilon": output,
        "v_prediction": sigma * x_t + alpha * output,
        "sample": (x_t - alpha * output) / sigma,
    }[prediction]
    assert_close(found, (eps - noise).square().mean(), rtol=1e-4, atol=1e-6)


# Noise that no option of a run names; without a signal at the end, for predictions that tell of the picture there.
BETAS = torch.linspace(0.02, 0.1, 1000).square().tolist()
OWN_NOISE = {
    "betas": ({"trained_betas": BETAS, "prediction_type": "epsilon"}, "snr"),
    "zero-v": ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "v"),
    "zero-sample": ({"trained_betas": BETAS, "rescale_betas_zero_snr": True, "prediction_type": "sample"}, "constant"),
}


@pytest.mark.parametrize("t", [1, 500, 1000])
@pytest.mark.parametrize("kind", OWN_NOISE)
def test_with_noise_of_its_own_the_loss_is_that_of_diffusers(tmp_path, monkeypatch, kind, t):
    options, weight = OWN_NOISE[kind]
    fast = _fast(tmp_path, (), **options)
    config = _config(fast, tmp_path / "run", weight=weight, flip=False)
    trainer = Trainer(
        config, accelerator_for(config), brought(str(fast), "").process(), load_pipeline(fast).unet, Processes()
    )
    noise = torch.randn(4, 3, *SIZES[0], generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(trainer.times, "times", lambda *_: torch.tensor([t] * 4))
    monkeypatch.setattr(trainer, "_noise", lambda *_: noise)
    batch = _batch(trainer, t)
    found = trainer.loss(0, batch)
    theirs, times = DDPMScheduler(**options), torch.tensor([t - 1] * 4)
    x_0 = batch.images.float() / 127.5 - 1
    with torch.no_grad():
        output = stock_network()(theirs.add_noise(x_0, noise, times), times).sample
    target = {
        "epsilon": noise,
        "v_prediction": theirs.get_velocity(x_0, noise, times),
        "sample": x_0,
    }[options["prediction_type"]]
    # At the last timestep without signal, alpha is 2^-12 here and 0 there.
    assert_close(found.detach(), (output - target).square().mean(), rtol=1e-3, atol=1e-6)


def test_a_run_with_noise_of_its_own_goes_on_without_the_folder_and_keeps_that_noise(tmp_path):
    fast = _fast(tmp_path, **OWN_NOISE["zero-sample"][0])
    source = load_pipeline(fast)
    config = _config(fast, tmp_path / "run")
    _quiet(replace(config, max_steps=1))
    shutil.rmtree(fast)
    model = load_pipeline(_quiet(config).model_path)
    assert dict(model.scheduler.config) == dict(source.scheduler.config)
    assert torch.equal(model.unet.noise.log_snr_table, source.unet.noise.log_snr_table)
    assert torch.equal(
        model.scheduler.process.noise.log_snr_table,
        open_model(tmp_path / "run", print).scheduler.process.noise.log_snr_table,
    )


def test_at_a_change_the_gradient_is_that_of_predicting_the_small_picture(fast, tmp_path, monkeypatch):
    config = _config(fast, tmp_path / "run", weight="constant", flip=False)
    network, scheduler = load_pipeline(fast).unet, brought(str(fast), "").process()
    trainer = Trainer(config, accelerator_for(config), scheduler, network, Processes())
    noise = torch.randn(4, 3, *SIZES[1], generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(trainer, "_noise", lambda *_: noise)
    batch = _batch(trainer, CHANGE)
    assert batch.group.is_change
    parameter = next(network.parameters())
    (found,) = torch.autograd.grad(trainer.loss(0, batch), parameter)
    process = scheduler.process
    alpha, sigma = process.noise.alpha(CHANGE), process.noise.sigma(CHANGE)
    small = process.degradation.operator(0, CHANGE)(batch.images.float() / 127.5 - 1)
    x_t = alpha * small + sigma * noise
    output = network.network(x_t, network.time_of(process.noise.log_snr_table[CHANGE])).sample
    loss = ((x_t - sigma * output) / alpha - small).square().mean()
    (expected,) = torch.autograd.grad(loss, parameter)
    assert expected.abs().max() > 1e-4
    assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_run_trains_the_network_on_the_process_of_the_folder_and_saves_a_model(fast, whole):
    run, before, after = whole, _weights(fast), _weights(whole.model_path)
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 0.9 * len(before)
    source, model = load_pipeline(fast), load_pipeline(run.model_path)
    assert type(model.unet) is PretrainedUNet
    assert dict(model.scheduler.config) == dict(source.scheduler.config)
    draw = {"num_inference_steps": 4, "output_type": "pt"}
    drawn = model(1, generator=torch.Generator().manual_seed(0), **draw).images
    theirs = DiffusionPipeline.from_pretrained(run.model_path)
    theirs.set_progress_bar_config(disable=True)
    assert torch.equal(theirs(1, generator=torch.Generator().manual_seed(0), **draw).images, drawn)
    known = json.loads((run.path / "run.json").read_text())["initial_weights"]
    assert known["brought"]["scheduler"]["change_points"] == [CHANGE]


def test_a_run_that_was_stopped_goes_on_without_the_folder_and_is_a_model_before_its_end(fast, whole, tmp_path):
    shutil.copytree(fast, tmp_path / "copy")
    config = _config(tmp_path / "copy", tmp_path / "run")
    run = _quiet(replace(config, max_steps=1))
    shutil.rmtree(tmp_path / "copy")
    again = _config(tmp_path / "copy", tmp_path / "run")
    assert again == config
    shutil.rmtree(run.model_path)
    middle = open_model(run.path, lambda line: None)
    assert type(middle.unet) is PretrainedUNet
    assert middle.scheduler.sizes == SIZES
    resumed, expected = _weights(_quiet(again).model_path), _weights(whole.model_path)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    # The next run can start from this one, or from a checkpoint of it, as from the model.
    for place in (run.path, run.path / "checkpoints/step-00000002"):
        assert brought(str(place), "") == brought(str(fast), "")


def test_classes_must_have_the_numbers_that_the_network_knows(tmp_path):
    fast = _fast(tmp_path, network={"num_class_embeds": 2})
    source = load_pipeline(fast)
    ScaleSpacePipeline(source.unet, source.scheduler, {0: "a", 1: "b"}).save_pretrained(tmp_path / "named")
    found = brought(str(tmp_path / "named"), "")
    config = _config(tmp_path / "named", tmp_path / "run")
    assert config.network.num_classes == 2
    found.check(config, ("a", "b"))
    with pytest.raises(UserError, match=r"number the classes otherwise .* \(c here is b there\)"):
        found.check(config, ("a", "c"))


def test_a_process_that_no_option_makes_is_refused(fast):
    found = brought(str(fast), "")
    own = {"process": ScaleSpaceProcess(LinearBeta(), Unchanged(SIZES[0]))}
    with pytest.raises(UserError, match=r"has a process of its own \(process\), which training does not take"):
        _ = replace(found, scheduler=own).model


def test_a_configuration_of_another_model_is_refused(fast, tmp_path):
    config = _config(fast, tmp_path / "run")
    for change, words in (
        ({"prediction": "v"}, "prediction is v, and the model of --init-from .* has epsilon"),
        ({"process": replace(config.process, shifted=False)}, r"process.shifted is False, .* has True"),
    ):
        with pytest.raises(UserError, match=words):
            _quiet(replace(config, **change))
    assert not (tmp_path / "run").exists()


WORDS = f"train --data {DATA} --max-steps 1 --batch-size 4 --warmup-steps 0 --sample-every 0 --quiet"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--process.levels 3", "--process.levels has no effect with --init-from"),
        ("--network.base-channels 8", "--network.base-channels has no effect with --init-from"),
        ("--preset tiny", "--preset has no effect with --init-from"),
        ("--solver ddim", "a pretrained model, which brings process and network; leave --solver out"),
        ("--process.no-shifted", "process.shifted is False, and the model of --init-from"),
    ],
)
def test_options_of_another_model_are_one_sentence(fast, tmp_path, capsys, option, words):
    command = shlex.split(f"{WORDS} --init-from {fast} --output-dir {tmp_path / 'run'} {option}")
    assert words in cli_error(capsys, command)
    assert not (tmp_path / "run").exists()


def test_what_a_run_cannot_start_from_is_one_sentence(fast, tmp_path, capsys):
    def refused(*words):
        return cli_error(capsys, [*shlex.split(f"{WORDS} --output-dir {tmp_path / 'run'}"), *words])

    copy = tmp_path / "copy"
    shutil.copytree(fast, copy)
    file = copy / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"change_points": [0]}))
    assert "the model of --init-from is damaged" in refused("--init-from", str(copy))
    one = _fast(tmp_path, ())
    assert "--change-share has no effect on a model of one resolution" in refused(
        "--init-from", str(one), "--change-share", "0.1"
    )
