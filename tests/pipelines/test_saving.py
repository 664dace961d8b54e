import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file
from tests.small_models import cli_error, small_network, small_pipeline
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "model")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def test_a_folder_is_safetensors_and_json_and_names_this_package(saved):
    files = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
    code = ["pipeline.py", "scheduler/scalespace.py", "unet/scalespace.py"]
    others = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    assert files == sorted(["README.md", "manifest.json", *code, *others, WEIGHTS])
    assert set(json.loads((saved / "manifest.json").read_text())["files"]) == {*code, *others, WEIGHTS}
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "ScaleSpacePipeline"]
    assert index["unet"] == ["scalespace", "FlexiUNet"]
    assert index["scheduler"] == ["scalespace", "ScaleSpaceScheduler"]


@pytest.mark.parametrize("load", [load_pipeline, ScaleSpacePipeline.from_pretrained, DiffusionPipeline.from_pretrained])
def test_every_way_of_loading_gives_the_pipeline_that_was_saved(saved, load: Callable[[Path], ScaleSpacePipeline]):
    pipeline, original = load(saved), small_pipeline()
    assert type(pipeline) is ScaleSpacePipeline
    assert pipeline.scheduler.process == original.scheduler.process
    weights = original.unet.state_dict()
    assert pipeline.unet.state_dict().keys() == weights.keys()
    for name, value in pipeline.unet.state_dict().items():
        assert_close(value, weights[name], rtol=0, atol=0)
    pipeline.set_progress_bar_config(disable=True)
    drawn = [p(2, torch.Generator().manual_seed(0), 3, output_type="pt").images for p in (pipeline, original)]
    assert_close(drawn[0], drawn[1], rtol=0, atol=0)


NAMES = {0: "cat", 1: "été", 2: "10"}


@pytest.mark.parametrize("load", [load_pipeline, ScaleSpacePipeline.from_pretrained, DiffusionPipeline.from_pretrained])
def test_class_names_are_in_the_index_and_come_back(load: Callable[[Path], ScaleSpacePipeline], tmp_path):
    unnamed = small_pipeline(num_classes=3)
    ScaleSpacePipeline(unnamed.unet, unnamed.scheduler, NAMES).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["id2label"] == {str(k): v for k, v in NAMES.items()}
    for path in (tmp_path, tmp_path / "again"):
        pipeline = load(path)
        assert pipeline.labels == {"cat": 0, "été": 1, "10": 2}
        assert pipeline.config["id2label"] == NAMES
        pipeline.save_pretrained(tmp_path / "again")


def _edit(name: str, **changes) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        content = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(content | changes))

    return edit


def _remove(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(content) and None


def _cut(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:-100]) and None


def _weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    return lambda model: save_file(change(load_file(model / WEIGHTS)), model / WEIGHTS)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "everything gone": (shutil.rmtree, "does not exist"),
    "index missing": (_remove("model_index.json"), "lacks model_index.json"),
    "index garbage": (_write("model_index.json", b'{"_class'), "model_index.json is damaged"),
    "index not text": (_write("model_index.json", b"\xff\xfe\x00"), "model_index.json is damaged"),
    "index no object": (_write("model_index.json", b"[1]"), "model_index.json is damaged (no JSON object)"),
    "index of another pipeline": (_edit("model_index.json", _class_name="DDPMPipeline"), "holds a DDPMPipeline, not"),
    "index of another part": (_edit("model_index.json", unet=["os", "system"]), "names ['os', 'system'] as the unet"),
    "index without a part": (_edit("model_index.json", scheduler=None), "names None as the scheduler"),
    "index with odd class names": (_edit("model_index.json", id2label=[1]), "cannot be loaded"),
    "index with too many class names": (_edit("model_index.json", id2label={"0": "cat"}), "id2label is {0: 'cat'}"),
    "network configuration missing": (_remove("unet/config.json"), "lacks unet/config.json"),
    "network configuration empty": (_write("unet/config.json", b""), "config.json is damaged"),
    "network configuration wrong": (
        _edit("unet/config.json", sizes=None),
        "config.json is damaged (sizes cannot be None)",
    ),
    "network configuration odd": (_edit("unet/config.json", base_channels=7), "base_channels is 7"),
    "scheduler configuration missing": (
        _remove("scheduler/scheduler_config.json"),
        "lacks scheduler/scheduler_config.j",
    ),
    "scheduler configuration cut": (_cut("scheduler/scheduler_config.json"), "scheduler_config.json is damaged"),
    "scheduler of no process": (_edit("scheduler/scheduler_config.json", change_points=[3, 2]), "cannot be loaded"),
    "scheduler of another model": (
        _edit("scheduler/scheduler_config.json", sizes=[[8, 8], [2, 2]]),
        "height and width (2, 2) and the network knows",
    ),
    "weights missing": (_remove(WEIGHTS), f"lacks {WEIGHTS}"),
    "weights empty": (_write(WEIGHTS, b""), "safetensors is damaged"),
    "weights cut short": (_cut(WEIGHTS), "safetensors is damaged"),
    "weights garbage": (_write(WEIGHTS, b"x" * 5000), "safetensors is damaged"),
    "weights incomplete": (
        _weights(lambda w: {k: v for k, v in w.items() if k != "conv_in.bias"}),
        "conv_in.bias has shape None in the file and (8,) in the network",
    ),
    "weights of a wider network": (
        _weights(lambda w: w | {"conv_in.bias": torch.zeros(16)}),
        "conv_in.bias has shape (16,) in the file and (8,) in the network",
    ),
    "weights of a deeper network": (
        _weights(lambda w: w | {"encoder.7.weight": torch.zeros(1)}),
        "encoder.7.weight has shape (1,) in the file and None in the network",
    ),
    "network folder missing": (lambda model: shutil.rmtree(model / "unet"), "lacks unet/config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_missing_and_damaged_files_are_named_in_one_sentence(damage: str, model, tmp_path, capsys):
    harm, words = DAMAGES[damage]
    harm(model)
    output = tmp_path / "pictures"
    assert words in cli_error(capsys, ["sample", str(model), "--output", str(output), "--steps", "2", "--quiet"])
    assert not output.exists()


def _flip(model: Path) -> None:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (model / WEIGHTS).write_bytes(content)


def _zero_tail(model: Path) -> None:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[:-99] + bytes(99))


@pytest.mark.parametrize(
    "harm",
    [_flip, _zero_tail, lambda model: small_network(1).save_pretrained(model / "unet")],
    ids=["flip", "zero", "swap"],
)
def test_weights_that_are_not_those_that_were_saved_are_refused(harm: Callable[[Path], None], model, tmp_path, capsys):
    harm(model)
    for words in (
        ["sample", str(model), "--output", str(tmp_path / "new")],
        ["evaluate", str(model), "synthetic:shapes:9"],
    ):
        error = cli_error(capsys, [*words, "--quiet"])
        assert f"the weights of {model} are not those that were saved ({WEIGHTS} has other contents" in error
        assert f"delete {model / 'manifest.json'} if you have changed them yourself" in error
    (model / "manifest.json").unlink()
    load_pipeline(model)


def test_a_configuration_that_was_edited_is_used_and_said(model, capsys):
    _edit("scheduler/scheduler_config.json", solver="ddim")(model)
    assert load_pipeline(model).scheduler.config["solver"] == "ddim"
    name = model / "scheduler" / "scheduler_config.json"
    assert capsys.readouterr().err == f"{name} has been changed since the model was saved, and is used as it is\n"
    _edit("scheduler/scheduler_config.json", change_points=[3, 2])(model)
    with pytest.raises(UserError, match=r"scheduler_config.json has been changed since it was saved, so restore it"):
        load_pipeline(model)


def test_a_model_that_is_saved_again_or_copied_is_whole(model, tmp_path, capsys):
    pipeline = load_pipeline(model)
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(1)
    pipeline.save_pretrained(model)
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("mine")
    load_pipeline(tmp_path / "copy")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("proven", [True, False])
def test_weights_that_are_not_finite_are_refused(value: float, proven: bool, tmp_path, capsys):
    pipeline, model = small_pipeline(), tmp_path / "model"
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] = value
    pipeline.save_pretrained(model)
    if not proven:
        (model / "manifest.json").unlink()
    for words in (
        ["sample", str(model), "--output", str(tmp_path / "new")],
        ["evaluate", str(model), "synthetic:shapes:9"],
    ):
        assert f"model {model} has weights that are NaN or infinite (conv_in.bias)" in cli_error(
            capsys, [*words, "--quiet"]
        )


def test_a_pointer_of_git_lfs_is_told_from_damage(model):
    (model / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS to the weights; run git lfs pull"):
        load_pipeline(model)


@pytest.mark.parametrize("content", ["", "{}", '{"files": {"a": {"size": 1}}}'])
def test_a_damaged_manifest_is_named(content: str, model):
    (model / "manifest.json").write_text(content)
    with pytest.raises(
        UserError, match=r"manifest.json is damaged .* or delete it to load the model without this proof"
    ):
        load_pipeline(model)


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin", ".pkl", ".pth"])
def test_a_pickle_offered_as_a_model_is_refused_and_never_opened(ending: str, tmp_path, capsys):
    mark, file = tmp_path / "exploded", tmp_path / f"model{ending}"
    file.write_bytes(pickle.dumps(Bomb(mark)))
    assert "is a pickle" in cli_error(capsys, ["sample", str(file), "--output", str(tmp_path / "pictures")])
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # It was armed.
    assert mark.exists()


@pytest.mark.parametrize("weights_too", [False, True])
def test_pickled_weights_inside_a_model_are_never_opened(weights_too: bool, model, tmp_path, capsys):
    mark = tmp_path / "exploded"
    torch.save(Bomb(mark), model / "unet" / "diffusion_pytorch_model.bin")
    if weights_too:
        load_pipeline(model)
    else:
        (model / WEIGHTS).unlink()
        words = cli_error(capsys, ["sample", str(model), "--output", str(tmp_path / "pictures")])
        assert "as a pickle (diffusion_pytorch_model.bin)" in words
    assert not mark.exists()


def test_a_file_and_a_training_run_are_told_from_a_model(model, tmp_path):
    with pytest.raises(UserError, match="is a file; give the model folder"):
        load_pipeline(model / WEIGHTS)
    with pytest.raises(UserError, match=f"folder of a training run; the model in it is {model}"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_whoever_the_umask_lets_can_read_a_model(umask: int, tmp_path):
    before = os.umask(umask)
    try:
        small_pipeline().save_pretrained(tmp_path / "model", max_shard_size="50KB")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
