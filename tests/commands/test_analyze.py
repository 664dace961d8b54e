import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.picture_files import flat, picture
from tests.small_models import SMALL_OPTIONS, cli_error, given_once

from scalespace.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def pictures(folder: Path, make: Callable[[int], Image.Image], count: int = 4) -> Path:
    folder.mkdir()
    for index in range(count):
        make(index).save(folder / f"{index:04}.png")
    return folder


def test_analyze_prints_tables_and_writes_a_figure(tmp_path, capsys):
    words = ["analyze", "synthetic:shapes:16", *SMALL_OPTIONS]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == 16
    assert len(found["modes"]) == len(found["pixels"]) == 20
    assert found["provenance"]["command"].startswith("scalespace analyze synthetic:shapes:16 --process.image-size 8 8")
    (change,) = found["plan"]["octaves"]
    by_data = next(row for row in found["schedules"] if row["name"] == "by the data, 0.01")
    assert by_data["changes"] == [change["change"]]

    main([*words, "--output", str(tmp_path / "new" / "folder")])
    output = capsys.readouterr()
    assert output.err == ""
    assert "synthetic:shapes:16 at 8x8, 16 pictures" in output.out
    assert f"compute saved       {found['plan']['saved']:.1%} of Equal" in output.out
    assert "Modes is the share of the DCT coefficients f with SNR_t S(f) >= 1" in output.out
    row = next(line for line in output.out.splitlines() if line.startswith("| by the data"))
    assert [cell.strip() for cell in row.split("|")][2] == str(change["change"])
    assert f"figure              {tmp_path / 'new' / 'folder' / 'information.png'}" in output.out
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["information.json", "information.png", "information.svg"]


def test_the_preset_is_what_other_options_override(capsys):
    main(["analyze", "synthetic:shapes:8", "--preset", "tiny", "--process.levels", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [octave["name"] for octave in found["octaves"]] == ["32x32 to 16x16", "16x16 and below"]


def test_a_larger_tolerance_leaves_levels_earlier(capsys):
    changes = []
    for tolerance in ("0.01", "0.03"):
        main(["analyze", "synthetic:shapes:16", *SMALL_OPTIONS, "--process.tolerance", tolerance, "--json"])
        changes.append(json.loads(capsys.readouterr().out)["plan"]["octaves"][0]["change"])
    assert changes[1] < changes[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere", "there is no data at 'nowhere'"),
        ("synthetic:nothing", "there is no synthetic source"),
        ("DATA --process.tolerance 0", "tolerance is 0.0; give a mode-SNR above 0 and below 1"),
        ("DATA --process.tolerance 1e-9", "the octave from 8x8 to 4x4 never sinks below the tolerance 1e-09"),
        ("DATA --process.image-size 32 32", "smaller than the image size 32x32"),
        ("DATA --process.levels 5", "leave 0 pixels at the smallest"),
        ("DATA --network.attention-heads 3", "attention_heads 3 does not divide"),
        ("DATA --preset celeba", 'there is no preset "celeba"'),
        ("FLAT", "measure it on more pictures, and on such as are not flat or enlarged"),
        ("FLAT --process.levels 1", "not flat or enlarged"),
        ("DATA --output DATA/0000.png", "cannot write"),
    ],
)
def test_what_cannot_be_analyzed_is_one_sentence(words: str, sentence: str, tmp_path, capsys):
    data = pictures(tmp_path / "data", picture)
    grey = pictures(tmp_path / "flat", lambda index: flat((60 * index, 20, 9)))
    more = [word.replace("DATA", str(data)).replace("FLAT", str(grey)) for word in words.split()]
    assert sentence in cli_error(capsys, given_once("analyze", *more[:1], *SMALL_OPTIONS, *more[1:], "--quiet"))


def test_a_figure_without_matplotlib_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["analyze", "synthetic:shapes:16", *SMALL_OPTIONS]
    main([*words, "--quiet"])
    error = cli_error(capsys, [*words, "--output", str(tmp_path / "new")])
    assert "matplotlib is not installed; run pip install scale-space-diffusion[plot], or leave --output out" in error


@pytest.mark.parametrize("command", ["analyze DATA", "plan --process.tolerance 0.03 --data DATA"])
def test_what_was_found_and_done_to_pictures_is_told_and_json_stays_json(command, tmp_path, capsys):
    data = pictures(tmp_path / "data", lambda index: picture(index, (8, 8)), 100)
    (data / "0007.png").write_bytes(b"")
    (data / "film.gif").write_bytes(b"GIF89a")
    found = "100 pictures; 1 file was not read: 1 .gif\n1 of 100 pictures could not be decoded and was skipped\n\n"
    words = [*command.replace("DATA", str(data)).split(), *SMALL_OPTIONS]
    main(words)
    assert capsys.readouterr().out.startswith(found)
    main([*words, "--json"])
    printed = capsys.readouterr()
    assert printed.err == found
    json.loads(printed.out)
