"""A device that has no float64, as Apple's GPUs (MPS) have none, played by the CPU."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Of the devices that PyTorch knows this is one that it can place tensors on without a library of theirs.
DEVICE = torch.device("lazy")
_CPU = torch.device("cpu")


class WithoutFloat64(TorchDispatchMode):
    """While it is entered, ``DEVICE`` can be used, and refuses float64 in the words of MPS."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _OnDevice(Tensor):
    @staticmethod
    def __new__(cls, values: Tensor):
        return Tensor._make_wrapper_subclass(cls, values.shape, values.stride(), dtype=values.dtype, device=DEVICE)  # pyright: ignore

    def __init__(self, values: Tensor):
        self.values_on_the_cpu = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})

    def tolist(self):
        return self.values_on_the_cpu.tolist()

    def __repr__(self):
        return f"on the device: {self.values_on_the_cpu!r}"


def _computed(func, args, kwargs):
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    places = {tensor.device for tensor in given if tensor.dim()}
    if len(places) > 1 and "copy" not in str(func):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {places} for {func}")
    place = kwargs.get("device") or (DEVICE if DEVICE in places | {tensor.device for tensor in given} else _CPU)
    args, kwargs = tree_map(_on_the_cpu, (args, kwargs))
    result = func(*args, **kwargs)
    return tree_map(_on_the_device, result) if place == DEVICE else result


def _on_the_cpu(value):
    if isinstance(value, _OnDevice):
        return value.values_on_the_cpu
    return _CPU if isinstance(value, torch.device) and value == DEVICE else value


def _on_the_device(value):
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
            "Please use float32 instead."
        )
    return _OnDevice(value)
