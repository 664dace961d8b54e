"""The command line: finds the command, and prints errors that the user can mend as one sentence."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from scalespace import __version__
from scalespace.commands import module_of
from scalespace.errors import Stopped, ToldError, UserError, printable
from scalespace.launch import launched
from scalespace.processes import joined

__all__ = ["main"]

_COMMANDS = {
    "demo": "emoji by the model that comes with the package, in a minute",
    "plan": "what a model will cost: levels, parameters, GFLOPs",
    "prepare": "bring pictures of any size to one size, exactly as training does",
    "train": "train a model on a folder or zip of images, or resume its training",
    "sample": "draw pictures from a trained model",
    "upscale": "enlarge small pictures by the rest of the chain",
    "vary": "draw variations of pictures",
    "inpaint": "draw a part of a picture anew",
    "restore": "draw pictures of which small or blurred and noisy ones are given",
    "interpolate": "the way from one picture to another",
    "serve": "a page in the browser to try a model on",
    "accelerate": "let a pretrained model of diffusers sample progressively, without training",
    "average": "another average of a run's weights, after its training",
    "convert": "a model of a checkpoint that the paper's authors released, and back",
    "evaluate": "how far pictures are from reference pictures: FID, KID, precision and more",
    "bench": "how fast this machine trains and samples a model",
    "analyze": "how much of your pictures survives the noise, and which resolutions that needs",
    "reproduce": "a table of the paper, computed again",
}
"""Every command with its line in the help; ``commands.module_of`` tells where it is."""

_SHARED = frozenset({"train", "sample", "evaluate"})
"""The commands that several processes share; any other would be done by each of them."""

_TRACEBACK = "SCALESPACE_TRACEBACK"
"""Environment variable; where it is set, errors that should not happen are shown whole."""

_LONGEST = 2000
"""Letters of an error that are printed; words of the command line and of files may be longer than anybody reads."""

_STOPPED = 75
"""Exit code of a command that was stopped at the user's wish with everything saved (EX_TEMPFAIL of sysexits.h)."""

_LINES = "\n".join(f"  {name:11} {line}" for name, line in _COMMANDS.items())
_USAGE = f"""\
usage: scalespace {{{",".join(_COMMANDS)}}} ...

Scale Space Diffusion: one pixel-space diffusion model whose noisy steps run on small tensors.

{_LINES}

examples:
  scalespace demo
  scalespace plan --preset celeba64-4l
  scalespace train --preset tiny --data synthetic:shapes --output-dir runs/shapes --max-steps 2000
  scalespace sample runs/shapes/model --num-images 64 --steps 50 --output runs/shapes/pictures
  scalespace evaluate runs/shapes/model photos.zip --num-images 1000

scalespace COMMAND --help tells all options of a command, and scalespace --version the version.
scalespace --print-completion bash (or zsh, fish) prints what completes all of them in that shell."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Errors that the user can mend are one sentence on stderr, with exit code 2.

    docs/reliability.md lists all exit codes.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that are no text here, or have letters that this terminal's encoding lacks, are printed as codes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_USAGE)
        elif words[0] == "--version":
            print(__version__)
        elif words[0] == "--print-completion":
            from scalespace.commands.completion import print_completion

            print_completion(words[1:], _COMMANDS)
        elif words[0] not in _COMMANDS:
            raise UserError(f'"{words[0]}" is not a command; use one of {", ".join(_COMMANDS)} (scalespace --help)')
        else:
            _run(words[0], words[1:])
        # Here and not when Python ends, where nobody could answer for a reader that has left.
        print(end="", flush=True)
    except ToldError:
        # A launcher ends all processes when the first has gone; that should be the one with something to say.
        time.sleep(1)
        sys.exit(2)
    except UserError as error:
        _fail(str(error))
    except Stopped as stop:
        if launched()[0] == 0:
            print(f"scalespace: {printable(str(stop))}", file=sys.stderr)
        sys.exit(_STOPPED)
    except BrokenPipeError:
        # Whoever read the output has had enough of it. Nothing may be flushed into the pipe when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.strerror is None or error.errno == errno.ENOMEM:
            _unexpected(error)
        place = "" if error.filename is None else f" ({error.filename})"
        _fail(f"{error.strerror}{place}; check the path, that you may write there, and the free space")
    except KeyboardInterrupt:
        advice = (
            "; the same command goes on from the last checkpoint" if words[:1] in (["train"], ["reproduce"]) else ""
        )
        if launched()[0] == 0:
            print(f"scalespace: interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _unexpected(error)
    if not words:
        sys.exit(2)


def _run(name: str, words: list[str]) -> None:
    command = import_module(module_of(name))
    rank, count = launched()
    if name in _SHARED:
        with joined(name):
            command.run(words)
    elif count > 1:
        raise (UserError if rank == 0 else ToldError)(
            f"{count} processes were started, and each would do all of scalespace {name}; run it without torchrun, since "
            f"processes share {', '.join(sorted(_SHARED))} alone"
        )
    else:
        command.run(words)


def _unexpected(error: Exception) -> NoReturn:
    """Report an error that no command foresaw: the memory ran out, or the fault is ours."""
    if os.environ.get(_TRACEBACK):
        raise error
    from scalespace.memory import memory_ran_out

    if memory_ran_out(error):
        _fail("the memory ran out; lower --batch-size or --micro-batch, take smaller pictures, or end other programs")
    print(
        f"scalespace: error: {type(error).__name__}, which should not happen; run the command again with {_TRACEBACK}=1 and "
        "report what it prints",
        file=sys.stderr,
    )
    sys.exit(1)


def _fail(message: str) -> NoReturn:
    text = printable(message)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    print(f"scalespace: error: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
