"""Training pictures: every kind of container and damage, and one identity however they are read."""

import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.picture_files import encoded, flat, picture
from torch.utils.data import DataLoader

from scalespace.data.images import BadImage, ImageDataset, open_images
from scalespace.data.luminance import luminance
from scalespace.data.shapes import shapes
from scalespace.errors import UserError

SHARED = Path(os.environ.get("SCALESPACE_SHARED", Path(__file__).parents[3] / "shared"))


def fill(place: Path, files: dict[str, bytes]) -> str:
    """Write files into a folder, or into a zip where the place is called so."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    return str(place)


def numbered(count: int) -> dict[str, bytes]:
    return {f"{index:04d}.png": encoded(picture(index)) for index in range(count)}


def quietly(path: str, image_size: tuple[int, int] = (16, 16), **options: object) -> ImageDataset:
    return open_images(path, image_size, progress=False, **options)  # type: ignore[arg-type]  # passed on


# Containers


@pytest.mark.parametrize("place", ["data", "data.zip"])
def test_nested_pictures_are_found_in_the_order_of_their_names(tmp_path, place):
    files = {
        "b/deep/er/1.PNG": encoded(flat((1, 1, 1))),
        "a/2.jpeg": encoded(flat((2, 2, 2)), "JPEG"),
        "a/1.bmp": encoded(flat((3, 3, 3)), "BMP"),
        "a/notes.txt": b"no picture",
        ".hidden/1.png": b"no picture",
        "a/._1.png": b"no picture",
        "__MACOSX/a/1.png": b"no picture",
    }
    data_set = quietly(fill(tmp_path / place, files))
    assert [int(data_set[i]["image"][0, 0, 0]) for i in range(3)] == [3, 2, 1]
    assert len(data_set) == 3
    assert data_set.bad == ()


@pytest.mark.parametrize("place", ["data", "data.zip"])
@pytest.mark.parametrize("wrapper", ["", "photos/", "photos/train/"])
def test_classes_are_the_top_folders_inside_of_what_wraps_them(tmp_path, place, wrapper):
    names = ["zebra/1.png", "cat/1.png", "cat/kittens/2.png", "dog/1.png"]
    data_set = quietly(fill(tmp_path / place, {wrapper + name: encoded(picture(0)) for name in names}))
    assert data_set.classes == ("cat", "dog", "zebra")
    assert [data_set[i]["label"] for i in range(4)] == [0, 0, 1, 2]
    assert data_set.batch([3, 0])[1].tolist() == [2, 0]


@pytest.mark.parametrize("names", [["1.png", "2.png"], ["cat/1.png", "cat/2.png"], ["1.png", "cat/2.png"]])
def test_there_are_no_classes_where_folders_do_not_tell_pictures_apart(tmp_path, names):
    data_set = quietly(fill(tmp_path / "data", {name: encoded(picture(0)) for name in names}))
    assert data_set.classes == ()
    assert data_set.batch([0, 1])[1].tolist() == [0, 0]


def test_splits_are_not_taken_for_classes(tmp_path):
    files = {f"{split}/{name}/1.png": encoded(picture(0)) for split in ("train", "test") for name in ("cat", "dog")}
    with pytest.raises(UserError, match=r"data holds several splits \(test, train\) and not classes; give one"):
        quietly(fill(tmp_path / "data", files))


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "elsewhere", numbered(2))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert len(quietly(str(tmp_path / "data"))) == 2


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "data", numbered(1))
    assert len(quietly("~/data")) == 1


def test_synthetic_pictures_are_those_of_their_source():
    data_set = quietly("synthetic:shapes:7", (12, 20))
    assert len(data_set) == 7
    assert data_set.classes == ()
    assert np.array_equal(data_set[4]["image"].permute(1, 2, 0).numpy(), shapes(4, (12, 20)))


def test_a_synthetic_source_has_a_length_of_its_own():
    assert len(quietly("synthetic:shapes", cache_bytes=0)) == 10_000


# Reading


@pytest.mark.parametrize("place", ["data", "data.zip"])
def test_cached_and_uncached_data_are_the_same(tmp_path, place):
    path = fill(tmp_path / place, numbered(40))
    cached, uncached = quietly(path), quietly(path, cache_bytes=40 * 16 * 16 * 3 - 1)
    assert (cached.cached, uncached.cached) == (True, False)
    index = torch.tensor([3, 0, 39, 3, 17])
    for mine, other in zip(cached.batch(index), uncached.batch(index), strict=True):
        assert torch.equal(mine, other)
    assert cached.batch(index)[0].shape == (5, 3, 16, 16)
    assert cached.batch(index)[0].dtype == torch.uint8
    assert torch.equal(uncached[17]["image"], cached.batch([17])[0][0])
    assert index.tolist() == [3, 0, 39, 3, 17]


@pytest.mark.parametrize(("place", "start"), [("data", "fork"), ("data.zip", "fork"), ("data.zip", "spawn")])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
def test_workers_read_what_the_main_process_reads(tmp_path, place, start):
    data_set = quietly(fill(tmp_path / place, numbered(24)), cache_bytes=0, on_bad=lambda bad: None)
    expected = data_set.batch(range(24))[0]
    loader = DataLoader(data_set, batch_size=4, num_workers=2, multiprocessing_context=start)
    assert torch.equal(torch.cat([items["image"] for items in loader]), expected)


def test_a_data_set_can_be_pickled(tmp_path):
    data_set = quietly(fill(tmp_path / "data.zip", numbered(3)), cache_bytes=0, on_bad=lambda bad: None)
    copy = pickle.loads(pickle.dumps(data_set))
    assert torch.equal(copy[2]["image"], data_set[2]["image"])


def test_indices_outside_of_the_data_are_refused(tmp_path):
    for cache_bytes in (0, 10**6):
        data_set = quietly(fill(tmp_path / "data", numbered(3)), cache_bytes=cache_bytes)
        assert torch.equal(data_set[-1]["image"], data_set[2]["image"])
        with pytest.raises(IndexError):
            data_set[3]
        with pytest.raises(IndexError):
            data_set.batch([0, 3])
    with pytest.raises(IndexError):
        quietly("synthetic:shapes:5", cache_bytes=0).batch([5])


def test_the_fingerprint_is_the_identity_of_the_training_data(tmp_path):
    files = numbered(3)
    original = quietly(fill(tmp_path / "here", files)).fingerprint
    assert quietly(fill(tmp_path / "there", files), cache_bytes=0).fingerprint == original
    changed = [
        quietly(str(tmp_path / "here"), (16, 12)),
        quietly(fill(tmp_path / "renamed", {"x" + name: data for name, data in files.items()})),
        quietly(fill(tmp_path / "fewer", dict(list(files.items())[:2]))),
        quietly(fill(tmp_path / "other", files | {"0001.png": encoded(picture(9)) + b"more"})),
        quietly("synthetic:shapes:3"),
        quietly("synthetic:shapes:4"),
    ]
    assert len({original} | {data_set.fingerprint for data_set in changed}) == 7


def test_pictures_replaced_under_their_names_sizes_and_times_are_other_data(tmp_path):
    files = {f"{index}.bmp": encoded(flat((index, 0, 0)), "BMP") for index in range(12)}
    path = fill(tmp_path / "data", files)
    before = quietly(path).fingerprint
    for index, name in enumerate(files):
        file = tmp_path / "data" / name
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        file.write_bytes(encoded(flat((0, index + 1, 0)), "BMP"))
        os.utime(file, ns=times)
    assert quietly(path).former_fingerprint == quietly(fill(tmp_path / "copy", files)).former_fingerprint
    assert quietly(path).fingerprint != before
    assert quietly(str(tmp_path / "copy")).fingerprint == before


@pytest.mark.parametrize("wrapper", ["", "photos/", "photos/train/"])
def test_a_folder_and_a_zip_of_it_are_the_same_data(tmp_path, wrapper):
    files = {f"{'ab'[index % 2]}/{index}.png": encoded(picture(index)) for index in range(6)}
    wrapped = {wrapper + name: data for name, data in files.items()}
    folder, packed = fill(tmp_path / "data", files), fill(tmp_path / "data.zip", wrapped)
    assert quietly(folder).fingerprint == quietly(packed).fingerprint
    exchanged = files | {"a/0.png": files["b/1.png"], "b/1.png": files["a/0.png"]}
    assert quietly(fill(tmp_path / "exchanged", exchanged)).fingerprint != quietly(folder).fingerprint


def test_a_zip_with_one_pixel_changed_is_another_data_set(tmp_path):
    versions = [encoded(flat((0, 0, level)), "BMP") for level in (1, 2)]
    paths = [fill(tmp_path / f"{number}.zip", {"a.bmp": data}) for number, data in enumerate(versions)]
    assert quietly(paths[0]).fingerprint != quietly(paths[1]).fingerprint


def test_smaller_pictures_are_enlarged_and_counted(tmp_path):
    files = numbered(5) | {"small.png": encoded(flat((9, 9, 9), size=(8, 20)))}
    for cache_bytes in (0, 10**6):
        data_set = quietly(fill(tmp_path / "data", files), cache_bytes=cache_bytes)
        assert data_set.batch([5, 5, 0])[0][:2].unique().tolist() == [9]
        assert data_set.enlarged == 1


def test_cached_pictures_are_read_faster_than_2000_a_second():
    data_set = quietly("synthetic:shapes:64", (64, 64))
    index = torch.arange(64)
    start = time.perf_counter()
    for _ in range(50):
        data_set.batch(index)
    together = 50 * 64 / (time.perf_counter() - start)
    start = time.perf_counter()
    for number in range(64):
        data_set[number]
    singly = 64 / (time.perf_counter() - start)
    assert together > 2000
    assert singly > 2000


# What is told


@pytest.mark.parametrize("place", ["data", "data.zip"])
def test_all_that_is_not_read_is_counted_and_told(tmp_path, place):
    files = {"a/1.png": encoded(picture(0)), "b/x/2.png": encoded(picture(1))}
    files |= {f"a/{index}.gif": b"GIF89a" for index in range(3)}
    files |= {"b/.DS_Store": b"", "Thumbs.db": b"", "README": b"", "a/raw.HEIC": b"", ".git/x.png": b"", ".git/y": b""}
    found = quietly(fill(tmp_path / place, files)).found()
    git = "9 files were not read: 3 .gif, 3 hidden, 1 .db" if place == "data.zip" else ""
    folder = "7 files were not read: 3 .gif, 1 .db, 1 .heic, 1 hidden, 1 without an ending; 1 hidden folder not entered"
    assert found[0].startswith(f"2 pictures in 2 classes; {git or folder}")
    assert found[1:] == ("classes: a (1), b (1); pictures in folders further down belong to the first folder",)


def test_many_kinds_of_files_are_told_in_one_line(tmp_path):
    files = {"1.png": encoded(picture(0))} | {f"{index}.{'abcdefghij'[index]}x": b"" for index in range(10)}
    found = quietly(fill(tmp_path / "data", files)).found()
    assert found == ("1 picture; 10 files were not read: 1 .ax, 1 .bx, 1 .cx, 1 .dx, 1 .ex, 1 .fx, 4 of other kinds",)


@pytest.mark.parametrize("place", ["data", "data.zip"])
def test_class_folders_without_pictures_are_told(tmp_path, place):
    files = {"a/1.png": encoded(picture(0)), "b/2.png": encoded(picture(1))}
    path = fill(tmp_path / place, files)
    if place == "data":
        (tmp_path / "data" / "owl").mkdir()
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.mkdir("owl")
    assert quietly(path).found()[-1] == "no pictures in owl"


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = fill(tmp_path / "data", {f"{name}/1.png": encoded(picture(0)) for name in "abc"})
    scan = os.scandir

    def forbidding(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert quietly(path).found()[0] == "2 pictures in 2 classes; the folder b cannot be read (Permission denied)"
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); check that it is whole"):
        quietly(str(tmp_path / "data" / "b"))


def test_a_link_to_a_folder_that_is_read_already_is_named(tmp_path):
    path = fill(tmp_path / "data", {"a/1.png": encoded(picture(0)), "b/1.png": encoded(picture(0))})
    (tmp_path / "data" / "c").symlink_to(tmp_path / "data" / "a")
    assert quietly(path).found()[0] == "2 pictures in 2 classes; the folder c is read already under another name"


def test_zips_of_windows_have_folders_too(tmp_path):
    path = fill(tmp_path / "data.zip", {f"{name}\\{name}.png": encoded(picture(0)) for name in "ab"})
    data_set = quietly(path)
    assert data_set.classes == ("a", "b")
    assert data_set.batch([0, 1])[1].tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_comes_twice_in_a_zip_is_counted_and_the_later_one_holds(tmp_path):
    path = fill(tmp_path / "data.zip", {"a.png": encoded(flat((1, 1, 1)))})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", encoded(flat((2, 2, 2))))
    data_set = quietly(path)
    assert data_set.found() == ("1 picture; 1 file was not read: 1 of a name that comes again",)
    assert int(data_set[0]["image"].max()) == 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("cache_bytes", [0, 10**8])
def test_of_animated_pictures_the_first_frame_is_used_and_it_is_told(tmp_path, kind, cache_bytes):
    frames = [flat((0, 0, level)) for level in (50, 100, 150)]
    options = {"save_all": True, "append_images": frames[1:]} | ({"lossless": True} if kind == "WEBP" else {})
    files = {"a.png": encoded(picture(0)), f"b.{kind.lower()}": encoded(frames[0], kind, **options)}
    data_set = quietly(fill(tmp_path / "data", files), cache_bytes=cache_bytes)
    assert int(data_set[1]["image"].max()) == 50
    data_set.look()
    assert data_set.met() == ("1 of 2 pictures is animated, and only the first frame is used",)


@pytest.mark.parametrize("cache_bytes", [0, 10**8])
def test_enlarged_and_damaged_pictures_are_told(tmp_path, cache_bytes):
    files = numbered(150) | {"small.png": encoded(flat((9, 0, 0), size=(8, 20))), "0000.png": b""}
    data_set = quietly(fill(tmp_path / "data", files), cache_bytes=cache_bytes)
    data_set.batch([0, 150])
    pictures = "151 pictures" if data_set.cached else "the 3 pictures read so far"
    assert data_set.met() == (
        f"1 of {pictures} is smaller than the image size and enlarged to it",
        f"1 of {pictures} could not be decoded and was skipped",
    )


# Channels


def test_luminance_is_that_of_pillow():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 52, 3)
    assert np.array_equal(luminance(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=-1)
    assert np.array_equal(luminance(greys), greys[..., :1])


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_pictures_of_one_channel_are_their_luminance_and_it_is_told(tmp_path, cache_bytes):
    files = {f"{index}.png": encoded(picture(index)) for index in range(3)}
    files |= {"3.png": encoded(picture(3).convert("L")), "4.png": encoded(picture(4).convert("L").convert("RGB"))}
    data_set = quietly(fill(tmp_path / "data", files), channels=1, cache_bytes=cache_bytes)
    images = data_set.batch(range(5))[0]
    assert images.shape == (5, 1, 16, 16)
    for index in range(5):
        assert np.array_equal(images[index, 0].numpy(), np.asarray(picture(index).convert("L")))
    assert data_set[2]["image"].shape == (1, 16, 16)
    assert data_set.met() == ("3 of 5 pictures are in colour and converted to luminance",)


def test_grey_pictures_among_others_get_three_channels_and_it_is_told(tmp_path):
    files = {"0.png": encoded(picture(0)), "1.png": encoded(picture(1).convert("L"))}
    some = quietly(fill(tmp_path / "some", files))
    assert (some[1]["image"] == some[1]["image"][:1]).all()
    assert some.met() == ("1 of 2 pictures is grey, with three equal channels",)
    every = quietly(fill(tmp_path / "all", {"1.png": files["1.png"]}))
    assert every.met()[1:] == ("all are grey; --process.channels 1 trains on one channel",)


def test_the_same_pictures_in_grey_are_other_data(tmp_path):
    path = fill(tmp_path / "data", numbered(3))
    assert quietly(path, channels=1).fingerprint != quietly(path).fingerprint


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_files_have_one_or_three_channels(channels):
    with pytest.raises(UserError, match=f"channels is {channels}; pictures from files have 3 channels, or 1 for grey"):
        quietly("synthetic:shapes:3", channels=channels)


# Bad input


@pytest.mark.filterwarnings("error")
def test_damaged_metadata_costs_neither_the_picture_nor_a_warning(tmp_path):
    data = encoded(flat((0, 0, 255)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    data_set = quietly(fill(tmp_path / "data", {"a.jpg": data}))
    assert data_set.bad == ()
    assert data_set[0]["image"][2].min() > 250


DAMAGED = {
    "empty": b"",
    "text": b"this is not a picture",
    "truncated": encoded(picture(3, (64, 64)))[:600],
    "truncated-jpeg": encoded(picture(3, (64, 64)), "JPEG")[:700],
    "header-only": encoded(picture(3))[:30],
}


@pytest.mark.parametrize("place", ["data", "data.zip"])
@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("cache_bytes", [0, 10**8])
def test_a_damaged_picture_is_named_skipped_and_counted(tmp_path, place, damage, cache_bytes):
    files = numbered(100) | {"0050.png": DAMAGED[damage]}
    reported: list[BadImage] = []
    data_set = quietly(fill(tmp_path / place, files), cache_bytes=cache_bytes, on_bad=reported.append)
    images = data_set.batch(range(100))[0]
    data_set.batch(range(100))
    assert [bad.name for bad in data_set.bad] == ["0050.png"]
    assert data_set.bad[0].reason
    assert "0x" not in data_set.bad[0].reason
    assert tuple(reported) == data_set.bad
    assert torch.equal(images[50], images[51])
    assert not torch.equal(images[49], images[50])


def test_the_last_picture_of_the_data_is_replaced_by_the_first(tmp_path):
    files = {f"{index % 2}/{index:04d}.png": encoded(picture(index)) for index in range(100)} | {"1/0099.png": b""}
    for cache_bytes in (0, 10**8):
        asked = torch.tensor([99, 0])
        images, labels = quietly(fill(tmp_path / "data", files), cache_bytes=cache_bytes).batch(asked)
        assert asked.tolist() == [99, 0]
        assert torch.equal(images[0], images[1])
        assert labels.tolist() == [0, 0]


@pytest.mark.parametrize("cache_bytes", [0, 10**8])
def test_more_than_one_per_cent_of_damage_stops(tmp_path, cache_bytes):
    files = numbered(100) | {f"{index:04d}.png": b"" for index in (7, 20, 21, 22)}
    path = fill(tmp_path / "data", files)
    with pytest.raises(
        UserError, match=r"cannot be decoded, more than 1 % of all 100 \(0007.png: the file is empty;"
    ) as e:
        quietly(path, cache_bytes=cache_bytes).batch(range(100))
    assert path in str(e.value)
    assert "\n" not in str(e.value)


def test_the_error_counts_the_damaged_pictures_and_names_three(tmp_path):
    files = numbered(20) | {f"{index:04d}.png": b"" for index in (7, 8, 9, 15)}
    with pytest.raises(
        UserError, match=r"^4 of the first 20 pictures in .*\(0007.png: .*; 0008.png: .*; 0009.png: [^;]*\)"
    ):
        quietly(fill(tmp_path / "data", files))


def test_a_picture_of_too_many_pixels_is_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    large = {"0100.png": encoded(picture(0, (20, 20))), "0101.png": encoded(picture(0, (40, 40)))}
    data_set = quietly(fill(tmp_path / "data", numbered(100) | large))
    # Pillow only warns from the limit to its double, 300 to 600 pixels.
    assert [bad.name for bad in data_set.bad] == ["0101.png"]


def test_a_zip_entry_that_fails_its_checksum_is_a_damaged_picture(tmp_path):
    path = fill(tmp_path / "data.zip", {f"{i:04d}.bmp": encoded(flat((i, 1, 2)), "BMP") for i in range(100)})
    data = bytearray(Path(path).read_bytes())
    data[data.index(bytes((2, 1, 50)))] ^= 255
    Path(path).write_bytes(data)
    assert [bad.name for bad in quietly(path).bad] == ["0050.bmp"]


def test_a_picture_that_vanishes_is_a_damaged_one(tmp_path):
    path = fill(tmp_path / "data", numbered(100))
    data_set = quietly(path, cache_bytes=0)
    (tmp_path / "data" / "0003.png").unlink()
    assert torch.equal(data_set[3]["image"], data_set[4]["image"])
    assert data_set.bad == (BadImage("0003.png", "No such file or directory"),)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "nowhere",
            "there is no data at 'nowhere'; give a folder, a zip or tar files of pictures, hf:NAME, or synthetic:shapes",
        ),
        ("", "there is no data at ''"),
        ("synthetic:cats", "there is no synthetic source 'cats'; use one of: shapes"),
        ("synthetic:shapes:many", "does not say how many pictures; write synthetic:shapes:1000"),
        ("synthetic:shapes:0", "does not say how many pictures"),
    ],
)
def test_a_path_that_is_nothing_is_refused(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        quietly(path)


@pytest.mark.parametrize("place", ["data", "data.zip"])
@pytest.mark.parametrize("files", [{}, {"notes.txt": b"none", "film.gif": b"GIF89a"}])
def test_a_place_without_pictures_is_refused(tmp_path, place, files):
    if place == "data":
        (tmp_path / "data").mkdir()
    path = fill(tmp_path / place, files)
    with pytest.raises(
        UserError, match=r"holds no pictures.*; give a folder, a zip or tar files with PNG, JPEG, WebP or BMP files"
    ) as e:
        quietly(path)
    assert ("(2 files were not read: 1 .gif, 1 .txt)" in str(e.value)) == bool(files)


@pytest.mark.parametrize("damage", ["truncated", "empty", "not-a-zip"])
def test_a_damaged_zip_is_refused(tmp_path, damage):
    path = fill(tmp_path / "data.zip", numbered(10))
    whole = Path(path).read_bytes()
    Path(path).write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "not-a-zip": b"x" * 500}[damage])
    with pytest.raises(UserError, match=r"data.zip is neither a folder nor a whole zip file \(.*\); give a folder"):
        quietly(path)


def test_an_image_size_that_most_pictures_do_not_reach_is_refused(tmp_path):
    path = fill(tmp_path / "data", numbered(5))
    message = (
        r"5 of 5 pictures looked at in .* are smaller than the image size 24x16 \(0000.png is 16x16.*; use a smaller"
    )
    for cache_bytes in (0, 10**6):
        with pytest.raises(UserError, match=message):
            quietly(path, (24, 16), cache_bytes=cache_bytes)


def test_sizes_are_judged_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = fill(tmp_path / "data", {"a.png": encoded(picture(0, (16, 32)), exif=exif)})
    assert quietly(path, (32, 16)).enlarged == 0
    with pytest.raises(UserError, match=r"a\.png is 32x16"):
        quietly(path, (16, 32))


def test_an_image_size_without_pixels_is_refused():
    with pytest.raises(UserError, match="image size 0x32 holds no pixels"):
        quietly("synthetic:shapes", (0, 32))


# Progress, and the packs


def test_a_long_first_reading_shows_speed_and_time_left(tmp_path, capfd, monkeypatch):
    path = fill(tmp_path / "data", numbered(80))
    open_images(path, (16, 16))
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("scalespace.reports.progress._DELAY", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_images(path, (16, 16))
    shown = capfd.readouterr()
    assert "reading pictures: 100%" in shown.err
    assert "pictures/s" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("pack", "count", "classes", "size"),
    [("photos64-heldout", 723, 96, 64), ("emoji64-heldout", 357, 0, 64), ("cifar10-32-heldout", 6000, 10, 32)],
)
def test_packs_of_real_pictures_open(pack, count, classes, size):
    path = SHARED / "data" / f"{pack}.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there; SCALESPACE_SHARED names the folder of the packs")
    data_set = quietly(str(path), (size, size))
    assert (len(data_set), len(data_set.classes)) == (count, classes)
    assert data_set.bad == ()
    assert data_set.enlarged == 0
