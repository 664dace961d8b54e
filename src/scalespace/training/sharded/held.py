"""What a process holds of weights, moments and averages, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from scalespace.errors import UserError
from scalespace.runs.averages import PowerAverage

__all__ = ["Held", "check_shapes", "filled", "not_finite"]


class Held(NamedTuple):
    """What a process has of a training: parts of tensors, or all of them."""

    weights: dict[str, Any]
    optimizer: dict[str, Any]
    """Moments, as the state of the optimizer has them."""
    average: list[Tensor]
    powers: list[PowerAverage]

    def state_dict(self) -> dict[str, Any]:
        """What accelerate saves of an optimizer."""
        return self.optimizer


def check_shapes(file: Path, network: Any, changed: str) -> None:
    """Refuse weights in a file that no longer fit a network.

    Args:
        file: Safetensors file.
        network: The network.
        changed: Names of the options that have changed since.

    Raises:
        UserError: If a shape is another one.
    """
    with safe_open(file, framework="pt") as weights:
        there = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    here = {name: tuple(value.shape) for name, value in network.named_parameters()}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{changed} cannot change so while the run goes on, since {name} would have the shape "
                f"{here.get(name)} and has {there.get(name)} in {file}; give a new --output-dir"
            )


def not_finite(held: Held, names: Sequence[str]) -> str | None:
    """The name of a weight, or of what belongs to one, that is not finite where it is held; None where all is."""
    for number, (name, average) in enumerate(zip(names, held.average, strict=True)):
        moments = held.optimizer["state"].get(number, {}).values()
        if not all(bool(torch.isfinite(_local(value)).all()) for value in (held.weights[name], average, *moments)):
            return name
    return None


def _local(value: Any) -> Tensor:
    """What this process holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


@torch.no_grad()
def filled(network: Any, values: Iterable[Tensor]) -> Any:
    """The network with these weights."""
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.copy_(value)
    return network
