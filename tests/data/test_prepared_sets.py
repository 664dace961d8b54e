"""Prepared sets: training sees of them what it would see of the files they were made from, and nothing half is left behind."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_images import fill, numbered
from tests.picture_files import encoded, flat, picture
from tests.small_models import small_config

from scalespace.data import prepared_sets
from scalespace.data.batches import BatchOrder
from scalespace.data.images import open_images
from scalespace.data.preparation import Preparation
from scalespace.data.prepared_sets import HeldOut, prepare, split, write_pictures
from scalespace.data.sources.decoding import decode_image
from scalespace.errors import UserError
from scalespace.training.loop import train

TURNED = Image.Exif()
TURNED[0x0112] = 6


def mixed() -> dict[str, bytes]:
    """Files of several kinds, sizes and classes, with names that sort otherwise when their endings change carelessly."""
    return {
        "photos/cat/a.jpg": encoded(picture(0, (40, 31)), "JPEG"),
        "photos/cat/a.b.png": encoded(picture(1, (24, 24))),
        "photos/cat/B.WEBP": encoded(picture(2, (33, 60)), "WEBP", lossless=True),
        "photos/cat/deep/er/1.bmp": encoded(picture(3, (25, 20)), "BMP"),
        "photos/dog-1/x.png": encoded(flat((9, 99, 200, 40), "RGBA", (30, 30))),
        "photos/dog/turned.jpeg": encoded(picture(4, (30, 50)), "JPEG", exif=TURNED),
        "photos/dog/small.png": encoded(picture(5, (8, 9))),
        "photos/dog/grey.png": encoded(picture(6, (20, 27)).convert("L")),
    }


def contents(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("place", ["data", "data.zip"])
@pytest.mark.parametrize("target", ["new/set", "new/set.zip"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_training_sees_the_same_pictures_classes_and_batches(tmp_path, place, target, size):
    path = fill(tmp_path / place, mixed())
    found = prepare(path, size, str(tmp_path / target), progress=False)
    raw, prepared = (open_images(p, size, progress=False) for p in (path, str(tmp_path / target)))
    assert len(raw) == len(prepared) == found.count == 8
    assert raw.classes == prepared.classes == ("cat", "dog", "dog-1")
    assert prepared.enlarged == 0
    order = BatchOrder(8, seed=3)
    for first in range(0, 20, 5):
        indices = order.indices(range(first, first + 5))
        for mine, other in zip(raw.batch(indices), prepared.batch(indices), strict=True):
            assert torch.equal(mine, other)


def test_a_run_on_the_prepared_set_is_the_run_on_the_files(tmp_path):
    path = fill(tmp_path / "data", mixed())
    prepare(path, (8, 8), str(tmp_path / "set.zip"), progress=False)
    logs = []
    for name, data in (("raw", path), ("prepared", str(tmp_path / "set.zip"))):
        run = train(small_config(tmp_path / name, data=data), progress=False, say=[].append)
        logs.append([line["losses"] for line in run.read_log()])
    assert logs[0] == logs[1]


def test_prepared_pictures_are_the_decoded_ones_and_the_same_file_every_time(tmp_path):
    path = fill(tmp_path / "faces", {f"{n}.png": encoded(picture(n, (22, 18))) for n in range(4)})
    data = open_images(path, (32, 32), cache_bytes=0, may_enlarge=True)
    for name in "ab":
        assert write_pictures(data, (1, 3), tmp_path / f"{name}.zip", progress=False) == 2
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    written = open_images(str(tmp_path / "a.zip"), (32, 32))
    for row, name in enumerate(("1.png", "3.png")):
        # The centred square of 18 pixels, enlarged.
        expected, enlarged = decode_image((tmp_path / "faces" / name).read_bytes(), (32, 32))
        assert enlarged
        assert np.array_equal(written[row]["image"].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("target", ["a", "a.zip"])
def test_folder_and_zip_give_the_same_bytes(tmp_path, target):
    for place in ("data", "data.zip"):
        prepare(fill(tmp_path / place, mixed()), (16, 16), str(tmp_path / f"{place}-{target}"), progress=False)
    assert contents(tmp_path / f"data-{target}") == contents(tmp_path / f"data.zip-{target}")
    assert list(contents(tmp_path / f"data-{target}")) != []
    if target == "a.zip":
        assert (tmp_path / "data-a.zip").read_bytes() == (tmp_path / "data.zip-a.zip").read_bytes()


def test_names_keep_their_folders_and_end_in_png(tmp_path):
    prepare(
        fill(tmp_path / "data", numbered(2) | {"x/y.jpg": encoded(picture(2), "JPEG")}), (8, 8), str(tmp_path / "s")
    )
    assert sorted(contents(tmp_path / "s")) == ["0000.png", "0001.png", "x/y.png"]


def test_two_pictures_that_differ_in_the_ending_alone_are_both_there(tmp_path):
    files = {"a.jpg": encoded(picture(0), "JPEG"), "a.png": encoded(picture(1)), "b.png": encoded(picture(2))}
    prepare(fill(tmp_path / "data", files), (8, 8), str(tmp_path / "s.zip"))
    assert list(contents(tmp_path / "s.zip")) == ["a.jpg.png", "a.png.png", "b.png.png"]


def test_names_that_would_sort_differently_are_refused(tmp_path):
    files = {"a.jpg": encoded(picture(0), "JPEG"), "a.jpg-b.png": encoded(picture(1)), "a.png": encoded(picture(2))}
    with pytest.raises(UserError, match=r"sort differently once they end in \.png; rename pictures"):
        prepare(fill(tmp_path / "data", files), (8, 8), str(tmp_path / "s.zip"))


def test_synthetic_pictures_keep_their_order(tmp_path):
    prepare("synthetic:shapes:12", (8, 8), str(tmp_path / "s.zip"), progress=False)
    raw, prepared = (open_images(p, (8, 8), progress=False) for p in ("synthetic:shapes:12", str(tmp_path / "s.zip")))
    assert torch.equal(raw.batch(range(12))[0], prepared.batch(range(12))[0])


@pytest.mark.parametrize("target", ["s", "s.zip"])
def test_names_that_lead_out_of_a_zip_lead_nowhere(tmp_path, target):
    absolute = str(tmp_path / "out.png")
    path = fill(tmp_path / "data.zip", numbered(2) | {absolute: encoded(picture(2))})
    with pytest.raises(UserError, match="leads out of its place"):
        prepare(path, (8, 8), str(tmp_path / "new" / target))
    path = fill(tmp_path / "data.zip", numbered(2) | {"../out.png": encoded(picture(2)), "a/../../out.png": b""})
    assert prepare(path, (8, 8), str(tmp_path / "new" / target)).count == 2
    assert not list(tmp_path.rglob("out.png"))


# What is left out, and what is told


def test_damaged_pictures_are_left_out_and_more_than_a_few_are_refused(tmp_path):
    files = {f"{number:03}.png": encoded(flat((number, 0, 0))) for number in range(100)}
    found = prepare(
        fill(tmp_path / "1.zip", files | {"007.png": b"damaged"}), (16, 16), str(tmp_path / "s.zip"), progress=False
    )
    assert found.count == 99
    assert "007.png" not in contents(tmp_path / "s.zip")
    assert "1 left out that cannot be decoded (007.png: not a PNG, JPEG, WebP or BMP picture)" in found.as_text()
    damaged = fill(tmp_path / "2.zip", files | {"007.png": b"damaged", "008.png": b""})
    with pytest.raises(UserError, match="cannot be decoded, more than 1 % of all 100"):
        prepare(damaged, (16, 16), str(tmp_path / "other.zip"), progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.zip", "2.zip", "s.zip"]


def test_sizes_and_enlarged_pictures_are_counted(tmp_path):
    found = prepare(fill(tmp_path / "data", mixed()), (16, 16), str(tmp_path / "s"), progress=False).preparation
    assert dict(found.sizes) == dict.fromkeys(dict(found.sizes), 1)
    # Upright, as it was turned.
    assert {size for size, _ in found.sizes} >= {(50, 30), (8, 9), (33, 60)}
    assert found.enlarged == 1
    assert "to 16x16 (height by width) as training does, 1 of them smaller and enlarged" in str(found)
    assert found.as_dict()["sizes"][0] == {"size": (8, 9), "count": 1}


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((((8, 8), 5),), ""),
        ((((8, 8), 5), ((6, 9), 2)), "brought from 6x9 to 8x8 (height by width) as training does"),
        ((((6, 9), 2), ((7, 9), 1)), "brought from 6x9 and 1 other size to 8x8 (height by width) as training does"),
        ((((6, 9), 2), ((8, 8), 1), ((7, 9), 1), ((9, 9), 1)), "brought from 6x9 and 2 other sizes to 8x8"),
        ((), ""),
    ],
)
def test_the_sentence_names_the_most_frequent_other_size(sizes, sentence):
    found = str(Preparation((8, 8), sizes))
    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


def test_animated_pictures_are_told(tmp_path):
    frames = [picture(k) for k in range(3)]
    film = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    path = fill(tmp_path / "data", numbered(3) | {"film.webp": film})
    found = prepare(path, (16, 16), str(tmp_path / "s"), progress=False).preparation
    assert str(found) == "1 of them animated, of which the first frame is taken"


def test_of_very_many_sizes_the_most_frequent_are_told(tmp_path):
    files = {f"{k:02}.png": encoded(picture(k, (8 + k % 25, 9))) for k in range(30)}
    found = prepare(fill(tmp_path / "data", files), (8, 8), str(tmp_path / "s"), progress=False).preparation
    assert (len(found.sizes), found.other_sizes) == (20, 5)
    assert found.sizes[0] == ((8, 9), 2)
    assert str(found).startswith("brought from 8x9 and 24 other sizes to 8x8")
    assert Preparation.from_dict(found.as_dict()) == found


# Held-out pictures


def test_a_split_is_decided_by_its_seed_and_parts_share_nothing():
    rest, drawn = split(50, 10, seed=0)
    assert sorted(rest + drawn) == list(range(50))
    assert (rest, drawn) == (tuple(sorted(rest)), tuple(sorted(drawn)))
    assert len(drawn) == 10
    assert split(50, 10, seed=0) == (rest, drawn)
    assert split(50, 10, seed=1)[1] != drawn


def test_held_out_pictures_are_in_a_set_of_their_own(tmp_path):
    path = fill(tmp_path / "data", numbered(40))
    found = prepare(path, (8, 8), str(tmp_path / "s.zip"), HeldOut(str(tmp_path / "h"), 0.2, seed=5), progress=False)
    rest, drawn = split(40, 8, seed=5)
    assert (found.count, found.held_out_count) == (32, 8)
    assert sorted(contents(tmp_path / "s.zip")) == [f"{number:04d}.png" for number in rest]
    assert sorted(contents(tmp_path / "h")) == [f"{number:04d}.png" for number in drawn]


@pytest.mark.parametrize("first", ["s", "s.zip"])
def test_one_part_is_not_left_without_the_other(tmp_path, monkeypatch, first):
    path = fill(tmp_path / "data", numbered(20))
    write = prepared_sets.write_file

    def full(target, writer):
        if target.name == "h.zip":
            raise UserError("the disk is full")
        write(target, writer)

    monkeypatch.setattr(prepared_sets, "write_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        prepare(path, (8, 8), str(tmp_path / first), HeldOut(str(tmp_path / "h.zip")), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("target", ["s", "s.zip"])
def test_nothing_is_left_of_work_that_is_interrupted(tmp_path, monkeypatch, target):
    path = fill(tmp_path / "data", numbered(5))

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared_sets, "_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(path, (8, 8), str(tmp_path / target), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
