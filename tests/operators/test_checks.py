"""Operators that are not what they promise are found out, and those that are pass in whatever precision they have."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tests.strategies import OPERATORS, blur, normal
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.operators.checks import composition_defect, examined
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import LinearOperator

HALF = lambda x: avg_pool2d(x, 2)  # noqa: E731


@dataclass(frozen=True)
class WithAdjoint(LinearOperator):
    """Means of 2 x 2 pixels, with an adjoint that somebody wrote down."""

    by_hand: Callable[[Tensor], Tensor]
    side: int = 8

    @property
    def in_size(self):
        return self.side, self.side

    @property
    def out_size(self):
        return self.side // 2, self.side // 2

    def __call__(self, x):
        return HALF(x)

    def adjoint(self, y):
        return self.by_hand(y)


def copied(y: Tensor) -> Tensor:
    return interpolate(y, scale_factor=2, mode="nearest")


def one_pixel_wrong(y: Tensor) -> Tensor:
    lifted = copied(y) / 4
    lifted[..., 0, 0] *= 2
    return lifted


def uses_everywhere(M: LinearOperator):
    """What is asked of an operator before and beside functions of it."""
    x, y = normal(M.in_size, dtype=torch.float32, batch=(1, 1)), normal(M.out_size, dtype=torch.float32, batch=(1, 1))
    return (
        M.norm_squared,
        M.condition,
        M.mean_square,
        lambda: M.gram_function(torch.sqrt, x),
        lambda: M.T.gram_function(torch.sqrt, y),
        lambda: M.adjoint_function(torch.rsqrt, y),
    )


NOT_LINEAR = {
    "clamped": lambda x: HALF(x).clamp(-10, 10),
    "squared": lambda x: HALF(x) ** 2,
    "rounded to levels": lambda x: (HALF(x) * 127.5).round() / 127.5,
    "largest of every block": lambda x: -torch.nn.functional.max_pool2d(-x, 2),
    "less the mean of the batch": lambda x: HALF(x) - HALF(x).mean(0),
    "less the mean of the channels": lambda x: HALF(x) - HALF(x).mean(-3, keepdim=True) / 2,
    "bent by a hundred times the rounding": lambda x: HALF(x) + 1e-4 * HALF(x).abs(),
    "random": lambda x: torch.nn.functional.dropout(HALF(x)),
    "in half precision": lambda x: HALF(x.to(torch.bfloat16)).to(x.dtype),
}


@pytest.mark.parametrize("function", NOT_LINEAR.values(), ids=NOT_LINEAR)
def test_functions_that_are_not_linear_are_refused_wherever_they_are_used(function):
    for use in uses_everywhere(FunctionOperator(function, (8, 8), (4, 4))):
        with pytest.raises(
            UserError, match=r"the FunctionOperator from \(8, 8\) to \(4, 4\) is not linear.*; give a linear"
        ):
            use()


def test_what_is_not_linear_for_single_bright_pixels_alone_is_found_by_the_matrix():
    # White noise averaged over 64 pixels hardly reaches 0.9; a unit picture does not either, but 8 times it does.
    M = FunctionOperator(
        lambda x: torch.where((x > 0) & (x.flatten(-2).sum(-1)[..., None, None] == 1), 0, x), (8, 8), (8, 8)
    )
    assert examined(M).eps < 1e-12
    with pytest.raises(UserError, match="is not linear: of a sum, a multiple or the unit pictures"):
        M.gram_function(torch.sqrt, normal((8, 8)))


def test_a_function_that_adds_something_in_a_corner_is_refused():
    def function(x):
        return torch.nn.functional.pad(HALF(x)[..., 1:, :], (0, 0, 1, 0), value=1e-3)

    with pytest.raises(UserError, match=r"makes a picture of norm 0\.002 of zeros"):
        FunctionOperator(function, (8, 8), (4, 4)).norm_squared()


def test_a_function_that_adds_something_is_refused():
    with pytest.raises(
        UserError, match=r"makes a picture of norm 4 of zeros, so it is not linear; leave out what it adds"
    ):
        FunctionOperator(lambda x: HALF(x) + 1, (8, 8), (4, 4)).norm_squared()


def test_an_adjoint_that_is_not_the_transpose_is_refused():
    WithAdjoint(lambda y: copied(y) / 4).norm_squared()
    for wrong in (
        copied,
        lambda y: -copied(y) / 4,
        lambda y: (0.25 + 1e-9) * copied(y),
        one_pixel_wrong,
        lambda y: copied(y).flip(-1) / 4,
        lambda y: 0 * copied(y),
    ):
        for use in uses_everywhere(WithAdjoint(wrong)):
            with pytest.raises(
                UserError, match=r"the adjoint of the WithAdjoint .* is not its transpose: <M x, y> and"
            ):
                use()


@pytest.mark.parametrize("side", [64, 256])
def test_one_wrong_pixel_among_many_is_found(side):
    examined(WithAdjoint(lambda y: copied(y) / 4, side))
    with pytest.raises(UserError, match="is not its transpose"):
        examined(WithAdjoint(one_pixel_wrong, side))


def test_a_function_that_leaves_autograd_is_refused():
    for function in (lambda x: HALF(x.detach()), lambda x: torch.from_numpy(HALF(x.detach()).numpy())):
        with pytest.raises(UserError, match=r"is not its transpose.*\(no detach, no numpy\)"):
            FunctionOperator(function, (8, 8), (4, 4)).norm_squared()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x,
            r"gives the shape \(4, 1, 8, 8\) for \(4, 1, 8, 8\), and was said to give \(4, 1, 4, 4\); correct",
        ),
        (lambda x: HALF(x)[0], r"gives the shape \(1, 4, 4\) for"),
        (lambda x: (HALF(x),), "gives tuple for"),
        (lambda x: HALF(x) / 0, "gives numbers that are not finite for white noise"),
        (
            lambda x: HALF(x) @ torch.ones(5, 4),
            r"cannot be applied to float32 pictures on the cpu \(.*\); it has to take",
        ),
    ],
)
def test_results_that_are_no_pictures_are_refused(function, message):
    with pytest.raises(UserError, match=message):
        FunctionOperator(function, (8, 8), (4, 4)).norm_squared()


def test_an_adjoint_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"the adjoint of the WithAdjoint .* gives the shape \(4, 1, 4, 4\)"):
        WithAdjoint(lambda y: y).norm_squared()
    with pytest.raises(
        UserError, match=r"the adjoint of .* gives torch.int64 for torch.float64; let it give a floating"
    ):
        WithAdjoint(lambda y: copied(y).long()).norm_squared()


@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, size) for kind in OPERATORS for size in ((4, 3), (7, 5))]
    + [(kind, size) for kind in ("identity", "resize to a point", "resize up") for size in ((1, 1), (1, 6))],
)
def test_every_linear_operator_passes_in_float64(kind, size):
    applied = examined(OPERATORS[kind](size))
    assert applied.dtype == torch.float64
    assert applied.eps < 1e-14


def test_the_precision_of_a_function_is_measured_whatever_its_result_says():
    weights = torch.rand(1, 1, 3, 3) / 9
    exact = examined(blur((8, 8)))
    refuses_float64 = examined(
        FunctionOperator(lambda x: torch.nn.functional.conv2d(x, weights, padding=1), (8, 8), (8, 8))
    )
    float32_inside = examined(
        FunctionOperator(
            lambda x: torch.nn.functional.conv2d(x.float(), weights, padding=1).to(x.dtype), (8, 8), (8, 8)
        )
    )
    gives_float32 = examined(WithAdjoint(lambda y: (copied(y) / 4).float()))
    for applied in (refuses_float64, float32_inside, gives_float32):
        assert 1e-8 < applied.eps < 1e-5
    assert exact.eps < 1e-14


def test_operators_of_a_class_of_their_own_may_take_nothing_but_float32():
    @dataclass(frozen=True)
    class Convolution(WithAdjoint):
        def __call__(self, x):
            return torch.nn.functional.conv2d(x, torch.full((1, 1, 2, 2), 0.25), stride=2)

    applied = examined(
        Convolution(lambda y: torch.nn.functional.conv_transpose2d(y, torch.full((1, 1, 2, 2), 0.25), stride=2))
    )
    assert applied.dtype == torch.float32
    assert 1e-8 < applied.eps < 1e-5
    # Pictures of any dtype go through it and come back, by hand means and copies of 2 x 2 pixels.
    x, y = normal((8, 8), batch=(2, 1)), normal((4, 4), batch=(2, 1))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert_close(applied(x.to(dtype)), HALF(x.to(dtype).float()).to(dtype))
        assert_close(applied.adjoint(y.to(dtype)), copied(y.to(dtype).float() / 4).to(dtype))


def test_a_function_that_takes_batches_of_channels_alone_is_taken():
    # Convolutions and poolings want (B, C, H, W).
    M = FunctionOperator(lambda x: interpolate(x, size=(4, 4), mode="bilinear", antialias=True), (8, 8), (4, 4))
    assert M.norm_squared() == pytest.approx(0.2546, abs=1e-3)
    assert M.condition() > 1


def test_a_function_that_is_zero_without_a_graph_is_taken():
    M = FunctionOperator(lambda x: x.new_zeros(*x.shape[:-2], 2, 2), (4, 4), (2, 2))
    assert M.norm_squared() == 0.0
    assert torch.equal(M.adjoint(normal((2, 2))), torch.zeros(2, 4, 4, dtype=torch.float64))


def test_results_have_the_dtype_of_the_pictures_whatever_the_function_computes_in():
    weights = torch.rand(1, 1, 3, 3) / 9
    M = FunctionOperator(lambda x: torch.nn.functional.conv2d(x.float(), weights, padding=1), (8, 8), (8, 8))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert M(normal((8, 8), dtype=dtype, batch=(1, 1))).dtype == dtype
        assert M.adjoint(normal((8, 8), dtype=dtype, batch=(1, 1))).dtype == dtype
    float32_alone = FunctionOperator(lambda x: torch.nn.functional.conv2d(x, weights, padding=1), (8, 8), (8, 8))
    x = normal((8, 8), batch=(2, 1)).requires_grad_()
    for function in (float32_alone, float32_alone.adjoint):
        assert_close(function(x), function(x.float()).double())
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
        assert gradient.dtype == torch.float64
    with pytest.raises(RuntimeError, match="must match"):
        FunctionOperator(lambda x: x + torch.ones(5), (8, 8), (8, 8))(x)


def test_how_far_operators_are_from_composing_is_relative_to_the_larger_side():
    def averages(factor, length, size):
        return FunctionOperator(lambda x: factor * avg_pool2d(x, length // size), (length, length), (size, size))

    half = averages(1, 8, 4)
    for factor in (1e-6, 1.0, 1e6):
        again, nothing = averages(factor, 4, 2), averages(0, 4, 2)
        assert composition_defect(again, half, averages(factor, 8, 2)) < 1e-14
        assert composition_defect(again, half, averages(2 * factor, 8, 2)) == pytest.approx(0.5)
        assert composition_defect(again, half, averages(0, 8, 2)) == 1
        assert composition_defect(nothing, half, averages(factor, 8, 2)) == 1


def test_composition_is_judged_without_autocast_and_in_inference_mode():
    weights = torch.full((1, 1, 2, 2), 0.25)
    half, again = (
        FunctionOperator(lambda x: torch.nn.functional.conv2d(x, weights, stride=2), (2 * side, 2 * side), (side, side))
        for side in (4, 2)
    )
    whole = FunctionOperator(lambda x: torch.nn.functional.avg_pool2d(x, 4), (8, 8), (2, 2))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert composition_defect(again, half, whole) < 1e-6
