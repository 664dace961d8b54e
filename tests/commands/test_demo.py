import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tests.small_models import cli_error, small_network, small_scheduler

from scalespace import ScaleSpacePipeline
from scalespace.cli import main
from scalespace.manifest import MANIFEST
from scalespace.networks.flops import path_gflops
from scalespace.pipelines.guidance import ratio
from scalespace.pipelines.shipped import (
    HELDOUT,
    SHIPPED,
    guide_folder,
    load_shipped,
    load_shipped_guide,
    shipped_guidance,
)
from scalespace.planning.demo import drawing_gflops
from scalespace.training.start.precision import computes_bf16

_HALF, _FULL = (4, 4), (8, 8)


def _gflops(network, calls) -> float:
    return sum(count * path_gflops(network, *pair) for pair, count in calls.items())


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A small model in the place of the one that comes with the package, and its guide."""
    folder = tmp_path / "package" / "small"
    scheduler = small_scheduler(solver="corrected", timestep_spacing="log_snr")
    ScaleSpacePipeline(small_network(), scheduler).save_pretrained(folder)
    guide = ScaleSpacePipeline(small_network(1, base_channels=4, attention_heads=1), scheduler)
    guide.save_pretrained(folder.with_name("small_guide"))
    Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 3 * 8, 3), dtype=np.uint8)).save(folder / HELDOUT)
    monkeypatch.setattr("scalespace.pipelines.shipped.SHIPPED", folder)
    return folder


def test_the_demo_draws_and_tells_what_it_cost(shipped, tmp_path, capsys):
    place = tmp_path / "demo"
    main(["demo", "--output", str(place), "--num-images", "4", "--steps", "8", "--json", "--quiet"])
    told = json.loads(capsys.readouterr().out)
    assert {path.name for path in place.iterdir()} == {"grid.png", "growth.png", "growth.webp", "enlarged.png"}
    with Image.open(place / "grid.png") as grid:
        assert grid.size == (2 * 8 + 2, 2 * 8 + 2)
    with Image.open(place / "enlarged.png") as sheet, Image.open(shipped / HELDOUT) as given:
        assert sheet.size == (3 * 8 + 2 * 2, 5 * 8 + 4 * 2)
        # The pictures as they were are the last row, and their small versions, pixel by pixel, the first.
        assert (np.asarray(sheet)[-8:, :8] == np.asarray(given)[:, :8]).all()
        squares = np.asarray(sheet)[:8, :8].reshape(4, 2, 4, 2, 3)
        assert (squares == squares[:, :1, :, :1]).all()
    assert list(told["calls"]) == ["4x4", "8x8"]
    assert sum(told["calls"].values()) == 8
    network, guide = small_network(), load_shipped_guide()
    small, large = told["calls"].values()
    # One call at the small resolution already goes to the full one.
    calls = {(_HALF, _HALF): small - 1, (_HALF, _FULL): 1, (_FULL, _FULL): large}
    guide.scheduler.set_timesteps(8)
    noises = [ratio(guide.scheduler.process.noise, t + 1) for t in guide.scheduler.timesteps.tolist()]
    guided = sum(noise >= shipped_guidance()["guidance_interval"][0] for noise in noises)
    assert small < guided < 8
    worse = {(_HALF, _HALF): small - 1, (_HALF, _FULL): 1, (_FULL, _FULL): guided - small}
    assert told["guide_gflops"] == pytest.approx(_gflops(guide.unet, worse))
    assert told["gflops"] == pytest.approx(_gflops(network, calls) + told["guide_gflops"])
    assert told["one_level_gflops"] == pytest.approx(_gflops(network, {(_FULL, _FULL): 1000}))
    assert told["seconds"] > 0
    assert told["one_level_seconds"] > 0


def test_the_demo_draws_what_sample_draws_with_the_guide(shipped, tmp_path, capsys):
    words = ["--num-images", "2", "--steps", "8", "--quiet"]
    for name, options in (("guided", []), ("plain", ["--no-guidance"])):
        main(["demo", "--output", str(tmp_path / name), *words, *options, "--json"])
        assert (json.loads(capsys.readouterr().out)["guide_gflops"] > 0) == (name == "guided")
    # The demo computes in bfloat16 where the machine does.
    dtype = ["--dtype", "bfloat16"] if computes_bf16(torch.device("cpu")) else []
    scale = ["--guidance-scale", "2.5", "--guidance-interval", "0.2", "1000"]
    named = [str(shipped), *scale, "--guidance-model", str(shipped.with_name("small_guide"))]
    for name, options in (("own", scale), ("named", named), ("none", [])):
        main(["sample", *options, "--output", str(tmp_path / name), *words, *dtype])
    grids = {
        name: np.asarray(Image.open(tmp_path / name / "grid.png"))
        for name in ("guided", "plain", "own", "named", "none")
    }
    assert (grids["guided"] == grids["own"]).all()
    assert (grids["own"] == grids["named"]).all()
    assert (grids["plain"] == grids["none"]).all()
    assert (grids["guided"] != grids["plain"]).any()


def test_the_animation_grows_and_ends_on_the_pictures(shipped, tmp_path):
    place = tmp_path / "demo"
    main(["demo", "--output", str(place), "--num-images", "4", "--steps", "8", "--quiet"])
    with Image.open(place / "growth.webp") as film, Image.open(place / "grid.png") as grid:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.all_frames(film)]
        assert (frames[-1] == np.asarray(grid)).all()
    assert len(frames) == 8
    # Every pixel of the small picture is a square of four.
    squares = frames[0][:8, :8].reshape(4, 2, 4, 2, 3)
    assert (squares == squares[:, :1, :, :1]).all()


def test_the_demo_tells_people_in_seven_lines(shipped, tmp_path, capsys):
    main(["demo", "--output", str(tmp_path / "demo"), "--num-images", "1", "--steps", "8", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "pictures", "guide", "one", "grid", "growth", "enlarged"]
    assert "8 network calls each: " in lines[1]


def test_a_second_demo_in_one_folder_is_refused(shipped, tmp_path, capsys):
    words = ["demo", "--output", str(tmp_path / "demo"), "--num-images", "1", "--steps", "8", "--quiet"]
    main(words)
    assert "holds files already, maybe of an earlier demo; delete it, or give another --output" in cli_error(
        capsys, words
    )
    assert "--num-images is 0; give at least 1" in cli_error(capsys, ["demo", "--num-images", "0"])
    assert "1 sampling steps; a process of 2 levels needs" in cli_error(
        capsys, [*words[:1], "--output", str(tmp_path / "other"), "--steps", "1"]
    )


@pytest.mark.parametrize("command", [["demo", "--output"], ["sample", "--output"]])
@pytest.mark.parametrize("harm", ["gone", "cut", "bit"])
def test_a_damaged_shipped_model_is_said_with_the_way_out(harm: str, command, shipped, tmp_path, capsys):
    weights = shipped / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    if harm == "gone":
        shutil.rmtree(shipped)
    elif harm == "cut":
        weights.write_bytes(content[:-100])
    else:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    error = cli_error(capsys, [*command, str(tmp_path / "out"), "--quiet"])
    assert "the model that comes with the package cannot be loaded (" in error
    assert "install the package again" in error
    assert not (tmp_path / "out").exists()


def test_a_damaged_guide_is_said_where_it_is_wanted(shipped, tmp_path, capsys):
    shutil.rmtree(shipped.with_name("small_guide"))
    words = ["--output", str(tmp_path / "out"), "--num-images", "1", "--steps", "8", "--quiet"]
    for command in (["demo"], ["sample", "--guidance-scale", "2"]):
        error = cli_error(capsys, [*command, *words])
        assert "the guide that comes with the package cannot be loaded (" in error
        assert "install the package again" in error
        assert not (tmp_path / "out").exists()
    main(["sample", *words])


def test_sample_takes_the_shipped_model_where_none_is_named(shipped, tmp_path, capsys):
    main(["sample", "--output", str(tmp_path / "one"), "--num-images", "2", "--steps", "8", "--quiet"])
    main(["sample", str(shipped), "--output", str(tmp_path / "two"), "--num-images", "2", "--steps", "8", "--quiet"])
    assert (tmp_path / "one/000001.png").read_bytes() == (tmp_path / "two/000001.png").read_bytes()


def test_the_shipped_model_is_whole_and_small_and_has_a_card():
    pipeline = load_shipped()
    assert pipeline.scheduler.image_size == (64, 64)
    assert len(pipeline.scheduler.sizes) == 4
    guide = load_shipped_guide()
    folders = SHIPPED, guide_folder()
    weights = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in folders]
    assert sum(file.stat().st_size for file in weights) <= 16e6
    assert all((folder / MANIFEST).exists() for folder in folders)
    assert guide.scheduler.process == pipeline.scheduler.process
    pipeline.scheduler.set_timesteps(30)
    own, worse = drawing_gflops(pipeline, shipped_guidance())
    assert 0 < worse < 0.05 * own
    card = (SHIPPED / "README.md").read_text()
    assert "Noto Emoji" in card
    assert "Not measured yet" not in card
    pipeline.set_progress_bar_config(disable=True)
    picture = np.asarray(pipeline(1, num_inference_steps=6, **shipped_guidance()).images[0])
    assert picture.shape == (64, 64, 3)
