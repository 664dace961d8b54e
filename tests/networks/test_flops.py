"""What a path costs, against what a real step keeps."""

from itertools import accumulate

import pytest
import torch
from tests.small_models import small_network

from scalespace.networks.flops import call_activations, path_activations


@pytest.mark.parametrize(("size", "target"), [((8, 8), (8, 8)), ((4, 4), (8, 8)), ((4, 4), (4, 4))])
def test_activations_are_what_the_backward_pass_keeps(size, target):
    network = small_network().train()
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.zeros(1, 3, *size), 3, target).sample
    assert output.requires_grad
    assert path_activations(network, size, target) == pytest.approx(sum(kept.values()), rel=0.02)


def test_nothing_is_computed_on_meta_and_larger_paths_keep_more():
    with torch.device("meta"):
        network = small_network()
    small, rising, large = (
        path_activations(network, size, target)
        for size, target in [((4, 4), (4, 4)), ((4, 4), (8, 8)), ((8, 8), (8, 8))]
    )
    assert small < rising < large


def _allocated(network: torch.nn.Module, batch: int) -> int:
    """Most bytes that torch's CPU allocator has given out at once in a call, as its profiler tells."""
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        network(torch.zeros(batch, 3, 8, 8), 3, (8, 8))
    events = profile.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [
        event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()) if event.name() == "[memory]"
    ]
    return max(accumulate(changes))


@pytest.mark.parametrize("options", [{}, {"base_channels": 16}, {"attention_max_size": 8}, {"blocks_per_level": 3}])
def test_a_call_takes_the_memory_that_was_counted(options):
    network = small_network(**options)
    small, large = (_allocated(network, batch) for batch in (8, 24))
    taken = (large - small) / 16
    # Kernels have some room of their own besides.
    assert 0.6 * taken < call_activations(network) <= 1.001 * taken


def test_nothing_is_computed_for_what_a_call_takes():
    network = small_network(sizes=((4096, 4096), (2048, 2048)), base_channels=64)
    before = network.conv_in.weight.clone()
    # A single map of the first level is 4 GB.
    assert call_activations(network) > 16 << 30
    assert torch.equal(network.conv_in.weight, before)
