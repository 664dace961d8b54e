"""What one call of a network costs on every path: FLOPs by torch's counter, and the memory of a training step.

Both run the network without computing anything where it lies on the device "meta".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from scalespace.networks.flexi_unet import FlexiUNet, Size

__all__ = ["TensorPeak", "call_activations", "path_activations", "path_gflops"]


def path_gflops(network: FlexiUNet, size: Size, target_size: Size) -> float:
    """GFLOPs of one call for one picture, a multiply-add counted as two.

    Args:
        network: The network, on any device; on "meta" nothing is computed.
        size: (height, width) of the input.
        target_size: (height, width) of the output.
    """
    # The counter does not know the fused attention of every device, and counts its matrix products everywhere.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(**_inputs(network, size), target_size=target_size)
    return counter.get_total_flops() / 1e9


def path_activations(network: FlexiUNet, size: Size, target_size: Size) -> int:
    """Bytes of activations that the backward pass of one picture needs, in float32.

    Args:
        network: The network, on any device; on "meta" nothing is computed.
        size: (height, width) of the input.
        target_size: (height, width) of the output.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Several operations may save one tensor, or views of it.
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**_inputs(network, size), target_size=target_size)
    for parameter in network.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def call_activations(network: FlexiUNet) -> int:
    """Bytes of activations that a call at the full resolution without gradients holds at once for one picture, in float32.

    Args:
        network: The network, on any device; nothing is computed.
    """
    # Not on "meta": there attention keeps its matrix of weights, which the fused kernels of CPUs and accelerators do not.
    with torch.no_grad(), FakeTensorMode():
        outline: Any = FlexiUNet.from_config(network.config)
        with TensorPeak(outline.parameters()) as held:
            outline(**_inputs(outline, outline.sizes[0]), target_size=outline.sizes[0])
    return held.peak


class TensorPeak(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the block and are alive at once.

    Args:
        others: Tensors from before, of which views may be made.
    """

    def __init__(self, others: Iterable[Tensor]):
        super().__init__()
        self.peak = 0
        self._others = {tensor.untyped_storage()._cdata for tensor in others}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._others:
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _inputs(network: FlexiUNet, size: Size) -> dict[str, Any]:
    device = next(network.parameters()).device
    channels: int = network.config.in_channels  # pyright: ignore[reportAttributeAccessIssue]
    time = torch.zeros(1, dtype=torch.int64, device=device)
    floats: dict[str, Any] = {"device": device, "dtype": network.dtype}
    inputs: dict[str, Any] = {"sample": torch.empty(1, channels, *size, **floats), "timestep": time}
    if network.num_classes is not None:
        inputs["class_labels"] = time
    if network.condition_size is not None:
        inputs["condition"] = torch.empty(1, channels, *network.condition_size, **floats)
        inputs["condition_noise"] = torch.zeros(1, device=device)
    return inputs
