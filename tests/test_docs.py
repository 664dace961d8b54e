import re
from pathlib import Path

import pytest

from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler
from scalespace.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "howto.md"]


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def plan_commands():
    lines = [line.split("#")[0].split() for page in PAGES for line in page.read_text().splitlines()]
    return sorted({" ".join(words[1:]) for words in lines if words[:2] == ["scalespace", "plan"]})


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
    main(command.replace("photos/", "synthetic:shapes:64").split())
    assert "GFLOPs on average" in capsys.readouterr().out


def test_links_between_documents_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(pages) > 5
    lost = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
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


def test_the_readme_shows_what_plan_prints(capsys):
    main(["plan", "--preset", "celeba64-4l"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    shown = [line.split() for line in (ROOT / "README.md").read_text().splitlines()]
    assert [line for line in printed if line not in shown] == []
