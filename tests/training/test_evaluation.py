"""A run that is measured while it is trained: the same figures as afterwards, and the same weights as without."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.picture_files import encoded, picture
from tests.process_groups import run_group
from tests.small_models import cli_error, small_config, train_words
from torch.testing import assert_close

from scalespace.metrics import drawing
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.evaluate import Options, evaluate
from scalespace.metrics.training.held_out import HeldOut
from scalespace.training.configuration import ProcessConfig
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory
from scalespace.training.trainer import Trainer

# Features need 16 pixels. All that is drawn at random in a step is on, and weights move enough to draw different pictures.
PROCESS = ProcessConfig((16, 16), levels=2, timesteps=20, resolution="equal", beta_start=0.02, beta_end=0.4)
CHANGES: dict[str, Any] = {
    "process": PROCESS,
    "network": {"dropout": 0.3},
    "learning_rate": 0.01,
    "ema_decay": 0.5,
    "change_share": 0.3,
}
HELD_OUT = HeldOut(3, "synthetic:shapes:40", images=8, steps=5, metrics=("fid", "kid", "swd", "prdc", "colour"))


def _train(folder: Path, evaluation: HeldOut | None = HELD_OUT, **changes: Any) -> tuple[RunDirectory, list[str]]:
    said: list[str] = []
    run = train(small_config(folder, **(CHANGES | changes)), progress=False, say=said.append, evaluation=evaluation)
    return run, said


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> RunDirectory:
    return _train(tmp_path_factory.mktemp("measured") / "run")[0]


def _state(run: Path) -> dict[str, Any]:
    """Weights, averages and moments at the end, and what was logged but the pace."""
    folder = run / "checkpoints" / "step-00000006"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "weights": load_file(folder / "model.safetensors"),
        "averages": load_file(folder / "ema.safetensors"),
        "moments": torch.load(folder / "optimizer.bin", weights_only=True)["state"],
        "losses": [line["loss"] for line in lines],
    }


def test_a_run_is_bit_for_bit_the_same_with_and_without_measuring(measured, tmp_path):
    without, _ = _train(tmp_path / "run", None)
    assert_close(_state(measured.path), _state(without.path), rtol=0, atol=0)
    assert [record["step"] for record in measured.evaluations.read()] == [3, 6]
    assert not without.evaluations.path.exists()


def test_processes_train_bit_for_bit_the_same_with_and_without_measuring(tmp_path):
    options = ("--process.image-size", "16", "16", "--max-steps", "6", "--learning-rate", "0.01", "--ema-decay", "0.5")
    fixed = (*options, "--network.dropout", "0.3", "--mixed-precision", "no", "--checkpoint-every", "3")
    measuring = ("--evaluate-every", "3", "--evaluate-data", "synthetic:shapes:40", "--evaluate-images", "7")
    for name, more in (("with", (*measuring, "--evaluate-steps", "5")), ("without", ())):
        ended = run_group(2, train_words(tmp_path / name, *fixed, *more), tmp_path / "prints")
        assert [process.code for process in ended] == [0, 0], ended
    assert_close(_state(tmp_path / "with"), _state(tmp_path / "without"), rtol=0, atol=0)
    lines = [json.loads(line) for line in (tmp_path / "with" / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["pictures"], set(line["metrics"])) for line in lines] == [
        (3, 7, {"fid", "kid"}),
        (6, 7, {"fid", "kid"}),
    ]


def test_the_figures_are_those_of_the_trained_model(measured):
    (*_, last) = measured.evaluations.read()
    sampling = Sampling(num_images=8, steps=5, seed=0)
    options = Options(metrics=HELD_OUT.metrics, intervals=False, sampling=sampling)
    after = evaluate(str(measured.model_path), HELD_OUT.data, options, progress=False)
    assert last["metrics"] == pytest.approx({row.key: row.measured.value for row in after.rows}, rel=1e-4, abs=1e-6)
    assert last["metrics"]["fid"] > 0
    (first, _) = measured.evaluations.read()
    assert first["metrics"]["fid"] != last["metrics"]["fid"]


def test_the_page_shows_what_was_measured(measured):
    found = re.search(r"^const run = (.*);$", (measured.path / "index.html").read_text(), re.MULTILINE)
    assert found is not None
    charts = json.loads(found[1])["charts"]
    records = measured.evaluations.read()
    assert charts["from held-out pictures: fid"] == {"": [[r["step"], r["metrics"]["fid"]] for r in records]}
    shares = charts["from held-out pictures: precision, recall, density, coverage"]
    assert shares["coverage"] == [[r["step"], r["metrics"]["coverage"]] for r in records]
    assert set(charts["from held-out pictures: colour"]) == {"channels", "saturation", "brightness", "contrast"}


def test_figures_go_to_the_tracker(tmp_path, monkeypatch):
    sent: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr("accelerate.Accelerator.log", lambda self, values, step: sent.append((step, values)))
    run, _ = _train(tmp_path / "run", tracker="tensorboard")
    told = [(step, values) for step, values in sent if "evaluation/fid" in values]
    assert [step for step, _ in told] == [3, 6]
    assert told[0][1] == {f"evaluation/{k}": v for k, v in run.evaluations.read()[0]["metrics"].items()}


def test_a_run_that_goes_on_measures_what_is_missing_and_nothing_twice(measured, tmp_path, monkeypatch):
    options = {"max_steps": 6}
    with monkeypatch.context() as patch:
        # Killed after the checkpoint of step 3 and before its figures.
        patch.setattr("scalespace.metrics.training.held_out.draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "run", **options)
    run, _ = _train(tmp_path / "run", **options)
    figures = [{k: v for k, v in record.items() if k != "seconds"} for record in run.evaluations.read()]
    assert figures == [{k: v for k, v in r.items() if k != "seconds"} for r in measured.evaluations.read()]
    calls: list[int] = []
    take = Trainer.averaged
    monkeypatch.setattr(Trainer, "averaged", lambda self: calls.append(0) or take(self))
    again, _ = _train(tmp_path / "run", **options)
    assert again.evaluations.read() == run.evaluations.read()
    # Opened, and saved.
    assert len(calls) == 2
    # From an earlier checkpoint, later figures are measured again.
    shutil.rmtree(run.path / "checkpoints" / "step-00000006")
    again, _ = _train(tmp_path / "run", **options)
    assert [record["step"] for record in again.evaluations.read()] == [3, 6]


def test_figures_that_do_not_exist_are_said_and_stop_nothing(tmp_path):
    # At such a rate the averaged weights draw grey pictures, all alike.
    run, said = _train(tmp_path / "run", learning_rate=1e-30)
    assert [line for line in said if line.startswith("the run was not measured")] == [
        f"the run was not measured at step {step}: fid cannot be measured, since the features of one side do not vary at all; "
        "its pictures are all the same"
        for step in (3, 6)
    ]
    assert run.model_path.exists()


def test_measuring_takes_no_part_in_the_pace(tmp_path, monkeypatch):
    clock = itertools.count()
    late = 0.0
    draw = drawing.draw

    def slow(*arguments: Any) -> Any:
        nonlocal late
        late += 1000.0
        return draw(*arguments)

    monkeypatch.setattr("scalespace.metrics.training.held_out.draw", slow)
    monkeypatch.setattr("time.perf_counter", lambda: 0.001 * next(clock) + late)
    run, _ = _train(tmp_path / "run", log_every=1)
    # Four pictures a step: with what it took after step 3 there would be fewer than one in 200 seconds at step 4.
    assert late == 2000
    assert all(record["pictures_per_second"] > 1 for record in run.read_log())


def _words(folder: Path, *words: str) -> list[str]:
    return train_words(folder / "run", "--process.image-size", "16", "16", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--evaluate-every 3", "--evaluate-every has no effect without --evaluate-data"),
        ("--evaluate-data synthetic:shapes:9", "--evaluate-data has no effect without --evaluate-every"),
        ("--evaluate-images 9", "--evaluate-images has no effect where the run is not measured"),
        ("--evaluate-steps 9", "--evaluate-steps has no effect where the run is not measured"),
        ("--evaluate-metrics fid", "--evaluate-metrics has no effect where the run is not measured"),
        ("--evaluate-features efficientnet-lite0", "--evaluate-features has no effect where the run is not measured"),
        (
            "--evaluate-every 3 --evaluate-data D --evaluate-features efficientnet-lite0 --evaluate-metrics swd,colour",
            "--evaluate-features has no effect on metrics without features; leave --evaluate-features out, or name fid",
        ),
        ("--evaluate-every -1 --evaluate-data D", "--evaluate-every is -1; give at least 1"),
        ("--evaluate-every 3 --evaluate-data D --evaluate-images 1", "--evaluate-images is 1; give at least 2"),
        ("--evaluate-every 3 --evaluate-data D --evaluate-steps 1", "--evaluate-steps is 1; give at least 2"),
        ("--evaluate-every 3 --evaluate-data D --evaluate-metrics fib", '--evaluate-metrics names "fib", which cannot'),
        ("--evaluate-every 3 --evaluate-data D --evaluate-metrics ,", "--evaluate-metrics names none; use some of fid"),
        ("--evaluate-every 3 --evaluate-data nowhere", "there is no data at 'nowhere'"),
        ("--evaluate-every 3 --evaluate-data synthetic:shapes:1", "has no two different pictures to compare with"),
        ("--evaluate-every 3 --evaluate-data GREY", "are grey, and the model draws in colour; give others, or train"),
        (
            "--evaluate-every 3 --evaluate-data D --process.image-size 8 8",
            "pictures of 8x8 are too small for the built-in",
        ),
        (
            "--evaluate-every 3 --evaluate-data D --evaluate-images 5 --evaluate-metrics prdc",
            "--evaluate-metrics prdc compares with 5 neighbours, and there are 5 pictures; give more",
        ),
        (
            "--evaluate-every 3 --evaluate-data D --network.condition-size 8 8",
            "--evaluate-every cannot be used with --network.condition-size",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(words: str, sentence: str, tmp_path, capsys):
    for number in range(8):
        (tmp_path / "grey").mkdir(exist_ok=True)
        (tmp_path / "grey" / f"{number}.png").write_bytes(encoded(picture(number).convert("L")))
    given = words.replace(" D", " synthetic:shapes:20").replace("GREY", str(tmp_path / "grey")).split()
    assert sentence in cli_error(capsys, _words(tmp_path, *given))
    assert not (tmp_path / "run").exists()
