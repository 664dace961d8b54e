"""Times a model on this machine, path by path.

A step of training is the trainer's own, with pictures that lie in memory: forward and backward pass, AdamW and the averages.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.networks.flops import TensorPeak, path_gflops
from scalespace.operators.linear import Size
from scalespace.pipelines.pictures import image_generators
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch
from scalespace.planning.speed import FORWARD_PASSES, Machine, PathSpeed, SamplingSpeed, TrainingSpeed, path_name
from scalespace.processes import Processes
from scalespace.reports.machine import device_name
from scalespace.reports.progress import progress_bar
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ModelConfig, TrainConfig
from scalespace.training.level_sampling import Batch
from scalespace.training.loop import accelerator_for
from scalespace.training.start.footprint import check_footprint
from scalespace.training.time_sampling import TimeGroup
from scalespace.training.trainer import Trainer

__all__ = ["measure_sampling", "measure_training"]

_Item = TypeVar("_Item")

_LEAST_REPEATS = 3
_PRODUCT = 2048  # side of the square matrices whose product tells what is attainable


def measure_training(config: TrainConfig, seconds: float, progress: bool = True) -> TrainingSpeed:
    """Time the steps of a training.

    Args:
        config: The run. Its data are not read, and nothing is written.
        seconds: Time to measure for, at least three steps of each path.
        progress: Whether to show a bar on stderr.

    Raises:
        UserError: If the parts of the model do not fit each other or the memory.
    """
    scheduler = build_scheduler(config)
    accelerator = accelerator_for(config)
    make = partial(build_network, config, scheduler.sizes)
    check_footprint(config, scheduler, make, accelerator.device)
    torch.manual_seed(config.seed)
    network = make()
    trainer = Trainer(config, accelerator, scheduler, network, Processes())
    groups = list(
        zip(trainer.times.groups, trainer.times.probabilities.tolist(), trainer.batches.sizes(0), strict=True)
    )
    names = [path_name(group.size, group.target_size) for group, *_ in groups]
    paths = []
    for group, share, size in _shown(groups, names, progress):
        batch = _batch(trainer, group, size)

        def take_step(batch: Batch = batch) -> None:
            trainer.step(0, batch)

        take_step()
        moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
        kept = [*network.parameters(), *trainer.ema.shadow_params, *filter(torch.is_tensor, moments)]
        peak = _peak_bytes(take_step, kept, accelerator.device)
        spent = _median_seconds(take_step, seconds / len(groups), accelerator.device)
        gflops = FORWARD_PASSES * path_gflops(network, group.size, group.target_size)
        paths.append(PathSpeed(group.size, group.target_size, share, size, spent, gflops, peak))
    machine = _machine(accelerator.device, config.mixed_precision)
    return TrainingSpeed(machine, tuple(paths), config.max_steps)


def measure_sampling(
    model: ModelConfig, batch_size: int, steps: int, device: torch.device, seconds: float, progress: bool = True
) -> SamplingSpeed:
    """Time the calls of a network with random weights on the way of a picture, and the whole way.

    Args:
        model: The model, sampled by its own solver.
        batch_size: Number of pictures drawn together.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        device: Device to draw on.
        seconds: Time to measure for, at least three calls of each path and one whole batch.
        progress: Whether to show a bar on stderr.

    Raises:
        UserError: If the parts of the model do not fit each other, the steps or the memory.
    """
    scheduler = build_scheduler(model)
    torch.manual_seed(0)
    network = build_network(model, scheduler.sizes).eval()
    pipeline = ScaleSpacePipeline(network, scheduler)
    pipeline.to(device)
    check_batch(network, batch_size, device, "lower --batch-size")
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(cause(error)) from error
    timesteps = scheduler.timesteps.tolist()
    pairs = [(scheduler.process.size(i + 1), scheduler.target_size(i)) for i in timesteps]
    full = (scheduler.image_size, scheduler.image_size)
    found: dict[tuple[Size, Size], PathSpeed] = {}
    different = list(dict.fromkeys((*pairs, full)))
    for pair in _shown(different, [path_name(*pair) for pair in different], progress):
        call = _call(network, *pair, batch_size, device)
        peak = _peak_bytes(call, network.parameters(), device)
        spent = _median_seconds(call, seconds / len(different), device)
        share = pairs.count(pair) / len(pairs)
        found[pair] = PathSpeed(*pair, share, batch_size, spent, path_gflops(network, *pair), peak)
    paths = tuple(found[pair] for pair in dict.fromkeys(pairs))
    whole = _pipeline_seconds(pipeline, batch_size, steps, device)
    return SamplingSpeed(_machine(device, "no"), paths, len(pairs), whole, found[full])


def _call(network: Any, size: Size, target_size: Size, count: int, device: torch.device) -> Callable[[], Any]:
    state = torch.randn(count, network.in_channels, *size, device=device)
    times = torch.full((count,), 500, device=device)
    given = _conditions(network, count, device)
    if "condition" in given:
        given["condition_noise"] = torch.zeros(count, device=device)

    @torch.no_grad()
    def call() -> None:
        network(state, times, target_size, **given)

    return call


def _conditions(network: Any, count: int, device: torch.device) -> dict[str, Tensor]:
    """What the network is told beside state and time."""
    given = {}
    if network.num_classes is not None:
        given["class_labels"] = torch.arange(count, device=device) % network.num_classes
    if network.condition_size is not None:
        given["condition"] = torch.zeros(count, network.in_channels, *network.condition_size, device=device)
    return given


def _pipeline_seconds(pipeline: ScaleSpacePipeline, count: int, steps: int, device: torch.device) -> float:
    pipeline.set_progress_bar_config(disable=True)
    generators = image_generators(0, range(count))
    given: dict[str, Any] = _conditions(pipeline.unet, count, device)
    started = time.perf_counter()
    pipeline(count, generators, steps, output_type="pt", **given)
    _wait(device)
    return time.perf_counter() - started


def _batch(trainer: Trainer, group: TimeGroup, count: int) -> Batch:
    """Random pictures."""
    shape = (count, trainer.config.process.channels, *trainer.scheduler.image_size)
    images, labels = torch.randint(256, shape, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
    return Batch(group, range(count), range(count), images, labels, None)


def _median_seconds(work: Callable[[], Any], seconds: float, device: torch.device) -> float:
    work()
    times: list[float] = []
    while len(times) < _LEAST_REPEATS or sum(times) < seconds:
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _peak_bytes(work: Callable[[], Any], kept: Iterable[Tensor], device: torch.device) -> int:
    """Most bytes of tensors that ``work`` holds at once, without those that were there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with TensorPeak(kept) as held:
        work()
    return held.peak


def _machine(device: torch.device, precision: str) -> Machine:
    return Machine(device_name(device), torch.get_num_threads(), precision, _attainable(device, precision))


def _attainable(device: torch.device, precision: str) -> float:
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.randn(_PRODUCT, _PRODUCT, device=device).to(dtype)
    return 2 * _PRODUCT**3 / 1e9 / _median_seconds(lambda: matrix @ matrix, 0.5, device)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _shown(items: Sequence[_Item], names: Sequence[str], progress: bool) -> Iterator[_Item]:
    """The items, with a bar that names the one at work."""
    with progress_bar(len(items), "timing", "paths", progress) as bar:
        for item, name in zip(items, names, strict=True):
            bar.set_postfix_str(name)
            yield item
            bar.update()
