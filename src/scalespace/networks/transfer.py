"""Weights of one network as the start of another of its kind.

Widths, depth and channels decide the shapes of nearly all weights, and must be the same. A Flexi-UNet has attention where the
sizes put it, and the table of classes is as long as there are classes: what one of the two networks lacks or has in another
shape is left out there and drawn anew here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet

__all__ = ["Transfer", "take_weights"]

_ATTENTION, _CLASSES = ".attention.", "class_embedding"

# What must be the same, by the options' names, and how it is read off a network.
_Shapes = Mapping[str, Callable[[Any], object]]
_COMMON: _Shapes = {
    "process.channels": lambda network: network.in_channels,
    "network.condition_size": lambda network: network.condition_size and tuple(network.condition_size),
}
_SHAPES: dict[type, _Shapes] = {
    FlexiUNet: {
        **_COMMON,
        "network.base_channels": lambda network: network.base_channels,
        "network.channel_multipliers": lambda network: tuple(network.config["channel_multipliers"]),
        "network.blocks_per_level": lambda network: network.blocks_per_level,
    },
    FlexiTransformer: {
        **_COMMON,
        **{
            f"transformer.{name}": lambda network, name=name: network.config[name]
            for name in ("patch_size", "width", "depth", "heads")
        },
    },
}
# What changes no shape, and what the same weights compute.
_MEANINGS: dict[type, tuple[str, ...]] = {
    FlexiUNet: ("attention_heads", "min_channels_per_group", "paths", "released_quirks"),
    FlexiTransformer: (),
}


@dataclass(frozen=True)
class Transfer:
    """What became of the weights.

    Args:
        taken: Number of parameters that were taken.
        parameters: Number of parameters of the network.
        anew: What keeps the weights that it was drawn with, and why, each as the part of a sentence.
        left_out: What the network has no place for, and why, in the same way.
        meanings: Options of the network that differ, so that the same weights compute something else, with both values.
    """

    taken: int
    parameters: int
    anew: tuple[str, ...]
    left_out: tuple[str, ...]
    meanings: tuple[str, ...]


@torch.no_grad()
def take_weights(network: FlexiUNet | FlexiTransformer, source: FlexiUNet | FlexiTransformer) -> Transfer:
    """Replace the weights of a network by those of another one wherever it has them in the same shape.

    Args:
        network: The network, with weights of its own, which are changed.
        source: The network that has the others.

    Raises:
        ValueError: If they are of two kinds, or widths, depth or channels differ. Nothing is changed then.
    """
    kind = type(network)
    if type(source) is not kind:
        raise ValueError(f"they are of a {type(source).__name__} and this is a {kind.__name__}")
    for name, read in _SHAPES[kind].items():
        there, here = read(source), read(network)
        # The small pictures of a cascade are enlarged before they enter, from whatever size.
        if name == "network.condition_size" and (there is None) == (here is None):
            continue
        if there != here:
            raise ValueError(f"{name} is {there} there and {here} here")
    own, others = network.state_dict(), source.state_dict()
    same = [name for name, value in own.items() if name in others and others[name].shape == value.shape]
    missing, unused = own.keys() - set(same), others.keys() - set(same)
    for name in sorted(missing | unused):
        if _ATTENTION not in name and not name.startswith(_CLASSES):
            raise ValueError(f"{name} has another shape or is only in one of them")
    for name in same:
        own[name].copy_(others[name])
    classes = f"({source.num_classes or 'none'} there, {network.num_classes or 'none'} here)"
    return Transfer(
        sum(own[name].numel() for name in same),
        sum(value.numel() for value in own.values()),
        _told(missing, "which the model has none of", classes),
        _told(unused, "which this network has none of", classes),
        tuple(
            f"network.{name} is {source.config[name]} there and {network.config[name]} here"
            for name in _MEANINGS[kind]
            if source.config[name] != network.config[name]
        ),
    )


def _told(names: set[str], none_of: str, classes: str) -> tuple[str, ...]:
    """What the weights of these names are, in a few words."""
    stages = sorted({".".join(name.split(".")[:2]) for name in names if _ATTENTION in name})
    embedding = [f"the embedding of classes {classes}"] if any(name.startswith(_CLASSES) for name in names) else []
    attention = [f"the attention in {', '.join(stages)}, {none_of}"] if stages else []
    return (*embedding, *attention)
