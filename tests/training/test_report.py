import json
import re
from typing import Any

import pytest
from tests.small_models import small_config

from scalespace.errors import UserError
from scalespace.training import report
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory
from scalespace.training.trainer import Trainer


def _shown(run: RunDirectory) -> dict[str, Any]:
    found = re.search(r"^const run = (.*);$", (run.path / "index.html").read_text(), re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_a_finished_run_has_a_page(tmp_path):
    run = train(small_config(tmp_path / "run", sample_every=3, sample_steps=5), progress=False)
    shown = _shown(run)
    assert (shown["state"], shown["step"], shown["maxSteps"]) == ("finished", 6, 6)
    assert shown["grids"] == [
        {"step": 3, "file": "samples/step-00000003.png"},
        {"step": 6, "file": "samples/step-00000006.png"},
    ]
    inside, *_ = shown["charts"].values()
    logged = [(record["step"], record["losses"]["8x8"]) for record in run.read_log() if "8x8" in record["losses"]]
    assert [tuple(point) for point in inside["8x8"]] == logged
    text = (run.path / "index.html").read_text()
    assert "<th>batch_size</th><td>4</td>" in text
    assert "<th>network.base_channels</th><td>8</td>" in text
    assert "16 pictures" in text


def test_the_page_of_a_running_run_tells_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_EVERY", 0.0)
    monkeypatch.setattr(report, "_SHARE", 1e9)
    seen: list[dict[str, Any]] = []
    take = Trainer.step

    def watched(trainer: Trainer, *arguments: Any) -> Any:
        if (run.path / "index.html").exists():
            seen.append(_shown(run))
        return take(trainer, *arguments)

    run = RunDirectory(small_config(tmp_path / "run"), None)
    monkeypatch.setattr(Trainer, "step", watched)
    train(small_config(tmp_path / "run"), progress=False)
    assert [shown["step"] for shown in seen] == [1, 2, 3, 4, 5]
    assert {shown["state"] for shown in seen} == {"running"}
    assert all(shown["secondsLeft"] > 0 for shown in seen)


def test_a_run_that_failed_is_shown_as_stopped_and_then_goes_on(tmp_path, monkeypatch):
    take = Trainer.step

    def failing(trainer: Trainer, number: int, *arguments: Any) -> Any:
        if number == 4:
            raise UserError("the disk is full")
        return take(trainer, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing)
        with pytest.raises(UserError):
            train(small_config(tmp_path / "run"), progress=False)
    run = RunDirectory(small_config(tmp_path / "run"), None)
    assert (_shown(run)["state"], _shown(run)["step"]) == ("stopped", 4)
    train(small_config(tmp_path / "run"), progress=False)
    assert (_shown(run)["state"], _shown(run)["step"]) == ("finished", 6)


def test_a_page_that_cannot_be_written_is_said_and_stops_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    said: list[str] = []
    train(small_config(tmp_path / "run", max_steps=3), progress=False)
    (tmp_path / "run" / "index.html").unlink()
    (tmp_path / "run" / "index.html").mkdir()
    run = train(small_config(tmp_path / "run"), progress=False, say=said.append)
    assert [line for line in said if "index.html" in line] == [
        f"cannot write {tmp_path / 'run' / 'index.html'}, which is a folder; name a file"
    ]
    assert run.model_path.is_dir()
