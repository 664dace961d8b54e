import pytest
import torch
from tests.small_models import CHANGE, TIMESTEPS, small_scheduler

from scalespace.diffusion.degradation import Blurring
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.time_sampling import TimeSampler, time_density


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _chi_squared_fits(counts: torch.Tensor, probabilities: torch.Tensor) -> bool:
    expected = probabilities * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    freedom = len(counts) - 1
    # Four standard deviations of chi-squared above its mean.
    return statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_groups_are_the_grid_cut_where_a_resolution_changes():
    groups = TimeSampler(ScaleSpaceScheduler().process).groups
    assert [(group.first, group.last, group.size[0], group.target_size[0]) for group in groups] == [
        (1, 438, 64, 64),
        (439, 439, 32, 64),
        (440, 750, 32, 32),
        (751, 751, 16, 32),
        (752, 937, 16, 16),
        (938, 938, 8, 16),
        (939, 1000, 8, 8),
    ]
    assert [group.is_change for group in groups] == [False, True, False, True, False, True, False]
    assert sum(len(group) for group in groups) == 1000


def test_all_times_of_a_batch_take_one_pair_of_resolutions_and_are_uniform_in_it():
    process = small_scheduler().process
    sampler = TimeSampler(process)
    counts = torch.zeros(TIMESTEPS + 1)
    for seed in range(400):
        generator = _generator(seed)
        group = sampler.draw(generator)
        times = sampler.times(group, 50, generator)
        assert {(process.size(t), process.size(t - 1)) for t in times.tolist()} == {(group.size, group.target_size)}
        counts += torch.bincount(times, minlength=TIMESTEPS + 1)
    assert counts[0] == 0
    for group in sampler.groups:
        inside = counts[group.first : group.last + 1]
        assert len(group) == 1 or _chi_squared_fits(inside, torch.full((len(group),), 1 / len(group)))


def test_every_grid_point_is_as_likely_as_every_other_unless_told():
    sampler = TimeSampler(small_scheduler().process)
    expected = torch.tensor([CHANGE - 1, 1, TIMESTEPS - CHANGE], dtype=torch.float64) / TIMESTEPS
    torch.testing.assert_close(sampler.probabilities, expected)


@pytest.mark.parametrize("share", [None, 0.0, 0.25, 1.0])
def test_groups_come_as_often_as_their_probabilities_say(share: float | None):
    sampler = TimeSampler(ScaleSpaceScheduler().process, share)
    generator = _generator()
    index = {group: number for number, group in enumerate(sampler.groups)}
    drawn = torch.tensor([index[sampler.draw(generator)] for _ in range(20_000)])
    counts = torch.bincount(drawn, minlength=len(index)).double()
    possible = sampler.probabilities > 0
    assert counts[~possible].sum() == 0
    assert _chi_squared_fits(counts[possible], sampler.probabilities[possible])
    if share is not None:
        changes = torch.tensor([group.is_change for group in sampler.groups])
        torch.testing.assert_close(sampler.probabilities[changes], torch.full((3,), share / 3, dtype=torch.float64))
        # Inside levels every grid point stays as likely as every other.
        inside = sampler.probabilities[~changes] / torch.tensor([438.0, 311.0, 186.0, 62.0])
        torch.testing.assert_close(inside, inside[0].expand(4))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_refuses_a_share_that_is_none(share: float):
    with pytest.raises(ValueError, match="give a share between 0 and 1"):
        TimeSampler(small_scheduler().process, share)


@pytest.mark.parametrize(("change_share", "expected"), [(None, [0.19, 0.05, 0.76]), (0.3, [0.14, 0.3, 0.56])])
def test_levels_get_the_batches_that_they_are_given(change_share, expected):
    sampler = TimeSampler(small_scheduler().process, change_share, weighted=True, level_shares=(1, 4))
    assert [group.size for group in sampler.groups] == [(8, 8), (4, 4), (4, 4)]
    torch.testing.assert_close(sampler.probabilities, torch.tensor(expected).double())
    # The objective is that of the density all the same.
    mean = [sampler.weight(group) * p for group, p in zip(sampler.groups, sampler.probabilities, strict=True)]
    torch.testing.assert_close(torch.stack(mean), sampler.shares)
    with pytest.raises(ValueError, match="3 shares were given for the batches of 2 levels"):
        TimeSampler(small_scheduler().process, level_shares=(1, 1, 1))


def test_a_share_has_no_effect_where_no_resolution_changes():
    process = ScaleSpaceScheduler(sizes=((8, 8),), change_points=()).process
    assert TimeSampler(process, 0.5).probabilities.tolist() == [1.0]


def test_weights_make_up_for_the_share_of_changes():
    process = small_scheduler().process
    plain, weighted = TimeSampler(process, 0.3), TimeSampler(process, 0.3, weighted=True)
    assert {plain.weight(group) for group in plain.groups} == {1.0}
    expected = [float(p) * weighted.weight(g) for p, g in zip(weighted.probabilities, weighted.groups, strict=True)]
    assert expected == pytest.approx([len(group) / process.timesteps for group in weighted.groups])


def test_a_growing_blur_changes_no_resolution_so_all_its_times_are_one_group():
    process = ScaleSpaceProcess(LinearBeta(12), Blurring((6, 4), 12))
    (group,) = TimeSampler(process).groups
    assert (group.first, group.last, group.is_change) == (1, 12, False)


@pytest.mark.parametrize("shifted", [False, True])
def test_times_uniform_in_log_snr_are_uniform_in_it(shifted: bool):
    process = ScaleSpaceScheduler(shifted=shifted).process
    density, log_snr = time_density(process.noise, "log-snr"), process.noise.log_snr_table
    changes = process.degradation.change_points
    assert density.sum() == pytest.approx(1)
    assert bool((density > 0).all())
    # Inside a level, the probability of a stretch of times is in proportion to the log-SNR that it covers.
    for first, last in [(2, 100), (200, changes[0] - 1), (changes[0] + 1, changes[1] - 1), (changes[2] + 1, 1000)]:
        stretch = density[first - 1 : last].sum()
        assert stretch / density[1] == pytest.approx(
            float((log_snr[first - 1] - log_snr[last]) / (log_snr[1] - log_snr[2]))
        )


def test_log_normal_times_have_the_mean_and_deviation_of_edm():
    noise = LinearBeta(4000, 1e-6, 1.2e-2)
    density, log_sigma = time_density(noise, "log-normal"), -noise.log_snr_table[1:] / 2
    mean = float((density * log_sigma).sum())
    assert mean == pytest.approx(-1.2, abs=0.01)
    assert float((density * (log_sigma - mean) ** 2).sum() ** 0.5) == pytest.approx(1.2, abs=0.02)


@pytest.mark.parametrize("density", ["log-snr", "log-normal"])
def test_drawn_times_have_the_density(density):
    process = small_scheduler().process
    sampler, counts = TimeSampler(process, density=density), torch.zeros(TIMESTEPS + 1)
    generator = _generator(2)
    for _ in range(6000):
        counts += torch.bincount(sampler.times(sampler.draw(generator), 1, generator), minlength=TIMESTEPS + 1)
    assert _chi_squared_fits(counts[1:], time_density(process.noise, density))
