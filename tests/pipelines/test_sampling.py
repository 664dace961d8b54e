import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.process_groups import run_group
from tests.small_models import cli_error, given_once, small_pipeline

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import sample_to_files
from scalespace.pipelines.saving import load_pipeline


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
    run = ("--steps", "4", "--num-images", "3", "--quiet")
    return given_once("sample", str(model), "--output", str(output), *run, *words)


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


@pytest.fixture(scope="module")
def named_model(tmp_path_factory) -> Path:
    """Classes whose names are numbers, and not their own."""
    folder = tmp_path_factory.mktemp("named") / "model"
    pipeline = small_pipeline(num_classes=4)
    ScaleSpacePipeline(pipeline.unet, pipeline.scheduler, {0: "cat", 1: "2", 2: "10", 3: "3"}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("asked", "number", "told"),
    [
        ("cat", 0, "cat, which is number 0"),
        ("0", 0, "cat, which is number 0"),
        ("2", 1, "2, which is number 1; number 2 is 10"),
        ("10", 2, "10, which is number 2"),
        ("3", 3, "3, which is number 3"),
    ],
)
def test_a_class_is_asked_for_by_name_or_number_and_which_it_is_is_told(
    asked: str, number: int, told: str, named_model, tmp_path, capsys
):
    main(_words(named_model, tmp_path / "text", "--class-label", asked))
    assert f"\nclass      {told}\n" in capsys.readouterr().out
    main(_words(named_model, tmp_path / "json", "--class-label", asked, "--json"))
    files = json.loads(capsys.readouterr().out)
    assert (files["class_label"], files["class_name"]) == (number, ["cat", "2", "10", "3"][number])
    sample_to_files(
        load_pipeline(named_model), tmp_path / "number", num_images=3, steps=4, class_label=number, progress=False
    )
    assert (_pixels(tmp_path / "text" / "000001.png") == _pixels(tmp_path / "number" / "000001.png")).all()


def test_classes_in_turn_are_told_by_name(named_model, class_model, tmp_path, capsys):
    main(_words(named_model, tmp_path / "named"))
    assert "\nclasses    4 in turn: cat, 2, 10, 3\n" in capsys.readouterr().out
    main(_words(class_model, tmp_path / "unnamed"))
    assert "\nclasses    3 in turn\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("cart", 'there is no class "cart"; the nearest is cat; numbers from 0 to 3 can be given, too'),
        ("dog", 'there is no class "dog"; the model has cat, 2, 10, 3; numbers from 0 to 3'),
        ("11", "--class-label is 11; the model has the classes 0 to 3: cat, 2, 10, 3\n"),
    ],
)
def test_a_class_that_there_is_not_is_one_sentence(asked: str, sentence: str, named_model, tmp_path, capsys):
    assert sentence in cli_error(capsys, _words(named_model, tmp_path / "out", "--class-label", asked))
    assert not (tmp_path / "out").exists()


def test_a_cascade_of_other_channels_is_refused(tmp_path):
    first = small_pipeline(in_channels=1, out_channels=1)
    first.scheduler = type(first.scheduler)(20, sizes=((4, 4),), change_points=())
    with pytest.raises(
        UserError, match="enlarges pictures of 3 channels, and the first model draws 1; give two models"
    ):
        sample_to_files(first, tmp_path, num_images=1, steps=4, upsample=small_pipeline(condition_size=(4, 4)))


def test_a_model_of_channels_that_no_picture_has_is_one_sentence(tmp_path, capsys):
    small_pipeline(in_channels=2, out_channels=2).save_pretrained(tmp_path / "model")
    words = _words(tmp_path / "model", tmp_path / "out")
    assert "the model draws 2 channels, and a picture has 1 (grey), 3" in cli_error(capsys, words)
    assert not (tmp_path / "out").exists()


def test_a_name_of_a_model_that_knows_numbers_only_is_one_sentence(class_model, tmp_path, capsys):
    words = _words(class_model, tmp_path / "out", "--class-label", "cat")
    assert 'no class "cat"; the model knows its classes by number only; numbers' in cli_error(capsys, words)


def test_a_cascade_of_models_with_other_class_names_is_refused(named_model, tmp_path):
    first = load_pipeline(named_model)
    second = small_pipeline(num_classes=4, condition_size=(4, 4))
    first.scheduler = type(first.scheduler)(20, sizes=((4, 4),), change_points=())
    for names, agree in (({0: "cat", 1: "2", 2: "3", 3: "10"}, False), ({0: "cat", 1: "2", 2: "10", 3: "3"}, True)):
        upsample = ScaleSpacePipeline(second.unet, second.scheduler, names)
        if agree:
            sample_to_files(first, tmp_path, num_images=1, steps=4, upsample=upsample, progress=False)
            continue
        with pytest.raises(UserError, match="a model of other classes than the first: number 2 is 10 there and 3 here"):
            sample_to_files(first, tmp_path, num_images=1, steps=4, upsample=upsample)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--steps 1", "1 sampling steps; give a number from 2 to 20"),
        ("--steps 21", "21 sampling steps; give a number from 2 to 20"),
        ("--num-images 0", "--num-images is 0; give at least 1"),
        ("--batch-size 0", "--batch-size is 0; give at least 1"),
        ("--seed -1", "seed -1 is not between 0 and 4294967295"),
        ("--seed 4294967296", "seed 4294967296 is not between 0 and 4294967295"),
        ("--class-label 0", "--class-label has no effect on a model without classes; leave --class-label out"),
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
    assert f"--class-label is {label}; the model has the classes 0 to 2\n" in cli_error(capsys, words)


def test_a_folder_in_use_is_refused_and_left_alone(model, tmp_path, capsys):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    assert "is not an empty folder; give a new one" in cli_error(capsys, _words(model, tmp_path))
    assert "which is no folder; rename it" in cli_error(capsys, _words(model, kept))
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
    sample_to_files(pipeline, tmp_path / "loud", num_images=3, steps=2, batch_size=2)
    assert "pictures 3-3 of 3" in capsys.readouterr().err
    sample_to_files(pipeline, tmp_path / "quiet", num_images=1, steps=2, progress=False)
    assert capsys.readouterr().err == ""


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_processes_write_the_files_of_one(class_model, tmp_path):
    words = {
        count: ["sample", str(class_model), "--output", str(tmp_path / str(count)), "--steps", "4", "--num-images", "7"]
        for count in (1, 2, 4)
    }
    for count, line in words.items():
        ended = run_group(count, [*line, "--batch-size", "2", "--trajectory"], tmp_path / "prints")
        assert [process.code for process in ended] == [0] * count, ended
        assert ended[0].out.startswith(f"pictures   7 in {tmp_path / str(count)}, ")
        assert {(process.out, process.errors) for process in ended[1:]} <= {("", "")}
    assert len(_files(tmp_path / "1")) == 9
    assert _files(tmp_path / "1") == _files(tmp_path / "2") == _files(tmp_path / "4")


def test_drawing_goes_on_where_it_was_stopped(model, tmp_path, capsys):
    def words(count: int, *more: str) -> list[str]:
        return _words(model, tmp_path / "out", "--num-images", str(count), "--batch-size", "2", *more)

    main(words(5))
    capsys.readouterr()
    whole, out = _files(tmp_path / "out"), tmp_path / "out"
    # Killed while it drew, and a file cut short by the crash.
    (out / "000003.png").unlink()
    (out / "000004.png").write_bytes(whole["000004.png"][:-20])
    (out / "grid.png").unlink()
    (out / ".partial-12345678.png").write_bytes(b"half")
    marked = out / "000000.png"
    before = marked.stat().st_ino
    main(words(5))
    assert "pictures   5 in" in (printed := capsys.readouterr().out)
    assert "(2 of them were there already)" in printed
    assert _files(out) == whole
    assert marked.stat().st_ino == before
    main(words(6))
    assert sorted(_files(out)) == [*(f"{number:06d}.png" for number in range(6)), "grid.png"]
    assert {name: whole[name] for name in whole if name < "000004"}.items() <= _files(out).items()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("--seed 2", r"seed is 0 there and 2 here"),
        ("--steps 5", r"steps is 4 there and 5 here"),
        ("--solver ddim", r"solver is ancestral there and ddim here"),
        ("--batch-size 2", r"batch-size is 16 there and 2 here"),
        ("--num-images 2", r"holds pictures up to number 2, which are more than 2; give a new folder with"),
    ],
)
def test_pictures_of_another_kind_are_left_alone(more: str, what: str, model, tmp_path, capsys):
    main(_words(model, tmp_path / "out"))
    before = _files(tmp_path / "out")
    assert what in cli_error(capsys, _words(model, tmp_path / "out", *more.split()))
    assert _files(tmp_path / "out") == before


def test_pictures_of_another_model_or_of_none_are_left_alone(model, class_model, tmp_path, capsys):
    main(_words(model, tmp_path / "out"))
    small_pipeline(seed=1).save_pretrained(tmp_path / "other")
    for other in (class_model, tmp_path / "other"):
        assert "not drawn by the same model" in cli_error(capsys, _words(other, tmp_path / "out"))
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "000001.png")
    assert "nothing tells what drew it" in cli_error(capsys, _words(model, tmp_path / "out"))
