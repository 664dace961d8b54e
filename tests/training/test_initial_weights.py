"""Runs that start from the weights of a model: what they begin with, what is known of it, and when it is read."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.pretrained_models import stock_folder
from tests.process_groups import run_group
from tests.small_models import cli_error, small_config, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# A rate at which no weight of order 1 moves in float32.
STILL = {"learning_rate": 1e-30}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> RunDirectory:
    return train(small_config(tmp_path_factory.mktemp("source") / "run"), progress=False, say=lambda line: None)


def _weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.model_path / WEIGHTS)


def test_a_run_begins_with_the_weights_of_the_model_and_says_and_records_it(source, tmp_path):
    said: list[str] = []
    config = small_config(tmp_path / "run", init_from=str(source.path), seed=5, max_steps=1, **STILL)
    run = train(config, progress=False, say=said.append)
    # The averages too, of which the model is made.
    assert_close(_weights(run), _weights(source), rtol=0, atol=1e-20)
    file = source.model_path / WEIGHTS
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    count = sum(value.numel() for value in _weights(source).values())
    assert f"starts from {file} (sha256 {digest[:12]}): {count:,} of {count:,} parameters are taken" in said
    known = {"path": str(source.path), "file": str(file), "sha256": digest}
    for place in (run.path / "run.json", run.model_path / "manifest.json", run.path / "checkpoints/step-00000001"):
        content = json.loads((place / "manifest.json" if place.is_dir() else place).read_text())
        assert content.get("run", content)["initial_weights"] == known


def test_a_run_that_is_not_finished_gives_its_newest_averages(source, tmp_path):
    shutil.copytree(source.path, tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "model")
    config = small_config(tmp_path / "run", init_from=str(tmp_path / "source"), max_steps=1, **STILL)
    run = train(config, progress=False, say=lambda line: None)
    averages = load_file(source.path / "checkpoints" / "step-00000006" / "ema.safetensors")
    assert_close(_weights(run), averages, rtol=0, atol=1e-20)


def test_a_run_that_goes_on_does_not_read_the_model_again(source, tmp_path):
    shutil.copytree(source.path, tmp_path / "source")
    options = {"init_from": str(tmp_path / "source"), "seed": 5}
    whole = train(small_config(tmp_path / "whole", **options), progress=False, say=lambda line: None)
    train(small_config(tmp_path / "run", **options, max_steps=3), progress=False, say=lambda line: None)
    shutil.rmtree(tmp_path / "source")
    said: list[str] = []
    run = train(small_config(tmp_path / "run", **options), progress=False, say=said.append)
    assert not [line for line in said if line.startswith("starts from")]
    assert_close(_weights(run), _weights(whole), rtol=0, atol=0)
    recorded = [json.loads((path / "run.json").read_text())["initial_weights"] for path in (run.path, whole.path)]
    assert recorded[0] == recorded[1]
    with pytest.raises(UserError, match=r"init_from is .* there and None here"):
        train(small_config(tmp_path / "run", seed=5), progress=False, say=lambda line: None)


def test_a_run_that_begins_again_refuses_a_model_that_has_changed(source, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(source.model_path, model)
    run = train(
        small_config(tmp_path / "run", init_from=str(model), max_steps=1), progress=False, say=lambda line: None
    )
    shutil.rmtree(run.path / "checkpoints")
    shutil.rmtree(run.model_path)
    # With the same model it begins again.
    train(small_config(run.path, init_from=str(model), max_steps=1), progress=False, say=lambda line: None)
    shutil.rmtree(run.path / "checkpoints")
    shutil.rmtree(run.model_path)
    shutil.rmtree(model)
    other = train(small_config(tmp_path / "other", seed=9), progress=False, say=lambda line: None)
    shutil.copytree(other.model_path, model)
    with pytest.raises(UserError, match=r"was begun from other weights than those of .* now \(sha256 .*; restore them"):
        train(small_config(tmp_path / "run", init_from=str(model)), progress=False, say=lambda line: None)


def test_what_does_not_fit_is_one_sentence_before_anything_is_written(source, tmp_path, capsys):
    words = train_words(tmp_path / "run", "--init-from", str(source.path), "--network.base-channels", "12")
    assert "do not fit this network: network.base_channels is 8 there and 12 here; give the" in cli_error(capsys, words)
    words = train_words(tmp_path / "run", "--init-from", str(tmp_path / "none"))
    assert "does not exist" in cli_error(capsys, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("saved", ["pipeline", "parts", "network"])
def test_a_model_of_diffusers_is_refused_with_the_command_that_makes_one_of_it(saved, tmp_path, capsys):
    folder = stock_folder(tmp_path / "their model")
    if saved != "pipeline":
        (folder / "model_index.json").unlink()
    if saved == "network":
        folder = folder / "unet"
    sentence = (
        f"{folder} is a model of diffusers and none of scalespace; make one of it with scalespace accelerate '{folder}' "
        "--output NEW, and give that\n"
    )
    assert sentence in cli_error(capsys, train_words(tmp_path / "run", "--init-from", str(folder)))
    assert sentence in cli_error(capsys, ["sample", str(folder), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_said_in_one_line(source, tmp_path, capsys):
    options = ("--prediction", "epsilon", "--network.attention-max-size", "8")
    main(train_words(tmp_path / "run", "--init-from", str(source.model_path), *options))
    lines = [line for line in capsys.readouterr().out.splitlines() if "anew" in line]
    assert lines == [
        "drawn anew: the attention in decoder.0, encoder.0, which the model has none of; the same weights compute something "
        "else, since the prediction is sample there and epsilon here"
    ]


def test_processes_start_from_the_same_weights(source, tmp_path):
    words = ("--init-from", str(source.path), "--learning-rate", "1e-30", "--mixed-precision", "no", "--seed", "5")
    # Only the first finds the model.
    harm = "if rank == 1:\n import scalespace.training.start.initial_weights as own\n own.opened = lambda *_, **__: 1 / 0\n"
    ended = run_group(2, train_words(tmp_path / "run", *words), tmp_path / "prints", harm)
    assert [process.code for process in ended] == [0, 0], ended
    assert ended[0].out.count("starts from") == 1
    weights = load_file(Path(tmp_path / "run" / "model" / WEIGHTS))
    assert_close(weights, _weights(source), rtol=0, atol=1e-20)
