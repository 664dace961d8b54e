import json
from pathlib import Path

import pytest
from tests.picture_files import encoded, picture
from tests.small_models import SMALL_OPTIONS, cli_error, train_words

from scalespace.cli import main


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Raw photographs: 20 of two classes, sizes and kinds."""
    for k in range(20):
        folder = tmp_path / "photos" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (24, 30) if k < 15 else (20, 40)
        (folder / f"{k:02}.jpg").write_bytes(encoded(picture(k, size), "JPEG", quality=95))
    return tmp_path / "photos"


def test_it_says_what_it_did(photos, capsys):
    (photos / "notes.txt").write_text("none")
    (photos / "a" / "film.gif").write_bytes(b"GIF89a")
    before = sorted(photos.rglob("*"))
    words = "--size 16 16 --output new/photos16.zip --held-out new/heldout16.zip --seed 3"
    main(["prepare", "photos", *words.split()])
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        "prepared   18 pictures of 16x16 in new/photos16.zip",
        "held out   2 pictures in new/heldout16.zip, drawn at random with seed 3",
        "found      20 pictures in 2 classes; 2 files were not read: 1 .gif, 1 .txt",
        "found      classes: a (10), b (10)",
        "pictures   brought from 24x30 and 1 other size to 16x16 (height by width) as training does",
    ]
    assert sorted(photos.rglob("*")) == before
    main(["prepare", "photos", "--size", "16", "16", "--output", "new/all", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["count"], found["held_out"], found["classes"]) == (20, None, ["a", "b"])
    assert found["preparation"]["sizes"] == [{"size": [24, 30], "count": 15}, {"size": [20, 40], "count": 5}]
    assert found["source"]["command"] == "scalespace prepare photos --size 16 16 --output new/all --json"


def test_every_command_that_reads_pictures_reads_the_set_and_the_raw_files(photos, capsys):
    main(["prepare", "photos", "--size", "8", "8", "--output", "photos8.zip"])
    answers = []
    for data in ("photos", "photos8.zip"):
        capsys.readouterr()
        main(["plan", "--data", data, *SMALL_OPTIONS, "--json"])
        planned = json.loads(capsys.readouterr().out)
        main(["analyze", data, *SMALL_OPTIONS, "--json"])
        analyzed = json.loads(capsys.readouterr().out)
        main([*train_words(Path(f"run-{data}"), data=data)])
        answers.append((planned["octaves"], analyzed["modes"], analyzed["pixels"]))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("photos --size 16 16 --output photos/new.zip", "lies in photos, whose pictures are read"),
        ("photos --size 16 16 --output photos", "photos is there already; give another name"),
        ("photos --size 16 16 --output taken.zip", "taken.zip is there already; give another name, or remove it first"),
        ("photos --size 16 16 --output x.zip --held-out taken.zip", "taken.zip is there already"),
        ("photos --size 16 16 --output x.zip --held-out ./x.zip", "are both x.zip; give two names"),
        (
            "photos --size 16 16 --output x.zip --held-out-share 0.1",
            "--held-out-share has no effect where no pictures are held out",
        ),
        ("photos --size 16 16 --output x.zip --held-out y.zip --held-out-share 1", "--held-out-share is 1.0"),
        ("photos --size 16 16 --output x.zip --held-out y.zip --held-out-share 0.01", "leaves one part empty"),
        ("photos --size 16 16 --output x.zip --held-out y.zip --seed -1", "--seed is -1"),
        ("photos --size 32 32 --output x.zip", "are smaller than the image size 32x32"),
        ("photos --size 0 16 --output x.zip", "image size 0x16 holds no pixels"),
        ("synthetic:shapes:2 --size 100000 100000 --output x.zip", "is more than the 89,478,485 pixels"),
        ("nowhere --size 16 16 --output x.zip", "there is no data at 'nowhere'"),
        ("photos --size 16 16 --output taken.zip/x.zip", "cannot write taken.zip/x.zip"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence_and_leaves_nothing(words, sentence, photos, tmp_path, capsys):
    (tmp_path / "taken.zip").write_bytes(b"precious")
    assert sentence in cli_error(capsys, ["prepare", *words.split()])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "taken.zip"]
    assert (tmp_path / "taken.zip").read_bytes() == b"precious"
    assert len(list(photos.rglob("*"))) == 22


def test_a_long_preparation_shows_how_far_it_is(photos, capsys, monkeypatch):
    monkeypatch.setattr("scalespace.reports.progress._DELAY", 0)
    main(["prepare", "photos", "--size", "16", "16", "--output", "x.zip"])
    assert "preparing x" in capsys.readouterr().err
    main(["prepare", "photos", "--size", "16", "16", "--output", "y.zip", "--quiet"])
    assert capsys.readouterr().err == ""
