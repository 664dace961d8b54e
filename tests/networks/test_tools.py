"""Tools of diffusers, accelerate and torch that reach into a network find it as they expect."""

from typing import Any

import accelerate
import torch
from tests.small_models import SIZES, small_network, small_pipeline
from torch._dynamo.testing import CompileCounter

_STATE, _TIMES = torch.randn(2, 3, 4, 4), torch.tensor([3, 7])


def _predicted(network: Any, state: torch.Tensor = _STATE, times: torch.Tensor = _TIMES) -> torch.Tensor:
    with torch.no_grad():
        return network(state, times, SIZES[0]).sample


def test_weights_may_lie_elsewhere_until_their_layer_runs(tmp_path):
    expected = _predicted(small_network())
    network = accelerate.cpu_offload(small_network(), execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert torch.equal(_predicted(network), expected)
    network = accelerate.disk_offload(small_network(), tmp_path, execution_device=torch.device("cpu"))
    assert torch.equal(_predicted(network), expected)


def test_weights_can_be_kept_in_half_precision_and_cast_layer_by_layer():
    expected = _predicted(small_network())
    network = small_network()
    network.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert network.conv_in.weight.dtype == torch.bfloat16
    found = _predicted(network)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_path_is_exported_for_any_batch():
    network = small_network()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        network,
        (_STATE, _TIMES, SIZES[0]),
        dynamic_shapes=({0: batch}, {0: batch}, (None, None)),
    ).module()
    for count in (1, 2, 5):
        state, times = torch.randn(count, 3, 4, 4), torch.arange(count)
        torch.testing.assert_close(exported(state, times, SIZES[0]).sample, _predicted(network, state, times))


def test_a_compiled_network_is_compiled_once_for_each_pair_of_sizes():
    pipeline = small_pipeline()
    expected = pipeline(2, torch.Generator().manual_seed(0), 12, output_type="pt").images
    counter = CompileCounter()
    pipeline.unet = torch.compile(pipeline.unet, backend=counter)
    found = pipeline(2, torch.Generator().manual_seed(0), 12, output_type="pt").images
    torch.testing.assert_close(found, expected)
    assert counter.frame_count == 3  # 4x4, 4x4 -> 8x8 and 8x8
