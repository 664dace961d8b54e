"""Training: from a configuration to a saved pipeline.

Step k draws everything it needs from generators keyed by (seed, k): which pictures, at which resolution, with which times,
noise and dropout. Nothing random is carried from step to step, so a run that is resumed at a checkpoint goes on bit for bit
as if it had not been stopped.

Source of the objective: Mukhopadhyay et al. 2026 (arXiv 2603.08709), training.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from scalespace.data.batches import BatchOrder, to_model
from scalespace.data.images import ImageDataset, open_images
from scalespace.data.spectrum import mean_spectrum
from scalespace.diffusion.conditioning import augmented
from scalespace.diffusion.loss import x0_loss
from scalespace.errors import UserError, cause
from scalespace.files import write_directory, write_file
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.operators.resize import Resize
from scalespace.pipelines.pictures import image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.reading import reading
from scalespace.training.build import build_network, build_scheduler, build_times, loss_weight, with_data, without_data
from scalespace.training.configuration import TrainConfig
from scalespace.training.recorder import Recorder, StepResult
from scalespace.training.run_directory import RunDirectory
from scalespace.training.time_sampling import TimeGroup

__all__ = ["Trainer", "train"]

# Words of the random keys that keep the streams of one seed apart.
_GROUP, _TIMES, _NOISE, _DROPOUT, _CONDITION = range(5)
_AHEAD = 4
_EMA_FILE = "ema.safetensors"
# What reading a damaged checkpoint raises; EOFError and PickleError are torch's for a file cut short or not its own.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.PickleError, SafetensorError)


class Batch(NamedTuple):
    """Pictures of a step."""

    images: Tensor
    """uint8, shape (B, 3, H, W)."""
    labels: Tensor
    """int64, shape (B,)."""
    flips: Tensor | None
    """bool, shape (B,): which pictures to mirror."""


def train(config: TrainConfig, progress: bool = True, say: Callable[[str], None] = print) -> RunDirectory:
    """Train, or go on training, until ``max_steps``.

    Args:
        config: The run.
        progress: Whether to show progress bars on stderr.
        say: Takes a line for the user where something is worth telling.

    Returns:
        The run's directory; its ``model_path`` holds the trained pipeline.

    Raises:
        UserError: If data, process, network or output directory do not fit, the loss is no longer finite, or the disk
            is full; checkpoints written before are kept.
    """
    # Whatever does not fit is found before anything is read or written.
    scheduler = build_scheduler(without_data(config))
    torch.manual_seed(config.seed)
    network = build_network(config, scheduler.sizes)
    trainer = Trainer(config, _accelerator(config), scheduler, network)
    RunDirectory(config, None)
    data = open_images(
        config.data,
        scheduler.image_size,
        cache_bytes=int(config.cache_gib * 2**30),
        progress=progress,
        on_bad=lambda bad: say(f"skipped {bad.name}: {bad.reason}"),
    )
    classes = config.network.num_classes
    if classes is not None and len(data.classes) > classes:
        raise UserError(
            f"{config.data} has {len(data.classes)} classes (top folders) and the network {classes}; "
            f"give --network.num-classes {len(data.classes)}"
        )
    if data.enlarged:
        say(f"enlarged {data.enlarged} of {len(data)} pictures that are smaller than the image size")
    if config.process.awaits_data:
        config = with_data(config, mean_spectrum(data, progress))
        trainer.follow(build_scheduler(config))
        say(f"change points read off the data: {' '.join(map(str, config.process.change_points)) or 'none'}")
    run = RunDirectory(config, data.fingerprint)
    accelerator = trainer.accelerator
    accelerator.init_trackers("scalespace", config={"seed": config.seed, "batch_size": config.batch_size})
    first = _resume(run, trainer, say)
    if first > config.max_steps:
        raise UserError(f"{run.path} is already at step {first}; give --max-steps of at least that")
    recorder = Recorder(run, accelerator, config)
    bar = tqdm(
        initial=first, total=config.max_steps, desc="training", unit=" steps", disable=not progress, dynamic_ncols=True
    )
    with bar:
        for step, result in enumerate(trainer.steps(data, first), start=first + 1):
            recorder.add(step, result)
            checkpoint = step % config.checkpoint_every == 0 or step == config.max_steps
            if checkpoint or step % config.log_every == 0:
                # Before anything is saved: a checkpoint never holds the weights of a run that has failed.
                bar.set_postfix_str(recorder.flush(), refresh=False)
            bar.update()
            if config.sample_every and step % config.sample_every == 0:
                trainer.save_samples(run.path / "samples" / f"step-{step:08d}.png", data, progress)
            if checkpoint:
                run.save_checkpoint(step, trainer.save)
    write_directory(run.model_path, trainer.save_pipeline)
    accelerator.end_training()
    if data.bad:
        say(f"{len(data.bad)} of {len(data)} pictures could not be decoded and were skipped")
    return run


class Trainer:
    """Network, optimizer and averaged weights, and the step that changes them.

    Args:
        config: The run.
        accelerator: Device, precision and processes.
        scheduler: Holds the process to train on.
        network: With its initial weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        scheduler: ScaleSpaceScheduler,
        network: FlexiUNet,
    ):
        self.config = config
        self.accelerator = accelerator
        self.follow(scheduler)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.ema = EMAModel(
            network.parameters(),
            decay=config.ema_decay,
            use_ema_warmup=True,
            power=config.ema_power,
            foreach=True,
        )
        self.network.train()

    def follow(self, scheduler: ScaleSpaceScheduler) -> None:
        """Train on the process of this scheduler; its sizes are those of the network.

        Raises:
            UserError: If sample grids are wanted in fewer steps than the process needs.
        """
        self.scheduler = scheduler
        self.process = scheduler.process
        self.times = build_times(self.config, self.process)
        self.weight = loss_weight(self.config, self.process)
        if self.config.sample_every:
            try:
                scheduler.set_timesteps(min(self.config.sample_steps, self.process.timesteps))
            except ValueError as error:
                raise UserError(f"sample grids cannot be drawn with these --sample-steps: {cause(error)}") from error

    def steps(self, data: ImageDataset, first: int) -> Iterator[StepResult]:
        """Take the steps ``first`` to ``max_steps`` - 1, counted from 0, on pictures at full resolution."""
        for step, batch in enumerate(self._batches(data, first), start=first):
            yield self._step(step, batch)

    def _step(self, step: int, batch: Batch) -> StepResult:
        group, loss = self.loss(step, batch)
        rate = self.config.learning_rate * min(
            1.0,
            (step + 1) / max(self.config.warmup_steps, 1),
            (self.config.max_steps - step) / max(self.config.cooldown_steps, 1),
        )
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        # Gradients are removed, not zeroed: layers that the next step does not run keep weights and moments unchanged.
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.network.parameters())
        return StepResult(group, loss.detach(), torch.as_tensor(norm))

    def loss(self, step: int, batch: Batch) -> tuple[TimeGroup, Tensor]:
        """The objective of one batch, at the times that belong to ``step``."""
        device = self.accelerator.device
        # Processes that run different layers would wait for each other, so all draw the group from one generator.
        group = self.times.draw(_generator("cpu", self.config.seed, _GROUP, step))
        rank = self.accelerator.process_index
        # Grid points stay on the CPU, where the tables and the operators' eigenvalues are.
        t = group.times(len(batch.images), _generator("cpu", self.config.seed, _TIMES, step, rank))
        torch.manual_seed(_key(self.config.seed, _DROPOUT, step, rank))

        x_0 = to_model(batch.images.to(device, non_blocking=True), batch.flips)
        x0_s = self.process.degradation.operators(0 * t, t - 1)(x_0)
        x_t = self.process.marginal(x_0, t).sample(_generator(device, self.config.seed, _NOISE, step, rank))
        labels = batch.labels.to(device) if self.config.network.num_classes is not None else None
        condition = self._condition(x_0, step)
        with self.accelerator.autocast():
            output = self.network(x_t, t.to(device) - 1, group.target_size, labels, **condition).sample
        M = self.process.degradation.operators(t - 1, t)
        prediction = self.scheduler.prediction.x0(output.float(), x_t, group.last if group.is_change else t, M)
        weight = self.times.weight(group) * self.weight(t)
        return group, x0_loss(prediction, x0_s, weight).mean()

    def _condition(self, x_0: Tensor, step: int) -> dict[str, Tensor]:
        """What a network that is conditioned on smaller pictures is told besides: those of the clean ones, with noise."""
        if self.config.network.condition_size is None:
            return {}
        rank = self.accelerator.process_index
        generator = _generator(x_0.device, self.config.seed, _CONDITION, step, rank)
        small = self._smaller(x_0)
        level = self.config.condition_noise * torch.rand(len(small), generator=generator, device=x_0.device)
        noise = torch.randn(small.shape, generator=generator, device=x_0.device)
        return {"condition": augmented(small, level, noise), "condition_noise": level}

    def _smaller(self, x_0: Tensor) -> Tensor:
        size = self.config.network.condition_size
        assert size is not None
        return Resize(self.scheduler.image_size, size)(x_0)

    def _batches(self, data: ImageDataset, first: int) -> Iterator[Batch]:
        accelerator, config = self.accelerator, self.config
        order = BatchOrder(
            len(data), config.batch_size, config.seed, accelerator.process_index, accelerator.num_processes
        )

        def read(step: int) -> Batch:
            return Batch(*data.batch(order.indices(step)), order.flips(step) if config.flip else None)

        # A thread reads ahead; decoding releases the interpreter's lock.
        with ThreadPoolExecutor(1) as pool:
            pending = deque(pool.submit(read, step) for step in range(first, min(first + _AHEAD, config.max_steps)))
            for step in range(first + _AHEAD, config.max_steps + _AHEAD):
                batch = pending.popleft().result()
                if step < config.max_steps:
                    pending.append(pool.submit(read, step))
                yield batch
                if not pending:
                    return

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        self.accelerator.save_state(str(path), safe_serialization=True)
        # accelerate would load a registered object from a pickle that may run any code.
        averages = dict(zip(self._names(), self.ema.shadow_params, strict=True))
        save_file(averages, path / _EMA_FILE, {"optimization_step": str(self.ema.optimization_step)})

    def load(self, path: Path) -> None:
        """Go back to what ``save`` wrote."""
        self.accelerator.load_state(str(path))
        with safe_open(path / _EMA_FILE, framework="pt") as file:
            for name, average in zip(self._names(), self.ema.shadow_params, strict=True):
                average.copy_(file.get_tensor(name))
            self.ema.optimization_step = int(file.metadata()["optimization_step"])

    def _names(self) -> list[str]:
        return [name for name, _ in self.accelerator.unwrap_model(self.network).named_parameters()]

    def save_pipeline(self, path: Path) -> None:
        """Write the pipeline with the averaged weights, in diffusers' layout."""
        with self._averaged() as network:
            ScaleSpacePipeline(network, self.scheduler).save_pretrained(path)

    def save_samples(self, path: Path, data: ImageDataset, progress: bool = True) -> None:
        """Draw a grid of pictures with the averaged weights; the same noise every time, so that grids compare.

        A network that is conditioned on smaller pictures is given those of the first pictures of the data.
        """
        if not self.accelerator.is_main_process:
            return
        count, classes = self.config.sample_images, self.config.network.num_classes
        labels, condition = None if classes is None else torch.arange(count) % classes, None
        if self.config.network.condition_size is not None:
            condition = self._smaller(to_model(data.batch(torch.arange(count) % len(data))[0]))
        with self._averaged() as network:
            pipeline = ScaleSpacePipeline(network, self.scheduler)
            pipeline.set_progress_bar_config(desc="sampling", leave=False, delay=2, disable=not progress)
            images = pipeline(
                count,
                generator=image_generators(self.config.seed, range(count)),
                num_inference_steps=min(self.config.sample_steps, self.process.timesteps),
                class_labels=labels,
                output_type="pt",
                return_dict=False,
                condition=condition,
            )[0]
        write_file(path, picture_grid([to_picture(2 * image - 1) for image in images]).save)

    @contextmanager
    def _averaged(self) -> Iterator[FlexiUNet]:
        """The network with the averaged weights in it, inside the block only."""
        network = self.accelerator.unwrap_model(self.network)
        self.ema.store(network.parameters())
        self.ema.copy_to(network.parameters())
        try:
            yield network.eval()
        finally:
            self.ema.restore(network.parameters())
            network.train()


def _resume(run: RunDirectory, trainer: Trainer, say: Callable[[str], None]) -> int:
    latest = run.latest_checkpoint()
    if latest is None:
        run.rewind_log(0)
        return 0
    step, path = latest
    with reading(path, "delete it to resume from the one before", *_DAMAGE):
        trainer.load(path)
    run.rewind_log(step)
    say(f"resuming {run.path} at step {step}")
    return step


def _accelerator(config: TrainConfig) -> Accelerator:
    tracker = None if config.tracker == "none" else config.tracker
    if tracker is not None and find_spec(tracker) is None:
        raise UserError(f"{tracker} is not installed; run pip install 'scale-space-diffusion[{tracker}]'")
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=tracker,
            project_dir=config.output_dir,
            # A step runs only the layers that its resolutions need; the others get no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except (ValueError, ImportError) as error:
        raise UserError(
            f"--mixed-precision {config.mixed_precision} with --tracker {config.tracker} cannot be used with this "
            "accelerate on this machine; choose others"
        ) from error


def _key(*words: int) -> int:
    """A seed for torch that differs wherever the words do."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(device: torch.device | str, *words: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(_key(*words))
