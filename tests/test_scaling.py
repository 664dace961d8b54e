"""Compute for equal quality: the quotient and its interval, where both are known, and the page that has them."""

import json
import math

import pytest
import torch
from benchmarks.errors import bands
from benchmarks.scaling import (
    PAGE,
    RECORDS,
    SAMPLER,
    Point,
    Ratio,
    compute_ratio,
    gflops,
    precisions,
    sampling_gflops,
    tables,
    training_teraflops,
    with_tables,
)

BUDGETS = (1.0, 1.0, 4.0)


def runs(ratio: float, slope: float, spread: float, generator: torch.Generator) -> list[Point]:
    """Runs of a process that needs so many times the compute, on two kinds of pictures of different difficulty."""
    found = []
    for pictures, scale in (("a", 1.0), ("b", 7.0)):
        noise = spread * torch.randn(len(BUDGETS), generator=generator, dtype=torch.float64)
        found += [
            Point(pictures, c, scale * math.exp(float(e)) * (c / ratio) ** -slope)
            for c, e in zip(BUDGETS, noise, strict=True)
        ]
    return found


def test_a_process_that_needs_half_the_compute_is_found_to():
    generator = torch.Generator().manual_seed(0)
    found = compute_ratio(runs(1, 0.5, 1e-4, generator), runs(0.5, 0.5, 1e-4, generator))
    assert found == pytest.approx((0.5, 0.5, 0.5), rel=2e-3)
    assert str(Ratio(0.5, 0.25, 1.0)) == "0.50 (0.25 to 1.00)"


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    generator = torch.Generator().manual_seed(1)
    found = [compute_ratio(runs(1, 0.5, 0.1, generator), runs(0.6, 0.5, 0.1, generator)) for _ in range(400)]
    known = [one for one in found if one.low is not None and one.high is not None]
    assert len(known) > 380
    # 400 draws of 95 % are 380 +- 4.4.
    assert 362 <= sum(one.low <= 0.6 <= one.high for one in known) + 400 - len(known) <= 395


def test_nothing_is_determined_where_more_compute_gains_nothing():
    generator = torch.Generator().manual_seed(2)
    flat = compute_ratio(runs(1, 0.0, 0.1, generator), runs(1, 0.0, 0.1, generator))
    assert (flat, str(flat)) == (Ratio(None, None, None), "not determined")


def test_compute_is_that_of_the_paths():
    records = json.loads(RECORDS.read_text())["records"]
    ddpm = next(r for r in records if r["arm"] == "ddpm")
    # 20 calls at full resolution; a step costs three of them, for each of its pictures.
    assert training_teraflops(ddpm) == pytest.approx(
        3 * sampling_gflops(ddpm) / 20 * ddpm["steps"] * ddpm["batch_size"] / 1e3
    )
    ours = next(r for r in records if r["arm"] == "shifted-auto" and r["data"] == ddpm["data"])
    assert 0.3 < sampling_gflops(ours) / sampling_gflops(ddpm) < 0.9


def test_a_transformer_costs_what_it_runs():
    unet, transformer = (gflops(arm, 32, (), SAMPLER)[0] for arm in ("ddpm-offset", "transformer-ddpm-offset"))
    assert transformer == pytest.approx(0.48, abs=0.01)
    assert unet == pytest.approx(0.50, abs=0.01)


def test_runs_in_both_precisions_stand_beside_each_other():
    records = json.loads(RECORDS.read_text())["records"]
    one = next(r for r in records if r["arm"] == "shared-offset" and r["mixed_precision"] == "bf16")
    exact = one | {"mixed_precision": "no", "kernel_efficientnet_lite0": 0.5}
    (row,) = [line for line in precisions([one, exact, exact | {"seed": 9}]).splitlines() if "shared layers" in line]
    assert f"{1000 * one['kernel_efficientnet_lite0']:,.0f} / 500" in row


def test_the_tables_of_the_page_are_those_of_the_records():
    assert with_tables(PAGE.read_text(), tables(json.loads(RECORDS.read_text())["records"])) == PAGE.read_text()


def test_bands_of_an_error_add_up_to_it_and_each_has_its_own():
    error = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert sum(bands(error)) == pytest.approx(float(error.square().mean()))
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for number, side in enumerate((4, 2, 1)):
        pattern = checkers.repeat_interleave(side, 0).repeat_interleave(side, 1).repeat(8 // side, 8 // side)
        assert bands(pattern[None, None]) == pytest.approx([float(place == number) for place in range(3)])
