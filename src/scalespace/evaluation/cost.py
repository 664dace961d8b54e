"""What a model will cost, before anything is spent: FLOPs of every path by torch's counter, on meta tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.operators.linear import Size
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ModelConfig
from scalespace.training.time_sampling import TimeSampler

__all__ = ["PathCost", "Plan", "make_plan", "path_gflops"]


@dataclass(frozen=True)
class PathCost:
    """The steps that take one path through the network.

    Args:
        size: r(t).
        target_size: r(t - 1).
        first: First grid point t.
        last: Last grid point t.
        gflops: Of one call for one picture, a multiply-add counted as two.
        margin: SNR_s / (SNR_t lambda_max(M M^T)) of a resolution change, valid from 1 up; None inside a level.
    """

    size: Size
    target_size: Size
    first: int
    last: int
    gflops: float
    margin: float | None


@dataclass(frozen=True)
class Plan:
    """The cost of a model.

    Args:
        parameters: Number of parameters.
        paths: Every path, from the clean end to noise.
        average_gflops: Of a call for one picture, over all grid points.
        one_level_gflops: The same network at full resolution throughout.
        share: average_gflops / one_level_gflops.
    """

    parameters: int
    paths: tuple[PathCost, ...]
    average_gflops: float
    one_level_gflops: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """A table for people."""
        lines = [
            f"{'step':>20} {'grid points':>13} {'share of steps':>15} {'GFLOPs a call':>14} {'validity margin':>16}"
        ]
        total = sum(path.last - path.first + 1 for path in self.paths)
        for path in self.paths:
            size, target = ("{}x{}".format(*side) for side in (path.size, path.target_size))
            points = f"{path.first}-{path.last}" if path.last > path.first else str(path.first)
            lines.append(
                f"{size if size == target else f'{size} -> {target}':>20} {points:>13} "
                f"{(path.last - path.first + 1) / total:>15.1%} {path.gflops:>14.2f} "
                f"{'' if path.margin is None else f'{path.margin:.3f}':>16}"
            )
        levels = len({path.size for path in self.paths})
        lines += [
            "",
            f"levels              {levels}",
            f"parameters          {self.parameters / 1e6:.2f} million",
            f"GFLOPs on average   {self.average_gflops:.2f} a call (a multiply-add counts as two)",
            f"GFLOPs of one level {self.one_level_gflops:.2f}",
            f"share of compute    {self.share:.1%} of one level",
            "A change is valid where its margin, SNR_s / (SNR_t lambda_max), is at least 1.",
        ]
        return "\n".join(lines)


def make_plan(model: ModelConfig) -> Plan:
    """Count what a model costs, without allocating it.

    Raises:
        UserError: If the parts of the model do not fit each other.
    """
    scheduler = build_scheduler(model)
    process = scheduler.process
    with torch.device("meta"):
        network = build_network(model, scheduler.sizes)
    margins = process.margins()
    paths = tuple(
        PathCost(
            group.size,
            group.target_size,
            group.first,
            group.last,
            path_gflops(network, group.size, group.target_size),
            margins.get(group.first) if group.is_change else None,
        )
        for group in TimeSampler(process).groups
    )
    full = path_gflops(network, process.size(0), process.size(0))
    average = sum(path.gflops * (path.last - path.first + 1) for path in paths) / process.timesteps
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Plan(parameters, paths, average, full, average / full)


def path_gflops(network: FlexiUNet, size: Size, target_size: Size) -> float:
    """GFLOPs of one call for one picture, a multiply-add counted as two.

    Args:
        network: On any device; on "meta" nothing is computed.
        size: Of the input.
        target_size: Of the output.
    """
    device = next(network.parameters()).device
    sample = torch.empty(1, network.config.in_channels, *size, device=device)  # pyright: ignore[reportAttributeAccessIssue]
    time = torch.zeros(1, dtype=torch.int64, device=device)
    labels = time if network.config.num_classes is not None else None  # pyright: ignore[reportAttributeAccessIssue]
    # The counter does not know the fused attention of every device, and counts its matrix products everywhere.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(sample, time, target_size, labels)
    return counter.get_total_flops() / 1e9
