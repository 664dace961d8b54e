"""The paper's tables: that they show the paper's figures, and how they are counted."""

from dataclasses import replace

import pytest
import torch
from tests.small_models import small_config

from scalespace.errors import UserError
from scalespace.networks.attention import SelfAttention
from scalespace.paper.gflops import average_gflops, gflops
from scalespace.paper.reproduce import TABLES, paper_table
from scalespace.paper.request import Request
from scalespace.planning.cost import make_plan
from scalespace.reports.provenance import Provenance
from scalespace.reports.table import Table
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import preset

SOURCE = Provenance("a command", "0.1.0", None, False, None)


@pytest.fixture(scope="module")
def table() -> Table:
    return gflops(Request(SOURCE, progress=False))


def rows(table: Table) -> dict[tuple[str, str], dict]:
    return {(row["data"], row["method"]): row for row in table.as_dict()["rows"]}


@pytest.mark.parametrize(
    ("method", "printed", "published", "whole"),
    [
        ("DDPM", 497.0, 497.75, 497.75),
        ("SSD (4L)", 273.0, 273.70, 308.46),
        ("SSD (6L)", 209.7, 210.38, 236.70),
    ],
)
def test_256_pixels_cost_what_the_paper_says(table, method: str, printed: float, published: float, whole: float):
    row = rows(table)["CelebA 256", method]
    assert row["paper"] == pytest.approx(printed, abs=0.05)
    assert row["published_layout"] == pytest.approx(printed, rel=0.005)
    assert row["published_layout"] == pytest.approx(published, abs=0.005)
    assert row["last_block_runs"] == pytest.approx(whole, abs=0.005)


def test_without_attentions_products_every_printed_figure_is_met_to_its_last_digit(table):
    printed = [row for row in rows(table).values() if row["paper"] is not None]
    assert len(printed) == 12
    for row in printed:
        assert row["without_products"] == pytest.approx(row["paper"], abs=0.0051)
        assert row["deviation"] == pytest.approx(row["published_layout"] / row["paper"] - 1)


def test_all_models_are_there_and_cost_more_where_the_last_block_runs(table):
    found = rows(table)
    levels = {"CelebA 64": (1, 2, 3, 4), "CelebA 128": (1, 3, 5), "CelebA 256": (1, 3, 4, 5, 6), "ImageNet 64": (2, 4)}
    assert set(found) == {
        (data, method) for data, counts in levels.items() for method in ("DDPM", *(f"SSD ({n}L)" for n in counts))
    }
    for (data, method), row in found.items():
        whole = found[data, "DDPM"]["last_block_runs"]
        assert row["last_block_runs"] <= whole
        if method == "DDPM":
            assert row["published_layout"] == row["last_block_runs"]
        else:
            assert row["published_layout"] < 0.95 * row["last_block_runs"]
    assert found["CelebA 64", "SSD (1L)"]["last_block_runs"] == found["CelebA 64", "DDPM"]["last_block_runs"]


@pytest.mark.parametrize("levels", [2, 4])
def test_paths_counted_for_other_levels_are_the_same(table, levels: int):
    model = preset("celeba64-4l")
    model = replace(model, process=replace(model.process, levels=levels), released_quirks=True)
    row = rows(table)["CelebA 64", f"SSD ({levels}L)"]
    alone = average_gflops(model)
    assert row["published_layout"] == pytest.approx(alone.all)
    assert row["without_products"] == pytest.approx(alone.all - alone.products)


@pytest.mark.parametrize("quirks", [False, True])
def test_the_average_is_that_of_the_plan(quirks: bool, tmp_path):
    model = small_config(tmp_path, network={"paths": "flexi"}, released_quirks=quirks)
    assert average_gflops(model).all == pytest.approx(make_plan(model).average_gflops)


def test_products_are_those_of_queries_with_keys_and_of_weights_with_values(tmp_path):
    model = small_config(tmp_path)
    scheduler = build_scheduler(model)
    network = build_network(model, scheduler.sizes)
    flops = []

    def count(module, inputs, output):
        channels, pixels = output.shape[1], output[0, 0].numel()
        # Two products of N x N numbers, each a sum over the channels of all heads together; a multiply-add is two.
        flops.append(2 * 2 * pixels**2 * channels)

    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(count)
    total = 0.0
    for path in make_plan(model).paths:
        flops.clear()
        network(torch.zeros(1, 3, *path.size), torch.zeros(1, dtype=torch.int64), path.target_size)
        assert flops
        total += sum(flops) * (path.last - path.first + 1) / 20
    assert average_gflops(model).products == pytest.approx(total / 1e9)


def test_a_table_that_is_not_there_is_an_error_of_the_user_that_names_what_is():
    assert paper_table("gflops") is gflops
    with pytest.raises(UserError, match=r'there is no table "flops"; did you mean gflops\?'):
        paper_table("flops")
    with pytest.raises(UserError, match=f"did you mean {' or '.join(TABLES)}"):
        paper_table("zzz")
