"""Saved models as diffusers' own loading takes them, and what of them is kept where."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.small_models import cli_error, small_pipeline, small_scheduler, small_transformer, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline

PLAIN = "diffusion_pytorch_model.safetensors"
HALF = "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def model(tmp_path) -> Path:
    small_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _fresh(code: str, tmp_path: Path) -> list[str]:
    """The lines that a new interpreter prints."""
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()


def _load(name: str, **options: object) -> str:
    words = "".join(f", {option}={value!r}" for option, value in options.items())
    return f"p = DiffusionPipeline.from_pretrained({name!r}{words})\nprint(type(p).__module__, p.unet.dtype)\n"


@pytest.fixture
def models(tmp_path) -> Path:
    """Models in all forms."""
    small_pipeline().save_pretrained(tmp_path / "whole")
    small_pipeline().save_pretrained(tmp_path / "whole", variant="fp16")
    small_pipeline().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    small_pipeline().save_pretrained(tmp_path / "shards", max_shard_size="20KB", variant="fp16")
    ScaleSpacePipeline(small_transformer(), small_scheduler()).save_pretrained(tmp_path / "transformer")
    return tmp_path


FORMS = ("whole", "shards")
LOADED = "scalespace.pipelines.pipeline torch.float32"


def test_diffusers_loads_a_model_in_a_fresh_process_if_it_may_run_code(models: Path):
    refused = "try: DiffusionPipeline.from_pretrained('whole')\nexcept ValueError as error: print(error)\n"
    trusted = [_load(name, trust_remote_code=True, variant=variant) for name in FORMS for variant in (None, "fp16")]
    trusted.append(_load("transformer", trust_remote_code=True))
    told = _fresh(f"from diffusers import DiffusionPipeline\n{refused}{''.join(trusted)}", models)
    assert "Pass `trust_remote_code=True`" in " ".join(told[:-5])
    assert told[-5:] == [LOADED] * 5


def test_diffusers_loads_a_model_after_importing_the_package_alone(models: Path):
    # One that was saved before, with the name alone.
    shutil.copytree(models / "whole", models / "former")
    for name in ("pipeline.py", "unet/scalespace.py", "scheduler/scalespace.py", "manifest.json", "README.md"):
        (models / "former" / name).unlink()
    index = json.loads((models / "former" / "model_index.json").read_text())
    (models / "former" / "model_index.json").write_text(json.dumps(index | {"_class_name": "ScaleSpacePipeline"}))
    load_pipeline(models / "former")
    others = (
        "u = UNet2DModel(8, block_out_channels=(32,), down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))\n"
        "DDPMPipeline(u, DDPMScheduler()).save_pretrained('ddpm')\n"
        "print(type(DiffusionPipeline.from_pretrained('ddpm')).__name__, 'scalespace.pipelines.pipeline' in sys.modules)\n"
    )
    names = "from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel\n"
    package = "import sys, scalespace\nprint('torch' in sys.modules, 'diffusers' in sys.modules)\n"
    own = "".join(_load(name, variant=variant) for name in FORMS for variant in (None, "fp16"))
    own += _load("former") + _load("transformer")
    first, other, *told = _fresh(f"{package}{names}{others}{own}", models)
    assert first == "False False"
    assert other == "DDPMPipeline False"
    assert told == [LOADED] * 6


def test_the_package_may_be_imported_after_diffusers(models: Path):
    assert _fresh(f"from diffusers import DiffusionPipeline\nimport scalespace\n{_load('whole')}", models) == [LOADED]


# Variants and shards


def test_a_variant_lies_beside_the_other_weights_and_each_is_proven(model: Path, capsys):
    half = small_pipeline(seed=1)
    half.unet.half()
    half.save_pretrained(model, variant="fp16")
    files = json.loads((model / "manifest.json").read_text())["files"]
    assert {f"unet/{PLAIN}", f"unet/{HALF}"} <= set(files)
    loaded = load_pipeline(model, variant="fp16", dtype=torch.float16)
    assert loaded.unet.dtype == torch.float16
    assert_close(loaded.unet.conv_in.weight, half.unet.conv_in.weight, rtol=0, atol=0)
    assert_close(load_pipeline(model).unet.conv_in.weight, small_pipeline().unet.conv_in.weight, rtol=0, atol=0)
    with pytest.raises(UserError, match="has no variant bf16; leave --variant out or give --variant fp16"):
        load_pipeline(model, variant="bf16")
    content = bytearray((model / "unet" / HALF).read_bytes())
    content[-1] ^= 1
    (model / "unet" / HALF).write_bytes(content)
    with pytest.raises(UserError, match=f"are not those that were saved .unet/{HALF} has other contents"):
        load_pipeline(model, variant="fp16")
    load_pipeline(model)
    # Saving other weights beside it does not make it what was written.
    small_pipeline().save_pretrained(model)
    with pytest.raises(UserError, match="has other contents"):
        load_pipeline(model, variant="fp16")
    (model / "unet" / PLAIN).unlink()
    with pytest.raises(UserError, match="has no weights but those of variants; give --variant fp16"):
        load_pipeline(model)


def test_sharded_weights_are_loaded_proven_and_replaced(model: Path):
    small_pipeline(seed=2).save_pretrained(model, max_shard_size="20KB")
    names = sorted(path.name for path in (model / "unet").glob("*.safetensors"))
    assert PLAIN not in names
    assert len(names) > 2
    assert_close(load_pipeline(model).unet.state_dict(), small_pipeline(seed=2).unet.state_dict(), rtol=0, atol=0)
    shard = model / "unet" / names[1]
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(UserError, match=f"not those that were saved .unet/{names[1]} has other contents"):
        load_pipeline(model)
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks unet/{names[1]}, one of {len(names)} files of weights"):
        load_pipeline(model)
    shard.write_bytes(kept)
    index = model / "unet" / f"{PLAIN}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.bias"] = "../../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"index.json is damaged .no map of tensors to files beside it"):
        load_pipeline(model)
    small_pipeline().save_pretrained(model)
    assert sorted(path.name for path in (model / "unet").glob("*.safetensors*")) == [PLAIN]
    load_pipeline(model)


def test_code_in_a_model_is_never_run_by_this_package(model: Path, capsys):
    (model / "pipeline.py").write_text("raise SystemExit('it ran')\n")
    load_pipeline(model)
    told = capsys.readouterr().err
    assert told == (
        f"{model / 'pipeline.py'} has been changed since the model was saved; it was not run here, and "
        "trust_remote_code=True would run it\n"
    )


def test_a_setting_of_a_later_version_is_one_sentence(model: Path):
    file = model / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"novelty": 3}))
    with pytest.raises(UserError, match="has the setting novelty, which this version of scalespace does not know"):
        load_pipeline(model)


def test_pickles_are_not_written(model: Path):
    with pytest.raises(UserError, match="weights are saved as safetensors alone"):
        small_pipeline().save_pretrained(model, safe_serialization=False)


def test_the_command_line_takes_variants_and_number_formats(model: Path, tmp_path, capsys):
    half = small_pipeline(seed=1)
    half.unet.half()
    half.save_pretrained(model, variant="fp16")
    words = ["sample", str(model), "--num-images", "2", "--steps", "3", "--quiet", "--output"]
    main([*words, str(tmp_path / "half"), "--variant", "fp16", "--dtype", "bfloat16"])
    main([*words, str(tmp_path / "whole")])
    drawn = [(tmp_path / name / "000000.png").read_bytes() for name in ("half", "whole")]
    assert drawn[0] != drawn[1]
    assert "has no variant x; leave --variant out" in cli_error(capsys, [*words, str(tmp_path / "x"), "--variant", "x"])
    options = "--num-images 4 --steps 3 --metrics swd --variant fp16 --dtype float16 --quiet"
    main(["evaluate", str(model), "synthetic:shapes:4", *options.split()])


# The Hub


def test_a_hub_name_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = cli_error(capsys, ["sample", "nobody/nothing", "--output", "out"])
    assert (
        "there is no folder nobody/nothing here, and the Hugging Face Hub, where it could be a model, cannot be"
        in error
    )
    # A folder of the owner's name is here, so the name is a mistyped folder.
    (tmp_path / "nobody").mkdir()
    assert "model nobody/nothing does not exist" in cli_error(capsys, ["sample", "nobody/nothing", "--output", "out"])


def test_a_model_of_the_hub_that_is_on_this_machine_is_drawn_from(model: Path, tmp_path, monkeypatch, capsys):
    commit, cache = "0" * 40, tmp_path / "cache" / "models--somebody--faces"
    shutil.copytree(model, cache / "snapshots" / commit)
    for name in ("main", "v1"):
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / name).write_text(commit)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = ["sample", "somebody/faces", "--num-images", "1", "--steps", "3", "--quiet", "--output"]
    main([*words, "out", "--revision", "v1"])
    assert (tmp_path / "out" / "000000.png").exists()
    assert_close(load_pipeline("somebody/faces").unet.state_dict(), load_file(model / "unet" / PLAIN), rtol=0, atol=0)


# The card


def test_a_card_is_kept_where_people_have_written_one_and_goes_along(model: Path, tmp_path):
    assert "48,827" in (model / "README.md").read_text()
    (model / "README.md").write_text("mine")
    for load in (load_pipeline, ScaleSpacePipeline.from_pretrained):
        load(model).save_pretrained(model)
        load(model).save_pretrained(tmp_path / load.__name__)
        assert (tmp_path / load.__name__ / "README.md").read_text() == "mine"


def test_the_card_of_a_run_says_what_the_run_knows_and_no_more(tmp_path, capsys):
    main(train_words(tmp_path / "run", "--sample-every", "2", "--sample-images", "1", "--sample-steps", "3"))
    folder = tmp_path / "run" / "model"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    for line in ("| steps | 2 |", "| pictures seen | 8 |", "| batch size | 4 |", "| parameters | 48,827 |"):
        assert line in card
    assert "synthetic:shapes:16, pictures that scalespace draws itself: 16 pictures" in card
    assert "license:" not in card
    assert str(tmp_path) not in card
    grid = tmp_path / "run" / "samples" / "step-00000002.png"
    assert "![samples](grid.png)" in card
    assert (folder / "grid.png").read_bytes() == grid.read_bytes()
    load_pipeline(folder).save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == card
    assert (tmp_path / "copy" / "grid.png").read_bytes() == grid.read_bytes()


@pytest.mark.parametrize("theirs", [False, True])
def test_pushing_uploads_a_folder_that_proves_itself_and_spares_a_card_that_is_there(
    theirs: bool, monkeypatch, tmp_path
):
    pushed: dict[str, Path] = {}

    def upload(repo_id: str, folder_path: Path, **options: object) -> str:
        pushed[repo_id] = shutil.copytree(folder_path, tmp_path / "hub")
        return "address"

    writing = "scalespace.pipelines.folders.writing"
    monkeypatch.setattr(f"{writing}.create_repo", lambda name, **options: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(f"{writing}.file_exists", lambda *names, **options: theirs)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    assert small_pipeline().push_to_hub("faces") == "address"
    folder = pushed["me/faces"]
    load_pipeline(folder)
    assert (folder / "README.md").exists() != theirs
    assert (folder / "manifest.json").exists()
    shutil.rmtree(folder)
    # It is the name of the folder where none is given.
    small_pipeline().save_pretrained(tmp_path / "cats", push_to_hub=True)
    assert (pushed["me/cats"] / "manifest.json").exists()
