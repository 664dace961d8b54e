import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.metrics.extractors import Blind, Canary, Inception, Maps, Means, saved
from tests.picture_files import encoded, picture
from tests.process_groups import run_group
from tests.small_models import cli_error, given_once

from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler
from scalespace.cli import main
from scalespace.metrics.builtin_features import builtin_features
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.evaluate import INCEPTION_VARIABLE, Options, evaluate
from scalespace.metrics.features import INCEPTION_SHA256
from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.sides import open_side

QUICK = ("--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _folder(path: Path, count: int, first: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    path.mkdir()
    for k in range(count):
        (path / f"{k:04d}.png").write_bytes(encoded(picture(first + k, size)))
    return path


def _zip(path: Path, count: int, first: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(count):
            archive.writestr(f"photos/{k:04d}.png", encoded(picture(first + k)))
    return path


@pytest.fixture
def sides(tmp_path):
    return str(_folder(tmp_path / "generated", 24)), str(_zip(tmp_path / "reference.zip", 30, 24))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    sizes = ((16, 16), (8, 8))
    network = FlexiUNet(sizes=sizes, base_channels=8, channel_multipliers=(1, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    scheduler = ScaleSpaceScheduler(num_train_timesteps=60, sizes=sizes, change_points=(30,))
    ScaleSpacePipeline(network, scheduler).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _json(capsys, *words) -> dict:
    capsys.readouterr()
    main(["evaluate", *map(str, words), *QUICK, "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_figure_has_counts_and_an_interval(sides, capsys):
    main(["evaluate", *sides, *QUICK])
    text = capsys.readouterr().out
    assert "24 pictures of 16x16" in text
    assert "30 pictures of 16x16" in text
    assert "219 of built-in features, resize none, weights sha256 " in text
    assert "are distances of built-in features and no FID or KID" in text
    assert "rank 23 at most in 219 dimensions, since there are only 24 pictures" in text
    found = _json(capsys, *sides)
    keys = [row["key"] for row in found["metrics"]]
    assert keys == [
        *("fid", "kid", "precision", "recall", "density", "coverage", "swd_16x16", "swd_mean", "spectrum"),
        *("colour_channels", "colour_saturation", "colour_brightness", "colour_contrast"),
    ]
    for row in found["metrics"]:
        assert row["counts"] == [24, 30]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["name"] in text
    assert found["features"]["extractor"] == "built-in"
    assert found["intervals"] == {"nominal_level": 0.95, "method": "jackknife", "groups": 24, "seed": 0}
    assert found["source"]["seed"] == 0
    assert (found["generated"]["count"], found["reference"]["image_size"]) == (24, [16, 16])


def test_the_figures_are_those_of_the_functions(sides):
    found = evaluate(*sides, Options(("fid",), intervals=False), progress=False)
    pictures = [open_side(side, Sampling(), progress=False).pictures for side in sides]
    expected = frechet(*(builtin_features(p) for p in pictures if p is not None), intervals=False).value
    assert found.rows[0].measured.value == pytest.approx(expected, rel=1e-5)
    assert found.rows[0].measured.low is None


def test_the_same_command_gives_the_same_figures_and_another_seed_other_intervals(sides, capsys):
    first, second, other = (_json(capsys, *sides, "--seed", seed)["metrics"] for seed in (3, 3, 4))
    assert first == second
    assert first[0]["value"] == other[0]["value"]
    assert first[0]["low"] != other[0]["low"]


def test_statistics_stand_in_for_the_pictures(sides, tmp_path, capsys):
    direct = _json(capsys, *sides, "--metrics", "fid,kid,prdc")
    for keep, keys in ((["--save-features"], ["fid", "kid", "precision"]), ([], ["fid"])):
        path = tmp_path / "reference.npz"
        main(["evaluate", *sides, *QUICK, "--metrics", "fid", "--save-statistics", str(path), *keep])
        found = _json(capsys, sides[0], path)
        assert [row["key"] for row in found["metrics"]][: len(keys)] == keys
        assert "spectrum" not in [row["key"] for row in found["metrics"]]
        for row, expected in zip(found["metrics"], direct["metrics"], strict=False):
            assert row["value"] == pytest.approx(expected["value"], rel=1e-6)
    assert any("moments alone" in note for note in found["notes"])
    assert "kid needs features, and the statistics" in cli_error(
        capsys, ["evaluate", sides[0], str(path), *QUICK, "--metrics", "fid,kid"]
    )
    assert "swd needs pictures, and the statistics" in cli_error(
        capsys, ["evaluate", sides[0], str(path), *QUICK, "--metrics", "swd"]
    )


def test_statistics_of_another_mode_or_size_are_refused(sides, tmp_path, capsys):
    extractor, _ = saved(Means(), tmp_path / "means.pt")
    path = str(tmp_path / "reference.npz")
    main(["evaluate", *sides, *QUICK, "--metrics", "fid", "--save-statistics", path])
    error = cli_error(capsys, ["evaluate", sides[0], path, *QUICK, "--features", extractor, "--trust"])
    assert "are of built-in features, resize none" in error
    assert "this run takes torchscript features" in error
    resized = ["--features", extractor, "--features-size", "20", "--trust"]
    main(["evaluate", *sides, *QUICK, *resized, "--metrics", "fid", "--save-statistics", path])
    error = cli_error(capsys, ["evaluate", sides[0], path, *QUICK, *resized, "--resize", "legacy"])
    assert "resize clean 20" in error
    assert "resize legacy 20" in error
    small = str(_folder(tmp_path / "small", 3, size=(12, 12)))
    error = cli_error(capsys, ["evaluate", small, path, *QUICK, *resized])
    assert "are smaller than the image size 16x16" in error


def test_features_of_a_file_and_of_inception_are_named_so(sides, tmp_path, capsys, monkeypatch):
    path, sha256 = saved(Means(), tmp_path / "means.pt")
    found = _json(capsys, *sides, "--metrics", "fid,prdc", "--features", path, "--trust")
    assert found["metrics"][0]["name"] == "Frechet distance, torchscript features"
    assert found["features"] == {
        "extractor": "torchscript",
        "resize": "none",
        "fingerprint": sha256,
        "dimensions": 6,
    }
    path, sha256 = saved(Inception(), tmp_path / "inception.pt")
    monkeypatch.setattr("scalespace.metrics.features.INCEPTION_SHA256", sha256)
    monkeypatch.setenv(INCEPTION_VARIABLE, path)
    found = _json(capsys, *sides, "--metrics", "fid,kid", "--resize", "legacy")
    assert [row["name"] for row in found["metrics"]] == ["FID", "KID, x 1000"]
    assert found["features"]["resize"] == "legacy 299"
    assert not any("no FID" in note for note in found["notes"])


def test_missing_or_wrong_inception_weights_say_which_file_and_where_it_is(sides, tmp_path, capsys, monkeypatch):
    missing = str(tmp_path / "nothing.pt")
    wrong, _ = saved(Means(), tmp_path / "means.pt")
    for path, sentence in ((missing, "there are no Inception weights at"), (wrong, "is not the Inception of FID")):
        for words, value in ((["--inception-weights", path], ""), ([], path)):
            monkeypatch.setenv(INCEPTION_VARIABLE, value)
            error = cli_error(capsys, ["evaluate", *sides, *QUICK, *words])
            assert sentence in error
            assert INCEPTION_SHA256 in error
            assert "https://" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--metrics fid,is", '"is" cannot be measured; use some of fid,kid,prdc,swd,spectrum,colour'),
        ("--neighbours 0", "--neighbours is 0"),
        ("--neighbours 24", "prdc cannot be measured, since there are 24 generated pictures and 24 neighbours"),
        ("--features x.pt --inception-weights y.pt", "name two extractors"),
        ("--features-size 32", "--features-size has no effect without a file of an extractor; leave"),
        ("--trust", "--trust has no effect without a file of an extractor; leave --trust"),
        ("--features x.pt --features-size 0", "--features-size is 0; give 1 to 4096 pixels"),
        ("--features x.pt --features-size -5", "--features-size is -5"),
        ("--features x.pt --features-size 1000000000", "--features-size is 1000000000; give 1 to"),
        ("--metrics ,", "--metrics names none; use some of fid,kid,prdc,swd,spectrum,colour, or leave it out"),
        ("--neighbours -1", "--neighbours is -1"),
        ("--neighbours 1000000000000", "since there are 24 generated pictures and 1000000000000 neighbours"),
        ("--seed 99999999999", "--seed is 99999999999; give 0 to 4294967295"),
        ("--save-features", "--save-features has no effect without --save-statistics; leave"),
        ("--features nothing.pt", "there is no feature extractor at nothing.pt"),
        ("--seed -1", "--seed is -1"),
        ("--save-statistics x.json", "name it x.npz"),
        ("--device nonsense", 'device "nonsense" cannot be used'),
    ],
)
def test_options_that_cannot_be_are_one_sentence(words, sentence, sides, capsys):
    assert sentence in cli_error(capsys, given_once("evaluate", *sides, *QUICK, *words.split()))


def test_a_torchscript_file_does_not_run_without_trust(sides, tmp_path, capsys):
    marker = tmp_path / "it ran"
    path, sha256 = saved(Canary(marker), tmp_path / "canary.pt")
    error = cli_error(capsys, ["evaluate", *sides, *QUICK, "--features", path])
    assert f"canary.pt (sha256 {sha256}) is TorchScript, a program" in error
    assert "add --trust if you know where it is from" in error
    assert not marker.exists()
    _json(capsys, *sides, "--metrics", "fid", "--features", path, "--trust")
    assert marker.exists()


def test_where_statistics_cannot_be_written_is_said_before_anything_is_computed(sides, tmp_path, capsys, monkeypatch):
    def no_computing(*_):
        raise AssertionError("a side was opened")

    monkeypatch.setattr("scalespace.metrics.evaluate.open_sides", no_computing)
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    for path, sentence in (
        (tmp_path / "folder.npz", ", which is a folder"),
        (tmp_path / "file" / "reference.npz", " (Not a directory)"),
        (tmp_path / ("x" * 300 + ".npz"), " (File name too long)"),
    ):
        words = ["evaluate", *sides, *QUICK, "--save-statistics", str(path)]
        assert f"cannot write {path}{sentence}" in cli_error(capsys, words)


def test_what_was_found_is_printed_where_the_statistics_cannot_be_written_after_all(
    sides, tmp_path, capsys, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    words = ["evaluate", *sides, *QUICK, "--metrics", "fid", "--json", "--save-statistics", str(tmp_path / "r.npz")]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert json.loads(printed.out)["metrics"][0]["key"] == "fid"
    assert "r.npz (the disk is full)" in printed.err


@pytest.mark.parametrize(
    ("module", "sentence"), [(Maps(), "give one whose output is one row of features"), (Blind(), "are not all finite")]
)
def test_extractors_that_do_not_fit_are_one_sentence(module, sentence, sides, tmp_path, capsys):
    path, _ = saved(module, tmp_path / "module.pt")
    assert sentence in cli_error(capsys, ["evaluate", *sides, *QUICK, "--features", path, "--trust"])


def test_features_in_a_file_that_are_no_numbers_are_one_sentence(sides, tmp_path, capsys):
    path = str(tmp_path / "reference.npz")
    main(["evaluate", *sides, *QUICK, "--metrics", "fid", "--save-statistics", path, "--save-features"])
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["features"][3, 5] = np.nan
    np.savez(path, **arrays)
    assert "is no whole statistics file (values are not finite)" in cli_error(
        capsys, ["evaluate", sides[0], path, *QUICK]
    )


def _equal(folder: Path) -> Path:
    folder.mkdir()
    for k in range(8):
        (folder / f"{k}.png").write_bytes(encoded(picture(0)))
    return folder


def _grey(folder: Path) -> Path:
    folder.mkdir()
    for k in range(8):
        # As a model in colour stores pictures without any.
        (folder / f"{k}.png").write_bytes(encoded(picture(k).convert("L").convert("RGB")))
    return folder


def _damaged(folder: Path) -> Path:
    (_folder(folder, 5) / "0002.png").write_bytes(b"\x89PNG and no more")
    return folder


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: _folder(folder, 1), "gives 1 picture; a distance of sets needs at least 2 on each side"),
        (_equal, "all 8 pictures of"),
        (_grey, "are grey and those of"),
        (_damaged, "cannot be decoded, more than 1 % of all 5 (0002.png: "),
        (lambda folder: folder, "there is no data at"),
    ],
)
def test_a_side_that_does_not_fit_is_one_sentence(make, sentence, sides, tmp_path, capsys):
    side = str(make(tmp_path / "side"))
    for pair in ((side, sides[1]), (sides[1], side)):
        assert sentence in cli_error(capsys, ["evaluate", *pair, *QUICK])


def test_a_model_of_colours_may_draw_grey_pictures(model, sides, monkeypatch, capsys):
    grey = torch.randint(256, (8, 1, 16, 16), dtype=torch.uint8).expand(8, 3, 16, 16)
    monkeypatch.setattr("scalespace.metrics.sides.draw", lambda *_: grey)
    assert _json(capsys, str(model), sides[1], "--metrics", "swd", "--num-images", "8")["generated"]["count"] == 8


def test_small_pictures_need_another_extractor(tmp_path, capsys):
    sides = [str(_folder(tmp_path / name, 8, first, (12, 12))) for name, first in (("a", 0), ("b", 8))]
    assert "pictures of 12x12 are too small for the built-in features" in cli_error(
        capsys, ["evaluate", *sides, *QUICK]
    )
    assert _json(capsys, *sides, "--metrics", "swd,colour")["metrics"][0]["key"] == "swd_12x12"


def test_pictures_are_read_as_they_are_stored(sides):
    side = open_side(sides[0], Sampling(), progress=False)
    assert side.pictures is not None
    assert (side.pictures[5].permute(1, 2, 0).numpy() == np.asarray(picture(5))).all()


def test_synthetic_pictures_take_the_size_of_the_other_side(sides):
    found = evaluate("synthetic:shapes:20", sides[1], Options(("colour",), intervals=False), progress=False)
    assert (found.generated.count, found.generated.image_size) == (20, (16, 16))
    found = evaluate(sides[0], "synthetic:shapes:20", Options(("colour",), intervals=False), progress=False)
    assert (found.reference.count, found.generated.count) == (20, 24)


def test_pictures_of_a_model_are_those_that_sample_writes(model, tmp_path):
    words = "--num-images 7 --steps 4 --seed 5 --quiet --trajectory --device cpu --output"
    main(["sample", model, *words.split(), str(tmp_path / "drawn")])
    sampling = Sampling(num_images=7, steps=4, seed=5, batch_size=3)
    drawn = open_side(model, sampling, progress=False).pictures
    # The sheets beside the pictures are none of them.
    written = open_side(str(tmp_path / "drawn"), sampling, progress=False).pictures
    assert drawn is not None
    assert written is not None
    assert drawn.shape == written.shape
    assert int((drawn.int() - written.int()).abs().max()) <= 1
    solver = open_side(model, Sampling(7, 4, 5, 3, solver="ddim", eta=0.0), progress=False).pictures
    assert solver is not None
    assert not torch.equal(drawn, solver)


def test_a_model_that_cannot_be_drawn_from_is_one_sentence(model, sides, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    Path(model).rename(tmp_path / "run" / "model")
    run, model = str(tmp_path / "run"), str(tmp_path / "run" / "model")
    for words, sentence in (
        ([run], "is the folder of a training run; the model in it is"),
        ([model, "--num-images", "0"], "--num-images is 0"),
        ([model, "--num-images", "1"], "gives 1 picture"),
        ([model, "--steps", "1"], "1"),
        ([model, "--eta", "-1", "--solver", "ddim"], "eta"),
    ):
        assert sentence in cli_error(capsys, ["evaluate", words[0], sides[1], *words[1:], *QUICK])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num-images", "1000000000000"], "1,000,000,000,000 pictures of 16x16 need at least 768 TB of disk"),
        (
            ["--num-images", "1000000000000", "--batch-size", "1000000000000"],
            "drawing 1,000,000,000,000 pictures together",
        ),
        (["--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_what_is_out_of_all_proportion_is_refused_before_memory_is_taken(words, sentence, model, sides, capsys):
    assert sentence in cli_error(capsys, ["evaluate", model, sides[1], *words, "--steps", "4", *QUICK])


def test_a_batch_is_never_larger_than_what_is_drawn(model, sides, capsys):
    words = ["--num-images", "5", "--steps", "4", "--metrics", "colour"]
    found = [_json(capsys, model, sides[1], *words, "--batch-size", size) for size in ("1000000000000", "5")]
    assert found[0]["metrics"] == found[1]["metrics"]


def test_drawing_that_would_take_months_says_so_after_its_first_batch(model, sides, capsys, monkeypatch):
    monkeypatch.setattr("scalespace.metrics.drawing._LONGEST", 1e-3)
    words = ["--num-images", "1000000", "--steps", "4"]
    error = cli_error(capsys, ["evaluate", model, sides[1], *words, *QUICK])
    assert "--num-images 1000000 would take about" in error
    assert "days, since the first 16 pictures took" in error


def test_what_is_wrong_with_the_other_side_is_said_before_drawing(model, capsys, monkeypatch):
    def no_drawing(*_):
        raise AssertionError("pictures were drawn")

    monkeypatch.setattr("scalespace.metrics.sides.draw", no_drawing)
    for pair in ((model, "nothing.zip"), ("nothing.zip", model)):
        assert "there is no data at 'nothing.zip'" in cli_error(capsys, ["evaluate", *pair, *QUICK])


def test_two_processes_share_the_drawing_and_one_reports(model, sides, tmp_path):
    words = [
        "evaluate",
        model,
        sides[1],
        "--num-images",
        "9",
        "--steps",
        "4",
        "--metrics",
        "colour,fid",
        *QUICK,
        "--json",
    ]
    both, alone = run_group(2, words, tmp_path / "both"), run_group(1, words, tmp_path / "alone")
    assert [process.code for process in (*both, *alone)] == [0, 0, 0]
    assert both[1].out == ""
    told = [json.loads(processes[0].out)["metrics"] for processes in (both, alone)]
    for row, expected in zip(*told, strict=True):
        assert row["counts"] == [9, 30]
        assert row["value"] == pytest.approx(expected["value"], rel=0.02)


def test_bars_do_not_show_with_quiet(sides, capsys):
    main(["evaluate", *sides, *QUICK, "--metrics", "fid"])
    assert capsys.readouterr().err == ""


def test_a_zip_of_large_pictures_is_kept_in_a_file(sides, monkeypatch):
    in_memory = open_side(sides[1], Sampling(), progress=False).pictures
    monkeypatch.setattr("scalespace.metrics.drawing._IN_MEMORY", 1000)
    in_file = open_side(sides[1], Sampling(), progress=False).pictures
    assert in_memory is not None
    assert in_file is not None
    assert torch.equal(in_memory, in_file)
