"""What diffusers' own tests ask of every network, asked of this one. docs/diffusers.md lists them by their names."""

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import AutoModel
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from diffusers.utils import constants
from tests.small_models import SIZES, small_network, small_pipeline
from torch import Tensor
from torch.testing import assert_close

from scalespace.networks.flexi_unet import FlexiUNet

CPU = torch.device("cpu")
PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
STATE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _predicted(network: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.no_grad():
        return network(STATE.to(dtype), torch.tensor([3, 7]), SIZES[0]).sample


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return _predicted(small_network())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    small_pipeline().save_pretrained(folder)
    return folder


def test_state_and_time_come_first_and_alone_are_needed():
    parameters = list(inspect.signature(FlexiUNet.forward).parameters.values())[1:]
    assert [parameter.name for parameter in parameters[:2]] == ["sample", "timestep"]
    assert all(parameter.default is not parameter.empty for parameter in parameters[2:])


def test_a_prediction_is_the_same_every_time(expected: Tensor):
    network = small_network()
    assert torch.equal(_predicted(network), expected)
    assert torch.equal(_predicted(network), expected)


# Saving and loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_network_comes_back_in_the_number_format_that_is_asked_for(dtype: torch.dtype, tmp_path):
    network: Any = small_network().to(dtype)
    network.save_pretrained(tmp_path)
    for little_memory in (True, False):
        loaded: Any = FlexiUNet.from_pretrained(tmp_path, dtype=dtype, low_cpu_mem_usage=little_memory)
        assert {parameter.dtype for parameter in loaded.parameters()} == {loaded.dtype} == {dtype}
        assert torch.equal(_predicted(loaded, dtype), _predicted(network, dtype))


def test_a_variant_is_found_by_its_name_alone(tmp_path, expected: Tensor):
    small_network().save_pretrained(tmp_path, variant="fp16")
    assert torch.equal(_predicted(FlexiUNet.from_pretrained(tmp_path, variant="fp16")), expected)
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model"):
        FlexiUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("parallel", [False, True])
def test_shards_are_named_in_order_and_make_the_network_again(
    variant: str | None, parallel: bool, tmp_path, monkeypatch, expected: Tensor
):
    small_network().save_pretrained(tmp_path, max_shard_size="60KB", variant=variant)
    name = PLAIN if variant is None else HALF
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    stem, count = name.removesuffix(".safetensors"), len(shards)
    assert shards == [f"{stem}-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]
    assert count > 2
    (index,) = tmp_path.glob("*.index*.json")
    assert set(json.loads(index.read_text())["weight_map"].values()) == set(shards)
    monkeypatch.setattr(constants, "HF_ENABLE_PARALLEL_LOADING", parallel)
    assert torch.equal(_predicted(FlexiUNet.from_pretrained(tmp_path, variant=variant)), expected)


def test_a_compiled_network_is_saved_as_the_network(tmp_path, expected: Tensor):
    compiled: Any = torch.compile(small_network(), backend="eager")
    compiled.save_pretrained(tmp_path)
    loaded = FlexiUNet.from_pretrained(tmp_path)
    assert type(loaded) is FlexiUNet
    assert torch.equal(_predicted(loaded), expected)


def test_diffusers_finds_the_class_of_a_network_in_a_saved_pipeline(saved: Path, expected: Tensor):
    network = AutoModel.from_pretrained(str(saved), subfolder="unet")
    assert type(network) is FlexiUNet
    assert torch.equal(_predicted(network), expected)


def test_weights_of_other_channels_are_refused(saved: Path):
    with pytest.raises((ValueError, RuntimeError), match=r"conv_in\.weight|Cannot load"):
        FlexiUNet.from_pretrained(saved / "unet", in_channels=9)


# Places


def test_a_map_of_devices_is_one_device_or_a_name_of_each_part(saved: Path, expected: Tensor):
    for places in ("cpu", CPU, {"": "cpu"}, {"": CPU}, "auto"):
        network: Any = FlexiUNet.from_pretrained(saved / "unet", device_map=places)
        assert network.device == CPU
        assert torch.equal(_predicted(network), expected)
    for places, sentence in ((-1, "You can't pass device_map as a negative int"), ("foo", "needs to be a device name")):
        with pytest.raises(ValueError, match=sentence):
            FlexiUNet.from_pretrained(saved / "unet", device_map=places)


@pytest.mark.parametrize("shards", [False, True])
def test_what_does_not_fit_lies_on_the_disk_and_blocks_stay_whole(shards: bool, tmp_path, expected: Tensor):
    network = small_network()
    network.save_pretrained(tmp_path / "unet", max_shard_size="60KB" if shards else "10GB")
    room = {"cpu": network.get_memory_footprint() // 2}
    loaded: Any = FlexiUNet.from_pretrained(
        tmp_path / "unet", device_map="auto", max_memory=room, offload_folder=tmp_path / "disk"
    )
    assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
    placed = {name: parameter.device.type for name, parameter in loaded.named_parameters()}
    for part, place in loaded.hf_device_map.items():
        kinds = {kind for name, kind in placed.items() if name == part or name.startswith(f"{part}.")}
        assert kinds <= {"cpu" if place == "cpu" else "meta"}
    blocks = {name for name, module in loaded.named_modules() if type(module).__name__ in FlexiUNet._no_split_modules}
    assert len(blocks) > 5
    assert not any(part.startswith(f"{block}.") for part in loaded.hf_device_map for block in blocks)
    assert torch.equal(_predicted(loaded), expected)


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize(
    "kind", [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]
)
def test_layers_may_be_brought_in_in_groups(kind: dict, disk: bool, tmp_path, expected: Tensor):
    network: Any = small_network()
    network.enable_group_offload(CPU, **kind, **({"offload_to_disk_path": str(tmp_path)} if disk else {}))
    assert any(tmp_path.glob("*.safetensors")) == disk
    assert torch.equal(_predicted(network), expected)
    network = small_network()
    network.enable_group_offload(CPU, **kind)
    network.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert (_predicted(network) - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("storage", "compute"),
    [
        (torch.float16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float8_e5m2, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16),
    ],
)
def test_weights_kept_in_few_bits_take_less_memory_predict_and_train(
    storage: torch.dtype, compute: torch.dtype, expected: Tensor
):
    network: Any = small_network().to(compute)
    whole = network.get_memory_footprint()
    network.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
    assert network.get_memory_footprint() < 0.8 * whole
    assert network.encoder[1].blocks[0].residual.conv_out.weight.dtype == storage
    found = _predicted(network, compute).float()
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
    if compute == torch.float32:
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = network(STATE, 3, SIZES[0]).sample
        torch.nn.functional.mse_loss(prediction.float(), NOISE).backward()
        assert network.encoder[1].blocks[0].residual.conv_out.weight.grad.any()


# Training


def test_an_average_follows_the_weights_of_a_training_step():
    network = small_network().train()
    average = EMAModel(network.parameters(), decay=0.5, min_decay=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    seen = []
    for _ in range(2):
        torch.nn.functional.mse_loss(network(STATE, 3, SIZES[0]).sample, NOISE).backward()
        optimizer.step()
        average.step(network.parameters())
        seen.append([parameter.detach().clone() for parameter in network.parameters()])
    # Of the first step it takes the weights as they are.
    assert not torch.equal(seen[0][0], seen[1][0])
    for first, second, averaged in zip(*seen, average.shadow_params, strict=True):
        assert_close(averaged, (first + second) / 2)


def test_a_network_trains_in_mixed_precision():
    network = small_network().train()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = network(STATE, 3, SIZES[0]).sample
        torch.nn.functional.mse_loss(prediction.float(), NOISE).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert network.conv_in.weight.grad.any()


def test_gradient_checkpointing_is_off_until_it_is_asked_for():
    network = small_network()
    assert not network.is_gradient_checkpointing
    network.enable_gradient_checkpointing()
    assert network.is_gradient_checkpointing
    applied = {
        type(module).__name__ for module in network.modules() if getattr(module, "gradient_checkpointing", False)
    }
    assert applied == {"Stage"}
    network.disable_gradient_checkpointing()
    assert not network.is_gradient_checkpointing


# Attention


def test_processors_are_exchanged_one_for_each_layer_or_not_at_all(expected: Tensor):
    network = small_network()
    processors = network.attn_processors
    network.set_attn_processor({name: copy.copy(processor) for name, processor in processors.items()})
    assert torch.equal(_predicted(network), expected)
    assert network.attn_processors.keys() == processors.keys()
    with pytest.raises(ValueError, match="number of processors"):
        network.set_attn_processor({next(iter(processors)): AttnProcessor()})


def test_queries_keys_and_values_may_be_computed_together(expected: Tensor):
    network: Any = small_network()
    network.fuse_qkv_projections()
    assert torch.equal(_predicted(network), expected)
    network.unfuse_qkv_projections()
    assert torch.equal(_predicted(network), expected)


def test_a_backend_of_the_network_is_that_of_the_program_around_it(expected: Tensor):
    network: Any = small_network()
    for backend in ("native", "_native_math"):
        with attention_backend(backend):
            around = _predicted(network)
        with attention_backend("native"):  # takes back what the network's own method sets for the whole program
            network.set_attention_backend(backend)
            own = _predicted(network)
            network.reset_attention_backend()
        assert torch.equal(own, around)
        assert_close(around, expected, rtol=1e-4, atol=1e-5)
