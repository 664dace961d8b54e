"""Sides that other programs wrote: pictures of guided-diffusion, and means and covariances of pytorch-fid."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.metrics.extractors import Means, saved
from tests.metrics.sets import pictures
from tests.small_models import cli_error, small_pipeline

from scalespace.cli import main
from scalespace.metrics.evaluate import INCEPTION_VARIABLE
from scalespace.metrics.features import TorchScriptFeatures
from scalespace.metrics.frechet_distance import Moments, frechet_distance

QUICK = ("--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, first, count in (("samples", 0, 12), ("others", 12, 9)):
        np.savez(f"{name}.npz", pictures(count, (16, 16), first).permute(0, 2, 3, 1).numpy(), np.arange(count) % 3)


@pytest.fixture
def extractor() -> list[str]:
    path, _ = saved(Means(), Path("means.pt"))
    return ["--features", path, "--trust"]


def _json(capsys, *words: str) -> dict:
    capsys.readouterr()
    main(["evaluate", *words, *QUICK, "--json"])
    return json.loads(capsys.readouterr().out)


def _moments(path: str, name: str, count: int, first: int) -> Moments:
    """Moments of pictures by the extractor, in a file as pytorch-fid writes it."""
    features = TorchScriptFeatures(path, trust=True)(pictures(count, (16, 16), first))
    moments = Moments.of(features)
    np.savez(name, mu=moments.mean.numpy(), sigma=moments.covariance.numpy())
    return moments


def test_pictures_of_an_array_are_measured_as_those_of_a_folder(capsys):
    main(["prepare", "samples.npz", "--size", "16", "16", "--output", "folder", "--quiet"])
    found = [_json(capsys, side, "others.npz", "--no-intervals") for side in ("samples.npz", "folder")]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert len(found[0]["metrics"]) > 10
    assert (found[0]["generated"]["count"], found[0]["reference"]["count"]) == (12, 9)
    # They give the size too, and what is told of files is told of them.
    assert found[0]["generated"]["image_size"] == [16, 16]


def test_the_frechet_distance_to_another_programs_moments_is_that_of_the_formula(extractor, capsys):
    reference, own = _moments(extractor[1], "fid.npz", 9, 12), _moments(extractor[1], "own.npz", 12, 0)
    for pair, counts in ((("samples.npz", "fid.npz"), [12, None]), (("fid.npz", "samples.npz"), [None, 12])):
        found = _json(capsys, *pair, *extractor)
        (row,) = found["metrics"]
        assert row["value"] == pytest.approx(frechet_distance(own, reference), rel=1e-9)
        assert row["counts"] == counts
        assert row["low"] < row["value"] < row["high"]
        note = "fid.npz does not say what it is of; that it is of torchscript features, resize none, weights sha256"
        assert any(line.startswith(note) for line in found["notes"])
    main(["evaluate", "samples.npz", "fid.npz", *QUICK, *extractor])
    told = capsys.readouterr().out
    assert "reference  fid.npz: mean and covariance alone\n" in told
    assert "12 and ?" in told


def test_a_model_is_compared_with_them_at_its_own_size(extractor, capsys):
    _moments(extractor[1], "fid.npz", 9, 12)
    small_pipeline().save_pretrained("model")
    found = _json(capsys, "model", "fid.npz", *extractor, "--num-images", "3", "--steps", "3")
    assert found["generated"]["image_size"] == [8, 8]


def test_what_cannot_be_compared_with_another_programs_moments_is_one_sentence(extractor, capsys, monkeypatch):
    _moments(extractor[1], "fid.npz", 9, 12)

    def error(*words: str) -> str:
        return cli_error(capsys, ["evaluate", *words, *QUICK])

    assert (
        "fid.npz does not say which features it is of; name their extractor by --inception-weights or --features"
        in (error("samples.npz", "fid.npz"))
    )
    np.savez("more.npz", mu=np.zeros(7), sigma=np.eye(7))
    # Before anything is drawn.
    small_pipeline().save_pretrained("model")
    monkeypatch.setattr("scalespace.metrics.sides.draw", None)
    assert "more.npz is of 7 features a picture, and the torchscript extractor gives 6" in error(
        "model", "more.npz", *extractor
    )
    assert "neither fid.npz nor more.npz says which features it is of" in error("fid.npz", "more.npz", *extractor)
    for metric, what in (("kid", "features"), ("swd", "pictures")):
        assert f"{metric} needs {what}, and the statistics fid.npz hold none" in error(
            "samples.npz", "fid.npz", *extractor, "--metrics", f"fid,{metric}"
        )
    assert "cannot be saved as statistics that do" in error(
        "samples.npz", "fid.npz", *extractor, "--save-statistics", "new.npz"
    )
    assert not Path("new.npz").exists()


def test_statistics_that_are_saved_of_an_array_stand_in_for_it(capsys):
    direct = _json(capsys, "samples.npz", "others.npz", "--metrics", "fid")["metrics"]
    main(["evaluate", "samples.npz", "others.npz", *QUICK, "--metrics", "fid", "--save-statistics", "others-fid.npz"])
    again = _json(capsys, "samples.npz", "others-fid.npz")["metrics"]
    assert again[0]["value"] == pytest.approx(direct[0]["value"], rel=1e-6)
    with np.load("others-fid.npz") as file:
        assert file["mu"].shape == (219,)
