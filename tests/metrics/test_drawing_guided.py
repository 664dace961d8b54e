"""``evaluate`` draws the very pictures that ``sample`` draws with the same options, also of one class and guided."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_models import cli_error, small_network, small_scheduler

from scalespace.cli import main
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.evaluate import INCEPTION_VARIABLE
from scalespace.metrics.sides import open_side
from scalespace.pipelines.pipeline import ScaleSpacePipeline

QUICK = ("--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with two models of classes that can also draw without one, and a model without classes."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("better", "worse")):
        unet = small_network(seed, num_classes=3, null_class=True)
        assert unet.class_embedding_null is not None
        torch.nn.init.normal_(unet.class_embedding_null.weight, generator=torch.Generator().manual_seed(seed))
        ScaleSpacePipeline(unet, small_scheduler(), {0: "ant", 1: "bee", 2: "cow"}).save_pretrained(folder / name)
    ScaleSpacePipeline(small_network(), small_scheduler()).save_pretrained(folder / "plain")
    return folder


@pytest.fixture(autouse=True)
def beside_the_models(models, monkeypatch):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.chdir(models)


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        ("", {}, ""),
        ("--class-label bee", {"class_label": "bee"}, ", class bee"),
        (
            "--guidance-scale 2 --guidance-interval 0.1 3",
            {"guidance_scale": 2.0, "guidance_interval": (0.1, 3.0)},
            ", guidance 2 for sigma / alpha of 0.1 to 3",
        ),
        (
            "--class-label 2 --guidance-scale 1.5 --guidance-model worse",
            {"class_label": "2", "guidance_scale": 1.5, "guidance_model": "worse"},
            ", class 2, guidance 1.5 away from worse",
        ),
    ],
)
def test_pictures_are_those_of_sample(words, options, told, tmp_path):
    drawing = ("--output", str(tmp_path), "--num-images", "4", "--steps", "4")
    main(["sample", "better", *drawing, *words.split(), *QUICK])
    files = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("0*.png"))]
    side = open_side("better", Sampling(4, 4, **options), progress=False)
    assert side.pictures is not None
    assert np.array_equal(side.pictures.permute(0, 2, 3, 1).numpy(), np.stack(files))
    assert side.name == f"better (4 steps, seed 0{told})"


def test_the_options_reach_the_pictures_from_the_command_line(capsys):
    def colours(*words: str) -> list[float]:
        capsys.readouterr()
        drawing = ("--num-images", "4", "--steps", "4", "--metrics", "colour", "--no-intervals", "--json")
        main(["evaluate", "better", "synthetic:shapes:6", *drawing, *words, *QUICK])
        return [row["value"] for row in json.loads(capsys.readouterr().out)["metrics"]]

    asked = [
        [],
        ["--class-label", "bee"],
        ["--guidance-scale", "4"],
        ["--guidance-scale", "4", "--guidance-interval", "0.1", "2"],
        ["--guidance-scale", "4", "--guidance-model", "worse"],
    ]
    found = [colours(*words) for words in asked]
    assert len({tuple(values) for values in found}) == len(asked)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("better shapes --guidance-interval 0.1 2", "--guidance-interval has no effect without guidance; leave"),
        ("better shapes --guidance-model worse", "--guidance-model has no effect without guidance; leave"),
        ("plain shapes --class-label bee", "--class-label was given, but the model has no classes; leave it out"),
        ("better shapes --class-label bea", 'there is no class "bea"; the nearest is bee'),
        ("plain shapes --guidance-scale 2", "guidance_scale was given to a model without classes"),
        ("better shapes --guidance-scale -1", "guidance_scale is -1.0; give 1 for no guidance, or more"),
        (
            "better shapes --guidance-scale 2 --guidance-interval 3 1",
            "guidance_interval is (3.0, 1.0); give the smallest",
        ),
        ("better shapes --guidance-scale 2 --guidance-interval 900 999", "holds none of the"),
        ("better shapes --guidance-scale 2 --guidance-model none", "model none does not exist"),
        ("plain shapes --guidance-scale 2 --guidance-model worse", "guidance_model has 3 classes and the model none"),
    ],
)
def test_guidance_that_would_be_none_is_one_sentence(words, sentence, capsys):
    sides = [word.replace("shapes", "synthetic:shapes:6") for word in words.split()]
    assert sentence in cli_error(capsys, ["evaluate", *sides, "--num-images", "4", "--steps", "4", *QUICK])
