"""What survives the noise: the definitions against closed forms, and what is made of them for pictures."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.small_models import small_config
from torch.testing import assert_close

from scalespace.data.images import open_images
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.planning import analysis as analysis_module
from scalespace.planning.analysis import Analysis, analyze, analyze_pictures, pixel_counts
from scalespace.planning.cost import make_plan_from_data
from scalespace.planning.information import (
    area,
    closest_area,
    distance,
    equal_information_side,
    signal_modes,
    signal_modes_outside,
    signal_pixels,
    signal_pixels_if_uniform,
)
from scalespace.planning.information_plot import plot_information, write_analysis
from scalespace.reports.provenance import Provenance
from scalespace.training.configuration import preset

ROOT = Path(__file__).parents[2]
SNR = LinearBeta(1000).snr(torch.arange(1, 1001))
SIZES = ((64, 64), (32, 32), (16, 16), (8, 8))
SOURCE = Provenance("a command", "1.2.3", "0123456789abcdef", False, None)


def shells(count: int) -> torch.Tensor:
    """1 at the constant, k at the frequencies of the k-th square shell around it, shape (count, count)."""
    numbers = torch.arange(1, count + 1, dtype=torch.float64)
    return torch.maximum(numbers[:, None], numbers)


# Pixels


def test_uniform_pixels_have_the_closed_form():
    # Midpoints of a fine grid; the midpoint rule's error is h^2 / 24 times the change of slope, which is at most 2 a.
    count = 4000
    x = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
    measured = signal_pixels(x, torch.ones(count), SNR)
    slope = float((SNR.max() / 2).sqrt()) * 2
    assert_close(measured, signal_pixels_if_uniform(SNR), rtol=0, atol=2 * (2 / count) ** 2 / 24 * slope)


def test_uniform_pixels_are_the_papers_integral():
    # Info(t) = 1 - 2 int_0^1 Phi(-s x) dx by the trapezoid rule.
    x = torch.linspace(0, 1, 20001, dtype=torch.float64)
    s = SNR[::37].sqrt()
    phi = torch.special.ndtr(-s[:, None] * x)
    assert_close(signal_pixels_if_uniform(SNR[::37]), 1 - 2 * torch.trapezoid(phi, x), rtol=0, atol=1e-5)


def test_pixels_are_what_their_definition_counts_in_noisy_pictures():
    generator = torch.Generator().manual_seed(0)
    values, counts = torch.tensor([-0.9, -0.1, 0.4, 1.0]), torch.tensor([1, 4, 2, 3])
    noise = LinearBeta(1000)
    x_0 = values[torch.multinomial(counts.double(), 200_000, replacement=True, generator=generator)]
    eps = torch.randn(x_0.shape, generator=generator)
    for t in (1, 60, 300, 900):
        counted = (noise.sigma(t) * eps.abs() <= noise.alpha(t) * x_0.abs()).double().mean()
        expected = float(signal_pixels(values, counts, noise.snr(torch.tensor([t]))))
        assert abs(float(counted) - expected) < 5 * math.sqrt(0.25 / len(x_0))


def test_grey_pixels_are_never_dominated_by_signal_and_all_others_are_without_noise():
    values, counts = torch.tensor([0.0, 0.5]), torch.tensor([1, 3])
    assert_close(signal_pixels(values, counts, torch.tensor([1e-20, 1e12])), torch.tensor([0.0, 0.75]).double())


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match="no pixels were counted"):
        signal_pixels(torch.zeros(2), torch.zeros(2), SNR)


# Modes


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("scale", [0.3, 40.0])
def test_a_power_law_gives_its_closed_form(power: float, scale: float):
    # S = c k^-p on square shells: SNR S >= 1 for all k up to (c SNR)^(1/p), so r* is that number of pixels.
    count = 64
    cut = torch.floor((scale * SNR) ** (1 / power) + 1e-9).clamp(max=count)
    share = signal_modes(scale * shells(count) ** -power, SNR)
    assert_close(equal_information_side(share, (count, count)), cut)
    assert_close(share, (cut / count) ** 2)
    assert len(cut.unique()) > 3


def test_white_noise_drowns_all_at_once():
    variance = 0.2
    share = signal_modes(torch.full((6, 10), variance), SNR)
    assert_close(share, (SNR * variance >= 1).double())
    assert share.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spectrum", "words"),
    [
        (torch.zeros(8, 8).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(64.0)), "the pictures are flat"),
        (torch.zeros(8, 8), "the pictures are flat"),
        (torch.full((8, 8), -1.0), "is not one of pictures"),
        (torch.full((8, 8), torch.nan), "is not one of pictures"),
        (torch.ones(8), "is not one of pictures"),
    ],
)
def test_flat_pictures_and_what_is_no_spectrum_are_refused(spectrum: torch.Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        signal_modes(spectrum, SNR)
    with pytest.raises(ValueError, match=words):
        signal_modes_outside(spectrum, SNR, [(8, 8)], [])


def test_modes_outside_are_those_that_the_resolution_of_t_cannot_hold():
    spectrum, changes = 400 * shells(64) ** -2.0, (100, 200, 300)
    cut = torch.floor((400 * SNR).sqrt() + 1e-9).clamp(max=64)
    side = torch.full((1000,), 64.0, dtype=torch.float64)
    for change in changes:
        side[change - 1 :] /= 2
    expected = (cut.square() - side.square()).clamp(min=0) / 64**2
    assert expected.max() > 0
    assert_close(signal_modes_outside(spectrum, SNR, SIZES, changes), expected)
    assert_close(signal_modes_outside(spectrum, SNR, SIZES[:1], ()), torch.zeros(1000).double())


# Resolutions


def test_the_area_of_a_schedule_is_its_levels_shares_of_the_pixels():
    changes = ConvexDecay(4, 0.5).change_points(1000)
    found = area(SIZES, changes, 1000)
    assert changes == (439, 751, 938)
    expected = [1.0] * 438 + [1 / 4] * 312 + [1 / 16] * 187 + [1 / 64] * 63
    assert found.tolist() == expected
    assert_close(equal_information_side(found[[0, 438, 999]], (64, 64)), torch.tensor([64.0, 32, 8]).double())
    assert area([(48, 64), (24, 31)], [3], 4).tolist() == [1, 1, 24 * 31 / (48 * 64), 24 * 31 / (48 * 64)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_no_choice_of_levels_is_closer_than_the_closest(shares: list[float], levels: list[int]):
    share = torch.tensor(shares, dtype=torch.float64)
    areas = torch.tensor([1, 1 / 4, 1 / 16, 1 / 64], dtype=torch.float64)
    closest = closest_area(share, SIZES)
    assert set(closest.tolist()) <= set(areas.tolist())
    assert distance(closest, share) <= distance(areas[levels[: len(shares)]], share)


def test_the_distance_is_the_mean_absolute_difference():
    first, second = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 0.5])
    assert distance(first, second) == distance(second, first) == pytest.approx(0.25)
    assert distance(first, first) == 0
    assert distance(torch.ones(3), torch.zeros(3)) == 1


# An analysis

SPECTRUM = torch.full((8, 8), 0.05, dtype=torch.float64)
SPECTRUM[:4, :4] = 3.0
COUNTS = torch.arange(256)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small_analysis(folder: Path, **process: Any) -> Analysis:
    model = small_config(folder)
    model = replace(model, process=replace(model.process, **process))
    return analyze("some pictures", 16, make_plan_from_data(model, lambda _: SPECTRUM), COUNTS)


def test_an_analysis_compares_what_survives_with_every_schedule(tmp_path):
    found = small_analysis(tmp_path)
    snr = LinearBeta(20, 0.02, 0.4).snr(torch.arange(1, 21))
    assert_close(found.modes, 0.25 * (3 * snr >= 1).double() + 0.75 * (0.05 * snr >= 1).double())
    assert_close(found.pixels, signal_pixels(COUNTS / 127.5 - 1, COUNTS, snr))
    assert_close(found.pixels_if_uniform, signal_pixels_if_uniform(snr))
    (change,) = found.plan.octaves
    compared = {comparison.name: comparison for comparison in found.comparisons}
    by_data = compared["by the data, 0.01"]
    assert by_data.changes == (change.change,)
    assert by_data.area == pytest.approx(((change.change - 1) + (21 - change.change) / 4) / 20)
    shares = torch.tensor([1.0] * (change.change - 1) + [0.25] * (21 - change.change)).double()
    assert by_data.to_pixels == pytest.approx(distance(shares, found.pixels))
    assert by_data.to_modes == pytest.approx(distance(shares, found.modes))
    assert by_data.enough_for_pixels == pytest.approx(float((shares >= found.pixels).double().mean()))
    assert by_data.enough_for_modes == 1
    assert by_data.modes_lost == 0
    assert [compared[name].changes for name in ("Equal", "ConvexDecay 0.5", "ConvexDecay 2")] == [(11,), (16,), (7,)]
    schedules = [row for row in found.comparisons if row.changes is not None]
    assert compared["levels closest to pixels"].to_pixels <= min(row.to_pixels for row in schedules)
    assert compared["levels closest to modes"].to_modes <= min(row.to_modes for row in schedules)


def test_what_a_schedule_loses_of_the_signal_is_seen(tmp_path):
    # From t = 2 on at 4 pixels, while the other frequencies are still above the noise.
    found = small_analysis(tmp_path, change_points=(2,), beta_start=1e-4)
    lost = {comparison.name: comparison.modes_lost for comparison in found.comparisons}
    assert lost["points by hand"] == 0.75
    assert lost["by the data, 0.01"] == 0


def test_the_octaves_hold_all_the_power(tmp_path):
    octaves = small_analysis(tmp_path).octaves
    assert [(octave.name, octave.modes) for octave in octaves] == [("8x8 to 4x4", 48), ("4x4 and below", 16)]
    assert [octave.power for octave in octaves] == pytest.approx([0.05, 3.0])
    assert [octave.share for octave in octaves] == pytest.approx([2.4 / 50.4, 48 / 50.4])


def test_schedules_that_leave_a_level_without_a_grid_point_are_left_out(tmp_path):
    # Four steps for three levels: too few for some of the paper's schedules, enough for the model's own.
    names = set(small_analysis(tmp_path, timesteps=4, beta_end=0.99).schedules)
    assert {"Equal", "by the data, 0.01"} <= names
    assert "SigmoidLike 3" in names
    coarse = {"levels": 3, "timesteps": 4, "change_points": (2, 3), "beta_end": 0.99, "tolerance": 0.3}
    model = small_config(tmp_path, network={"channel_multipliers": (1, 2, 2)})
    model = replace(model, process=replace(model.process, **coarse))
    spectrum = SPECTRUM.clone()
    spectrum[:2, :2] = 300.0
    found = analyze("some pictures", 16, make_plan_from_data(model, lambda _: spectrum), COUNTS)
    assert "points by hand" in found.schedules
    assert "SigmoidLike 3" not in found.schedules


def test_json_holds_every_t_and_where_it_comes_from(tmp_path):
    found = small_analysis(tmp_path)
    read = json.loads(json.dumps(found.as_dict(SOURCE)))
    assert read["t"] == list(range(1, 21))
    assert read["modes"] == found.modes.tolist()
    assert read["equal_information_side_of_modes"] == pytest.approx((found.modes.sqrt() * 8).tolist())
    assert [row["name"] for row in read["schedules"]] == [row.name for row in found.comparisons]
    assert read["provenance"]["command"] == "a command"
    assert "|sigma_t eps| <= |alpha_t x_0|" in read["definitions"][0]


@pytest.mark.usefixtures("cache")
def test_pixels_are_counted_in_the_pictures_whose_spectrum_is_measured(monkeypatch):
    data = open_images("synthetic:shapes:10", (8, 8), progress=False)
    counts = pixel_counts(data, progress=False)
    assert counts.tolist() == np.bincount(data.batch(range(10))[0].numpy().ravel(), minlength=256).tolist()
    monkeypatch.setattr(analysis_module, "PICTURES", 4)
    chosen = data.batch([0, 2, 5, 7])[0].numpy().ravel()
    assert pixel_counts(data, progress=False).tolist() == np.bincount(chosen, minlength=256).tolist()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("process", [{"levels": 1}, {"resolution": "auto", "gamma": 0.5}, {"shifted": True}])
def test_any_model_can_be_analyzed(process: dict[str, Any], tmp_path):
    model = small_config(tmp_path)
    model = replace(model, process=replace(model.process, **process))
    found = analyze_pictures(model, "synthetic:shapes:16", progress=False)
    assert found.pictures == 16
    # What survives is a matter of the noise at full resolution, whatever becomes of it at a change.
    plain = analyze_pictures(small_config(tmp_path), "synthetic:shapes:16", progress=False)
    assert torch.equal(found.modes, plain.modes)
    assert "compute saved" in found.as_text()


# The figure


def test_the_figure_shows_shares_and_resolutions_of_pictures_and_schedules(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    monkeypatch.setattr("scalespace.reports.figure.write_file", lambda path, write: write(path))
    found = small_analysis(tmp_path)
    plot_information(found, tmp_path / "plot.png", "a title", "a command")
    (figure,) = drawn
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("a title", "a command")
    _, middle, right = figure.axes
    lines = {line.get_label(): np.array(line.get_ydata()) for line in middle.lines}
    sides = {line.get_label(): np.array(line.get_ydata()) for line in right.lines}
    expected = {
        "signal-dominated pixels": found.pixels,
        "the same, if pixels were uniform": found.pixels_if_uniform,
        "signal-dominated modes": found.modes,
        "schedule Equal": found.area((11,)),
        "schedule by the data, 0.01": found.area(found.changes_by_data),
    }
    for name, share in expected.items():
        assert lines[name] == pytest.approx(share.numpy())
        assert sides[name] == pytest.approx(8 * share.sqrt().numpy())
    # Told apart without colour.
    styles = {line.get_label(): line.get_linestyle() for line in middle.lines}
    assert styles["schedule Equal"] != styles["schedule by the data, 0.01"]
    # The paper's four others.
    assert len(middle.lines) == len(expected) + 4 + 1


def test_picture_and_json_are_written_with_where_they_come_from(tmp_path):
    found = small_analysis(tmp_path)
    paths = write_analysis(found, tmp_path / "new", SOURCE)
    assert [path.name for path in paths] == ["information.png", "information.svg", "information.json"]
    caption = "a command (commit 0123456, version 1.2.3, nothing is random)"
    with Image.open(paths[0]) as picture:
        assert picture.info["Description"] == caption
        assert min(picture.size) > 600
    assert caption in paths[1].read_text()
    assert json.loads(paths[2].read_text()) == json.loads(json.dumps(found.as_dict(SOURCE)))
    before = [path.read_bytes() for path in paths]
    write_analysis(found, tmp_path / "new", SOURCE)
    assert [path.read_bytes() for path in paths] == before


def test_the_page_of_results_shows_what_is_found_on_the_photographs(cache):
    path = Path(os.environ.get("SCALESPACE_SHARED", ROOT.parent / "shared")) / "data" / "photos64.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there; SCALESPACE_SHARED names the folder of the packs")
    found = analyze_pictures(preset("celeba64-4l"), str(path), progress=False)
    page = (ROOT / "docs" / "results" / "information.md").read_text().splitlines()
    printed = [line for line in found.as_text().splitlines() if line.startswith("|") or "compute saved" in line]
    assert len(printed) > 20
    assert [line for line in printed if not any(line in shown for shown in page)] == []
