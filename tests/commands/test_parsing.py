import re
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from tests.small_models import cli_error, small_pipeline

from scalespace.cli import _COMMANDS, main
from scalespace.commands import module_of, parsing
from scalespace.errors import printable
from scalespace.reports.figure import new_figure, save_figure

# Enough for a command to be read; none of these is there.
REQUIRED: dict[str, list[str]] = {
    "demo": [],
    "plan": ["--data", "nothing"],
    "prepare": ["nothing", "--size", "8", "8", "--output", "new"],
    "train": ["--data", "nothing", "--output-dir", "new"],
    "sample": ["nothing", "--output", "new"],
    "evaluate": ["nothing", "nothing"],
    "analyze": ["nothing"],
    "reproduce": ["main", "--data", "nothing"],
    "bench": ["train"],
    "upscale": ["nothing", "--output", "new"],
    "vary": ["nothing", "--output", "new"],
    "inpaint": ["nothing", "nothing", "--output", "new"],
    "interpolate": ["nothing", "nothing", "--output", "new"],
    "restore": ["nothing", "--output", "new"],
    "average": ["nothing", "--output", "new"],
    "convert": ["nothing", "new"],
    "accelerate": ["nothing", "--levels", "1", "--output", "new"],
}


def _options(command: str) -> dict[str, object]:
    return get_type_hints(import_module(module_of(command)).Arguments, include_extras=True)


def _written() -> list[tuple[str, str]]:
    return [
        (command, name)
        for command in _COMMANDS
        for name, hint in _options(command).items()
        if any(parsing._marks(hint))
    ]


def test_every_option_that_sounds_like_an_output_is_marked_as_one():
    sounding = [
        (command, name)
        for command in _COMMANDS
        for name, hint in _options(command).items()
        if re.match("output|plot|save|held_out|preview", name) and hint not in (bool, float | None)
    ]
    assert sounding == _written()
    assert len(sounding) > 7


@pytest.mark.parametrize(("command", "name"), _written())
def test_an_output_that_cannot_be_written_is_told_before_any_input_is_opened(
    command: str, name: str, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    words = [command, *REQUIRED[command], f"--{name.replace('_', '-')}", "file/below.png"]
    if "Positional" in repr(_options(command)[name]):
        words = [command, *("file/below.png" if word == "new" else word for word in REQUIRED[command])]
    error = cli_error(capsys, words)
    assert error.startswith("scalespace: error: cannot write file/below.png")
    assert "(Not a directory)" in error
    assert "nothing" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["figure", "figure.txt", "figure.pgf"])
def test_a_figure_whose_kind_is_not_told_is_refused_and_leaves_nothing(name: str, tmp_path, capsys):
    error = cli_error(capsys, ["plan", "--data", "nothing", "--plot", str(tmp_path / name)])
    assert f"{name} cannot be drawn; name it .png, .svg or .pdf" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("train --output-dir= --data x", "output_dir"),
        ("train --output-dir x --data=", "data"),
        ("sample x --output=", "output"),
        ("sample x --output y --upsample=", "upsample"),
        ("sample x --output y --class-label=", "class_label"),
        ("evaluate x y --metrics=", "metrics"),
        ("evaluate x y --save-statistics=", "save_statistics"),
        ("analyze x --output=", "output"),
        ("reproduce main --heldout=", "heldout"),
        ("plan --plot=", "plot"),
    ],
)
def test_empty_words_are_refused(words: str, name: str, capsys):
    assert f"error: {name} is empty; give a value" in cli_error(capsys, words.split())


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("plan --process.beta-start=VALUE", "process.beta_start"),
        ("plan --network.dropout=VALUE", "network.dropout"),
        ("plan --tolerance=VALUE --data x", "tolerance"),
        ("analyze x --sigma-data=VALUE", "sigma_data"),
        ("train --data x --output-dir y --change-share=VALUE", "change_share"),
        ("sample x --output y --eta=VALUE", "eta"),
        ("evaluate x y --eta=VALUE", "eta"),
        ("prepare x --output y --size 8 8 --held-out z --held-out-share=VALUE", "held_out_share"),
        ("reproduce main --tflops=VALUE", "tflops"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_whatever_the_command(words: str, name: str, value: str, capsys):
    error = cli_error(capsys, words.replace("VALUE", value).split())
    assert f"error: {name} is {value}; give a finite number" in error


@pytest.mark.parametrize("value", ["9" * 400, "-" + "9" * 400, "1" + "0" * 13])
@pytest.mark.parametrize(
    "words",
    [
        "plan --process.timesteps",
        "plan --process.image-size 8",
        "plan --process.sizes 8 8 4",
        "plan --network.channel-multipliers 1",
        "train --data x --output-dir y --seed",
        "sample x --output y --num-images",
        "evaluate x y --neighbours",
        "prepare x --output y --size 8",
        "reproduce main --seed",
    ],
)
def test_an_integer_out_of_all_proportion_is_refused_whatever_the_command(words: str, value: str, capsys):
    error = cli_error(capsys, [*words.split(), value])
    assert "is out of all proportion; give a number between -1000000000000 and 1000000000000" in error
    assert value not in error


def test_very_long_words_are_cut_in_errors(capsys):
    error = cli_error(capsys, ["plan", "--preset", "x" * 1_000_000])
    assert len(error) < 2100
    assert error.startswith('scalespace: error: there is no preset "xxx')
    assert "xxx ... xxx" in error
    assert error.count("did you mean") == 1


def test_names_never_move_the_terminal_nor_break_the_line(tmp_path, capsys):
    name = "bell\a clear\x1b[2J\nnext\udcff"
    error = cli_error(capsys, ["analyze", str(tmp_path / name)])
    assert r"bell\x07 clear\x1b[2J\nnext\udcff" in error

    main(["prepare", "synthetic:shapes:4", "--size", "8", "8", "--output", str(tmp_path / "x\x1b[2J\udcff")])
    assert r"x\x1b[2J\udcff" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a b", "ä 猫 → é", "$_^%"])
def test_ordinary_letters_are_printed_as_they_are(text: str):
    assert printable(text) == text


@pytest.mark.parametrize("text", ["a$b$ $\\frac$", "\udcff", "\x1b[2J", "_^{"])
@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_figures_take_any_name_as_their_title(text: str, ending: str, tmp_path):
    save_figure(new_figure(2, 2), tmp_path / f"figure{ending}", text, text)
    assert (tmp_path / f"figure{ending}").stat().st_size > 0


def test_a_closed_output_is_no_error(monkeypatch, capsys):
    # As of scalespace plan >&-.
    monkeypatch.setattr(sys, "stdout", None)
    main(["--version"])
    assert capsys.readouterr().err == ""


def test_memory_that_runs_out_in_a_system_call_is_no_matter_of_paths(monkeypatch, capsys):
    def fail(words):
        raise OSError(12, "Cannot allocate memory", "photos")

    monkeypatch.setattr("scalespace.commands.plan.run", fail)
    assert "the memory ran out" in cli_error(capsys, ["plan"])


def test_a_user_who_is_not_there_is_no_home(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_pipeline().save_pretrained(Path("~nobodyhere"))
    assert "there is no data at '~nobodythere/x'" in cli_error(
        capsys, ["evaluate", "~nobodythere/x", "synthetic:shapes:4"]
    )
    assert "there is no data at" in cli_error(
        capsys, ["prepare", "~nobodythere/x", "--size", "8", "8", "--output", "~nobodythere/y"]
    )
