"""Both sides of a comparison are brought to one size, as training brings pictures there, and what was done is told."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.picture_files import drawn_by, encoded, flat, picture
from tests.small_models import SMALL_OPTIONS, cli_error, small_pipeline, train_words

from scalespace.cli import main
from scalespace.data.images import open_images
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.evaluate import INCEPTION_VARIABLE
from scalespace.metrics.sides import open_side, open_sides
from scalespace.metrics.statistics import read_statistics

QUICK = ("--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def _pictures(name: str, *sizes: tuple[int, int], first: int = 0) -> str:
    """A folder with one picture of every size."""
    Path(name).mkdir()
    for k, size in enumerate(sizes):
        (Path(name) / f"{k:04}.jpg").write_bytes(encoded(picture(first + k, size), "JPEG", quality=95))
    return name


@pytest.fixture
def photos() -> str:
    return _pictures("photos", *[(24, 40)] * 3, *[(30, 20)] * 2, (17, 17), first=100)


@pytest.fixture
def drawn() -> str:
    return _pictures("drawn", *[(16, 16)] * 5)


def _json(capsys, *words: str) -> dict:
    capsys.readouterr()
    main(["evaluate", *words, *QUICK, "--metrics", "colour", "--json"])
    return json.loads(capsys.readouterr().out)


# One size


def test_raw_photographs_are_seen_as_training_sees_them(photos, drawn):
    _, reference = open_sides(drawn, photos, Sampling(), progress=False)
    assert reference.image_size == (16, 16)
    assert reference.pictures is not None
    assert torch.equal(reference.pictures, open_images(photos, (16, 16), progress=False).batch(range(6))[0])


def test_the_readme_compares_drawn_pictures_with_the_raw_photographs(photos, drawn, capsys):
    main(["evaluate", drawn, photos, *QUICK, "--neighbours", "3"])
    output = capsys.readouterr().out
    assert "generated  drawn: 5 pictures of 16x16\n" in output
    told = "brought from 24x40 and 2 other sizes to 16x16 (height by width) as training does"
    assert f"reference  photos: 6 pictures, {told}\n" in output
    found = _json(capsys, drawn, photos)
    assert found["generated"]["preparation"]["resized"] is False
    preparation = found["reference"]["preparation"]
    assert preparation["sizes"][0] == {"size": [24, 40], "count": 3}
    assert (preparation["resized"], preparation["enlarged"], preparation["left_out"]) == (True, 0, [])


def test_the_commands_of_the_readme_follow_one_another_on_raw_photographs(photos, capsys):
    main(["plan", *SMALL_OPTIONS, "--data", photos])
    # Two steps that are large enough to give the pictures some colour.
    main(train_words(Path("run"), "--learning-rate", "0.01", data=photos))
    main(
        [
            "sample",
            "run/model",
            "--num-images",
            "4",
            "--steps",
            "4",
            "--output",
            "pictures",
            "--quiet",
            "--device",
            "cpu",
        ]
    )
    main(["evaluate", "pictures", photos, *QUICK, "--metrics", "swd,spectrum,colour"])
    told = "6 pictures, brought from 24x40 and 2 other sizes to 8x8 (height by width) as training does"
    assert f"reference  {photos}: {told}\n" in capsys.readouterr().out


def test_raw_and_prepared_photographs_give_the_same_figures(photos, drawn, capsys):
    main(["prepare", photos, "--size", "16", "16", "--output", "photos16.zip", "--quiet"])
    raw, prepared = (_json(capsys, drawn, side)["metrics"] for side in (photos, "photos16.zip"))
    assert raw == prepared


def test_a_model_gives_the_size(photos, capsys):
    small_pipeline().save_pretrained("model")
    for pair in (("model", photos), (photos, "model")):
        found = _json(capsys, *pair, "--num-images", "3", "--steps", "3")
        assert [found[side]["image_size"] for side in ("generated", "reference")] == [[8, 8], [8, 8]]


@pytest.mark.parametrize(
    ("generated", "reference", "size"),
    [
        ("drawn", "photos", (16, 16)),
        # The generated side goes before, and where it does not say it the other does.
        ("prepared", "drawn", (14, 16)),
        ("drawn", "prepared", None),
        ("photos", "drawn", (16, 16)),
        ("synthetic:shapes:3", "prepared", (14, 16)),
        ("prepared", "synthetic:shapes:3", (14, 16)),
        ("synthetic:shapes:3", "synthetic:shapes:4", (64, 64)),
    ],
)
def test_who_gives_the_size(generated, reference, size, photos, drawn):
    _pictures("prepared", *[(14, 16)] * 4)
    if size is None:
        # Most of the reference would have to be enlarged.
        with pytest.raises(ValueError, match="are smaller than the image size 16x16"):
            open_sides(generated, reference, Sampling(), progress=False)
    else:
        assert [s.image_size for s in open_sides(generated, reference, Sampling(), progress=False)] == [size, size]


def test_two_raw_folders_are_compared_at_the_size_that_is_given(photos, capsys):
    other = _pictures("other", (20, 40), (40, 20))
    message = (
        f"the pictures of {photos} and of {other} differ in size, so they do not say at which size to compare them"
    )
    assert message in cli_error(capsys, ["evaluate", photos, other, *QUICK])
    assert "give it by --size HEIGHT WIDTH" in cli_error(capsys, ["evaluate", photos, other, *QUICK])
    found = _json(capsys, photos, other, "--size", "12", "16")
    assert [found[side]["image_size"] for side in ("generated", "reference")] == [[12, 16], [12, 16]]


def test_one_raw_folder_beside_synthetic_pictures_needs_a_size_too(photos, capsys):
    error = cli_error(capsys, ["evaluate", photos, "synthetic:shapes:5", *QUICK])
    assert "the pictures of photos differ in size" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("drawn photos --size 0 16", "--size is 0 16; give a height and a width of at least 1 pixel"),
        ("drawn photos --size 32 32", "of 5 pictures looked at in drawn are smaller than the image size 32x32"),
        (
            "model photos --size 16 16",
            "--size is 16x16, and model has pictures of 8x8 (height by width); leave --size out",
        ),
        ("drawn saved.npz --size 8 8", "--size is 8x8, and saved.npz has pictures of 16x16"),
    ],
)
def test_a_size_that_does_not_fit_is_one_sentence(words, sentence, photos, drawn, capsys):
    small_pipeline().save_pretrained("model")
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "fid", "--save-statistics", "saved.npz"])
    assert sentence in cli_error(capsys, ["evaluate", *words.split(), *QUICK])


def test_a_model_and_statistics_of_other_sizes_are_refused_before_drawing(photos, drawn, capsys, monkeypatch):
    small_pipeline().save_pretrained("model")
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "fid", "--save-statistics", "saved.npz"])
    monkeypatch.setattr("scalespace.metrics.sides.draw", lambda *_: pytest.fail("drawn"))
    error = cli_error(capsys, ["evaluate", "model", "saved.npz", *QUICK])
    assert "model has pictures of 8x8 and saved.npz of 16x16 (height by width); give both sides one size" in error


# What is told


def test_smaller_pictures_are_enlarged_as_in_training_and_counted(photos, drawn, capsys):
    (Path(photos) / "small.png").write_bytes(encoded(picture(9, (10, 30))))
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "colour"])
    assert "as training does, 1 of them smaller and enlarged" in capsys.readouterr().out
    assert _json(capsys, drawn, photos)["reference"]["preparation"]["enlarged"] == 1


def test_a_few_damaged_pictures_are_left_out_and_named(drawn, capsys):
    _pictures("photos", *[(20, 20)] * 150)
    (Path("photos") / "0007.jpg").write_bytes(b"")
    found = _json(capsys, drawn, "photos")
    assert found["reference"]["count"] == 149
    assert found["metrics"][0]["counts"] == [5, 149]
    assert found["reference"]["preparation"]["left_out"] == [{"name": "0007.jpg", "reason": "the file is empty"}]
    side = open_side("photos", Sampling(), (20, 20), progress=False)
    assert side.pictures is not None
    # No picture is there twice, as the next one is for training.
    assert len(side.pictures.unique(dim=0)) == 149


def test_pictures_that_are_all_damaged_are_named_and_not_their_sizes(drawn, capsys):
    Path("bad").mkdir()
    for k in range(3):
        (Path("bad") / f"{k}.png").write_bytes(b"\x89PNG and no more")
    for pair in (("bad", drawn), (drawn, "bad"), ("bad", "synthetic:shapes:3")):
        assert "(0.png: not a PNG, JPEG, WebP or BMP picture" in cli_error(capsys, ["evaluate", *pair, *QUICK])


def test_sheets_beside_drawn_pictures_give_no_size(photos, capsys):
    Path("sampled").mkdir()
    for k in range(4):
        (Path("sampled") / f"{k:06}.png").write_bytes(encoded(picture(k), pnginfo=drawn_by()))
    (Path("sampled") / "grid.png").write_bytes(encoded(flat("red", size=(66, 66))))
    found = _json(capsys, "sampled", photos)
    assert (found["generated"]["count"], found["reference"]["image_size"]) == (4, [16, 16])
    assert found["generated"]["preparation"]["sizes"] == [{"size": [16, 16], "count": 4}]


def test_pictures_are_measured_upright(drawn):
    Path("turned").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(2):
        (Path("turned") / f"{k}.png").write_bytes(encoded(picture(k, (30, 20)), exif=exif))
    side = open_side("turned", Sampling(), progress=False)
    assert side.image_size == (20, 30)
    assert side.pictures is not None
    assert (
        side.pictures[0].permute(1, 2, 0).numpy() == np.asarray(picture(0, (30, 20)).rotate(-90, expand=True))
    ).all()


# Statistics


def test_statistics_remember_how_their_pictures_were_prepared(photos, drawn, capsys):
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "fid", "--save-statistics", "saved.npz"])
    capsys.readouterr()
    main(["evaluate", drawn, "saved.npz", *QUICK, "--metrics", "fid"])
    told = "brought from 24x40 and 2 other sizes to 16x16 (height by width) as training does"
    assert f"reference  saved.npz (photos): 6 pictures, {told}\n" in capsys.readouterr().out
    assert read_statistics(Path("saved.npz")).preparation == open_sides(drawn, photos, Sampling())[1].preparation
    # Raw pictures are brought to the size of the statistics.
    main(["evaluate", photos, "saved.npz", *QUICK, "--metrics", "fid", "--json"])
    assert json.loads(capsys.readouterr().out)["generated"]["image_size"] == [16, 16]


def test_statistics_of_pictures_that_were_prepared_by_another_rule_are_refused(photos, drawn, capsys, monkeypatch):
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "fid", "--save-statistics", "raw.npz"])
    main(["evaluate", photos, drawn, *QUICK, "--metrics", "fid", "--save-statistics", "equal.npz"])
    monkeypatch.setattr("scalespace.metrics.sides.DECODING_RULE", "squeezed")
    error = cli_error(capsys, ["evaluate", drawn, "raw.npz", *QUICK])
    assert "were brought to their size by another rule than that of this version" in error
    assert "make them again" in error
    # Where nothing was resized nothing depends on it.
    main(["evaluate", drawn, "equal.npz", *QUICK, "--metrics", "fid"])


def test_statistics_of_earlier_versions_are_read(photos, drawn, capsys):
    main(["evaluate", drawn, photos, *QUICK, "--metrics", "fid", "--save-statistics", "saved.npz"])
    with np.load("saved.npz") as archive:
        arrays = dict(archive)
    about = json.loads(str(arrays["about"]))
    del about["preparation"]
    np.savez("saved.npz", **arrays | {"about": np.array(json.dumps(about))})
    assert read_statistics(Path("saved.npz")).preparation is None
    main(["evaluate", drawn, "saved.npz", *QUICK, "--metrics", "fid"])


# Grey


def _grey(name: str, count: int = 5) -> str:
    Path(name).mkdir()
    for k in range(count):
        (Path(name) / f"{k:04}.png").write_bytes(encoded(picture(k).convert("L")))
    return name


def test_a_reference_in_colour_is_converted_for_generated_pictures_of_one_channel(photos, capsys):
    generated, reference = open_sides(_grey("grey"), photos, Sampling(), progress=False)
    assert reference.pictures is not None
    expected = open_images(photos, (16, 16), channels=1, progress=False).batch(range(6))[0].expand(-1, 3, -1, -1)
    assert torch.equal(reference.pictures, expected)
    assert generated.pictures is not None
    assert (generated.pictures[3, 1].numpy() == np.asarray(picture(3).convert("L"))).all()
    assert str(reference).endswith("6 of them in colour and converted to luminance")
    assert _json(capsys, "grey", photos)["reference"]["preparation"]["luminance"] == 6
    main(["evaluate", "grey", photos, *QUICK, "--neighbours", "3"])
    assert "Both sides are grey, and features and distances are of three equal channels." in capsys.readouterr().out


def test_a_reference_that_is_grey_too_is_left_as_it_is(tmp_path):
    _, reference = open_sides(_grey("grey"), _grey("other", 4), Sampling(), progress=False)
    assert reference.preparation is not None
    assert (reference.grey, reference.preparation.luminance, reference.count) == (True, 0, 4)


def test_a_model_of_one_channel_is_compared_with_the_luminance_of_a_reference(tmp_path, capsys):
    small_pipeline(in_channels=1, out_channels=1).save_pretrained(tmp_path / "model")
    small_pipeline().save_pretrained(tmp_path / "coloured")
    drawing = ("--num-images", "5", "--steps", "4")
    photos = _pictures("photos", *[(8, 8)] * 6)
    for reference, told in ((photos, 6), ("coloured", 5)):
        found = _json(capsys, "model", reference, *drawing)
        assert found["reference"]["preparation"]["luminance"] == told
        assert next(row["value"] for row in found["metrics"] if row["key"] == "colour_saturation") == 0
    # Colour may be missing from pictures that are compared with grey ones, but it may not be taken away.
    assert "give both sides in colour or both in grey" in cli_error(capsys, ["evaluate", photos, "model", *drawing])


def test_statistics_know_whether_they_are_of_grey_pictures(photos, drawn, capsys):
    def save(generated: str, reference: str, name: str) -> None:
        main(["evaluate", generated, reference, "--metrics", "fid", "--save-statistics", name, *QUICK])

    save(_grey("grey"), photos, "luminance.npz")
    save(drawn, photos, "colour.npz")
    assert [read_statistics(Path(f"{name}.npz")).grey for name in ("luminance", "colour")] == [True, False]
    for generated, statistics, fits in (
        *(("grey", "luminance", True), ("grey", "colour", False)),
        *((drawn, "luminance", False), (drawn, "colour", True)),
    ):
        words = ["evaluate", generated, f"{statistics}.npz", "--metrics", "fid", *QUICK]
        if fits:
            main(words)
        else:
            assert "are not; give both sides in colour or both in grey" in cli_error(capsys, words)


# What lies beside the pictures


def test_what_is_not_read_is_told_and_not_kept_with_what_is_measured(photos, drawn, capsys):
    for count in (1, 2):
        Path(photos, f"{count}.gif").write_bytes(b"GIF89a")
        found = _json(capsys, drawn, photos)["reference"]["preparation"]["not_read"]
        files = "1 file was" if count == 1 else "2 files were"
        assert found == f"{files} not read: {count} .gif"


@pytest.mark.parametrize("wrapper", ["", "pictures/"])
def test_sheets_of_drawn_pictures_are_left_out_wherever_their_folder_is(wrapper, tmp_path):
    with zipfile.ZipFile("drawn.zip", "w") as archive:
        for name in ("000000.png", "000001.png", "grid.png", "trajectory.png"):
            archive.writestr(wrapper + name, encoded(picture(len(name), (16, 16)), pnginfo=drawn_by()))
        archive.writestr("elsewhere/grid.png", encoded(picture(3, (16, 16))))
    assert open_side("drawn.zip", Sampling(), progress=False).count == 3
