"""How fast this machine trains and samples a model: every path timed, beside what its matrix products could reach.

A step of training is the trainer's own, with pictures that lie in memory: forward and backward pass, AdamW and the averages.
FLOPs are of the network alone, and a backward pass counts as two forward passes.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from scalespace.data.left_out import counted
from scalespace.errors import UserError, cause
from scalespace.memory import readable_bytes
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.flops import TensorPeak, path_gflops
from scalespace.operators.linear import Size
from scalespace.pipelines.pictures import image_generators
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch
from scalespace.planning.cost import Plan
from scalespace.processes import Processes
from scalespace.reading import read_json, reading
from scalespace.reports.progress import progress_bar
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ModelConfig, TrainConfig
from scalespace.training.footprint import check_footprint
from scalespace.training.loop import accelerator_for
from scalespace.training.time_sampling import TimeGroup
from scalespace.training.trainer import Batch, Trainer

__all__ = [
    "Machine",
    "PathSpeed",
    "SamplingSpeed",
    "TrainingSpeed",
    "measure_sampling",
    "measure_training",
    "read_training_speed",
    "readable_seconds",
    "training_seconds",
]

_Item = TypeVar("_Item")

_LEAST_REPEATS = 3
_PRODUCT = 2048  # side of the square matrices whose product tells what is attainable
_FORWARD_PASSES = 3  # that a forward and a backward pass count as
_ONE_LEVEL_CALLS = 1000  # of DDPM, which a model of several levels is compared with


@dataclass(frozen=True)
class PathSpeed:
    """One path through the network.

    Args:
        size: Height and width of the input.
        target_size: Height and width of the output.
        share: Fraction of the steps (or number of the calls, over all calls) that take the path.
        batch_size: Pictures of a step or a call.
        seconds: Median time of a step or a call.
        gflops: GFLOPs of one picture in it.
        peak_bytes: Most bytes of tensors that it held at once, beyond weights, moments and averages.
    """

    size: Size
    target_size: Size
    share: float
    batch_size: int
    seconds: float
    gflops: float
    peak_bytes: int

    @property
    def gflops_per_second(self) -> float:
        """GFLOP/s that the path reaches."""
        return self.gflops * self.batch_size / self.seconds


@dataclass(frozen=True)
class Machine:
    """What was measured on, and in what arithmetic.

    Args:
        device: Name of the accelerator, or of the processor.
        threads: Threads of torch, on a CPU.
        precision: "no" is float32, as in ``TrainConfig.mixed_precision``.
        attainable: GFLOP/s of a product of two square matrices of 2048 rows in that precision.
    """

    device: str
    threads: int
    precision: str
    attainable: float


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast a model trains.

    Args:
        machine: The machine that was measured.
        paths: Every path, from the full resolution down.
        steps: Number of steps of a training.
        processes: Number of processes that share a step.
    """

    machine: Machine
    paths: tuple[PathSpeed, ...]
    steps: int
    processes: int

    @property
    def step_seconds(self) -> float:
        """Mean time of a step."""
        return sum(path.share * path.seconds for path in self.paths)

    @property
    def pictures_per_second(self) -> float:
        """Pictures that a training takes a second, on the average over its steps."""
        return sum(path.share * path.batch_size for path in self.paths) / self.step_seconds

    @property
    def over_one_level(self) -> float:
        """Pictures a second over those of the same network with one level."""
        return self.pictures_per_second * self.paths[0].seconds / self.paths[0].batch_size

    @property
    def over_one_level_by_flops(self) -> float:
        """The same if time followed FLOPs."""
        pictures = sum(path.share * path.batch_size for path in self.paths)
        return pictures * self.paths[0].gflops / sum(path.share * path.batch_size * path.gflops for path in self.paths)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("step_seconds", "pictures_per_second", "over_one_level", "over_one_level_by_flops")
        return _as_dict(self, "train") | {name: getattr(self, name) for name in names}

    def as_text(self) -> str:
        """A table for people."""
        lines = [
            *_table(self.machine, self.paths, self.paths[0], "share of steps"),
            f"pictures a second  {self.pictures_per_second:.3g}, {self.over_one_level:.2f} times as many as with one level "
            f"({self.over_one_level_by_flops:.2f} by FLOPs)",
            f"{self.steps:,} steps  {readable_seconds(self.steps * self.step_seconds)} at {self.step_seconds:.3g} s a step, "
            "besides reading pictures, checkpoints and sample grids",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class SamplingSpeed:
    """How fast a model draws pictures.

    Args:
        machine: The machine that was measured.
        paths: Every path, from noise up.
        calls: Network calls of a picture.
        seconds: Time of one batch through the whole pipeline.
        one_level: A call of the same network at the full resolution.
    """

    machine: Machine
    paths: tuple[PathSpeed, ...]
    calls: int
    seconds: float
    one_level: PathSpeed

    @property
    def pictures_per_second(self) -> float:
        """Pictures drawn a second."""
        return self.paths[0].batch_size / self.seconds

    @property
    def network_share(self) -> float:
        """Part of the time that the network takes."""
        return sum(path.share * self.calls * path.seconds for path in self.paths) / self.seconds

    @property
    def gflops(self) -> float:
        """GFLOPs of a picture."""
        return sum(path.share * self.calls * path.gflops for path in self.paths)

    @property
    def over_one_level(self) -> float:
        """How many times faster it is than 1000 calls of one level."""
        return _ONE_LEVEL_CALLS * self.one_level.seconds / self.seconds

    @property
    def over_one_level_by_flops(self) -> float:
        """The same if time followed FLOPs."""
        return _ONE_LEVEL_CALLS * self.one_level.gflops / self.gflops

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("pictures_per_second", "network_share", "gflops", "over_one_level", "over_one_level_by_flops")
        return _as_dict(self, "sample") | {name: getattr(self, name) for name in names}

    def as_text(self) -> str:
        """A table for people."""
        lines = [
            *_table(self.machine, self.paths, self.one_level, "share of calls"),
            f"pictures a second  {self.pictures_per_second:.3g} in {self.calls} calls and {self.gflops:.3g} GFLOPs each; the "
            f"network takes {self.network_share:.0%} of the time",
            f"over one level     {self.over_one_level:.1f} times faster than its {_ONE_LEVEL_CALLS} calls "
            f"({self.over_one_level_by_flops:.1f} by FLOPs)",
        ]
        return "\n".join(lines)


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
    check_footprint(config, scheduler, accelerator.device, accelerator.num_processes)
    torch.manual_seed(config.seed)
    network = build_network(config, scheduler.sizes)
    trainer = Trainer(config, accelerator, scheduler, network, Processes())
    groups = list(
        zip(trainer.times.groups, trainer.times.probabilities.tolist(), trainer.batches.sizes(0), strict=True)
    )
    names = [_named(group.size, group.target_size) for group, *_ in groups]
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
        gflops = _FORWARD_PASSES * path_gflops(network, group.size, group.target_size)
        paths.append(PathSpeed(group.size, group.target_size, share, size, spent, gflops, peak))
    machine = _machine(accelerator.device, config.mixed_precision)
    return TrainingSpeed(machine, tuple(paths), config.max_steps, accelerator.num_processes)


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
    for pair in _shown(different, [_named(*pair) for pair in different], progress):
        call = _call(network, *pair, batch_size, device)
        peak = _peak_bytes(call, network.parameters(), device)
        spent = _median_seconds(call, seconds / len(different), device)
        share = pairs.count(pair) / len(pairs)
        found[pair] = PathSpeed(*pair, share, batch_size, spent, path_gflops(network, *pair), peak)
    paths = tuple(found[pair] for pair in dict.fromkeys(pairs))
    whole = _pipeline_seconds(pipeline, batch_size, steps, device)
    return SamplingSpeed(_machine(device, "no"), paths, len(pairs), whole, found[full])


def read_training_speed(file: Path) -> dict[tuple[Size, Size], float]:
    """The GFLOP/s of every path in what ``scalespace bench train --json`` printed.

    Raises:
        UserError: If the file cannot be read, or is something else.
    """
    remedy = "make it again with scalespace bench train --json"
    if not file.exists():
        raise UserError(f"{file} does not exist; make it with scalespace bench train --json")
    with reading(file, remedy, ValueError, KeyError, TypeError, AttributeError):
        content = read_json(file, remedy)
        if content["measured"] != "train":
            raise UserError(f"{file} is about sampling; give what scalespace bench train --json printed")
        found = {
            (tuple(path["size"]), tuple(path["target_size"])): float(path["gflops_per_second"])
            for path in content["paths"]
        }
        if not found or not all(math.isfinite(rate) and rate > 0 for rate in found.values()):
            raise ValueError("no speeds above 0 in it")
    return found


def training_seconds(plan: Plan, speed: Mapping[tuple[Size, Size], float]) -> float:
    """Time that a planned model trains for one picture, on the average, if its paths reach the GFLOP/s that were measured.

    Args:
        plan: Plan of the model.
        speed: Speed that ``read_training_speed`` gave. Paths that it does not have are given its mean.
    """
    mean = statistics.harmonic_mean(list(speed.values()))
    counts = [path.last - path.first + 1 for path in plan.paths]
    rates = [speed.get((path.size, path.target_size), mean) for path in plan.paths]
    gflops = [_FORWARD_PASSES * path.gflops for path in plan.paths]
    return sum(count * g / rate for count, g, rate in zip(counts, gflops, rates, strict=True)) / sum(counts)


def readable_seconds(seconds: float) -> str:
    """A time for people, for example "3.4 hours"."""
    units = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    # Two of a unit read better than 120 of the next smaller one, and one of it as "60 seconds" or "24 hours".
    unit = max(
        (name for name, length in units.items() if seconds >= 2 * length), key=units.__getitem__, default="seconds"
    )
    return f"{seconds / units[unit]:.3g} {unit}"


def _call(network: FlexiUNet, size: Size, target_size: Size, count: int, device: torch.device) -> Callable[[], Any]:
    channels: int = network.config.in_channels  # pyright: ignore[reportAttributeAccessIssue]
    state = torch.randn(count, channels, *size, device=device)
    times = torch.full((count,), 500, device=device)
    given = _conditions(network, count, device)
    if "condition" in given:
        given["condition_noise"] = torch.zeros(count, device=device)

    @torch.no_grad()
    def call() -> None:
        network(state, times, target_size, **given)

    return call


def _conditions(network: FlexiUNet, count: int, device: torch.device) -> dict[str, Tensor]:
    """What the network is told beside state and time."""
    given = {}
    if network.num_classes is not None:
        given["class_labels"] = torch.arange(count, device=device) % network.num_classes
    if network.condition_size is not None:
        channels: int = network.config.in_channels  # pyright: ignore[reportAttributeAccessIssue]
        given["condition"] = torch.zeros(count, channels, *network.condition_size, device=device)
    return given


def _pipeline_seconds(pipeline: ScaleSpacePipeline, count: int, steps: int, device: torch.device) -> float:
    pipeline.set_progress_bar_config(disable=True)
    generators = image_generators(0, range(count))
    given: dict[str, Any] = _conditions(pipeline.unet, count, device)
    started = time.perf_counter()
    pipeline(count, generators, steps, output_type="pt", **given)
    _wait(device)
    return time.perf_counter() - started


def _batch(trainer: Trainer, group: TimeGroup, whole: int) -> Batch:
    """This process's part of random pictures."""
    rank, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
    positions = range(whole * rank // count, whole * (rank + 1) // count)
    channels, (height, width) = trainer.config.process.channels, trainer.scheduler.image_size
    images = torch.randint(256, (len(positions), channels, height, width), dtype=torch.uint8)
    return Batch(group, positions, range(whole), images, torch.zeros(len(positions), dtype=torch.int64), None)


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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Machine(name, torch.get_num_threads(), precision, _attainable(device, precision))


def _attainable(device: torch.device, precision: str) -> float:
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.randn(_PRODUCT, _PRODUCT, device=device).to(dtype)
    return 2 * _PRODUCT**3 / 1e9 / _median_seconds(lambda: matrix @ matrix, 0.5, device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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


def _named(size: Size, target_size: Size) -> str:
    sizes = ["{}x{}".format(*side) for side in dict.fromkeys((size, target_size))]
    return " -> ".join(sizes)


def _table(machine: Machine, paths: Sequence[PathSpeed], one_level: PathSpeed, share: str) -> list[str]:
    full = one_level.seconds / one_level.batch_size
    precision = "float32" if machine.precision == "no" else machine.precision
    lines = [
        f"{machine.device}, {counted(machine.threads, 'thread')}, {precision}; a matrix product reaches "
        f"{machine.attainable:.4g} GFLOP/s",
        "",
        f"{'step':>20} {share:>15} {'pictures':>9} {'ms a picture':>13} {'time':>6} {'FLOPs':>6} {'GFLOP/s':>8} "
        f"{'of product':>11} {'peak memory':>12}",
    ]
    for path in paths:
        each = path.seconds / path.batch_size
        lines.append(
            f"{_named(path.size, path.target_size):>20} {path.share:>15.1%} {path.batch_size:>9} {1e3 * each:>13.4g} "
            f"{each / full:>6.2f} {path.gflops / one_level.gflops:>6.2f} {path.gflops_per_second:>8.4g} "
            f"{path.gflops_per_second / machine.attainable:>11.0%} {readable_bytes(path.peak_bytes):>12}"
        )
    return [*lines, "Time and FLOPs of a picture are over those of one level, the full resolution.", ""]


def _as_dict(speed: TrainingSpeed | SamplingSpeed, measured: str) -> dict[str, Any]:
    paths = [asdict(path) | {"gflops_per_second": path.gflops_per_second} for path in speed.paths]
    return {"measured": measured} | asdict(speed) | {"paths": paths}
