import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.unprivileged import public_path, unprivileged

from scalespace.errors import UserError
from scalespace.files import recover, remove_directory, write_directory, write_file

__all__ = ["public_path"]


def _text(content: str = "new") -> Callable[[Path], None]:
    return lambda file: file.write_text(content) and None


def _tensors(file: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file)


def _folder(folder: Path) -> None:
    (folder / "unet").mkdir()
    _tensors(folder / "unet" / "weights.safetensors")
    (folder / "index.json").write_text("{}")


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o000], ids=oct)
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [_text(), _tensors], ids=["plain", "safetensors"])
def test_a_file_has_the_mode_that_the_umask_gives(write, umask: int, tmp_path):
    for _ in range(2):
        write_file(tmp_path / "weights.safetensors", write)
        assert _mode(tmp_path / "weights.safetensors") == 0o666 & ~umask


def test_everything_in_a_folder_has_the_mode_that_the_umask_gives(umask: int, tmp_path):
    for _ in range(2):
        write_directory(tmp_path / "model", _folder)
        found = [tmp_path / "model", *(tmp_path / "model").rglob("*")]
        assert len(found) == 4
        for path in found:
            assert _mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for name, write, leaf in (("log", _text, ""), ("model", None, "index.json")):
        link, target = tmp_path / name, tmp_path / "disk" / name
        link.symlink_to(Path("disk") / name)
        for _ in range(2):
            if write is None:
                write_directory(link, _folder)
            else:
                write_file(link, write())
            assert link.is_symlink()
            assert not target.is_symlink()
            assert (target / leaf).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "log", "model"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["log", "model"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (
        ("pipe", "is a device or a pipe"),
        ("folder", "is a folder; name a file"),
        ("loop", "cannot write"),
        ("", "is a folder"),
    ):
        with pytest.raises(UserError, match=words):
            write_file(tmp_path / name if name else Path(), _text())
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="is no folder; rename it"):
        write_directory(tmp_path / "file", _folder)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop", "pipe"]


def test_a_write_protected_file_stays(public_path):
    file = public_path / "photos.npz"
    file.write_text("old")
    file.chmod(0o444)
    with unprivileged(), pytest.raises(UserError, match=r"photos\.npz, which is write-protected"):
        write_file(file, _text())
    assert file.read_text() == "old"
    public_path.chmod(0o555)
    with unprivileged(), pytest.raises(UserError, match=r"\(Permission denied\); free space or choose another place"):
        write_file(public_path / "other", _text())
    assert [path.name for path in public_path.iterdir()] == ["photos.npz"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), UserError("1 % are bad")]
)
def test_nothing_is_left_of_what_could_not_be_written(error: BaseException, tmp_path):
    def fail(path: Path) -> None:
        (path / "half" if path.is_dir() else path).write_text("half")
        raise error

    for write in (write_file, write_directory):
        with pytest.raises((UserError, KeyboardInterrupt)):
            write(tmp_path / "result", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_get_its_name_leaves_the_older_one(tmp_path, monkeypatch):
    write_directory(tmp_path / "model", _folder)
    rename = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write_directory(tmp_path / "model", lambda folder: None)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "index.json").is_file()


def test_names_may_be_as_long_as_the_disk_allows_and_no_file_of_the_users_is_in_the_way(tmp_path):
    longest = "x" * 251 + ".png"
    write_file(tmp_path / longest, _text())
    with pytest.raises(UserError, match="File name too long"):
        write_file(tmp_path / f"x{longest}", pytest.fail)
    (tmp_path / ".partial-a.png").write_text("mine")

    def nested(file: Path) -> None:
        write_file(tmp_path / "a.png", _text("inner"))
        file.write_text("outer")

    write_file(tmp_path / "a.png", nested)
    assert (tmp_path / "a.png").read_text() == "outer"
    assert (tmp_path / ".partial-a.png").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_process_has_left_is_cleared_and_a_folder_gets_its_name_back(tmp_path):
    for name in (".a.outdated", ".b.outdated", "b", ".c.partial", ".d.removed", "mine", ".mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    (tmp_path / ".partial-0123.png").write_text("of another process")
    recover(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", ".partial-0123.png", "a", "b", "mine"]
    assert (tmp_path / "a" / "content").read_text() == ".a.outdated"
    assert (tmp_path / "b" / "content").read_text() == "b"


def test_a_folder_is_removed_from_its_name_first(tmp_path, monkeypatch):
    write_directory(tmp_path / "model", _folder)
    remove = shutil.rmtree

    def killed(path: Path, **_: bool) -> None:
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_directory(tmp_path / "model")
    monkeypatch.setattr("shutil.rmtree", remove)
    assert not (tmp_path / "model").exists()
    recover(tmp_path)
    assert list(tmp_path.iterdir()) == []
