"""The seam for networks: all that process, solvers, pipeline and trainer need of one.

A network predicts from a state x_t, its time, the size of the prediction and conditions. What it says of itself are a few
attributes; ``FlexiUNet`` has them, and a module of your own becomes a network by having them (examples/own_network.py).

A network answers at the target's size, or, if it cannot go up, at the size of the state. Then the process carries its
prediction up (``scalespace.diffusion.prediction``).

Networks are told the timestep of the process, 0..T-1, as diffusers counts it. One that was trained on noise of its own has
``time_of`` besides: its own time where that noise is as strong as the state's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Network", "OwnTime", "ask", "dtype_of", "lacking"]

Size = tuple[int, int]


class Network(Protocol):
    """Predicts from a noisy state at one resolution, at the same or a higher one. It is a ``torch.nn.Module``."""

    sizes: tuple[Size, ...]
    """(height, width) of the states that it takes, largest first."""
    in_channels: int
    """Number of channels of states and predictions."""
    num_classes: int | None
    """Number of classes that it is conditioned on. None is none."""
    no_class: int | None
    """The label that stands for no class, for guidance. None is none."""
    condition_size: Size | None
    """(height, width) of small pictures that it is conditioned on. None is none."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        target_size: Sequence[int] | None = None,
        class_labels: Tensor | None = None,
        /,
    ) -> Any:
        """The prediction, or an object that has it as ``sample``.

        Args:
            sample: State x_t, shape (B, C, h, w).
            timestep: Time, shape () or (B,).
            target_size: (height, width) of the prediction. A network that cannot go up answers at the size of the state.
            class_labels: Numbers of classes, shape (B,), if it has any.

        Returns:
            Shape (B, C, H, W). What it stands for is said by the prediction_type of the scheduler.
        """


@runtime_checkable
class OwnTime(Protocol):
    """A network that was trained on noise of its own."""

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Its own times where its noise has these log-SNRs, of their shape.

        Raises:
            ValueError: If it has no time of such noise.
        """
        ...


def ask(
    network: Any,
    sample: Tensor,
    timestep: Tensor,
    log_snr: Tensor,
    target_size: Size,
    class_labels: Tensor | None = None,
    **conditions: Tensor,
) -> Tensor:
    """The output of any network for a step.

    Args:
        network: A ``Network``.
        sample: State x_t, shape (B, C, h, w).
        timestep: Timestep of the process, shape () or (B,).
        log_snr: log(alpha_t^2 / sigma_t^2) there, of the same shape, for networks that have times of their own.
        target_size: (height, width) of the next state.
        class_labels: Numbers of classes, shape (B,); None without classes.
        **conditions: Further arguments of the network.

    Returns:
        Shape (B, C, H, W), of the target's size or of that of the state.
    """
    own = isinstance(network, OwnTime)
    time = network.time_of(log_snr).to(sample.device) if own else timestep
    output = network(sample, time, target_size, class_labels, **conditions)
    return output if isinstance(output, Tensor) else output.sample


def dtype_of(network: Any) -> torch.dtype:
    """The number format that a network computes in."""
    return network.dtype if hasattr(network, "dtype") else next(network.parameters()).dtype


def lacking(network: Any) -> tuple[str, ...]:
    """What something lacks to be a network."""
    if not isinstance(network, torch.nn.Module):
        return ("the methods of a torch.nn.Module",)
    # Not by hasattr, since modules of diffusers answer for entries of their configurations, and warn.
    return tuple(
        name for name in Network.__annotations__ if name not in vars(network) and not hasattr(type(network), name)
    )
