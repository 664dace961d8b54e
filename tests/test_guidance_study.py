"""The study of guidance: its classifier is right where that is known, and its commands run from data to page."""

import json
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import guidance
from PIL import Image
from tests.picture_files import picture

from scalespace.metrics.features import BuiltInFeatures


def test_logistic_regression_finds_the_direction_that_tells_gaussians_apart():
    # Of N(m, I) and N(-m, I) the log odds are 2 m.x, and a share Phi(|m|) of the pictures can be told.
    generator = torch.Generator().manual_seed(0)
    m = torch.tensor([1.2, 0.0, -0.5, 0.0])
    labels = torch.arange(4000) % 2
    x = torch.randn(4000, 4, generator=generator) + (1 - 2.0 * labels)[:, None] * m
    found = guidance.Classifier.fitted(x, labels, 1e-4)
    direction = (found.weight[:, 0] - found.weight[:, 1]) / found.deviation
    assert torch.allclose(direction, 2 * m, atol=4 * 2 / 4000**0.5 * 2)
    expected = float(torch.special.ndtr(m.norm()))
    assert guidance.share(found(x) == labels) == pytest.approx(expected, abs=4 * (0.1 / 4000) ** 0.5)


def test_decay_is_chosen_by_pictures_that_the_classifier_does_not_see():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(500) >= 250).long()
    x = torch.randn(500, 300, generator=generator) + 0.06 * (1 - 2.0 * labels)[:, None]
    # Fitted to as many features as that, all pictures that it sees are told apart without any decay.
    assert guidance.share(guidance.Classifier.fitted(x, labels, guidance.DECAYS[0])(x) == labels) == 1
    assert guidance.Classifier.chosen(x, labels)[1] > guidance.DECAYS[0]


def test_shares_have_wilsons_interval():
    value, low, high = guidance.wilson(torch.tensor([True] * 9 + [False]))
    # Ends at which the observed share is 1.96 standard deviations away.
    for end in (low, high):
        assert abs(value - end) == pytest.approx(1.96 * (end * (1 - end) / 10) ** 0.5)
    assert value == 0.9


def test_no_guidance_is_drawn_once_and_every_other_scale_in_every_way():
    names = [setting.name for setting in guidance.settings((1.0, 2.0), earlier=True)]
    assert names == ["no guidance", "everywhere, 2", "inside the interval, 2", "by an earlier checkpoint, 2"]


def test_the_study_runs_from_data_to_page(tmp_path: Path, monkeypatch, capsys):
    # Features of fewer dimensions take less time.
    monkeypatch.setattr(guidance, "EfficientNetFeatures", BuiltInFeatures)
    for first, part, count in ((0, "known", 8), (8, "unseen", 4)):
        for number, name in enumerate(("dark", "light")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(first, first + count):
                one = picture(index, (32, 32)).point([level // 2 + 127 * number for level in range(256)] * 3)
                one.save(tmp_path / part / name / f"{index}.png")

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["guidance", *map(str, words), "--quiet"])
        guidance.main()
        return capsys.readouterr().out

    data, figures = ["--data", tmp_path / "known", "--output", tmp_path / "out"], tmp_path / "figures.json"
    small = ["--steps", 10, "--batch-size", 2, "--base-channels", 8, "--classes", 2, "--mixed-precision", "no"]
    run("train", *data, *small)
    # Again it has nothing left to do.
    run("train", *data, *small)
    drawing = ["--heldout", tmp_path / "unseen", "--count", 12, "--calls", 4, "--dtype", "float32", "--scales", 1, 2]
    files = ["--figures", figures, "--picture", tmp_path / "sheet.png"]
    first = run("measure", *data, *drawing, *files)
    found = json.loads(figures.read_text())
    assert (found["steps"], found["earlier_step"], found["pictures"], found["heldout"]) == (10, 1, 12, 8)
    assert [row["name"] for row in found["rows"]] == [
        "training pictures",
        "no guidance",
        "everywhere, 2",
        "inside the interval, 2",
        "by an earlier checkpoint, 2",
    ]
    assert len({tuple(row["kernel"]) for row in found["rows"]}) == 5
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (76 + 3 * 68, 34 + 2 * 68)
    run("page", "--figures", figures, "--page", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert guidance.table(found) in text
    assert "12 pictures, as many of each of 2 classes" in text
    assert "python -m benchmarks.guidance measure" in text
    # What was drawn is not drawn again.
    monkeypatch.setattr(guidance, "drawn", None)
    assert run("measure", *data, *drawing, *files) == first


@pytest.mark.skipif(not guidance.FIGURES.exists(), reason="nothing was measured yet")
def test_the_page_of_the_results_is_that_of_its_figures():
    assert guidance.PAGE.read_text() == guidance.page(json.loads(guidance.FIGURES.read_text())) + "\n"
