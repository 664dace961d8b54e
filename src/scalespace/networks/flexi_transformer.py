"""FlexiTransformer: one transformer on the patches of a picture, for all resolutions.

A patch has the same number of pixels at every resolution, so that halving the sides quarters the tokens: attention's products
cost a sixteenth, everything else that is done to tokens a quarter. All resolutions share all weights. What tells them apart is
the embedding, which knows the octaves between the full resolution and those of state and prediction, and the places of the
tokens, which are in units of the picture (``scalespace.networks.tokens``).

A state of r(t) that is to become a prediction at the larger r(s) takes the path

    patches of r(t), the first half of the blocks there, each token becomes those of r(s) that lie in it (``TokenUpsampling``),
    the other half of the blocks at r(s), head.

Where r(s) = r(t) nothing lies between the halves. No picture is resized before it enters. Sizes need not be square, nor powers
of two apart; the patch has to divide them.

Sources: Li and He 2025, JiT (arXiv 2511.13720): a plain transformer on patches of pixels that predicts the clean picture;
Peebles and Xie 2022, DiT (arXiv 2212.09748). The process, and a network that runs what a size needs, are those of Mukhopadhyay
et al. 2026 (arXiv 2603.08709).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from scalespace.networks.conditioned import ConditionedNetwork, checked_sizes
from scalespace.networks.layers import time_embedding
from scalespace.networks.network import Size
from scalespace.networks.tokens import PLACE_FEATURES, Grid, TokenUpsampling, place_features, rotary
from scalespace.networks.transformer_blocks import TransformerBlock, modulated, zero_linear

__all__ = ["FlexiTransformer"]

_TIME_FEATURES = 256
_LEVEL_FEATURES = 32
# Octaves below the full resolution are embedded like times in 0..1000.
_OCTAVE_TIME = 100.0

# As of FlexiUNet.
_MOST_BLOCKS, _MOST_CHANNELS, _MOST_CLASSES = 256, 2**20, 2**31


class FlexiTransformer(ConditionedNetwork):
    """Transformer from a noisy state at one resolution to the clean image at the same or a higher one.

    Parameters do not depend on `sizes`, so a network can be given other resolutions later.

    Args:
        sizes: (height, width) of each resolution of the process in pixels, largest first.
        in_channels: Number of channels of the state.
        out_channels: Number of channels of the prediction.
        patch_size: Height and width of a patch in pixels, which divides all sides of the sizes.
        width: Number of features of a token.
        depth: Number of blocks.
        heads: Number of heads in every attention layer. Each has a multiple of 4 features.
        dropout: Probability of dropping a feature in the blocks.
        num_classes: Number of classes to condition on. None makes an unconditional network.
        null_class: Whether a further label, num_classes, stands for no class, so that the network predicts without one too.
        condition_size: (height, width) of small pictures to condition on. They are enlarged and joined to the state, as in the
            second model of a cascade. None makes a network without them.

    Raises:
        ValueError: If the sizes do not decrease or the patch does not divide them, if a number is below 1, if the heads do not
            divide the width into multiples of 4, or if pictures to condition on are no smaller than the largest size.
    """

    _supports_gradient_checkpointing = True
    # A block adds its input to its output, so both lie on one device where a network is spread over several.
    _no_split_modules = ["TransformerBlock"]  # noqa: RUF012
    _gradient_checkpointing_func: Any

    @register_to_config
    def __init__(
        self,
        sizes: Sequence[Size] = ((64, 64), (32, 32), (16, 16), (8, 8)),
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int = 4,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        dropout: float = 0.0,
        num_classes: int | None = None,
        condition_size: Sequence[int] | None = None,
        null_class: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = checked_sizes(sizes)
        counts = {
            "in_channels": (in_channels, _MOST_CHANNELS),
            "out_channels": (out_channels, _MOST_CHANNELS),
            "patch_size": (patch_size, _MOST_CHANNELS),
            "width": (width, _MOST_CHANNELS),
            "depth": (depth, _MOST_BLOCKS),
            "heads": (heads, _MOST_CHANNELS),
            "num_classes": (1 if num_classes is None else num_classes, _MOST_CLASSES),
        }
        for name, (count, most) in counts.items():
            if not 1 <= count <= most:
                raise ValueError(f"{name} holds {count}; a network needs at least 1 and can have {most} at most")
        uneven = [size for size in self.sizes if any(side % patch_size for side in size)]
        if uneven:
            best = math.gcd(*(side for size in self.sizes for side in size))
            raise ValueError(
                f"patches of {patch_size}x{patch_size} pixels do not divide {'x'.join(map(str, uneven[0]))} pixels; give a "
                f"patch_size that divides all sizes (the largest is {best}), fewer levels, or other sizes"
            )
        if width % heads or (width // heads) % 4:
            raise ValueError(
                f"heads {heads} do not divide the width {width} into multiples of 4 features; choose another number of "
                "heads, or another width"
            )
        # JSON has no tuples, so a loaded configuration holds lists; one form makes configurations comparable.
        self.register_to_config(sizes=self.sizes)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.patch_size = patch_size
        self.head_features = width // heads
        self.gradient_checkpointing = False
        self._set_conditions(_TIME_FEATURES, width, num_classes, null_class, condition_size)
        self.level_mlp = nn.Sequential(nn.Linear(2 * _LEVEL_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

        joined_channels = in_channels if self.condition_size is None else 2 * in_channels
        self.patches = nn.Conv2d(joined_channels, width, patch_size, stride=patch_size)
        self.places = nn.Linear(PLACE_FEATURES, width, bias=False)
        self.modulation = zero_linear(width, 6 * width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))
        self.upsampling = TokenUpsampling(width)
        self.norm_out = nn.RMSNorm(width, 1e-6, elementwise_affine=False)
        self.modulation_out = zero_linear(width, 2 * width)
        self.head = zero_linear(width, patch_size**2 * out_channels)

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
        embedding = self._embedding(sample, timestep, class_labels)
        sample, embedding = self._joined(sample, embedding, condition, condition_noise)
        embedding = functional.silu(embedding + self._levels(sample, entry, goal))
        modulation = self.modulation(embedding).unflatten(1, (6, -1))

        grid, turns = self._grid(entry, sample)
        tokens = self.patches(sample).flatten(2).transpose(1, 2)
        tokens = tokens + self.places(place_features(grid.places(sample.device)).to(sample.dtype))
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) // 2 and goal != entry:
                source = grid
                grid, turns = self._grid(goal, sample)
                tokens = self.upsampling(tokens, source, grid)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = self._gradient_checkpointing_func(block, tokens, modulation, turns)
            else:
                tokens = block(tokens, modulation, turns)
        shift, scale = self.modulation_out(embedding)[:, None].chunk(2, dim=-1)
        patches = self.head(modulated(self.norm_out(tokens), shift, scale))
        return self._picture(patches, grid)

    def _grid(self, position: int, sample: Tensor) -> tuple[Grid, tuple[Tensor, Tensor]]:
        """The tokens of a size, and the cosines and sines of their angles."""
        grid = Grid.of(self.sizes[position], self.sizes[0], self.patch_size)
        longest = max(self.sizes[0]) // self.patch_size
        return grid, rotary(grid.places(sample.device), self.head_features, longest)

    def _levels(self, sample: Tensor, entry: int, goal: int) -> Tensor:
        """Embedding of the resolutions of state and prediction, shape (1, width)."""
        octaves = [math.log2(max(self.sizes[0]) / max(self.sizes[position])) for position in (entry, goal)]
        times = _OCTAVE_TIME * torch.tensor(octaves, device=sample.device)
        return self.level_mlp(time_embedding(times, _LEVEL_FEATURES).flatten()[None].to(sample.dtype))

    def _picture(self, patches: Tensor, grid: Grid) -> Tensor:
        """Patches (B, rows * columns, patch_size^2 C) as a picture (B, C, H, W)."""
        side = self.patch_size
        tiles: Any = patches.unflatten(2, (side, side, -1)).unflatten(1, (grid.rows, grid.columns))
        return tiles.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
