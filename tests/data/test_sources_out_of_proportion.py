"""What would hang or fill the memory is refused, and what may not be read is not called damaged."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image
from tests.picture_files import encoded, picture
from tests.unprivileged import public_path, unprivileged

from scalespace.data.images import open_images
from scalespace.data.sources.decoding import decode_image, reason
from scalespace.data.sources.opening import open_source
from scalespace.data.user_cache import keep
from scalespace.errors import UserError

__all__ = ["public_path"]


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encoded(picture(0)))
        with archive.open("bomb.png", "w") as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))


def test_a_file_that_unpacks_to_gigabytes_is_refused_without_unpacking_all_of_it(tmp_path):
    _bomb(tmp_path / "pictures.zip")
    assert (tmp_path / "pictures.zip").stat().st_size < 1 << 20
    source = open_source(str(tmp_path / "pictures.zip"))
    read: list[int] = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size > 0
            read.append(size)
            return bytes(size)

    assert source.load(0, (8, 8))[0].shape == (8, 8, 3)
    source.open = lambda index: Counting()  # pyright: ignore
    with pytest.raises(OSError, match="the file is larger than 256 MiB"):
        source.load(1, (8, 8))
    assert sum(read) == (256 << 20) + 1


def test_a_picture_of_more_pixels_than_memory_holds_is_not_decoded():
    # The header of a PNG of 60000 x 60000 pixels.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(Image.DecompressionBombError) as refused:
        decode_image(b"\x89PNG\r\n\x1a\n" + chunk + encoded(picture(0))[33:], (8, 8))
    assert reason(refused.value) == "more pixels than any camera takes"


def test_pipes_and_devices_are_told_and_never_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path))
    assert source.names == ("a.png",)
    assert str(source.left_out) == "2 files were not read: 2 pipes or devices"
    for name in ("pipe.png", "zeros.png"):
        with pytest.raises(UserError, match="is no file but a folder, a pipe or a device"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("length", ["1000001", "99999999999", "9" * 5000])
def test_synthetic_pictures_without_end_are_refused(length: str):
    with pytest.raises(UserError, match="are more pictures than anybody needs; give synthetic:shapes:1000000 at most"):
        open_source(f"synthetic:shapes:{length}")
    with pytest.raises(UserError, match="does not say how many"):
        open_source("synthetic:shapes:000")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nosuchuser/photos", "there is no data at '~nosuchuser/photos'"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("/proc/self/mem", "cannot be read (Input/output error)"),
        ("/etc/hostname/photos", "there is no data at"),
    ],
)
def test_paths_that_lead_nowhere_are_one_sentence(path: str, words: str):
    with pytest.raises(UserError) as refused:
        open_source(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_pictures_that_may_not_be_read_are_not_called_damaged(cache_bytes: int, public_path):
    for index in range(3):
        (public_path / f"{index}.png").write_bytes(encoded(picture(index)))
    (public_path / "1.png").chmod(0o000)
    with (
        unprivileged(),
        pytest.raises(UserError, match=r"1\.png: Permission denied\); check that you may read") as refused,
    ):
        open_images(str(public_path), (8, 8), cache_bytes=cache_bytes, progress=False).batch([0, 1, 2])
    assert "damaged" not in str(refused.value)
    assert "remove" not in str(refused.value)


def test_decoded_pictures_that_fit_neither_on_the_disk_nor_into_memory_are_decoded_on_every_use(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("scalespace.memory.free_memory", lambda _: 10**9)
    said: list[str] = []
    data = open_images("synthetic:shapes:3000", (512, 512), cache_bytes=1 << 40, say=said.append)
    assert not data.cached
    assert data.batch([0])[0].shape == (1, 3, 512, 512)
    not_kept, not_in_memory = said
    assert not_kept.startswith(f"the decoded pictures are not kept for the next start: cannot write {tmp_path}")
    assert "needs at least 2.36 GB of memory" in not_in_memory
    assert "each is decoded on every use" in not_in_memory


def test_running_out_of_memory_while_decoding_is_not_a_damaged_picture(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    data = open_images(str(tmp_path), (8, 8), cache_bytes=0)

    def fail(*_) -> None:
        raise MemoryError

    monkeypatch.setattr("scalespace.data.sources.files.decode_image", fail)
    with pytest.raises(MemoryError):
        data.batch([0])


def test_what_is_kept_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        keep(tmp_path / "new" / "spectrum", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "spectrum").read_bytes() == b"content"
    assert (tmp_path / "new" / "spectrum").stat().st_mode & 0o777 == 0o644
    (tmp_path / "file").write_text("")
    keep(tmp_path / "file" / "spectrum", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]
