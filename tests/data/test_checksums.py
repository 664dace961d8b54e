"""Checksums of contents: what they find out, what they cost a second time, and what may be lost of what is kept."""

import os
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from scalespace.data.sources import checksums as checksums_module
from scalespace.data.sources.checksums import file_checksums
from scalespace.data.sources.opening import open_source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three files that have not changed for long, as far as a program can make them look so."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "data" / "below").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "below" / name).write_bytes(name.encode() * 100)
    return tmp_path / "data"


NAMES = [f"below/{name}.png" for name in "abc"]


def _later(monkeypatch: pytest.MonkeyPatch, seconds: int = 10) -> None:
    now = time.time_ns
    monkeypatch.setattr(checksums_module.time, "time_ns", lambda: now() + seconds * 10**9)


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    read, names = checksums_module._read, []

    def counted(path: Path) -> str:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(checksums_module, "_read", counted)
    return names


def _replace(path: Path, content: bytes) -> None:
    """Other contents under the old name, size and time of modification, as of a copy that keeps times."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_checksum_is_size_and_crc(folder):
    content = (folder / NAMES[0]).read_bytes()
    assert file_checksums(folder, NAMES)[0] == f"{len(content)} {zlib.crc32(content):08x}"


def test_a_file_of_many_pieces_has_the_crc_of_the_whole(folder, monkeypatch):
    whole = file_checksums(folder, NAMES)
    monkeypatch.setattr(checksums_module, "_PIECE", 7)
    assert file_checksums(folder, NAMES) == whole


def test_contents_are_read_once(folder, monkeypatch):
    _later(monkeypatch)
    names = _reads(monkeypatch)
    first = file_checksums(folder, NAMES)
    assert sorted(names) == ["a.png", "b.png", "c.png"]
    assert file_checksums(folder, NAMES) == first
    assert file_checksums(folder, NAMES[1:]) == first[1:]
    assert len(names) == 3


def test_only_what_has_changed_is_read_again_even_with_the_old_size_and_time(folder, monkeypatch):
    _later(monkeypatch)
    first = file_checksums(folder, NAMES)
    names = _reads(monkeypatch)
    _replace(folder / NAMES[1], b"x" * 500)
    again = file_checksums(folder, NAMES)
    assert names == ["b.png"]
    assert [mine == other for mine, other in zip(first, again, strict=True)] == [True, False, True]


def test_what_changed_just_now_is_not_believed_the_next_time(folder, monkeypatch):
    names = _reads(monkeypatch)
    file_checksums(folder, NAMES)
    file_checksums(folder, NAMES)
    assert len(names) == 6


def test_a_part_does_not_displace_the_rest(folder, monkeypatch):
    _later(monkeypatch)
    names = _reads(monkeypatch)
    for part in (NAMES[:2], NAMES[2:], NAMES):
        file_checksums(folder, part)
    assert len(names) == 3


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"{}", None])
def test_what_is_kept_may_be_damaged(damage: bytes | None, folder, cache, monkeypatch):
    _later(monkeypatch)
    first = file_checksums(folder, NAMES)
    [kept] = [path for path in cache.rglob("*") if path.is_file()]
    # One flipped bit is the damage that a reader of JSON would not see.
    content = kept.read_bytes()
    kept.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:] if damage is None else damage)
    assert file_checksums(folder, NAMES) == first


def test_files_that_are_gone_or_cannot_be_read_have_a_word_of_their_own(folder):
    (folder / "folder.png").mkdir()
    assert file_checksums(folder, ["gone.png", "folder.png"]) == ["unreadable", "unreadable"]


def test_a_zip_and_its_folder_have_the_same_checksums(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            archive.write(folder / name, name)
    words = [open_source(str(place)).checksums(range(3), False) for place in (folder, tmp_path / "data.zip")]
    assert words[0] == words[1]


def test_a_long_reading_shows_a_bar_unless_it_is_not_wanted(folder, monkeypatch, capsys):
    monkeypatch.setattr("scalespace.reports.progress._DELAY", 0)
    file_checksums(folder, NAMES, progress=False)
    assert capsys.readouterr().err == ""
    file_checksums(folder, NAMES)
    assert "reading contents" in capsys.readouterr().err
