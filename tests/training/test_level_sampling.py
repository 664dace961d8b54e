"""How many pictures a step takes: the same compute for every rule, and the least variance for it."""

import itertools
import json
import math

import pytest
import torch
from tests.small_models import small_config
from tests.training.test_loop import trainer

from scalespace.data.batches import BatchOrder
from scalespace.data.images import open_images
from scalespace.training import build
from scalespace.training.build import build_batches, build_scheduler, build_times
from scalespace.training.level_sampling import LevelBatches, batch_sizes, gradient_variance, parts, share
from scalespace.training.loop import train

PROBABILITIES, GFLOPS, ACTIVATIONS = (0.5, 0.3, 0.2), (60.0, 20.0, 6.0), (9.0, 4.0, 1.0)
VARIANCES = (40.0, 3.0, 0.1)


def sizes(rule, batch_size: int = 6000):
    return batch_sizes(rule, batch_size, PROBABILITIES, GFLOPS, ACTIVATIONS, VARIANCES)


def compute(batches) -> float:
    return sum(p * b * c for p, b, c in zip(PROBABILITIES, batches, GFLOPS, strict=True))


def variance(batches) -> float:
    return sum(p * v / b for p, v, b in zip(PROBABILITIES, VARIANCES, batches, strict=True))


@pytest.mark.parametrize("rule", ["natural", "constant-compute", "constant-memory", "least-variance"])
def test_every_rule_spends_what_the_natural_one_spends(rule):
    assert compute(sizes(rule)) == pytest.approx(compute((6000, 6000, 6000)), rel=1e-3)


def test_rules_keep_constant_what_they_say():
    assert sizes("natural") == (6000, 6000, 6000)
    costs = [b * c for b, c in zip(sizes("constant-compute"), GFLOPS, strict=True)]
    assert costs == pytest.approx([costs[0]] * 3, rel=1e-3)
    memory = [b * m for b, m in zip(sizes("constant-memory"), ACTIVATIONS, strict=True)]
    assert memory == pytest.approx([memory[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("rule", ["natural", "constant-compute", "constant-memory"])
def test_a_run_counts_what_its_rule_needs_and_no_more(rule, tmp_path, monkeypatch):
    config = small_config(tmp_path, level_sampling=rule, batch_size=600)
    process = build_scheduler(config).process
    times = build_times(config, process)
    counted = []
    for name, of_small, of_large in (("path_gflops", 2.0, 8.0), ("path_activations", 1.0, 5.0)):

        def count(network, size, target_size, name=name, cost=(of_small, of_large)):
            counted.append(name)
            return cost[size == (8, 8)]

        monkeypatch.setattr(build, name, count)
    batches = build_batches(config, lambda: None, times).sizes(0)
    assert len(times.groups) == 3
    needed = {"natural": [], "constant-compute": ["path_gflops"]}.get(rule, ["path_gflops", "path_activations"])
    assert counted == [name for name in needed for _ in range(3)]
    # The path at the full resolution is the first, and the change the second.
    ratio = {"natural": 1, "constant-compute": 4, "constant-memory": 5}[rule]
    assert batches[1] == batches[2] == pytest.approx(ratio * batches[0], rel=0.01)
    if rule == "natural":
        assert batches == (600, 600, 600)


def test_no_other_batches_of_the_same_compute_have_less_variance():
    best = sizes("least-variance")
    for factors in itertools.product((0.8, 0.97, 1.0, 1.03, 1.25), repeat=3):
        other = [b * factor for b, factor in zip(best, factors, strict=True)]
        scale = compute(best) / compute(other)
        assert variance([b * scale for b in other]) >= variance(best) * (1 - 1e-4)


def test_a_group_is_never_left_without_a_picture():
    assert min(batch_sizes("least-variance", 1, (0.5, 0.5), (60.0, 6.0), (1.0, 1.0), (1.0, 1e-9))) == 1


def test_the_measured_variance_is_the_variance_of_one_picture():
    generator, pictures = torch.Generator().manual_seed(0), 5
    deviation = torch.linspace(0.1, 2, 400)
    found = []
    for _ in range(200):
        # Mean gradients of two batches of five pictures, whose gradients have mean 3 and these deviations.
        first, second = ((3 + deviation * torch.randn(pictures, 400, generator=generator)).mean(0) for _ in range(2))
        found.append(gradient_variance([first], [second], pictures))
    true = float(deviation.square().sum())
    error = torch.tensor(found).std() / len(found) ** 0.5
    assert abs(torch.tensor(found).mean() - true) < 4 * error


def test_sizes_change_at_known_steps_and_follow_what_was_measured():
    batches = LevelBatches("least-variance", 60, PROBABILITIES, GFLOPS, ACTIVATIONS)
    assert [step for step in range(1200) if batches.due(step)] == [250, 750]
    assert batches.sizes(0) == (60, 60, 60)
    batches.learn(250, VARIANCES)
    assert batches.sizes(499) == (60, 60, 60)
    learnt = batches.sizes(500)
    assert learnt == batch_sizes("least-variance", 60, PROBABILITIES, GFLOPS, ACTIVATIONS, VARIANCES)
    again = LevelBatches("least-variance", 60, PROBABILITIES, GFLOPS, ACTIVATIONS)
    again.restore(batches.state())
    for resumed in (batches, again):
        resumed.learn(750, [4 * v if index == 2 else v for index, v in enumerate(VARIANCES)])
    # Half of the logarithm is kept, so a variance four times as large counts twice.
    doubled = [v * (2 if index == 2 else 1) for index, v in enumerate(VARIANCES)]
    assert batches.sizes(1000) == batch_sizes("least-variance", 60, PROBABILITIES, GFLOPS, ACTIVATIONS, doubled)
    assert (batches.sizes(999), batches.sizes(1000)) == (again.sizes(999), again.sizes(1000)) != (learnt, learnt)
    assert not LevelBatches("natural", 60, PROBABILITIES, GFLOPS, ACTIVATIONS).due(250)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_processes_share_out_a_batch_whatever_divides(count: int):
    whole = range(10, 21)
    shares = [share(whole, rank, count) for rank in range(count)]
    assert [position for numbers in shares for position in numbers] == list(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path):
    training = trainer(small_config(tmp_path, level_sampling="constant-compute", batch_size=7, max_steps=3))
    batches = list(training._batches(open_images("synthetic:shapes:16", (8, 8)), BatchOrder(16, 0), 0))
    assert len({len(batch.images) for batch in batches}) > 1
    for step, batch in enumerate(batches):
        whole = training.loss(step, batch)
        pieces = [training.loss(step, piece) for piece in parts(batch, 3)]
        assert len(pieces) == math.ceil(len(batch.images) / 3)
        torch.testing.assert_close(sum(pieces), whole)


def test_a_run_of_growing_batches_takes_the_pictures_that_it_says(tmp_path):
    run = train(small_config(tmp_path, level_sampling="constant-compute", batch_size=8, max_steps=6), progress=False)
    latest = run.latest_checkpoint()
    assert latest is not None
    progress = json.loads((latest[1] / "progress.json").read_text())
    assert progress["pictures"] > 6
    assert list(progress["batches"]["tables"]) == ["0"]
