"""Where the tokens of a picture are, and how they become those of a larger picture.

The place of a token is the centre of its patch, and the picture's longer side is 1:

    y_i = (i + 1/2) / n_h * H / max(H, W),      x_j = (j + 1/2) / n_w * W / max(H, W)

with n_h x n_w tokens. So a token has the same place at every resolution whose patches have that centre, and what lies between
the patches of a small picture has the places between theirs.

Queries and keys are turned by angles f y and f x (rotary embedding), which leaves in their products the differences of places
alone. The angular frequencies f run geometrically from half a turn over the picture to a quarter of a turn over a patch of the
full resolution.

A token of n source pixels tells of as many pixels of the larger picture, and each of the tokens there takes its part:

    z = v + (A + oy B + ox C + oy ox D) v,

with v the source's token that the centre of z lies in and (oy, ox) where it lies in that, from -2 at one border to 2 at
the other. Where the sides double, the centres of the four are at -1 and 1, so that each has a linear map of its own.

Sources: Su et al. 2021, RoFormer (arXiv 2104.09864), for the turning; Heo et al. 2024 (arXiv 2403.13298), for two dimensions of
it in vision; Cao et al. 2021, Swin-Unet (arXiv 2105.05537), for tokens that become four by linear maps. Places in units of the
picture, and the maps as a polynomial, for any ratio of sizes, are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalespace.networks.layers import start_at_zero
from scalespace.networks.network import Size

__all__ = ["PLACE_FEATURES", "Grid", "TokenUpsampling", "place_features", "rotary", "turned"]

_PLACE_OCTAVES = 6
PLACE_FEATURES = 4 * _PLACE_OCTAVES
"""Number of features of a place."""


@dataclass(frozen=True)
class Grid:
    """The tokens of a picture.

    Args:
        rows: Number of tokens from top to bottom.
        columns: Number of tokens from left to right.
        height: Height of the picture, whose longer side is 1.
        width: Width of the picture, in the same unit.
    """

    rows: int
    columns: int
    height: float
    width: float

    @staticmethod
    def of(size: Size, whole: Size, patch_size: int) -> Grid:
        """The tokens of a picture of a size; ``whole`` is the full resolution, which gives the proportions to all."""
        longer = max(whole)
        return Grid(size[0] // patch_size, size[1] // patch_size, whole[0] / longer, whole[1] / longer)

    def places(self, device: torch.device | None = None) -> Tensor:
        """(y, x) of every token, row by row, shape (rows * columns, 2)."""
        y = (torch.arange(self.rows, dtype=torch.float32, device=device) + 0.5) * (self.height / self.rows)
        x = (torch.arange(self.columns, dtype=torch.float32, device=device) + 0.5) * (self.width / self.columns)
        return torch.stack(
            [y[:, None].expand(self.rows, self.columns), x[None].expand(self.rows, self.columns)], dim=-1
        ).flatten(0, 1)


def place_features(places: Tensor) -> Tensor:
    """Sines and cosines of half a turn over the picture, one turn, two and so on.

    Args:
        places: Places, shape (N, 2).

    Returns:
        Shape (N, PLACE_FEATURES).
    """
    octaves = math.pi * 2.0 ** torch.arange(_PLACE_OCTAVES, dtype=torch.float32, device=places.device)
    angles = (places[..., None] * octaves).flatten(1)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def rotary(places: Tensor, features: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles that queries and keys are turned by.

    Args:
        places: Places, shape (N, 2).
        features: Number of features of a head, a multiple of 4. The first half of its pairs turns with y, the other with x.
        tokens: Number of tokens along the longer side of the full resolution.

    Returns:
        Two tensors of shape (N, features / 2).
    """
    count = features // 4
    slowest, fastest = math.pi, math.pi / 2 * max(tokens, 2)
    steps = torch.arange(count, dtype=torch.float32, device=places.device) / max(count - 1, 1)
    angles = (places[..., None] * (slowest * (fastest / slowest) ** steps)).flatten(1)
    return angles.cos(), angles.sin()


def turned(features: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs of features k and k + d/2 by the angles of their tokens.

    Args:
        features: Queries or keys in float32, shape (B, N, heads, d).
        cosines: Of the angles, shape (N, d / 2).
        sines: Of the angles, shape (N, d / 2).

    Returns:
        The same shape.
    """
    first, second = features.chunk(2, dim=-1)
    cosines, sines = cosines[:, None], sines[:, None]
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)


class TokenUpsampling(nn.Module):
    """The tokens of a larger picture from those of a smaller one. A new one repeats the token that a place lies in.

    Args:
        channels: Features of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.maps = nn.Linear(channels, 4 * channels)
        start_at_zero(self.maps)

    def forward(self, tokens: Tensor, source: Grid, target: Grid) -> Tensor:
        """Map tokens (B, source.rows * source.columns, C) to shape (B, target.rows * target.columns, C)."""
        rows, oy = _inside(source.rows, target.rows, tokens.device)
        columns, ox = _inside(source.columns, target.columns, tokens.device)
        parents = (rows[:, None] * source.columns + columns[None]).flatten()
        oy, ox = (offset.expand(target.rows, target.columns).flatten() for offset in (oy[:, None], ox[None]))
        weights = torch.stack([torch.ones_like(oy), oy, ox, oy * ox], dim=-1).to(tokens.dtype)
        parts = self.maps(tokens).unflatten(2, (4, -1))[:, parents]
        return tokens[:, parents] + (weights[..., None] * parts).sum(dim=2)


def _inside(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one side: which of the source's tokens each of the target's lies in, and where in it."""
    # In integers: the centre (2 i + 1) / (2 target), of which the source's token is the whole part times 1 / source.
    centres = (2 * torch.arange(target, device=device) + 1) * source
    parents = centres // (2 * target)
    return parents, 4 * ((centres - 2 * target * parents).float() / (2 * target) - 0.5)
