"""Decoded pictures that are kept: the same pictures as without, and whatever is wrong with the file is noticed."""

import contextlib
import multiprocessing
import os
import pickle
import resource
import shutil
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.picture_files import encoded, flat, picture
from torch import Tensor

from scalespace.data.images import BadImage, ImageDataset, open_images
from scalespace.data.sources import files
from scalespace.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scalespace" / "pictures"


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by an entry for every picture that is decoded."""
    found: list[int] = []
    decode = files.decode_image

    def counting(data: bytes, image_size: tuple[int, int]):
        found.append(len(data))
        return decode(data, image_size)

    monkeypatch.setattr(files, "decode_image", counting)
    return found


def write(folder: Path, numbers: range = range(40)) -> Path:
    folder.mkdir()
    for index in numbers:
        (folder / f"{index:04d}.png").write_bytes(encoded(picture(index)))
    return folder


def opened(path: Path, said: list[str] | None = None, size: int = 16, **options: object) -> ImageDataset:
    say = (lambda line: None) if said is None else said.append
    return open_images(str(path), (size, size), progress=False, say=say, **options)  # type: ignore[arg-type]  # passed on


def everything(data: ImageDataset) -> Tensor:
    return data.batch(range(len(data)))[0]


def only(cache: Path) -> Path:
    (path,) = cache.glob("*.safetensors")
    return path


def test_a_second_start_decodes_nothing_and_has_the_same_pictures(tmp_path, decoded, cache):
    path = write(tmp_path / "data")
    expected = everything(opened(path, cache_bytes=0))
    decoded.clear()
    first = everything(opened(path))
    assert len(decoded) == 40
    second = opened(path)
    assert len(decoded) == 40
    assert second.cached
    assert torch.equal(first, expected)
    assert torch.equal(everything(second), expected)
    with safe_open(only(cache), "pt") as file:
        assert torch.equal(file.get_tensor("pixels"), expected)
    assert [entry.name for entry in cache.iterdir()] == [only(cache).name]


def test_a_zip_of_a_folder_and_the_folder_elsewhere_share_what_is_kept(tmp_path, decoded):
    path = write(tmp_path / "data")
    opened(path)
    decoded.clear()
    shutil.copytree(path, tmp_path / "copy")
    shutil.make_archive(str(tmp_path / "packed"), "zip", path)
    opened(tmp_path / "copy")
    opened(tmp_path / "packed.zip")
    assert not decoded


@pytest.mark.parametrize("options", [{"size": 8}, {"channels": 1}])
def test_another_preparation_is_decoded_anew(tmp_path, decoded, options):
    path = write(tmp_path / "data")
    opened(path)
    decoded.clear()
    other = opened(path, **options)
    assert len(decoded) == 40
    assert torch.equal(everything(other), everything(opened(path, cache_bytes=0, **options)))


def test_another_decoder_decodes_anew(tmp_path, decoded, monkeypatch):
    path = write(tmp_path / "data")
    opened(path)
    monkeypatch.setattr("PIL.__version__", "1")
    opened(path)
    assert len(decoded) == 80


def test_a_changed_picture_is_noticed_also_with_its_old_name_size_and_time(tmp_path):
    path = write(tmp_path / "data")
    (path / "0003.png").write_bytes(encoded(flat((1, 2, 3)), "BMP"))
    state = (path / "0003.png").stat()
    before = everything(opened(path))
    (path / "0003.png").write_bytes(encoded(flat((9, 8, 7)), "BMP"))
    os.utime(path / "0003.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path / "0003.png").stat().st_size == state.st_size
    after = everything(opened(path))
    assert after[3, :, 0, 0].tolist() == [9, 8, 7]
    assert torch.equal(after[4:], before[4:])


@pytest.mark.parametrize("removed", [0, 39])
def test_a_picture_more_or_less_is_noticed(tmp_path, removed):
    path = write(tmp_path / "data")
    opened(path)
    (path / f"{removed:04d}.png").unlink()
    assert torch.equal(everything(opened(path)), everything(opened(path, cache_bytes=0)))


def test_a_picture_that_changes_while_all_are_read_is_not_kept(tmp_path, monkeypatch, cache):
    path = write(tmp_path / "data")
    decode = files.decode_image

    # Several threads decode, of which one changes the picture.
    due = ["new.png"]

    def changing(data: bytes, image_size: tuple[int, int]):
        with contextlib.suppress(IndexError):
            new = tmp_path / due.pop()
            new.write_bytes(encoded(flat((9, 8, 7))))
            new.replace(path / "0039.png")
        return decode(data, image_size)

    monkeypatch.setattr(files, "decode_image", changing)
    said: list[str] = []
    assert opened(path, said).cached
    assert said == [f"the decoded pictures are not kept for the next start: {path} changed while it was read"]
    assert not list(cache.glob("*"))


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def other_shape(path: Path) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    save_file(tensors | {"pixels": tensors["pixels"].reshape(40, 3, 8, 32)}, path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "foreign": lambda path: save_file({"weights": torch.zeros(3)}, path),
    "other shape": other_shape,
    "seal": lambda path: flip(path, -1),
    "checksums": lambda path: flip(path, -40),
    "flags": lambda path: flip(path, -32 - 8 * 40 - 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_made_again(tmp_path, decoded, cache, damage):
    path = write(tmp_path / "data")
    expected = everything(opened(path)).clone()
    DAMAGES[damage](only(cache))
    assert torch.equal(everything(opened(path)), expected)
    assert len(decoded) == 80
    opened(path)
    assert len(decoded) == 80


def test_a_damaged_pixel_is_noticed_when_it_is_read(tmp_path, decoded, cache):
    path = write(tmp_path / "data")
    expected = everything(opened(path)).clone()
    flip(only(cache), 1000)
    data = opened(path)
    assert torch.equal(everything(data), expected)
    assert torch.equal(everything(data), expected)
    assert not list(cache.glob("*"))
    assert len(decoded) == 42
    opened(path)
    assert len(decoded) == 82


def test_something_else_in_the_place_is_told_and_the_pictures_are_in_memory(tmp_path, cache):
    path = write(tmp_path / "data")
    expected = everything(opened(path)).clone()
    a_folder(only(cache))
    said: list[str] = []
    data = opened(path, said)
    assert data.cached
    assert torch.equal(everything(data), expected)
    assert [line.partition("(")[0].split(only(cache).name)[1] for line in said] == [", which is a folder; name a file"]


def test_a_bad_picture_is_told_at_every_start_and_noticed_when_it_is_whole(tmp_path, decoded):
    files_of_zip = {f"{index % 2}/{index:04d}.png": encoded(picture(index)) for index in range(100)}
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files_of_zip.items():
            archive.writestr(name, data)
    whole = path.read_bytes()
    start = whole.index(files_of_zip["1/0051.png"])
    path.write_bytes(whole[: start + 60] + bytes(20) + whole[start + 80 :])
    for _ in range(2):
        reported: list[BadImage] = []
        data = opened(path, on_bad=reported.append)
        assert [bad.name for bad in reported] == ["1/0051.png"]
        assert data.bad == tuple(reported)
        assert data.met() == ("1 of 100 pictures could not be decoded and was skipped",)
        # The odd ones follow the fifty even ones.
        images, labels = data.batch([74, 75, 76])
        assert torch.equal(images[1], images[2])
        assert not torch.equal(images[0], images[1])
        assert labels.tolist() == [1, 1, 1]
    # Size and checksum are those of the damaged zip.
    path.write_bytes(whole)
    data = opened(path)
    assert not data.bad
    assert torch.equal(everything(data), everything(opened(path, cache_bytes=0)))


def test_what_was_told_of_the_pictures_is_told_again(tmp_path):
    path = write(tmp_path / "data", range(38))
    (path / "0038.png").write_bytes(encoded(flat(7, "L")))
    (path / "0039.png").write_bytes(encoded(picture(3, (8, 8))))
    first, second = opened(path), opened(path)
    assert first.met() == second.met()
    assert (second.enlarged, second.animated) == (1, 0)
    assert any("grey" in line for line in second.met())


def test_too_many_bad_pictures_stop_and_nothing_is_kept(tmp_path, cache):
    path = write(tmp_path / "data")
    for index in range(3):
        (path / f"{index:04d}.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(UserError, match="more than 1 % of all 40"):
            opened(path)
        assert not list(cache.glob("*"))


# Room


def test_a_full_disk_is_a_sentence_and_all_goes_on(tmp_path, cache):
    path = write(tmp_path / "data")
    expected = everything(opened(path, cache_bytes=0))
    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        data = opened(path, said)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert data.cached
    assert torch.equal(everything(data), expected)
    (line,) = said
    assert line.startswith(f"the decoded pictures are not kept for the next start: cannot write {cache}")
    assert line.endswith("(File too large); free space or choose another place")
    assert not list(cache.glob("*"))


def test_what_was_not_used_for_longest_makes_room(tmp_path, cache):
    paths = [write(tmp_path / f"data{number}", range(number, number + 40)) for number in range(3)]
    size = 40 * 3 * 16 * 16
    kept: list[Path] = []
    for path in paths[:2]:
        opened(path, cache_bytes=3 * size)
        kept += set(cache.iterdir()) - set(kept)
    for age, path in enumerate(kept):
        os.utime(path, (age, age))
    opened(paths[0], cache_bytes=3 * size)
    opened(paths[2], cache_bytes=3 * size)
    # The first was used again after the second.
    assert [path.exists() for path in kept] == [True, False]
    opened(paths[1], cache_bytes=size)
    assert len(list(cache.iterdir())) == 1


def test_pictures_of_which_the_file_is_gone_are_still_there(tmp_path, cache):
    path = write(tmp_path / "data")
    data = opened(path)
    state = pickle.dumps(data)
    assert len(state) < 40 * 3 * 16 * 16
    expected = everything(data).clone()
    assert torch.equal(everything(pickle.loads(state)), expected)
    only(cache).unlink()
    assert torch.equal(everything(data), expected)
    assert torch.equal(everything(pickle.loads(state)), expected)


def _open(path: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    said: list[str] = []
    count = 0
    decode = files.decode_image

    def slowly(data: bytes, image_size: tuple[int, int]):
        nonlocal count
        count += 1
        time.sleep(0.02)
        return decode(data, image_size)

    files.decode_image = slowly
    checksum = int(everything(opened(path, said)).sum())
    results.put((count, checksum, said))  # type: ignore[attr-defined]


def test_of_several_processes_one_decodes_and_the_others_wait(tmp_path):
    path = write(tmp_path / "data")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open, args=(path, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=120) for _ in processes), key=lambda entry: entry[0])
    for process in processes:
        process.join()
    assert [count for count, _, _ in found] == [0, 0, 40]
    assert len({checksum for _, checksum, _ in found}) == 1
    waited = ["waiting for another process, which decodes the same pictures"]
    assert all(said in ([], waited) for _, _, said in found)


def test_threads_may_read_at_once(tmp_path):
    path = write(tmp_path / "data")
    opened(path)
    data, found = opened(path), []
    threads = [threading.Thread(target=lambda: found.append(everything(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(images, found[0]) for images in found)
    assert np.array_equal(found[0].numpy(), everything(opened(path, cache_bytes=0)).numpy())
