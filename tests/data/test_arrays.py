"""Pictures in .npz files, as guided-diffusion writes them, are those of a folder; files of strangers harm nobody."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.picture_files import encoded, picture

from scalespace.data.images import ImageDataset, open_images
from scalespace.errors import UserError

LABELS = np.array([10, 2, 2, 10, 7])


def _pixels(size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.stack([np.asarray(picture(index, size)) for index in range(len(LABELS))])


def _opened(path: Path, size: tuple[int, int] = (8, 8), **options: Any) -> ImageDataset:
    return open_images(str(path), size, progress=False, **options)


def _all(data: ImageDataset) -> torch.Tensor:
    return data.batch(torch.arange(len(data)))[0]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
def test_pictures_are_those_of_a_folder_with_the_same_ones(save, size, tmp_path):
    pixels = _pixels(size)
    save(tmp_path / "samples.npz", pixels, LABELS)
    for index, (label, one) in enumerate(zip(LABELS, range(len(LABELS)), strict=True)):
        place = tmp_path / "folder" / str(label) / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(picture(one, size)))
    arrays, files = _opened(tmp_path / "samples.npz"), _opened(tmp_path / "folder")
    assert [name.partition(".")[0] for name in files.names] == list(arrays.names)
    # As people count: 2 before 10.
    assert arrays.classes == files.classes == ("2", "7", "10")
    assert torch.equal(_all(arrays), _all(files))
    assert torch.equal(arrays.batch(range(5))[1], files.batch(range(5))[1])
    assert arrays.native_size(0) == size
    assert torch.equal(_all(pickle.loads(pickle.dumps(_opened(tmp_path / "samples.npz", cache_bytes=0)))), _all(files))


def test_grey_pictures_have_one_channel_and_no_labels_are_no_classes(tmp_path):
    grey = _pixels()[..., :1]
    np.savez(tmp_path / "grey.npz", grey)
    data = _opened(tmp_path / "grey.npz", (16, 16), channels=1)
    assert np.array_equal(_all(data).numpy()[:, 0], grey[..., 0])
    assert data.stored_in_grey(0)
    assert not data.classes


def test_reference_batches_tell_what_is_not_read_of_them(tmp_path):
    np.savez(tmp_path / "reference.npz", _pixels(), mu=np.zeros(3), sigma=np.eye(3))
    assert _opened(tmp_path / "reference.npz").found()[0] == "5 pictures; 2 files were not read: 2 .npy"


def test_the_identity_follows_the_contents(tmp_path):
    found = []
    for number, level in enumerate((0, 0, 1)):
        np.savez(tmp_path / f"{number}.npz", _pixels() ^ level)
        found.append(_opened(tmp_path / f"{number}.npz", cache_bytes=0).fingerprint)
    assert found[0] == found[1] != found[2]


class _Program:
    def __reduce__(self):
        return (print, ("it runs",))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ((np.zeros((2, 8, 8, 3)),), "arr_0 is float64 of shape"),
        ((np.zeros((2, 8, 8, 4), np.uint8),), r"arr_0 is uint8 of shape \(2, 8, 8, 4\)"),
        ((np.zeros((2, 0, 8, 3), np.uint8),), "arr_0 is uint8 of shape"),
        ((np.zeros((2, 8, 3), np.uint8),), "arr_0 is uint8 of shape"),
        ((np.array([_Program()], dtype=object),), "arr_0 holds pickled objects, which are programs"),
        ((np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, int)), "arr_1 is int64 of shape .3,. for 2 pictures"),
        ((np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2)), "arr_1 is float64"),
        ((np.zeros((2, 8, 8, 3), np.uint8), np.array([_Program()] * 2, dtype=object)), "arr_1 holds pickled objects"),
    ],
)
def test_arrays_that_are_no_pictures_are_one_sentence(arrays, what, tmp_path, capsys):
    np.savez(tmp_path / "samples.npz", *arrays)
    with pytest.raises(UserError, match=f"samples.npz holds no whole array of pictures .{what}"):
        _opened(tmp_path / "samples.npz")
    assert capsys.readouterr().out == ""


def test_no_pictures_are_no_pictures(tmp_path):
    np.savez(tmp_path / "empty.npz", np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="holds no pictures"):
        _opened(tmp_path / "empty.npz")


def _with_header(path: Path, compression: int, before: bytes, after: bytes) -> None:
    """An archive whose header says something else of its array than what there is."""
    np.savez(path, _pixels())
    with zipfile.ZipFile(path) as archive:
        content = archive.read("arr_0.npy")
    assert before in content
    padded = after + b" " * (len(before) - len(after)) if len(after) <= len(before) else after
    # The header is padded, so that it may be longer.
    content = content.replace(before + b" " * (len(padded) - len(before)), padded, 1)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr_0.npy", content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [b"(50000000000, 16, 16, 3), }", b"(-5, 16, -16, 3), }", b"(6, 16, 16, 3), }"])
def test_a_header_that_lies_takes_no_memory(compression, shape, tmp_path):
    _with_header(tmp_path / "samples.npz", compression, b"(5, 16, 16, 3), }", shape)
    with pytest.raises(UserError, match="arr_0 is cut short"):
        _opened(tmp_path / "samples.npz")


def test_what_unpacks_to_more_than_the_memory_is_refused_before_it_is(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "samples.npz", np.zeros((50, 64, 64, 3), np.uint8))
    np.savez(tmp_path / "plain.npz", np.zeros((50, 64, 64, 3), np.uint8))
    monkeypatch.setattr("scalespace.memory.free_memory", lambda device: 500_000)
    with pytest.raises(UserError, match=r"reading .*samples.npz needs at least 618 kB of memory .*numpy.savez"):
        _opened(tmp_path / "samples.npz", cache_bytes=0)
    assert len(_opened(tmp_path / "plain.npz", cache_bytes=0)) == 50


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_cut_off_is_one_sentence(kept, tmp_path):
    np.savez(tmp_path / "samples.npz", _pixels())
    whole = (tmp_path / "samples.npz").read_bytes()
    (tmp_path / "samples.npz").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match="is neither a folder nor a whole zip file"):
        _opened(tmp_path / "samples.npz")


def test_damage_to_what_was_compressed_is_one_sentence(tmp_path):
    np.savez_compressed(tmp_path / "samples.npz", _pixels())
    content = bytearray((tmp_path / "samples.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(UserError, match="holds no whole array of pictures"):
        _opened(tmp_path / "samples.npz")
