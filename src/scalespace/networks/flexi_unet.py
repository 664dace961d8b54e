"""Flexi-UNet: an ADM U-Net that runs only the levels that its input and its output need.

Network level k works at about 2^-k of the full resolution. A state at level i that is to become a prediction at level
j <= i takes the path

    first convolution, 1 x 1 adapter to the width that level i expects at its entrance,
    encoder of the levels i, i + 1, ..., middle, decoder of the levels ..., i, ..., j,
    1 x 1 adapter back to the base width, head.

Encoder blocks above level i did not run, so the decoder takes zeros for their skips. The adapted input is the skip of the
downsampling that it replaces. No picture is resized before it enters. Sizes need not be square, nor powers of two apart: the
decoder goes up to exactly the sizes that the encoder had, and above the entrance to sizes halved down from the target's.

With ``paths="shared"`` every resolution runs all layers at its own size, as a convolutional network can: the levels learn
from each other, for small pictures look like large ones, and a level costs a quarter of the one above it. At a change the
state is resized up to the target's size before it enters.

The paper's baseline is the same network with ``paths="full"``, an ordinary U-Net: the state is resized up to the full
resolution before it enters, all levels run, and the output is resized down to the target's size.

Source: Mukhopadhyay, Udhayanan, Shrivastava, Scale Space Diffusion, CVPR 2026, https://arxiv.org/abs/2603.08709,
section on Flexi-UNet; the blocks are ADM's (https://arxiv.org/abs/2105.05233). The shared paths are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from scalespace.networks.blocks import Block, Downsample, Stage, Upsample
from scalespace.networks.conditioned import ConditionedNetwork, checked_sizes, resized
from scalespace.networks.layers import adapter, group_norm, start_at_zero
from scalespace.networks.network import Size

__all__ = ["FlexiUNet", "network_levels"]

# Above these even the outline of the network, without its weights, takes minutes or overflows; the largest ones of papers
# have some forty blocks and a thousand channels.
_MOST_BLOCKS, _MOST_CHANNELS, _MOST_CLASSES = 256, 2**20, 2**31


def network_levels(sizes: Sequence[Size]) -> tuple[int, ...]:
    """The network level at which each resolution of the process enters.

    The level is the rounded number of octaves below the first size, and at least one more than the level before. So a factor of
    2 takes one level, a factor of 1.5 also takes one, and a factor of 4 takes two.

    Args:
        sizes: (height, width) of each resolution in pixels, largest first.

    Returns:
        Strictly increasing levels. The first is 0.
    """
    levels: list[int] = []
    for size in sizes:
        octaves = round(math.log2(min(sizes[0]) / min(size)))
        levels.append(max(octaves, levels[-1] + 1) if levels else 0)
    return tuple(levels)


class FlexiUNet(ConditionedNetwork):
    """U-Net from a noisy state at one resolution to the clean image at the same or a higher one.

    Parameters do not depend on `sizes` beyond where attention is, so a network can be given other resolutions later.

    Args:
        sizes: (height, width) of each resolution of the process in pixels, largest first.
        in_channels: Number of channels of the state.
        out_channels: Number of channels of the prediction.
        base_channels: Number of channels that a multiplier of 1 stands for. It is even.
        channel_multipliers: Width of each network level as a multiple of base_channels, from the full resolution down.
        blocks_per_level: Number of residual blocks in each encoder level. Each decoder level has one more.
        attention_max_size: Levels whose nominal shorter side has at most this many pixels have attention.
        attention_heads: Number of heads in every attention layer.
        dropout: Probability of dropping a feature in the residual blocks.
        num_classes: Number of classes to condition on. None makes an unconditional network.
        null_class: Whether a further label, num_classes, stands for no class, so that the network predicts without one too.
        released_quirks: Whether to compute what the paper's released code does, for its checkpoints. Then the last decoder
            block of the target's level never runs, an input on its way to the full resolution is resized up first, and the
            adapted input of a lower level is no skip.
        paths: "flexi" runs only the layers that an input needs. "shared" runs all layers at the resolution of the target.
            "full" runs all layers at the full resolution.
        condition_size: (height, width) of small pictures to condition on. They are enlarged and joined to the state, as in the
            second model of a cascade (Ho et al. 2021, https://arxiv.org/abs/2106.15282). None makes a network without them.
        min_channels_per_group: Least channels that are normalised together. With 1, levels of up to 32 channels normalise each
            by itself, as in ADM and in networks that were saved without this option.

    Raises:
        ValueError: If the sizes do not decrease, or need more levels than there are multipliers and `paths` are not "shared",
            if a number is below 1 or base_channels odd, if the heads do not divide the channels of a level with attention, if
            `paths` is unknown, or "shared" with quirks and several sizes, or if pictures to condition on are not smaller than
            the largest size.
    """

    _supports_gradient_checkpointing = True
    # A block adds its input to its output, so both lie on one device where a network is spread over several.
    _no_split_modules = ["Block"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        sizes: Sequence[Size] = ((64, 64), (32, 32), (16, 16), (8, 8)),
        in_channels: int = 3,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks_per_level: int = 2,
        attention_max_size: int = 16,
        attention_heads: int = 4,
        dropout: float = 0.0,
        num_classes: int | None = None,
        released_quirks: bool = False,
        paths: str = "flexi",
        condition_size: Sequence[int] | None = None,
        min_channels_per_group: int = 4,
        null_class: bool = False,
    ) -> None:
        super().__init__()
        if paths not in ("flexi", "shared", "full"):
            raise ValueError(f'paths "{paths}" are unknown; use "flexi", "shared" or "full"')
        self.sizes = checked_sizes(sizes)
        if paths == "shared" and released_quirks and self.sizes[1:]:
            raise ValueError(
                'released_quirks are of paths "flexi" and "full", and paths are "shared"; choose one of those, or leave the '
                "quirks out"
            )
        self.levels = (0,) * len(self.sizes) if paths == "shared" else network_levels(self.sizes)
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        depth = len(widths)
        fitting = sum(level < depth for level in self.levels)
        if fitting < len(self.sizes):
            raise ValueError(
                f"sizes {self.sizes} need {self.levels[-1] + 1} network levels and channel_multipliers gives {depth}, "
                f'which fit the first {fitting} of the sizes; leave the others out, add multipliers or use paths "shared"'
            )
        if base_channels < 2 or base_channels % 2:
            raise ValueError(f"base_channels is {base_channels}; it must be positive and even, for sines and cosines")
        counts = {
            "in_channels": (in_channels, _MOST_CHANNELS),
            "out_channels": (out_channels, _MOST_CHANNELS),
            "channel_multipliers": (min(channel_multipliers), _MOST_CHANNELS),
            "channel_multipliers times base_channels": (max(widths), _MOST_CHANNELS),
            # Encoder and decoder have 2 n + 1 blocks a level.
            "blocks_per_level": (blocks_per_level, (_MOST_BLOCKS // depth - 1) // 2),
            "attention_heads": (attention_heads, _MOST_CHANNELS),
            "min_channels_per_group": (min_channels_per_group, _MOST_CHANNELS),
            "num_classes": (1 if num_classes is None else num_classes, _MOST_CLASSES),
        }
        for name, (count, most) in counts.items():
            if not 1 <= count <= most:
                raise ValueError(f"{name} holds {count}; a network needs at least 1 and can have {most} at most")
        # JSON has no tuples, so a loaded configuration holds lists; one form makes configurations comparable.
        self.register_to_config(sizes=self.sizes, channel_multipliers=tuple(channel_multipliers))
        self.released_quirks = released_quirks
        self.full, self.shared = paths == "full", paths == "shared"
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.base_channels = base_channels
        self.blocks_per_level = blocks_per_level

        nominal = [math.ceil(min(self.sizes[0]) / 2**level) for level in range(depth)]
        self.attention_levels = tuple(level for level in range(depth) if nominal[level] <= attention_max_size)
        heads = [attention_heads if level in self.attention_levels else None for level in range(depth)]
        for width in {widths[-1], *(width for width, has in zip(widths, heads, strict=True) if has)}:
            if width % attention_heads:
                raise ValueError(
                    f"attention_heads {attention_heads} does not divide the {width} channels of a level with "
                    "attention; choose a divisor, or other channels"
                )

        embedding_channels = 4 * base_channels
        self._set_conditions(base_channels, embedding_channels, num_classes, null_class, condition_size)

        def block(inside: int, outside: int, block_heads: int | None) -> Block:
            return Block(inside, outside, embedding_channels, dropout, block_heads, min_channels_per_group)

        # Level k is entered at the width of the level above it, from which its first block goes on to its own.
        entrances = [widths[0], *widths[:-1]]
        belows = [*widths[1:], widths[-1]]
        joined_channels = in_channels if self.condition_size is None else 2 * in_channels
        self.conv_in = nn.Conv2d(joined_channels, widths[0], 3, padding=1)
        self.adapters_in = nn.ModuleList(adapter(widths[0], entrance) for entrance in entrances)
        self.encoder = nn.ModuleList(
            Stage(block(inside, width, level_heads) for inside in [entrance, *[width] * (blocks_per_level - 1)])
            for entrance, width, level_heads in zip(entrances, widths, heads, strict=True)
        )
        self.downsamples = nn.ModuleList(Downsample(width) for width in widths[:-1])
        self.middle = Stage([block(widths[-1], widths[-1], attention_heads), block(widths[-1], widths[-1], None)])
        self.upsamples = nn.ModuleList(Upsample(width) for width in widths[1:])
        self.decoder = nn.ModuleList(
            Stage(
                block(inside + skip, width, level_heads)
                for inside, skip in zip(
                    [below, *[width] * blocks_per_level], [*[width] * blocks_per_level, entrance], strict=True
                )
            )
            for below, entrance, width, level_heads in zip(belows, entrances, widths, heads, strict=True)
        )
        self.adapters_out = nn.ModuleList(adapter(width, widths[0]) for width in widths)
        head = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        start_at_zero(head)
        self.head = nn.Sequential(group_norm(widths[0], min_channels_per_group), nn.SiLU(), head)

    @classmethod
    def from_config(cls, config: Any = None, *others: Any, **options: Any) -> Any:
        # Networks saved before there was a choice have the groups of then.
        if isinstance(config, dict) and "_class_name" in config and "min_channels_per_group" not in config:
            config = {**config, "min_channels_per_group": 1}
        return super().from_config(config, *others, **options)

    def _prediction(
        self,
        sample: Tensor,
        timestep: int | float | Tensor,
        entry: int,
        goal: int,
        class_labels: Tensor | None,
        condition: Tensor | None,
        condition_noise: Tensor | None,
    ) -> Tensor:
        final_size = self.sizes[goal]
        if entry and (self.full or (self.released_quirks and goal == 0)):
            sample, entry = resized(sample, self.sizes[0]), 0
        if self.full:
            goal = 0
        if self.shared and entry != goal:
            sample = resized(sample, final_size)
        embedding = self._embedding(sample, timestep, class_labels)
        sample, embedding = self._joined(sample, embedding, condition, condition_noise)
        embedding = functional.silu(embedding)
        first, last = self.levels[entry], self.levels[goal]

        hidden = self.adapters_in[first](self.conv_in(sample))
        # At a low entrance the adapted input stands in for the downsampling that did not run; the release has zeros.
        skips = [] if self.released_quirks and first else [hidden]
        for level in range(first, len(self.encoder)):
            if level > first:
                hidden = self.downsamples[level - 1](hidden)
                skips.append(hidden)
            skips += self.encoder[level](hidden, embedding)
            hidden = skips[-1]
        hidden = self.middle(hidden, embedding)[-1]
        for level in reversed(range(last, len(self.decoder))):
            if level < len(self.decoder) - 1:
                # Back to what the encoder had; where it did not run, a size halved down from the target, rounded up.
                above = 2 ** (level - last)
                nominal = tuple(math.ceil(side / above) for side in self.sizes[goal])
                hidden = self.upsamples[level](hidden, tuple(skips[-1].shape[-2:]) if skips else nominal)
            count = self.blocks_per_level + (0 if self.released_quirks and level == last else 1)
            joined = [skips.pop() if skips else None for _ in range(count)]
            hidden = self.decoder[level](hidden, embedding, joined)[-1]
        prediction = self.head(self.adapters_out[last](hidden))
        return prediction if tuple(prediction.shape[-2:]) == final_size else resized(prediction, final_size)
