"""What timing a model finds: every path, beside what matrix products reach, as a table, and what a training takes by it.

FLOPs are of the network alone, and a backward pass counts as two forward passes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalespace.data.left_out import counted
from scalespace.errors import UserError
from scalespace.memory import readable_bytes
from scalespace.operators.linear import Size
from scalespace.planning.cost import Plan
from scalespace.reading import read_json, reading

__all__ = [
    "FORWARD_PASSES",
    "Machine",
    "PathSpeed",
    "SamplingSpeed",
    "TrainingSpeed",
    "path_name",
    "read_training_speed",
    "readable_seconds",
    "training_seconds",
]

FORWARD_PASSES = 3
"""Forward passes that a forward and a backward pass count as."""
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
    """

    machine: Machine
    paths: tuple[PathSpeed, ...]
    steps: int

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
    gflops = [FORWARD_PASSES * path.gflops for path in plan.paths]
    return sum(count * g / rate for count, g, rate in zip(counts, gflops, rates, strict=True)) / sum(counts)


def readable_seconds(seconds: float) -> str:
    """A time for people, for example "3.4 hours"."""
    units = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    # Two of a unit read better than 120 of the next smaller one, and one of it as "60 seconds" or "24 hours".
    unit = max(
        (name for name, length in units.items() if seconds >= 2 * length), key=units.__getitem__, default="seconds"
    )
    return f"{seconds / units[unit]:.3g} {unit}"


def path_name(size: Size, target_size: Size) -> str:
    """Name of a path for people: 16x16 inside a level, 16x16 -> 32x32 at a change."""
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
            f"{path_name(path.size, path.target_size):>20} {path.share:>15.1%} {path.batch_size:>9} {1e3 * each:>13.4g} "
            f"{each / full:>6.2f} {path.gflops / one_level.gflops:>6.2f} {path.gflops_per_second:>8.4g} "
            f"{path.gflops_per_second / machine.attainable:>11.0%} {readable_bytes(path.peak_bytes):>12}"
        )
    return [*lines, "Time and FLOPs of a picture are over those of one level, the full resolution.", ""]


def _as_dict(speed: TrainingSpeed | SamplingSpeed, measured: str) -> dict[str, Any]:
    paths = [asdict(path) | {"gflops_per_second": path.gflops_per_second} for path in speed.paths]
    return {"measured": measured} | asdict(speed) | {"paths": paths}
