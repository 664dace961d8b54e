"""The commands that draw pictures of pictures, on a small model and on what they must refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.small_models import cli_error, small_network, small_pipeline, small_scheduler

from scalespace import ScaleSpacePipeline
from scalespace.cli import main

TAKES = {
    "upscale": ["small/a.png"],
    "vary": ["full/a.png"],
    "inpaint": ["full/a.png", "hole.png"],
    "restore": ["small/a.png", "--factor", "2"],
    "interpolate": ["full/a.png", "full/b.png"],
}
COMMON = ["--model", "model", "--steps", "4", "--quiet", "--output"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    small_pipeline().save_pretrained(folder / "model")
    one_level = small_scheduler(sizes=((8, 8),), change_points=())
    ScaleSpacePipeline(small_network(sizes=((8, 8),)), one_level).save_pretrained(folder / "one-level")
    noise = np.random.default_rng(0)
    for name, side in (("small", 4), ("full", 8), ("odd", 7)):
        (folder / name).mkdir()
        for file in "ab":
            pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{file}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).save(folder / "hole.png")
    Image.fromarray(0 * mask).save(folder / "black.png")
    Image.fromarray(0 * mask + 255).save(folder / "white.png")
    Image.fromarray(mask[:7]).save(folder / "short.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(folder / "clear.png")
    (folder / "cut.png").write_bytes((folder / "full/a.png").read_bytes()[:60])
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def _pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_upscale_writes_variations_of_every_picture(tmp_path, capsys):
    main(["upscale", "small", "small/b.png", *COMMON, str(tmp_path / "out"), "--variations", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [entry["given"] for entry in told["pictures"]] == ["a.png", "b.png", "small/b.png"]
    files = [Path(file) for entry in told["pictures"] for file in entry["drawn"]]
    assert [file.name for file in files[:3]] == ["000000-000.png", "000000-001.png", "000001-000.png"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*(file.name for file in files), "grid.png"}
    assert (_pixels(files[0]) != _pixels(files[1])).any()
    assert _pixels(files[0]).shape == (8, 8, 3)
    # Random predictions reach beyond the range of pixels and are cut, so the agreement is only roughly there.
    assert 0 <= told["difference"] < 60
    # Each row of the grid begins with the picture as it was given.
    assert (_pixels(told["grid"])[:8:2, :8:2] == _pixels("small/a.png")).all()
    assert _pixels(told["grid"]).shape == (3 * 8 + 2 * 2, 3 * 8 + 2 * 2, 3)
    with Image.open(files[0]) as picture:
        facts = json.loads(picture.info["scalespace"])
    assert (facts["task"], facts["seed"], facts["steps"]) == ("upscale", 0, 4)


def test_a_variation_depends_on_seed_picture_and_number_alone(tmp_path):
    words = ["vary", "full", *COMMON]
    main([*words, str(tmp_path / "three"), "--variations", "3"])
    main([*words, str(tmp_path / "two"), "--variations", "2", "--batch-size", "1"])
    main([*words, str(tmp_path / "other"), "--variations", "2", "--seed", "1"])
    for name in ("000000-001.png", "000001-000.png"):
        three, two, other = (_pixels(tmp_path / kind / name).astype(int) for kind in ("three", "two", "other"))
        assert abs(three - two).max() <= 1
        assert abs(other - two).max() > 1


def test_vary_by_nothing_is_the_picture_and_tells_where_it_went(tmp_path, capsys):
    main(["vary", "full/a.png", *COMMON, str(tmp_path / "none"), "--strength", "0"])
    assert (_pixels(tmp_path / "none/000000.png") == _pixels("full/a.png")).all()
    capsys.readouterr()
    main(["vary", "full/a.png", *COMMON, str(tmp_path / "far"), "--strength", "0.55"])
    assert "noised up  to timestep 11 of 20, where states have 4x4 pixels" in capsys.readouterr().out


def test_inpaint_keeps_what_is_black_in_the_mask(tmp_path, capsys):
    main(["inpaint", "full/a.png", "hole.png", *COMMON, str(tmp_path / "out"), "--resamplings", "1", "--jump", "2"])
    drawn, given = _pixels(tmp_path / "out/000000.png"), _pixels("full/a.png")
    hole = _pixels("hole.png") == 255
    assert (drawn[~hole] == given[~hole]).all()
    assert (drawn[hole] != given[hole]).any()
    assert "drawn      14.1 % of the pixels" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["upscale", "vary", "inpaint"])
def test_a_guide_is_named_and_recorded(task: str, tmp_path, capsys):
    guide = ScaleSpacePipeline(small_network(1), small_pipeline().scheduler)
    guide.save_pretrained(tmp_path / "guide")
    words = [task, *TAKES[task], *COMMON]
    main([*words, str(tmp_path / "plain")])
    by = ["--guidance-model", str(tmp_path / "guide")]
    scaled = ["--guidance-scale", "3", "--guidance-interval", "0.5", "1000"]
    main([*words, str(tmp_path / "guided"), *scaled, *by, "--json"])
    first = next((tmp_path / "guided").glob("000000*.png"))
    assert (_pixels(first) != _pixels(tmp_path / "plain" / first.name)).any()
    with Image.open(first) as picture:
        facts = json.loads(picture.info["scalespace"])
    assert (facts["guidance-scale"], facts["guidance-interval"]) == (3, [0.5, 1000])
    assert "guidance-model" in facts
    capsys.readouterr()
    for options, sentence in (
        (by, "--guidance-model has no effect without guidance"),
        (scaled, "which can only be guided by a worse model"),
        ([*scaled[:2], "--guidance-interval", "999", "1000", *by], "holds none of the"),
    ):
        assert sentence in cli_error(capsys, [*words, str(tmp_path / "refused"), *options])
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("guidance", ["ddrm", "pigdm", "mmps"])
def test_restore_agrees_with_what_was_measured(guidance: str, tmp_path, capsys):
    words = ["restore", "small", "--factor", "2", "--noise", "0.5", "--guidance", guidance, *COMMON]
    main([*words, str(tmp_path / "out"), "--variations", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [len(entry["drawn"]) for entry in told["pictures"]] == [2, 2]
    drawn = [_pixels(file) for file in told["pictures"][0]["drawn"]]
    assert drawn[0].shape == (8, 8, 3)
    assert (drawn[0] != drawn[1]).any()
    # Of the noise's size; without the measurement it would be several times as much.
    assert 0.3 < told["misfit"] < 2
    with Image.open(told["pictures"][0]["drawn"][0]) as picture:
        facts = json.loads(picture.info["scalespace"])
    assert facts["guidance"] == guidance
    assert facts["factor"] == 2
    assert ("iterations" in facts) is (guidance == "mmps")
    assert facts["solver"] == ("ddrm" if guidance == "ddrm" else "ancestral")


def test_restore_takes_the_spectrum_of_other_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["restore", "full/a.png", "--operator", "blur", "--blur", "1", "--guidance", "pigdm", *COMMON]
    main([*words, str(tmp_path / "one")])
    assert "agreement  measured again they differ from the given ones by " in capsys.readouterr().out
    main([*words, str(tmp_path / "other"), "--spectrum-of", "full"])
    assert (_pixels(tmp_path / "one/000000.png") != _pixels(tmp_path / "other/000000.png")).any()


def test_interpolate_goes_from_one_picture_to_the_other(tmp_path, capsys):
    main(["interpolate", "full/a.png", "full/b.png", *COMMON, str(tmp_path / "out"), "--frames", "3", "--json"])
    told = json.loads(capsys.readouterr().out)
    frames = [_pixels(file).astype(int) for file in told["pictures"]]
    for frame, end in ((frames[0], "full/a.png"), (frames[-1], "full/b.png")):
        assert abs(frame - _pixels(end)).max() <= 1
    assert abs(frames[1] - frames[0]).max() > 1
    assert len(told["losses"]) == 2
    assert _pixels(told["grid"]).shape == (8, 3 * 8 + 2 * 2, 3)


REFUSED = [
    ("upscale full/a.png", "a.png has 8x8 pixels (height by width), and 4x4 is taken; bring the pictures to one of"),
    ("upscale odd", "a.png has 7x7 pixels"),
    ("upscale small/a.png --model one-level", "the model has one resolution, 8x8, and no rest of a chain"),
    ("upscale", "no pictures are given; name files, a folder or a zip"),
    ("upscale nowhere.png", "there is no data at 'nowhere.png'"),
    ("upscale model", "model holds no pictures"),
    ("inpaint / hole.png", "/ is no picture file"),
    ("upscale small/a.png --variations 0", "--variations is 0; give a number from 1 to 1000"),
    ("upscale small/a.png --batch-size 0", "--batch-size is 0; give at least 1"),
    ("upscale small/a.png --steps 1", "1 sampling steps"),
    ("upscale small/a.png --seed -1", "seed -1 is not between 0 and"),
    ("upscale small/a.png --class-label 0", "--class-label has no effect on a model without classes"),
    (
        "upscale small/a.png --trust-model",
        "--trust-model has no effect on a model whose degradation is one of this package",
    ),
    ("upscale small/a.png --revision v1", "--revision has no effect on a model in a folder"),
    ("vary small/a.png", "a.png has 4x4 pixels (height by width), and 8x8 is taken"),
    ("vary cut.png", "cut.png cannot be decoded ("),
    ("vary full/a.png --strength 1.5", "--strength is 1.5; give a number from 0"),
    ("vary full/a.png --strength -0.5", "--strength is -0.5; give a number from 0"),
    ("vary full/a.png --strength nan", "strength is nan"),
    ("inpaint full/a.png short.png", "short.png has 7x8 pixels (height by width), and 8x8 is taken"),
    ("inpaint odd/a.png hole.png", "a.png has 7x7 pixels"),
    ("inpaint full/a.png black.png", "the mask says that everything is known; there is nothing to draw"),
    ("inpaint full/a.png white.png", "the mask says that nothing is known; draw a picture without one"),
    # What is transparent is laid on white.
    ("inpaint full/a.png clear.png", "the mask says that nothing is known"),
    ("inpaint full/a.png full", "the mask full is no picture file"),
    ("inpaint full hole.png", "full is no picture file; give one, and a mask for it"),
    ("inpaint full/a.png hole.png --resamplings -1", "--resamplings is -1"),
    ("inpaint full/a.png hole.png --resamplings 0 --jump 3", "--jump has no effect without resampling"),
    ("restore full/a.png --factor 2", "a.png has 8x8 pixels (height by width), and 4x4 is taken"),
    ("restore small/a.png --operator blur", "a.png has 4x4 pixels (height by width), and 8x8 is taken"),
    ("restore small/a.png --factor 3", "--factor is 3; give a whole number from 2 that divides both 8 and 8"),
    ("restore small/a.png --factor 1", "--factor is 1; give a whole number from 2"),
    ("restore small/a.png --factor 0", "--factor is 0; give a whole number from 2"),
    ("restore full/a.png --operator blur --blur 0", "--blur is 0.0; give a standard deviation from 0.1 to 8 pixels"),
    ("restore full/a.png --operator blur --blur 9", "--blur is 9.0; give a standard deviation from 0.1 to 8 pixels"),
    ("restore full/a.png --operator blur --factor 2", "--factor has no effect with --operator blur"),
    ("restore small/a.png --blur 2", "--blur has no effect with --operator super-resolution"),
    ("restore small/a.png --noise 0 --factor 2", "--noise is 0.0; give its standard deviation, at least 0.001"),
    ("restore small/a.png --noise -1 --factor 2", "--noise is -1.0; give its standard deviation"),
    ("restore small/a.png --noise nan", "noise is nan; give a finite number"),
    ("restore small/a.png --guidance dps", "--guidance"),
    ("restore small/a.png --iterations 0", "--iterations is 0; give a number from 1 to 100"),
    ("restore small/a.png --iterations 3 --guidance pigdm", "--iterations has no effect with --guidance pigdm"),
    ("restore small/a.png --guidance ddrm --solver ddim", "--solver has no effect with --guidance ddrm"),
    ("restore small/a.png --factor 2 --spectrum-of nowhere", "there is no data at 'nowhere'"),
    ("interpolate full/a.png full", "full is no picture file; give two"),
    ("interpolate full/a.png small/b.png", "b.png has 4x4 pixels (height by width), and 8x8 is taken"),
    ("interpolate full/a.png full/b.png --frames 1", "--frames is 1; give a number from 2"),
    ("interpolate full/a.png full/b.png --repetitions 0", "--repetitions is 0; give at least 1"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_does_not_fit_is_one_sentence(words: str, sentence: str, tmp_path, capsys):
    options = [word for word in ("--model model", "--steps 4") if word.split()[0] not in words]
    given = [*words.split(), *" ".join(options).split(), "--quiet", "--output", str(tmp_path / "out")]
    assert sentence in cli_error(capsys, given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", TAKES)
def test_a_folder_that_holds_something_is_refused(command: str, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not an empty folder" in cli_error(capsys, [command, *TAKES[command], *COMMON, str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_model_of_classes_is_told_which_to_draw(tmp_path, capsys):
    small_pipeline(num_classes=2).save_pretrained(tmp_path / "model")
    words = ["vary", "full/a.png", "--model", str(tmp_path / "model"), "--steps", "4", "--quiet", "--output"]
    assert "class_labels are missing" in cli_error(capsys, [*words, str(tmp_path / "out")])
    assert "--class-label is 2; the model has the classes 0 to 1" in cli_error(
        capsys, [*words, str(tmp_path / "out"), "--class-label", "2"]
    )
    main([*words, str(tmp_path / "out"), "--class-label", "1"])


# Stopping at a level


def test_sample_stops_at_a_level(tmp_path, capsys):
    words = ["sample", "model", "--steps", "6", "--num-images", "2", "--quiet", "--stop-at-size", "4", "4", "--output"]
    main([*words, str(tmp_path / "small"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert _pixels(tmp_path / "small/000001.png").shape == (4, 4, 3)
    pipeline = small_pipeline()
    pipeline.scheduler.set_timesteps(6)
    assert told["network_calls"] == sum(t + 1 >= 11 for t in pipeline.scheduler.timesteps.tolist())
    # Pictures of another size in the same folder would not be those that were asked for.
    assert "was not drawn by the same model, seed and options" in cli_error(
        capsys, ["sample", "model", "--steps", "6", "--num-images", "2", "--output", str(tmp_path / "small")]
    )
    assert "stop_at_size is 5x5; the model has states of 4x4, 8x8" in cli_error(
        capsys, [*words[:-3], "5", "5", "--output", str(tmp_path / "other")]
    )
    assert "--stop-at-size has no effect on a model of one resolution" in cli_error(
        capsys, ["sample", "one-level", "--stop-at-size", "8", "8", "--output", str(tmp_path / "other")]
    )
