import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unprivileged import public_path, unprivileged

from scalespace.errors import UserError
from scalespace.runs.lock import LOCK, check_unlocked, locked

__all__ = ["public_path"]

HOLD = """
import sys, time
from pathlib import Path
from scalespace.runs.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_the_name_of_the_first_and_a_kill_frees_the_folder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(UserError, match=rf"run is in use by another run \(process {holder.pid} on .+\); wait"):
                check_unlocked(tmp_path / "run")
            with pytest.raises(UserError, match="is in use"), locked(tmp_path / "run", pytest.fail):
                pass
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path / "run", pytest.fail):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()


def test_a_lock_is_held_inside_the_block_only_and_also_against_its_own_process(tmp_path):
    check_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        with locked(tmp_path, pytest.fail), pytest.raises(UserError, match="in use"):
            check_unlocked(tmp_path)
        check_unlocked(tmp_path)


def test_a_program_that_a_run_starts_does_not_keep_the_lock(tmp_path):
    with locked(tmp_path, pytest.fail):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with locked(tmp_path, pytest.fail):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_written_is_one_sentence(public_path: Path):
    public_path.chmod(0o555)
    refused = pytest.raises(UserError, match=r"cannot write .*lock \(Permission denied\); free space or")
    with unprivileged(), refused, locked(public_path, pytest.fail):
        pass
    (public_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write .*\(Not a directory\)"),
        locked(public_path / "file", pytest.fail),
    ):
        pass


def test_a_file_system_without_locks_is_said_and_not_refused(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    said: list[str] = []
    with locked(tmp_path, said.append):
        pass
    assert said == [f"{tmp_path} cannot be locked on this file system; start no second run in it"]


def test_waiting_is_none_of_it(tmp_path):
    with locked(tmp_path, pytest.fail):
        began = time.monotonic()
        with pytest.raises(UserError):
            check_unlocked(tmp_path)
        assert time.monotonic() - began < 5
