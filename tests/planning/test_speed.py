import json
from typing import Any

import pytest
import torch
from tests.small_models import SIZES, SMALL_OPTIONS, cli_error, given_once, small_network

from scalespace.cli import main
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.flops import path_activations, path_gflops
from scalespace.planning.speed import readable_seconds

_FULL, _CHANGE, _HALF = (SIZES[0], SIZES[0]), (SIZES[1], SIZES[0]), (SIZES[1], SIZES[1])
_SHARES = {_FULL: 10 / 20, _CHANGE: 1 / 20, _HALF: 9 / 20}
_RATE = 2.0  # GFLOP/s


@pytest.fixture
def gflops() -> dict[Any, float]:
    return {pair: path_gflops(small_network(paths="shared"), *pair) for pair in _SHARES}


@pytest.fixture
def clock(monkeypatch, gflops) -> None:
    """Time passes in calls of the network alone, as their FLOPs at 2 GFLOP/s; a step of training counts three times."""
    now, forward = [0.0], FlexiUNet.forward

    def timed(network: FlexiUNet, sample: torch.Tensor, timestep: Any, target_size: Any, *others: Any, **more: Any):
        passes = 3 if network.training else 1
        now[0] += passes * len(sample) * gflops[tuple(sample.shape[-2:]), tuple(target_size)] / _RATE
        return forward(network, sample, timestep, target_size, *others, **more)

    monkeypatch.setattr(FlexiUNet, "forward", timed)
    monkeypatch.setattr("scalespace.planning.timing.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("scalespace.planning.timing._attainable", lambda *_: 2 * _RATE)


def _words(work: str, *words: str) -> list[str]:
    return given_once("bench", work, *SMALL_OPTIONS, "--seconds", "0", "--quiet", *words)


def _bench(capsys: pytest.CaptureFixture[str], work: str, *words: str) -> dict[str, Any]:
    main(_words(work, "--json", *words))
    return json.loads(capsys.readouterr().out)


def _paths(found: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    return {(tuple(path["size"]), tuple(path["target_size"])): path for path in found["paths"]}


def test_training_is_timed_path_by_path(clock, gflops, capsys):
    found = _bench(capsys, "train", "--batch-size", "4", "--max-steps", "500", "--mixed-precision", "no")
    paths = _paths(found)
    assert list(paths) == [_FULL, _CHANGE, _HALF]
    for pair, path in paths.items():
        assert path["share"] == pytest.approx(_SHARES[pair])
        assert path["gflops"] == pytest.approx(3 * gflops[pair])
        assert path["seconds"] == pytest.approx(4 * 3 * gflops[pair] / _RATE)
        assert path["gflops_per_second"] == pytest.approx(_RATE)
        # Some tensors are as many for four pictures as for one, and a step needs more than activations.
        assert 3 < path["peak_bytes"] / path_activations(small_network(paths="shared"), *pair) < 7
    mean = sum(_SHARES[pair] * 3 * gflops[pair] / _RATE for pair in _SHARES)
    assert found["step_seconds"] == pytest.approx(4 * mean)
    assert found["pictures_per_second"] == pytest.approx(1 / mean)
    assert found["over_one_level"] == pytest.approx(3 * gflops[_FULL] / _RATE / mean)
    assert found["over_one_level"] == pytest.approx(found["over_one_level_by_flops"])


def test_batches_grow_as_training_grows_them(clock, gflops, capsys):
    found = _bench(
        capsys, "train", "--batch-size", "16", "--level-sampling", "constant-compute", "--mixed-precision", "no"
    )
    sizes = {pair: path["batch_size"] for pair, path in _paths(found).items()}
    assert sizes[_HALF] / sizes[_FULL] == pytest.approx(gflops[_FULL] / gflops[_HALF], rel=0.1)
    pictures = sum(_SHARES[pair] * size for pair, size in sizes.items())
    assert found["pictures_per_second"] == pytest.approx(pictures / found["step_seconds"])
    assert found["over_one_level"] == pytest.approx(found["over_one_level_by_flops"])


def test_sampling_is_timed_path_by_path_and_as_a_whole(clock, gflops, capsys):
    found = _bench(capsys, "sample", "--batch-size", "3", "--steps", "10", "--spacing", "linspace", "--device", "cpu")
    paths = _paths(found)
    calls = {pair: round(path["share"] * found["calls"]) for pair, path in paths.items()}
    assert sum(calls.values()) == found["calls"]
    assert calls[_CHANGE] == 1
    each = sum(calls[pair] * gflops[pair] for pair in calls)
    assert found["gflops"] == pytest.approx(each)
    assert found["seconds"] == pytest.approx(3 * each / _RATE)
    assert found["pictures_per_second"] == pytest.approx(_RATE / each)
    assert found["network_share"] == pytest.approx(1)
    assert found["over_one_level"] == pytest.approx(1000 * gflops[_FULL] / each)
    assert found["over_one_level"] == pytest.approx(found["over_one_level_by_flops"])
    main(_words("sample", "--steps", "10"))
    assert "over one level" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--network.num-classes", "3"), ("--process.levels", "1")])
def test_conditional_models_and_models_of_one_level_are_timed(options, capsys):
    for words in (["train"], ["sample", "--steps", "5"]):
        found = _bench(capsys, *words, *options)
        assert found["pictures_per_second"] > 0
        assert found["machine"]["attainable"] > 0


def test_a_table_of_training_and_a_plan_tell_the_same(clock, gflops, capsys, tmp_path):
    found = _bench(capsys, "train", "--mixed-precision", "no", "--max-steps", "1000")
    (tmp_path / "bench.json").write_text(json.dumps(found))
    mean = sum(_SHARES[pair] * 3 * gflops[pair] / _RATE for pair in _SHARES)
    main(["plan", *SMALL_OPTIONS, "--speed", str(tmp_path / "bench.json"), "--json"])
    assert json.loads(capsys.readouterr().out)["training_seconds_per_picture"] == pytest.approx(mean)
    main(["plan", *SMALL_OPTIONS, "--speed", str(tmp_path / "bench.json")])
    assert f"a million pictures take {readable_seconds(1e6 * mean)}" in capsys.readouterr().out
    main(_words("train", "--max-steps", "1000", "--mixed-precision", "no"))
    text = capsys.readouterr().out
    assert "float32; a matrix product reaches 4 GFLOP/s" in text
    assert "4x4 -> 8x8" in text
    assert "50%" in text
    assert f"1,000 steps  {readable_seconds(16000 * mean)} at" in text


def test_readable_seconds():
    times = (0.5, 119, 120, 7199, 7200, 172799, 172800)
    assert [readable_seconds(seconds) for seconds in times] == [
        *("0.5 seconds", "119 seconds", "2 minutes", "120 minutes", "2 hours", "48 hours", "2 days")
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "train", "--batch-size", "0"], "--batch-size is 0"),
        (["bench", "train", "--seconds", "nan"], "seconds is nan"),
        (["bench", "train", "--max-steps", "0"], "max_steps is 0"),
        (["bench", "train", "--process.resolution", "auto"], "--process.change-points"),
        (["bench", "sample", "--steps", "1"], "1 sampling steps"),
        (["bench", "sample", "--device", "abacus"], 'device "abacus"'),
        (["bench", "sample", "--batch-size", "1000000000"], "needs at least"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, capsys):
    assert sentence in cli_error(capsys, words)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"measured": "sample"}', "is about sampling"),
        ('{"measured": "train", "paths": []}', "damaged"),
        (
            '{"measured": "train", "paths": [{"size": [8, 8], "target_size": [8, 8], "gflops_per_second": 0}]}',
            "damaged",
        ),
    ],
)
def test_a_file_that_holds_no_speed_is_refused(content, sentence, capsys, tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(content)
    assert sentence in cli_error(capsys, ["plan", "--speed", str(file)])
    assert "does not exist" in cli_error(capsys, ["plan", "--speed", str(tmp_path / "none.json")])
