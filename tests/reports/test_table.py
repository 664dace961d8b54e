"""Tables, figures and where they come from."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import scalespace
from scalespace.errors import UserError
from scalespace.reports.figure import new_figure, save_figure
from scalespace.reports.provenance import Provenance, _commit, provenance
from scalespace.reports.table import Column, Table

SOURCE = Provenance("scalespace reproduce small --output there", "0.1.0", "0123456789abcdef", True, 7)
TABLE = Table(
    "small",
    "A small table",
    (Column("method", "method"), Column("value", "value (GFLOPs)", ".2f"), Column("change", "change", "+.1%")),
    (("DDPM", 1 / 3, None), ("SSD", 12.0, -0.25)),
    ("A multiply-add counts as two.",),
    SOURCE,
)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_people_read_it_as_markdown_and_as_it_is():
    assert TABLE.as_markdown() == (
        "# A small table\n"
        "\n"
        "| method | value (GFLOPs) | change |\n"
        "| ------ | -------------: | -----: |\n"
        "| DDPM   |           0.33 |        |\n"
        "| SSD    |          12.00 | -25.0% |\n"
        "\n"
        "- A multiply-add counts as two.\n"
        "\n"
        "`scalespace reproduce small --output there (commit 0123456 with changes, version 0.1.0, seed 7)`"
    )


def test_programs_read_unrounded_numbers_and_where_they_come_from():
    read = json.loads(TABLE.as_json())
    assert read["rows"] == [
        {"method": "DDPM", "value": 1 / 3, "change": None},
        {"method": "SSD", "value": 12.0, "change": -0.25},
    ]
    assert read["columns"] == {"method": "method", "value": "value (GFLOPs)", "change": "change"}
    assert read["provenance"] == {
        "command": "scalespace reproduce small --output there",
        "version": "0.1.0",
        "commit": "0123456789abcdef",
        "changed": True,
        "seed": 7,
    }
    assert (read["name"], read["title"], read["notes"]) == ("small", "A small table", ["A multiply-add counts as two."])


def test_both_are_written_in_the_place_of_older_ones(tmp_path):
    folder = tmp_path / "new" / "tables"
    TABLE.write(folder)
    page, numbers = TABLE.write(folder)
    assert page == folder / "small.md"
    assert page.read_text() == TABLE.as_markdown() + "\n"
    assert numbers == folder / "small.json"
    assert numbers.read_text() == TABLE.as_json() + "\n"
    assert sorted(path.name for path in folder.iterdir()) == ["small.json", "small.md"]


def test_a_folder_that_cannot_be_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*small\.md"):
        TABLE.write(tmp_path / "file")


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="row 1 of table small has 2 cells for 3 columns"):
        replace(TABLE, rows=(("DDPM", 1.0, None), ("SSD", 2.0)))


def test_an_empty_table_has_its_headings():
    assert "| method | value (GFLOPs) | change |\n| -----: |" in replace(TABLE, rows=()).as_markdown()


# Where it comes from


def test_a_caption_says_what_is_known():
    plain = Provenance("a command", "0.1.0", None, False, None)
    assert plain.caption() == "a command (version 0.1.0, nothing is random)"
    assert replace(plain, seed=0).caption() == "a command (version 0.1.0, seed 0)"
    assert replace(plain, commit="0123456789").caption() == (
        "a command (commit 0123456, version 0.1.0, nothing is random)"
    )


def test_it_is_the_package_that_runs():
    found = provenance("a command", seed=3)
    assert (found.command, found.version, found.seed) == ("a command", scalespace.__version__, 3)
    assert (found.commit, found.changed) == _commit(Path(scalespace.__file__).parent)


@needs_git
def test_the_commit_is_that_of_the_checkout_and_changes_are_told(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git("init")
    assert _commit(package) == (None, False)
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert _commit(package) == (commit, False)
    (tmp_path / "notes.txt").write_text("no part of the package")
    assert _commit(package) == (commit, False)
    (package / "more.py").write_text("")
    assert _commit(package) == (commit, True)
    # Installed into somebody's repository, it is not that repository's.
    (tmp_path / "venv" / "package").mkdir(parents=True)
    (tmp_path / "venv" / "package" / "__init__.py").write_text("")
    assert _commit(tmp_path / "venv" / "package") == (None, False)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance("a command").commit is None


# Figures


def draw(path: Path, caption: str = "a command") -> Path:
    figure = new_figure(4, 3)
    figure.subplots().plot([0, 1], [1, 0], label="a line")
    save_figure(figure, path, "a title", caption)
    return path


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "jpg"])
def test_the_same_figure_is_the_same_file(ending: str, tmp_path):
    files = [draw(tmp_path / f"{name}.{ending}").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_figure_says_in_its_file_and_below_itself_where_it_comes_from(tmp_path):
    caption = "scalespace analyze " + "a-long-option " * 12 + "(commit 0123456)"
    with Image.open(draw(tmp_path / "a.png", caption)) as picture:
        assert (picture.info["Title"], picture.info["Description"]) == ("a title", caption)
    drawing = draw(tmp_path / "a.svg", caption).read_text()
    assert f"<dc:description>{caption}</dc:description>" in drawing
    figure = new_figure(4, 3)
    save_figure(figure, tmp_path / "b.png", "a title", caption)
    lines = figure.get_supxlabel().splitlines()
    assert len(lines) > 1
    assert " ".join(lines).split() == caption.split()


def test_an_ending_that_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        draw(tmp_path / "a.nothing")
    assert list(tmp_path.iterdir()) == []
