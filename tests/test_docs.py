import argparse
import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from tests.documents import ALL_BLOCKS, PAGES, PROGRAMS, ROOT

import scalespace
from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler, cli
from scalespace.cli import main
from scalespace.commands import parsing
from scalespace.errors import UserError

DOCS = ROOT / "docs"
COST = DOCS / "how-to" / "cost.md"

SHELLS = [block for block in ALL_BLOCKS if block.language in ("shell", "bash")]
LINES = sorted({line for block in SHELLS for line in block.commands})
CODE = [block for block in ALL_BLOCKS if block.language == "python"]

_SCALESPACE = re.compile(
    r"^(?:srun |(?:torchrun|accelerate launch) .*?-m |python -m |srun python -m )?scalespace (.*)$"
)


def commands():
    """What follows the word scalespace in every command that a document shows."""
    found = [match[1] for line in LINES if (match := _SCALESPACE.match(line))]
    return sorted({" ".join(shlex.split(line)) for line in found if not line.startswith("-")})


def plan_commands():
    return [command for command in commands() if command.split()[0] == "plan"]


_BESIDE = ("peft", "onnxruntime")
"""What some blocks need that is not among the development dependencies."""


class _Parsed(BaseException):
    pass


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_understood_and_every_option_has_an_effect(command, monkeypatch, tmp_path):
    check = parsing.check_effects

    def stop_there(*arguments):
        try:
            check(*arguments)
        except UserError as error:
            # Which options have an effect may depend on the model.
            if not re.search("model .* does not exist", str(error)):
                raise
        raise _Parsed

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALESPACE_INCEPTION_WEIGHTS", "inception-2015-12-05.pt")
    monkeypatch.setattr(parsing, "check_effects", stop_there)
    with pytest.raises(_Parsed):
        main(command.split())


@pytest.mark.parametrize("line", [line for line in LINES if not _SCALESPACE.match(line)])
def test_other_commands_in_the_documents_are_there(line, monkeypatch):
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text())
    elif words[0] == "pip":
        (extra,) = re.findall(r"^scale-space-diffusion\[(\w+)\]$", words[-1])
        assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    elif words[0] == "export":
        assert re.fullmatch(r"[A-Z_]+=.*", words[1])
    elif words[:2] == ["python", "-m"] and words[2] != "pytest":
        parse = argparse.ArgumentParser.parse_args

        def stop_there(*arguments):
            parse(*arguments)
            raise _Parsed

        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_there)
        packages = {name: f"{name}.__main__" for name in ("tests.faults", "benchmarks.pretrained")}
        with pytest.raises(_Parsed):
            import_module(packages.get(words[2], words[2])).main()
    else:
        assert (ROOT / words[-1]).exists()


def test_modules_that_the_documents_tell_to_run_are_there():
    named = {name for page in PAGES for name in re.findall(r"`python -m (\w+(?:\.\w+)+)", page.read_text())}
    assert len(named) > 5
    places = {name: ROOT / name.replace(".", "/") for name in named}
    assert [
        n for n, at in places.items() if not at.with_suffix(".py").exists() and not (at / "__main__.py").exists()
    ] == []


@pytest.mark.parametrize("block", [block for block in ALL_BLOCKS if block.language not in ("shell", "python")], ids=str)
def test_other_blocks_hide_no_commands_and_are_what_they_say(block):
    if block.language == "bash":
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        assert block.commands
    elif block.language == "json":
        json.loads(block.text)
    else:
        assert block.language == ""
        assert not [
            line for line in block.text.splitlines() if line.lstrip("$ ").split()[:1] in [[name] for name in PROGRAMS]
        ]


def test_the_how_to_shows_every_command():
    named = {command.split()[0] for command in commands()}
    assert named == set(cli._COMMANDS)


@pytest.fixture
def a_trained_model(tmp_path, monkeypatch):
    # The documents take a model that was trained, and a small picture; any in their place show that their code runs.
    sizes = ((16, 16), (8, 8))
    network = FlexiUNet(sizes=sizes, base_channels=8, channel_multipliers=(1, 2))
    scheduler = ScaleSpaceScheduler(num_train_timesteps=60, sizes=sizes, change_points=(30,))
    ScaleSpacePipeline(network, scheduler).save_pretrained(tmp_path / "runs" / "photos" / "model")
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "small.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("a_trained_model")
@pytest.mark.parametrize("block", CODE, ids=str)
def test_python_in_the_documents_runs(block):
    missing = [name for name in _BESIDE if f"from {name} import" in block.text and find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed, and is not needed by anything else here")
    exec(compile(block.text, str(block.page), "exec"), {})


@pytest.mark.parametrize("command", plan_commands())
def test_plan_commands_in_the_documents_run(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = {"size": [32, 32], "target_size": [32, 32], "gflops_per_second": 100}
    (tmp_path / "bench.json").write_text(json.dumps({"measured": "train", "paths": [path]}))
    (tmp_path / "mymodule.py").write_text("from scalespace import Resizing\n\nclass Mist(Resizing):\n    pass\n")
    main(command.replace("photos/", "synthetic:shapes:64").split())
    assert "GFLOPs on average" in capsys.readouterr().out


def test_links_between_documents_lead_somewhere():
    assert len(PAGES) > 25
    lost = []
    for page in PAGES:
        for target in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)[)\"]", page.read_text()):
            name, _, anchor = target.partition("#")
            if not target.startswith("http"):
                path = (page.parent / name).resolve() if name else page
                if not path.exists() or (anchor and anchor not in _anchors(path.read_text())):
                    lost.append(f"{page.name}: {target}")
    assert lost == []


def _anchors(text: str) -> set[str]:
    # As GitHub names headings: lower case, words joined by hyphens, other marks left out.
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_how_to_shows_what_plan_prints(capsys):
    main(["plan", "--preset", "celeba64-4l"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    shown = [line.split() for line in COST.read_text().splitlines()]
    assert [line for line in printed if line not in shown] == []


def _table(text: str, heading: str) -> list[list[str]]:
    section = text.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [rows[0], *rows[2:]]


def test_the_results_in_the_readme_are_those_of_the_page_that_it_links():
    quality = (ROOT / "docs" / "results" / "quality.md").read_text()
    page = [line.strip("| ").split(" | ") for line in quality.partition("\n## ")[0].splitlines() if line[:2] == "| "]
    known = {row[0]: dict(zip(page[0], row, strict=False)) for row in page}
    head, *rows = _table((ROOT / "README.md").read_text(), "## Results")
    assert len(rows) == 3
    for row in rows:
        assert row == [known[row[0]][column] for column in head]


def test_the_readme_shows_pictures_growing_and_drawn_a_plot_and_every_room():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"docs/results/([a-z-]+\.png)", text)
    assert shown == ["shipped-growth.png", "shipped-grid.png", "scaling.png"]
    assert len(re.findall(r"<img|!\[", text)) == len(shown)
    package = ROOT / "src" / "scalespace"
    rooms = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in package.glob("[a-z]*.py")} - {"cli.py"}
    shown = [
        name for row in _table(text, "## Where things are")[1:] for name in re.findall(r"\[([^]]+)\]\(src/", row[0])
    ]
    assert sorted(shown) == sorted(rooms | modules)


def _names(path: Path) -> set[str]:
    """Everything that a Python file defines at its top and in its classes, as NAME and as CLASS.NAME."""
    found: set[str] = set()
    bodies = [("", ast.parse(path.read_text()).body)]
    for prefix, body in bodies:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names = [node.name]
            else:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                inner = [part for target in targets if target is not None for part in ast.walk(target)]
                names = [part.id for part in inner if isinstance(part, ast.Name)]
            found |= {prefix + name for name in names} | set(names)
            if isinstance(node, ast.ClassDef):
                bodies.append((f"{node.name}.", node.body))
    return found


def test_the_reading_path_names_what_is_there():
    # A name belongs to the file that was linked last before it, or is a public one.
    page = ROOT / "docs" / "reading.md"
    steps = re.findall(r"^\d+\. \[.*?\]\((\S+)\)", page.read_text(), re.MULTILINE)
    assert len(steps) == 10
    lost, checked, here = [], 0, None
    for target, name in re.findall(r"\]\(([^)\s#]+)[^)]*\)|`([^`]+)`", page.read_text()):
        if target:
            here = page.parent / target
        elif here is not None and here.suffix == ".py":
            checked += 1
            if name not in {*_names(here), *scalespace.__all__}:
                lost.append(f"{name} in {here.name}")
    assert checked > 40
    assert lost == []
