import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from scalespace.errors import UserError
from scalespace.files import write_directory
from scalespace.memory import check_disk, check_memory, free_memory, memory_ran_out, readable_bytes
from scalespace.reading import reading


def test_what_fits_passes_and_what_does_not_is_one_sentence(monkeypatch):
    monkeypatch.setattr("scalespace.memory.free_memory", lambda _: 25 * 10**9)
    check_memory("training", {"weights": 10**9, "activations": 24 * 10**9}, "lower --batch-size")
    with pytest.raises(UserError) as refused:
        check_memory("training", {"weights": 10**9, "activations": 37 * 10**12}, "lower --batch-size")
    assert str(refused.value) == (
        "training needs at least 37 TB of memory, most of it for activations, and this machine has 25 GB free; "
        "lower --batch-size"
    )
    monkeypatch.setattr("scalespace.memory.free_memory", lambda _: None)
    check_memory("training", {"activations": 10**400}, "lower --batch-size")


def test_free_memory_is_what_the_tightest_limit_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10 << 30))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=2 << 30))
    monkeypatch.setattr("scalespace.memory._LIMITS", ())
    assert free_memory() == 12 << 30
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr("scalespace.memory._LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    assert free_memory() == 12 << 30
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    assert free_memory() == 3 << 30


def test_a_limit_of_the_shell_counts():
    limit = 4 << 30
    program = "from scalespace.memory import free_memory; print(free_memory())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < int(run.stdout) < limit


def test_files_need_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10**9) if place == tmp_path else None)
    check_disk("244140 pictures", tmp_path / "new" / "folder", 244140, 0, "give fewer")
    # However small a file is, it takes a block.
    with pytest.raises(
        UserError, match=r"244141 pictures need at least 1 GB of disk, and .*folder has 1 GB free; give fewer"
    ):
        check_disk("244141 pictures", tmp_path / "new" / "folder", 244141, 0, "give fewer")
    with pytest.raises(UserError, match="need at least 2 TB of disk"):
        check_disk("checkpoints", tmp_path, 1, 2 * 10**12, "give fewer")


def _too_much() -> tuple[Exception, ...]:
    found = []
    for make in (
        lambda: torch.empty(1 << 58, dtype=torch.uint8),
        lambda: torch.empty(1 << 40, 1 << 40),
        lambda: np.empty(1 << 58, np.uint8),
        lambda: bytearray(1 << 60),
    ):
        with pytest.raises(Exception) as raised:  # noqa: PT011  # Each library has its own.
            make()
        found.append(raised.value)
    return tuple(found)


@pytest.mark.parametrize(
    "error",
    [
        *_too_much(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors_and_never_called_damage(error: Exception, tmp_path):
    assert memory_ran_out(error)

    def fail(_) -> None:
        raise error

    with pytest.raises(type(error)) as raised, reading(tmp_path, "delete it", RuntimeError, ValueError):
        fail(tmp_path)
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        write_directory(tmp_path / "model", fail)
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(28, "No space left"), KeyError("out of memory")]
)
def test_other_errors_are_not_of_memory(error: Exception):
    assert not memory_ran_out(error)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (37 * 10**12, "37 TB"),
    ],
)
def test_bytes_are_readable(number: int, text: str):
    assert readable_bytes(number) == text


def test_bytes_without_end_are_still_told():
    assert readable_bytes(10**400).endswith(" EB")
