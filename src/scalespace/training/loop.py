"""Training: from a configuration to a saved pipeline, or on from where a run was stopped."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from tqdm import tqdm

from scalespace.data.images import open_images
from scalespace.data.spectrum import mean_spectrum
from scalespace.errors import UserError
from scalespace.files import write_directory
from scalespace.reading import reading
from scalespace.training.announcement import announcement
from scalespace.training.build import (
    build_network,
    build_scheduler,
    with_data,
    without_data,
)
from scalespace.training.configuration import TrainConfig
from scalespace.training.footprint import check_footprint
from scalespace.training.precision import computes_bf16
from scalespace.training.recorder import Recorder
from scalespace.training.run_directory import DataIdentity, RunDirectory, recorded
from scalespace.training.trainer import Trainer

__all__ = ["accelerator_for", "train", "with_precision"]

# What reading a damaged checkpoint raises; EOFError and PickleError are torch's for a file cut short or not its own.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.PickleError, SafetensorError)


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
    config = with_precision(config, say)
    # Whatever does not fit is found before anything is read or written.
    known = without_data(config)
    scheduler = build_scheduler(known)
    accelerator = accelerator_for(config)
    check_footprint(known, scheduler, accelerator.device, accelerator.num_processes)
    torch.manual_seed(config.seed)
    network = build_network(config, scheduler.sizes)
    trainer = Trainer(config, accelerator, scheduler, network)
    if not accelerator.is_main_process:
        say = _nothing
    RunDirectory(config, None)
    data = open_images(
        config.data,
        scheduler.image_size,
        channels=config.process.channels,
        cache_bytes=int(config.cache_gib * 2**30),
        progress=progress,
        on_bad=lambda bad: say(f"skipped {bad.name}: {bad.reason}"),
        num_classes=config.network.num_classes,
    )
    for line in announcement(config, data):
        say(line)
    if config.process.awaits_data:
        config = with_data(config, mean_spectrum(data, progress))
        trainer.follow(build_scheduler(config))
        say(f"change points read off the data: {' '.join(map(str, config.process.change_points)) or 'none'}")
    identity = DataIdentity(data.fingerprint, len(data), data.classes, data.former_fingerprint)
    run = RunDirectory(config, identity, say)
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
            if config.average_every and (step % config.average_every == 0 or step == config.max_steps):
                trainer.save_snapshot(run.averages_path / f"step-{step:08d}.safetensors")
            if checkpoint:
                run.save_checkpoint(step, trainer.save)
    write_directory(run.model_path, lambda path: trainer.save_pipeline(path, data.classes))
    accelerator.end_training()
    if not data.cached:
        for line in data.met():
            say(line)
    return run


def _nothing(line: str) -> None:
    """Say nothing, on processes beside the first."""


def _resume(run: RunDirectory, trainer: Trainer, say: Callable[[str], None]) -> int:
    latest = run.latest_checkpoint()
    if latest is None:
        run.rewind_log(0)
        return 0
    step, path = latest
    with reading(path, "delete it to resume from the one before", *_DAMAGE):
        trainer.load(path, step)
    run.rewind_log(step)
    say(f"resuming {run.path} at step {step}")
    return step


def with_precision(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The run with a precision, where its configuration leaves that to the machine: the one that it began with, if it did."""
    if config.mixed_precision != "auto":
        return config
    begun = recorded(config.output_dir, "mixed_precision")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    able = device is not None and computes_bf16(device)
    if begun in ("no", "bf16", "fp16"):
        precision, why = begun, "as the run began"
    else:
        precision, why = ("bf16", f"the {device} multiplies it") if able else ("no", f"the {device} has no fast bf16")
    say(f"precision {precision} ({why}; --mixed-precision chooses another)")
    return replace(config, mixed_precision=precision)


def accelerator_for(config: TrainConfig) -> Accelerator:
    """Device, precision and processes of a run.

    Raises:
        UserError: If precision or tracker cannot be used here.
    """
    tracker = None if config.tracker == "none" else config.tracker
    if tracker is not None and find_spec(tracker) is None:
        raise UserError(f"{tracker} is not installed; run pip install 'scale-space-diffusion[{tracker}]'")
    # accelerate keeps the precision of the first run for all that follow in the same Python process.
    AcceleratorState._reset_state()
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
