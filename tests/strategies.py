"""What the property tests draw from: sizes, tensors, and one registry of operators that every operator test sweeps."""

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from scalespace.operators.dct import DCTFilter
from scalespace.operators.function import FunctionOperator
from scalespace.operators.gaussian_resize import GaussianResize
from scalespace.operators.linear import Identity, LinearOperator, Size
from scalespace.operators.resize import Resize

__all__ = [
    "OPERATORS",
    "blur",
    "blurred_subsample",
    "box_average",
    "chains",
    "normal",
    "of_matrix",
    "random_dtype",
    "seeds",
    "shrinking_sizes",
    "sizes",
    "tolerance",
    "with_singular_values",
]


def tolerance(dtype: torch.dtype, condition: float = 1.0) -> float:
    """Rounding of a few hundred sums and products in `dtype`, relative to values of size `condition`."""
    return 300 * torch.finfo(dtype).eps * condition


def normal(size: Size, seed: int = 0, dtype: torch.dtype = torch.float64, batch: tuple[int, ...] = (2,)) -> Tensor:
    """Standard normal tensor of shape (*batch, H, W)."""
    return torch.randn(*batch, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sizes(smallest: int = 3, largest: int = 9) -> st.SearchStrategy[Size]:
    """Rectangles."""
    side = st.integers(smallest, largest)
    return st.tuples(side, side)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**16)


def random_dtype() -> st.SearchStrategy[torch.dtype]:
    return st.sampled_from([torch.float32, torch.float64])


def box_average(size: Size) -> FunctionOperator:
    """Mean of every 2 x 2 block, as a function of the user's."""
    half = (size[0] // 2, size[1] // 2)
    return FunctionOperator(lambda x: avg_pool2d(_pictures(x), 2).reshape(*x.shape[:-2], *half), size, half)


def blur(size: Size) -> FunctionOperator:
    """Lopsided 3 x 3 blur with reflected borders, so that its transpose is another function."""

    def function(x: Tensor) -> Tensor:
        kernel = x.new_tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 1.0], [3.0, 0.0, 1.0]]) / 12
        return conv2d(pad(_pictures(x), (1, 1, 1, 1), mode="reflect"), kernel[None, None]).reshape(x.shape)

    return FunctionOperator(function, size, size)


def blurred_subsample(size: Size) -> FunctionOperator:
    """Gaussian blur of sigma 1.5, then every second pixel: of full rank, with a condition number of about 100."""
    steps = torch.arange(-4, 5, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * 1.5**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    half = (-(-size[0] // 2), -(-size[1] // 2))

    def function(x: Tensor) -> Tensor:
        padded = pad(_pictures(x), (4, 4, 4, 4), mode="reflect")
        return conv2d(padded, kernel.to(x)[None, None])[..., ::2, ::2].reshape(*x.shape[:-2], *half)

    return FunctionOperator(function, size, half)


def of_matrix(matrix: Tensor, in_size: Size, out_size: Size) -> FunctionOperator:
    """A matrix on flattened pictures, as a function of the user's."""
    return FunctionOperator(lambda x: (x.flatten(-2) @ matrix.to(x).mT).unflatten(-1, out_size), in_size, out_size)


def with_singular_values(values: Tensor, in_size: Size, out_size: Size, seed: int = 0) -> FunctionOperator:
    """Random singular vectors with the given singular values, and zeros besides."""
    left, right = (
        torch.linalg.qr(normal((math.prod(size), math.prod(size)), seed + i, batch=())).Q[:, : len(values)]
        for i, size in enumerate((out_size, in_size))
    )
    return of_matrix(left * values @ right.mT, in_size, out_size)


def _pictures(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, *x.shape[-2:])


def _half(size: Size) -> Size:
    return (size[0] // 2, size[1] // 2)


OPERATORS: dict[str, Callable[[Size], LinearOperator]] = {
    "identity": Identity,
    "resize by an octave": lambda size: Resize(size, _half(size)),
    "resize one side": lambda size: Resize(size, (size[0], _half(size)[1])),
    "resize by a non-integer factor": lambda size: Resize(size, (size[0] - 1, 2 * size[1] // 3)),
    "resize up": lambda size: Resize(size, (2 * size[0], size[1] + 3)),
    "resize to a point": lambda size: Resize(size, (1, 1)),
    "transpose of a resize": lambda size: Resize((size[0] + 2, 2 * size[1]), size).T,
    "chain of resizes": lambda size: (
        Resize((size[0] - 1, size[1] + 1), _half(size)) @ Resize(size, (size[0] - 1, size[1] + 1))
    ),
    "step of a pyramid": lambda size: GaussianResize(size, _half(size)),
    "box average": box_average,
    "filter of frequencies": lambda size: DCTFilter(torch.linspace(1, 0, size[0] * size[1]).double().reshape(size)),
    "blur": blur,
    "transpose of a blur": lambda size: blur(size).T,
    "blurred resize": lambda size: Resize(size, _half(size)) @ blur(size),
    "transpose of a blurred resize": lambda size: (blur(size) @ Resize((2 * size[0], size[1] + 1), size)).T,
    "gram of a box average": lambda size: box_average(size).T @ box_average(size),
}
"""Builders of an operator on pictures of a size (sides of 3 and more): every class, exact and iterative, and mixtures."""


@st.composite
def chains(draw: Any, length: int) -> list[LinearOperator]:
    """Operators A_1, ..., A_n for which A_n @ ... @ A_1 is defined."""
    size = draw(sizes(5, 8))
    operators = []
    for _ in range(length):
        # Halvings of halvings would leave nothing to reflect.
        kinds = sorted(OPERATORS) if min(size) >= 4 else ["identity", "resize up"]
        operator = OPERATORS[draw(st.sampled_from(kinds))](size)
        operators.append(operator)
        size = operator.out_size
    return operators


@st.composite
def shrinking_sizes(draw: Any, levels: int, largest: int = 9) -> tuple[Size, ...]:
    """Sizes of levels, each one smaller than the one before in one direction or both."""
    found = [draw(sizes(levels + 1, largest))]
    while len(found) < levels:
        height, width = found[-1]
        spare = levels - len(found)
        found.append((draw(st.integers(spare, height - 1)), draw(st.integers(spare, width))))
    return tuple(found)
