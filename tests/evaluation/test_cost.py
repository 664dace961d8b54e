import json
from typing import Any

import pytest
import torch
from tests.small_models import SIZES, small_config

from scalespace.cli import main
from scalespace.evaluation.cost import make_plan, path_gflops
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.training.configuration import PRESETS


def _plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    main(["plan", *words, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name: str, capsys):
    plan = _plan(capsys, "--preset", name)
    levels = 3 if name == "tiny" else int(name[-2])
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
    # A halving shrinks the noise by about a quarter, and one step of noise takes little of that room.
    assert len(margins) == levels - 1
    assert all(3.5 < margin < 4.5 for margin in margins)
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
