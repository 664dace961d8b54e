"""Sliced Wasserstein distance of two sets of pictures: how alike their details are at every scale.

Pictures are split into a Laplacian pyramid down to 16 pixels. From every picture and band random 7 x 7 patches are taken, and
each set's channels are normalised to mean 0 and variance 1, so that neither colour nor contrast counts here, but what the
patches look like. The distance of a band is the mean over random unit vectors v of the Wasserstein distance of the projected
patches, times 1000:

    1000 mean_v W_1(<v, patches of one>, <v, patches of the other>).

With F and G the distribution functions along v, a patch at p adds int_p^inf sign(F - G) to its own side's F, and less what it
moves by changing the mean and the variance of the channels. The resamples are made of what the pictures add.

Sources: Karras et al. 2018, Progressive growing of GANs (with 128 patches of each of 16,384 pictures, and 512 directions);
Rabin et al. 2011, Wasserstein barycenter and its application to texture mixing; Burt and Adelson 1983, The Laplacian pyramid
as a compact image code.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad
from tqdm import tqdm

from scalespace.metrics.picture_distances import check_sizes
from scalespace.metrics.resampling import Measurement, Resampling, interval
from scalespace.metrics.wasserstein import wasserstein

__all__ = ["DIRECTIONS", "PATCHES", "PICTURES", "laplacian_pyramid", "sliced_wasserstein", "sliced_wasserstein_bands"]

PATCHES, DIRECTIONS, PICTURES = 128, 512, 16384
"""Of every picture and band; of every band; of every side at most."""

_PATCH = 7
_SMALLEST_BAND = 16
_BATCH = 256  # pictures
_SLICES = 8  # directions at once
_BINS = 1024
_BAR_DELAY = 2.0  # seconds without a bar


def laplacian_pyramid(pictures: Tensor) -> list[Tensor]:
    """Bands of float pictures (N, C, H, W), finest first, down to 16 pixels; the last is what smoothing leaves."""
    bands = [pictures]
    while min(bands[-1].shape[-2:]) >= 2 * _SMALLEST_BAND:
        smaller = _smoothed(bands[-1])[..., ::2, ::2]
        spread = torch.zeros_like(bands[-1])
        spread[..., ::2, ::2] = smaller
        bands[-1] = bands[-1] - 4 * _smoothed(spread)
        bands.append(smaller)
    return bands


def sliced_wasserstein(first: Tensor, second: Tensor, directions: Tensor) -> Tensor:
    """Wasserstein distances W_1 of two samples projected on directions.

    Args:
        first: Shape (N, n).
        second: Shape (M, n).
        directions: Unit vectors, shape (D, n).

    Returns:
        Shape (D,), float64.
    """
    pairs = zip(directions @ first.mT, directions @ second.mT, strict=True)
    return torch.tensor([wasserstein(x, y) for x, y in pairs], dtype=torch.float64)


def sliced_wasserstein_bands(
    first: Tensor,
    second: Tensor,
    patches: int = PATCHES,
    directions: int = DIRECTIONS,
    resamples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Measurement]:
    """Sliced Wasserstein distance of every band of the Laplacian pyramid, times 1000.

    Args:
        first: Pictures, uint8 of shape (N, C, H, W); 16,384 of more are taken at random.
        second: Pictures, uint8 of shape (M, C, H, W).
        patches: Of every picture and band.
        directions: Of every band.
        resamples: Of the intervals.
        seed: Of patches, directions and resamples.
        progress: Whether to show a bar on stderr.

    Returns:
        By the band's size, as "64x64", finest first, and at last their mean, "mean".

    Raises:
        ValueError: If the pictures of the sides differ in size, or are smaller than 7 pixels.
    """
    check_sizes(first, second)
    if min(first.shape[-2:]) < _PATCH:
        raise ValueError(
            "pictures of {}x{} hold no patches of {} pixels; give larger ones".format(*first.shape[-2:], _PATCH)
        )
    generator = torch.Generator().manual_seed(seed)
    sides = [(side, torch.randperm(len(side), generator=generator)[:PICTURES]) for side in (first, second)]
    groups = [Resampling.of(len(numbers), resamples, generator) for _, numbers in sides]
    sizes = [tuple(band.shape[-2:]) for band in laplacian_pyramid(first[:1].float())]
    dimensions = first.shape[1] * _PATCH**2
    values, drawn = [], []
    bar = tqdm(
        desc="sliced Wasserstein distance",
        total=len(sizes) * directions,
        unit=" directions",
        delay=_BAR_DELAY,
        disable=not progress,
        file=sys.stderr,
    )
    with bar:
        for level in range(len(sizes)):
            samples = [_normalised(_patches(*side, level, patches, generator)) for side in sides]
            value, added = 0.0, [torch.zeros(len(numbers), dtype=torch.float64) for _, numbers in sides]
            vectors = torch.randn(directions, dimensions, generator=generator)
            for some in (vectors / vectors.norm(dim=1, keepdim=True)).split(_SLICES):
                value += float(sliced_wasserstein(samples[0].flatten(1), samples[1].flatten(1), some).sum())
                for total, new in zip(added, _influences(samples, some, patches), strict=True):
                    total += new
                bar.update(len(some))
            values.append(1e3 * value / directions)
            drawn.append(sum(1e3 / directions * g.means(total) for g, total in zip(groups, added, strict=True)))
    values.append(sum(values) / len(values))
    drawn.append(torch.stack(drawn).mean(0))
    names = [*("{}x{}".format(*size) for size in sizes), "mean"]
    return {name: interval(value, d, least=0.0) for name, value, d in zip(names, values, drawn, strict=True)}


def _smoothed(pictures: Tensor) -> Tensor:
    channels = pictures.shape[1]
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=pictures.dtype) / 16
    kernel = binomial.outer(binomial).expand(channels, 1, 5, 5)
    padded = pad(pictures, (2, 2, 2, 2), mode="reflect")
    return conv2d(padded, kernel, groups=channels)


def _patches(pictures: Tensor, numbers: Tensor, level: int, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of a band of some pictures, shape (N count, C, 49)."""
    span = torch.arange(_PATCH)
    parts = []
    for part in numbers.split(_BATCH):
        band = laplacian_pyramid(pictures[part].float())[level]
        which = torch.arange(len(band)).repeat_interleave(count)
        top, left = (torch.randint(side - _PATCH + 1, (len(which),), generator=generator) for side in band.shape[-2:])
        rows, columns = (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]
        # Indexing around the channels puts them last.
        parts.append(band[which[:, None, None], :, rows, columns].permute(0, 3, 1, 2).flatten(2))
    return torch.cat(parts)


def _normalised(patches: Tensor) -> Tensor:
    """Channels of mean 0 and variance 1 over the whole set, in place; shape (P, C, 49)."""
    for channel in patches.unbind(1):
        # A channel that does not vary, as in flat pictures, has no texture and stays at zero.
        channel -= channel.double().mean().float()
        channel /= channel.square().mean(dtype=torch.float64).sqrt().clamp_min(1e-6).float()
    return patches


def _influences(samples: list[Tensor], directions: Tensor, patches: int) -> list[Tensor]:
    """How much each picture adds to the sum of the distances over directions, up to a constant.

    Args:
        samples: Normalised patches of either side, shape (N patches, C, 49), those of a picture one after another.
        directions: Shape (D, 49 C).
        patches: Of a picture.

    Returns:
        For either side, shape (N,), float64.
    """
    channels = samples[0].shape[1]
    added = [torch.zeros(len(sample) // patches, dtype=torch.float64) for sample in samples]
    by_mean, by_scale = ([torch.zeros(channels) for _ in samples] for _ in range(2))
    for v in directions.unflatten(1, (channels, -1)):
        parts = [torch.einsum("pcj,cj->pc", sample, v) for sample in samples]
        wholes = [part.sum(1) for part in parts]
        low = min(float(whole.min()) for whole in wholes)
        width = max(max(float(whole.max()) for whole in wholes) - low, 1e-12) / _BINS
        bins = [((whole - low) / width).long().clamp_max_(_BINS - 1) for whole in wholes]
        F, G = (torch.bincount(b, minlength=_BINS).cumsum(0) / len(b) for b in bins)
        for side, slope in enumerate(((G - F).sign(), (F - G).sign())):
            potential = (slope.cumsum(0) * width).double()
            added[side] += potential[bins[side]].unflatten(0, (-1, patches)).mean(1)
            pulled = slope[bins[side]]
            by_mean[side] += pulled.mean() * v.sum(1)
            by_scale[side] += pulled @ parts[side] / len(pulled)
    for side, sample in enumerate(samples):
        pictures = sample.unflatten(0, (-1, patches))
        means, squares = pictures.mean((1, 3)), pictures.square().mean((1, 3))
        added[side] -= (means @ by_mean[side] + (squares - 1) / 2 @ by_scale[side]).double()
    return added
