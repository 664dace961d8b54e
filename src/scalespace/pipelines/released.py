"""The state dictionaries that the paper authors' released code writes, as ours and back.

That code numbers its modules in the order in which they run (`input_blocks.7.0`, `output_blocks.2.1`) and names
adapters after the resolution that they serve (`adapters_in.16`); `FlexiUNet` names both by level. The numbers are the
same, and so are the shapes, but for the 1 x 1 convolutions of attention, which are linear layers here.

Source: https://github.com/prateksha/ScaleSpaceDiffusion, the layout of its state dictionaries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.networks.flexi_unet import FlexiUNet

__all__ = [
    "LayoutError",
    "export_released_state",
    "import_released_state",
    "released_image_size",
    "released_names",
    "released_network",
]

# Inside a residual block and an attention: (our name, released name).
_RESIDUAL = (
    ("norm_in", "in_layers.0"),
    ("conv_in", "in_layers.2"),
    ("modulation", "emb_layers.1"),
    ("norm_out", "out_layers.0"),
    ("conv_out", "out_layers.3"),
    ("shortcut", "skip_connection"),
)
_ATTENTION = (("norm", "norm"), ("qkv", "qkv"), ("output", "proj_out"))
_PROJECTIONS = (".qkv.weight", ".proj_out.weight")


class LayoutError(UserError):
    """A state dictionary does not fit a network.

    Args:
        missing: Names of the released layout that the state dictionary lacks.
        extra: Names in it for which the network has no place.
        misshapen: What is wrong with the shapes of others, one sentence each without its full stop.

    The message has the first few of them, and ``lines`` all.
    """

    def __init__(self, missing: Sequence[str], extra: Sequence[str], misshapen: Sequence[str]):
        self.missing, self.extra, self.misshapen = tuple(missing), tuple(extra), tuple(misshapen)
        wrong = [
            *([f"lacks {_listed(missing)} of this network in the released layout"] if missing else []),
            *([f"has {_listed(extra)}, for which the network has no place"] if extra else []),
            *([f"has other shapes: {_listed(misshapen)}"] if misshapen else []),
        ]
        super().__init__(
            f"the state dictionary {', and '.join(wrong)}; take one that the released code wrote, or a network of its widths, "
            "levels and attention (released_network builds it)"
        )

    def lines(self) -> list[str]:
        """Every name that does not fit, one a line."""
        kinds = (("missing", self.missing), ("extra", self.extra), ("other shape", self.misshapen))
        return [f"{kind:11} {name}" for kind, names in kinds for name in names]


def released_names(network: FlexiUNet) -> dict[str, str]:
    """Map the names of a network's parameters in the released layout to our names.

    Args:
        network: The network. Its parameters may be on the meta device.

    Returns:
        A dictionary {released name: our name}, which is one to one, in the order of released state dictionaries.
    """
    ours = network.state_dict().keys()
    return {
        f"{theirs}.{kind}": f"{module}.{kind}"
        for module, theirs in _modules(network)
        for kind in ("weight", "bias")
        if f"{module}.{kind}" in ours
    }


def import_released_state(state: Mapping[str, Tensor], network: FlexiUNet) -> dict[str, Tensor]:
    """Rename a state dictionary of the released layout to ours, exactly.

    Args:
        state: Parameters in the released layout.
        network: Network of the same architecture, which gives names and shapes. It is not changed.

    Returns:
        State dictionary for `network.load_state_dict`. Its tensors share memory with the given ones.

    Raises:
        LayoutError: If parameters are missing in the network or in the state, or if shapes differ.
    """
    names, ours = released_names(network), network.state_dict()
    # Attention's 1 x 1 convolutions carry a last dimension of 1.
    misshapen = [
        f"{theirs} has shape {tuple(state[theirs].shape)} and the network's {name} has {tuple(ours[name].shape)}"
        for theirs, name in names.items()
        if theirs in state and tuple(state[theirs].shape) not in (tuple(ours[name].shape), (*ours[name].shape, 1))
    ]
    missing, extra = [name for name in names if name not in state], [name for name in state if name not in names]
    if missing or extra or misshapen:
        raise LayoutError(missing, extra, misshapen)
    return {name: state[theirs].reshape(ours[name].shape) for theirs, name in names.items()}


def export_released_state(network: FlexiUNet) -> dict[str, Tensor]:
    """The state dictionary of a network in the released layout and its order, exactly; its tensors share memory.

    Raises:
        UserError: If the network has parameters for which that layout has no name.
    """
    names, ours = released_names(network), network.state_dict()
    if unknown := sorted(ours.keys() - names.values()):
        raise UserError(
            f"the released layout has no place for {_listed(unknown)} of the network; only a network of classes or none, "
            "with neither a null class nor small pictures to enlarge, can be written in it"
        )
    return {
        theirs: ours[name].unsqueeze(-1) if theirs.endswith(_PROJECTIONS) else ours[name]
        for theirs, name in names.items()
    }


def released_network(
    state: Mapping[str, Tensor],
    *,
    levels: int,
    image_size: int | None = None,
    attention_heads: int = 4,
    dropout: float = 0.0,
) -> FlexiUNet:
    """Build a network from a released state dictionary. It computes what the released code computes.

    Widths, depth, attention and classes are read off the shapes, and the image size off the names of the adapters.

    Args:
        state: Parameters in the released layout.
        levels: Number of resolutions of the process, each half of the one before. Names and shapes do not tell it.
        image_size: Side of the full resolution in pixels. Only needed if the deepest level is as wide as the first.
        attention_heads: Number of heads in every attention layer. It is 4 in all released models; shapes do not tell it.
        dropout: Probability of dropping a feature in further training.

    Returns:
        The network in evaluation mode, with `released_quirks`.

    Raises:
        UserError: If the state is not in the released layout, or if the image size is not given and cannot be inferred.
    """
    widths, attention, blocks = _architecture(state)
    base_channels = state["time_embed.0.weight"].shape[1]
    image_size = image_size or released_image_size(state)
    if image_size is None:
        raise UserError("the state dictionary does not tell the image size; give image_size, in pixels")
    with torch.device("meta"):
        network = FlexiUNet(
            sizes=tuple((image_size >> level, image_size >> level) for level in range(levels)),
            in_channels=state["input_blocks.0.0.weight"].shape[1],
            out_channels=state["out.2.weight"].shape[0],
            base_channels=base_channels,
            channel_multipliers=tuple(width // base_channels for width in widths),
            blocks_per_level=blocks,
            attention_max_size=max((image_size >> level for level, has in enumerate(attention) if has), default=0),
            attention_heads=attention_heads,
            dropout=dropout,
            num_classes=state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None,
            released_quirks=True,
            min_channels_per_group=1,
        )
    network.load_state_dict(import_released_state(state, network), assign=True)
    return network.eval()


def released_image_size(state: Mapping[str, Tensor]) -> int | None:
    """Side of the full resolution in pixels, off the names of the adapters; None where they do not tell it.

    Raises:
        UserError: If the state is not in the released layout.
    """
    widths, *_ = _architecture(state)
    parts = (name.split(".") for name in state)
    served = [int(part[1]) for part in parts if part[0] == "adapters_out" and re.fullmatch("[0-9]{1,5}", part[1])]
    # The deepest level has an adapter unless it is as wide as the first.
    return min(served) << (len(widths) - 1) if served and widths[-1] != widths[0] else None


def _architecture(state: Mapping[str, Tensor]) -> tuple[list[int], list[bool], int]:
    """Width of every level, whether it has attention, and the number of residual blocks in an encoder level."""
    # Names that are read off below, with the number of their dimensions.
    needed = {
        "time_embed.0.weight": 2,
        "input_blocks.0.0.weight": 4,
        "input_blocks.1.0.in_layers.2.weight": 4,
        "out.2.weight": 4,
    }
    for name, dimensions in needed.items():
        if name not in state:
            raise UserError(
                f"the state dictionary has no {name}, so it is not of the released layout; give a released one"
            )
        if state[name].dim() != dimensions or not state[name].numel():
            raise UserError(
                f"{name} has shape {tuple(state[name].shape)} in the state dictionary, which no released one has; give a "
                "released one"
            )
    widths, attention, counts = [0], [False], [0]
    for number in count(1):
        if f"input_blocks.{number}.0.op.weight" in state:
            widths, attention, counts = [*widths, 0], [*attention, False], [*counts, 0]
        elif (convolution := f"input_blocks.{number}.0.in_layers.2.weight") in state:
            widths[-1] = len(state[convolution]) if state[convolution].dim() else 0
            attention[-1] = f"input_blocks.{number}.1.qkv.weight" in state
            counts[-1] += 1
        else:
            break
    return widths, attention, counts[0]


def _modules(network: FlexiUNet) -> Iterator[tuple[str, str]]:
    """Pairs (our name, released name) of all modules that may hold parameters."""
    depth, blocks = len(network.encoder), network.blocks_per_level
    yield from (("time_mlp.0", "time_embed.0"), ("time_mlp.2", "time_embed.2"), ("class_embedding", "label_emb"))
    yield "conv_in", "input_blocks.0.0"
    number = count(1)
    for level in range(depth):
        for index in range(blocks):
            yield from _block(f"encoder.{level}.blocks.{index}", *_positions(f"input_blocks.{next(number)}"))
        if level < depth - 1:
            yield f"downsamples.{level}.conv", f"input_blocks.{next(number)}.0.op"
    yield from _block("middle.blocks.0", "middle_block.0", "middle_block.1")
    yield from _block("middle.blocks.1", "middle_block.2", "")
    number = count()
    for level in reversed(range(depth)):
        for index in range(blocks + 1):
            theirs = f"output_blocks.{next(number)}"
            yield from _block(f"decoder.{level}.blocks.{index}", *_positions(theirs))
            if level and index == blocks:
                yield f"upsamples.{level - 1}.conv", f"{theirs}.{2 if level in network.attention_levels else 1}.conv"
    yield from (("head.0", "out.0"), ("head.2", "out.2"))
    sides = [min(network.sizes[0]) >> level for level in range(depth)]
    yield from ((f"adapters_in.{level}", f"adapters_in.{side}") for level, side in enumerate(sides))
    yield from ((f"adapters_out.{level}", f"adapters_out.{sides[level]}") for level in reversed(range(depth)))


def _positions(theirs: str) -> tuple[str, str]:
    return f"{theirs}.0", f"{theirs}.1"


def _block(ours: str, residual: str, attention: str) -> Iterator[tuple[str, str]]:
    for inner, theirs in _RESIDUAL:
        yield f"{ours}.residual.{inner}", f"{residual}.{theirs}"
    for inner, theirs in _ATTENTION:
        yield f"{ours}.attention.{inner}", f"{attention}.{theirs}"


def _listed(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, and the number of further ones."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
