"""docs/diffusers.md: every test that it names is there, every row says one of two things, and the counts are right."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "diffusers.md").read_text()
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
NAMED = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", PAGE)


def _rows(section: str) -> list[tuple[str, str]]:
    lines = [line.strip("| ").split(" | ", 1) for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    return [(name, here) for name, here in lines if name not in ("test", "---")]


def test_every_test_that_is_named_is_there_and_is_not_skipped():
    assert len(NAMED) > 100
    found = {}
    for file in {file for _, file in NAMED}:
        tree = ast.parse((ROOT / file).read_text())
        found[file] = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) and "skip" not in ast.dump(node)
        }
    assert sorted(f"{file}::{name}" for name, file in NAMED if name not in found[file]) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_says_which_test_it_passes_or_why_it_has_no_meaning(section: str):
    for name, here in _rows(section):
        if here.startswith("passed: "):
            assert re.match(r"passed: \[test_\w+\]", here), name
        else:
            assert re.match(r"no meaning: \w+ \w+", here), name
            assert "[test_" not in here, name


@pytest.mark.parametrize("section", SECTIONS)
def test_no_test_is_listed_twice_under_one_heading(section: str):
    for group in SECTIONS[section].split("\n### ")[1:]:
        names = re.findall(r"^\| `(test_\w+)`", group, re.MULTILINE)
        assert len(names) == len(set(names))


def test_the_counts_are_those_of_the_rows():
    for section in SECTIONS:
        here = [said.partition(":")[0] for _, said in _rows(section)]
        counts = here.count("passed"), here.count("no meaning"), len(here)
        assert f"\n| {section.lower()} | {' | '.join(map(str, counts))} |\n" in PAGE
