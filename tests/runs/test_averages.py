import math

import pytest
import torch
from safetensors.torch import load_file
from tests.small_models import small_config

from scalespace.runs.averages import PowerAverage, Snapshot, average_of, combination, exponent, width
from scalespace.training.loop import train


@pytest.mark.parametrize("wanted", [0.01, 0.05, 0.10, 0.20, 0.25])
def test_the_width_is_the_standard_deviation_of_the_density(wanted):
    gamma = exponent(wanted)
    tau = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    density = (gamma + 1) * tau**gamma
    mean = (density * tau).mean()
    assert math.sqrt((density * (tau - mean) ** 2).mean()) == pytest.approx(wanted, rel=1e-6)
    assert width(gamma) == pytest.approx(wanted)


def test_exponents_of_the_paper():
    # Karras et al. 2024 give gamma = 16.97 for 0.05 and 6.94 for 0.10.
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("wanted", [0.0, -0.1, 0.26, math.nan])
def test_a_width_that_no_average_has_is_refused(wanted):
    with pytest.raises(ValueError, match="give one above 0"):
        exponent(wanted)


def test_the_average_is_that_of_its_density():
    gamma, steps = exponent(0.10), 400
    weights = torch.randn(steps, 5, generator=torch.Generator().manual_seed(0))
    average = PowerAverage([torch.full((5,), 1e6)], gamma)
    for step in weights:
        average.step([step])
    # The part of step k is the density's integral from (k - 1) / steps to k / steps.
    ends = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (gamma + 1)
    expected = (ends.diff()[:, None] * weights.double()).sum(0)
    torch.testing.assert_close(average.values[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", [0.03, 0.07, 0.15])
@pytest.mark.parametrize("at", [1600, 2000])
def test_another_width_is_made_afterwards(wanted, at):
    steps, every = 2000, 100
    walk = torch.randn(steps, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).cumsum(0)
    kept = [PowerAverage([torch.zeros(8)], exponent(w)) for w in (0.05, 0.10)]
    direct = PowerAverage([torch.zeros(8)], exponent(wanted))
    snapshots, values = [], []
    for step, weights in enumerate(walk, start=1):
        for average in kept:
            average.step([weights.float()])
            if step % every == 0:
                snapshots.append(Snapshot(step, average.gamma))
                values.append(average.values[0].clone())
        if step <= at:
            direct.step([weights.float()])
    factors = torch.tensor(combination(snapshots, Snapshot(at, exponent(wanted))))
    made = (factors[:, None] * torch.stack(values)).sum(0)
    assert float(factors.sum()) == pytest.approx(1)
    nearest = min((torch.dist(value, direct.values[0]) for value in values), key=float)
    assert torch.dist(made, direct.values[0]) < 0.1 * nearest


def test_a_snapshot_that_was_kept_is_itself():
    snapshots = [Snapshot(step, gamma) for step in (100, 200, 300) for gamma in (6.94, 16.97)]
    factors = combination(snapshots, snapshots[3])
    assert factors == pytest.approx([0, 0, 0, 1, 0, 0], abs=1e-8)


def test_what_lies_after_the_last_snapshot_cannot_be_made():
    with pytest.raises(ValueError, match="no snapshot at step 301"):
        combination([Snapshot(300, 6.94)], Snapshot(301, 6.94))
    with pytest.raises(ValueError, match="no snapshot"):
        combination([], Snapshot(1, 6.94))


def test_a_run_keeps_snapshots_from_which_its_weights_are_made(tmp_path):
    config = small_config(tmp_path / "run", average_every=1, keep_checkpoints=10, checkpoint_every=1, max_steps=4)
    run = train(config)
    files = sorted(run.averages_path.iterdir())
    assert [file.name for file in files] == [f"step-{step:08d}.safetensors" for step in (1, 2, 3, 4)]
    weights = [load_file(run.path / "checkpoints" / f"step-{step:08d}" / "model.safetensors") for step in (1, 2, 3, 4)]
    for wanted in (0.05, 0.10):
        average = PowerAverage(weights[0].values(), exponent(wanted))
        for step in weights:
            average.step(step.values())
        made = average_of(files, Snapshot(4, exponent(wanted)))
        for name, value in zip(weights[0], average.values, strict=True):
            torch.testing.assert_close(made[name], value, rtol=2e-3, atol=1e-4)  # snapshots are in half precision


def test_averages_go_on_when_a_run_is_resumed(tmp_path):
    straight = train(small_config(tmp_path / "straight", average_every=2))
    train(small_config(tmp_path / "resumed", average_every=2, max_steps=3))
    resumed = train(small_config(tmp_path / "resumed", average_every=2))
    for step in (2, 4, 6):
        ours, theirs = (load_file(run.averages_path / f"step-{step:08d}.safetensors") for run in (resumed, straight))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
