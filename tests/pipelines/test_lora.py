"""Low-rank adapters by peft: they train alone, and are saved, loaded, fused and removed as in diffusers."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.small_models import small_network, small_pipeline
from torch import Tensor, nn
from torch.testing import assert_close

from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pipeline import ScaleSpacePipeline

needs_peft = pytest.mark.skipif(
    find_spec("peft") is None, reason="peft is not installed; it comes with transformers, which nothing else here needs"
)


@pytest.fixture
def adapted() -> FlexiUNet:
    """A network with an adapter that changes something."""
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]

    network = small_network()
    torch.manual_seed(1)
    # The scale alpha / r is 2, so that one that is lost would be seen.
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["qkv", "output"], init_lora_weights=False))
    return network


def _output(network: nn.Module) -> Tensor:
    state = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(state, 3).sample


@needs_peft
def test_only_the_adapter_of_the_attention_is_trained(adapted):
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("attention" in name and ".lora_" in name for name in trained)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    wanted = torch.zeros(2, 3, 8, 8)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = (adapted(torch.ones(2, 3, 8, 8), 3).sample - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().item())
    assert losses[-1] < losses[0]
    changed = [name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])]
    assert set(changed) == set(trained)


@needs_peft
def test_an_adapter_comes_back_from_its_file_in_network_and_pipeline(adapted, tmp_path):
    from peft import get_peft_model_state_dict  # pyright: ignore[reportMissingImports]

    plain, wanted = _output(small_network()), _output(adapted)
    assert (wanted - plain).abs().max() > 1e-2
    adapted.save_lora_adapter(tmp_path / "network")
    network = small_network()
    network.load_lora_adapter(str(tmp_path / "network"), prefix=None, use_safetensors=True)
    assert_close(_output(network), wanted)
    adapter = get_peft_model_state_dict(adapted)
    ScaleSpacePipeline.save_lora_weights(tmp_path / "pipeline", adapter, adapted.peft_config["default"].to_dict())
    assert [path.name for path in Path(tmp_path / "pipeline").iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipeline = small_pipeline()
    pipeline.load_lora_weights(tmp_path / "pipeline", adapter_name="mine")
    assert_close(_output(pipeline.unet), wanted)
    assert pipeline.get_list_adapters() == {"unet": ["mine"]}
    pipeline.set_adapters("mine", 0.0)
    assert_close(_output(pipeline.unet), plain)


@needs_peft
def test_a_fused_adapter_is_part_of_the_weights(adapted, tmp_path):
    plain, wanted = _output(small_network()), _output(adapted)
    adapted.save_lora_adapter(tmp_path / "network")
    pipeline = small_pipeline()
    pipeline.unet.load_lora_adapter(str(tmp_path / "network"), prefix=None, use_safetensors=True)
    pipeline.fuse_lora()
    pipeline.unfuse_lora()
    pipeline.disable_lora()
    assert_close(_output(pipeline.unet), plain)
    pipeline.enable_lora()
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    assert_close(_output(pipeline.unet), wanted)
    # What is saved then needs no peft to be loaded.
    assert pipeline.unet.state_dict().keys() == small_network().state_dict().keys()
    pipeline.save_pretrained(tmp_path / "fused")
    assert_close(_output(ScaleSpacePipeline.from_pretrained(tmp_path / "fused").unet), wanted)


@needs_peft
def test_pickled_adapters_are_refused(adapted, tmp_path):
    adapted.save_lora_adapter(tmp_path / "network", safe_serialization=False)
    with pytest.raises(OSError, match=r"safetensors"):
        small_pipeline().load_lora_weights(tmp_path / "network")


@needs_peft
def test_pefts_own_model_around_the_network_trains_and_merges():
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]

    network = small_network()
    plain = _output(network)
    model = get_peft_model(network, LoraConfig(r=2, target_modules=["qkv", "output"], init_lora_weights=False))  # pyright: ignore
    wanted = _output(model)
    assert (wanted - plain).abs().max() > 1e-2
    assert_close(_output(model.merge_and_unload()), wanted)


def test_a_network_without_adapters_is_one_sentence():
    pipeline = small_pipeline()
    pipeline.unet.__class__ = nn.Module
    with pytest.raises(TypeError, match=r"a Module takes no LoRA; lay one over a FlexiUNet, or use peft by itself"):
        pipeline.load_lora_weights({})


@pytest.mark.skipif(find_spec("peft") is not None, reason="peft is installed")
def test_without_peft_it_is_said():
    with pytest.raises(ImportError, match="LoRA needs peft, which is not installed; run pip install peft"):
        small_pipeline().load_lora_weights({})
