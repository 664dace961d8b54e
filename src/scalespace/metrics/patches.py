"""Patches of pictures at every scale, reduced to what sliced Wasserstein distances need of them.

A picture is split into a Laplacian pyramid down to 16 pixels. With S the matrix that smooths by the binomial 1, 4, 6, 4, 1
(mirrored at the borders) and keeps every second pixel, and U the one that puts pixels apart and smooths them with twice that
weight, a band of a picture x is x - U_h (S_h x S_w^T) U_w^T, and S_h x S_w^T goes on to the next band.

From every picture and band random 7 x 7 patches are taken, the channels of all of them are normalised to mean 0 and variance 1,
and they are projected on random unit vectors v. Of the projections p histograms are kept, whose bins are equally wide in
p / (4 + |p|): narrow where the projections are, and without an end.

Sources: Burt and Adelson 1983, The Laplacian pyramid as a compact image code; Karras et al. 2018, Progressive growing of GANs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from tqdm import tqdm

from scalespace.metrics.resampling import Groups
from scalespace.reports.progress import progress_bar

__all__ = [
    "DIRECTIONS",
    "PATCH",
    "PATCHES",
    "PICTURES",
    "WIDE_BINS",
    "Projections",
    "bin_edges",
    "laplacian_pyramid",
    "project",
    "projected_histograms",
]

PATCHES, DIRECTIONS, PICTURES = 128, 512, 16384
"""Number of patches of every picture and band, of directions of every band, and of pictures of a side at most."""

PATCH = 7
"""Side of a patch in pixels."""

WIDE_BINS = 64
"""Number of bins in the histograms of groups."""

_BINS = 1024
_SPREAD = 4.0  # half of all bins are closer to zero than this
_SMALLEST_BAND = 16
_BATCH = 256  # pictures
_AT_ONCE = 64  # directions
_LOOKED_AT = 4096  # patches that tell what the normalisation changes


@dataclass(frozen=True)
class Projections:
    """The patches of one side and band, reduced to what distances need.

    Args:
        directions: Unit vectors that the patches are projected on, shape (D, C, 49).
        histograms: Number of patches in every bin, shape (D, 1024), int32.
        group_histograms: The same for every group of pictures and wider bins, shape (D, G, 64), int32.
        channel_parts: Mean over patches of the part that a channel has of the projection, where that lies in a wide bin, and
            of zero elsewhere, shape (D, C, 64), float32.
        moments: Sum over the pictures of every group of the mean and of the mean square of a channel, (G, 2, C), float64.
    """

    directions: Tensor
    histograms: Tensor
    group_histograms: Tensor
    channel_parts: Tensor
    moments: Tensor

    @staticmethod
    def as_tensors(bands: Mapping[str, Projections]) -> dict[str, Tensor]:
        """All bands in one dictionary, to be kept."""
        return {
            f"{index} {band} {name}": t for index, (band, p) in enumerate(bands.items()) for name, t in vars(p).items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Projections]:
        """The bands of such a dictionary, finest first."""
        fields: dict[tuple[int, str], dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, band, name = key.split()
            fields.setdefault((int(index), band), {})[name] = tensor
        return {band: cls(**fields[index, band]) for index, band in sorted(fields)}


def project(
    pictures: Tensor,
    side: int,
    patches: int = PATCHES,
    directions: int = DIRECTIONS,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Projections]:
    """Take patches of pictures and project them, band by band.

    Args:
        pictures: uint8, shape (N, C, H, W). Of more than 16,384 so many are taken at random.
        side: 0 for the first and 1 for the second side of a comparison, which take different places.
        patches: Number of patches of every picture and band.
        directions: Number of directions in every band.
        seed: Seed of directions, the same for both sides, of pictures and of patches.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The projections by the size of the band, such as "64x64", finest first.

    Raises:
        ValueError: If the pictures are smaller than 7 pixels.
    """
    height, width = pictures.shape[-2:]
    if min(height, width) < PATCH:
        raise ValueError(f"pictures of {height}x{width} hold no patches of {PATCH} pixels; give larger ones")
    common, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(2 * seed + side)
    numbers = torch.randperm(len(pictures), generator=own)[:PICTURES].sort().values
    groups = Groups.of_side(len(numbers), seed, side)
    sizes = _band_sizes((height, width))
    found: dict[str, Projections] = {}
    bar = progress_bar(len(sizes) * directions, f"patches of side {side + 1}", "directions", progress)
    # The pictures of a group lie together, and so do the patches of a picture.
    ordered = numbers[groups.group.argsort(stable=True)]
    with bar:
        for level, size in enumerate(sizes):
            vectors = torch.randn(directions, pictures.shape[1], PATCH**2, generator=common)
            vectors /= vectors.flatten(1).norm(dim=1)[:, None, None]
            samples = _normalise(_random_patches(pictures, ordered, level, patches, own))
            counts = (groups.counts * patches).long().tolist()
            found["{}x{}".format(*size)] = Projections(
                vectors,
                *projected_histograms(samples.flatten(1), counts, vectors.flatten(1), bar),
                _channel_parts(samples, vectors),
                _moments(samples.unflatten(0, (-1, patches)), groups.counts),
            )
    return found


def bin_edges() -> Tensor:
    """The inner edges of the bins, shape (1023,)."""
    u = torch.arange(1, _BINS, dtype=torch.float64) / (_BINS / 2) - 1
    return _SPREAD * u / (1 - u.abs())


def projected_histograms(
    samples: Tensor, counts: list[int], directions: Tensor, bar: tqdm | None = None
) -> tuple[Tensor, Tensor]:
    """Histograms of projections: of all samples in narrow bins, and of every group in wider ones.

    Args:
        samples: Shape (P, n), float32, the groups one after another.
        counts: Number of samples in every group.
        directions: Directions to project on, shape (D, n).
        bar: A bar that moves on by D.

    Returns:
        Shapes (D, 1024) and (D, G, 64), int32.
    """
    histograms = torch.zeros(len(directions), _BINS, dtype=torch.int32)
    of_groups = torch.zeros(len(directions), len(counts), WIDE_BINS, dtype=torch.int32)
    for some in torch.arange(len(directions)).split(_AT_ONCE):
        for group, part in enumerate(samples.split(counts)):
            # Each direction counts in a row of its own.
            bins = _bins(directions[some] @ part.mT) + torch.arange(len(some), dtype=torch.int32)[:, None] * _BINS
            counted = torch.bincount(bins.flatten(), minlength=len(some) * _BINS).reshape(-1, _BINS)
            histograms[some] += counted.int()
            of_groups[some, group] = counted.unflatten(1, (WIDE_BINS, -1)).sum(2).int()
        if bar is not None:
            bar.update(len(some))
    return histograms, of_groups


def laplacian_pyramid(pictures: Tensor) -> list[Tensor]:
    """The bands of float pictures (N, C, H, W), finest first, down to 16 pixels. The last is what smoothing leaves."""
    height, width = pictures.shape[-2:]
    return [_band(pictures, level) for level in range(len(_band_sizes((height, width))))]


def _band_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of the bands of pictures of a size, finest first."""
    height, width = image_size
    sizes = [(height, width)]
    while min(sizes[-1]) >= 2 * _SMALLEST_BAND:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _random_patches(pictures: Tensor, numbers: Tensor, level: int, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of one band of some pictures.

    Args:
        pictures: uint8, shape (N, C, H, W), at least 7 pixels on either side.
        numbers: Indices of the pictures to take patches from, shape (n,).
        level: Index of the band, 0 for the finest.
        count: Number of patches of each picture.
        generator: Source of the random places.

    Returns:
        Shape (n count, C, 49), float32, the patches of a picture one after another.
    """
    patches = torch.empty(len(numbers) * count, pictures.shape[1], PATCH**2)
    first = 0
    for part in numbers.split(_BATCH):
        band = _band(pictures[part].float(), level)
        which = torch.arange(len(band)).repeat_interleave(count)
        top, left = (torch.randint(side - PATCH + 1, (len(which),), generator=generator) for side in band.shape[-2:])
        windows = band.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        last = first + len(which)
        patches[first:last] = windows[which, :, top, left].flatten(2)
        first = last
    return patches


def _normalise(patches: Tensor) -> Tensor:
    """Give the channels of patches mean 0 and variance 1 over the whole set, in place; shape (P, C, 49)."""
    for channel in patches.unbind(1):
        channel -= channel.mean(dtype=torch.float64).float()
        # A channel that does not vary, as in flat pictures, has no texture and stays at zero.
        channel /= channel.square().mean(dtype=torch.float64).sqrt().clamp_min(1e-6).float()
    return patches


def _band(pictures: Tensor, level: int) -> Tensor:
    for _ in range(level):
        (S_h, _), (S_w, _) = (_maps(side, pictures.dtype) for side in pictures.shape[-2:])
        pictures = S_h @ pictures @ S_w.mT
    if min(pictures.shape[-2:]) < 2 * _SMALLEST_BAND:
        return pictures
    (S_h, U_h), (S_w, U_w) = (_maps(side, pictures.dtype) for side in pictures.shape[-2:])
    return pictures - U_h @ (S_h @ pictures @ S_w.mT) @ U_w.mT


@lru_cache(maxsize=32)
def _maps(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """S and U of one side of a picture."""
    smoothing = torch.zeros(side, side, dtype=torch.float64)
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        places = (torch.arange(side) + offset).abs()
        places = torch.minimum(places, 2 * (side - 1) - places)
        smoothing[torch.arange(side), places] += weight / 16
    return smoothing[::2].to(dtype), 2 * smoothing[:, ::2].to(dtype)


def _bins(projections: Tensor) -> Tensor:
    """The bin of every projection, int32. The projections are lost."""
    projections /= projections.abs().add_(_SPREAD)
    return projections.mul_(_BINS / 2).add_(_BINS / 2).clamp_(0, _BINS - 1).int()


def _channel_parts(samples: Tensor, directions: Tensor) -> Tensor:
    # A mean of so many patches is sure enough.
    some = samples[:: max(1, len(samples) // _LOOKED_AT)]
    found = torch.zeros(*directions.shape[:2], WIDE_BINS)
    for vectors, sums in zip(directions.split(_AT_ONCE), found.split(_AT_ONCE), strict=True):
        parts = torch.einsum("pcj,dcj->dcp", some, vectors)
        bins = _bins(parts.sum(1, keepdim=True)).long() // (_BINS // WIDE_BINS)
        sums.scatter_add_(2, bins.expand_as(parts), parts)
    return found / len(some)


def _moments(samples: Tensor, counts: Tensor) -> Tensor:
    """Sums over the pictures of every group; samples of shape (N, patches, C, 49)."""
    of_pictures = torch.stack([samples.mean((1, 3)), samples.square().mean((1, 3))], 1).double()
    group = torch.arange(len(counts)).repeat_interleave(counts.long())
    return torch.zeros(len(counts), *of_pictures.shape[1:], dtype=torch.float64).index_add_(0, group, of_pictures)
