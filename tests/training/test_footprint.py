"""What a run takes at least, and that one which cannot fit is refused before anything is taken."""

import time
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from tests.small_models import cli_error, small_config, small_network, train_words

from scalespace.networks.flops import path_activations
from scalespace.training.build import build_network, build_scheduler, least_parameters, without_data
from scalespace.training.configuration import PRESETS, TrainConfig, preset
from scalespace.training.start.footprint import check_footprint


@pytest.mark.parametrize(
    ("words", "sentence", "lower"),
    [
        ("--batch-size 1000000000", "most of it for the activations of 1,000,000,000 pictures", "--batch-size"),
        ("--batch-size 1000000000 --gradient-checkpointing", "most of it for the activations of", "--batch-size"),
        ("--batch-size 1000000000 --micro-batch 1", "most of it for the pictures that are read ahead", "--batch-size"),
        (
            "--sample-every 1 --sample-steps 3 --sample-images 1000000000",
            "drawing 1,000,000,000 pictures together",
            "--sample-images",
        ),
        ("--network.base-channels 40000", "most of it for weights, gradients, moments and averages", "--batch-size"),
        ("--network.num-classes 1000000000", "most of it for weights, gradients, moments and averages", "--batch-size"),
    ],
)
def test_a_run_that_memory_cannot_hold_is_one_sentence_in_seconds(words, sentence, lower, tmp_path, capsys):
    before = time.process_time()
    errors = cli_error(capsys, train_words(tmp_path / "run", *words.split()))
    assert time.process_time() - before < 20
    assert sentence in errors
    assert "needs at least" in errors
    assert f"lower {lower}" in errors
    assert not (tmp_path / "run").exists()


def _needs(config: TrainConfig, monkeypatch, processes: int = 1) -> Mapping[str, int]:
    found: dict[str, int] = {}
    monkeypatch.setattr("scalespace.training.start.footprint.check_memory", lambda task, needs, *_: found.update(needs))
    scheduler = build_scheduler(config)
    make = partial(build_network, config, scheduler.sizes)
    check_footprint(config, scheduler, make, torch.device("cpu"), processes)
    return found


def test_bytes_are_those_of_parameters_activations_and_pictures(tmp_path, monkeypatch):
    parameters = sum(parameter.numel() for parameter in small_network().parameters())
    activations = path_activations(small_network().train(), (8, 8), (8, 8))
    needs = _needs(small_config(tmp_path, batch_size=12), monkeypatch)
    # Weights, gradients, two moments and averages, in float32; five batches of bytes.
    assert needs["weights, gradients, moments and averages"] == 5 * 4 * parameters
    assert needs["the activations of 12 pictures"] == 12 * activations
    assert needs["the pictures that are read ahead"] == 5 * 12 * 3 * 8 * 8


@pytest.mark.parametrize(
    ("options", "processes", "together", "share"),
    [
        ({"micro_batch": 5}, 1, 5, 1),
        ({}, 4, 3, 1),
        ({"mixed_precision": "bf16"}, 1, 12, 2),
    ],
)
def test_what_takes_less_at_once_needs_less(options, processes, together, share, tmp_path, monkeypatch):
    activations = path_activations(small_network().train(), (8, 8), (8, 8))
    needs = _needs(small_config(tmp_path, batch_size=12, **options), monkeypatch, processes)
    assert needs[f"the activations of {together} pictures"] == together * (activations // share)


@pytest.mark.parametrize("command", ["plan", "train --data synthetic:shapes:9 --output-dir run", "bench train"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--network.blocks-per-level 200 --network.base-channels 1048576",
            "parameters, and more than 1e+12 are out of all proportion; lower --network.base-channels or "
            "--network.blocks-per-level",
        ),
        (
            "--preset tiny-transformer --transformer.width 1048576 --transformer.depth 200",
            "the network would have at least 2.6e+15 parameters, and more than 1e+12 are out of all proportion; lower "
            "--transformer.width or --transformer.depth",
        ),
    ],
    ids=["unet", "transformer"],
)
def test_a_network_out_of_all_proportion_is_refused_before_it_is_built(
    command, words, sentence, capsys, monkeypatch, tmp_path
):
    def built(*_, **__):
        raise AssertionError("it was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "__init__", built)
    assert sentence in cli_error(capsys, [*command.split(), *words.split()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_is_known_to_have_no_more_parameters_than_it_has(name):
    model = preset(name)
    scheduler = build_scheduler(without_data(model))
    with torch.device("meta"):
        network = build_network(model, scheduler.sizes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert 0.1 * parameters < least_parameters(model) <= parameters
