import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.small_models import cli_error, small_pipeline

from scalespace.cli import main
from scalespace.pipelines.sampling import sample_to_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def class_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "model"
    small_pipeline(num_classes=3).save_pretrained(folder)
    return folder


def _words(model: Path, output: Path, *words: str) -> list[str]:
    return ["sample", str(model), "--output", str(output), "--steps", "4", "--num-images", "3", "--quiet", *words]


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_writes_pictures_a_grid_and_a_trajectory(model, tmp_path, capsys):
    main(_words(model, tmp_path / "out", "--trajectory", "--device", "cpu"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png", "grid.png", "trajectory.png"]
    with Image.open(tmp_path / "out" / "grid.png") as grid, Image.open(tmp_path / "out" / "000002.png") as last:
        assert (grid.size, last.size, last.format) == ((18, 18), (8, 8), "PNG")
        assert (np.asarray(grid)[10:, :8] == np.asarray(last)).all()
    printed = capsys.readouterr().out
    assert f"pictures   3 in {tmp_path / 'out'}, 6 network calls each" in printed
    assert f"trajectory {tmp_path / 'out' / 'trajectory.png'}" in printed


def test_json_names_the_files(model, tmp_path, capsys):
    main(_words(model, tmp_path / "out", "--json"))
    files = json.loads(capsys.readouterr().out)
    assert [Path(file).name for file in files["pictures"]] == ["000000.png", "000001.png", "000002.png"]
    assert files["trajectory"] is None
    assert all(Path(file).exists() for file in [*files["pictures"], files["grid"]])


def test_batch_size_does_not_change_a_picture_and_the_seed_does(model, tmp_path):
    main(_words(model, tmp_path / "together"))
    main(_words(model, tmp_path / "alone", "--batch-size", "1"))
    main(_words(model, tmp_path / "other", "--seed", "2"))
    for name in ("000000.png", "000001.png", "000002.png"):
        picture = _pixels(tmp_path / "together" / name)
        assert np.abs(picture - _pixels(tmp_path / "alone" / name)).max() <= 1
        assert np.abs(picture - _pixels(tmp_path / "other" / name)).max() > 1


def test_classes_come_in_turn_or_as_told(class_model, tmp_path):
    main(_words(class_model, tmp_path / "in turn"))
    for label in range(3):
        main(_words(class_model, tmp_path / str(label), "--class-label", str(label)))
        name = f"{label:06d}.png"
        assert np.abs(_pixels(tmp_path / "in turn" / name) - _pixels(tmp_path / str(label) / name)).max() <= 1
    assert np.abs(_pixels(tmp_path / "0" / "000001.png") - _pixels(tmp_path / "1" / "000001.png")).max() > 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--steps 1", "1 sampling steps; give a number from 2 to 20"),
        ("--steps 21", "21 sampling steps; give a number from 2 to 20"),
        ("--num-images 0", "--num-images is 0; give at least 1"),
        ("--batch-size 0", "--batch-size is 0; give at least 1"),
        ("--seed -1", "seed -1 is not between 0 and 4294967295"),
        ("--seed 4294967296", "seed 4294967296 is not between 0 and 4294967295"),
        ("--class-label 0", "the model has no classes; leave it out"),
        ("--device nowhere", 'device "nowhere" cannot be used'),
        ("--device meta", 'device "meta" cannot be used'),
    ],
)
def test_bad_options_are_one_sentence_and_leave_no_folder(words: str, sentence: str, model, tmp_path, capsys):
    assert sentence in cli_error(capsys, _words(model, tmp_path / "out", *words.split()))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_does_not_exist_is_refused(label: int, class_model, tmp_path, capsys):
    words = _words(class_model, tmp_path / "out", "--class-label", str(label))
    assert f"--class-label is {label}; the model has the classes 0 to 2" in cli_error(capsys, words)


def test_a_folder_in_use_is_refused_and_left_alone(model, tmp_path, capsys):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    assert "is not an empty folder; give a new one" in cli_error(capsys, _words(model, tmp_path))
    assert "is not an empty folder" in cli_error(capsys, _words(model, kept))
    assert "Not a directory" in cli_error(capsys, _words(model, kept / "below"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "kept"


def test_a_full_disk_while_writing_pictures_is_one_sentence(model, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    words = cli_error(capsys, _words(model, tmp_path / "out"))
    assert "the disk is full" in words
    assert "None" not in words


def test_progress_is_shown_unless_told_otherwise(tmp_path, capsys):
    pipeline = small_pipeline()
    sample_to_folder(pipeline, tmp_path / "loud", num_images=3, steps=2, batch_size=2)
    assert "pictures 3-3 of 3" in capsys.readouterr().err
    sample_to_folder(pipeline, tmp_path / "quiet", num_images=1, steps=2, progress=False)
    assert capsys.readouterr().err == ""
