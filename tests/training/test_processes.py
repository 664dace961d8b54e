"""Trainings that real processes share: the same run as in one process, one voice, and no deadlock however one of them fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.process_groups import run_group
from tests.small_models import small_config, train_words
from torch.testing import assert_close

from scalespace.errors import ToldError, UserError
from scalespace.processes import Processes
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.trainer import Trainer

# Norms in groups of three channels: before groups of one, biases have no gradient but rounding, and Adam walks on it.
WIDTHS = ("--network.base-channels", "12", "--mixed-precision", "no", "--learning-rate", "1e-3")


def words(folder: Path, *more: str, steps: int = 50, batch: int = 4) -> list[str]:
    run = ("--max-steps", str(steps), "--batch-size", str(batch), "--change-share", "0.2", "--checkpoint-every", "25")
    return train_words(folder, *WIDTHS, *run, *more)


def weights(run: Path, step: int = 50) -> dict[str, dict[str, torch.Tensor]]:
    files = {name: run / f"checkpoints/step-{step:08d}/{name}.safetensors" for name in ("model", "ema")}
    return {name: load_file(file) for name, file in files.items()}


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_run(left: Path, right: Path) -> None:
    assert_close(weights(left), weights(right), rtol=0, atol=1e-5)
    assert [line["step"] for line in log(left)] == [line["step"] for line in log(right)]
    for one, other in zip(log(left), log(right), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (ended,) = run_group(1, words(folder / "run"), folder / "prints")
    assert ended.code == 0, ended.errors
    return folder / "run"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_the_run_of_one(count: int, alone, tmp_path):
    ended = run_group(count, words(tmp_path / "run"), tmp_path / "prints")
    assert [process.code for process in ended] == [0] * count, ended
    assert_same_run(tmp_path / "run", alone)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in alone.iterdir()}
    assert "16 pictures" in ended[0].out
    assert f"model      {tmp_path / 'run' / 'model'}" in ended[0].out
    assert {(process.out, process.errors) for process in ended[1:]} == {("", "")}


def test_a_run_goes_on_with_other_numbers_of_processes(alone, tmp_path):
    for count, steps in ((4, 10), (2, 30), (1, 50)):
        ended = run_group(count, words(tmp_path / "run", steps=steps), tmp_path / "prints")
        assert [process.code for process in ended] == [0] * count, ended
    left, right = weights(tmp_path / "run"), weights(alone)
    assert_close(left, right, rtol=0, atol=1e-5)


def test_nothing_has_to_divide(tmp_path):
    grids = []
    options = (
        "--sample-every",
        "3",
        "--sample-images",
        "3",
        "--sample-steps",
        "3",
        "--level-sampling",
        "constant-memory",
    )
    for count in (4, 1):
        run = tmp_path / f"run{count}"
        line = words(run, *options, "--data", "synthetic:shapes:7", "--micro-batch", "2", steps=6, batch=5)
        ended = run_group(count, line, tmp_path / "prints")
        assert [process.code for process in ended] == [0] * count, ended
        grids.append((run / "samples" / "step-00000006.png").read_bytes())
    assert_close(*(weights(tmp_path / f"run{count}", 6) for count in (4, 1)), rtol=0, atol=1e-5)
    assert grids[0] == grids[1]


# What goes wrong, in which process, and the sentence that it ends all with.
_FULL = """
from scalespace.training.trainer import Trainer
def save(self, path):
    raise OSError(28, "No space left on device")
Trainer.save = save
"""
_READ = """
if rank == 1:
    from scalespace.data.images import ImageDataset
    from scalespace.errors import UserError
    def batch(self, indices):
        raise UserError("the pictures are gone; bring them back")
    ImageDataset.batch = batch
"""
_FIRST_ALONE = """
if rank == 0:
    import scalespace.training.loop
    from scalespace.errors import UserError
    def check(*_):
        raise UserError("the first has no memory; give it some")
    scalespace.training.loop.check_footprint = check
"""
_FAULT = """
if rank == 2:
    from scalespace.training.trainer import Trainer
    Trainer.loss = None
"""
_OTHERS = """
if rank == 1:
    from scalespace.data.images import ImageDataset
    ImageDataset.__len__ = lambda self: 15
"""
_SIGNAL = """
if rank == 1:
    import os, signal
    from scalespace.training.trainer import Trainer
    take = Trainer.step
    def step(self, number, batch):
        if number == 3:
            os.kill(os.getpid(), signal.%s)
        return take(self, number, batch)
    Trainer.step = step
"""
_KILLED = _SIGNAL % "SIGKILL"


@pytest.mark.parametrize(
    ("harm", "more", "teller", "sentence"),
    [
        ("", ("--data", "nowhere"), 0, "there is no data at 'nowhere'"),
        ("", ("--max-steps", "0"), 0, "max_steps is 0; give a number above 0"),
        ("", ("--batch-size", "2"), 0, "batch_size is 2, over all processes, of which there are 3"),
        (_FULL, (), 0, "step-00000006 (the disk is full); free space or choose another place"),
        (_READ, (), 1, "the pictures are gone; bring them back"),
        (_FIRST_ALONE, (), 0, "the first has no memory; give it some"),
        (_FAULT, (), 2, "TypeError, which should not happen"),
        (
            _OTHERS,
            (),
            1,
            "process 1 finds other pictures at synthetic:shapes:16 than the first process, which finds 16",
        ),
        (_KILLED, (), 0, "one of the 3 processes is gone or cannot be reached"),
    ],
    ids=["no data", "bad option", "few pictures", "full disk", "reading", "first alone", "fault", "others", "killed"],
)
def test_a_failure_of_one_ends_all_in_one_sentence(harm, more, teller, sentence, tmp_path):
    ended = run_group(3, words(tmp_path / "run", *more, steps=6), tmp_path / "prints", harm)
    assert sentence in ended[teller].errors
    assert [process.errors.count("scalespace: error") for process in ended] == [rank == teller for rank in range(3)]
    assert all(process.code not in (0, None) for process in ended), ended
    assert not (tmp_path / "run" / "model").exists()


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path):
    ended = run_group(2, words(tmp_path / "run", steps=6), tmp_path / "prints", _SIGNAL % "SIGTERM")
    assert [process.code for process in ended] == [75, 75], ended
    assert "scalespace: stopped at step 4 by a signal; the checkpoint is" in ended[0].errors
    assert ended[1].errors == ""
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


_THREADS = """
import atexit, os, sys
before = len(os.listdir("/proc/self/task"))
atexit.register(lambda: print("threads left:", len(os.listdir("/proc/self/task")) - before, file=sys.stderr))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list the threads of a process")
@pytest.mark.parametrize("harm", ["", _SIGNAL % "SIGKILL", _FAULT], ids=["well", "killed", "fault"])
def test_no_thread_that_talks_outlives_the_interpreter(harm, tmp_path):
    """Such a thread takes the lock of an interpreter that is gone, and aborts a process whose work is done."""
    ended = run_group(3, words(tmp_path / "run", steps=6), tmp_path / "prints", _THREADS + harm)
    alive = [process for process in ended if process.code != -signal.SIGKILL]
    assert ["threads left: 0" in process.errors for process in alive] == [True] * (2 if "SIGKILL" in harm else 3), ended


def test_dropout_goes_on_with_the_processes_it_began_with(tmp_path):
    def trainer(dropout: float, count: int) -> Trainer:
        config = small_config(tmp_path, network={"dropout": dropout})
        scheduler = build_scheduler(config)
        return Trainer(config, Accelerator(), scheduler, build_network(config, scheduler.sizes), Processes(0, count))

    for dropout in (0.0, 0.3):
        trainer(dropout, 1).save(tmp_path / str(dropout))
    trainer(0.0, 2).load(tmp_path / "0.0", 0)
    with pytest.raises(UserError, match=r"was written by 1 process, and 2 would draw .*; go on with 1, or give a new"):
        trainer(0.3, 2).load(tmp_path / "0.3", 0)


def test_torchrun_trains_one_run(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line = words(tmp_path / "run", steps=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [*launcher, "-m", "scalespace", *line], env=environment, timeout=300, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("model      ") == 1
    assert len(log(tmp_path / "run")) == 2


def test_a_process_alone_meets_nobody():
    processes = Processes()
    assert processes.first(lambda: 3) == 3
    assert processes.gather("a") == ["a"]
    assert [processes.meet(flag) for flag in (False, True)] == [False, True]
    processes.add([tensor := torch.ones(2)])
    assert tensor.tolist() == [1, 1]
    assert processes.fail()
    assert issubclass(ToldError, UserError)
