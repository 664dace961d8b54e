import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tests.metrics.sets import normal

from scalespace.metrics.precision_recall import prdc

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "precision_recall.json").read_text())
NAMES = ("precision", "recall", "density", "coverage")


@pytest.mark.parametrize("entries", [1 << 25, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['dimensions']}d")
def test_agrees_with_another_library_in_any_number_of_parts(case, dtype, entries, monkeypatch):
    monkeypatch.setattr("scalespace.metrics.feature_sets._ENTRIES", entries)
    reference = normal(0, case["reference"], case["dimensions"]).to(dtype)
    generated = normal(1, case["generated"], case["dimensions"], scale=case["scale"], shift=case["shift"]).to(dtype)
    found = prdc(generated, reference, case["neighbours"])
    assert {name: getattr(found, name).value for name in NAMES} == pytest.approx(case["expected"], rel=1e-4)


def test_equal_sets_have_everything():
    x = normal(0, 200, 6)
    found = prdc(x, x)
    assert [getattr(found, name).value for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    # By definition k others lie in each ball, less the one on its border, and the picture itself.
    assert found.density.value == pytest.approx(1, rel=0.1)


def test_precision_and_recall_swap_with_the_sides():
    x, y = normal(0, 150, 6), normal(1, 200, 6, scale=0.7, shift=0.2)
    assert prdc(x, y).precision.value == prdc(y, x).recall.value


def test_a_generator_of_few_kinds_has_precision_and_little_recall():
    reference = torch.cat([normal(0, 200, 4, shift=-5), normal(1, 200, 4, shift=5)])
    found = prdc(normal(2, 400, 4, scale=0.7, shift=5), reference)
    assert found.precision.value > 0.95
    assert found.recall.value < 0.55
    assert found.coverage.value < 0.55


def test_intervals_hold_their_figures_and_keep_to_what_is_possible():
    found = prdc(normal(0, 300, 6, scale=0.8), normal(1, 300, 6))
    for name in NAMES:
        measured = getattr(found, name)
        assert 0 <= measured.low <= measured.value <= measured.high
        assert name == "density" or measured.high <= 1
        assert measured.high - measured.low > 0.01 or measured.value > 0.99


def test_intervals_of_shares_are_as_wide_as_independent_draws_vary_or_wider():
    found = [asdict(prdc(normal(2 * k, 300, 8, shift=0.3), normal(2 * k + 1, 300, 8))) for k in range(30)]
    for name in ("precision", "recall"):
        width = sum(f[name]["high"] - f[name]["low"] for f in found) / len(found)
        assert 0.75 < width / (2 * 1.96 * float(torch.tensor([f[name]["value"] for f in found]).std())) < 2.2


def test_too_few_or_equal_pictures_are_refused():
    x = normal(0, 30, 3)
    with pytest.raises(ValueError, match="there are 5 generated pictures and 5 neighbours are asked for"):
        prdc(x[:5], x)
    with pytest.raises(ValueError, match="most pictures of one side are the same as 5 others"):
        prdc(x, torch.ones(30, 3))


@pytest.mark.parametrize(("shift", "scale"), [(50.0, 0.01), (-3000.0, 0.1)])
def test_features_far_from_zero_have_the_same_neighbours(shift, scale):
    # Whole multiples of a power of two, so that float32 holds the shifted features exactly.
    x, y = ((normal(k, 150, 8, scale=scale * (1 - k / 4)) * 2**14).round() / 2**14 for k in range(2))
    x, y = ((side + shift).float() for side in (x, y))
    far = prdc(x, y)
    near = prdc(x.double() - shift, y.double() - shift)
    assert asdict(far) == asdict(near)
