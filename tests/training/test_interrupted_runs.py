import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.faults.small_runs import lean
from tests.small_models import cli_error, small_config, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import Stopped, UserError
from scalespace.runs.lock import locked
from scalespace.training.configuration import TrainConfig
from scalespace.training.level_sampling import Batch
from scalespace.training.loop import train as train_aloud
from scalespace.training.trainer import Trainer

RARELY: dict[str, Any] = {"checkpoint_every": 99, "change_share": 0.3}


def train(config: TrainConfig) -> list[str]:
    """Train, and return what was said."""
    said: list[str] = []
    with lean():
        train_aloud(config, progress=False, say=said.append)
    return said


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def assert_same_end(left: Path, right: Path) -> None:
    for name in ("model", "ema"):
        ends = [load_file(run / "checkpoints" / "step-00000006" / f"{name}.safetensors") for run in (left, right)]
        assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of six steps that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(small_config(folder, **RARELY))
    assert checkpoints(folder) == [6]
    return folder


def send(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int) -> None:
    """Let the process get a signal in a step, counted from 0."""
    take = Trainer.step

    def interrupted(self: Trainer, index: int, batch: Batch):
        if index == step:
            os.kill(os.getpid(), number)
        return take(self, index, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_the_same_command_goes_on(number, straight, tmp_path, monkeypatch):
    config = small_config(tmp_path, **RARELY)
    with monkeypatch.context() as patch:
        send(patch, number, 3)
        with pytest.raises(Stopped) as stop:
            train(config)
    path = tmp_path / "checkpoints" / "step-00000004"
    assert str(stop.value) == (
        f"stopped at step 4 by {number.name}; the checkpoint is {path}, and the same command goes on"
    )
    assert checkpoints(tmp_path) == [4]
    assert train(config)[-1] == f"resuming {tmp_path} at step 4"
    assert_same_end(tmp_path, straight)


def test_a_signal_in_the_last_step_leaves_a_finished_run(straight, tmp_path, monkeypatch):
    send(monkeypatch, signal.SIGTERM, 5)
    train(small_config(tmp_path, **RARELY))
    assert (tmp_path / "model").is_dir()
    assert_same_end(tmp_path, straight)


def test_the_command_exits_with_75_and_one_sentence(tmp_path, monkeypatch, capsys):
    send(monkeypatch, signal.SIGTERM, 0)
    with pytest.raises(SystemExit) as stop:
        main(train_words(tmp_path / "run"))
    assert stop.value.code == 75
    assert "\nscalespace: stopped at step 1 by SIGTERM; the checkpoint is " in f"\n{capsys.readouterr().err}"


def test_a_limit_of_time_stops_with_a_checkpoint_as_often_as_it_must(straight, tmp_path):
    config = small_config(tmp_path, **RARELY, max_hours=1e-9)
    for step in range(1, 6):
        with pytest.raises(Stopped, match=rf"stopped at step {step} by --max-hours 1e-09; the checkpoint is"):
            train(config)
    train(config)
    assert_same_end(tmp_path, straight)


def test_checkpoints_by_minutes_do_not_change_the_weights(straight, tmp_path):
    train(small_config(tmp_path, **RARELY, checkpoint_minutes=1e-9, keep_checkpoints=9))
    assert checkpoints(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert_same_end(tmp_path, straight)


def test_a_stop_among_skipped_steps_keeps_the_last_good_checkpoint(straight, tmp_path, monkeypatch):
    config = small_config(tmp_path, **RARELY | {"checkpoint_every": 2})
    loss = Trainer.loss
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, 3)
        patch.setattr(
            Trainer, "loss", lambda self, step, batch: loss(self, step, batch) * (float("nan") if step == 3 else 1)
        )
        with pytest.raises(Stopped, match=r"stopped at step 4 by SIGTERM; the checkpoint is .*step-00000002"):
            train(config)
    assert checkpoints(tmp_path) == [2]
    train(config)
    assert_same_end(tmp_path, straight)


def test_a_second_run_in_a_folder_is_refused(tmp_path, capsys):
    words = train_words(tmp_path / "run")
    with locked(tmp_path / "run", pytest.fail):
        error = cli_error(capsys, words)
    assert f"is in use by another run (process {os.getpid()} on " in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    main(words)


def test_a_run_without_checkpoints_begins_again_aloud_and_one_that_was_finished_does_not(tmp_path, monkeypatch):
    config = small_config(tmp_path, **RARELY)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="the disk is full"):
            train(config)
    assert f"{tmp_path} was stopped before its first checkpoint and begins again at step 0" in train(config)
    (tmp_path / "checkpoints" / "step-00000006").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="has a model and no checkpoint to go on from; restore one from a copy"):
        train(config)
