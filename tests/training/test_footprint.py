import re
import time

import pytest
import torch
from tests.small_models import cli_error, train_words

from scalespace.training.build import build_scheduler
from scalespace.training.configuration import TrainConfig
from scalespace.training.footprint import check_footprint

CPU = torch.device("cpu")


def _check(config: TrainConfig, **options) -> None:
    check_footprint(config, build_scheduler(config), CPU, **options)


def _needed(config: TrainConfig, monkeypatch, **options) -> int:
    """Bytes of memory that a run is said to need."""
    found: list[int] = []
    monkeypatch.setattr(
        "scalespace.training.footprint.check_memory", lambda task, needs, *_: found.append(sum(needs.values()))
    )
    _check(config, **options)
    return sum(found)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--batch-size 1000000000", "training needs at least 1.46e+03 TB? of memory"),
        ("--batch-size 1000000000 --gradient-checkpointing", "training needs at least"),
        ("--batch-size 1000000000 --micro-batch 1", "most of it for the pictures that are read ahead"),
        ("--sample-every 1 --sample-images 1000000000", "drawing 1,000,000,000 pictures together needs at least"),
        ("--network.base-channels 400000", "most of it for weights, gradients, moments and averages"),
        ("--network.num-classes 1000000000", "most of it for weights, gradients, moments and averages"),
    ],
)
def test_a_run_that_memory_cannot_hold_is_one_sentence_in_seconds(words: str, sentence: str, tmp_path, capsys):
    before = time.process_time()
    errors = cli_error(capsys, train_words(tmp_path / "run", "--sample-steps", "3", *words.split()))
    assert time.process_time() - before < 20
    assert re.search(sentence.replace("+", r"\+"), errors) or "training needs at least" in errors
    assert "free; lower --" in errors
    assert not (tmp_path / "run").exists()
