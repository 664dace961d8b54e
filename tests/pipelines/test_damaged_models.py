"""Every setting of a saved model, replaced by everything that JSON can hold: one sentence that names the file, or a model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_models import small_pipeline

from scalespace.errors import UserError
from scalespace.pipelines.saving import load_pipeline

ANYTHING: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 10**9, 10**400, 1e308, -0.5, "", "x", [], {}, [0, 0], [[0, 0]], [[8, 8], [8, 8]]),
    *({"a": []}, [[1e9, 1e9]], [[10**9, 10**9]], [10**9] * 3, ["x"], [[[8]]], [10**400]),
)
FILES = ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json")
ABSENT = object()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


def _settings() -> list[tuple[str, str]]:
    pipeline = small_pipeline()
    parts = (pipeline.unet.config, pipeline.scheduler.config, pipeline.config)
    return [
        (file, name) for file, config in zip(FILES, parts, strict=True) for name in config if not name.startswith("_")
    ]


def _loaded(folder: Path) -> str | None:
    """The sentence with which a model is refused."""
    try:
        load_pipeline(folder)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("file", "name"), _settings())
def test_any_value_of_any_setting_is_one_sentence_or_a_model(file: str, name: str, saved: Path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    settings = json.loads((folder / file).read_text())
    for value in (*ANYTHING, ABSENT):
        changed = {key: kept for key, kept in settings.items() if key != name}
        text = json.dumps(changed if value is ABSENT else changed | {name: value})
        (folder / file).write_text(text)
        told = _loaded(folder)
        assert told is None or (str(folder) in told and "\n" not in told), value


@pytest.mark.parametrize(
    ("file", "name", "value", "sentence"),
    [
        ("unet/config.json", "sizes", "x", "unet/config.json is damaged (sizes cannot be 'x')"),
        ("unet/config.json", "sizes", [[8, 8], [4]], "is damaged (sizes cannot be [[8, 8], [4]])"),
        ("unet/config.json", "blocks_per_level", True, "is damaged (blocks_per_level cannot be True)"),
        ("unet/config.json", "dropout", 10**400, "is damaged (dropout cannot be 1000"),
        ("scheduler/scheduler_config.json", "beta_start", None, "is damaged (beta_start cannot be None)"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 20.0, "(num_train_timesteps cannot be 20.0)"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9, "1000000000 timesteps is out of proportion"),
        ("scheduler/scheduler_config.json", "change_points", ABSENT, "is damaged (it lacks change_points)"),
        ("unet/config.json", "sizes", ABSENT, "is damaged (it lacks sizes)"),
    ],
)
def test_a_setting_that_cannot_be_is_named(file: str, name: str, value: Any, sentence: str, saved: Path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    settings = json.loads((folder / file).read_text())
    settings.pop(name)
    (folder / file).write_text(json.dumps(settings if value is ABSENT else settings | {name: value}))
    with pytest.raises(UserError) as raised:
        load_pipeline(folder)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "1e400", "9" * 5000, "[" * 100_000, '"\\ud800"', '{"a": 1, "a": 2}']
)
@pytest.mark.parametrize("file", FILES)
def test_what_json_only_nearly_holds_is_one_sentence(file: str, text: str, saved: Path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    content = (folder / file).read_text()
    (folder / file).write_text(content.replace("{", f'{{"sizes": {text}, "id2label": {text}, ', 1))
    with pytest.raises(UserError) as raised:
        load_pipeline(folder)
    assert str(folder) in str(raised.value)


def test_a_model_of_an_earlier_version_without_later_settings_loads(saved: Path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    file = folder / "unet/config.json"
    settings = json.loads(file.read_text())
    del settings["condition_size"], settings["paths"]
    file.write_text(json.dumps(settings))
    assert torch.isfinite(load_pipeline(folder).unet.conv_in.weight).all()
