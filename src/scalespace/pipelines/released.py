"""Import of the state dictionaries that the paper authors' released code writes.

That code numbers its modules in the order in which they run (`input_blocks.7.0`, `output_blocks.2.1`) and names
adapters after the resolution that they serve (`adapters_in.16`); `FlexiUNet` names both by level. The numbers are the
same, and so are the shapes, but for the 1 x 1 convolutions of attention, which are linear layers here.

Source: https://github.com/prateksha/ScaleSpaceDiffusion, the layout of its state dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count

from torch import Tensor

from scalespace.networks.flexi_unet import FlexiUNet

__all__ = ["import_released_state", "released_names", "released_network"]

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


def released_names(network: FlexiUNet) -> dict[str, str]:
    """Map the names of a network's parameters in the released layout to our names.

    Args:
        network: The network. Its parameters may be on the meta device.

    Returns:
        A dictionary {released name: our name}, which is one to one.
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
        ValueError: If a parameter is missing in the network or in the state, or if a shape differs.
    """
    names = released_names(network)
    if missing := [name for name in names if name not in state]:
        raise ValueError(
            f"the state dictionary lacks {_listed(missing)} of this network in the released layout; build the network "
            "from it with released_network, or check its widths, levels and attention"
        )
    if unknown := [name for name in state if name not in names]:
        raise ValueError(
            f"the network has no place for {_listed(unknown)} of the state dictionary; build the network from it with "
            "released_network, or check its widths, levels and attention"
        )
    ours = network.state_dict()
    for theirs, name in names.items():
        # Attention's 1 x 1 convolutions carry a last dimension of 1.
        if tuple(state[theirs].shape) not in (tuple(ours[name].shape), (*ours[name].shape, 1)):
            raise ValueError(
                f"{theirs} has shape {tuple(state[theirs].shape)} and the network's {name} has "
                f"{tuple(ours[name].shape)}; give the network the widths of the state dictionary"
            )
    return {name: state[theirs].reshape(ours[name].shape) for theirs, name in names.items()}


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
        ValueError: If the state is not in the released layout, or if the image size is not given and cannot be inferred.
    """
    for name in (
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "out.2.weight",
    ):
        if name not in state:
            raise ValueError(
                f"the state dictionary has no {name}, so it is not of the released layout; give a released one"
            )
    base_channels = state["time_embed.0.weight"].shape[1]
    widths, attention, counts = [0], [False], [0]
    for number in count(1):
        if f"input_blocks.{number}.0.op.weight" in state:
            widths, attention, counts = [*widths, 0], [*attention, False], [*counts, 0]
        elif (convolution := f"input_blocks.{number}.0.in_layers.2.weight") in state:
            widths[-1] = state[convolution].shape[0]
            attention[-1] = f"input_blocks.{number}.1.qkv.weight" in state
            counts[-1] += 1
        else:
            break
    if image_size is None:
        if widths[-1] == widths[0] or not (served := _adapter_sides(state)):
            raise ValueError("the state dictionary does not tell the image size; give image_size, in pixels")
        image_size = min(served) << (len(widths) - 1)
    network = FlexiUNet(
        sizes=tuple((image_size >> level, image_size >> level) for level in range(levels)),
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        base_channels=base_channels,
        channel_multipliers=tuple(width // base_channels for width in widths),
        blocks_per_level=counts[0],
        attention_max_size=max((image_size >> level for level, has in enumerate(attention) if has), default=0),
        attention_heads=attention_heads,
        dropout=dropout,
        num_classes=state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None,
        released_quirks=True,
        min_channels_per_group=1,
    )
    network.load_state_dict(import_released_state(state, network))
    return network.eval()


def _modules(network: FlexiUNet) -> Iterator[tuple[str, str]]:
    """Pairs (our name, released name) of all modules that may hold parameters."""
    depth, blocks = len(network.encoder), network.blocks_per_level
    yield from (("time_mlp.0", "time_embed.0"), ("time_mlp.2", "time_embed.2"), ("class_embedding", "label_emb"))
    yield from (("conv_in", "input_blocks.0.0"), ("head.0", "out.0"), ("head.2", "out.2"))
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
    for level in range(depth):
        side = min(network.sizes[0]) >> level
        yield f"adapters_in.{level}", f"adapters_in.{side}"
        yield f"adapters_out.{level}", f"adapters_out.{side}"


def _positions(theirs: str) -> tuple[str, str]:
    return f"{theirs}.0", f"{theirs}.1"


def _block(ours: str, residual: str, attention: str) -> Iterator[tuple[str, str]]:
    for inner, theirs in _RESIDUAL:
        yield f"{ours}.residual.{inner}", f"{residual}.{theirs}"
    for inner, theirs in _ATTENTION:
        yield f"{ours}.attention.{inner}", f"{attention}.{theirs}"


def _adapter_sides(state: Mapping[str, Tensor]) -> list[int]:
    """The resolutions in pixels that appear in the names of output adapters."""
    parts = (name.split(".") for name in state)
    return [int(part[1]) for part in parts if part[0] == "adapters_out" and part[1].isdecimal()]


def _listed(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, and the number of further ones."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
