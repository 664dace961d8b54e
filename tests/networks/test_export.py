"""A pair of sizes of the network, exported with any number of pictures, computes what the network does."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_models import small_network
from torch.testing import assert_close

from scalespace.networks.flexi_unet import FlexiUNet

BATCH = torch.export.Dim("batch", min=1, max=64)
DYNAMIC = {
    "sample": {0: BATCH},
    "timestep": {0: BATCH},
    "target_size": [None, None],
    "class_labels": {0: BATCH},
    "return_dict": None,
}


@pytest.fixture
def network() -> FlexiUNet:
    return small_network(num_classes=3, null_class=True)


def _arguments(count: int) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Of a step over the change of resolution, the classes with the null class among them."""
    generator = torch.Generator().manual_seed(count)
    states = torch.randn(count, 3, 4, 4, generator=generator)
    labels = torch.arange(count) % 4
    times = torch.randint(0, 20, (count,), generator=generator)
    return (states, times), {"target_size": [8, 8], "class_labels": labels, "return_dict": False}


def test_an_exported_pair_of_sizes_takes_any_number_of_pictures(network):
    positional, named = _arguments(2)
    program = torch.export.export(network, positional, named, dynamic_shapes=DYNAMIC).module()
    for count in (1, 7):
        positional, named = _arguments(count)
        found, wanted = program(*positional, **named)[0], network(*positional, **named)[0]
        assert wanted.shape == (count, 3, 8, 8)
        assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnxscript") is None,
    reason="onnxruntime and onnxscript are not installed, and nothing else here needs them",
)
def test_onnxruntime_computes_the_same(network, tmp_path: Path):
    from onnxruntime import InferenceSession  # pyright: ignore[reportMissingImports]

    positional, named = _arguments(2)
    with warnings.catch_warnings():
        # torch's exporter warns of names of its own.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, positional, kwargs=named, dynamic_shapes=DYNAMIC, dynamo=True, verbose=False
        )
    assert program is not None
    program.save(tmp_path / "network.onnx")
    session = InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (states, times), named = _arguments(count)
        given = {"sample": states, "timestep": times, "class_labels": named["class_labels"]}
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        with torch.no_grad():
            wanted = network(states, times, **named)[0]
        assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
