"""The transformer trains, stops, goes on, saves, loads and draws by the commands that a U-Net does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tests.picture_files import encoded, picture
from tests.small_models import (
    cli_error,
    small_network,
    small_scheduler,
    small_transformer,
    train_words,
    transformer_words,
)
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.transfer import take_weights
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.released_files import save_released
from scalespace.pipelines.saving import load_pipeline
from scalespace.training.models import open_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        path = folder / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(number, (8, 8))))
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    """A run of classes that was stopped after two steps, and went on to three."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--data", str(photos), "--network.num-classes", "2", "--label-dropout", "0.2", "--change-share", "0.5"]
    main(transformer_words(folder, *options))
    main(transformer_words(folder, *options, "--max-steps", "3"))
    return folder


def _drawn(pipeline: Any, **options: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    options = {"class_labels": [0, 1], "num_inference_steps": 6, "output_type": "pt"} | options
    return pipeline(generator=torch.Generator().manual_seed(0), **options).images


def test_a_run_goes_on_and_its_model_is_a_transformer_with_its_options(run: Path):
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    network: Any = load_pipeline(run / "model").unet
    assert type(network) is FlexiTransformer
    assert (network.config.patch_size, network.config.width, network.num_classes, network.no_class) == (2, 16, 2, 2)
    assert any(parameter.any() for parameter in network.head.parameters())


def test_a_checkpoint_and_both_ways_of_loading_have_the_same_weights(run: Path):
    loaded = load_pipeline(run / "model")
    expected = _drawn(loaded)
    assert torch.equal(_drawn(DiffusionPipeline.from_pretrained(str(run / "model"))), expected)
    newest = open_model(run / "checkpoints" / "step-00000003", lambda line: None)
    for name, weight in newest.unet.state_dict().items():
        assert torch.equal(weight, loaded.unet.state_dict()[name]), name


def test_a_run_that_is_told_of_by_a_version_without_transformers_is_one_of_a_u_net(tmp_path, capsys):
    main(train_words(tmp_path / "run"))
    file = tmp_path / "run" / "run.json"
    identity = json.loads(file.read_text())
    del identity["backbone"], identity["transformer"]
    file.write_text(json.dumps(identity))
    shutil.rmtree(tmp_path / "run" / "model")
    assert type(open_model(tmp_path / "run", lambda line: None).unet).__name__ == "FlexiUNet"
    words = transformer_words(tmp_path / "run")
    assert "holds a different run: backbone is unet there and transformer here" in cli_error(capsys, words)
    main(train_words(tmp_path / "run", "--max-steps", "3"))
    assert (tmp_path / "run" / "model").is_dir()


def test_classes_guide_and_pictures_are_drawn_by_the_command(run: Path, tmp_path, capsys):
    loaded = load_pipeline(run / "model")
    # Three steps leave hardly anything to guide by.
    drawn_by = ScaleSpacePipeline(small_transformer(num_classes=2, null_class=True), loaded.scheduler)
    plain, guided = (_drawn(drawn_by, guidance_scale=scale) for scale in (1.0, 3.0))
    assert not torch.allclose(plain, guided, atol=1e-2)
    words = f"sample {run}/model --num-images 2 --steps 5 --class-label odd --guidance-scale 2 --output {tmp_path}/out"
    main([*words.split(), "--quiet"])
    assert "pictures   2 " in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


def test_a_run_starts_from_a_transformer_of_other_sizes_and_from_no_u_net(run: Path, tmp_path, capsys):
    options = ("--process.image-size", "12", "12", "--init-from", str(run), "--process.levels", "1")
    main(transformer_words(tmp_path / "run", *options))
    told = capsys.readouterr().out
    assert "the embedding of classes (2 there, none here)" in told
    words = transformer_words(tmp_path / "new", "--init-from", str(run), "--transformer.width", "24")
    assert "transformer.width is 16 there and 24 here; give the" in cli_error(capsys, words)
    words = train_words(tmp_path / "new", "--init-from", str(run))
    assert "they are of a FlexiTransformer and this is a FlexiUNet" in cli_error(capsys, words)
    assert not (tmp_path / "new").exists()


def test_weights_are_taken_as_they_are():
    source, network = small_transformer(0), small_transformer(1, sizes=((12, 12), (6, 6)))
    found = take_weights(network, source)
    assert (found.taken, found.anew, found.left_out, found.meanings) == (found.parameters, (), (), ())
    for mine, theirs in zip(network.parameters(), source.parameters(), strict=True):
        assert_close(mine, theirs, rtol=0, atol=0)
    with pytest.raises(ValueError, match="they are of a FlexiUNet and this is a FlexiTransformer"):
        take_weights(network, small_network())


def test_the_released_code_knows_no_transformer():
    with pytest.raises(UserError, match=r"cannot run this model \(its network is a FlexiTransformer\)"):
        save_released(ScaleSpacePipeline(small_transformer(), small_scheduler()))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--transformer.patch-size 3",
            "patches of 3x3 pixels do not divide 8x8 pixels; give a patch_size that divides",
        ),
        ("--transformer.patch-size 8", "patches of 8x8 pixels do not divide 4x4 pixels"),
        ("--transformer.heads 3", "heads 3 do not divide the width 16"),
        ("--transformer.depth -1", "depth holds -1"),
        ("--transformer.width 100000000", "out of all proportion; lower --transformer.width or --transformer.depth"),
        ("--transformer.width 65536", "or --transformer.width, or give a --micro-batch"),
        (
            "--backbone unets",
            "invalid choice 'unets' for argument '--backbone'; expected one of ('unet', 'transformer')",
        ),
        ("--network.base-channels 8", "--network.base-channels has no effect with --backbone transformer"),
    ],
)
def test_what_makes_no_transformer_is_one_sentence_before_anything_is_written(words, sentence, tmp_path, capsys):
    assert sentence in cli_error(capsys, transformer_words(tmp_path / "run", *words.split()))
    assert not (tmp_path / "run").exists()
