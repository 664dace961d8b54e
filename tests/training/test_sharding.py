"""Networks in shards: the run of one process, files that do not tell, and no deadlock."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.process_groups import run_group
from tests.small_models import cli_error, small_config, train_words
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.launch import is_sharded, unsharded
from scalespace.training.level_sampling import Batch, parts
from scalespace.training.sharded.setting import with_sharding

RUN = (
    *("--network.base-channels", "12", "--network.blocks-per-level", "1", "--mixed-precision", "no"),
    *("--learning-rate", "1e-3", "--gradient-clip", "0.5", "--batch-size", "3", "--change-share", "0.3"),
    *("--checkpoint-every", "4", "--average-every", "8", "--sample-every", "4", "--sample-images", "1"),
    *("--sample-steps", "3", "--micro-batch", "1"),
)
STEPS = 8
SHARDED = ("--sharding", "fsdp2")
MEASURED = """
import sys
from scalespace.training.trainer import Trainer
take = Trainer.step
def step(self, number, batch):
    result = take(self, number, batch)
    if number == 1:
        moments = [m.to_local() for s in self.optimizer.state.values() for m in s.values() if m.ndim]
        held = [*self.layout.held(self.network), *self.ema.shadow_params, *self.powers[0].values]
        whole = sum(p.numel() for p in self.network.parameters())
        moved = sum(p.numel() for p, s in self.optimizer.state.items() if s)
        print(sum(map(len, map(lambda t: t.flatten(), held))) / whole / 3, sum(m.numel() for m in moments) / moved / 2,
              file=sys.stderr)
    return result
Trainer.step = step
"""


def train(count: int, run: Path, *more: str, steps: int = STEPS, harm: str = "") -> list[str]:
    line = train_words(run, *RUN, "--max-steps", str(steps), *more)
    ended = run_group(count, line, run.parent / "prints", harm)
    assert [process.code for process in ended] == [0] * count, ended
    return [process.errors for process in ended]


def files(run: Path, step: int = STEPS) -> dict[str, dict[str, torch.Tensor]]:
    folder = run / f"checkpoints/step-{step:08d}"
    snapshot = run / f"averages/step-{step:08d}.safetensors"
    names = [*folder.glob("*.safetensors"), snapshot, *run.glob("model/**/*.safetensors")]
    return {str(name.relative_to(run)): load_file(name) for name in names}


def names(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(1, run)
    return run


def assert_same(run: Path, alone: Path) -> None:
    left, right = files(run), files(alone)
    assert left.keys() == right.keys()
    for name in left:
        # Snapshots are kept in half precision.
        assert_close(left[name], right[name], rtol=1e-3 if "averages" in name else 0, atol=1e-5)
    newest = f"checkpoints/step-{STEPS:08d}"
    moments = [torch.load(folder / newest / "optimizer.bin")["state"] for folder in (run, alone)]
    assert_close(*moments, rtol=1e-3, atol=1e-5)


def test_shards_are_half_each_and_train_the_run_of_one(alone, tmp_path):
    told = train(2, tmp_path / "run", *SHARDED, harm=MEASURED)
    # Only the first process may print anything but how it ends.
    assert [float(word) for word in told[0].split()[-2:]] == pytest.approx([0.5, 0.5], abs=0.02), told
    assert_same(tmp_path / "run", alone)
    assert names(tmp_path / "run") == names(alone)
    grids = [folder / "samples/step-00000004.png" for folder in (tmp_path / "run", alone)]
    assert grids[0].read_bytes() == grids[1].read_bytes()
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "run", alone)
    ]
    for one, other in zip(*logs, strict=True):
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_run_goes_on_with_and_without_shards(alone, tmp_path):
    run = tmp_path / "run"
    train(2, run, *SHARDED, steps=4)
    train(1, run, steps=6)
    train(2, run, *SHARDED, "--gradient-checkpointing")
    assert_same(run, alone)


# One process has the gradient 0 / 0 in one step; a run of one process has it in that step too.
POISON = """
from scalespace.training.trainer import Trainer
objective = Trainer.loss
def loss(self, step, batch):
    found = objective(self, step, batch)
    return found + (0 * found).sqrt() if step == 2 and rank == self.processes.count - 1 else found
Trainer.loss = loss
"""
MEASURING = (
    *("--evaluate-every", "4", "--evaluate-data", "synthetic:shapes:12", "--evaluate-images", "5"),
    *("--evaluate-steps", "3", "--evaluate-metrics", "swd,colour", "--log-every", "1"),
)


def test_shards_skip_what_is_not_finite_and_measure_like_one_process(tmp_path):
    runs = tmp_path / "one", tmp_path / "two"
    train(1, runs[0], *MEASURING, steps=6, harm=POISON)
    train(2, runs[1], *MEASURING, *SHARDED, steps=6, harm=POISON)
    for run in runs:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 1, 1]
    weights = [load_file(run / "model/unet/diffusion_pytorch_model.safetensors") for run in runs]
    assert_close(*weights, rtol=0, atol=1e-5)
    measured = [[json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()] for run in runs]
    assert [line["step"] for line in measured[0]] == [line["step"] for line in measured[1]] == [4, 6]
    for one, two in zip(*measured, strict=True):
        assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-3)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            "if rank == 1:\n    from scalespace.data.images import ImageDataset\n    ImageDataset.batch = None",
            "TypeError",
        ),
        ("if rank == 1:\n    from scalespace.training.trainer import Trainer\n    Trainer.loss = None", "TypeError"),
    ],
    ids=["reading", "inside of a step"],
)
def test_a_failure_of_one_ends_all_that_wait_for_its_shards(harm, sentence, tmp_path):
    ended = run_group(2, train_words(tmp_path / "run", *RUN, *SHARDED, "--max-steps", "4"), tmp_path / "prints", harm)
    assert all(process.code not in (0, None) for process in ended), ended
    assert sentence in ended[1].errors
    assert ended[0].errors == "" or "one of the 2 processes is gone or cannot be reached" in ended[0].errors
    assert not (tmp_path / "run" / "model").exists()


def test_all_processes_run_equally_many_parts():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)

    def batch(*places: int, counts: bool = True) -> Batch:
        own = range(places[0], places[-1] + 1)
        return Batch(None, own, range(3), images[list(own)], torch.zeros(len(own)), None, counts)  # pyright: ignore

    for own in (batch(0), batch(1, 2), batch(0, counts=False)):
        found = parts(own, 1, least=2)
        assert len(found) == 2
        # Every picture is run, and counts once, where it counts at all.
        counted = [place for part in found if part.counts for place in part.positions]
        assert counted == (list(own.positions) if own.counts else [])
        assert all(part.images.flatten().tolist() == list(part.positions) for part in found)


@pytest.mark.parametrize(
    ("options", "processes", "accelerate", "sentence"),
    [
        ({}, 1, {}, "shares the weights out among processes, and there is one; start several with torchrun"),
        ({"mixed_precision": "fp16"}, 2, {}, "does not go with precision fp16, .*; use bf16"),
        ({"level_sampling": "least-variance"}, 2, {}, "choose another --level-sampling"),
        ({}, 2, {"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "does not go with a compiled network"),
        ({"sharding": "none"}, 2, {"ACCELERATE_USE_FSDP": "true"}, "and --sharding is none; leave one of them out"),
    ],
)
def test_what_does_not_go_with_shards_is_refused(options, processes, accelerate, sentence, tmp_path, monkeypatch):
    for name, value in accelerate.items():
        monkeypatch.setenv(name, value)
    config = small_config(tmp_path, **({"sharding": "fsdp2"} | options))
    with pytest.raises(UserError, match=sentence):
        with_sharding(config, processes)


def test_a_run_is_sharded_as_it_is_told_or_as_accelerate_is_configured(tmp_path, monkeypatch):
    assert with_sharding(small_config(tmp_path), 2).sharding == "none"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert with_sharding(small_config(tmp_path), 2).sharding == "fsdp2"
    with unsharded():
        assert with_sharding(small_config(tmp_path), 2).sharding == "none"
    assert is_sharded()


def test_one_process_is_told_to_start_several(tmp_path, capsys):
    assert "start several with torchrun" in cli_error(capsys, train_words(tmp_path / "run", *SHARDED))
    assert not (tmp_path / "run").exists()
