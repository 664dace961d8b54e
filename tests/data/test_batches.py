"""The order of the data: once an epoch, the same for any number of processes, and without memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalespace.data.batches import BatchOrder, to_model
from scalespace.pipelines.pictures import to_uint8

sizes = st.integers(1, 23)
seeds = st.integers(0, 2**63)


def stream(order: BatchOrder, steps: int) -> torch.Tensor:
    return torch.cat([order.indices(step) for step in range(steps)])


@given(num_images=sizes, batch_size=sizes, seed=seeds, epochs=st.integers(1, 3))
def test_every_picture_comes_once_an_epoch_without_ragged_batches(num_images, batch_size, seed, epochs):
    order = BatchOrder(num_images, batch_size, seed)
    seen = stream(order, math.ceil(epochs * num_images / batch_size))
    assert len(seen) % batch_size == 0
    for epoch in range(epochs):
        passed = seen[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(passed.tolist()) == list(range(num_images))


@given(num_images=sizes, batch_size=sizes, seed=seeds, world_size=st.integers(1, 4), step=st.integers(0, 1000))
def test_processes_split_the_batch_that_one_process_would_have_seen(num_images, batch_size, seed, world_size, step):
    ranks = [BatchOrder(num_images, batch_size, seed, rank, world_size) for rank in range(world_size)]
    alone = BatchOrder(num_images, batch_size * world_size, seed)
    assert torch.equal(torch.cat([order.indices(step) for order in ranks]), alone.indices(step))
    assert torch.equal(torch.cat([order.flips(step) for order in ranks]), alone.flips(step))


def test_a_resumed_run_sees_what_the_uninterrupted_run_would_have_seen():
    whole = BatchOrder(1000, 48, seed=7)
    before = [(whole.indices(step), whole.flips(step)) for step in range(60)]
    resumed = BatchOrder(1000, 48, seed=7)
    for step in reversed(range(30, 60)):
        assert torch.equal(resumed.indices(step), before[step][0])
        assert torch.equal(resumed.flips(step), before[step][1])


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = stream(BatchOrder(500, 500, seed=0), 2).split(500)
    other = BatchOrder(500, 500, seed=1)
    # A random permutation of 500 agrees with another in about one place.
    for a, b in [(first, second), (first, other.indices(0)), (first, torch.arange(500))]:
        assert (a == b).sum() < 10


def test_half_of_the_pictures_are_flipped_independently_of_their_order():
    order = BatchOrder(100, 100, seed=3)
    flips = torch.stack([order.flips(step) for step in range(400)]).double()
    indices = torch.stack([order.indices(step) for step in range(400)])
    standard_error = 0.5 / math.sqrt(flips.numel())
    assert abs(flips.mean() - 0.5) < 5 * standard_error
    assert abs(flips[indices < 50].mean() - 0.5) < 5 * math.sqrt(2) * standard_error


def test_indices_have_the_promised_types():
    order = BatchOrder(5, 12, seed=0)
    assert order.indices(3).shape == order.flips(3).shape == (12,)
    assert order.indices(3).dtype == torch.int64
    assert order.flips(3).dtype == torch.bool
    assert order.epoch(10) == 24.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 0), "0 pictures"),
        ((4, 0, 0), "a batch of 0"),
        ((4, 4, -1), "seed -1 is negative"),
        ((4, 4, 0, 2, 2), "rank 2 is not one of the 2 processes"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(*arguments)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step -1 is negative"):
        BatchOrder(4, 4, 0).indices(-1)


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
