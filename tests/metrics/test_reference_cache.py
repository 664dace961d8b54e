"""What is measured of a reference is kept: it changes no figure, and without it everything works."""

import json
import os
from pathlib import Path

import pytest
import torch
from tests.picture_files import encoded, picture

from scalespace.cli import main
from scalespace.data import measurements
from scalespace.data.images import ImageDataset
from scalespace.data.measurements import measured_once
from scalespace.metrics.evaluate import INCEPTION_VARIABLE

QUICK = ("--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scalespace" / "measurements"


def _folder(path: Path, count: int, first: int = 0, size: tuple[int, int] = (16, 16)) -> str:
    path.mkdir()
    for k in range(count):
        (path / f"{k:04d}.png").write_bytes(encoded(picture(first + k, size)))
    return str(path)


@pytest.fixture
def sides(tmp_path) -> tuple[str, str]:
    return _folder(tmp_path / "drawn", 5, size=(18, 18)), _folder(tmp_path / "photos", 8, 5, (20, 24))


@pytest.fixture
def read_paths(monkeypatch) -> list[str]:
    """The data that pictures were read of."""
    found: list[str] = []
    batch = ImageDataset.batch

    def noted(self, indices):
        found.append(self.path)
        return batch(self, indices)

    monkeypatch.setattr(ImageDataset, "batch", noted)
    return found


def _figures(capsys, *words: str) -> dict:
    capsys.readouterr()
    neighbours = () if "--metrics" in words else ("--neighbours", "3")
    main(["evaluate", *words, *neighbours, *QUICK, "--json"])
    return json.loads(capsys.readouterr().out) | {"source": None}


def test_a_second_comparison_reads_the_reference_no_more_and_finds_the_same(sides, capsys, read_paths):
    first = _figures(capsys, *sides)
    assert set(read_paths) == set(sides)
    read_paths.clear()
    assert _figures(capsys, *sides) == first
    assert set(read_paths) == {sides[0]}
    # Figures without intervals, and other drawn pictures, need nothing of the reference that is not known.
    read_paths.clear()
    _figures(capsys, *sides, "--no-intervals")
    other = _folder(Path(sides[0]).parent / "other", 5, 20, (18, 18))
    found = _figures(capsys, other, sides[1])
    assert sides[1] not in read_paths
    assert found == _figures(capsys, other, sides[1], "--no-cache")


@pytest.mark.parametrize("words", [("--seed", "1"), ("--size", "16", "17")])
def test_whatever_else_figures_depend_on_is_measured_anew(words, sides, capsys, read_paths):
    _figures(capsys, *sides)
    read_paths.clear()
    found = _figures(capsys, *sides, *words)
    assert sides[1] in read_paths
    assert found == _figures(capsys, *sides, *words, "--no-cache")


def test_a_reference_with_other_pictures_is_measured_anew(sides, capsys):
    first = _figures(capsys, *sides)
    (Path(sides[1]) / "0003.png").write_bytes(encoded(picture(77, (20, 24))))
    changed = _figures(capsys, *sides)
    assert changed["metrics"] != first["metrics"]
    assert changed == _figures(capsys, *sides, "--no-cache")


def test_nothing_is_kept_of_drawn_pictures_and_without_the_cache(sides, capsys, cache):
    _figures(capsys, *sides, "--no-cache")
    assert not cache.exists()
    _figures(capsys, *sides, "--metrics", "colour")
    before = sorted(cache.iterdir())
    _figures(capsys, _folder(Path(sides[0]).parent / "other", 5, 20, (18, 18)), sides[1], "--metrics", "colour")
    assert sorted(cache.iterdir()) == before


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty])
def test_damaged_files_are_made_again(damage, sides, capsys, cache, read_paths):
    first = _figures(capsys, *sides)
    for file in cache.iterdir():
        damage(file)
    assert _figures(capsys, *sides) == first
    read_paths.clear()
    assert _figures(capsys, *sides) == first
    assert sides[1] not in read_paths


def test_a_cache_that_cannot_be_used_is_no_error(sides, capsys, tmp_path, monkeypatch):
    first = _figures(capsys, *sides)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _figures(capsys, *sides) == first

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    # As of a folder that may not be searched.
    monkeypatch.setattr(Path, "is_file", forbidden)
    assert measurements._load(tmp_path / "any") is None


def test_the_files_that_were_not_used_for_longest_make_room(cache, monkeypatch):
    def measure():
        return {"values": torch.zeros(1000)}

    for number in range(4):
        measured_once(f"{number}", "zeros", measure)
        for path in cache.iterdir():
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    monkeypatch.setattr(measurements, "_TOTAL", 3 * 4300)
    # This one is used again, so the next oldest goes.
    measured_once("0", "zeros", lambda: pytest.fail("measured"))
    measured_once("4", "zeros", measure)
    assert len(list(cache.iterdir())) == 3
    for known in "034":
        measured_once(known, "zeros", lambda: pytest.fail("measured"))


def test_what_is_too_large_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(measurements, "_LARGEST", 3999)
    found = measured_once("a", "zeros", lambda: {"values": torch.zeros(1000)})
    assert len(found["values"]) == 1000
    assert not cache.exists()
