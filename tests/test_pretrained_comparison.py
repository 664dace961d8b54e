"""The comparison with a pretrained model: each of its parts at a size of seconds."""

import json
import shlex

import pytest
import torch
from benchmarks.pretrained import results
from benchmarks.pretrained.__main__ import main
from benchmarks.pretrained.arms import ARMS, arms
from benchmarks.pretrained.comparing import TRUTH
from benchmarks.pretrained.training import Recipe, network, train
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from safetensors.torch import load_file

from scalespace.cli import main as scalespace
from scalespace.diffusion.bridges import SpectralExpansion
from scalespace.diffusion.degradation import DCTResizing
from scalespace.errors import UserError
from scalespace.pipelines.pretrained.source import read_pretrained

DATA = "synthetic:shapes:40"
RECIPE = Recipe(DATA, 16, batch_size=8, steps=4)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return train(RECIPE, tmp_path_factory.mktemp("stock"), say=lambda line: None)


def _weights(model):
    return load_file(model / "unet/diffusion_pytorch_model.safetensors")


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(stock, tmp_path):
    def stop(line):
        if json.loads(line)["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, tmp_path, every=0, say=stop)
    resumed, whole = _weights(train(RECIPE, tmp_path, say=lambda line: None)), _weights(stock)
    torch.manual_seed(RECIPE.seed)
    fresh = network(16).state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert all(not torch.equal(fresh[name], whole[name]) for name in whole)


def test_a_stock_model_is_one_of_diffusers_that_can_be_accelerated(stock):
    assert type(DDPMPipeline.from_pretrained(stock)) is DDPMPipeline
    source = read_pretrained(stock)
    assert (source.size, source.prediction_type, source.noise["beta_schedule"]) == ((16, 16), "epsilon", "linear")


def test_a_run_with_another_recipe_is_refused(stock):
    with pytest.raises(UserError, match=r"was begun with batch_size 8; go on with that"):
        train(Recipe(DATA, 16, steps=4), stock.parent)


def test_the_network_for_32_pixels_has_the_size_that_is_told():
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in network(32).parameters())
    assert 2.7e6 < parameters < 2.8e6


def _flat(size):
    # Changes at t = 300 or so, whatever the pictures.
    return torch.full(size, 0.01)


def test_the_expansion_is_that_of_the_other_method_and_not_ours(stock):
    found = {
        arm.name: arm.pipeline.scheduler for arm in arms(stock, 2, 0.03, _flat, {}, ("full-ddim", "expansion", "ours"))
    }
    theirs, ours = found["expansion"], found["ours"]
    theirs.set_timesteps(5)
    assert isinstance(theirs.process.degradation, DCTResizing)
    assert isinstance(theirs._solver, SpectralExpansion)
    # 0.01 is their tolerance, whatever ours is, and a smaller one keeps a level for longer.
    points = [scheduler.process.degradation.change_points for scheduler in (theirs, ours)]
    assert points[0] > points[1]
    assert theirs.config["clip_sample"] is True
    assert (found["full-ddim"].sizes, found["full-ddim"].config["solver"]) == (((16, 16),), "ddim")


def test_the_whole_comparison_is_a_chain_of_commands(stock, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = f"--data {DATA} --max-steps 1 --batch-size 4 --warmup-steps 0 --sample-every 0 --weight snr --quiet"
    scalespace(shlex.split(f"accelerate {stock} --data {DATA} --output fast --quiet"))
    scalespace(shlex.split(f"train --init-from fast --output-dir tuned {run}"))
    # Not trained further, which only its weights tell.
    scalespace(shlex.split(f"accelerate {stock} --levels 1 --output one"))
    compare = f"compare --model {stock} --tuned tuned --control one --data {DATA} --heldout synthetic:shapes:50"
    compare += " --output out --calls 4 --count 8 --features built-in"
    main(shlex.split(f"{compare} --arms full"))
    first = (tmp_path / "out/results.jsonl").read_text()
    main(shlex.split(compare))
    text = (tmp_path / "out/results.jsonl").read_text()
    # What was measured is not measured again.
    assert text.startswith(first)
    found = {(r["arm"], r["calls"]): r for r in map(json.loads, text.splitlines())}
    assert len(found) == len(text.splitlines())
    assert {arm for arm, _ in found} == {TRUTH, *ARMS}
    assert {calls for arm, calls in found if arm != TRUTH} == {4}
    gflops = {arm: r["gflops"] for (arm, _), r in found.items()}
    assert gflops["full"] == gflops["control"] == gflops["full-ddim"]
    assert 0 < gflops["tuned"] < gflops["full"]
    assert found["full", 4]["weights"] != found["tuned", 4]["weights"]
    assert found["full", 4]["kid"] != found["ours", 4]["kid"] != found["tuned", 4]["kid"]

    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}old\n{results.END}\nafter\n")
    written = results.table(tmp_path / "out", 0, page)
    assert page.read_text() == f"before\n{results.BEGIN}\n{written}\n\n{results.END}\nafter\n"
    assert all(name in written for name in (TRUTH, *ARMS.values()))
    figure = tmp_path / "figure.png"
    main(shlex.split(f"plot --output out --figure {figure}"))
    assert figure.stat().st_size > 10_000
    with pytest.raises(UserError, match="has no line with seed 7; run compare first"):
        results.records(tmp_path / "out", 7)
