import json

import pytest
from tests.small_models import cli_error

from scalespace.cli import main
from scalespace.paper import reproduce
from scalespace.paper.request import Request
from scalespace.reports.table import Column, Table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def requests(monkeypatch) -> list[Request]:
    """A table that costs nothing; what it was asked for."""
    asked: list[Request] = []

    def small(request: Request) -> Table:
        asked.append(request)
        return Table("small", "A small table", (Column("value", "value", ".1f"),), ((0.25,),), (), request.provenance)

    monkeypatch.setitem(reproduce.TABLES, "small", small)
    return asked


def test_reproduce_prints_and_writes_a_table_with_where_it_comes_from(requests, tmp_path, capsys):
    main(["reproduce", "small", "--output", "my tables"])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "| value |\n| ----: |\n|   0.2 |" in printed.out
    assert (tmp_path / "my tables" / "small.md").read_text() == printed.out
    assert requests[0].provenance.command == "scalespace reproduce small --output 'my tables'"
    assert requests[0].progress

    main(["reproduce", "small", "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == [{"value": 0.25}]
    assert found["provenance"]["seed"] is None
    assert not requests[1].progress
    kept = json.loads((tmp_path / "my tables" / "small.json").read_text())
    assert kept["rows"] == found["rows"]


def test_a_table_that_is_not_there_is_one_sentence(capsys):
    assert 'there is no table "gflop"; did you mean gflops?' in cli_error(capsys, ["reproduce", "gflop"])


def test_a_folder_that_cannot_be_written_is_one_sentence(requests, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot write" in cli_error(capsys, ["reproduce", "small", "--output", "file"])
    assert not requests
