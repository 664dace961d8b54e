"""Training: from a configuration to a saved pipeline, or on from where a run was stopped."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from tqdm import tqdm

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.spectrum import mean_spectrum
from scalespace.errors import Stopped, UserError, cause
from scalespace.files import write_directory
from scalespace.launch import unsharded
from scalespace.memory import memory_ran_out
from scalespace.processes import join
from scalespace.reading import reading
from scalespace.runs.checkpoints import Checkpoint
from scalespace.runs.lock import check_unlocked, locked
from scalespace.runs.stopping import Stopping
from scalespace.training.build import (
    build_network,
    build_scheduler,
    with_data,
    without_data,
)
from scalespace.training.changes import told
from scalespace.training.configuration import TrainConfig
from scalespace.training.evaluation import Evaluation, Evaluator
from scalespace.training.pretrained.brought import brought
from scalespace.training.recorder import Recorder
from scalespace.training.report import RunReport
from scalespace.training.run_directory import DataIdentity, RunDirectory
from scalespace.training.sample_grids import save_grid
from scalespace.training.sharded.setting import with_sharding
from scalespace.training.start.announcement import announcement
from scalespace.training.start.footprint import check_footprint
from scalespace.training.start.initial_weights import start_from
from scalespace.training.start.precision import with_precision
from scalespace.training.trainer import Trainer

__all__ = ["accelerator_for", "train"]

# What reading a damaged checkpoint raises; EOFError and PickleError are torch's for a file cut short or not its own.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.PickleError, SafetensorError)


def train(
    config: TrainConfig,
    progress: bool = True,
    say: Callable[[str], None] = print,
    evaluation: Evaluation | None = None,
    trust: bool = False,
) -> RunDirectory:
    """Train, or go on training, until ``max_steps``.

    Args:
        config: The run.
        progress: Whether to show progress bars on stderr.
        say: Takes a line for the user where something is worth telling.
        evaluation: Measures the run from time to time, which changes nothing of its weights; None does not.
        trust: Whether to import the module of a degradation that the model of ``init_from`` names, as in ``load_pipeline``.

    Returns:
        The run's directory; its ``model_path`` holds the trained pipeline.

    Raises:
        UserError: If data, process, network or output directory do not fit, the loss is no longer finite, or the disk
            is full, or another run trains in the same directory; checkpoints written before are kept.
        ToldError: If another of the processes that share the training has failed.
        Stopped: If a signal or ``max_hours`` has ended it before ``max_steps``; a checkpoint has been saved.
    """
    processes = join()
    stopping = Stopping(config.max_hours, aloud=processes.is_first)
    progress, say = progress and processes.is_first, say if processes.is_first else _nothing
    if config.batch_size < processes.count:
        raise UserError(
            f"batch_size is {config.batch_size}, over all processes, of which there are {processes.count}; give one picture "
            "for each at least"
        )
    config = processes.first(partial(with_precision, config, say))
    config = processes.first(partial(with_sharding, config, processes.count))
    # Whatever does not fit is found before anything is read or written.
    known, brings = without_data(config), processes.first(lambda: brought(config.init_from, config.output_dir))
    if brings is not None:
        brings.check(config)
    scheduler = build_scheduler(known) if brings is None else brings.process()
    make = partial(build_network, config, scheduler.sizes) if brings is None else brings.network
    accelerator = accelerator_for(config)
    check_footprint(known, scheduler, make, accelerator.device, processes.count)
    torch.manual_seed(config.seed)
    network = make()
    folder, initial = Path(config.output_dir), None
    if config.init_from is not None and processes.first(lambda: RunDirectory(config, None).latest_checkpoint() is None):
        initial = start_from(config.init_from, network, scheduler, processes, say, progress, brings, trust)
    trainer = Trainer(config, accelerator, scheduler, network, processes)
    processes.first(lambda: RunDirectory(config, None) and check_unlocked(folder))
    evaluator = None if evaluation is None else Evaluator(evaluation, trainer, progress)
    data = open_images(
        config.data,
        scheduler.image_size,
        channels=config.process.channels,
        cache_bytes=int(config.cache_gib * 2**30),
        progress=progress,
        on_bad=lambda bad: say(f"skipped {bad.name}: {bad.reason}"),
        say=say,
        num_classes=config.network.num_classes,
    )
    if brings is not None:
        brings.check(config, data.classes)
    for line in announcement(config, data):
        say(line)
    if config.process.awaits_data:
        config = processes.first(lambda: with_data(config, mean_spectrum(data, progress)))
        trainer.follow(build_scheduler(config))
        say(f"change points read off the data: {' '.join(map(str, config.process.change_points)) or 'none'}")
    identity = processes.first(lambda: _identity(data))
    if (len(data), data.former_fingerprint) != (identity.pictures, identity.former_fingerprint):
        raise UserError(
            f"process {processes.rank} finds other pictures at {config.data} than the first process, which finds "
            f"{identity.pictures:,}; give all machines the same pictures"
        )
    with ExitStack() as held:
        processes.first(lambda: held.enter_context(locked(folder, say)))
        # The others find what the first has written.
        processes.first(lambda: RunDirectory(config, identity, say, initial) and None)
        run = RunDirectory(config, identity, say, initial)
        accelerator.init_trackers("scalespace", config={"seed": config.seed, "batch_size": config.batch_size})
        first = _resume(run, trainer, progress, say)
        report = RunReport(run, trainer, (*data.found(), *data.met()), first, say)
        _take_steps(run, trainer, data, first, stopping, report, progress, evaluator, say)
        with trainer.gathered():
            processes.first(
                lambda: write_directory(
                    run.model_path,
                    lambda path: trainer.save_pipeline(path, data.classes, report.made(), **run.origin),
                    durable=True,
                )
            )
    for tracker in accelerator.trackers:
        tracker.finish()
    if not data.cached:
        for line in data.met():
            say(line)
    return run


def _take_steps(
    run: RunDirectory,
    trainer: Trainer,
    data: ImageDataset,
    first: int,
    stopping: Stopping,
    report: RunReport,
    progress: bool,
    evaluator: Evaluator | None,
    say: Callable[[str], None],
) -> None:
    config, processes = trainer.config, trainer.processes
    recorder = Recorder(run, trainer.accelerator, config, processes)
    owed, saved = False, time.monotonic()
    bar = tqdm(
        initial=first, total=config.max_steps, desc="training", unit=" steps", disable=not progress, dynamic_ncols=True
    )
    # Before the first step there is nothing to save, and a signal does what it does to any program.
    with stopping, bar, _reported(report, processes.is_first) as shown:

        def evaluate(step: int) -> None:
            assert evaluator is not None
            started = time.perf_counter()
            if (why := evaluator.evaluate(run, step)) is not None:
                say(why)
            recorder.pause(time.perf_counter() - started)

        # Where a run was stopped between its checkpoint and the measuring of it.
        if evaluator is not None and evaluator.due(first) and not processes.first(lambda: run.evaluations.has(first)):
            evaluate(first)
        for step, result in enumerate(trainer.steps(data, first), start=first + 1):
            recorder.add(step, result)
            last = step == config.max_steps
            late = config.checkpoint_minutes > 0 and time.monotonic() - saved >= 60 * config.checkpoint_minutes
            stop = stopping.reason is not None
            # Clocks and signals are each process's own. Mostly there is nothing to say, in one meeting.
            if processes.meet(late or stop):
                late, stop = processes.meet(late), processes.meet(stop)
            owed = owed or late or stop or last or step % config.checkpoint_every == 0
            # A checkpoint has weights that are known to lead on, so it waits for a step that is not skipped.
            checkpoint = owed and (last or not result.skipped.in_a_row)
            if checkpoint or step % config.log_every == 0:
                # Before anything is saved: a checkpoint never holds the weights of a run that has failed.
                bar.set_postfix_str(recorder.flush(), refresh=False)
            bar.update()
            # Before the checkpoint, from which a run goes on that is killed: nothing before it is done again.
            if config.average_every and (last or step % config.average_every == 0):
                with trainer.gathered():
                    processes.first(partial(trainer.save_snapshot, run.averages_path / f"step-{step:08d}.safetensors"))
            if checkpoint:
                with trainer.gathered(moments=True):
                    processes.first(partial(run.save_checkpoint, step, trainer.save))
                owed, saved = False, time.monotonic()
            shown(step)
            if stop and not last:
                raise Stopped(_farewell(run, step, stopping.reason))
            if config.sample_every and step % config.sample_every == 0:
                save_grid(trainer, run.path / "samples" / f"step-{step:08d}.png", data, progress)
            if evaluator is not None and evaluator.due(step):
                evaluate(step)


@contextmanager
def _reported(report: RunReport, aloud: bool) -> Iterator[Callable[[int], None]]:
    """Inside the block the page of the run follows the steps that are told; after it, it says how the run ended."""
    step = report.first

    def shown(taken: int) -> None:
        nonlocal step
        step = taken
        if aloud:
            report.refresh(step)

    state = "stopped"
    try:
        yield shown
        state = "finished"
    finally:
        if aloud:
            report.refresh(step, state)


def _farewell(run: RunDirectory, step: int, reason: str | None) -> str:
    latest = run.latest_checkpoint()
    kept = (
        f"the checkpoint is {latest[1]}"
        if latest
        else "there is no checkpoint yet, since the latest steps were skipped"
    )
    return f"stopped at step {step} by {reason or 'a signal'}; {kept}, and the same command goes on"


def _nothing(line: str) -> None:
    """Say nothing, on processes other than the first."""


def _resume(run: RunDirectory, trainer: Trainer, progress: bool, say: Callable[[str], None]) -> int:
    processes = trainer.processes
    found = processes.first(partial(run.checkpoint_to_resume, progress))
    step, changed = 0 if found is None else found.step, processes.first(lambda: run.changes_since(found))
    if step > trainer.config.max_steps:
        raise UserError(f"{run.path} is already at step {step}; give --max-steps of at least that")
    if found is not None:
        _load(found, trainer, tuple(changed))
    processes.first(lambda: run.record_changes(step))
    processes.first(partial(run.rewind_log, step))
    if found is not None:
        say(f"resuming {run.path} at step {step}")
    for line in told(changed, step):
        say(line)
    return step


def _load(found: Checkpoint, trainer: Trainer, changed: Sequence[str]) -> None:
    if found.proven:
        try:
            trainer.load(found.path, found.step, changed)
        except UserError:
            raise
        except (OSError, *_DAMAGE) as error:
            if memory_ran_out(error):
                raise
            raise UserError(
                f"{found.path} is whole, and cannot be loaded all the same ({cause(error)}); resume with the versions of "
                "scalespace, torch and accelerate that wrote it"
            ) from error
    else:
        with reading(found.path, "delete it to resume from the one before", *_DAMAGE):
            trainer.load(found.path, found.step, changed)


def _identity(data: ImageDataset) -> DataIdentity:
    return DataIdentity(data.fingerprint, len(data), data.classes, data.former_fingerprint)


def accelerator_for(config: TrainConfig) -> Accelerator:
    """Device and precision of a run.

    Raises:
        UserError: If precision or tracker cannot be used here.
    """
    tracker = None if config.tracker == "none" else config.tracker
    if tracker is not None and find_spec(tracker) is None:
        raise UserError(f"{tracker} is not installed; run pip install 'scale-space-diffusion[{tracker}]'")
    # accelerate keeps the precision of the first run for all that follow in the same Python process.
    AcceleratorState._reset_state()
    try:
        # Shards are made here, and not by accelerate.
        with unsharded():
            return Accelerator(
                mixed_precision=config.mixed_precision,
                # The device of the group that the processes have joined; alone, accelerate finds the same by itself.
                cpu=join().own_device().type == "cpu",
                log_with=tracker,
                project_dir=config.output_dir,
            )
    except (ValueError, ImportError) as error:
        raise UserError(
            f"--mixed-precision {config.mixed_precision} with --tracker {config.tracker} cannot be used with this "
            "accelerate on this machine; choose others"
        ) from error
