"""Degradations by name: the user's own, whose code runs only where the user says so, and the pyramid of the package."""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tests.small_models import (
    CHANGE,
    SIZES,
    TIMESTEPS,
    cli_error,
    small_network,
    small_pipeline,
    small_scheduler,
    train_words,
)

from scalespace.cli import main
from scalespace.diffusion.degradations.own import import_own, own_degradation
from scalespace.diffusion.degradations.pyramid import GaussianPyramid
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.models import open_model

MODULE = "mist_of_the_tests"
NAME = f"{MODULE}:Mist"
CODE = """
    import pathlib
    import torch
    from scalespace import FunctionOperator, Levels

    with pathlib.Path(__file__).with_name("ran").open("a") as file:
        file.write("again ")

    def mist(x):
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        means = x.unflatten(-1, (width, 2)).unflatten(-3, (height, 2)).mean((-1, -3))
        return 0.8 * means + 0.2 * means.mean((-1, -2), keepdim=True)

    class Mist(Levels):
        def next_level(self, size, next_size):
            return FunctionOperator(mist, size, next_size)

    class Squares(Levels):
        def next_level(self, size, next_size):
            return FunctionOperator(lambda x: mist(x) ** 2, size, next_size)

    class Narrow(Levels):
        def next_level(self, size, next_size):
            return FunctionOperator(lambda x: x[..., :1], size, next_size)

    class Fails(Levels):
        def next_level(self, size, next_size):
            return 1 / 0

    class Unfinished(Levels):
        pass

    class Elsewhere(Mist):
        def __init__(self, sizes, change_points, timesteps):
            super().__init__(((6, 6), (3, 3)), change_points, timesteps)

    class Shorter(Mist):
        def __init__(self, sizes, change_points, timesteps):
            super().__init__(sizes, change_points, timesteps - 1)

    class Strange(Mist):
        def __new__(cls, *_):
            return 7

    class Picture:
        pass

    number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> Iterator[Path]:
    """The file of a user's module, which is not imported; beside it a file tells whether it ran."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(textwrap.dedent(CODE))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield folder / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)


def _forgotten(file: Path) -> Path:
    """As in a new program, in which the module has not been imported."""
    sys.modules.pop(MODULE, None)
    ran = file.with_name("ran")
    ran.unlink(missing_ok=True)
    return ran


def _saved(folder: Path) -> Path:
    import_own(NAME)
    pipeline = ScaleSpacePipeline(small_network(), small_scheduler(degradation=NAME, shifted=True))
    pipeline.save_pretrained(folder)
    return folder


def _imported_and_made(name: str) -> ScaleSpaceScheduler:
    import_own(name)
    return small_scheduler(degradation=name)


def _drawn(pipeline: ScaleSpacePipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(2, torch.Generator().manual_seed(0), 5, output_type="pt").images


def test_a_saved_model_names_the_module_and_runs_it_only_where_it_is_trusted(module, tmp_path):
    folder = _saved(tmp_path / "model")
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["degradation"] == NAME
    assert f"import {MODULE}  # the degradation" in (folder / "README.md").read_text()
    expected = _drawn(load_pipeline(folder))

    ran = _forgotten(module)
    for load in (load_pipeline, ScaleSpacePipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        with pytest.raises(UserError, match=f"is code of the module {MODULE}, which is not imported"):
            load(folder)
    assert not ran.exists()
    assert MODULE not in sys.modules

    assert torch.equal(_drawn(load_pipeline(folder, trust=True)), expected)
    assert ran.read_text() == "again "
    # Now that it has been imported, nothing more runs.
    assert torch.equal(_drawn(DiffusionPipeline.from_pretrained(folder)), expected)
    assert ran.read_text() == "again "


def test_a_model_whose_module_is_gone_says_so(module, tmp_path):
    folder = _saved(tmp_path / "model")
    _forgotten(module)
    module.unlink()
    with pytest.raises(UserError, match=f"there is no module {MODULE}, which the degradation"):
        load_pipeline(folder, trust=True)


def test_a_run_is_trained_by_name_and_its_model_is_drawn_from_where_it_is_trusted(module, tmp_path, capsys):
    run = tmp_path / "run"
    main(train_words(run, "--process.degradation", NAME, "--average-every", "1", "--checkpoint-every", "1"))
    assert json.loads((run / "run.json").read_text())["process"]["degradation"] == NAME
    _forgotten(module)
    words = ["sample", str(run), "--num-images", "2", "--steps", "5", "--quiet", "--output", str(tmp_path / "drawn")]
    assert "add --trust-model (trust=True), if you know where both are from" in cli_error(capsys, words)
    assert not module.with_name("ran").exists()
    main([*words, "--trust-model"])
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 2

    # A run without its model, as one that is not finished, and another average of it.
    (run / "model").rename(tmp_path / "model")
    for trust in (False, True):
        _forgotten(module)
        if trust:
            assert open_model(run, lambda line: None, trust=True).scheduler.config["degradation"] == NAME
            _forgotten(module)
            main(["average", str(run), "--trust-model", "--output", str(tmp_path / "average")])
        else:
            with pytest.raises(UserError, match="is not imported"):
                open_model(run, lambda line: None)
            assert "is not imported" in cli_error(capsys, ["average", str(run), "--output", str(tmp_path / "average")])
    assert load_pipeline(tmp_path / "average").scheduler.config["degradation"] == NAME
    _forgotten(module)
    words = ["evaluate", str(tmp_path / "model"), "synthetic:shapes:8", "--num-images", "2", "--steps", "5"]
    assert "is not imported" in cli_error(capsys, words)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        *(("sample", kind) for kind in ("model", "run", "checkpoint", "shipped")),
        *((command, "shipped") for command in ("serve", "upscale")),
        *((command, "model") for command in ("serve", "upscale", "evaluate", "train")),
        ("average", "run"),
    ],
)
def test_trust_of_what_needs_none_has_no_effect(command, kind, here, capsys):
    named = {"shipped": []}.get(kind, [str(here / kind)])
    output = ["--output", str(here / "new")]
    words = {
        "sample": ["sample", *named, *output],
        "serve": ["serve", *named],
        "evaluate": ["evaluate", *named, "synthetic:shapes:8"],
        "average": ["average", *named, *output],
        "train": train_words(here / "new", "--init-from", *named),
        "upscale": ["upscale", "small.png", *(["--model", *named] if named else []), *output],
    }[command]
    told = cli_error(capsys, [*words, "--trust-model"])
    assert "--trust-model has no effect on a model whose degradation is one of this package" in told
    assert not (here / "new").exists()


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A model, a run without one, and its checkpoint, as far as their degradation is told."""
    folder = tmp_path_factory.mktemp("known")
    small_pipeline().save_pretrained(folder / "model")
    run = {"process": {"degradation": "pyramid"}}
    for name, content in (("run/run.json", run), ("checkpoint/manifest.json", {"run": run})):
        (folder / name).parent.mkdir()
        (folder / name).write_text(json.dumps(content))
    (folder / "checkpoint" / "ema.safetensors").touch()
    return folder


def test_a_run_starts_from_a_model_with_its_own_degradation_where_it_is_trusted(module, tmp_path, capsys):
    folder = _saved(tmp_path / "model")
    ran = _forgotten(module)
    words = train_words(tmp_path / "run", "--init-from", str(folder))
    assert "is not imported" in cli_error(capsys, words)
    assert "--trust-model has no effect without --init-from" in cli_error(
        capsys, train_words(tmp_path / "run", "--trust-model")
    )
    assert not ran.exists()
    main([*words, "--trust-model"])
    assert "starts from" in capsys.readouterr().out
    assert ran.read_text() == "again "


def test_what_cannot_be_converted_need_not_be_trusted(module, tmp_path, capsys):
    folder = _saved(tmp_path / "model")
    ran = _forgotten(module)
    told = cli_error(capsys, ["convert", str(folder), str(tmp_path / "file.pt"), "--to", "released"])
    assert "the released code cannot run this model (its process is not one of the paper's)" in told
    assert not ran.exists()


def test_a_module_in_the_current_folder_is_found_last(module, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(module.parent)])
    monkeypatch.chdir(module.parent)
    (module.parent / "json.py").write_text("raise RuntimeError")
    before = list(sys.path)
    assert import_own(NAME).__name__ == "Mist"
    assert sys.path == before
    with pytest.raises(UserError, match="module json has no Mist"):
        import_own("json:Mist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mist", "there is no module no_such_module, which the degradation"),
        (f"{MODULE}.inner:Mist", f"there is no module {MODULE}.inner, which the degradation"),
        (f"{MODULE}:Fog", f"module {MODULE} has no Fog; it has Mist, Squares, Narrow"),
        (f"{MODULE}:Picture", "is a class of something else, not a degradation; name a subclass of scalespace.Levels"),
        (f"{MODULE}:number", "is a int, not a degradation"),
        (f"{MODULE}:Squares", "is not linear"),
        (f"{MODULE}:Narrow", r"gives the shape \(.*\), and was said to give"),
        (f"{MODULE}:Fails", r"the degradation .*:Fails fails \(ZeroDivisionError: division by zero\); correct it"),
        (f"{MODULE}:Unfinished", r"fails \(TypeError: Can't instantiate abstract class"),
        (f"{MODULE}:Elsewhere", r"has states of the sizes \(\(6, 6\), \(3, 3\)\) and was given \(\(8, 8\), \(4, 4\)\)"),
        (f"{MODULE}:Shorter", f"has {TIMESTEPS - 1} timesteps and was given {TIMESTEPS}"),
        (f"{MODULE}:Strange", "makes a int, which is no degradation"),
        ("a:b:c", '"a:b:c" is no degradation; give MODULE:CLASS'),
        ("../mist:Mist", "is no degradation; give MODULE:CLASS"),
        (":Mist", "is no degradation; give MODULE:CLASS"),
        ("os:system", "os:system is a builtin_function_or_method, not a degradation"),
    ],
)
def test_what_is_no_degradation_is_one_sentence(name, message, module):
    with pytest.raises(UserError, match=message):
        _imported_and_made(name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nonesuch", "ModuleNotFoundError: No module named 'nonesuch'"),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(code, message, module):
    module.write_text(code)
    with pytest.raises(UserError, match=rf"module {MODULE} cannot be imported \({message}"):
        import_own(NAME)


def test_a_name_that_is_not_known_is_told_both_ways_out():
    with pytest.raises(ValueError, match="no MODULE:CLASS of your own was given, and degradation"):
        small_scheduler(degradation="gaussian")


def test_the_shift_fits_the_noise_to_a_degradation_of_ones_own(module):
    import_own(NAME)
    process = small_scheduler(degradation=NAME, shifted=True).process
    assert process.degradation == own_degradation(NAME, SIZES, (CHANGE,), TIMESTEPS)
    assert 1 <= process.margins()[CHANGE] < 2
    assert small_scheduler(degradation=NAME).process.margins()[CHANGE] > 4


def test_the_pyramid_has_a_name_and_is_saved_by_it(tmp_path):
    scheduler = small_scheduler(degradation="pyramid", shifted=True)
    assert scheduler.process.degradation == GaussianPyramid(SIZES, (CHANGE,), TIMESTEPS)
    scheduler.save_pretrained(tmp_path)
    assert ScaleSpaceScheduler.from_pretrained(tmp_path).process.degradation == scheduler.process.degradation
    with pytest.raises(ValueError, match="blur is 9"):
        GaussianPyramid(SIZES, (CHANGE,), TIMESTEPS, blur=9)
