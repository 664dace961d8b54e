import ast
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open

import scalespace
from scalespace.data.sources.decoding import reason
from scalespace.data.sources.opening import open_source
from scalespace.errors import cause
from scalespace.files import why

SOURCE = Path(scalespace.__file__).parent
QUOTING = {
    *("cause", "reason", "why", "_no_process", "_unreadable", "unreadable", "isinstance"),
    *("memory_ran_out", "_unexpected", "_refusal", "_is_ours"),
    # Of a socket, without what is added to it; and of code of the user's own, who wants to know what it said.
    *("_why", "_failed"),
}
"""Functions that may be given another error; those that make text of it end in ``cause``."""


def _raised(function, *arguments, **options):
    # Called from a module of the package, whose frame is the last where compiled code raises.
    names = {"__name__": "scalespace.somewhere"}
    exec("def call(function, arguments, options):\n    function(*arguments, **options)", names)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        names["call"](function, arguments, options)
    return raised.value


def _pickle_with_code(path):
    class Anything:
        def __reduce__(self):
            return print, ("run",)

    torch.save(Anything(), path)
    np.save(path.with_suffix(".npy"), np.array([{}], dtype=object))
    path.with_suffix(".raw").write_bytes(pickle.dumps({}))
    return path


@pytest.mark.parametrize("say", [cause, reason, lambda error: why(error, Path("/tmp/anything"))])
def test_advice_of_other_libraries_is_never_passed_on(say, tmp_path):
    path = _pickle_with_code(tmp_path / "pickle.pt")
    errors = [
        _raised(torch.load, path, weights_only=True),
        _raised(np.load, path.with_suffix(".npy")),
        _raised(np.load, path.with_suffix(".raw")),
        _raised(torch.jit.load, path),
    ]
    # They do advise, so that this test would notice a library that no longer does.
    assert "weights_only" in str(errors[0])
    assert "allow_pickle" in str(errors[1])
    for error in errors:
        assert say(error) == type(error).__name__


def test_a_sentence_goes_on_after_what_it_quotes():
    # Pillow ends its warning of a picture that is too large with a full stop.
    for said in ("Image size exceeds the limit.", "Image size exceeds the limit?", "Image size exceeds the limit"):
        assert cause(ValueError(said)) == "Image size exceeds the limit"


def test_what_states_a_fact_is_quoted_in_one_line(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 50)
    damaged = _raised(safe_open, tmp_path / "cut.safetensors", framework="pt")
    assert isinstance(damaged, SafetensorError)
    assert "header" in cause(damaged)
    assert cause(_raised(json.loads, '{"a"')).startswith("Expecting ':' delimiter")
    assert cause(_raised((tmp_path / "nothing").read_text)) == "No such file or directory"
    assert cause(_raised(open_source, "nothing.zip")).startswith("there is no data at 'nothing.zip'; give a folder")
    assert cause(_raised(int, "two\nlines")) == r"invalid literal for int() with base 10: 'two\nlines'"
    assert cause(ValueError("of nowhere\n  and two lines")) == "of nowhere and two lines"
    assert cause(ValueError()) == "ValueError"


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_errors_are_quoted_through_cause_alone(file):
    for handler in ast.walk(ast.parse(file.read_text())):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        allowed: set[ast.AST] = set()
        for node in ast.walk(handler):
            if isinstance(node, ast.Raise):
                allowed.add(node.cause)
            elif isinstance(node, ast.Assign):
                # Kept to be raised from, outside of the handler.
                allowed.add(node.value)
            elif isinstance(node, ast.Attribute) and node.attr in ("strerror", "errno", "filename", "name", "lines"):
                allowed.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                of_users = isinstance(handler.type, ast.Name) and handler.type.id in ("UserError", "Stopped")
                if node.func.id in QUOTING or (of_users and node.func.id == "str"):
                    allowed.update(node.args)
        for node in ast.walk(handler):
            if isinstance(node, ast.Name) and node.id == handler.name:
                assert node in allowed, f"{file.name}:{node.lineno} passes on what another library says; use cause()"
