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

from scalespace.networks.network import Size, dtype_of

__all__ = ["TensorPeak", "call_activations", "path_activations", "path_gflops", "path_gflops_and_products"]


def path_gflops(network: Any, size: Size, target_size: Size) -> float:
    """GFLOPs of one call for one picture, a multiply-add counted as two.

    Args:
        network: The network, on any device; on "meta" nothing is computed.
        size: (height, width) of the input.
        target_size: (height, width) of the output.
    """
    return path_gflops_and_products(network, size, target_size)[0]


def path_gflops_and_products(network: Any, size: Size, target_size: Size) -> tuple[float, float]:
    """GFLOPs of one call as ``path_gflops``, and the part that attention's products take: Q K^T, and its product with V."""
    # The counter does not know the fused attention of every device, and counts its matrix products everywhere.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(*_inputs(network, size, target_size), **_conditions(network))
    # Nothing but attention multiplies batches of matrices.
    products = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)
    return counter.get_total_flops() / 1e9, products / 1e9


def path_activations(network: Any, size: Size, target_size: Size) -> int:
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
        network(*_inputs(network, size, target_size), **_conditions(network))
    for parameter in network.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def call_activations(network: Any) -> int:
    """Bytes of activations that a call at the full resolution without gradients holds at once for one picture, in float32.

    Args:
        network: The network, on any device; nothing is computed.

    Returns:
        The bytes; 0 of a network that cannot be built again of its configuration, of which they are not known.
    """
    if not hasattr(network, "config"):
        return 0
    # Not on "meta": there attention keeps its matrix of weights, which the fused kernels of CPUs and accelerators do not.
    with torch.no_grad(), FakeTensorMode():
        outline: Any = type(getattr(network, "_orig_mod", network)).from_config(network.config)
        with TensorPeak(outline.parameters()) as held:
            outline(*_inputs(outline, outline.sizes[0], outline.sizes[0]), **_conditions(outline))
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


def _inputs(network: Any, size: Size, target_size: Size) -> tuple[Any, ...]:
    device = next(network.parameters()).device
    time = torch.zeros(1, dtype=torch.int64, device=device)
    state = torch.empty(1, network.in_channels, *size, device=device, dtype=dtype_of(network))
    return (state, time, target_size, *([] if network.num_classes is None else [time]))


def _conditions(network: Any) -> dict[str, Tensor]:
    if network.condition_size is None:
        return {}
    device = next(network.parameters()).device
    small = torch.empty(1, network.in_channels, *network.condition_size, device=device, dtype=dtype_of(network))
    return {"condition": small, "condition_noise": torch.zeros(1, device=device)}
