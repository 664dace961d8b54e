import math

import pytest
import torch
from torch.testing import assert_close

from scalespace.operators.dct import DCTFilter, dct_matrix


@pytest.mark.parametrize("length", [1, 2, 5, 64])
def test_the_transform_is_orthonormal(length: int):
    C = dct_matrix(length)
    assert C.dtype == torch.float64
    assert_close(C @ C.T, torch.eye(length, dtype=torch.float64), rtol=0, atol=1e-13)


def test_coefficients_are_those_of_the_definition():
    x = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [
        math.sqrt((1 if k == 0 else 2) / 6) * sum(float(x[n]) * math.cos(math.pi * k * (n + 0.5) / 6) for n in range(6))
        for k in range(6)
    ]
    assert_close(dct_matrix(6) @ x, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_a_constant_has_the_lowest_frequency_and_an_alternation_mostly_the_highest():
    constant = torch.ones(8, dtype=torch.float64)
    alternation = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    lowest = torch.zeros(8, dtype=torch.float64)
    lowest[0] = math.sqrt(8)
    assert_close(dct_matrix(8) @ constant, lowest, rtol=0, atol=1e-14)
    assert (dct_matrix(8) @ alternation).abs().argmax() == 7


def test_a_filter_is_its_own_transpose():
    M = DCTFilter(torch.linspace(1, 0, 12, dtype=torch.float64).reshape(3, 4))
    assert M.T is M


def test_undoing_a_filter_magnifies_rounding_no_more_than_the_filter_shrank():
    gains = torch.full((8, 8), 1e-3, dtype=torch.float64)
    gains[0, 0] = 1.0
    M, y = DCTFilter(gains), torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    exact, undone = (M.adjoint_function(lambda e: 1 / e, pictures) for pictures in (y.double(), y))
    # M after its inverse square would go through numbers of the size 1e6, whose rounding M does not shrink in the mean.
    assert_close(undone.double(), exact, rtol=0, atol=1e3 * 30 * torch.finfo(torch.float32).eps)
