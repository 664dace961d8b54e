"""Features without any file of weights: a small fixed network of random convolutions at three scales.

Colours are turned into brightness and two opponent colours. At each of three scales, an octave apart, two layers follow one
another, each a convolution with random filters of mean zero and then the modulus, the second with stride 2:

    a_1 = |W_1 * x|,   a_2 = |W_2 * a_1|,

and every channel a of both gives its energy and its sparsity over the picture,

    log(mean a^2 + e) / 2,   mean a / (mean a^2 + e)^(1/2),

e being what rounding to 8 bits adds. Coarse thumbnails say where things lie, and the variances of the colours how vivid they
are. Each kind is scaled so that it varies about as much as the others over photographs.

Moduli of wavelet-like filters in cascade are a scattering transform, and their means, energies and the like are what
textures are matched by; random filters do nearly as well. Such features see texture, sharpness, colour and layout, and
nothing of meaning: a distance of them is no FID.

Sources: Bruna and Mallat 2013, Invariant scattering convolution networks; Portilla and Simoncelli 2000, A parametric texture
model based on joint statistics of complex wavelet coefficients; Ustyuzhaninov et al. 2017, What does it take to generate
natural textures (random filters).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, pad

__all__ = ["SMALLEST", "builtin_features", "builtin_fingerprint"]

SMALLEST = 16
"""Pixels of the shortest side that the network can see."""

_SCALES = 3
_FIRST, _SECOND = 12, 20
_OPPONENT = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
_ROUNDING = (2 / 255) ** 2 / 12
# Over photographs of 64 pixels every kind then has a mean near 0 and a standard deviation of 0.6 to 0.9.
_LIGHT_SCALE, _TINT_SCALE = 1.25, 5.0
_VARIANCE_SHIFT = 1.9
_ENERGY_SHIFT, _ENERGY_SCALE = 2.1, 2.5
_SPARSITY_SHIFT, _SPARSITY_SCALE = -0.65, 12.0
_SEED = 20260309


def builtin_features(pictures: Tensor) -> Tensor:
    """Features of pictures, each by itself.

    Args:
        pictures: uint8 of shape (B, 3, H, W), at least 16 pixels on either side.

    Returns:
        Shape (B, 219), float32.

    Raises:
        ValueError: If the pictures are smaller.
    """
    if min(pictures.shape[-2:]) < SMALLEST:
        height, width = pictures.shape[-2:]
        raise ValueError(
            f"pictures of {height}x{width} are too small for the built-in features; give at least {SMALLEST}x{SMALLEST}"
        )
    opponent = torch.tensor(_OPPONENT, dtype=torch.float32)
    opponent = (opponent / opponent.norm(dim=1, keepdim=True)).to(pictures.device)
    x = torch.einsum("oc,bchw->bohw", opponent, pictures.float() / 127.5 - 1)
    features = [
        _LIGHT_SCALE * adaptive_avg_pool2d(x[:, :1], 4).flatten(1),
        _TINT_SCALE * adaptive_avg_pool2d(x[:, 1:], 2).flatten(1),
        (x.flatten(2).var(2, correction=0) + _ROUNDING).log() / 2 + _VARIANCE_SHIFT,
    ]
    for scale, (first, second) in enumerate(_filters()):
        if scale:
            x = avg_pool2d(x, 2)
        activations = x
        for filters, stride in ((first, 1), (second, 2)):
            activations = conv2d(pad(activations, (1, 1, 1, 1), mode="reflect"), filters.to(x), stride=stride).abs()
            energy = activations.square().mean((2, 3)) + _ROUNDING
            sparsity = activations.mean((2, 3)) / energy.sqrt()
            features += [
                _ENERGY_SCALE * (energy.log() / 2 + _ENERGY_SHIFT),
                _SPARSITY_SCALE * (sparsity + _SPARSITY_SHIFT),
            ]
    return torch.cat(features, 1)


def builtin_fingerprint() -> str:
    """SHA-256 of the filters, which changes with them."""
    digest = hashlib.sha256()
    for pair in _filters():
        for filters in pair:
            digest.update(filters.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _filters() -> list[tuple[Tensor, Tensor]]:
    # NumPy promises that this generator gives the same numbers for ever; torch promises no such thing of its own.
    random = np.random.RandomState(_SEED)
    return [(_bank(random, _FIRST, 3), _bank(random, _SECOND, _FIRST)) for _ in range(_SCALES)]


def _bank(random: np.random.RandomState, outputs: int, inputs: int) -> Tensor:
    filters = random.standard_normal((outputs, inputs, 3, 3))
    filters -= filters.mean((2, 3), keepdims=True)
    return torch.from_numpy((filters / math.sqrt(inputs * 8)).astype(np.float32))
