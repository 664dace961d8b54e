"""``scalespace serve`` at the command line: what it refuses, what it prints, and how it ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.serve.served import WISH
from tests.small_models import cli_error, small_network, small_pipeline, small_scheduler

from scalespace import ScaleSpacePipeline
from scalespace.cli import main
from scalespace.serve.server import PageServer, address_of, listening


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "runs" / "small" / "model"
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def never_begun(monkeypatch):
    """Everything but the serving itself."""
    monkeypatch.setattr(PageServer, "run", lambda self, sockets: None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--host here.example", '--host is "here.example"; give 127.0.0.1 for this machine alone, '),
        ("--host 1.2.3", '--host is "1.2.3"; give 127.0.0.1'),
        ("--host 203.0.113.7", "of 203.0.113.7 cannot be listened at ("),
        ("--port -1", "--port is -1; give a number from 1 to 65535, or 0 for any that is free"),
        ("--port 65536", "--port is 65536; give a number"),
        ("--port http", "--port cannot be read ("),
        ("--max-steps 1", "--max-steps is 1; give a number from 2 to 10000"),
        ("--max-pictures 0", "--max-pictures is 0; give a number from 1 to 64"),
        ("--max-waiting -1", "--max-waiting is -1; give a number from 0 to 100"),
        ("nowhere --port 0", "model nowhere does not exist; give the model folder"),
        ("--share", "Unrecognized options: --share ("),
    ],
)
def test_bad_options_are_one_sentence(words: str, sentence: str, capsys, never_begun):
    assert sentence in cli_error(capsys, ["serve", *words.split()])


def test_a_port_in_use_is_one_sentence_before_the_model_is_loaded(capsys):
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        error = cli_error(capsys, ["serve", "nowhere", "--port", str(port)])
    assert error == (
        f"scalespace: error: port {port} of 127.0.0.1 is in use; end what uses it, or give another --port\n"
    )


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_one_sentence_names_it(package: str, capsys, monkeypatch):
    for name in ("application", "server"):
        monkeypatch.delitem(sys.modules, f"scalespace.serve.{name}")
    # Python says of what has None here that there is no such module.
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    assert cli_error(capsys, ["serve"]) == (
        "scalespace: error: the page needs two more packages; run pip install 'scale-space-diffusion[serve]'\n"
    )


def test_a_model_that_only_enlarges_is_refused(tmp_path, capsys, never_begun):
    ScaleSpacePipeline(small_network(condition_size=(4, 4)), small_scheduler()).save_pretrained(tmp_path / "second")
    error = cli_error(capsys, ["serve", str(tmp_path / "second"), "--port", "0"])
    assert "the model only enlarges the small pictures of another one" in error


def test_more_pictures_than_the_memory_holds_are_refused(model, capsys, monkeypatch):
    monkeypatch.setattr("scalespace.pipelines.sampling.call_activations", lambda network: 10**15)
    error = cli_error(capsys, ["serve", str(model), "--port", "0"])
    assert "drawing 16 pictures together needs at least" in error
    assert error.endswith("lower --max-pictures\n")


def test_the_page_is_named_after_the_run_and_not_after_its_place(model, monkeypatch):
    names = []
    monkeypatch.setattr("scalespace.serve.server.serve", lambda pipeline, name, *_: names.append(name))
    main(["serve", str(model), "--port", "0", "--quiet"])
    assert names == ["small"]


@pytest.mark.parametrize(
    ("host", "start"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "http://127.0.0.1:"),
        ("0.0.0.0", f"http://{socket.gethostname()}:"),
    ],
)
def test_the_address_can_be_opened(host: str, start: str):
    with listening(host, 0) as door:
        assert address_of(door) == f"{start}{door.getsockname()[1]}/"
        assert (door.getsockname()[0] == "127.0.0.1") == (host != "0.0.0.0")


def test_ctrl_c_ends_it_cleanly_also_while_something_is_drawn(model, tmp_path):
    program = "from scalespace.cli import main; main()"
    words = ["serve", str(model), "--port", "0", "--json", "--quiet", "--max-steps", "20"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stderr is not None
            told = json.loads(run.stdout.readline())
            assert told["model"] == str(model)
            host, port = told["address"].removeprefix("http://").rstrip("/").split(":")
            assert host == "127.0.0.1"
            with closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
                wish = WISH | {"class": None, "solver": "ancestral", "steps": 20, "pictures": 16}
                connection.request("POST", "/draw", json.dumps(wish), {"content-type": "application/json"})
                answer = connection.getresponse()
                assert json.loads(answer.readline())["state"] == "waiting"
                run.send_signal(signal.SIGINT)
                answer.read()
            assert run.wait(60) == 0
            assert run.stderr.read() == ""
        finally:
            run.kill()
    assert list(temporary.iterdir()) == []
