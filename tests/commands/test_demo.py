import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tests.small_models import cli_error, small_network, small_scheduler

from scalespace import ScaleSpacePipeline
from scalespace.cli import main
from scalespace.manifest import MANIFEST
from scalespace.networks.flops import path_gflops
from scalespace.pipelines.shipped import HELDOUT, SHIPPED, load_shipped

_HALF, _FULL = (4, 4), (8, 8)


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A small model in the place of the one that comes with the package."""
    folder = tmp_path / "package" / "small"
    scheduler = small_scheduler(solver="corrected", timestep_spacing="log_snr")
    ScaleSpacePipeline(small_network(), scheduler).save_pretrained(folder)
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
    network = small_network()
    costs = {pair: path_gflops(network, *pair) for pair in ((_HALF, _HALF), (_HALF, _FULL), (_FULL, _FULL))}
    small, large = told["calls"].values()
    # One call at the small resolution already goes to the full one.
    calls = {(_HALF, _HALF): small - 1, (_HALF, _FULL): 1, (_FULL, _FULL): large}
    assert told["gflops"] == pytest.approx(sum(count * costs[pair] for pair, count in calls.items()))
    assert told["one_level_gflops"] == pytest.approx(1000 * costs[_FULL, _FULL])
    assert told["seconds"] > 0
    assert told["one_level_seconds"] > 0


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


def test_the_demo_tells_people_in_six_lines(shipped, tmp_path, capsys):
    main(["demo", "--output", str(tmp_path / "demo"), "--num-images", "1", "--steps", "8", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "pictures", "one", "grid", "growth", "enlarged"]
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


def test_sample_takes_the_shipped_model_where_none_is_named(shipped, tmp_path, capsys):
    main(["sample", "--output", str(tmp_path / "one"), "--num-images", "2", "--steps", "8", "--quiet"])
    main(["sample", str(shipped), "--output", str(tmp_path / "two"), "--num-images", "2", "--steps", "8", "--quiet"])
    assert (tmp_path / "one/000001.png").read_bytes() == (tmp_path / "two/000001.png").read_bytes()


def test_the_shipped_model_is_whole_and_small_and_has_a_card():
    pipeline = load_shipped()
    assert pipeline.scheduler.image_size == (64, 64)
    assert len(pipeline.scheduler.sizes) == 4
    weights = SHIPPED / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size <= 16e6
    assert (SHIPPED / MANIFEST).exists()
    card = (SHIPPED / "README.md").read_text()
    assert "Noto Emoji" in card
    assert "Not measured yet" not in card
    pipeline.set_progress_bar_config(disable=True)
    picture = np.asarray(pipeline(1, num_inference_steps=6).images[0])
    assert picture.shape == (64, 64, 3)
