"""Watching pictures while they are drawn."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_models import cli_error, small_pipeline

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.pipelines import preview
from scalespace.pipelines.preview import Preview


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
    watcher, pipeline = Preview(tmp_path / "now.png", (8, 8), lambda: now[0]), small_pipeline()
    pipeline._num_timesteps = 6
    written = []
    # Two of a level within the pause, one after it, the next level, and the last step.
    for step, (at, side) in enumerate([(0.0, 4), (0.1, 4), (0.3, 4), (0.31, 8), (0.32, 8), (0.33, 8)]):
        now[0] = at
        assert watcher(pipeline, step, 0, {"pred_original_sample": torch.zeros(2, 3, side, side)}) == {}
        written.append(watcher.written)
    assert written == [1, 1, 2, 3, 3, 4]


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
        "now.gif": "--preview is now.gif; give a name that ends in .png",
        "now": "--preview is now; give a name that ends in .png",
        str(tmp_path / "out/now.png"): "among the pictures of --output; give a file in another folder",
        str(tmp_path): "is a folder",
    }.items():
        assert sentence in cli_error(capsys, [*words, "--preview", name])
        assert not (tmp_path / "out").exists()


def test_a_preview_that_fails_is_one_sentence(tmp_path):
    watcher = Preview(tmp_path / "gone" / "now.png", (8, 8))
    watcher.show(torch.zeros(1, 3, 4, 4))
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "gone").write_text("mine")
    with pytest.raises(UserError, match=r"now\.png"):
        watcher.show(torch.zeros(1, 3, 4, 4))
