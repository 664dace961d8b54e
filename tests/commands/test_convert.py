import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden_vectors import GoldenCase, golden_case
from tests.small_models import cli_error, small_pipeline
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.commands.convert import _named
from scalespace.errors import UserError
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines import scheduler
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.released import export_released_state
from scalespace.pipelines.released_files import load_released, read_released, save_released
from scalespace.pipelines.saving import load_pipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.build import build_scheduler
from scalespace.training.configuration import PRESETS, ModelConfig, ProcessConfig

NAME = "ssd_64res_celeba_2levels_ema_0.9999_1000000.pt"


def _state(**changes: Any) -> dict[str, torch.Tensor]:
    """A released state of 64x64 pixels, smaller than any real one."""
    torch.manual_seed(0)
    options = {"base_channels": 4, "blocks_per_level": 1, "released_quirks": True, "sizes": ((64, 64), (32, 32))}
    return export_released_state(FlexiUNet(**(options | changes)))


def _file(folder: Path, content: Any, name: str = NAME, **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def _check_golden(case: GoldenCase, pipeline: ScaleSpacePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recorded step of the released code is the pipeline's."""
    pipeline.set_progress_bar_config(disable=True)
    reached: dict[str, torch.Tensor] = {}

    def stop(drawn: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        reached.update(tensors)
        drawn._interrupt = True

    for t in case.timesteps:
        noise = case.posterior_noise(t)
        monkeypatch.setattr(scheduler, "randn_tensor", lambda *_, noise=noise, **__: noise)
        pipeline(
            latents=case.array(t, "x_t"),
            timesteps=case.timestep_map[t::-1],
            output_type="latent",
            callback_on_step_end=stop,
        )
        expected = case.array(t, "net").clamp(-1, 1)
        assert_close(reached["pred_original_sample"], expected, rtol=0, atol=1e-4)
        state = case.array(t, "mean") + case.array(t, "noise") if t else case.array(0, "x_t")
        assert_close(reached["latents"], state, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("golden", "name", "words", "wrapped"),
    [
        ("celeba64_2L", NAME, [], False),
        ("celeba64_4L", "ssd_64res_celeba_4levels_ema_0.9999_1000000.pt", [], True),
        ("respaced50_64_4L", "ema.pt", ["--preset", "celeba64-4l"], True),
    ],
)
def test_a_converted_model_takes_the_recorded_steps_and_goes_back_exactly(
    golden, name, words, wrapped, tmp_path, monkeypatch, capsys
):
    case = golden_case(golden)
    state = case.parameters()
    path = _file(tmp_path, {"model": state, "step": 1_000_000} if wrapped else state, name)
    main(["convert", str(path), str(tmp_path / "model"), *words])
    told = capsys.readouterr().out
    assert "preset      celeba64-" in told
    assert ("step        1,000,000" in told) is wrapped
    # The golden networks are a quarter as wide as the released ones.
    assert "the weights have base_channels 32 where" in told
    pipeline = load_pipeline(tmp_path / "model")
    assert pipeline.unet.released_quirks
    assert pipeline.scheduler.config["released_quirks"]
    assert pipeline.scheduler.sizes == case.sizes
    _check_golden(case, pipeline, monkeypatch)

    main(["convert", str(tmp_path / "model"), str(tmp_path / "back.pt"), "--to", "released", "--json"])
    assert json.loads(capsys.readouterr().out)["num_levels"] == len(case.resolutions)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    if wrapped:
        assert list(back) == ["model", "step"]
        assert back["step"] == 1_000_000
        back = back["model"]
    assert list(back) == list(state)
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in state.items())


def test_a_process_of_ones_own_is_given_in_python(tmp_path, monkeypatch):
    case = golden_case("small32_3L")
    process = ProcessConfig(image_size=(32, 32), levels=3, shifted=False)
    model = ModelConfig(process, solver="ancestral", spacing="linspace", released_quirks=True)
    pipeline = load_released(read_released(_file(tmp_path, case.parameters())), build_scheduler(model))
    _check_golden(case, pipeline, monkeypatch)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("ssd_64res_celeba_2levels_ema_0.9999_1000000.pt", "celeba64-2l"),
        ("ssd_64res_celeba_4levels_ema_0.9999_1000000.pt", "celeba64-4l"),
        ("ssd_128res_celeba_3levels_ema_0.9999_300000.pt", "celeba128-3l"),
        ("ssd_128res_celeba_5levels_ema_0.9999_300000.pt", "celeba128-5l"),
        ("ssd_256res_celeba_3levels_ema_0.9999_300000.pt", "celeba256-3l"),
        ("ssd_256res_celeba_6levels_ema_0.9999_300000.pt", "celeba256-6l"),
        ("ssd_64res_imagenet_2levels_ema_0.9999_1000000.pt", "imagenet64-2l"),
    ],
)
def test_the_names_of_the_seven_released_files_tell_their_presets(name, preset):
    assert _named(Path("ssd_32res_of_9levels", name)) == preset
    # The layout of its network is one that is read off names and shapes, whatever its width.
    model = PRESETS[preset].network
    sizes = build_scheduler(PRESETS[preset]).sizes
    state = _state(sizes=sizes, channel_multipliers=model.channel_multipliers, num_classes=model.num_classes)
    assert f"adapters_out.{sizes[0][0] >> (len(model.channel_multipliers) - 1)}.weight" in state


@pytest.mark.parametrize("name", ["ema_0.9999_300000.pt", "ssd_64res_celeba_3levels.pt", "ssd_64res_cats_2levels.pt"])
def test_a_name_that_tells_no_preset_is_asked_for_one(name, tmp_path, capsys):
    error = cli_error(capsys, ["convert", str(_file(tmp_path, _state(), name)), str(tmp_path / "model")])
    assert f'the name "{name}" tells no preset' in error
    assert "name the one that it was trained as by --preset" in error


def test_where_name_preset_and_weights_disagree_it_is_said(tmp_path, capsys):
    output = str(tmp_path / "model")
    path = str(_file(tmp_path, _state(), "ssd_128res_celeba_3levels.pt"))
    error = cli_error(capsys, ["convert", path, output])
    assert f"the name of {path} tells celeba128-3l, which has 128x128 pixels, and the weights are of 64x64" in error
    error = cli_error(capsys, ["convert", path, output, "--preset", "celeba256-3l"])
    assert "--preset is celeba256-3l, which has 256x256 pixels, and the weights are of 64x64" in error
    assert not Path(output).exists()
    path = str(_file(tmp_path, _state(num_classes=7)))
    main(["convert", path, output, "--preset", "celeba64-4l"])
    told = capsys.readouterr().out
    assert "note        the name of the file tells celeba64-2l, and --preset celeba64-4l was taken" in told
    assert "note        the weights have num_classes 7 where celeba64-4l has None, and the model has theirs" in told
    assert load_pipeline(output).unet.num_classes == 7


def test_presets_that_the_released_code_cannot_train_are_refused(tmp_path, capsys):
    words = ["convert", str(_file(tmp_path, _state())), str(tmp_path / "model"), "--preset"]
    assert "preset tiny is none that the released code trains; give one of celeba64-1l, " in cli_error(
        capsys, [*words, "tiny"]
    )
    assert 'there is no preset "celeba64"; did you mean' in cli_error(capsys, [*words, "celeba64"])


def test_every_missing_and_every_extra_name_is_told(tmp_path, capsys):
    state = _state()
    missing = [name for name in state if name.startswith("output_blocks.5")]
    extra = [f"ema.{number}" for number in range(9)]
    others = {name: value for name, value in state.items() if name not in missing}
    others["out.2.bias"] = torch.zeros(4)
    path = _file(tmp_path, {**others, **dict.fromkeys(extra, torch.zeros(1))})
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(path), str(tmp_path / "model")])
    assert stop.value.code == 2
    *lines, error = capsys.readouterr().err.splitlines()
    assert lines[: len(missing)] == [f"missing     {name}" for name in missing]
    assert lines[len(missing) : -1] == [f"extra       {name}" for name in extra]
    assert lines[-1].startswith("other shape out.2.bias has shape (4,)")
    assert error.startswith(f"scalespace: error: {path}: the state dictionary lacks {', '.join(missing[:3])} and ")
    assert f"has {', '.join(extra[:3])} and 6 more, for which the network has no place" in error
    assert not (tmp_path / "model").exists()


class Canary:
    """Makes a folder when it is unpickled, which is all that it does."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def _pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def _legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, _pickled, _legacy])
@pytest.mark.parametrize("place", ["whole", "parameter", "step"])
def test_a_pickle_with_code_in_it_is_refused_and_never_runs(write: Callable[..., None], place, tmp_path, capsys):
    mark = tmp_path / "canary"
    content = {
        "whole": Canary(mark),
        "parameter": {**_state(), "out.2.bias": Canary(mark)},
        "step": {"model": _state(), "step": Canary(mark)},
    }[place]
    write(content, tmp_path / NAME)
    error = cli_error(capsys, ["convert", str(tmp_path / NAME), str(tmp_path / "model")])
    assert "is no file of tensors alone, but damaged or a pickle that names code" in error
    assert "nothing of it was run" in error
    assert "weights_only" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    # It does make the folder where it is let.
    pickle.loads(pickle.dumps(Canary(mark)))
    assert mark.exists()


def test_files_of_before_and_in_half_precision_are_read(tmp_path, capsys):
    state = _state()
    released = read_released(_file(tmp_path, state, _use_new_zipfile_serialization=False))
    assert all(torch.equal(released.state[name], value) for name, value in state.items())
    half = {name: value.half() for name, value in state.items()}
    main(["convert", str(_file(tmp_path, half)), str(tmp_path / "model")])
    assert "note        weights in float16 were made float32" in capsys.readouterr().out
    unet = load_pipeline(tmp_path / "model").unet
    assert torch.equal(unet.state_dict()["head.2.bias"], half["out.2.bias"].float())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list and no parameters by their names"),
        ({}, "holds no parameters by their names"),
        ({"model": 3, "step": 4}, "holds no parameters by their names"),
        ({"model": {"a": torch.zeros(1)}, "opt": 1, "x": 2}, "holds opt, x beside a model and its step"),
        ({"model": {"a": torch.zeros(1)}, "step": -1}, "has -1 as its number of steps"),
        ({"model": {"a": torch.zeros(1)}, "step": "9"}, "has '9' as its number of steps"),
        ({"a": 3}, "holds 'a', which is no parameter"),
        ({3: torch.zeros(1)}, "holds 3, which is no parameter"),
        ({"a": torch.zeros(1, dtype=torch.int64)}, "only floating tensors are weights"),
        ({"a": torch.zeros(2).to_sparse()}, "only floating tensors are weights"),
        ({"a": torch.tensor(torch.nan)}, "has weights that are NaN or infinite (a)"),
        ({"a": torch.zeros(1)}, "has no time_embed.0.weight, so it is not of the released layout"),
        ({"time_embed.0.weight": torch.zeros(0)}, "has shape (0,) in the state dictionary, which no released one"),
        (
            {name: value for name, value in _state().items() if not name.startswith(("output", "adapt"))},
            "lacks output_blocks.0.0.in_layers.0.weight",
        ),
        ({**_state(), "input_blocks.1.0.in_layers.2.weight": torch.zeros(2, 4, 3, 3)}, "no network fits the weights"),
    ],
)
def test_files_that_are_no_released_ones_are_one_sentence(content, sentence, tmp_path, capsys):
    path = _file(tmp_path, content)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(path), str(tmp_path / "model")])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("scalespace: error: ")
    assert sentence in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file"),
        (b"", "is damaged, or no file that the released code wrote"),
        (b"mine", "is no file of tensors alone, but damaged"),
        ("cut", "is damaged, or no file that the released code wrote"),
        ("folder", "is no file but a folder"),
    ],
)
def test_files_that_are_damaged_are_one_sentence(content, sentence, tmp_path, capsys):
    path = tmp_path / NAME
    if content == "cut":
        path.write_bytes(_file(tmp_path, _state()).read_bytes()[:-1000])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert sentence in cli_error(capsys, ["convert", str(path), str(tmp_path / "model")])


def test_nothing_is_overwritten(tmp_path, capsys):
    path = _file(tmp_path, _state())
    (tmp_path / "model").mkdir()
    assert "model is there already" in cli_error(capsys, ["convert", str(path), str(tmp_path / "model")])
    small_pipeline().save_pretrained(tmp_path / "other")
    before = path.read_bytes()
    words = ["convert", str(tmp_path / "other"), str(path), "--to", "released"]
    assert "is there already" in cli_error(capsys, words)
    assert path.read_bytes() == before


def test_manifest_and_card_tell_where_the_model_is_from(tmp_path, capsys):
    path = _file(tmp_path, {"model": _state(), "step": 12345})
    main(["convert", str(path), str(tmp_path / "model"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["preset"], told["step"]) == ("celeba64-2l", 12345)
    facts = json.loads((tmp_path / "model" / "manifest.json").read_text())["released"]
    assert facts == {"file": NAME, "sha256": read_released(path).sha256, "step": 12345, "wrapped": True}
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Converted from `{NAME}` (SHA-256 `{facts['sha256']}`)" in card
    assert "| steps | 12,345 |" in card


SIZES = ((16, 16), (8, 8))


def _pipeline(network: dict[str, Any], process: dict[str, Any]) -> ScaleSpacePipeline:
    shape = {"base_channels": 32, "channel_multipliers": (1, 2), "blocks_per_level": 1, "released_quirks": True}
    unet = FlexiUNet(**{"sizes": SIZES, "min_channels_per_group": 1, **shape, **network})
    steps = {"num_train_timesteps": 60, "sizes": SIZES, "change_points": (30,)}
    return ScaleSpacePipeline(unet, ScaleSpaceScheduler(**{**steps, **process}))


@pytest.mark.parametrize(
    ("network", "process", "why"),
    [
        ({"released_quirks": False}, {}, "it runs the last decoder block"),
        ({"paths": "full"}, {}, "it runs all layers at every resolution"),
        ({"paths": "shared", "released_quirks": False}, {}, "it runs all layers at every resolution"),
        ({"base_channels": 16}, {}, "it normalises in 16 groups, and not in 32"),
        ({"min_channels_per_group": 4}, {}, "it normalises in 8 groups, and not in 32"),
        ({}, {"degradation": "orthonormal"}, "its process is not one of the paper's"),
        ({}, {"shifted": True}, "its noise is shifted"),
        ({}, {"prediction_type": "epsilon"}, "it does not predict the clean image"),
        ({"sizes": ((16, 16), (9, 8))}, {"sizes": ((16, 16), (9, 8))}, "its resolutions are not square halves"),
        ({"num_classes": 2, "null_class": True}, {}, "has no place for class_embedding_null.weight"),
        ({"condition_size": (4, 4)}, {}, "has no place for condition_mlp"),
    ],
)
def test_models_that_the_released_code_cannot_run_are_refused(network, process, why):
    content, step = save_released(_pipeline({}, {}))
    assert (list(content), step) == (["model"], None)
    with pytest.raises(UserError, match=why):
        save_released(_pipeline(network, process))


def test_a_model_that_was_not_converted_is_written_for_the_released_code_without_a_step(tmp_path, capsys):
    _pipeline({"num_classes": 3}, {}).save_pretrained(tmp_path / "model")
    main(["convert", str(tmp_path / "model"), str(tmp_path / "file.pt"), "--to", "released"])
    told = capsys.readouterr().out
    assert f"file        {tmp_path / 'file.pt'}" in told
    assert "image_size  16" in told
    assert "step" not in told
    released = read_released(tmp_path / "file.pt")
    assert released.wrapped
    assert released.step is None
    assert released.state["label_emb.weight"].shape == (3, 128)
