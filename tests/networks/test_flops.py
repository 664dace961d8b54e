"""What a path costs, against what a real step keeps."""

import pytest
import torch
from tests.small_models import small_network

from scalespace.networks.flops import path_activations


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
