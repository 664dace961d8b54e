import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from tests.unprivileged import public_path, unprivileged

from scalespace.data.sources.opening import open_source
from scalespace.errors import UserError
from scalespace.metrics.statistics import read_statistics
from scalespace.pipelines.released_files import read_released
from scalespace.reading import check_readable, parse_json, read_json, reading

__all__ = ["public_path"]


READERS = [
    lambda path: open_source(str(path)),
    lambda path: read_statistics(path),
    lambda path: read_released(path),
]
"""Those of files from strangers, which can raise anything."""


def _load(path: Path) -> None:
    with reading(path, "delete it", SafetensorError), safe_open(path, framework="pt") as file:
        file.keys()


@pytest.mark.parametrize("load", [_load, lambda path: read_json(path, "delete it"), check_readable])
def test_what_may_not_be_read_is_not_called_damaged(load, public_path):
    file = public_path / "weights.safetensors"
    file.write_bytes(b"{}")
    file.chmod(0o000)
    with unprivileged(), pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as refused:
        load(file)
    assert "damaged" not in str(refused.value)
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("load", [_load, lambda path: read_json(path, "delete it"), check_readable])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read (Input/output error)"),
        (lambda path: path.symlink_to("/dev/zero"), "is no file but a folder, a pipe or a device"),
        (os.mkfifo, "is no file but a folder, a pipe or a device"),
        (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
    ],
    ids=["failing disk", "endless device", "pipe", "circle of links"],
)
def test_what_cannot_be_read_is_not_called_damaged_and_not_waited_for(make, words: str, load, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(UserError) as refused:
        load(tmp_path / "file")
    assert words in str(refused.value)
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("load", READERS, ids=["pictures", "statistics", "weights"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(5, "Input/output error"), r"file\.npz cannot be read \(Input/output error\); check that you may"),
        (LookupError("no such code"), r"file\.npz (holds no whole|is no whole|is damaged).*\(LookupError\); "),
    ],
    ids=["failing disk", "damage"],
)
def test_readers_of_what_strangers_write_tell_the_same_faults_apart(load, error, words: str, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "file.npz", np.zeros((2, 4, 4, 3), np.uint8))

    def failing(*_, **__):
        raise error

    for library in (np, torch):
        monkeypatch.setattr(library, "load", failing)
    with pytest.raises(UserError, match=words):
        load(tmp_path / "file.npz")
    error = MemoryError()
    with pytest.raises(MemoryError):
        load(tmp_path / "file.npz")


def test_every_file_of_a_folder_is_asked(public_path):
    (public_path / "inner").mkdir()
    (public_path / "inner" / "optimizer.bin").write_bytes(b"good")
    (public_path / "inner" / "optimizer.bin").chmod(0o000)
    for _ in range(2):
        with (
            unprivileged(),
            pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"),
            reading(public_path, "delete it", RuntimeError),
        ):
            raise RuntimeError
        # Neither may the folder be searched.
        (public_path / "inner").chmod(0o000)


def test_what_was_read_and_is_wrong_is_damaged(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"weights is damaged \(.+\); delete it"):
        _load(tmp_path / "weights")
    with pytest.raises(UserError, match=r"absent is damaged \(.+\); delete it"):
        _load(tmp_path / "absent")
    # Decoders have errors of the same type for what they read.
    with pytest.raises(UserError, match=r"is damaged \(.+\); delete it"), reading(tmp_path, "delete it"):
        raise OSError("image file is truncated")
    with (
        pytest.raises(UserError, match=r"is damaged \(Invalid argument\); delete it"),
        (tmp_path / "weights").open("rb", buffering=0) as file,
        reading(tmp_path, "delete it"),
    ):
        file.seek(-5)
    with pytest.raises(UserError, match=r"cannot be read \(Input/output error\)"), reading(tmp_path, "delete it"):
        raise OSError(5, "Input/output error")
    with pytest.raises(UserError, match="of the user"), reading(tmp_path, "delete it", ValueError):
        raise UserError("of the user")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "'a' comes twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' comes twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 200_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[1]", "no JSON object"),
        ("", "Expecting value"),
        ("{}x", "Extra data"),
        ("{" + f'"a": {"9" * 5000}' + "}", "Exceeds the limit"),
    ],
)
def test_json_is_read_strictly(text: str, words: str, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged \(") as refused:
        read_json(tmp_path / "run.json", "restore it")
    assert words in str(refused.value)
    assert str(refused.value).endswith("; restore it")
    assert "\n" not in str(refused.value)


def test_json_that_is_no_text_or_too_large_is_damaged(tmp_path):
    (tmp_path / "run.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match=r"is damaged \('utf-8' codec"):
        read_json(tmp_path / "run.json", "restore it")
    with (tmp_path / "run.json").open("w") as file:
        file.truncate(100 << 30)
    with pytest.raises(UserError, match=r"is damaged \(102400 MiB are too large"):
        read_json(tmp_path / "run.json", "restore it")


def test_json_that_is_whole_is_read(tmp_path):
    content = {"a": [1, 2.5, None, {"b": ""}], "c": {"b": True}, "ä": "$"}
    (tmp_path / "run.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert read_json(tmp_path / "run.json", "restore it") == content
    assert parse_json("5") == 5
