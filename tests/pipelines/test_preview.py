"""Watching pictures while they are drawn."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tests.small_models import cli_error, small_network, small_pipeline, small_scheduler

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.pipelines import preview
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.preview import Still
from scalespace.pipelines.sampling import sample_to_files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("previewed") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


def _pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_the_file_shows_every_step_and_ends_with_the_pictures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "_PAUSE", 0)
    seen = []
    write = preview.write_file

    def noted(path, draw):
        write(path, draw)
        seen.append(_pixels(path))

    monkeypatch.setattr(preview, "write_file", noted)
    words = ["sample", str(model), "--steps", "4", "--num-images", "3", "--quiet", "--output", str(tmp_path / "out")]
    main([*words, "--preview", str(tmp_path / "new" / "now.png")])
    # As many as network calls, all of one size: small predictions are enlarged, so their pixels are squares of two by two.
    assert len(seen) == 6
    assert {shown.shape for shown in seen} == {(18, 18, 3)}
    first = seen[0][:8, :8]
    assert (first[::2, ::2] == first[1::2, 1::2]).all()
    assert (seen[-1][::2, ::2] != seen[-1][1::2, 1::2]).any()
    assert (_pixels(tmp_path / "new/now.png") == _pixels(tmp_path / "out/grid.png")).all()
    # The folder of the pictures has nothing else in it, and they are those that are drawn without a preview.
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["now.png"]
    main([*words[:-1], str(tmp_path / "plain")])
    for name in ("000000.png", "000002.png", "grid.png"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_quick_model_does_not_write_more_than_it_draws(tmp_path):
    now = [0.0]
    watcher, pipeline = Still(tmp_path / "now.png", (8, 8), lambda: now[0]), small_pipeline()
    pipeline._num_timesteps = 6
    written = []
    # Two of a level within the pause, one after it, the next level, and the last step.
    for step, (at, side) in enumerate([(0.0, 4), (0.1, 4), (0.3, 4), (0.31, 8), (0.32, 8), (0.33, 8)]):
        now[0] = at
        assert watcher(pipeline, step, 0, {"pred_original_sample": torch.zeros(2, 3, side, side)}) == {}
        written.append(watcher.written)
    assert written == [1, 1, 2, 3, 3, 4]


def _frames(path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.all_frames(film)]


@pytest.mark.parametrize("ending", ["webp", "GIF"])
def test_an_animation_grows_level_by_level_and_ends_on_the_first_batch(ending, model, tmp_path, monkeypatch):
    seen, write = [], preview.write_file

    def noted(path, draw):
        write(path, draw)
        seen.append(_frames(path))

    monkeypatch.setattr(preview, "write_file", noted)
    words = ["sample", str(model), "--steps", "8", "--num-images", "6", "--batch-size", "4", "--quiet"]
    main([*words, "--output", str(tmp_path / "out"), "--preview", str(tmp_path / "new" / f"growth.{ending}")])
    # A file at the end of each level, and none of the second batch.
    assert len(seen) == 2
    small, whole = seen
    assert len(small) < len(whole) == 10
    assert {frame.shape for frame in (*small, *whole)} == {(18, 18, 3)}
    squares = small[-1][:8, :8].reshape(4, 2, 4, 2, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    # The grid has the six pictures in three columns and the animation four of them in two.
    grid = _pixels(tmp_path / "out" / "grid.png")
    # A GIF has 256 colours.
    assert np.abs(whole[-1][:8] - grid[:8, :18]).mean() <= (0 if ending == "webp" else 6)
    assert np.abs(small[-1][:8] - grid[:8, :18]).mean() > 6
    with Image.open(tmp_path / "new" / f"growth.{ending}") as film:
        assert film.info["loop"] == 0
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_an_animation_goes_on_in_the_model_that_enlarges(tmp_path):
    sizes = ((16, 16), (8, 8))
    second = ScaleSpacePipeline(small_network(sizes=sizes, condition_size=(8, 8)), small_scheduler(sizes=sizes))
    files = sample_to_files(
        small_pipeline(),
        tmp_path / "out",
        num_images=1,
        steps=2,
        upsample=second,
        preview=tmp_path / "growth.webp",
        progress=False,
    )
    frames = _frames(tmp_path / "growth.webp")
    assert len(frames) == files.network_calls
    assert {frame.shape for frame in frames} == {(16, 16, 3)}
    assert (frames[-1] == _pixels(files.pictures[0])).all()


def test_a_preview_can_be_told_from_the_output_and_goes_on(model, tmp_path, capsys):
    words = ["sample", str(model), "--steps", "4", "--num-images", "3", "--quiet", "--batch-size", "2", "--json"]
    words += ["--output", str(tmp_path / "out"), "--preview", str(tmp_path / "now.png")]
    main(words)
    assert json.loads(capsys.readouterr().out)["preview"] == str(tmp_path / "now.png")
    # Of the second batch alone.
    assert _pixels(tmp_path / "now.png").shape == (8, 8, 3)
    main(words)
    assert json.loads(capsys.readouterr().out)["preview"] is None
    main([word for word in words if word != "--json"])
    assert "preview    not written, since nothing had to be drawn" in capsys.readouterr().out


def test_what_cannot_be_previewed_is_refused_before_anything_is_drawn(model, tmp_path, capsys):
    words = ["sample", str(model), "--steps", "4", "--num-images", "1", "--quiet", "--output", str(tmp_path / "out")]
    for name, sentence in {
        "now.jpg": "--preview is now.jpg; give a name that ends in .png, or for an animation in .gif or .webp",
        "now": "--preview is now; give a name that ends in .png, or",
        str(tmp_path / "out/now.gif"): "among the pictures of --output; give a file in another folder",
        str(tmp_path / "out/now.png"): "among the pictures of --output; give a file in another folder",
        str(tmp_path): "is a folder",
    }.items():
        assert sentence in cli_error(capsys, [*words, "--preview", name])
        assert not (tmp_path / "out").exists()


def test_a_preview_that_fails_is_one_sentence(tmp_path):
    watcher = Still(tmp_path / "gone" / "now.png", (8, 8))
    watcher.show(torch.zeros(1, 3, 4, 4))
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "gone").write_text("mine")
    with pytest.raises(UserError, match=r"now\.png"):
        watcher.show(torch.zeros(1, 3, 4, 4))
