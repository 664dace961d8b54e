"""The mean spectrum of the training pictures, measured once.

For pictures x in [-1, 1] it is S = E[(C_h x C_w^T)^2], the mean over pictures and channels of the squared orthonormal DCT-II
coefficients; the mean of S over all frequencies is the mean square of a pixel (Parseval). Its place in the process: noise of
variance sigma_t^2 is white, so SNR_t S is the signal-to-noise ratio of every frequency at t.

A few thousand pictures suffice. The result is kept in the user's cache folder under the contents of the pictures measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalespace.data.batches import to_model
from scalespace.data.images import ImageDataset
from scalespace.data.measurements import measured_once
from scalespace.operators.dct import dct_matrix
from scalespace.reports.progress import progress_bar

__all__ = ["PICTURES", "mean_spectrum"]

PICTURES = 4096
"""Number of pictures of a larger data set that are measured."""

# Part of a cached spectrum's name: to be changed with anything that changes the measured values.
_METHOD = "1"
_BATCH, _BATCH_BYTES = 64, 2**28  # pictures that are measured together, and their size in float64


def mean_spectrum(data: ImageDataset, progress: bool = True) -> Tensor:
    """Mean square of the orthonormal DCT-II coefficients of the pictures; depends on nothing but the data.

    Args:
        data: All of its pictures are measured, or ``PICTURES`` at equal distances of a larger one.
        progress: Whether a measurement that takes over two seconds shows a bar on stderr.

    Returns:
        Shape (H, W), float64, lowest frequency first.

    Raises:
        UserError: If more than 1 % of the pictures are damaged.
    """
    count = min(len(data), PICTURES)
    numbers = torch.arange(count) * len(data) // count
    return measured_once(
        data.fingerprint_of(numbers.tolist()),
        f"spectrum {_METHOD}",
        lambda: {"spectrum": _measure(data, numbers, progress)},
        # Where a damaged picture was replaced by another, the fingerprint does not tell by which.
        may_be_kept=lambda: not data.bad,
    )["spectrum"]


def _measure(data: ImageDataset, numbers: Tensor, progress: bool) -> Tensor:
    height, width = data.image_size
    rows, columns = dct_matrix(height), dct_matrix(width)
    total = torch.zeros(height, width, dtype=torch.float64)
    bar = progress_bar(len(numbers), "measuring the spectrum", "pictures", progress)
    with bar:
        for chosen in numbers.split(max(1, min(_BATCH, _BATCH_BYTES // (24 * height * width)))):
            images = to_model(data.batch(chosen)[0]).double()
            total += (rows @ images @ columns.mT).square().mean(dim=1).sum(dim=0)
            bar.update(len(chosen))
    return total / len(numbers)
