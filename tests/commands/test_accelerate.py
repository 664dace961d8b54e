"""``scalespace accelerate``: from a folder of diffusers to a model that samples progressively."""

import json

import pytest
import torch
from tests.pretrained_models import stock_folder
from tests.small_models import cli_error, train_words

from scalespace.cli import main
from scalespace.diffusion.noise import LinearBeta
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.saving import load_pipeline

DATA = ["--data", "synthetic:shapes:64"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return str(stock_folder(tmp_path_factory.mktemp("stock"), "ddim", clip_sample=False))


def test_a_model_is_planned_written_and_sampled(stock, tmp_path, capsys):
    main(["accelerate", stock, *DATA, "--plan", "--json"])
    planned = json.loads(capsys.readouterr().out)
    (change,) = planned["changes"]
    noise = LinearBeta()
    assert noise.snr(change["first"]) * change["power"] < 0.01 <= noise.snr(change["first"] - 1) * change["power"]
    high, crossing, low = sorted(planned["plan"]["paths"], key=lambda path: path["first"])
    assert (high["last"], crossing["first"], low["first"]) == (
        change["first"] - 1,
        change["first"],
        change["first"] + 1,
    )
    # At a change the network answers at the size of the state, and costs what it does there.
    assert crossing["gflops"] == low["gflops"] < high["gflops"] / 3
    whole = (high["gflops"] * high["last"] + low["gflops"] * (1001 - change["first"])) / 1000
    assert planned["saved"] == pytest.approx(1 - whole / high["gflops"])
    assert planned["chain_gflops"] == pytest.approx(1000 * whole)
    assert not list(tmp_path.iterdir())

    output = tmp_path / "fast"
    main(["accelerate", stock, *DATA, "--output", str(output)])
    said = capsys.readouterr().out
    assert f"compute saved       {planned['saved']:.1%}" in said
    assert "was trained at 16x16 and never saw pictures of 8x8" in said
    assert "Its attention saw 8x8 there and sees 4x4 at the last" in said
    pipeline = load_pipeline(output)
    assert type(pipeline.unet) is PretrainedUNet
    assert pipeline.scheduler.process.degradation.change_points == (change["first"],)
    assert (pipeline.scheduler.config["solver"], pipeline.scheduler.config["clip_sample"]) == ("ddim", False)
    main(["sample", str(output), "--output", str(tmp_path / "drawn"), "--num-images", "2", "--steps", "4", "--quiet"])
    assert "pictures   2 in" in capsys.readouterr().out
    words = train_words(tmp_path / "run", "--init-from", str(output))
    assert "a pretrained model, which brings process and network" in cli_error(capsys, words)
    before = sorted(path.name for path in output.iterdir())
    assert "is there already" in cli_error(capsys, ["accelerate", stock, *DATA, "--output", str(output)])
    assert sorted(path.name for path in output.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--plan", "--data is missing; name pictures"),
        ("--data synthetic:shapes:64", "--output is missing; name a new folder"),
        ("--data synthetic:shapes:64 --plan --levels 0", "--levels is 0; give at least 1"),
        ("--data synthetic:shapes:64 --plan --levels 5", "halves its input 1 times, and 2 does not divide 1x1"),
        ("--data synthetic:shapes:64 --plan --levels 999999999", "2 does not divide 1x1"),
        ("--data synthetic:shapes:64 --plan --tolerance 2", "no level can be placed: tolerance is 2.0"),
        (
            "--data synthetic:shapes:64 --plan --tolerance 1e-9",
            "no level can be placed: the octave from 16x16 to 8x8 never",
        ),
        ("--data nowhere --plan", "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(stock, words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in cli_error(capsys, ["accelerate", stock, *words.split()])
    assert not list(tmp_path.iterdir())


def test_a_model_of_other_channels_or_without_a_folder_is_one_sentence(tmp_path, capsys):
    four = stock_folder(tmp_path / "four", network={"in_channels": 4, "out_channels": 4})
    assert "the model draws 4 channels" in cli_error(capsys, ["accelerate", str(four), *DATA, "--plan"])
    assert "does not exist" in cli_error(capsys, ["accelerate", "nothing", *DATA, "--plan"])


def test_names_of_classes_go_along(tmp_path, capsys):
    folder = stock_folder(tmp_path / "named", network={"num_class_embeds": 2})
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": {"0": "cat", "1": "dog"}}))
    main(["accelerate", str(folder), "--levels", "1", "--output", str(tmp_path / "out")])
    capsys.readouterr()
    pipeline = load_pipeline(tmp_path / "out")
    assert pipeline.labels == {"cat": 0, "dog": 1}
    assert isinstance(pipeline, ScaleSpacePipeline)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(class_labels=["dog"], num_inference_steps=2, output_type="pt").images
    assert pictures.shape == torch.Size([1, 3, 16, 16])
