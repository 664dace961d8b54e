"""How weights, moments and averages lie on processes, and how gradients are added up.

With ``Replicas`` every process holds all of them. With ``Shards`` each holds its part of every tensor, cut along the first
dimension (FSDP2, ``torch.distributed.fsdp.fully_shard``): a block is put together before it runs, in both passes, and its
gradient is added up over processes and cut again as soon as it is there. Everything else of a step is done to the parts.

Processes that run a block together wait for each other in it. So all run the same blocks, equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import torch
from accelerate.checkpointing import save_accelerator_state
from safetensors import safe_open
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from scalespace.processes import Processes
from scalespace.training.level_sampling import Batch, parts
from scalespace.training.sharded.held import Held

__all__ = ["Replicas", "Shards"]

_WEIGHTS, _MOMENTS = "model.safetensors", "optimizer.bin"
"""The names of accelerate."""


class Replicas:
    """Every process holds the whole network.

    Args:
        processes: The processes that train.
        accelerator: Saves and loads.
    """

    sharded = False

    def __init__(self, processes: Processes, accelerator: Any):
        self._processes, self._accelerator = processes, accelerator

    def spread(self, network: Any) -> None:
        """Bring a network to the processes, before it gets an optimizer."""

    def held(self, network: Any) -> list[Tensor]:
        """What this process holds of the weights. It shares their memory."""
        return list(network.parameters())

    def parts(self, batch: Batch, largest: int | None) -> list[Batch]:
        """A batch cut into parts that are run one after the other."""
        return parts(batch, largest)

    def together(self) -> AbstractContextManager[None]:
        """Where forward and backward passes are run."""
        return nullcontext()

    def add(self, loss: Tensor, network: Any) -> None:
        """Add up loss and gradients over processes."""
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        self._processes.add([loss, *gradients])

    def whole(self, network: Any, held: Sequence[Tensor]) -> Iterator[Tensor]:
        """Put together what processes hold of weights or averages; all get them, one after the other."""
        yield from held

    def clip(self, network: Any, largest: float) -> Tensor:
        """Scale gradients down to a norm; the norm that they had, over all processes."""
        return torch.as_tensor(self._accelerator.clip_grad_norm_(network.parameters(), largest))

    def gather(self, network: Any, held: Held, moments: bool) -> Held | None:
        """Put together what processes hold, on the first, on the CPU; None where each has all. Moments only if wanted."""
        return None

    def save(self, path: Path, held: Held) -> None:
        """Write weights and moments."""
        self._accelerator.save_state(str(path), safe_serialization=True)

    def own(self, whole: Tensor) -> Tensor:
        """This process's part of a tensor."""
        return whole

    def load(self, network: Any, optimizer: Any, path: Path) -> None:
        """Take weights and moments back from a checkpoint."""
        self._accelerator.load_state(str(path))


class Shards(Replicas):
    """Each process holds a part of every weight. Files are those of a network that is whole.

    Args:
        processes: The processes that train, more than one.
        accelerator: Has the device.
    """

    sharded = True

    def __init__(self, processes: Processes, accelerator: Any):
        super().__init__(processes, accelerator)
        self._device = accelerator.device
        self._mesh = init_device_mesh(self._device.type, (processes.count,))

    def spread(self, network: Any) -> None:
        names = {name for module in network.modules() for name in getattr(module, "_no_split_modules", None) or ()}
        listed = {
            id(child) for module in network.modules() if isinstance(module, torch.nn.ModuleList) for child in module
        }
        # Inner ones first. A network that does not name its blocks is cut where it has lists of them.
        for module in reversed(list(network.modules())):
            unit = type(module).__name__ in names if names else id(module) in listed
            if module is network or (unit and any(True for _ in module.parameters())):
                fully_shard(module, mesh=self._mesh)
                # A part of the loss is already divided by all pictures of the step.
                module.set_gradient_divide_factor(1.0)
                # Gloo knows sums alone, and scales none.
                module.set_force_sum_reduction_for_comms(True)

    def held(self, network: Any) -> list[Tensor]:
        return [parameter.to_local() for parameter in network.parameters()]

    def parts(self, batch: Batch, largest: int | None) -> list[Batch]:
        # As many as the process with the most pictures has.
        most = -(-len(batch.whole) // self._processes.count)
        return parts(batch, largest, least=-(-most // (largest or most)))

    def together(self) -> AbstractContextManager[None]:
        # One that could not read its pictures says so before the others wait for it inside of the network.
        self._processes.meet()
        return self._processes.waiting()

    def add(self, loss: Tensor, network: Any) -> None:
        self._processes.add([loss])

    def whole(self, network: Any, held: Sequence[Tensor]) -> Iterator[Tensor]:
        for parameter, part in zip(network.parameters(), held, strict=True):
            yield self._shards(parameter, part).full_tensor()

    def clip(self, network: Any, largest: float) -> Tensor:
        norm: Any = torch.nn.utils.clip_grad_norm_(network.parameters(), largest)
        return norm.full_tensor()

    @torch.no_grad()
    def gather(self, network: Any, held: Held, moments: bool) -> Held:
        weights, optimizer = {}, {**held.optimizer, "state": {}}
        if moments:
            weights = {name: self._kept(value) for name, value in held.weights.items()}
            for number, state in sorted(held.optimizer["state"].items()):
                optimizer["state"][number] = {name: self._kept(value) for name, value in state.items()}
        powers = [copy(power) for power in held.powers]
        for power in powers:
            power.values = [self._kept(value) for value in self.whole(network, power.values)]
        return Held(weights, optimizer, [self._kept(value) for value in self.whole(network, held.average)], powers)

    def save(self, path: Path, held: Held) -> None:
        save_accelerator_state(str(path), [held.weights], [held], [], [], process_index=0, step=0)

    @torch.no_grad()
    def load(self, network: Any, optimizer: Any, path: Path) -> None:
        with safe_open(path / _WEIGHTS, framework="pt") as file:
            for name, value in network.state_dict().items():
                if isinstance(value, DTensor):
                    value.to_local().copy_(self.own(file.get_tensor(name)))
                else:
                    value.copy_(file.get_tensor(name))
        known = torch.load(path / _MOMENTS, map_location="cpu", weights_only=True, mmap=True)
        parameters = list(network.parameters())
        for number, state in known["state"].items():
            for name, value in state.items():
                # The number of steps has no shape, and is the same everywhere.
                if torch.is_tensor(value) and value.ndim:
                    state[name] = self._shards(parameters[number], self.own(value).to(self._device, copy=True))
        optimizer.load_state_dict(known)

    def own(self, whole: Tensor) -> Tensor:
        cut = whole.chunk(self._processes.count)
        return cut[self._processes.rank] if self._processes.rank < len(cut) else whole[:0]

    def _shards(self, like: Tensor, part: Tensor) -> DTensor:
        """A tensor of which every process gives its part."""
        return DTensor.from_local(part, self._mesh, [Shard(0)], run_check=False, shape=like.shape, stride=like.stride())

    def _kept(self, value: Any) -> Any:
        if not torch.is_tensor(value):
            return value
        full = value.full_tensor() if isinstance(value, DTensor) else value
        # Contiguous, as safetensors wants it.
        return full.detach().cpu().contiguous() if self._processes.is_first else torch.empty(0)
