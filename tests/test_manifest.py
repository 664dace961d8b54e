import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalespace.errors import UserError
from scalespace.manifest import MANIFEST, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(bytes(range(100)))
    (folder / "index.json").write_text("{}")
    write_manifest(folder, facts={"step": 5})
    return folder


def _change(folder: Path, *names: str) -> str | None:
    manifest = read_manifest(folder, "restore it")
    assert manifest is not None
    return manifest.change(folder, names or None)


def test_a_manifest_tells_sizes_and_sha256_as_sha256sum_does(folder):
    written = json.loads((folder / MANIFEST).read_text())
    assert written == {
        "step": 5,
        "files": {
            "index.json": {
                "size": 2,
                # As of: printf '{}' | sha256sum.
                "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            },
            "unet/weights": {
                "size": 100,
                "sha256": "bce0aff19cf5aa6a7469a30d61d04e4376e4bbf6381052ee9e7f33925c954d52",
            },
        },
    }
    assert _change(folder) is None
    assert _change(Path(shutil.copytree(folder, folder.with_name("copy")))) is None


def _flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize("bit", range(0, 800, 111))
def test_every_bit_counts(bit: int, folder):
    _flip(folder / "unet" / "weights", bit)
    assert _change(folder) == "unet/weights has other contents than were written"
    assert _change(folder, "index.json") is None


def test_a_bit_of_the_manifest_itself_is_seen_or_says_the_same(folder):
    whole, before = (folder / MANIFEST).read_bytes(), read_manifest(folder, "")
    for bit in range(0, 8 * len(whole), 29):
        (folder / MANIFEST).write_bytes(whole)
        _flip(folder / MANIFEST, bit)
        try:
            manifest = read_manifest(folder, "restore it")
        except UserError:
            continue
        assert manifest is not None
        assert manifest == before or manifest.facts != {"step": 5} or manifest.change(folder) is not None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda file: file.unlink(), "unet/weights is missing"),
        (lambda file: file.write_bytes(b"x"), "unet/weights has 1 bytes, and 100 were written"),
        (lambda file: file.write_bytes(bytes(100)), "unet/weights has other contents than were written"),
    ],
)
def test_what_is_different_is_said(harm: Callable[[Path], None], words: str, folder):
    harm(folder / "unet" / "weights")
    assert _change(folder) == words


def test_only_what_was_written_is_looked_at(folder):
    (folder / "README.md").write_text("mine")
    assert _change(folder) is None
    assert _change(folder, "README.md") == "README.md is not in manifest.json"


def test_a_folder_without_a_manifest_has_none_and_a_damaged_one_is_named(folder):
    assert read_manifest(folder / "unet", "restore it") is None
    for content in ("", "[]", "{}", '{"files": {"a": {"size": "1", "sha256": "0"}}}'):
        (folder / MANIFEST).write_text(content)
        with pytest.raises(UserError, match=r"manifest.json is damaged \(.+\); restore it"):
            read_manifest(folder, "restore it")
