"""Intervals hold what they are intervals for as often as they say, in short simulations of every figure that has one."""

import pytest
from benchmarks.coverage import COLOURS, FEATURES, PICTURES, PRDC, simulate

REPLICATES = 60
# Of 60 intervals that hold the mean in 95 % of the cases, 53 or fewer do in 3 % and 51 or fewer in 0.3 %.
AT_LEAST = 52 / REPLICATES


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("features a little apart", {"fid", "kid", *PRDC}),
        # Precision is 1 here, and recall near 0.
        ("features of much less variety", {"fid", "kid", *PRDC}),
        (
            "pictures a little brighter",
            {"swd_32x32", "swd_16x16", "swd_mean", "spectrum", *(f"colour_{name}" for name in COLOURS)},
        ),
    ],
)
def test_intervals_hold_the_mean_of_their_figure(kind, figures):
    found = simulate((FEATURES | PICTURES)[kind], 120, REPLICATES, seed=1)
    assert set(found) == figures
    assert {name: c for name, c in found.items() if c.held < AT_LEAST} == {}
    # And they are not that wide that they could not miss.
    assert {name: c for name, c in found.items() if c.width > 3 and 0 < c.mean < 1 - 1e-9} == {}
