"""The mean spectrum: what it is, that it is measured once, and a run that takes its resolutions from it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.small_models import cli_error, small_config, train_words
from torch import Tensor
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.data import spectrum as spectrum_module
from scalespace.data.batches import to_model
from scalespace.data.images import ImageDataset, open_images
from scalespace.data.spectrum import mean_spectrum
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.errors import UserError
from scalespace.pipelines.saving import load_pipeline
from scalespace.training.build import build_scheduler, spectral_schedule, with_data
from scalespace.training.configuration import ModelConfig, ProcessConfig, TrainConfig
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def shapes(count: int = 16, size: tuple[int, int] = (8, 8)) -> ImageDataset:
    return open_images(f"synthetic:shapes:{count}", size, progress=False)


def pixels(data: ImageDataset) -> Tensor:
    return to_model(data.batch(range(len(data)))[0]).double()


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def measured(cache: Path) -> list[Path]:
    return [path for path in kept(cache) if path.parent.name == "measurements"]


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_):
        raise AssertionError("a picture was read")

    monkeypatch.setattr(ImageDataset, "batch", read)


# What it is


def test_it_is_the_mean_square_of_the_cosine_transform():
    data = shapes(5, (6, 4))
    x = pixels(data).numpy()
    expected = np.zeros((6, 4))
    for k in range(6):
        for j in range(4):
            rows = np.cos(np.pi * k * (np.arange(6) + 0.5) / 6) * np.sqrt((1 if k == 0 else 2) / 6)
            columns = np.cos(np.pi * j * (np.arange(4) + 0.5) / 4) * np.sqrt((1 if j == 0 else 2) / 4)
            expected[k, j] = (np.einsum("bchw,h,w->bc", x, rows, columns) ** 2).mean()
    measured = mean_spectrum(data, progress=False)
    assert measured.dtype == torch.float64
    assert_close(measured, torch.from_numpy(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [(8, 8), (12, 7)])
def test_its_mean_is_the_mean_square_of_a_pixel(size):
    # More pictures than are measured at once.
    data = shapes(150, size)
    assert float(mean_spectrum(data, progress=False).mean()) == pytest.approx(float(pixels(data).square().mean()))


def test_stripes_have_power_in_their_own_direction(tmp_path):
    stripes = np.zeros((8, 8, 3), dtype=np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    measured = mean_spectrum(open_images(str(tmp_path), (8, 8), progress=False), progress=False)
    assert float(measured[:, 0].sum()) == pytest.approx(64)
    assert measured[:, 0].argmax() == 7


def test_of_grey_pictures_it_is_that_of_their_luminance():
    grey = open_images("synthetic:shapes:16", (8, 8), channels=1, progress=False)
    assert float(mean_spectrum(grey, progress=False).mean()) == pytest.approx(float(pixels(grey).square().mean()))
    assert not torch.equal(mean_spectrum(grey, progress=False), mean_spectrum(shapes(), progress=False))


def test_a_spectrum_with_a_damaged_picture_is_not_kept(tmp_path, cache):
    for index, image in enumerate(shapes(100).batch(range(100))[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index:02}.png")
    (tmp_path / "07.png").write_bytes(b"")
    mean_spectrum(open_images(str(tmp_path), (8, 8), cache_bytes=0, progress=False), progress=False)
    assert kept(cache / "scalespace" / "measurements") == []


def test_pictures_replaced_under_their_names_and_sizes_are_measured_anew(tmp_path):
    measured = []
    for level in (50, 200):
        for index in range(12):
            Image.new("RGB", (8, 8), (level, index, 0)).save(tmp_path / f"{index}.bmp")
        measured.append(mean_spectrum(open_images(str(tmp_path), (8, 8), progress=False), progress=False))
    assert float(measured[0][0, 0]) != pytest.approx(float(measured[1][0, 0]), rel=0.01)


def test_a_larger_data_set_is_measured_at_equal_distances(monkeypatch):
    monkeypatch.setattr(spectrum_module, "PICTURES", 4)
    data = shapes(10)
    chosen = pixels(data)[[0, 2, 5, 7]]
    assert float(mean_spectrum(data, progress=False).mean()) == pytest.approx(float(chosen.square().mean()))


def test_a_bar_is_shown_where_it_takes_long_unless_it_is_not_wanted(cache, monkeypatch, capsys):
    mean_spectrum(shapes())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("scalespace.reports.progress._DELAY", 0)
    for file in kept(cache):
        file.unlink()
    mean_spectrum(shapes())
    assert "measuring the spectrum" in capsys.readouterr().err
    for file in kept(cache):
        file.unlink()
    mean_spectrum(shapes(), progress=False)
    assert capsys.readouterr().err == ""


# Measured once


def test_a_second_measurement_reads_no_pictures_and_is_the_same(cache, monkeypatch):
    first = mean_spectrum(shapes(), progress=False)
    assert len(measured(cache)) == 1
    with monkeypatch.context() as patch:
        refuse_to_read(patch)
        assert_close(mean_spectrum(shapes(), progress=False), first, rtol=0, atol=0)
        with pytest.raises(AssertionError, match="a picture was read"):
            mean_spectrum(shapes(17), progress=False)
        with pytest.raises(AssertionError, match="a picture was read"):
            mean_spectrum(shapes(size=(8, 6)), progress=False)
    measured(cache)[0].unlink()
    assert_close(mean_spectrum(shapes(), progress=False), first, rtol=0, atol=0)


def test_other_pictures_are_measured_anew(tmp_path):
    (tmp_path / "data").mkdir()
    for index, image in enumerate(shapes(16).batch(range(16))[0]):
        Image.fromarray(255 - image.permute(1, 2, 0).numpy() // 2).save(tmp_path / "data" / f"{index}.png")
    first = mean_spectrum(shapes(), progress=False)
    other = mean_spectrum(open_images(str(tmp_path / "data"), (8, 8), progress=False), progress=False)
    assert float(other[1:, 1:].mean()) == pytest.approx(float(first[1:, 1:].mean()) / 4, rel=0.05)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def write_nonsense(file: Path) -> None:
    file.write_text("nonsense")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def write_other_tensor(file: Path) -> None:
    save_file({"other": torch.ones(8, 8)}, file)


def write_other_shape(file: Path) -> None:
    save_file({"spectrum": torch.ones(4, 4, dtype=torch.float64)}, file)


@pytest.mark.parametrize("damage", [cut, flip_a_bit, write_nonsense, empty, write_other_tensor, write_other_shape])
def test_a_damaged_cache_is_measured_again_and_mended(damage, cache, monkeypatch):
    first = mean_spectrum(shapes(), progress=False)
    damage(kept(cache)[0])
    assert_close(mean_spectrum(shapes(), progress=False), first, rtol=0, atol=0)
    refuse_to_read(monkeypatch)
    assert_close(mean_spectrum(shapes(), progress=False), first, rtol=0, atol=0)


def test_without_a_place_to_keep_it_everything_works(tmp_path, monkeypatch):
    first = mean_spectrum(shapes(), progress=False)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_close(mean_spectrum(shapes(), progress=False), first, rtol=0, atol=0)


def test_a_write_that_fails_leaves_nothing_behind(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    mean_spectrum(shapes(), progress=False)
    assert kept(cache) == []


@pytest.mark.parametrize("variable", ["", "relative/folder"])
def test_the_cache_lies_in_the_home_folder_where_no_other_is_named(variable, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.chdir(tmp_path)
    mean_spectrum(shapes(), progress=False)
    assert len(measured(tmp_path / "home" / ".cache" / "scalespace")) == 1
    assert not (tmp_path / "relative").exists()


# The model that it gives


def test_the_schedule_is_that_of_the_base_noise_and_the_sizes_of_the_model():
    process = ProcessConfig((16, 12), levels=3, resolution="auto", tolerance=0.02, shifted=True)
    spectrum = mean_spectrum(shapes(50, (16, 12)), progress=False)
    expected = FromSpectrum(spectrum, ((16, 12), (8, 6), (4, 3)), LinearBeta(), 0.02).change_points(1000)
    assert spectral_schedule(ModelConfig(process), spectrum).change_points(1000) == expected
    scheduler = build_scheduler(with_data(ModelConfig(process), spectrum))
    assert scheduler.process.degradation.change_points == expected
    by_hand = with_data(ModelConfig(ProcessConfig(sizes=((16, 12), (8, 6), (4, 3)), tolerance=0.02)), spectrum)
    assert by_hand.process.change_points == expected
    one = with_data(ModelConfig(ProcessConfig((16, 12), levels=1, resolution="auto")), spectrum)
    assert build_scheduler(one).sizes == ((16, 12),)


def test_a_model_without_its_data_is_refused():
    with pytest.raises(UserError, match='schedule "auto" reads its change points off the pictures; give --data'):
        build_scheduler(ModelConfig(ProcessConfig(resolution="auto")))


# A run

AUTO: dict[str, Any] = {"tolerance": 0.03, "resolution": "auto"}


def auto_config(output_dir: Path, **changes: Any) -> TrainConfig:
    process = {"levels": 2, "timesteps": 20, "beta_start": 0.02, "beta_end": 0.4} | AUTO | changes.pop("process", {})
    return small_config(output_dir, process=ProcessConfig((8, 8), **process), **changes)


def quiet_train(config: TrainConfig, said: list[str] | None = None) -> RunDirectory:
    return train(config, progress=False, say=[].append if said is None else said.append)


def test_a_run_takes_its_resolutions_from_its_data_and_the_model_knows_them(tmp_path):
    said: list[str] = []
    config = auto_config(tmp_path / "run", max_steps=3)
    run = quiet_train(config, said)
    expected = spectral_schedule(config, mean_spectrum(shapes(), progress=False)).change_points(20)
    assert expected == (9,)
    assert said[-1] == "change points read off the data: 9"
    process = load_pipeline(run.model_path).scheduler.process
    assert process.degradation.change_points == expected
    assert process.degradation.sizes == ((8, 8), (4, 4))
    assert json.loads((run.path / "run.json").read_text())["process"]["change_points"] == [9]


def test_a_run_that_takes_its_resolutions_from_its_data_is_resumed(tmp_path):
    straight = quiet_train(auto_config(tmp_path / "straight"))
    quiet_train(auto_config(tmp_path / "resumed", max_steps=3))
    said: list[str] = []
    resumed = quiet_train(auto_config(tmp_path / "resumed"), said)
    assert said[-2:] == ["change points read off the data: 9", f"resuming {tmp_path / 'resumed'} at step 3"]
    losses = [[line["losses"] for line in run.read_log()] for run in (straight, resumed)]
    assert losses[0] == losses[1]
    assert any("4x4" in names for names in losses[0])
    with pytest.raises(UserError, match=r"holds a different run: process\.tolerance is 0\.03 there and 0\.1 here"):
        quiet_train(auto_config(tmp_path / "resumed", process={"tolerance": 0.1}))


def test_a_run_is_not_resumed_with_other_change_points(tmp_path, monkeypatch):
    quiet_train(auto_config(tmp_path / "run", max_steps=3))
    other = mean_spectrum(shapes(), progress=False) / 3
    monkeypatch.setattr("scalespace.training.loop.mean_spectrum", lambda *_: other)
    with pytest.raises(UserError, match=r"holds a different run: process\.change_points is \[9\] there and \[6\] here"):
        quiet_train(auto_config(tmp_path / "run"))


def test_change_points_by_hand_win_over_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("scalespace.training.loop.mean_spectrum", lambda *_: pytest.fail("measured"))
    run = quiet_train(auto_config(tmp_path / "run", max_steps=1, process={"change_points": (14,)}))
    assert load_pipeline(run.model_path).scheduler.process.degradation.change_points == (14,)


def test_a_run_of_one_level_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("scalespace.training.loop.mean_spectrum", lambda *_: pytest.fail("measured"))
    run = quiet_train(auto_config(tmp_path / "run", max_steps=1, process={"levels": 1}))
    assert load_pipeline(run.model_path).scheduler.sizes == ((8, 8),)


def test_the_command_line_trains_with_it(tmp_path, capsys):
    main(train_words(tmp_path / "run", "--process.resolution", "auto", "--process.tolerance", "0.03"))
    assert "change points read off the data: 9\n" in capsys.readouterr().out
    assert load_pipeline(tmp_path / "run" / "model").scheduler.process.degradation.change_points == (9,)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--process.tolerance 1.5", "tolerance is 1.5; give a mode-SNR above 0 and below 1"),
        ("--process.tolerance 1e-9", "the octave from 8x8 to 4x4 never sinks below the tolerance 1e-09"),
        ("--process.levels 5", "leave 0 pixels at the smallest"),
        ("--process.levels 0", "a schedule of 0 levels"),
        ("--process.levels 3 --process.timesteps 2", "leave a level without a grid point"),
        ("--process.image-size 6 6 --change-share 2", "change_share is 2.0"),
    ],
)
def test_a_run_that_cannot_take_its_resolutions_from_its_data_is_one_sentence(words, sentence, tmp_path, capsys):
    words = ["--process.resolution", "auto", *words.split()]
    assert sentence in cli_error(capsys, train_words(tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_flat_pictures_are_one_sentence(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * index, dtype=np.uint8)).save(tmp_path / "data" / f"{index}.png")
    words = train_words(tmp_path / "run", "--process.resolution", "auto", data=tmp_path / "data")
    assert "the spectrum is zero, negative or not finite in 63 of 64 coefficients" in cli_error(capsys, words)
    assert not (tmp_path / "run").exists()


# Real pictures

SHARED = Path(os.environ.get("SCALESPACE_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.mark.parametrize(("pack", "points"), [("photos64", (323, 513, 652)), ("faces64", (162, 425, 610))])
def test_natural_pictures_lose_one_octave_after_the_other(pack, points):
    path = SHARED / "data" / f"{pack}.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there; SCALESPACE_SHARED names the folder of the packs")
    data = open_images(str(path), (64, 64), cache_bytes=0, progress=False)
    model = ModelConfig(ProcessConfig((64, 64), levels=4))
    found = spectral_schedule(model, mean_spectrum(data, progress=False)).change_points(1000)
    # Pictures that another version of a decoder rounds otherwise may move a point by one.
    assert found == pytest.approx(points, abs=1)
