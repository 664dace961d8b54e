"""Pictures in one archive, as guided-diffusion writes them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.process_groups import run_group
from tests.small_models import cli_error, small_pipeline

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.pipelines import places
from scalespace.pipelines.sampling import sample_to_files


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "model"
    small_pipeline(num_classes=3).save_pretrained(folder)
    return folder


def _words(model: Path, output: Path, count: int = 5, *more: str) -> list[str]:
    run = ["--steps", "2", "--batch-size", "2", "--num-images", str(count), "--quiet"]
    return ["sample", str(model), "--output", str(output), *run, *more]


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def test_an_archive_holds_the_pictures_of_the_folder_in_their_order_and_its_classes(model, tmp_path, capsys):
    main(_words(model, tmp_path / "out"))
    main(_words(model, tmp_path / "new" / "out.npz"))
    assert f"pictures   5 in {tmp_path / 'new' / 'out.npz'}, " in (printed := capsys.readouterr().out)
    assert printed.count("grid  ") == 1
    found = _arrays(tmp_path / "new" / "out.npz")
    drawn = np.stack([np.asarray(Image.open(tmp_path / "out" / f"{number:06d}.png")) for number in range(5)])
    assert (found["arr_0"].dtype, found["arr_1"].dtype) == (np.uint8, np.int64)
    assert (found["arr_0"] == drawn).all()
    assert found["arr_1"].tolist() == [0, 1, 2, 0, 1]
    with Image.open(tmp_path / "out" / "000000.png") as picture:
        assert str(found["about"]) == picture.info["scalespace"]
    # Nothing else is left, and it can be measured.
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.npz"]
    main(["evaluate", str(tmp_path / "new" / "out.npz"), str(tmp_path / "out"), "--metrics", "colour", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [row["value"] for row in told["metrics"] if row["value"]] == []
    assert told["generated"]["preparation"]["not_read"] == ""


def test_grey_pictures_have_one_channel_and_no_classes(tmp_path):
    pipeline = small_pipeline(in_channels=1, out_channels=1)
    files = sample_to_files(pipeline, tmp_path / "out.NPZ", num_images=2, steps=2, progress=False)
    found = _arrays(tmp_path / "out.NPZ")
    assert (files.count, files.pictures, files.archive, files.grid) == (2, (), tmp_path / "out.NPZ", None)
    assert (found["arr_0"].shape, found.keys()) == ((2, 8, 8, 1), {"arr_0", "about"})


def test_processes_write_the_archive_of_one(model, tmp_path):
    main(_words(model, tmp_path / "1.npz"))
    ended = run_group(2, _words(model, tmp_path / "2.npz"), tmp_path / "prints")
    assert [process.code for process in ended] == [0, 0], ended
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"1.npz", "2.npz", "prints"}


def test_an_archive_goes_on_where_it_was_stopped_and_grows(model, tmp_path, capsys, monkeypatch):
    out, partial = tmp_path / "out.npz", tmp_path / "out.npz.partial"
    main(_words(model, out))
    whole = out.read_bytes()
    capsys.readouterr()
    before = out.stat().st_ino
    main(_words(model, out))
    assert "(5 of them were there already)" in capsys.readouterr().out
    assert out.stat().st_ino == before
    out.unlink()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places.Archive, "finish", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(_words(model, out))
    assert (not out.exists(), len(list(partial.iterdir()))) == (True, 5)
    (partial / "000004.png").unlink()
    capsys.readouterr()
    main(_words(model, out))
    assert "(4 of them were there already)" in capsys.readouterr().out
    assert out.read_bytes() == whole
    assert not partial.exists()
    # Killed between the archive and the end of what it was made of.
    with monkeypatch.context() as patch:
        patch.setattr(places, "remove_directory", lambda folder: None)
        main(_words(model, out, 7))
    assert partial.exists()
    main(_words(model, out, 7))
    assert not partial.exists()
    main(_words(model, tmp_path / "at once.npz", 7))
    assert (tmp_path / "at once.npz").read_bytes() == out.read_bytes()
    # Those of whole batches were taken out of the archive.
    assert "(4 of them were there already)" in capsys.readouterr().out


def test_an_archive_of_another_kind_is_left_alone(model, tmp_path, capsys):
    out = tmp_path / "out.npz"
    main(_words(model, out))
    before = out.read_bytes()
    for count, more, sentence in [
        (5, ["--seed", "2"], "out.npz was not drawn by the same model, seed and options (seed is 0 there and 2 here)"),
        (9, ["--class-label", "1"], "(class is None there and 1 here); give another --output, or the same options"),
        (3, [], "holds 5 pictures, which are more than 3; give another name with --output, or --num-images 5"),
        (5, ["--trajectory"], "--trajectory has no effect where --output is one .npz file; leave --trajectory out, or"),
        (5, ["--preview", f"{out}.partial/now.png"], "among the pictures of --output; give a file in another folder"),
    ]:
        assert sentence in cli_error(capsys, _words(model, out, count, *more))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out.npz": before}


def test_what_is_no_such_archive_is_not_replaced(model, tmp_path, capsys):
    np.savez(tmp_path / "theirs.npz", np.zeros((5, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "told.npz", np.zeros((5, 8, 8, 3), np.uint8), about=np.array("[]"))
    (tmp_path / "text.npz").write_text("mine")
    main(_words(model, tmp_path / "cut.npz"))
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:900] + content[1100:])
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "used.npz.partial").mkdir()
    (tmp_path / "used.npz.partial" / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, sentence in {
        "theirs.npz": "theirs.npz is there already and is none of these archives; give another name with --output, or",
        "text.npz": "is there already and is none of these archives",
        "told.npz": "(nothing tells what drew it); give another --output",
        "cut.npz": "cut.npz is damaged (Invalid argument); give another name with --output, or remove it",
        "folder.npz": "is a folder; name a file",
        "used.npz": "used.npz.partial is not an empty folder; give a new one with --output",
    }.items():
        assert sentence in cli_error(capsys, _words(model, tmp_path / name))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_an_archive_cannot_hold_is_refused_before_anything_is_drawn(tmp_path, model):
    with pytest.raises(
        UserError, match=r"draws pictures of 4 channels, and arr_0 in an .npz file has 3, or 1; give a folder"
    ):
        sample_to_files(small_pipeline(in_channels=4, out_channels=4), tmp_path / "a.npz", num_images=1, steps=2)
    with pytest.raises(UserError, match=r"the trajectory has no place in an .npz file"):
        sample_to_files(small_pipeline(), tmp_path / "a.npz", num_images=1, steps=2, trajectory=True)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_cannot_be_written_keeps_what_was_drawn(model, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", full)
        assert "out.npz (the disk is full)" in cli_error(capsys, _words(model, tmp_path / "out.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz.partial"]
    main(_words(model, tmp_path / "out.npz"))
    assert "(5 of them were there already)" in capsys.readouterr().out
