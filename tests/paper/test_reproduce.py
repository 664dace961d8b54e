"""The paper's tables of trained models: their settings, their data, and that every number is what it is said to be."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.picture_files import picture
from tests.small_models import cli_error
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.data.images import open_images
from scalespace.diffusion.loss import x0_loss
from scalespace.errors import UserError
from scalespace.metrics.builtin_features import builtin_features
from scalespace.metrics.features import BuiltInFeatures
from scalespace.metrics.frechet_distance import Moments, frechet
from scalespace.paper import experiments as experiments_module
from scalespace.paper import reproduce as paper
from scalespace.paper.data import DataSet, check_data, hold_out
from scalespace.paper.experiments import Experiments, _moments, training_hours
from scalespace.paper.reproduce import cost, reproduce
from scalespace.paper.scale import PAPER, TINY, Reproduction
from scalespace.paper.tables import JOBS
from scalespace.paper.values import MAIN, SCHEDULES, STEPS
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.saving import load_pipeline
from scalespace.planning.analysis import analyze_pictures
from scalespace.planning.cost import make_plan
from scalespace.reports.provenance import Provenance
from scalespace.reports.table import Table
from scalespace.training.build import build_scheduler, loss_weight
from scalespace.training.configuration import NetworkConfig

SOURCE = Provenance("a command", "0.1.0", "0123456789", False, None)
PICTURES = "synthetic:shapes:40"
SMALL = replace(
    TINY,
    network=NetworkConfig(8, (1, 2, 2), blocks_per_level=1, attention_max_size=8, attention_heads=2),
    steps=2,
    ablation_steps=2,
    batch_size=4,
    schedules_batch_size=4,
    # Two steps that are large enough for pictures that differ.
    training=TINY.training | {"warmup_steps": 0, "cooldown_steps": 0, "checkpoint_every": 1, "learning_rate": 1e-2},
    samples=10,
    sampling_steps=4,
    fewer_steps=(3,),
    ddim_steps=2,
    heldout_least=8,
    draw_batch=6,
    timed_pictures=1,
)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Tables that share their models."""
    return tmp_path_factory.mktemp("tables")


def make(name: str, output: Path) -> Table:
    options = Reproduction(data=PICTURES, output=str(output))
    return reproduce(name, options, SOURCE, scale=SMALL, progress=False)


def rows(table: Table, *keys: str) -> dict[tuple, dict]:
    return {tuple(row[key] for key in keys): row for row in table.as_dict()["rows"]}


# Settings


@pytest.mark.parametrize(
    ("name", "steps", "batch", "rate", "levels"),
    [
        ("celeba64", 1_000_000, 128, 1e-4, (2, 3, 4)),
        ("celeba128", 300_000, 128, 1e-4, (3, 5)),
        ("celeba256", 300_000, 64, 5e-5, (3, 4, 5, 6)),
        ("imagenet64", 1_000_000, 128, 1e-4, (2, 4)),
    ],
)
def test_the_papers_scale_is_what_the_paper_states(name: str, steps: int, batch: int, rate: float, levels):
    scale = PAPER[name]
    assert (scale.samples, scale.reference, scale.sampler.name) == (50_000, "training", "ancestral-1000")
    arms = [arm for arm, _ in JOBS["main"](scale)]
    assert [arm.method for arm in arms] == [
        *("DDPM-eps", "DDPM-x0", "Blurring Diffusion"),
        *(f"SSD ({n}L)" for n in levels),
    ]
    for arm in arms:
        config = arm.config
        assert (config.max_steps, config.batch_size, config.learning_rate) == (steps, batch, rate)
        assert (config.warmup_steps, config.cooldown_steps, config.ema_decay) == (0, 0, 0.9999)
        assert (config.process.timesteps, config.process.noise, config.process.shifted) == (1000, "linear", False)
        assert (config.change_share, config.solver, config.spacing) == (None, "ancestral", "linspace")
        assert (config.network.num_classes, config.network.base_channels) == (None, 128)
        build_scheduler(config)


def test_every_row_has_a_name_of_its_own_and_what_the_paper_prints_finds_its_row():
    for scale in (TINY, *PAPER.values()):
        for name, jobs in JOBS.items():
            chosen = [(arm.name, sampler.name) for arm, sampler in jobs(scale)]
            assert len(set(chosen)) == len(chosen), name
    methods = {(scale.name, arm.method) for scale in PAPER.values() for arm, _ in JOBS["main"](scale)}
    assert methods - set(MAIN) == {("celeba256", "SSD (5L)")}
    names = {arm.config.process.resolution for arm, _ in JOBS["schedules"](PAPER["celeba64"])}
    assert (len(names), len(SCHEDULES)) == (4, 5)
    found = {("celeba64", arm.method, sampler.name) for arm, sampler in JOBS["steps"](PAPER["celeba64"])}
    assert set(STEPS) <= found


def test_ddpm_has_the_plain_loss_of_the_noise():
    arm = TINY.ddpm("epsilon")
    process = build_scheduler(arm.config).process
    generator = torch.Generator().manual_seed(0)
    x_0, noise, guess = torch.randn(3, 5, 3, 16, 16, generator=generator, dtype=torch.float64)
    t = torch.tensor([1, 20, 300, 700, 1000])
    alpha, sigma = (f(t).reshape(-1, 1, 1, 1).double() for f in (process.noise.alpha, process.noise.sigma))
    prediction = (alpha * x_0 + sigma * (noise - guess)) / alpha
    plain = (guess - noise).square().mean((1, 2, 3))
    assert_close(x0_loss(prediction, x_0, loss_weight(arm.config, process)(t).double()), plain, rtol=1e-4, atol=0)


def test_the_cost_of_the_baseline_is_what_the_paper_took():
    table = cost("main", PAPER["celeba64"], 91.0, SOURCE)
    found = rows(table, "model")
    # 70.30 hours of training at 60.05 GFLOPs a call; pictures come on top.
    training = found["ddpm-eps",]["training"] * 1e6 / 91 / 3600
    assert training == pytest.approx(70.3, rel=0.02)
    assert found["ddpm-eps",]["drawing"] == pytest.approx(60.61 * 1000 * 50_000 / 1e9, rel=1e-3)
    assert found["all",]["hours"] == pytest.approx(sum(row["hours"] for key, row in found.items() if key != ("all",)))


def test_a_model_that_two_rows_share_is_trained_once():
    found = cost("steps", PAPER["celeba64"], 80.0, SOURCE).as_dict()["rows"]
    trained = [row["model"] for row in found if row["training"] is not None]
    assert trained == ["ddpm-x0", "ddpm-eps", "ssd-2l", "ssd-4l"]
    assert len(found) == 4 * 3 + 1


# Pictures


def test_pictures_are_held_out_by_seed_and_none_is_in_both_parts():
    training, heldout = hold_out(50, 0.2, 4, 100, seed=0)
    assert sorted(training + heldout) == list(range(50))
    assert len(heldout) == 10
    assert hold_out(50, 0.2, 4, 100, seed=0) == (training, heldout)
    assert hold_out(50, 0.2, 4, 100, seed=1)[1] != heldout
    assert [len(hold_out(50, share, 4, 12, 0)[1]) for share in (0.01, 0.9)] == [4, 12]
    with pytest.raises(ValueError, match="7 pictures, of which at least 4 have to be held out; give 8 or more"):
        hold_out(7, 0.2, 4, 100, seed=0)


def folder_of(path: Path, names: dict[str, Image.Image]) -> Path:
    for name, image in names.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(path / name)
    return path


def test_a_data_set_is_known_by_its_number_its_folders_and_its_sizes(tmp_path):
    faces = folder_of(tmp_path / "faces", {f"{n}.jpg": picture(n, (22, 18)) for n in range(3)})
    check_data(str(faces), DataSet("faces", 3, None, (22, 18), "faces.zip"))
    with pytest.raises(UserError, match=r"it holds 3 pictures, not 202,599; give the whole of it \(faces.zip\)"):
        check_data(str(faces), DataSet("faces", 202_599, None, (22, 18), "faces.zip"))
    with pytest.raises(UserError, match=r"is not faces: 0.jpg is 22x18, not 218x178 \(height by width\)"):
        check_data(str(faces), DataSet("faces", 3, None, (218, 178), "faces.zip"))

    classes = folder_of(tmp_path / "classes", {f"n{n % 2}/{n}.png": picture(n) for n in range(4)})
    check_data(str(classes), DataSet("classes", 4, 2, None, "train"))
    with pytest.raises(UserError, match="its pictures lie in 2 folders, not 1,000"):
        check_data(str(classes), DataSet("classes", 4, 1000, None, "train"))


# Experiments


def test_moments_of_batches_are_those_of_all():
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    found, expected = _moments(features.split(7)), Moments.of(features)
    assert_close(found.mean, expected.mean)
    assert_close(found.covariance, expected.covariance)
    assert found.count == 23


def test_hours_are_those_of_all_steps_that_were_logged():
    log = [{"step": 10, "pictures_per_second": 4.0}, {"step": 15, "pictures_per_second": 2.0}]
    # A pace that an earlier version rounded to nothing, or that somebody has edited, tells no time.
    log += [
        {"step": log[-1]["step"]} | unknown
        for unknown in ({"pictures_per_second": 0.0}, {}, {"pictures_per_second": "x"})
    ]
    assert training_hours(log, batch_size=8) == pytest.approx((80 / 4 + 40 / 2) / 3600)


def test_the_main_table_shows_what_was_trained_and_drawn(output):
    table = make("main", output)
    found = rows(table, "method")
    methods = ("training pictures", "DDPM-eps", "DDPM-x0", "Blurring Diffusion", "SSD (2L)", "SSD (3L)")
    assert [method for (method,) in found] == list(methods)
    folder = output / "tiny-seed0"

    # Again by other means: pictures of the saved model against those that were held out.
    pipeline = load_pipeline(folder / "ssd-3l" / "run" / "model")
    pipeline.set_progress_bar_config(disable=True)
    generators = image_generators(0, range(10))
    images = pipeline(10, generator=generators, num_inference_steps=4, output_type="pt", return_dict=False)[0]
    data = open_images(PICTURES, (16, 16))
    training, heldout = hold_out(40, 0.1, 8, 2000, seed=0)
    reference = builtin_features(data.batch(heldout)[0])
    expected = frechet(builtin_features(to_uint8(2 * images - 1)), reference)
    row = found["SSD (3L)",]
    assert row["distance"] == pytest.approx(expected.value, rel=1e-3)
    assert row["low"] < row["distance"] < row["high"]
    chosen = [training[row * len(training) // 10] for row in range(10)]
    floor = frechet(builtin_features(data.batch(chosen)[0]), reference)
    assert found["training pictures",]["distance"] == pytest.approx(floor.value, rel=1e-3)

    for method, arm in (("DDPM-x0", SMALL.ddpm("sample")), ("SSD (2L)", SMALL.ssd(2))):
        plan = make_plan(arm.config)
        assert found[method,]["gflops"] == pytest.approx(plan.average_gflops)
        log = [json.loads(line) for line in (folder / arm.name / "run" / "log.jsonl").read_text().splitlines()]
        assert found[method,]["hours"] == pytest.approx(training_hours(log, 4))
        stored = json.loads((folder / arm.name / "run" / "run.json").read_text())
        assert (stored["process"]["levels"], stored["prediction"]) == (len({p.size for p in plan.paths}), "sample")
    eps = json.loads((folder / "ddpm-eps" / "run" / "run.json").read_text())
    assert (eps["prediction"], eps["weight"]) == ("epsilon", "snr")

    text = (output / "main.md").read_text()
    assert "Frechet distance, built-in features" in text
    assert "These numbers are not the paper's" in text
    assert "Of 10 drawn pictures against 8 held-out ones" in text
    assert "paper: FID" not in text
    assert json.loads((output / "main.json").read_text())["provenance"]["seed"] == 0


def test_what_is_there_is_not_done_again_and_what_is_missing_is_done_alike(output, monkeypatch):
    before = make("main", output)
    folder = output / "tiny-seed0" / "ssd-3l" / "ancestral-4"
    assert sorted(file.name for file in folder.iterdir()) == ["0000000.safetensors", "0000006.safetensors", "grid.png"]
    features = load_file(folder / "0000006.safetensors")["features"]
    assert len(features) == 4
    (folder / "0000006.safetensors").unlink()

    drawn: list[range] = []
    draw = experiments_module.draw

    def counted(pipeline, numbers, *more):
        drawn.append(numbers)
        return draw(pipeline, numbers, *more)

    def untrained(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiments_module, "draw", counted)
    monkeypatch.setattr(experiments_module, "train", untrained)
    assert make("main", output).rows == before.rows
    assert drawn == [range(6, 10)]
    assert_close(load_file(folder / "0000006.safetensors")["features"], features, rtol=0, atol=0)


def test_a_training_that_was_stopped_goes_on(output, tmp_path):
    make("main", output)
    arm = SMALL.ssd(2)
    experiments = Experiments(SMALL, PICTURES, tmp_path, BuiltInFeatures(), progress=False)
    run = experiments.run(replace(arm, config=replace(arm.config, max_steps=1)))
    # As if it had been stopped after its first checkpoint.
    shutil.rmtree(run.model_path)
    assert experiments.run(arm).latest_checkpoint()[0] == 2
    weights = "unet/diffusion_pytorch_model.safetensors"
    whole = load_file(output / "tiny-seed0" / arm.name / "run" / "model" / weights)
    for name, weight in load_file(run.model_path / weights).items():
        assert_close(weight, whole[name], rtol=0, atol=0)


def test_a_folder_of_other_experiments_is_refused(output):
    make("main", output)
    folder = output / "tiny-seed0"
    for scale, data, what in (
        (SMALL, "synthetic:shapes:41", "pictures, held-out pictures"),
        (replace(SMALL, steps=3), PICTURES, "scale"),
    ):
        with pytest.raises(UserError, match=rf"holds experiments of another kind \(different: {what}\)"):
            Experiments(scale, data, folder, BuiltInFeatures(), progress=False)


def test_named_pictures_are_all_held_out(tmp_path):
    experiments = Experiments(
        SMALL, PICTURES, tmp_path, BuiltInFeatures(), heldout="synthetic:shapes:9", progress=False
    )
    expected = builtin_features(open_images("synthetic:shapes:9", (16, 16)).batch(range(9))[0])
    assert_close(experiments.reference, expected)
    assert experiments.compared == "10 drawn pictures against 9 held-out ones"
    with pytest.raises(UserError, match="synthetic:shapes:7 holds 7 pictures; give at least 8 to compare with"):
        Experiments(SMALL, PICTURES, tmp_path / "b", BuiltInFeatures(), heldout="synthetic:shapes:7", progress=False)


def test_the_paper_compares_with_all_training_pictures(tmp_path):
    scale = replace(SMALL, name="celeba64", reference="training")
    experiments = Experiments(scale, PICTURES, tmp_path, BuiltInFeatures(), progress=False)
    features = builtin_features(open_images(PICTURES, (16, 16)).batch(range(40))[0])
    found, expected = experiments.reference, Moments.of(features)
    assert isinstance(found, Moments)
    assert_close(found.mean, expected.mean)
    assert_close(found.covariance, expected.covariance, rtol=1e-4, atol=1e-6)
    assert experiments.floor() is None
    assert experiments.compared == "10 drawn pictures against 40 training ones"


# Other tables


def test_fewer_steps_are_of_the_same_models(output, monkeypatch):
    make("main", output)
    monkeypatch.setattr(experiments_module, "train", None)
    table = make("steps", output)
    found = rows(table, "method", "sampler", "calls")
    # Both points of every change are kept besides the steps asked for.
    assert [(method, sampler, calls) for method, sampler, calls in found if method in ("DDPM-x0", "SSD (3L)")] == [
        ("DDPM-x0", "ancestral", 4),
        ("DDPM-x0", "ancestral", 3),
        ("DDPM-x0", "DDIM", 2),
        ("SSD (3L)", "ancestral", 8),
        ("SSD (3L)", "ancestral", 7),
        ("SSD (3L)", "DDIM", 6),
    ]
    one = make_plan(SMALL.ddpm("sample").config).one_level_gflops
    assert found["DDPM-x0", "ancestral", 3]["gflops"] == pytest.approx(3 * one)
    first = found["DDPM-x0", "ancestral", 4]
    assert first["speedup"] == 1
    for row in found.values():
        assert row["speedup"] == pytest.approx(first["seconds"] / row["seconds"])
    again = rows(make("main", output), "method")["SSD (3L)",]
    assert found["SSD (3L)", "ancestral", 8]["distance"] == again["distance"]


def test_the_full_unet_runs_all_of_itself_in_every_step(output):
    table = make("architecture", output)
    found = rows(table, "method")
    assert [method for (method,) in found] == ["full U-Net, 2L", "Flexi-UNet, 2L", "full U-Net, 3L", "Flexi-UNet, 3L"]
    one = make_plan(SMALL.ddpm("sample").config).one_level_gflops
    for (method,), row in found.items():
        assert row["gflops"] == pytest.approx(one) if method.startswith("full") else row["gflops"] < 0.95 * one
        assert row["seconds"] > 0
    again = rows(make("main", output), "method")["SSD (3L)",]
    assert found["Flexi-UNet, 3L",]["distance"] == again["distance"]
    assert found["full U-Net, 3L",]["distance"] != again["distance"]


def test_isotropic_noise_is_of_the_same_models(output, monkeypatch):
    make("main", output)
    monkeypatch.setattr(experiments_module, "train", None)
    table = make("anisotropic", output)
    found = rows(table, "method", "noise")
    again = rows(make("main", output), "method")
    for method in ("SSD (2L)", "SSD (3L)"):
        assert found[method, "anisotropic"]["distance"] == again[method,]["distance"]
        assert found[method, "isotropic"]["distance"] != again[method,]["distance"]
    assert len(found) == 4


def test_schedules_are_a_table_and_a_figure(output):
    table = make("schedules", output)
    found = rows(table, "schedule")
    assert found["Equal",]["changes"] == "334, 667"
    assert found["ConvexDecay 0.5",]["changes"] == "556, 890"
    order = sorted(found, key=lambda key: found[key]["gflops"])
    assert (order[0], order[-1]) == (("ConvexDecay 2",), ("ConvexDecay 0.5",))
    with Image.open(output / "schedules.png") as image:
        assert image.info["Description"] == "a command (commit 0123456, version 0.1.0, seed 0)"
    assert "a command (commit 0123456" in (output / "schedules.svg").read_text()


def test_the_figures_show_the_tables(output, monkeypatch):
    from matplotlib.figure import Figure

    tables = {name: make(name, output) for name in ("schedules", "steps")}
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    monkeypatch.setattr("scalespace.reports.figure.write_file", lambda path, write: write(path))
    for table in tables.values():
        table.draw(output)
    (left, right), (axes,) = figures[0].axes, figures[2].axes
    for line in left.lines:
        changes = np.flatnonzero(np.diff(line.get_ydata())) + 2
        row = rows(tables["schedules"], "schedule")[line.get_label(),]
        assert ", ".join(map(str, changes)) == row["changes"]
    for panel, name, across in ((right, "schedules", "hours"), (axes, "steps", "calls")):
        shown = {(bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) for bar in panel.containers}
        assert shown == {(row[across], row["distance"]) for row in tables[name].as_dict()["rows"]}
        assert panel.get_ylabel() == "Frechet distance, built-in features"


def test_information_is_that_of_the_analysis(output):
    table = make("information", output)
    analysis = analyze_pictures(SMALL.ssd(3).config, PICTURES, progress=False)
    for row in table.as_dict()["rows"]:
        t = row["t"]
        assert row["pixels"] == pytest.approx(float(analysis.pixels[t - 1]))
        assert row["if_uniform"] == pytest.approx(float(analysis.pixels_if_uniform[t - 1]))
        assert row["side_of_modes"] == pytest.approx(16 * float(analysis.modes[t - 1]) ** 0.5)
        assert row["schedule"] == (16 if t < 556 else 8 if t < 890 else 4)
    assert {"information.png", "information.svg"} <= {file.name for file in output.iterdir()}


def test_a_table_is_kept_where_there_is_no_matplotlib(output, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = Reproduction(data=PICTURES, output=str(tmp_path))
    reproduce("information", options, SOURCE, scale=SMALL, progress=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["information.json", "information.md"]
    assert "no figure: matplotlib is not installed" in capsys.readouterr().err


# The command


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(paper, "TINY", SMALL)


@pytest.mark.usefixtures("small")
def test_the_command_prints_a_table_and_says_where_it_is(output, capsys, monkeypatch):
    make("main", output)
    monkeypatch.setattr(experiments_module, "train", None)
    words = ["reproduce", "main", "--scale", "tiny", "--data", PICTURES, "--output", str(output)]
    main(words)
    printed = capsys.readouterr()
    assert "| SSD (3L)" in printed.out
    assert f"written: {output / 'main.md'}" in printed.err
    main([*words, "--json", "--quiet"])
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert len(found["rows"]) == 6
    assert found["provenance"]["command"] == " ".join(["scalespace", *words, "--json", "--quiet"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("man --data D", 'there is no table "man"; did you mean main?'),
        ("main", "this table needs pictures; give a folder or a zip of them by --data"),
        ("information", "this table needs pictures"),
        ("main --data nowhere", "there is no data at 'nowhere'"),
        ("main --data D", "D holds 3 pictures, of which at least 8 have to be held out; give 16 or more"),
        ("steps --data synthetic:shapes:40 --heldout D", "D holds 3 pictures; give at least 8 to compare with"),
        ("main --data D --scale paper", "is not aligned CelebA: it holds 3 pictures, not 202,599"),
        ("main --data D --scale paper --dataset imagenet64", "it holds 3 pictures, not 1,281,167"),
        ("main --data D --scale paper --heldout D", "--heldout has no effect with --scale paper, which compares"),
        ("main --data D --scale paper --tflops 0", "--tflops is 0.0; give a number above 0"),
        ("main --data SMALL", "smaller than the image size 16x16"),
    ],
)
def test_what_cannot_be_reproduced_is_one_sentence(words: str, sentence: str, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "D", {f"{n}.png": picture(n) for n in range(3)})
    folder_of(tmp_path / "SMALL", {f"{n}.png": picture(n, (8, 8)) for n in range(20)})
    assert sentence in cli_error(capsys, ["reproduce", *words.split(), "--quiet"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["D", "SMALL"]


def test_the_papers_scale_needs_inception_tells_the_cost_and_waits_for_a_yes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALESPACE_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(paper, "CELEBA", DataSet("faces", 3, None, (16, 16), "faces"))
    folder_of(tmp_path / "D", {f"{n}.png": picture(n) for n in range(3)})
    words = ["reproduce", "main", "--data", "D", "--scale", "paper", "--dataset", "celeba128"]
    assert "the paper's FID needs Inception" in cli_error(capsys, words)
    assert "there are no Inception weights at" in cli_error(capsys, [*words, "--inception-weights", "nowhere.pt"])

    used: list[tuple] = []
    monkeypatch.setattr(paper, "InceptionFeatures", lambda *given: used.append(given) or BuiltInFeatures())
    with pytest.raises(SystemExit) as stop:
        main([*words, "--inception-weights", "weights.pt", "--device", "cpu"])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert used[0][:2] == ("weights.pt", "legacy")
    assert "# Cost of the table main on CelebA of 128 pixels" in errors
    assert errors.endswith("error: nothing has been started; give --yes to start at that cost\n")
    assert [file.name for file in tmp_path.iterdir()] == ["D"]

    asked = []
    monkeypatch.setattr(paper, "Experiments", lambda *given, **_: asked.append(given))
    monkeypatch.setitem(paper.TABLES, "main", lambda request: replace(cost("main", SMALL, 1.0, SOURCE), name="main"))
    main([*words, "--inception-weights", "weights.pt", "--yes", "--device", "cpu"])
    assert asked[0][:3] == (PAPER["celeba128"], "D", Path("runs/reproduce/celeba128-seed0"))
