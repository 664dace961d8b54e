"""What diffusers' own tests ask of every pipeline, asked of this one. docs/diffusers.md lists them by their names."""

import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import ModelCard
from tests.small_models import small_network, small_pipeline, small_scheduler
from torch import Tensor
from torch.testing import assert_close

from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

CPU = torch.device("cpu")


def _draw(pipeline: ScaleSpacePipeline, **options: Any) -> Tensor:
    # Three steps, of which the second one crosses the change.
    given = {"batch_size": 2, "timesteps": [14, 10, 2], "output_type": "pt"}
    return pipeline(generator=torch.Generator().manual_seed(0), **(given | options)).images


def _guided() -> ScaleSpacePipeline:
    network = small_network(num_classes=3, null_class=True)
    torch.nn.init.normal_(network.class_embedding_null.weight, generator=torch.Generator().manual_seed(4))
    pipeline = ScaleSpacePipeline(network, small_scheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    return _draw(small_pipeline())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


def _loaded(saved: Path, **options: Any) -> ScaleSpacePipeline:
    pipeline = ScaleSpacePipeline.from_pretrained(saved, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_call_has_the_arguments_of_unconditional_pipelines_and_needs_none():
    parameters = dict(inspect.signature(ScaleSpacePipeline.__call__).parameters)
    del parameters["self"]
    assert {"batch_size", "num_inference_steps", "generator", "latents", "output_type", "return_dict"} <= set(
        parameters
    )
    assert all(parameter.default is not parameter.empty for parameter in parameters.values())


def test_a_tuple_holds_what_the_object_does(drawn: Tensor):
    (images,) = small_pipeline()(
        2, torch.Generator().manual_seed(0), timesteps=[14, 10, 2], output_type="pt", return_dict=False
    )
    assert_close(images, drawn, rtol=0, atol=0)


def test_a_batch_of_generators_draws_as_many_pictures():
    for count in (1, 3):
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        assert len(small_pipeline()(generator=generators, batch_size=count, num_inference_steps=3).images) == count


def test_components_are_the_parts_that_were_given():
    parts = {"unet": small_network(), "scheduler": small_scheduler()}
    pipeline = ScaleSpacePipeline(**parts)
    assert pipeline.components == parts
    assert ScaleSpacePipeline._optional_components == []
    assert_close(_draw(ScaleSpacePipeline(**pipeline.components)), _draw(small_pipeline()), rtol=0, atol=0)


def test_a_pipeline_made_of_another_draws_the_same_and_leaves_it_as_it_was(drawn: Tensor):
    first = small_pipeline()
    second = ScaleSpacePipeline.from_pipe(first)
    second.set_progress_bar_config(disable=True)
    assert second.config == first.config
    assert second.unet is first.unet
    accelerate.cpu_offload(second.unet, CPU)
    assert_close(_draw(second), drawn, rtol=0, atol=0)
    accelerate.hooks.remove_hook_from_submodules(second.unet)
    assert_close(_draw(first), drawn, rtol=0, atol=0)


# Number formats and places


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_nearly_the_same_and_survives_saving(dtype: torch.dtype, drawn: Tensor, tmp_path):
    pipeline = small_pipeline()
    pipeline.to(dtype=dtype)
    assert pipeline.dtype == pipeline.unet.dtype == dtype
    half = _draw(pipeline)
    assert half.dtype == torch.float32
    centred = [images.flatten() - 0.5 for images in (half, drawn)]
    assert torch.cosine_similarity(*centred, dim=0) > 0.99
    pipeline.save_pretrained(tmp_path / "half")
    loaded = _loaded(tmp_path / "half", dtype=dtype)
    assert loaded.unet.dtype == dtype
    assert_close(_draw(loaded), half, rtol=0, atol=0)


def test_every_part_can_be_given_a_number_format_of_its_own(saved: Path):
    assert _loaded(saved, dtype={"unet": torch.bfloat16, "default": torch.float16}).unet.dtype == torch.bfloat16
    assert _loaded(saved, dtype={"default": torch.float16}).unet.dtype == torch.float16


def test_a_pipeline_moves_with_its_network(drawn: Tensor):
    pipeline = small_pipeline().to("cpu")
    assert pipeline.device == pipeline.unet.device == CPU
    assert_close(_draw(pipeline), drawn, rtol=0, atol=0)
    pipeline.to("meta")
    assert pipeline.device.type == pipeline.unet.device.type == "meta"


def test_a_map_of_devices_places_the_parts(saved: Path, drawn: Tensor):
    pipeline = _loaded(saved, device_map="cpu")
    assert pipeline.hf_device_map
    assert_close(_draw(pipeline), drawn, rtol=0, atol=0)


def test_sliced_attention_draws_the_same(drawn: Tensor):
    pipeline = small_pipeline()
    for size in (1, 2, "auto"):
        pipeline.enable_attention_slicing(size)
        assert_close(_draw(pipeline), drawn, rtol=0, atol=1e-5)


# Where weights lie while they are not used


def test_the_network_may_be_brought_in_as_a_whole_once_and_again(drawn: Tensor):
    pipeline = small_pipeline()
    for _ in range(2):
        pipeline.enable_model_cpu_offload(device="cpu")
        assert isinstance(pipeline.unet._hf_hook, accelerate.hooks.CpuOffload)
        assert pipeline._execution_device.type == "cpu"
        assert_close(_draw(pipeline), drawn, rtol=0, atol=0)
        assert pipeline.unet.device == CPU


def test_the_network_may_be_brought_in_layer_by_layer_once_and_again(drawn: Tensor):
    # What enable_sequential_cpu_offload calls; by itself it says cpu:0, where accelerate fails for any network.
    pipeline = small_pipeline()
    for _ in range(2):
        accelerate.cpu_offload(pipeline.unet, CPU)
        assert pipeline.unet.device.type == "meta"
        assert pipeline._execution_device == CPU
        assert_close(_draw(pipeline), drawn, rtol=0, atol=0)
        assert pipeline.unet.device.type == "meta"
        accelerate.hooks.remove_hook_from_submodules(pipeline.unet)


@pytest.mark.parametrize(
    "kind", [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]
)
def test_layers_may_be_brought_in_in_groups(kind: dict, drawn: Tensor):
    part, whole, apart = small_pipeline(), small_pipeline(), small_pipeline()
    part.unet.enable_group_offload(CPU, **kind)
    assert any(hasattr(module, "_diffusers_hook") for module in part.unet.modules())
    whole.enable_group_offload(onload_device=CPU, offload_device=CPU, **kind)
    apart.enable_group_offload(onload_device=CPU, offload_device=CPU, exclude_modules="unet", **kind)
    assert not any(hasattr(module, "_diffusers_hook") for module in apart.unet.modules())
    for pipeline in (part, whole, apart):
        assert_close(_draw(pipeline), drawn, rtol=0, atol=0)


def test_weights_may_be_kept_in_eight_bits(drawn: Tensor):
    pipeline = small_pipeline()
    pipeline.to(dtype=torch.bfloat16)
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert torch.float8_e4m3fn in {parameter.dtype for parameter in pipeline.unet.parameters()}
    images = _draw(pipeline)
    assert images.isfinite().all()
    assert (images - drawn).abs().max() > 1e-4


# Callbacks


def test_a_callback_is_given_what_it_names_and_all_that_can_be_named():
    seen: list[list[str]] = []

    def look(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(list(tensors))
        return tensors

    pipeline = small_pipeline()
    allowed = list(pipeline._callback_tensor_inputs)
    for names in (["latents"], allowed):
        _draw(pipeline, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names)
        assert seen == [names] * pipeline.num_timesteps
        seen.clear()
    assert "latents" in allowed


def test_what_a_callback_makes_of_the_last_state_is_what_is_returned():
    def erase(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    latents = _draw(small_pipeline(), callback_on_step_end=erase, output_type="latent")
    assert latents.shape == (2, 3, 8, 8)
    assert not latents.any()


def test_a_callback_changes_the_guidance_of_the_steps_that_follow():
    def stronger(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
        pipe._guidance_scale += 1.0

    pipeline, labels = _guided(), {"class_labels": [1, 2], "output_type": "latent"}
    steady = _draw(pipeline, guidance_scale=2.0, **labels)
    assert pipeline.guidance_scale == 2.0
    rising = _draw(pipeline, guidance_scale=2.0, callback_on_step_end=stronger, **labels)
    assert pipeline.guidance_scale == 2.0 + pipeline.num_timesteps
    assert rising.shape == steady.shape
    assert (rising - steady).abs().max() > 1e-3
    assert_close(_draw(pipeline, guidance_scale=2.0, **labels), steady, rtol=0, atol=0)


def test_a_callback_ends_the_guidance_and_begins_it_where_it_can_be():
    def to(scale: float) -> Any:
        def change(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
            pipe._guidance_scale = scale

        return change

    pipeline, labels = _guided(), {"class_labels": [1, 2], "output_type": "latent"}
    plain, guided = _draw(pipeline, **labels), _draw(pipeline, guidance_scale=3.0, **labels)
    ended = _draw(pipeline, guidance_scale=3.0, callback_on_step_end=to(1.0), **labels)
    begun = _draw(pipeline, callback_on_step_end=to(3.0), **labels)
    for one in (ended, begun):
        assert min((one - other).abs().max() for other in (plain, guided)) > 1e-4
    with pytest.raises(ValueError, match="guidance_scale was given to a model without classes"):
        _draw(small_pipeline(), callback_on_step_end=to(2.0))


# Variants


def test_a_variant_that_is_not_there_is_told_by_diffusers_too(saved: Path):
    with pytest.raises(ValueError, match="You are trying to load the model files of the `variant=fp16`"):
        DiffusionPipeline.from_pretrained(saved, variant="fp16")


def test_pictures_arrays_and_tensors_are_the_same_pictures(drawn: Tensor):
    arrays = _draw(small_pipeline(), output_type="np")
    pictures: Any = _draw(small_pipeline(), output_type="pil")
    assert_close(torch.from_numpy(arrays).permute(0, 3, 1, 2), drawn, rtol=0, atol=0)
    assert np.abs(np.stack([np.asarray(picture) for picture in pictures]) - 255 * arrays).max() < 1


def test_a_scheduler_of_another_solver_takes_the_place_and_draws_pictures_of_the_same_shape():
    pipeline = small_pipeline()
    for solver in ("ancestral", "ddim", "multistep", "corrected"):
        pipeline.scheduler = ScaleSpaceScheduler.from_config(pipeline.scheduler.config, solver=solver)
        assert _draw(pipeline).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("make", [small_scheduler, small_network])
def test_a_part_alone_is_pushed_as_a_folder_that_makes_it_again(make: Any, monkeypatch, tmp_path):
    def upload(repo_id: str, folder_path: str, **options: Any) -> Path:
        return shutil.copytree(folder_path, tmp_path / repo_id)

    hub = "diffusers.utils.hub_utils"
    monkeypatch.setattr(f"{hub}.create_repo", lambda name, **options: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(f"{hub}.load_or_create_model_card", lambda *names, **options: ModelCard("---\n---\n"))
    monkeypatch.setattr(f"{hub}.populate_model_card", lambda card: card)
    monkeypatch.setattr(f"{hub}.upload_folder", upload)
    part = make()
    for name in ("part", "people/part"):
        pushed = part.push_to_hub(name)
        assert pushed == tmp_path / name
        loaded = type(part).from_pretrained(pushed)
        assert {k: v for k, v in part.config.items() if k[0] != "_"} == {
            k: v for k, v in loaded.config.items() if k[0] != "_"
        }
