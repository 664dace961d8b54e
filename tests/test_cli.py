import ast
import inspect
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_models import SMALL_OPTIONS, cli_error, given_once, small_pipeline, train_words

from scalespace.cli import main
from scalespace.commands import module_of, parsing
from scalespace.diffusion.noise import NoiseSchedule
from scalespace.pipelines import scheduler
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.training.trainer import Trainer

COMMANDS = sorted(
    {file.stem for file in Path(parsing.__file__).parent.rglob("*.py") if file.parent.name != "options"}
    - {"__init__", "completion", "parsing"}
)


def _pictures(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:04d}.png")
    return folder


def _shell(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from scalespace.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)


def test_help_is_quick_and_loads_no_torch():
    program = (
        "import sys; from scalespace.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print('loaded:', *(name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules))"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # What the processor worked, not what passed meanwhile: the machine may be busy with something else.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert run.stdout.splitlines()[-1] == "loaded:"
    assert all(command in run.stdout for command in ("  plan ", "  train ", "  sample "))
    assert min(seconds) < 0.5


@pytest.mark.parametrize("words", ["train --help", "--help", "--version", "plan"])
def test_a_reader_that_leaves_early_is_no_error(words: str):
    # As of scalespace train --help | head.
    with subprocess.Popen(
        [sys.executable, "-c", "from scalespace.cli import main; main()", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: scalespace {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_in_whole_sentences_on_one_line(command: str):
    # The parser keeps the indentation of a second line and breaks the sentence there, whatever the width of the terminal.
    arguments = import_module(module_of(command)).Arguments
    types = get_type_hints(arguments, include_extras=True)
    groups = [kind for kind in types.values() if is_dataclass(kind)]
    for kind in (arguments, *groups):
        explained = _field_docstrings(kind)
        for field in fields(kind):
            # --preset has its help from its type, and a group of options from its class.
            if types.get(field.name) is not parsing.Preset and types.get(field.name) not in groups:
                text = explained.get(field.name, "")
                assert text.endswith((".", ")")), f"{field.name}: {text}"
                assert "\n" not in text, f"{field.name}: {text}"


def _field_docstrings(kind: type) -> dict[str, str]:
    found = {}
    for parent in filter(is_dataclass, reversed(kind.__mro__)):
        body = ast.parse(inspect.getsource(parent)).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
        for line, after in pairwise(body):
            match line, after:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = text
    return found


def test_without_a_command_the_commands_are_told(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: scalespace {demo,plan,prepare,train,sample," in capsys.readouterr().out
    assert '"tarin" is not a command; use one of demo, plan, prepare, train, sample' in cli_error(capsys, ["tarin"])


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("plan --nonsense 3", "Unrecognized options: --nonsense, 3 ("),
        ("plan --process.timestep 3", "perhaps you meant --process.timesteps ("),
        ("plan --process.timesteps ten", "base 10: 'ten'); it takes INT ("),
        ("plan --process.sizes 8", "--process.sizes cannot be read ("),
        ("plan --process.noise loud", "invalid choice 'loud' for argument '--process.noise'; expected one of"),
        ("plan --process.image-size 8", "Missing value for argument '--process.image-size'; expected 2 values ("),
        ("train --data synthetic:shapes", "--output-dir must be given ("),
        ("sample", "--output must be given ("),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_cannot_be_parsed_is_one_sentence(words: str, sentence: str, encoding: str, capsys, monkeypatch):
    # The parser draws its box of other letters where they cannot be printed.
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: encoding == "utf-8")
    error = cli_error(capsys, words.split())
    assert sentence in error
    assert error.endswith(f"(scalespace {words.split()[0]} --help tells all options)\n")
    assert not set("╭│─") & set(error)


@pytest.mark.parametrize("shell", ["nonsense", ""])
def test_a_shell_without_completion_is_one_sentence(shell: str, capsys):
    words = ["plan", "--tyro-print-completion", shell]
    assert f'no completion for "{shell}"; name one of bash, ' in cli_error(capsys, words)


def test_the_preset_is_what_other_options_override(capsys):
    main(["plan", "--process.levels=1", "--preset=celeba64-2l", "--network.base-channels", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert "levels              1" in lines
    assert any(line.split()[0] == "64x64" for line in lines if line)


@pytest.mark.parametrize("command", ["plan", "train --data synthetic:shapes --output-dir RUN"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--preset celeba64", 'there is no preset "celeba64"; did you mean celeba64-'),
        ("--process.levels 7", "sizes (32, 32) and 7 levels leave 0 pixels at the smallest; use at most 6 levels"),
        (
            "--process.levels 4 --network.paths flexi",
            "which fit the first 3 of the sizes; leave the others out, add multipliers or use paths",
        ),
        ("--process.image-size 0 32", "an image size of 0x32 holds no pixels"),
        ("--process.timesteps 0", "0 timesteps cannot be sampled; give at least 2"),
        ("--process.beta-start -1", "beta_start is -1.0; every beta adds noise"),
        ("--process.beta-start 0.9 --process.beta-end 0.9", "use smaller betas"),
        ("--process.change-points 500 400", "give ascending points between 2 and 1000"),
        ("--process.sizes 32 32 64 64", "every level must be smaller than the one before"),
        ("--process.gamma 0", "gamma is 0.0"),
        ("--network.attention-heads 3", "attention_heads 3 does not divide"),
        ("--network.dropout nan", "dropout is nan"),
    ],
)
def test_a_model_that_cannot_be_is_one_sentence(command: str, words: str, sentence: str, tmp_path, capsys):
    run = tmp_path / "run"
    assert sentence in cli_error(capsys, [*command.replace("RUN", str(run)).split(), *words.split()])
    assert not run.exists()


class RisingSNR(NoiseSchedule):
    """Noise that shrinks on the way, so that no process can have it."""

    timesteps = 20

    @property
    def log_snr_table(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = 5 - torch.arange(21, dtype=torch.float64)
        table[0], table[11:] = torch.inf, table[11:] + 10
        return table


def test_a_schedule_that_violates_the_inequality_is_one_sentence(tmp_path, capsys, monkeypatch):
    # Antialiased shrinking never gains energy and positive betas always lose SNR, so no option reaches this by itself.
    monkeypatch.setitem(scheduler._NOISES, "linear", lambda *_: RisingSNR())
    words = cli_error(capsys, train_words(tmp_path / "run"))
    assert "no transition from s = 10 to t = 11: SNR_t * lambda_max(M M^T) =" in words
    assert "exceeds SNR_s =" in words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--batch-size 0", "batch_size is 0; give a number above 0"),
        ("--seed -1", "seed is -1; give 0 or more"),
        ("--seed 4294967296", "seed is 4294967296; give at most"),
        ("--learning-rate nan", "learning_rate is nan"),
        ("--change-share 2", "change_share is 2.0; a share lies between 0 and 1"),
        ("--sample-every 1 --sample-steps 2", "2 sampling steps; a process of 2 levels needs at least 3"),
        ("--sample-every 1 --sample-steps 1", "sample_steps is 1; give at least 2"),
        ("--network.num-classes 0", "num_classes holds 0"),
        ("--data synthetic:nothing", "there is no synthetic source"),
        ("--data", "data is empty; give a value"),
    ],
)
def test_a_run_that_cannot_be_is_one_sentence(words: str, sentence: str, tmp_path, capsys):
    more = words.split() if words != "--data" else ["--data", ""]
    assert sentence in cli_error(capsys, train_words(tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def _absent(folder: Path) -> None:
    pass


def _without_pictures(folder: Path) -> None:
    folder.mkdir()
    (folder / "readme.txt").write_text("no pictures here")


def _text(folder: Path) -> None:
    folder.write_text("neither folder nor zip")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_absent, "there is no data at"),
        (Path.mkdir, "holds no pictures; give a folder, a zip or tar files with PNG"),
        (_without_pictures, "holds no pictures"),
        (_text, "is neither a folder nor a whole zip file"),
    ],
)
def test_data_that_hold_no_pictures_are_one_sentence(make: Callable[[Path], None], sentence: str, tmp_path, capsys):
    make(tmp_path / "data")
    assert sentence in cli_error(capsys, train_words(tmp_path / "run", data=tmp_path / "data"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cache", ["1", "0"])
def test_bad_pictures_are_named_skipped_and_counted_and_too_many_stop(cache: str, tmp_path, capsys):
    data = _pictures(tmp_path / "data", 300)
    whole = (data / "0007.png").read_bytes()
    (data / "0007.png").write_bytes(whole[: len(whole) // 2])
    (data / "0100.png").write_bytes(b"")
    (data / "0200.png").write_text("this is not a picture")
    words = train_words(tmp_path / "run", "--cache-gib", cache, "--batch-size", "300", "--max-steps", "1", data=data)
    main(words)
    said = capsys.readouterr().out
    for name in ("0007.png", "0100.png", "0200.png"):
        assert said.count(f"skipped {name}: ") == 1
    assert "skipped 0100.png: the file is empty" in said
    assert said.count("3 of 300 pictures could not be decoded and were skipped") == 1

    (data / "0201.png").write_bytes(b"x")
    words = train_words(tmp_path / "other", "--cache-gib", cache, "--batch-size", "300", "--max-steps", "1", data=data)
    errors = cli_error(capsys, words)
    assert "cannot be decoded, more than 1 % of all 300 (0007.png:" in errors
    assert "replace or remove the damaged files" in errors


def test_pictures_smaller_than_the_image_size_are_one_sentence(tmp_path, capsys):
    words = train_words(tmp_path / "run", "--process.image-size", "16", "16", data=_pictures(tmp_path / "data", 4))
    assert "smaller than the image size 16x16" in cli_error(capsys, words)


def test_an_output_directory_in_use_is_refused_and_left_alone(tmp_path, capsys):
    run = tmp_path / "run"
    main(train_words(run))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert f"{run} holds a different run: seed is 0 there and 1 here" in cli_error(
        capsys, train_words(run, "--seed", "1")
    )
    errors = cli_error(capsys, train_words(run, data="synthetic:shapes:17"))
    assert "was trained on other pictures than those of synthetic:shapes:17" in errors
    assert "already at step 2" in cli_error(capsys, train_words(run, "--max-steps", "1"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    errors = cli_error(capsys, train_words(tmp_path / "thesis"))
    assert "is not empty and holds no training run; give a new --output-dir" in errors
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter"]


def test_a_loss_that_is_not_finite_is_one_sentence_with_step_and_resolution(tmp_path, capsys):
    words = train_words(tmp_path / "run", "--learning-rate", "1e30", "--max-steps", "40")
    errors = cli_error(capsys, words)
    assert "at step" in errors
    assert "x" in errors.split("at step")[1].split(")")[0]
    assert "training has stopped; no checkpoint had been written yet" in errors
    assert not (tmp_path / "run" / "model").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupt)
        with pytest.raises(SystemExit) as stop:
            main(train_words(tmp_path / "run"))
    assert stop.value.code == 130
    assert capsys.readouterr().err == "scalespace: interrupted; the same command goes on from the last checkpoint\n"
    main(train_words(tmp_path / "run"))


def test_train_and_sample_work_from_the_shell_and_say_where_things_are(tmp_path):
    trained = _shell(*train_words(tmp_path / "run"))
    assert (trained.returncode, trained.stderr) == (0, "")
    assert f"model      {tmp_path / 'run' / 'model'}" in trained.stdout
    assert f"log        {tmp_path / 'run' / 'log.jsonl'}" in trained.stdout
    for words in trained.stdout.splitlines()[-3:]:
        assert Path(words.split(maxsplit=1)[1].removeprefix("curve ")).exists()
    output = tmp_path / "pictures"
    drawn = _shell("sample", str(tmp_path / "run" / "model"), "--output", str(output), "--steps", "3", "--quiet")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert len(list(output.glob("0*.png"))) == 16


def test_errors_from_the_shell_have_no_traceback(tmp_path):
    run = _shell("sample", str(tmp_path / "nothing"), "--output", str(tmp_path / "pictures"))
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("scalespace: error: model ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--tolerance 0.01", "--tolerance has no effect without --data, whose spectrum it is about"),
        ("--plot a.png", "--plot has no effect without --data, whose spectrum it is about"),
        ("--process.resolution auto", 'schedule "auto" reads its change points off the pictures; give --data'),
        ("--data nowhere", "there is no data at 'nowhere'"),
        ("--data DATA --tolerance 0", "tolerance is 0.0; give a mode-SNR above 0 and below 1"),
        ("--data DATA --tolerance nan", "tolerance is nan"),
        ("--data DATA --tolerance 1e-9", "the octave from 8x8 to 4x4 never sinks below the tolerance 1e-09"),
        ("--data DATA --process.image-size 16 16", "smaller than the image size 16x16"),
        ("--data DATA --process.levels 5", "leave 0 pixels at the smallest"),
        ("--data DATA --plot a.nothing", "a.nothing cannot be drawn; name it .png, .svg or .pdf"),
    ],
)
def test_resolutions_that_cannot_be_read_off_the_data_are_one_sentence(
    words: str, sentence: str, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    data = _pictures(tmp_path / "data", 4)
    more = [word.replace("DATA", str(data)) for word in words.split()]
    assert sentence in cli_error(capsys, given_once("plan", *SMALL_OPTIONS, *more))
    assert not (tmp_path / "a.png").exists()


def test_a_plot_without_matplotlib_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["plan", *SMALL_OPTIONS, "--data", str(_pictures(tmp_path / "data", 4)), "--plot", str(tmp_path / "a.png")]
    assert "matplotlib is not installed; run pip install" in cli_error(capsys, words)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_or_says_in_one_sentence_why_not(precision: str, tmp_path):
    # In a process of its own, since accelerate fixes the precision once for all.
    run = _shell(*train_words(tmp_path / "run", "--mixed-precision", precision))
    if run.returncode == 0:
        assert (tmp_path / "run" / "model" / "model_index.json").exists()
    else:
        assert run.returncode == 2
        assert run.stderr.startswith("scalespace: error: ")
        assert run.stderr.count("\n") == 1


def test_progress_is_shown_with_speed_and_loss(tmp_path, capsys):
    main([word for word in train_words(tmp_path / "run") if word != "--quiet"])
    errors = capsys.readouterr().err
    assert "training" in errors
    assert "loss" in errors
    assert "steps/s" in errors or "s/ steps" in errors


def test_quiet_training_shows_no_bar_for_sample_grids_either(tmp_path, monkeypatch):
    settings = []
    monkeypatch.setattr(ScaleSpacePipeline, "set_progress_bar_config", lambda _, **options: settings.append(options))
    main(train_words(tmp_path / "run", "--sample-every", "2", "--sample-images", "1", "--sample-steps", "3"))
    assert [options["disable"] for options in settings] == [True]


def test_the_options_of_these_tests_make_the_model_they_describe(capsys):
    main(["plan", *SMALL_OPTIONS])
    text = capsys.readouterr().out
    assert "4x4 -> 8x8            11" in text


def test_an_error_that_should_not_happen_is_one_sentence_and_can_be_shown_whole(monkeypatch, capsys):
    def fail(words):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("scalespace.commands.plan.run", fail)
    with pytest.raises(SystemExit) as stop:
        main(["plan"])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("scalespace: error: ZeroDivisionError, which should not happen; run the command again with")
    assert error.count("\n") == 1
    monkeypatch.setenv("SCALESPACE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plan"])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")]
)
def test_memory_that_runs_out_is_one_sentence(error: Exception, monkeypatch, capsys):
    def fail(words):
        raise error

    monkeypatch.setattr("scalespace.commands.plan.run", fail)
    assert "the memory ran out; lower --batch-size" in cli_error(capsys, ["plan"])


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
@pytest.mark.parametrize("option", ["--cache-gib", "--learning-rate", "--weight-gamma", "--gradient-clip"])
def test_numbers_that_are_not_finite_are_one_sentence(option: str, value: str, tmp_path, capsys):
    error = cli_error(capsys, train_words(tmp_path / "run", f"{option}={value}"))
    assert f"{option.removeprefix('--').replace('-', '_')} is {value}; give a finite number" in error
    assert not (tmp_path / "run").exists()


def test_an_eta_that_the_solver_has_not_is_one_sentence(tmp_path, capsys):
    small_pipeline().save_pretrained(tmp_path / "model")
    words = ["sample", str(tmp_path / "model"), "--output", str(tmp_path / "pictures"), "--eta", "0.5"]
    assert "--eta has no effect where the solver is not ddim; leave --eta out, or give --solver ddim" in cli_error(
        capsys, [*words, "--solver", "multistep"]
    )
