"""Folders of drawn pictures, whose sheets are no pictures of the set."""

import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.picture_files import drawn_by, encoded, picture
from tests.small_models import small_pipeline

from scalespace.cli import main
from scalespace.data.images import open_images
from scalespace.data.sources.opening import open_source
from scalespace.tasks.given import open_given

SIZE = (8, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawing") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "out"
    words = ["--steps", "2", "--num-images", "3", "--quiet", "--trajectory"]
    main(["sample", str(model), "--output", str(folder), *words])
    assert len(list(folder.iterdir())) == 5
    return folder


def _packed(folder: Path, kind: str, place: Path) -> Path:
    files = sorted(folder.iterdir())
    if kind == "folder":
        return folder
    if kind == "zip":
        with zipfile.ZipFile(place / "drawn.zip", "w") as archive:
            for file in files:
                archive.write(file, f"inner/{file.name}")
        return place / "drawn.zip"
    with tarfile.open(place / "drawn.tar", "w") as archive:
        for file in files:
            archive.add(file, file.name)
    if kind == "tar":
        return place / "drawn.tar"
    return place


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "folder of tar"])
def test_sheets_are_left_out_and_told_wherever_the_pictures_lie(kind, drawn, tmp_path):
    data = open_images(str(_packed(drawn, kind, tmp_path)), SIZE, cache_bytes=0)
    assert [Path(name).name for name in data.names] == ["000000.png", "000001.png", "000002.png"]
    assert "2 files were not read: 2 of other drawn pictures side by side" in str(data.left_out)
    for number in range(3):
        alone = open_given([str(drawn / f"{number:06d}.png")], [SIZE], 3).batch([0])[0]
        assert np.abs((data[number]["image"].numpy() / 127.5 - 1) - alone.numpy()).max() < 1e-6


def test_what_is_left_has_the_identity_of_a_folder_without_sheets(drawn, tmp_path):
    for number in range(3):
        (tmp_path / f"{number:06d}.png").write_bytes((drawn / f"{number:06d}.png").read_bytes())
    with_sheets, without = (open_images(str(folder), SIZE, cache_bytes=0) for folder in (drawn, tmp_path))
    assert with_sheets.fingerprint == without.fingerprint
    assert with_sheets.former_fingerprint == without.former_fingerprint
    copy = pickle.loads(pickle.dumps(with_sheets))
    assert (copy[2]["image"] == without[2]["image"]).all()


def test_prepare_upscale_and_evaluate_take_the_pictures_alone(model, drawn, tmp_path, capsys):
    main(["prepare", str(drawn), "--size", "8", "8", "--output", str(tmp_path / "set.zip"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["count"] == 3
    assert any("2 of other drawn pictures side by side" in line for line in told["found"])
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert archive.namelist() == ["000000.png", "000001.png", "000002.png"]
    small = ["--stop-at-size", "4", "4", "--steps", "2", "--num-images", "2", "--quiet"]
    main(["sample", str(model), "--output", str(tmp_path / "small"), *small])
    main(["upscale", "--model", str(model), str(tmp_path / "small"), "--steps", "2", "--output", str(tmp_path / "big")])
    capsys.readouterr()
    # Those that were drawn from pictures are told from their grid as well.
    main(["evaluate", str(tmp_path / "big"), str(drawn), "--metrics", "colour", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [told[side]["count"] for side in ("generated", "reference")] == [2, 3]


def test_several_variations_of_a_picture_are_known_too(tmp_path):
    for name in ("000000-000.png", "000000-001.png", "grid.png"):
        (tmp_path / name).write_bytes(encoded(picture(len(name)), pnginfo=drawn_by()))
    assert open_source(str(tmp_path)).names == ("000000-000.png", "000000-001.png")


@pytest.mark.parametrize("first", ["000000.png", "cat.png"])
def test_pictures_of_such_names_that_nobody_drew_stay(first, tmp_path):
    names = (first, "grid.png", "my grid.png", "trajectory.png")
    for name in names:
        (tmp_path / name).write_bytes(encoded(picture(len(name))))
    # Nor does a folder tell anything of another.
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "000000.png").write_bytes(encoded(picture(1), pnginfo=drawn_by()))
    source = open_source(str(tmp_path))
    assert source.names == tuple(sorted((*names, "below/000000.png")))
    assert str(source.left_out) == ""
    # A first picture that is damaged tells nothing, and is met when it is decoded.
    (tmp_path / "below" / "000000.png").write_bytes(b"none")
    (tmp_path / "below" / "grid.png").write_bytes(encoded(picture(1)))
    assert len(open_source(str(tmp_path)).names) == 6
