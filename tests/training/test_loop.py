import json
import pickle
import resource
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.small_models import CHANGE, small_config
from torch import Tensor
from torch.testing import assert_close

from scalespace.data.batches import BatchOrder, to_model
from scalespace.data.images import open_images
from scalespace.diffusion.loss import x0_loss
from scalespace.errors import UserError
from scalespace.networks.conditioned import DenoiserOutput
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline
from scalespace.processes import Processes
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ProcessConfig, TrainConfig, learning_rate
from scalespace.training.level_sampling import Batch
from scalespace.training.loop import train as train_aloud
from scalespace.training.loss_plot import plot_losses
from scalespace.training.run_directory import DataIdentity, RunDirectory
from scalespace.training.trainer import Trainer

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def train(config: TrainConfig) -> RunDirectory:
    return train_aloud(config, progress=False, say=lambda line: None)


def trainer(config: TrainConfig) -> Trainer:
    scheduler = build_scheduler(config)
    torch.manual_seed(config.seed)
    return Trainer(config, Accelerator(), scheduler, build_network(config, scheduler.sizes), Processes())


def log(run: RunDirectory) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "pictures_per_second"} for line in run.read_log()]


def on_disk(config: TrainConfig) -> RunDirectory:
    """The run of a configuration, as it lies on disk."""
    data = open_images(config.data, config.process.image_size)
    return RunDirectory(config, DataIdentity(data.fingerprint, len(data), data.classes, data.former_fingerprint))


def checkpoint(run: RunDirectory, step: int) -> Path:
    return run.path / "checkpoints" / f"step-{step:08d}"


def assert_equal_runs(left: RunDirectory, right: RunDirectory, step: int) -> None:
    """Logs, weights, averaged weights and moments of the optimizer, bit for bit."""
    assert log(left) == log(right)
    for file in (f"model/{WEIGHTS}", *(f"checkpoints/step-{step:08d}/{n}.safetensors" for n in ("model", "ema"))):
        tensors = [load_file(run.path / file) for run in (left, right)]
        assert tensors[0].keys() == tensors[1].keys()
        for name, value in tensors[0].items():
            assert_close(value, tensors[1][name], rtol=0, atol=0)
    moments = [torch.load(checkpoint(run, step) / "optimizer.bin", weights_only=True)["state"] for run in (left, right)]
    assert len(moments[0]) > 10
    assert_close(moments[0], moments[1], rtol=0, atol=0)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    take = Trainer.step

    def interrupted(self: Trainer, number: int, batch: Batch):
        if number == step:
            raise KeyboardInterrupt
        return take(self, number, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)


# Whatever is drawn at random is on: dropout, flips, classes; and the log's windows do not end where checkpoints do.
RANDOM: dict[str, Any] = {"network": {"dropout": 0.3, "num_classes": 2}, "log_every": 2, "change_share": 0.3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """Two classes of 8 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(16):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture.save(folder / "ab"[index % 2] / f"{index}.png")
    return str(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_gib": 1.0},
        {"cache_gib": 0.0},
        {"mixed_precision": "bf16"},
        {"level_sampling": "constant-compute", "micro_batch": 2},
        {"level_sampling": "least-variance"},
        {"times": "log-normal"},
    ],
    ids=["cached", "uncached", "bf16", "constant-compute", "least-variance", "log-normal"],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(options: dict[str, Any], pictures, tmp_path, monkeypatch):
    # Batch sizes are learnt at step 1 and 3, and change at steps 2 and 4.
    monkeypatch.setattr("scalespace.training.level_sampling._EVERY", 2)
    monkeypatch.setattr("scalespace.training.trainer._AHEAD", 1)
    options = RANDOM | {"data": pictures} | options
    straight = train(small_config(tmp_path / "straight", **options))
    assert [line["step"] for line in log(straight)] == [2, 3, 4, 6]

    train(small_config(tmp_path / "extended", **options, max_steps=3))
    # Steps draw from generators of their own, dropout too; what accelerate keeps of the global ones is not needed.
    early = tmp_path / "extended" / "checkpoints" / "step-00000003"
    # Checkpoints of earlier versions have no manifest.
    for name in ("manifest.json", "random_states_0.pkl"):
        (early / name).unlink()
    if not {"level_sampling"} & options.keys():
        # Nor do they hold this.
        (early / "progress.json").unlink()
    extended = train(small_config(tmp_path / "extended", **options))
    assert_equal_runs(straight, extended, 6)

    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(small_config(tmp_path / "killed", **options))
    killed = on_disk(small_config(tmp_path / "killed", **options))
    assert [line["step"] for line in log(killed)] == [2, 3, 4]
    # Step 4 is done again, and must not be in the log twice.
    assert_equal_runs(straight, train(small_config(tmp_path / "killed", **options)), 6)


def test_caching_does_not_change_a_run_and_the_seed_does(pictures, tmp_path):
    runs = [
        train(small_config(tmp_path / str(number), **RANDOM, data=pictures, max_steps=3, **options))
        for number, options in enumerate(({"cache_gib": 1.0}, {"cache_gib": 0.0}, {"seed": 1}))
    ]
    assert log(runs[0]) == log(runs[1])
    assert log(runs[0]) != log(runs[2])


def test_gradient_checkpointing_changes_nothing_but_memory(pictures, tmp_path):
    options = RANDOM | {"data": pictures}
    runs = [train(small_config(tmp_path / str(on), **options, gradient_checkpointing=on)) for on in (False, True)]
    for left, right in zip(log(runs[0]), log(runs[1]), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_a_finished_run_is_not_trained_again_and_its_model_comes_back(tmp_path):
    config = small_config(tmp_path, max_steps=2)
    said: list[str] = []
    run = train(config)
    before, lines = load_file(run.model_path / WEIGHTS), log(run)
    (run.model_path / WEIGHTS).unlink()
    train_aloud(config, progress=False, say=said.append)
    assert said[-1] == f"resuming {tmp_path} at step 2"
    assert log(run) == lines
    assert_close(load_file(run.model_path / WEIGHTS), before, rtol=0, atol=0)
    with pytest.raises(UserError, match="is already at step 2; give --max-steps of at least that"):
        train(small_config(tmp_path, max_steps=1))
    assert run.latest_checkpoint() == (2, checkpoint(run, 2))


def test_a_checkpoint_cut_short_by_a_crash_is_not_resumed_from(tmp_path):
    run = train(small_config(tmp_path / "run", max_steps=3))
    (run.path / "checkpoints" / ".step-00000006.partial").mkdir()
    (run.path / "checkpoints" / ".step-00000006.partial" / "model.safetensors").write_bytes(b"half")
    train(small_config(tmp_path / "run"))
    assert_equal_runs(train(small_config(tmp_path / "straight")), run, 6)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "ema.safetensors"])
def test_a_checkpoint_with_a_flipped_bit_is_skipped_with_a_word_and_the_one_before_serves(name: str, tmp_path):
    config = small_config(tmp_path, max_steps=2, checkpoint_every=1)
    run = train(config)
    file, average = checkpoint(run, 2) / name, checkpoint(run, 2) / "ema.safetensors"
    content, before = bytearray(file.read_bytes()), average.read_bytes()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    said: list[str] = []
    train_aloud(config, progress=False, say=said.append)
    assert said[-2:] == [
        f"skipped {checkpoint(run, 2)}: {name} has other contents than were written",
        f"resuming {tmp_path} at step 1",
    ]
    assert average.read_bytes() == before
    assert sorted(path.name for path in checkpoint(run, 2).parent.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "ema.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut short", "garbage", "empty"])
def test_a_damaged_checkpoint_of_an_earlier_version_is_named(name: str, harm: str, tmp_path):
    config = small_config(tmp_path, max_steps=2, checkpoint_every=1)
    run = train(config)
    for path in checkpoint(run, 2).parent.glob("*/manifest.json"):
        path.unlink()
    file, average = checkpoint(run, 2) / name, checkpoint(run, 2) / "ema.safetensors"
    content, before = file.read_bytes(), average.read_bytes()
    file.unlink()
    if harm != "missing":
        file.write_bytes({"cut short": content[:-200], "garbage": b"x" * 999, "empty": b""}[harm])
    with pytest.raises(UserError, match=r"step-00000002 is damaged \(.+\); delete it to resume from the one before"):
        train(config)
    for path in checkpoint(run, 2).iterdir():
        path.unlink()
    checkpoint(run, 2).rmdir()
    train(config)
    assert average.read_bytes() == before


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl"])
def test_no_code_in_a_checkpoint_is_run(name: str, proven: bool, tmp_path):
    config, mark = small_config(tmp_path / "run", max_steps=1), tmp_path / "exploded"
    run = train(config)
    if not proven:
        (checkpoint(run, 1) / "manifest.json").unlink()
    for write in (lambda f: torch.save(Bomb(mark), f), lambda f: f.write_bytes(pickle.dumps(Bomb(mark), protocol=2))):
        write(checkpoint(run, 1) / name)
        if proven:
            with pytest.raises(UserError, match=r"no checkpoint in .* is whole|is whole, and cannot be loaded"):
                train(config)
        elif name == "random_states_0.pkl":
            train(config)  # Nothing needs them: every step has its own generators.
        else:
            with pytest.raises(UserError, match="is damaged"):
                train(config)
        assert not mark.exists()


def test_the_final_model_has_the_averaged_weights(tmp_path):
    run = train(small_config(tmp_path, ema_decay=0.9))
    files = [path.relative_to(run.model_path).as_posix() for path in run.model_path.rglob("*") if path.is_file()]
    assert sorted(files) == [
        *("README.md", "manifest.json", "model_index.json", "pipeline.py", "scheduler/scalespace.py"),
        *("scheduler/scheduler_config.json", "unet/config.json", WEIGHTS, "unet/scalespace.py"),
    ]
    index = json.loads((run.model_path / "model_index.json").read_text())
    assert [index[part][0] for part in ("unet", "scheduler")] == ["scalespace", "scalespace"]

    average, raw = (load_file(checkpoint(run, 6) / f"{name}.safetensors") for name in ("ema", "model"))
    for load in (load_pipeline, ScaleSpacePipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        pipeline = load(run.model_path)
        assert type(pipeline) is ScaleSpacePipeline
        for name, value in pipeline.unet.named_parameters():
            assert_close(value.detach(), average[name], rtol=0, atol=0)
    assert max((average[name] - raw[name]).abs().max() for name in raw) > 1e-5


def test_averages_follow_their_formula(tmp_path):
    config = small_config(tmp_path, ema_decay=0.5, ema_power=0.75, max_steps=3)
    parts = trainer(config)
    name, parameter = next(iter(parts.network.named_parameters()))
    average = parameter.detach().clone()
    for step, _ in enumerate(parts.steps(open_images(config.data, (8, 8)), 0), start=1):
        decay = min(0.5, 1 - step**-0.75)
        average = decay * average + (1 - decay) * parameter.detach()
        assert_close(parts.ema.shadow_params[0], average)
    assert name == parts._names()[0]


def test_layers_that_a_step_does_not_run_keep_weights_and_moments(tmp_path):
    config = small_config(tmp_path, max_steps=12, change_share=0.3, weight_decay=0.1, warmup_steps=0)
    parts = trainer(config)
    network, optimizer = parts.network, parts.optimizer

    def state() -> dict[str, tuple[Tensor, ...]]:
        moments = {p: tuple(v.clone() for v in optimizer.state.get(p, {}).values()) for p in network.parameters()}
        return {name: (p.detach().clone(), *moments[p]) for name, p in network.named_parameters()}

    def unused(group) -> set[str]:
        output = network(torch.randn(1, 3, *group.size), 3, group.target_size).sample
        gradients = torch.autograd.grad(output.sum(), list(network.parameters()), allow_unused=True)
        names = [name for name, _ in network.named_parameters()]
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}

    before, paths = state(), set()
    for result in parts.steps(open_images(config.data, (8, 8)), 0):
        after, idle = state(), unused(result.group)
        for name in after:
            same = len(before[name]) == len(after[name]) and all(map(torch.equal, before[name], after[name]))
            assert same == (name in idle), name
        before = after
        paths.add((result.group.size, result.group.target_size, len(idle) > 0))
    # The longest path leaves out the entrance of the lower level.
    assert paths == {((8, 8), (8, 8), True), ((4, 4), (8, 8), True), ((4, 4), (4, 4), True)}


class Stub(torch.nn.Module):
    """Remembers what it is asked and answers with noise."""

    def forward(self, sample, timestep, target_size, labels):
        self.asked = (sample, timestep, target_size, labels)
        generator = torch.Generator().manual_seed(0)
        self.answer = torch.randn(len(sample), 3, *target_size, generator=generator)
        return DenoiserOutput(sample=self.answer)


def test_the_loss_is_the_objective_of_the_process(tmp_path):
    config = small_config(tmp_path, change_share=0.4, batch_size=64, weight_gamma=2.0, max_steps=12)
    parts, stub = trainer(config), Stub()
    parts.network, process = stub, parts.process
    batches = parts._batches(open_images(config.data, (8, 8)), BatchOrder(16, config.seed), 0)
    seen = set()
    for step, batch in zip(range(12), batches, strict=False):
        group, loss = batch.group, parts.loss(step, batch)
        x_t, timestep, target_size, labels = stub.asked
        t = timestep + 1
        assert labels is None
        assert (target_size, tuple(x_t.shape[-2:])) == (group.target_size, group.size)
        assert group.first <= t.min()
        assert t.max() <= group.last
        # What was added to the clean picture is white noise of level sigma_t.
        x_0 = to_model(batch.images, batch.flips)
        s, alpha = int(t[0]) - 1, process.noise.alpha(t)[:, None, None, None]
        noise = (x_t - alpha * process.degradation.operator(0, int(t[0]))(x_0)) / process.noise.sigma(t)[
            :, None, None, None
        ]
        assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
        assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
        error = (stub.answer - process.degradation.operator(0, s)(x_0)).square().mean((1, 2, 3))
        weight = torch.minimum(process.noise.snr(t), torch.tensor(2.0))
        assert_close(loss.double(), (weight * error).mean(), rtol=1e-5, atol=0)
        assert group.is_change == (group.first == CHANGE)
        seen.add((group.size, group.target_size))
    assert len(seen) == 3


def test_noise_and_times_differ_from_step_to_step_and_seed_to_seed(tmp_path):
    drawn = []
    for seed in (0, 1, 2):
        parts = trainer(small_config(tmp_path, seed=seed, change_share=0.0))
        parts.network = stub = Stub()
        images = torch.full((4, 3, 8, 8), 128, dtype=torch.uint8)
        for step in range(4):
            positions, group = range(4 * step, 4 * step + 4), parts.times.groups[0]
            parts.loss(step, Batch(group, positions, positions, images, torch.zeros(4, dtype=torch.int64), None))
            drawn.append(float(stub.asked[0].sum()))
    assert len(set(drawn)) == 12


def test_the_loss_goes_down(tmp_path):
    run = train(small_config(tmp_path, data="synthetic:shapes:4", max_steps=150, batch_size=16, learning_rate=3e-3))
    losses = [line["loss"] for line in log(run)]
    assert sum(losses[-40:]) < 0.6 * sum(losses[:40])


def test_the_log_has_a_loss_for_every_resolution(tmp_path):
    run = train(small_config(tmp_path, max_steps=40, log_every=20, checkpoint_every=40, change_share=0.3))
    assert [line["step"] for line in log(run)] == [20, 40]
    for line in run.read_log():
        assert set(line["losses"]) == {"8x8", "4x4", "4x4 -> 8x8"}
        assert line["pictures_per_second"] > 0
        assert line["gradient_norm"] > 0
    plot_losses(run.read_log(), tmp_path / "loss.png", "a title")
    with Image.open(tmp_path / "loss.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_the_learning_rate_warms_up(tmp_path):
    config = small_config(tmp_path, warmup_steps=4, learning_rate=1.0, gradient_clip=1e-9)
    parts, rates = trainer(config), []
    for _ in parts.steps(open_images(config.data, (8, 8)), 0):
        rates += [group["lr"] for group in parts.optimizer.param_groups]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_learning_rate_cools_down(tmp_path):
    config = small_config(tmp_path, warmup_steps=2, cooldown_steps=3, learning_rate=1.0, gradient_clip=1e-9)
    parts, rates = trainer(config), []
    for _ in parts.steps(open_images(config.data, (8, 8)), 0):
        rates += [group["lr"] for group in parts.optimizer.param_groups]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 2 / 3, 1 / 3])


def test_learning_rate_schedules(tmp_path):
    options = {"max_steps": 100, "warmup_steps": 5, "cooldown_steps": 10, "learning_rate": 2.0}
    cosine = small_config(tmp_path, learning_rate_schedule="cosine", **options | {"cooldown_steps": 0})
    assert [learning_rate(cosine, step) for step in (0, 50, 75)] == pytest.approx([0.4, 1.0, 1 - 0.5**0.5])
    root = small_config(tmp_path, learning_rate_schedule="inverse-sqrt", full_rate_steps=20, **options)
    steps = (0, 4, 20, 80, 95)
    assert [learning_rate(root, step) for step in steps] == pytest.approx([0.4, 2, 2, 1, (20 / 95) ** 0.5])


@pytest.mark.parametrize("options", [{"cooldown_steps": 3}, {"learning_rate_schedule": "cosine"}])
def test_a_run_whose_rate_falls_to_zero_cannot_be_made_longer(options, tmp_path):
    train(small_config(tmp_path / "run", **options))
    with pytest.raises(UserError, match="max_steps is 6 there and 8 here"):
        train(small_config(tmp_path / "run", **options, max_steps=8))


def test_sample_grids_use_the_same_noise_and_do_not_disturb_training(pictures, tmp_path):
    options = RANDOM | {"data": pictures, "sample_images": 4, "sample_steps": 50}
    plain = train(small_config(tmp_path / "plain", **options))
    run = train(small_config(tmp_path / "sampled", **options, sample_every=2))
    assert_equal_runs(plain, run, 6)
    files = sorted((run.path / "samples").iterdir())
    assert [file.name for file in files] == [f"step-{step:08d}.png" for step in (2, 4, 6)]
    with Image.open(files[0]) as grid:
        assert grid.size == (18, 18)


def poison(monkeypatch: pytest.MonkeyPatch, what: str, steps: Container[int]) -> None:
    """Make the gradients of some steps, counted from 0, NaN."""
    objective = Trainer.loss

    def poisoned(self: Trainer, step: int, batch: Batch):
        loss = objective(self, step, batch)
        if step not in steps:
            return loss
        # The second is 0 and has the gradient 0 / 0.
        return loss * torch.nan if what == "loss" else loss + (0 * loss).sqrt()

    monkeypatch.setattr(Trainer, "loss", poisoned)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(what: str, tmp_path, monkeypatch):
    poison(monkeypatch, what, {4})
    options: dict[str, Any] = {"checkpoint_every": 1, "keep_checkpoints": 9, "warmup_steps": 0}
    run = train(small_config(tmp_path / "run", **options))
    assert [(line["step"], line["skipped_steps"]) for line in log(run)] == [(s, int(s > 4)) for s in range(1, 7)]
    assert [line["step"] for line in log(run) if line["loss"] is None] == [5]
    plot_losses(run.read_log(), tmp_path / "loss.png", "a title")
    # The checkpoint of the skipped step waits for a step that is not skipped.
    assert [step for step in range(1, 7) if checkpoint(run, step).exists()] == [1, 2, 3, 4, 6]
    poison(monkeypatch, what, {4, 5})
    four = train(small_config(tmp_path / "four", **options))
    for name in ("model", "ema"):
        before, after = (load_file(checkpoint(four, step) / f"{name}.safetensors") for step in (4, 6))
        assert all(torch.equal(before[key], after[key]) for key in before)
    # Resumed at step 4, it skips the same step.
    for step in (5, 6):
        shutil.rmtree(checkpoint(run, step), ignore_errors=True)
    monkeypatch.undo()
    poison(monkeypatch, what, {4})
    assert_equal_runs(run, train(small_config(tmp_path / "run", **options)), 6)


def test_a_run_whose_gradients_stay_bad_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    options: dict[str, Any] = {"checkpoint_every": 2, "max_steps": 40}
    with monkeypatch.context() as patch:
        poison(patch, "loss", range(4, 99))
        with pytest.raises(UserError) as caught:
            train(small_config(tmp_path / "run", **options))
        assert str(caught.value).startswith("the last 20 gradients are not finite at step 24 (")
        assert "the last good checkpoint is" in str(caught.value)
        assert "step-00000004; train in a new --output-dir with a lower --learning-rate" in str(caught.value)
        # The count goes on where a run was stopped in between.
        train(small_config(tmp_path / "parts", **options | {"max_steps": 10}))
        with pytest.raises(UserError, match="the last 20 gradients are not finite at step 24"):
            train(small_config(tmp_path / "parts", **options))
    run = on_disk(small_config(tmp_path / "run", **options))
    assert run.latest_checkpoint() == (4, checkpoint(run, 4))
    assert not run.model_path.exists()
    # What was kept is good: without the poison the run ends like one that was never poisoned.
    straight = train(small_config(tmp_path / "straight", **options | {"max_steps": 6}))
    assert_equal_runs(straight, train(small_config(tmp_path / "run", **options | {"max_steps": 6})), 6)


def test_weights_that_are_not_finite_are_never_saved_and_never_gone_on_from(tmp_path, monkeypatch):
    config = small_config(tmp_path, max_steps=2, checkpoint_every=1)
    run = train(config)
    weights = load_file(checkpoint(run, 2) / "model.safetensors")
    weights["conv_in.bias"][0] = torch.nan
    save_file(weights, checkpoint(run, 2) / "model.safetensors")
    (checkpoint(run, 2) / "manifest.json").unlink()
    (checkpoint(run, 1) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"step-00000002 is damaged \(conv_in.bias is not finite\); delete it to"):
        train(config)
    shutil.rmtree(checkpoint(run, 2))
    take = Trainer.step

    def spoil(self: Trainer, number: int, batch: Batch):
        result = take(self, number, batch)
        self.network.conv_in.bias.data[0] = torch.inf
        return result

    monkeypatch.setattr(Trainer, "step", spoil)
    words = "conv_in.bias is no longer finite; .* a lower --learning-rate; the last good checkpoint is .*step-00000001"
    with pytest.raises(UserError, match=words):
        train(config)


def test_a_learning_rate_that_is_far_too_high_ends_in_one_sentence(tmp_path):
    words = r"the last 20 gradients are not finite at step \d+ \(\d+x\d+.*no checkpoint had been written yet"
    with pytest.raises(UserError, match=words):
        train(small_config(tmp_path, learning_rate=1e30, warmup_steps=0, max_steps=40, checkpoint_every=20))


@contextmanager
def largest_file(bytes_: int) -> Iterator[None]:
    """No file of this process can become larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["log.jsonl", "model.safetensors", "optimizer.bin"])
def test_a_full_disk_loses_nothing(name: str, tmp_path):
    run = train(small_config(tmp_path / "run", max_steps=2, log_every=2, checkpoint_every=9))
    where = run.log_path if name == "log.jsonl" else checkpoint(run, 2) / name
    limit = where.stat().st_size - (0 if name == "log.jsonl" else 1)
    where = name if name == "log.jsonl" else "step-00000004"
    # The log and the page go on as long as they can.
    told = {run.log_path, run.path / "index.html"}
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path not in told}
    with largest_file(limit), pytest.raises(UserError, match=rf"cannot write .*{where} \(.+\); free space or"):
        train(small_config(tmp_path / "run", max_steps=4, log_every=2, checkpoint_every=9))
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path not in told}
    assert after == before
    # With space again the same command goes on as if nothing had happened.
    resumed = train(small_config(tmp_path / "run", max_steps=4, log_every=2))
    assert_equal_runs(train(small_config(tmp_path / "straight", max_steps=4, log_every=2)), resumed, 4)


def test_a_full_disk_at_the_final_model_leaves_the_earlier_model(tmp_path, monkeypatch):
    run = train(small_config(tmp_path, max_steps=2))
    before = (run.model_path / WEIGHTS).read_bytes()

    def full(self, path, *_):
        (path / "half").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_pipeline", full)
        with pytest.raises(UserError, match=r"model \(the disk is full\); free space"):
            train(small_config(tmp_path, max_steps=4))
    assert (run.model_path / WEIGHTS).read_bytes() == before
    assert run.latest_checkpoint() == (4, checkpoint(run, 4))
    kept = [".lock", "checkpoints", "index.html", "log.jsonl", "model", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_a_different_run_is_refused_before_the_data_are_read(tmp_path):
    train(small_config(tmp_path, max_steps=1))
    with pytest.raises(UserError, match="holds a different run: seed is 0 there and 1 here"):
        train(small_config(tmp_path, max_steps=1, seed=1, data="nowhere"))


@pytest.mark.parametrize("classes", [1, 3])
def test_more_or_fewer_classes_than_the_network_has_are_refused(classes: int, pictures, tmp_path):
    with pytest.raises(UserError, match=r"has 2 class folders: a, b; give --network.num-classes 2, or None to leave"):
        train(small_config(tmp_path / "run", data=pictures, network={"num_classes": classes}))
    assert not (tmp_path / "run").exists()


def test_a_run_tells_what_it_is_trained_on_and_the_model_knows_its_classes(pictures, tmp_path):
    said: list[str] = []
    train_aloud(small_config(tmp_path, **RANDOM | {"data": pictures}, max_steps=1), progress=False, say=said.append)
    assert said == [
        "16 pictures in 2 classes",
        "classes: a (8), b (8)",
        "pictures are cropped around the centre, resized to 8x8 and mirrored left to right at random "
        "(--no-flip leaves them as they are)",
    ]
    assert load_pipeline(tmp_path / "model").labels == {"a": 0, "b": 1}
    written = json.loads((tmp_path / "run.json").read_text())
    assert (written["class_names"], written["flip"]) == (["a", "b"], True)


def test_classes_that_are_not_trained_with_are_told_and_not_in_the_model(pictures, tmp_path):
    said: list[str] = []
    train_aloud(small_config(tmp_path, data=pictures, max_steps=1, flip=False), progress=False, say=said.append)
    assert said[2:] == [
        "pictures are cropped around the centre, resized to 8x8 and not mirrored",
        "the classes are not used; --network.num-classes 2 trains with them",
    ]
    assert load_pipeline(tmp_path / "model").labels == {}


@pytest.mark.parametrize(
    ("cache_gib", "told"),
    [(1.0, ["1 of 100 pictures is"]), (0.0, ["1 of the 25 pictures read so far is", "1 of 100 pictures is"])],
    ids=["cached", "uncached"],
)
def test_what_is_done_to_some_pictures_is_told(cache_gib: float, told: list[str], tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for index in range(100):
        Image.new("RGB", (8, 8 - (index == 4)), (index, 0, 0)).save(data / f"{index:02d}.png")
    said: list[str] = []
    config = small_config(tmp_path / "run", data=str(data), batch_size=100, max_steps=1, cache_gib=cache_gib)
    train_aloud(config, progress=False, say=said.append)
    enlarged = [line for line in said if line.endswith("enlarged to it")]
    assert enlarged == [f"{start} smaller than the image size and enlarged to it" for start in told]


GREY = ProcessConfig((8, 8), channels=1, levels=2, timesteps=20, resolution="equal", beta_start=0.02, beta_end=0.4)


def test_a_run_in_grey_is_trained_sampled_and_resumed_in_grey(pictures, tmp_path):
    options = RANDOM | {"data": pictures, "process": GREY, "sample_every": 6, "sample_steps": 4}
    straight = train(small_config(tmp_path / "straight", **options))
    train(small_config(tmp_path / "resumed", **options, max_steps=3))
    said: list[str] = []
    resumed = train_aloud(small_config(tmp_path / "resumed", **options), progress=False, say=said.append)
    assert_equal_runs(straight, resumed, 6)
    assert "16 of 16 pictures are in colour and converted to luminance" in said
    assert load_pipeline(resumed.model_path).unet.config["in_channels"] == 1
    with Image.open(resumed.path / "samples" / "step-00000006.png") as grid:
        assert grid.mode == "L"
    with pytest.raises(UserError, match=r"holds a different run: process\.channels is 1 there and 3 here"):
        train(small_config(tmp_path / "resumed", **RANDOM, data=pictures))


def test_losses_reach_the_tracker(tmp_path):
    pytest.importorskip("tensorboard")
    run = train(small_config(tmp_path, max_steps=2, tracker="tensorboard"))
    assert list(run.path.rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scalespace.training.loop.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb is not installed; run pip install 'scale-space-diffusion\[wandb\]'"):
        train(small_config(tmp_path / "run", tracker="wandb"))
    assert not (tmp_path / "run").exists()


def test_x0_loss_is_what_the_trainer_uses():
    # The formula above takes the mean over pixels; so does the public function.
    assert_close(
        x0_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.tensor([1.0, 2.0])).tolist(), [1.0, 2.0]
    )
