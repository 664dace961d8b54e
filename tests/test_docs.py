import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import tyro

import scalespace
from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler, cli
from scalespace.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "howto.md"]


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def plan_commands():
    lines = [line.split("#")[0].split() for page in PAGES for line in page.read_text().splitlines()]
    return sorted({" ".join(words[1:]) for words in lines if words[:2] == ["scalespace", "plan"]})


def commands():
    """Every command that a document shows, with the lines that a backslash joins, and without comments and `> FILE`."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in pages)
    lines = re.findall(r"^ {4}(?:\w+=\S+ )*scalespace (.*)$", text, re.MULTILINE)
    return sorted({" ".join(shlex.split(line.split(" > ")[0], comments=True)) for line in lines})


class _Parsed(BaseException):
    pass


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_understood(command, monkeypatch):
    parse = tyro.cli

    def stop_there(*arguments, **options):
        parse(*arguments, **options)
        raise _Parsed

    monkeypatch.setattr(tyro, "cli", stop_there)
    with pytest.raises(_Parsed):
        main(command.split())


def test_the_how_to_shows_every_command():
    named = {command.split()[0] for command in commands()}
    assert named == set(cli._COMMANDS)


@pytest.fixture
def a_trained_model(tmp_path, monkeypatch):
    # The documents sample from the demo's model; any model in its place shows that their code runs.
    sizes = ((16, 16), (8, 8))
    network = FlexiUNet(sizes=sizes, base_channels=8, channel_multipliers=(1, 2))
    scheduler = ScaleSpaceScheduler(num_train_timesteps=60, sizes=sizes, change_points=(30,))
    ScaleSpacePipeline(network, scheduler).save_pretrained(tmp_path / "runs" / "demo" / "model")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("a_trained_model")
@pytest.mark.parametrize(
    "code", [block for page in PAGES for block in python_blocks(page)], ids=lambda code: code.split("\n")[2][:40]
)
def test_python_in_the_documents_runs(code):
    exec(compile(code, "document", "exec"), {})


@pytest.mark.parametrize("command", plan_commands())
def test_plan_commands_in_the_documents_run(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = {"size": [32, 32], "target_size": [32, 32], "gflops_per_second": 100}
    (tmp_path / "bench.json").write_text(json.dumps({"measured": "train", "paths": [path]}))
    main(command.replace("photos/", "synthetic:shapes:64").split())
    assert "GFLOPs on average" in capsys.readouterr().out


def test_links_between_documents_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(pages) > 5
    lost = []
    for page in pages:
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
    shown = [line.split() for line in (ROOT / "docs" / "howto.md").read_text().splitlines()]
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


def test_the_readme_shows_one_picture_and_every_room():
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"<img|!\[", text)) == 1
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
