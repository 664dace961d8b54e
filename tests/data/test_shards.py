"""Tar files: the pictures and labels of webdataset in any order, and what is wrong with a shard is one sentence."""

import io
import json
import pickle
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from tests.picture_files import encoded, picture

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.sources.checksums import packed_checksums
from scalespace.data.sources.opening import open_source
from scalespace.data.sources.shards import expanded
from scalespace.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(number: int, ending: str = ".cls") -> list[tuple[str, bytes]]:
    label = str(number % 3)
    content = label if ending == ".cls" else json.dumps({"label": f"kind {label}", "caption": "any"})
    return [(f"{number:04d}.png", encoded(picture(number))), (f"{number:04d}{ending}", content.encode())]


def shards(folder: Path, count: int = 3, pictures: int = 30, ending: str = ".cls") -> Path:
    for shard in range(count):
        tar(
            folder / f"{shard:03d}.tar",
            [file for number in range(shard, pictures, count) for file in sample(number, ending)],
        )
    return folder


def opened(path: str | Path, **options: object) -> ImageDataset:
    return open_images(str(path), (16, 16), progress=False, **options)  # type: ignore[arg-type]  # passed on


def refused(path: str | Path) -> str:
    with pytest.raises(UserError) as error:
        open_source(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending", [".cls", ".json"])
def test_pictures_and_classes_are_those_of_a_folder(tmp_path, ending):
    data = opened(shards(tmp_path / "shards", ending=ending), cache_bytes=0)
    for number in range(30):
        label = f"{number % 3}" if ending == ".cls" else f"kind {number % 3}"
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number:04d}.png").write_bytes(encoded(picture(number)))
    folder = opened(tmp_path / "folder", cache_bytes=0)
    assert data.names == folder.names
    assert data.classes == folder.classes
    assert data.fingerprint == folder.fingerprint
    for mine, others in zip(data.batch(range(30)), folder.batch(range(30)), strict=True):
        assert torch.equal(mine, others)
    assert not str(data.left_out)


def test_how_the_pictures_are_cut_into_shards_makes_no_difference(tmp_path):
    few, many = opened(shards(tmp_path / "few", 2)), opened(shards(tmp_path / "many", 7))
    assert few.fingerprint == many.fingerprint
    assert torch.equal(few.batch([29, 3])[0], many.batch([29, 3])[0])


def test_a_pattern_a_folder_and_one_file_name_shards(tmp_path):
    folder = shards(tmp_path / "shards")
    (folder / "notes.txt").write_text("no shard")
    names = opened(folder).names
    assert opened(f"{folder}/{{000..002}}.tar").names == names
    assert opened(f"{folder}/{{002,000,001}}.tar").names == names
    assert len(opened(folder / "001.tar")) == 10


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.tar", ("a.tar",)),
        ("{8..10}.tar", ("8.tar", "9.tar", "10.tar")),
        ("{08..10}.tar", ("08.tar", "09.tar", "10.tar")),
        ("{a,b}/{0..1}.tar", ("a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar")),
        ("{2..1}.tar", ()),
    ],
)
def test_patterns_stand_for_numbers_and_words_as_in_a_shell(pattern, paths):
    assert expanded(pattern) == paths
    if paths:
        shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
        assert tuple(shell.stdout.split()) == paths


def test_a_pattern_without_end_is_refused_before_it_is_written_out():
    tracemalloc.start()
    with pytest.raises(UserError, match="stands for more than 1,000,000 shards; give fewer"):
        expanded("{0..999999}{0..999999}.tar")
    with pytest.raises(UserError, match="stands for more than"):
        expanded("{0..999999999}.tar")
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()


def test_keys_that_begin_anew_in_every_shard_are_told_apart(tmp_path):
    for shard in range(2):
        tar(tmp_path / "shards" / f"{shard}.tar", [("0.png", encoded(picture(shard))), ("0.cls", b"7")])
    data = opened(tmp_path / "shards")
    assert data.names == ("7/0 0.png", "7/1 0.png")
    assert torch.equal(data.batch([1])[0], opened(tmp_path / "shards" / "1.tar").batch([0])[0])


def test_a_name_that_comes_twice_in_a_shard_is_refused(tmp_path):
    tar(tmp_path / "a.tar", [("0.png", encoded(picture(0))), ("0.png", encoded(picture(1)))])
    assert "holds two pictures a 0.png; give every picture a name of its own" in refused(tmp_path / "a.tar")


def test_labels_are_text_and_never_leave_the_data(tmp_path):
    labels = {"0": b"../../up", "1": b"", "2": b"[1", "3": b"caf\xc3\xa9", "4": b".hidden"}
    files = [(f"{key}.png", encoded(picture(int(key)))) for key in labels]
    tar(tmp_path / "a.tar", [*files, *((f"{key}.cls", text) for key, text in labels.items())])
    assert opened(tmp_path / "a.tar").names == ("-..-up/0.png", "1.png", "[1/2.png", "café/3.png", "hidden/4.png")
    tar(tmp_path / "b.tar", [*files, *((f"{key}.json", text) for key, text in labels.items())])
    assert opened(tmp_path / "b.tar").names == ("0.png", "1.png", "2.png", "3.png", "4.png")


def test_other_files_are_told(tmp_path):
    tar(tmp_path / "a.tar", [*sample(0), ("0000.txt", b"caption"), ("0000.pyd", b"pickle"), ("._0.png", b"mac")])
    assert str(opened(tmp_path / "a.tar").left_out) == "3 files were not read: 1 .pyd, 1 .txt, 1 hidden"


def test_a_changed_shard_is_noticed(tmp_path):
    folder = shards(tmp_path / "shards")
    before = opened(folder)
    shutil.move(
        tar(tmp_path / "new.tar", [file for number in range(40, 50) for file in sample(number)]), folder / "001.tar"
    )
    after = opened(folder)
    assert before.fingerprint != after.fingerprint
    assert torch.equal(after.batch(range(30))[0], opened(folder, cache_bytes=0).batch(range(30))[0])


def test_contents_are_read_once_as_long_as_the_files_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("scalespace.data.sources.checksums._SETTLED", -(10**12))
    (tmp_path / "a.tar").write_bytes(b"1")
    read: list[int] = []

    def content(number: int) -> bytes:
        read.append(number)
        return bytes([number])

    first = packed_checksums([tmp_path / "a.tar"], "", [3, 5], content, progress=False)
    assert packed_checksums([tmp_path / "a.tar"], "", [5, 3, 4], content, progress=False)[:2] == first[::-1]
    assert sorted(read) == [3, 4, 5]
    assert packed_checksums([tmp_path / "a.tar"], "other", [3], content, progress=False) == first[:1]
    (tmp_path / "a.tar").write_bytes(b"22")
    packed_checksums([tmp_path / "a.tar"], "", [3], content, progress=False)
    assert sorted(read) == [3, 3, 3, 4, 5]
    packed_checksums([], "", [3], content, progress=False)
    packed_checksums([], "", [3], content, progress=False)
    assert len(read) == 7


def test_another_process_reads_the_same(tmp_path):
    data = opened(shards(tmp_path / "shards"), cache_bytes=0)
    assert torch.equal(pickle.loads(pickle.dumps(data)).batch([17])[0], data.batch([17])[0])


# Faults


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("inside", ["header", "data"])
def test_a_cut_shard_is_refused(tmp_path, kept, inside):
    path = shards(tmp_path / "shards") / "001.tar"
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    member = members[int(kept * len(members)) // 2 * 2]
    content = path.read_bytes()
    path.write_bytes(content[: member.offset + 100 if inside == "header" else member.offset_data + 100])
    assert f"{path} is no whole tar file without compression" in refused(tmp_path / "shards")


def test_a_shard_that_ends_where_a_file_ends_is_refused(tmp_path):
    path = shards(tmp_path / "shards") / "001.tar"
    with tarfile.open(path) as archive:
        member = archive.getmembers()[4]
    path.write_bytes(path.read_bytes()[: member.offset])
    assert "(its end is missing); copy it again" in refused(path)


def test_compressed_and_foreign_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.add(__file__)
    assert "is no whole tar file without compression" in refused(tmp_path / "a.tar")
    (tmp_path / "b.tar").write_bytes(b"junk" * 1000)
    assert "is no whole tar file without compression" in refused(tmp_path / "b.tar")
    (tmp_path / "c.tar").write_bytes(b"")
    assert "is no whole tar file without compression" in refused(tmp_path / "c.tar")


def test_shards_that_are_not_there_are_named(tmp_path):
    shards(tmp_path / "shards")
    assert f"there is no shard {tmp_path}/shards/003.tar; give" in refused(f"{tmp_path}/shards/{{000..005}}.tar")
    assert "there is no shard" in refused(f"{tmp_path}/none.tar")
    assert "holds no pictures" in refused(f"{tmp_path}/shards/{{3..2}}.tar")
    tar(tmp_path / "text.tar", [("a.txt", b"text")])
    assert "holds no pictures (1 file was not read: 1 .txt)" in refused(tmp_path / "text.tar")


def test_a_picture_that_does_not_decode_is_named_and_skipped(tmp_path):
    files = [file for number in range(100) for file in sample(number)]
    files[20] = ("0010.png", b"no picture")
    reported: list[str] = []
    data = opened(tar(tmp_path / "a.tar", files), on_bad=lambda bad: reported.append(bad.name))
    assert reported == ["1/0010.png"]
    assert len(data) == 100


def test_links_and_devices_are_told_and_not_followed(tmp_path):
    with tarfile.open(tar(tmp_path / "a.tar", sample(0)), "a") as archive:
        member = tarfile.TarInfo("1.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert str(opened(tmp_path / "a.tar").left_out) == "1 file was not read: 1 links or devices"
