import json
import shutil
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.small_models import cli_error, small_config

from scalespace.cli import main
from scalespace.pipelines.saving import load_pipeline
from scalespace.runs.averages import Snapshot, average_of, exponent
from scalespace.training.loop import train
from scalespace.training.models import open_model
from scalespace.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunDirectory:
    place = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("cat", "dog")):
        (place / "data" / name).mkdir(parents=True)
        for shade in range(4):
            Image.new("RGB", (8, 8), (60 * shade, 200 * number, 99)).save(place / "data" / name / f"{shade}.png")
    options = {"data": str(place / "data"), "network": {"num_classes": 2}, "average_every": 2}
    config = small_config(place / "run", **options)
    return train(config, progress=False, say=lambda line: None)


@pytest.fixture
def unfinished(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    shutil.rmtree(run / "model")
    return run


def _sample(run, output, *words: str) -> list[str]:
    return ["sample", str(run), "--output", str(output), "--num-images", "2", "--steps", "5", "--quiet", *words]


def _options(part: Any) -> dict[str, Any]:
    # Through JSON, since what was saved holds lists.
    return json.loads(json.dumps({name: value for name, value in part.config.items() if not name.startswith("_")}))


def _weights(path) -> dict[str, torch.Tensor]:
    return load_file(path / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_run_that_is_not_finished_gives_its_newest_averages(finished, unfinished):
    said: list[str] = []
    pipeline = open_model(unfinished, said.append)
    assert said == [
        f"{unfinished / 'checkpoints' / 'step-00000006'}: the averaged weights at step 6 of a run that is not finished"
    ]
    whole = load_pipeline(finished.model_path)
    assert all(torch.equal(value, pipeline.unet.state_dict()[name]) for name, value in whole.unet.state_dict().items())
    assert _options(pipeline.unet) == _options(whole.unet)
    assert _options(pipeline.scheduler) == _options(whole.scheduler)
    assert pipeline.labels == whole.labels


def test_any_checkpoint_gives_its_averages(unfinished, tmp_path, capsys):
    folder = unfinished / "checkpoints" / "step-00000003"
    pipeline = open_model(folder, lambda line: None)
    averages = load_file(folder / "ema.safetensors")
    assert all(torch.equal(value, pipeline.unet.state_dict()[name]) for name, value in averages.items())
    assert pipeline.labels == {"cat": 0, "dog": 1}
    # It needs no run around it, but a manifest that proves it whole.
    shutil.copytree(folder, tmp_path / "alone")
    main(_sample(tmp_path / "alone", tmp_path / "out"))
    file = tmp_path / "alone" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "alone is damaged (ema.safetensors has" in cli_error(capsys, _sample(tmp_path / "alone", tmp_path / "more"))
    (tmp_path / "alone" / "manifest.json").unlink()
    assert "has no manifest.json that tells which" in cli_error(capsys, _sample(tmp_path / "alone", tmp_path / "more"))


def test_a_run_from_before_an_option_existed_gives_the_network_of_then(tmp_path):
    former = {"min_channels_per_group": 1, "paths": "flexi"}
    run = train(small_config(tmp_path, network=former), progress=False, say=lambda line: None)
    shutil.rmtree(run.model_path)
    options = json.loads((tmp_path / "run.json").read_text())
    for name in former:
        del options["network"][name]
    (tmp_path / "run.json").write_text(json.dumps(options))
    config = open_model(tmp_path, lambda line: None).unet.config
    assert {name: config[name] for name in former} == former


def test_a_damaged_checkpoint_is_passed_over_with_a_word(unfinished, tmp_path, capsys):
    file = unfinished / "checkpoints" / "step-00000006" / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    main(_sample(unfinished, tmp_path / "out"))
    told = capsys.readouterr().out
    assert "step-00000006" in told
    assert "step-00000003: the averaged weights at step 3" in told
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


def test_a_finished_run_gives_its_model(finished, tmp_path, capsys):
    main(_sample(finished.path, tmp_path / "of-run", "--json"))
    told = capsys.readouterr()
    json.loads(told.out)
    assert "the model of a finished run" in told.err
    main(_sample(finished.model_path, tmp_path / "of-model"))
    assert (tmp_path / "of-run" / "000000.png").read_bytes() == (tmp_path / "of-model" / "000000.png").read_bytes()


def test_a_run_without_any_checkpoint_and_one_that_does_not_fit_are_one_sentence(unfinished, tmp_path, capsys):
    words = _sample(unfinished, tmp_path / "out")
    other = json.loads((unfinished / "run.json").read_text())
    other["network"]["base_channels"] = 16
    kept = (unfinished / "run.json").read_text()
    (unfinished / "run.json").write_text(json.dumps(other))
    assert "are not those of its run.json" in cli_error(capsys, words)
    (unfinished / "run.json").write_text(json.dumps({"process": 3}))
    assert "run.json" in cli_error(capsys, words)
    (unfinished / "run.json").write_text(kept)
    shutil.rmtree(unfinished / "checkpoints")
    assert "has no model and no checkpoint yet" in cli_error(capsys, words)


def test_another_average_becomes_a_model(finished, tmp_path, capsys):
    output = tmp_path / "narrow"
    main(["average", str(finished.path), "--width", "0.07", "--step", "5", "--output", str(output)])
    assert "the average of width 0.07 at step 5 from 3 snapshots" in capsys.readouterr().out
    made = average_of(sorted(finished.averages_path.iterdir()), Snapshot(5, exponent(0.07)))
    for name, value in _weights(output).items():
        torch.testing.assert_close(value, made[name])
    assert load_pipeline(output).labels == load_pipeline(finished.model_path).labels


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--width", "0.5"], "--width: a width of 0.5; give one above 0 and at most 0.25"),
        (["--step", "7"], "--step is 7, and the snapshots"),
        (["--step", "0"], "--step is 0"),
    ],
)
def test_averages_that_cannot_be_made_are_one_sentence(words, sentence, finished, tmp_path, capsys):
    command = ["average", str(finished.path), "--output", str(tmp_path / "model"), *words]
    assert sentence in cli_error(capsys, command)
    assert not (tmp_path / "model").exists()


def test_a_run_without_snapshots_and_damaged_ones_are_one_sentence(unfinished, tmp_path, capsys):
    command = ["average", str(unfinished), "--output", str(tmp_path / "model")]
    file = unfinished / "averages" / "step-00000004.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "damaged" in cli_error(capsys, command)
    save_file({"0.x": torch.zeros(1)}, file)
    assert "damaged" in cli_error(capsys, command)
    shutil.rmtree(unfinished / "averages")
    assert "train with --average-every" in cli_error(capsys, command)
