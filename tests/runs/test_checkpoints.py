import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalespace.errors import UserError
from scalespace.runs.checkpoints import Checkpoint, Checkpoints

RUN = {"seed": 0}


def _difference(run) -> str | None:
    return None if run == RUN else f"seed is {run['seed']} there and 0 here"


def _write(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "moments").write_text(f"moments of {text}")

    return write


class Fixture:
    """Checkpoints at steps 5, 10 and 15, and what is said of them."""

    def __init__(self, folder: Path):
        self.folder, self.said = folder, []
        self.kept = self.opened()
        for step in (5, 10, 15):
            self.kept.save(step, _write(str(step)), RUN)

    def opened(self, keep: int = 3) -> Checkpoints:
        """As another process finds them."""
        return Checkpoints(self.folder, keep, self.said.append)

    def __getitem__(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def kept(tmp_path) -> Fixture:
    return Fixture(tmp_path / "checkpoints")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


HARMS: dict[str, tuple[Callable[[Fixture], object], str]] = {
    "cut": (lambda kept: _cut(kept[15] / "weights"), "weights has 1 bytes, and 2 were written"),
    "zeroed": (lambda kept: _zero(kept[15] / "weights"), "weights has other contents than were written"),
    "deleted": (lambda kept: (kept[15] / "moments").unlink(), "moments is missing"),
    "a file of another checkpoint": (
        lambda kept: shutil.copy(kept[10] / "weights", kept[15] / "weights"),
        "weights has other contents than were written",
    ),
    "all files of another checkpoint": (
        lambda kept: (shutil.rmtree(kept[15]), shutil.copytree(kept[10], kept[15])),
        "it was written at step 10, and its name is of another",
    ),
    "the manifest of another checkpoint": (
        lambda kept: shutil.copy(kept[10] / "manifest.json", kept[15]),
        "it was written at step 10, and its name is of another",
    ),
    "no manifest": (
        lambda kept: (kept[15] / "manifest.json").unlink(),
        "it has no manifest.json that proves it whole",
    ),
    "half a manifest": (
        lambda kept: (kept[15] / "manifest.json").write_text('{"step": 15'),
        "manifest.json is damaged",
    ),
    "an empty folder": (
        lambda kept: [file.unlink() for file in kept[15].iterdir()],
        "it has no manifest.json that proves it whole",
    ),
    "of another run": (
        lambda kept: kept.opened().save(15, _write("15"), {"seed": 1}),
        "it belongs to another run (seed is 1 there and 0 here)",
    ),
    "of no run": (
        lambda kept: (kept[15] / "manifest.json").write_text(
            json.dumps({k: v for k, v in json.loads((kept[15] / "manifest.json").read_text()).items() if k != "run"})
        ),
        "manifest.json does not tell its run",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_newest_whole_checkpoint_is_taken_and_what_is_skipped_is_said_and_stays(harm: str, kept):
    do, words = HARMS[harm]
    do(kept)
    before = kept.names()
    fresh = kept.opened()
    assert fresh.newest_whole(_difference) == Checkpoint(10, kept[10], proven=True)
    assert len(kept.said) == 1
    assert kept.said[0].startswith(f"skipped {kept[15]}: ")
    assert words in kept.said[0]
    assert kept.names() == before
    assert fresh.latest() == (10, kept[10])


def test_a_renamed_checkpoint_is_not_whole(kept):
    kept[5].rename(kept[20])
    assert kept.opened().newest_whole(_difference) == Checkpoint(15, kept[15], proven=True)
    assert kept.said == [f"skipped {kept[20]}: it was written at step 5, and its name is of another"]


def test_if_none_is_whole_it_stops_and_nothing_is_deleted(kept):
    for step in (5, 10, 15):
        _zero(kept[step] / "moments")
    with pytest.raises(
        UserError,
        match=r"no checkpoint in .*checkpoints is whole \(of the newest, moments has other .*\); restore one from a copy",
    ):
        kept.opened().newest_whole(_difference)
    assert len(kept.said) == 3
    assert len(kept.names()) == 3
    for step in (5, 10, 15):
        kept[step].rename(kept.folder / f"step-{step}")
    with pytest.raises(UserError, match=r"has no checkpoint but step-10; give it back its name if it was one"):
        kept.opened().newest_whole(_difference)


def test_without_any_there_is_none(tmp_path):
    assert Checkpoints(tmp_path / "new", 2, pytest.fail).newest_whole(_difference) is None
    (tmp_path / ".step-00000005.partial").mkdir()
    assert Checkpoints(tmp_path, 2, pytest.fail).newest_whole(_difference) is None


def test_checkpoints_of_earlier_versions_are_taken_with_a_word_where_none_is_proven(kept):
    for step in (10, 15):
        (kept[step] / "manifest.json").unlink()
    _zero(kept[5] / "weights")
    assert kept.opened().newest_whole(_difference) == Checkpoint(15, kept[15], proven=False)
    assert kept.said == [
        f"skipped {kept[5]}: weights has other contents than were written",
        f"{kept[15]} cannot be proven whole: it has no manifest.json, as those of earlier versions of scalespace",
    ]


@pytest.mark.parametrize("keep", [1, 2])
def test_only_whole_checkpoints_are_counted_and_deleted(keep: int, kept):
    _zero(kept[15] / "weights")
    fresh = kept.opened(keep)
    fresh.newest_whole(_difference)
    fresh.save(12, _write("12"), RUN)
    # The damaged one is neither counted nor deleted, although it is the newest.
    assert kept.names() == [f"step-{step:08d}" for step in (*[10, 12][-keep:], 15)]
    fresh.save(15, _write("15"), RUN)
    assert kept.opened().newest_whole(_difference) == Checkpoint(15, kept[15], proven=True)
    _cut(kept[15] / "weights")
    kept.opened(keep).save(20, _write("20"), RUN)
    assert kept.names() == [f"step-{step:08d}" for step in ([12, 15, 20] if keep == 2 else [15, 20])]


def test_steps_are_ordered_by_number_and_known_by_one_name_only(kept):
    kept.opened(9).save(100_000_000, _write("many"), RUN)
    kept.opened(9).save(99_999_999, _write("fewer"), RUN)
    shutil.copytree(kept[5], kept.folder / "step-000000000777")
    assert kept.opened().newest_whole(_difference) == Checkpoint(100_000_000, kept[100_000_000], proven=True)


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(kept, monkeypatch):
    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("scalespace.runs.checkpoints.remove_directory", busy)
    kept.opened().save(20, _write("20"), RUN)
    assert kept.said[-1] == (
        f"cannot delete the old checkpoint {kept[5]} (Device or resource busy); it is no longer needed"
    )
    assert kept[20].is_dir()


def test_multiples_of_a_number_of_steps_are_never_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, lambda line: None, keep_every=10)
    for step in (5, 10, 15, 20, 25, 30, 33, 35, 40, 41):
        checkpoints.save(step, _write(str(step)), RUN)
    assert [int(path.name[5:]) for path in sorted(tmp_path.iterdir())] == [10, 20, 30, 40, 41]
