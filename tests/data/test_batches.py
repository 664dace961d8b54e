"""The order of the data: once an epoch, the same for any number of processes, and without memory."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalespace.data.batches import BatchOrder, to_model
from scalespace.pipelines.pictures import to_uint8

sizes = st.integers(1, 23)
seeds = st.integers(0, 2**63)


def stream(order: BatchOrder, count: int) -> torch.Tensor:
    return order.indices(range(count))


@given(num_images=sizes, seed=seeds, epochs=st.integers(1, 3))
def test_every_picture_comes_once_an_epoch(num_images, seed, epochs):
    seen = stream(BatchOrder(num_images, seed), epochs * num_images)
    for epoch in range(epochs):
        passed = seen[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(passed.tolist()) == list(range(num_images))


@given(num_images=sizes, seed=seeds, cuts=st.lists(st.integers(1, 9000), min_size=1, max_size=5, unique=True))
def test_the_stream_does_not_depend_on_how_it_is_cut(num_images, seed, cuts):
    order, bounds = BatchOrder(num_images, seed), [0, *sorted(cuts)]
    parts = [range(first, after) for first, after in pairwise(bounds)]
    whole = range(bounds[-1])
    assert torch.equal(torch.cat([order.indices(part) for part in parts]), order.indices(whole))
    assert torch.equal(torch.cat([order.flips(part) for part in parts]), order.flips(whole))


def test_a_resumed_run_sees_what_the_uninterrupted_run_would_have_seen():
    steps = [range(48 * step, 48 * step + 48) for step in range(60)]
    whole = BatchOrder(1000, seed=7)
    before = [(whole.indices(step), whole.flips(step)) for step in steps]
    resumed = BatchOrder(1000, seed=7)
    for step in reversed(range(30, 60)):
        assert torch.equal(resumed.indices(steps[step]), before[step][0])
        assert torch.equal(resumed.flips(steps[step]), before[step][1])


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = stream(BatchOrder(500, seed=0), 1000).split(500)
    other = BatchOrder(500, seed=1)
    # A random permutation of 500 agrees with another in about one place.
    for a, b in [(first, second), (first, stream(other, 500)), (first, torch.arange(500))]:
        assert (a == b).sum() < 10


def test_half_of_the_pictures_are_flipped_independently_of_their_order():
    order = BatchOrder(100, seed=3)
    flips, indices = order.flips(range(40_000)).double(), order.indices(range(40_000))
    standard_error = 0.5 / math.sqrt(flips.numel())
    assert abs(flips.mean() - 0.5) < 5 * standard_error
    assert abs(flips[indices < 50].mean() - 0.5) < 5 * math.sqrt(2) * standard_error


def test_flips_have_no_period():
    flips = BatchOrder(100, seed=3).flips(range(3 * 4096)).double()
    for period in (100, 4096):
        agree = (flips[period:] == flips[:-period]).double()
        assert abs(agree.mean() - 0.5) < 5 * 0.5 / math.sqrt(agree.numel())


def test_indices_have_the_promised_types():
    order = BatchOrder(5, seed=0)
    assert order.indices(range(36, 48)).shape == order.flips(range(36, 48)).shape == (12,)
    assert order.indices(range(3)).dtype == torch.int64
    assert order.flips(range(3)).dtype == torch.bool


@pytest.mark.parametrize(("arguments", "message"), [((0, 0), "0 pictures"), ((4, -1), "seed -1 is negative")])
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(*arguments)


@pytest.mark.parametrize("positions", [range(-1, 3), range(0)])
def test_positions_that_are_none_are_refused(positions):
    with pytest.raises(ValueError, match="give at least one, and none below 0"):
        BatchOrder(4, 0).indices(positions)


def test_all_256_levels_survive_the_way_to_the_model_and_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    seen = to_model(levels)
    assert seen.dtype == torch.float32
    assert seen.min() == -1
    assert seen.max() == 1
    assert torch.equal(to_uint8(seen), levels)


def test_flipping_mirrors_left_and_right_in_the_chosen_pictures_only():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    flipped = to_uint8(to_model(images, torch.tensor([False, True])))
    assert torch.equal(flipped[0], images[0])
    assert torch.equal(flipped[1], images[1, :, :, [3, 2, 1, 0]])


def test_pictures_are_rounded_and_clamped():
    levels = torch.tensor([-3.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 0.999, 1.0, 1.5])
    assert to_uint8(levels).tolist() == [0, 0, 0, 1, 255, 255, 255]
