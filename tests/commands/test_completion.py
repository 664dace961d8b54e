import re
import subprocess

import pytest
from tests.small_models import cli_error

from scalespace import cli
from scalespace.cli import main

ASK = 'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tyro_scalespace; echo "${COMPREPLY[*]}"; }'


@pytest.fixture(scope="module")
def scripts():
    printed = {}
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch:
            lines = []
            patch.setattr("builtins.print", lambda *words, lines=lines, **_: lines.extend(words))
            main(["--print-completion", shell])
            printed[shell] = "\n".join(lines)
    return printed


def test_bash_completes_commands_options_and_values(scripts):
    questions = {
        "scalespace ana": {"analyze"},
        "scalespace sample --guidance-s": {"--guidance-scale"},
        "scalespace train --process.resolution ''": {"auto", "convex", "equal", "sigmoid", "tanh"},
        "scalespace train --init-f": {"--init-from"},
    }
    program = "\n".join([scripts["bash"], ASK, *(f"ask {question}" for question in questions)])
    said = subprocess.run(["bash"], input=program, text=True, capture_output=True, check=True).stdout.splitlines()
    assert [set(line.split()) for line in said] == list(questions.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_completed(shell, scripts):
    assert {name for name in cli._COMMANDS if re.search(rf"'{name}': {{", scripts[shell])} == set(cli._COMMANDS)


@pytest.mark.parametrize(("words", "given"), [("", "no shell"), ("tcl", '"tcl"'), ("bash zsh", '"bash zsh"')])
def test_another_shell_is_refused_in_a_sentence(words, given, capsys):
    error = cli_error(capsys, ["--print-completion", *words.split()])
    assert f"there is no completion for {given}; name one of bash, zsh, fish" in error


def test_the_usage_tells_of_it(capsys):
    main(["--help"])
    assert "--print-completion bash" in capsys.readouterr().out
