import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_models import SIZES, SMALL_OPTIONS, given_once, small_config

from scalespace.cli import main
from scalespace.diffusion.noise import LinearBeta
from scalespace.errors import UserError
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.flops import path_gflops
from scalespace.planning.cost import make_plan, make_plan_from_data
from scalespace.planning.spectrum_plot import plot_spectrum
from scalespace.training.configuration import PRESETS


def _plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    main(["plan", *words, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name: str, capsys):
    plan = _plan(capsys, "--preset", name)
    levels = 3 if name.startswith("tiny") else int(name[-2])
    assert len(plan["paths"]) == 2 * levels - 1
    points = [(path["first"], path["last"]) for path in plan["paths"]]
    assert [first for first, _ in points] == [1, *(last + 1 for _, last in points[:-1])]
    assert points[-1][1] == 1000
    assert plan["parameters"] > 1e6
    average = sum(path["gflops"] * (path["last"] - path["first"] + 1) for path in plan["paths"]) / 1000
    assert plan["average_gflops"] == pytest.approx(average)
    assert plan["share"] == pytest.approx(average / plan["one_level_gflops"])
    assert (plan["share"] < 0.95) == (levels > 1)
    margins = [path["margin"] for path in plan["paths"] if path["size"] != path["target_size"]]
    # A halving shrinks the noise to about a quarter, and one step takes little of that room; a shift takes nearly all of it.
    assert len(margins) == levels - 1
    low, high = (3.5, 4.5) if name.startswith(("celeba", "imagenet")) else (1.0, 1.1)
    assert all(low < margin < high for margin in margins)
    assert all(path["margin"] is None for path in plan["paths"] if path["size"] == path["target_size"])


@pytest.mark.parametrize(
    ("name", "levels", "gflops"),
    [
        *(("celeba64-4l", levels, gflops) for levels, gflops in ((1, 56.7), (2, 51.2), (4, 39.0))),
        *(("celeba128-5l", levels, gflops) for levels, gflops in ((1, 117.3), (3, 87.9), (5, 67.2))),
        *(("celeba256-6l", levels, gflops) for levels, gflops in ((1, 435.5), (4, 273.7), (6, 210.4))),
    ],
)
def test_released_layout_costs_what_the_paper_says(name: str, levels: int, gflops: float, capsys):
    plan = _plan(capsys, "--preset", name, "--process.levels", str(levels), "--released-quirks")
    assert plan["average_gflops"] == pytest.approx(gflops, rel=0.005)


@pytest.mark.parametrize(("name", "gflops"), [("celeba64-4l", 60.6), ("celeba128-3l", 132.9), ("celeba256-4l", 497.8)])
def test_plain_network_of_one_level_costs_what_ddpm_does(name: str, gflops: float, capsys):
    plan = _plan(capsys, "--preset", name, "--process.levels", "1")
    assert plan["average_gflops"] == plan["one_level_gflops"] == pytest.approx(gflops, rel=0.005)


def test_a_plan_allocates_nothing(tmp_path):
    plan = make_plan(small_config(tmp_path, network={"base_channels": 2**16}))
    assert plan.parameters > 1e11


def test_a_multiply_add_counts_as_two():
    network = FlexiUNet(
        sizes=((8, 8),), base_channels=8, channel_multipliers=(1,), blocks_per_level=1, attention_max_size=0
    )
    multiply_adds = []

    def count(module, _, output):
        multiply_adds.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    gflops = path_gflops(network, (8, 8), (8, 8))
    assert len(multiply_adds) > 10
    # The one attention, in the middle: 64 queries by 64 keys, and 64 weights by 64 values, of 8 channels.
    attention = 2 * 64 * 64 * 8
    assert gflops * 1e9 == 2 * (sum(multiply_adds) + attention)


def test_gflops_do_not_depend_on_where_the_network_is():
    with torch.device("meta"):
        meta = FlexiUNet(sizes=SIZES, base_channels=8, channel_multipliers=(1, 2), attention_heads=2, num_classes=3)
    real = FlexiUNet(sizes=SIZES, base_channels=8, channel_multipliers=(1, 2), attention_heads=2, num_classes=3)
    costs = [path_gflops(network, (4, 4), (8, 8)) for network in (meta, real)]
    assert costs[0] == costs[1] > 0


def test_the_table_says_what_a_person_wants_to_know(capsys):
    main(["plan", "--preset", "celeba64-4l"])
    text = capsys.readouterr().out
    assert "16x16 -> 32x32           751            0.1%" in text
    for line in (
        "levels              4",
        "parameters          92.26 million",
        "share of compute    69.6% of one level",
    ):
        assert line in text


# Resolutions read off the data

# Of 8 x 8 pictures; the 48 frequencies that 4 x 4 has not have power 0.05 on average.
SPECTRUM = torch.full((8, 8), 0.05, dtype=torch.float64)
SPECTRUM[:4, :4] = 3.0


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_plan_from_data_is_the_plan_of_its_change_points_beside_that_of_the_formula(tmp_path):
    model = small_config(tmp_path)
    found = make_plan_from_data(model, lambda size: SPECTRUM)
    (octave,) = found.octaves
    noise = LinearBeta(20, 0.02, 0.4)
    assert (octave.size, octave.next_size, octave.reference_change) == ((8, 8), (4, 4), 11)
    assert octave.power == pytest.approx(0.05)
    assert octave.mode_snr == pytest.approx(0.05 * noise.snr(octave.change))
    assert octave.reference_mode_snr == pytest.approx(0.05 * noise.snr(11))
    assert octave.mode_snr < 0.01 <= 0.05 * noise.snr(octave.change - 1)
    assert octave.change != 11
    by_hand = replace(model, process=replace(model.process, change_points=(octave.change,)))
    assert found.plan == make_plan(by_hand)
    assert found.reference == make_plan(model)
    assert found.saved == pytest.approx(1 - found.plan.average_gflops / found.reference.average_gflops)


def test_a_blur_costs_what_ddpm_costs(tmp_path):
    process = replace(small_config(tmp_path).process, levels=1)
    ddpm, blur = (
        small_config(
            tmp_path, process=replace(process, degradation=degradation), prediction="epsilon", solver="ancestral"
        )
        for degradation in ("bilinear", "blurring")
    )
    assert make_plan(blur) == make_plan(ddpm)
    (path,) = make_plan(blur).paths
    assert (path.first, path.last, path.margin) == (1, 20, None)
    assert make_plan_from_data(blur, lambda size: SPECTRUM).octaves == ()


@pytest.mark.parametrize(
    ("changes", "name", "point"),
    [
        ({}, "Equal", 11),
        ({"resolution": "convex", "gamma": 0.5}, "ConvexDecay 0.5", 16),
        ({"resolution": "auto", "gamma": 0.5}, "ConvexDecay 0.5", 16),
        ({"resolution": "auto", "change_points": (7,)}, "points by hand", 7),
        ({"resolution": "tanh", "gamma": 2.0}, "TanhLike 2", 11),
    ],
)
def test_what_it_is_compared_with_is_named(changes: dict[str, Any], name: str, point: int, tmp_path):
    model = small_config(tmp_path)
    found = make_plan_from_data(replace(model, process=replace(model.process, **changes)), lambda size: SPECTRUM)
    assert found.reference_name == name
    assert found.octaves[0].reference_change == point
    assert f"t of {name}" in found.as_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"process": {"tolerance": 1.0}}, "tolerance is 1.0; give a mode-SNR above 0 and below 1"),
        ({"process": {"levels": 5}}, "leave 0 pixels at the smallest"),
        ({"network": {"attention_heads": 3}}, "attention_heads 3 does not divide"),
    ],
)
def test_pictures_are_not_read_for_a_model_that_cannot_be(options: dict[str, Any], words: str, tmp_path):
    model = small_config(tmp_path, network=options.get("network"))
    model = replace(model, process=replace(model.process, **options.get("process", {})))
    with pytest.raises(UserError, match=words):
        make_plan_from_data(model, lambda size: pytest.fail(f"pictures of {size} were read"))


@pytest.mark.usefixtures("cache")
def test_the_command_line_plans_from_data(tmp_path, capsys):
    words = ["plan", *SMALL_OPTIONS, "--data", "synthetic:shapes:16", "--tolerance", "0.03"]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["tolerance"] == 0.03
    assert [octave["change"] for octave in found["octaves"]] == [9]
    assert found["plan"]["paths"][1]["first"] == 9
    assert found["reference"]["paths"][1]["first"] == 11
    assert found["reference_name"] == "Equal"
    assert found["saved"] == pytest.approx(1 - found["plan"]["average_gflops"] / found["reference"]["average_gflops"])

    main([*words, "--plot", str(tmp_path / "new" / "resolutions.png")])
    output = capsys.readouterr()
    assert output.err == ""
    (row,) = (line.split() for line in output.out.splitlines() if "8x8 -> 4x4" in line)
    assert (row[4], row[6]) == ("9", "11")
    assert (
        f"compute saved       {found['saved']:.1%} of Equal, {1 - found['plan']['share']:.1%} of one level"
        in output.out
    )
    with Image.open(tmp_path / "new" / "resolutions.png") as picture:
        assert min(picture.size) > 600


@pytest.mark.usefixtures("cache")
def test_the_default_tolerance_is_the_one_of_the_process(capsys):
    changes = []
    for words in ((), ("--tolerance", "0.01"), ("--process.tolerance", "0.03"), ("--tolerance", "0.03")):
        main(given_once("plan", *SMALL_OPTIONS, "--data", "synthetic:shapes:16", *words, "--json"))
        changes.append(json.loads(capsys.readouterr().out)["octaves"][0]["change"])
    assert changes == [12, 12, 9, 9]


def test_the_plot_shows_both_schedules_on_the_curves_of_the_octaves(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    plan = make_plan_from_data(small_config(tmp_path), lambda size: SPECTRUM)
    monkeypatch.setattr("scalespace.reports.figure.write_file", lambda path, write: write(path))
    plot_spectrum(plan, tmp_path / "plot.png", "a title", "a command")
    (figure,) = drawn
    left, right = figure.axes
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("a title", "a command")
    octave = plan.octaves[0]
    lines = [np.array(line.get_data()) for line in right.lines]
    points = {tuple(line[:, 0]) for line in lines if line.shape == (2, 1)}
    assert points == {(octave.change, octave.mode_snr), (octave.reference_change, octave.reference_mode_snr)}
    frequencies, power = np.array(left.lines[0].get_data())
    # Seven frequencies besides the constant; those below 1/4 cycle per pixel are kept.
    assert frequencies == pytest.approx(np.arange(1, 8) / 16)
    assert power == pytest.approx([3.0] * 3 + [0.05] * 4)


def test_a_64_pixel_model_of_photographs_costs_about_half_of_one_level(cache, capsys):
    path = Path(os.environ.get("SCALESPACE_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "photos64.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there; SCALESPACE_SHARED names the folder of the packs")
    main(["plan", "--preset", "celeba64-4l", "--data", str(path), "--tolerance", "0.01", "--json", "--quiet"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["plan"]["share"] <= 0.52
    assert plan["reference"]["share"] == pytest.approx(0.696, abs=0.001)
