import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.metrics.features import Mode
from scalespace.metrics.frechet_distance import Moments
from scalespace.metrics.statistics import Statistics, holds_no_mode, read_statistics, write_statistics


def _statistics(keep: bool) -> Statistics:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    mode = Mode("built-in", "none", "abc")
    return Statistics(mode, "photos.zip", (16, 24), Moments.of(features), features if keep else None)


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_gives_back_what_was_written(keep, tmp_path):
    written = _statistics(keep)
    write_statistics(tmp_path / "new" / "photos.npz", written)
    read = read_statistics(tmp_path / "new" / "photos.npz")
    assert (read.mode, read.name, read.image_size, read.moments.count) == (written.mode, "photos.zip", (16, 24), 9)
    assert_close(read.moments.mean, written.moments.mean, rtol=0, atol=0)
    assert_close(read.moments.covariance, written.moments.covariance, rtol=0, atol=0)
    assert_close(read.features, written.features, rtol=0, atol=0)


def _changed(path: Path, **changes: object) -> None:
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigma": np.eye(3)}, "is no whole statistics file .shapes do not fit each other."),
        ({"mu": np.full(4, np.nan)}, "is no whole statistics file .values are not finite."),
        ({"mu": None}, "is no whole statistics file"),
        ({"features": np.zeros((3, 4))}, "shapes do not fit each other"),
        ({"about": np.array("not JSON")}, "is no whole statistics file"),
        ({"about": np.array('{"format": "other"}')}, "is of another version .other."),
        (
            {"mu": np.array([{}], dtype=object)},
            "is no whole statistics file .mu holds pickled objects.*; make it again",
        ),
    ],
)
def test_a_damaged_file_is_one_sentence(changes, sentence, tmp_path):
    path = tmp_path / "photos.npz"
    write_statistics(path, _statistics(False))
    _changed(path, **changes)
    with pytest.raises(UserError, match=sentence):
        read_statistics(path)


def _told(**changes: object) -> dict[str, object]:
    mode = {"extractor": "built-in", "resize": "none", "fingerprint": "abc"}
    about = {"format": "scalespace statistics 2", "mode": mode, "name": "x", "count": 9, "image_size": [16, 24]}
    return {"about": np.array(json.dumps(about | changes))}


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {name: value}
            for name in ("mode", "name", "count", "image_size")
            for value in (None, True, [], {}, 1.5, 10**400)
        ),
        *({"count": count} for count in (0, -1, True)),
        *({"image_size": size} for size in ([16], [16, 24, 3], [0, 24], ["16", "24"])),
        *({"preparation": made} for made in ("x", {"rule": 1}, [1])),
        {"mode": {"extractor": 1, "resize": "none", "fingerprint": "abc"}},
        {"grey": "yes"},
    ],
    ids=lambda changes: f"{changes!s:.40}",
)
def test_what_a_file_says_of_itself_is_checked(changes, tmp_path):
    path = tmp_path / "photos.npz"
    write_statistics(path, _statistics(False))
    _changed(path, **_told())
    read_statistics(path)
    _changed(path, **_told(**changes))
    with pytest.raises(UserError, match="is no whole statistics file"):
        read_statistics(path)


def test_an_array_that_is_said_to_be_larger_than_it_is_takes_no_memory(tmp_path):
    path = tmp_path / "photos.npz"
    write_statistics(path, _statistics(False))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = parts["sigma.npy"]
    # The header is padded, so that it may be longer.
    parts["sigma.npy"] = header.replace(b"(4, 4), }          ", b"(4, 10000000000), }")
    assert parts["sigma.npy"] != header
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="sigma is cut short"):
        read_statistics(path)


def test_files_of_other_programs_and_other_endings_are_refused(tmp_path):
    np.savez(tmp_path / "fid.npz", activations=np.zeros((5, 3)))
    with pytest.raises(UserError, match=r"holds no statistics, which are mu and sigma \(it holds activations\)"):
        read_statistics(tmp_path / "fid.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="is no whole statistics file"):
        read_statistics(tmp_path / "text.npz")
    with pytest.raises(UserError, match=r"name it photos\.npz"):
        write_statistics(tmp_path / "photos.json", _statistics(False))


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "photos.npz"
    written = _statistics(False)
    write_statistics(path, written)
    names = {"mu": None, "sigma": None, "mean": written.moments.mean, "covariance": written.moments.covariance}
    _changed(path, **names, **_told(format="scalespace statistics 1"))
    read = read_statistics(path).moments
    assert_close((read.mean, read.covariance), (written.moments.mean, written.moments.covariance), rtol=0, atol=0)


def test_mean_and_covariance_of_other_programs_are_read_and_they_read_ours(tmp_path):
    # As pytorch-fid writes them, and guided-diffusion with further ones, some in float32.
    moments = _statistics(False).moments
    mu, sigma = moments.mean.numpy(), moments.covariance.numpy()
    np.savez_compressed(tmp_path / "fid.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", mu=mu.astype("f4"), sigma=sigma.astype("f4"), mu_s=mu, sigma_s=sigma)
    for name, rtol in (("fid.npz", 0.0), ("adm.npz", 1e-6)):
        read = read_statistics(tmp_path / name)
        assert (read.mode, read.image_size, read.features, read.moments.count) == (None, None, None, 0)
        assert_close(
            (read.moments.mean, read.moments.covariance), (moments.mean, moments.covariance), rtol=rtol, atol=1e-7
        )
        assert holds_no_mode(tmp_path / name)
        with pytest.raises(UserError, match="do not say what they are of"):
            write_statistics(tmp_path / "again.npz", read)
    write_statistics(tmp_path / "ours.npz", _statistics(True))
    # What pytorch-fid does with a file.
    with np.load(tmp_path / "ours.npz") as file:
        assert np.array_equal(file["mu"][:], mu)
        assert np.array_equal(file["sigma"][:], sigma)
    assert not holds_no_mode(tmp_path / "ours.npz")


@pytest.mark.parametrize(
    ("mu", "sigma", "fault"),
    [
        (np.zeros(3), np.eye(4), "shapes do not fit each other"),
        (np.zeros((3, 1)), np.eye(3), "shapes do not fit each other"),
        (np.zeros(0), np.zeros((0, 0)), "there are no pictures"),
        (np.zeros(3), np.triu(np.ones((3, 3))), "sigma is not symmetric"),
        (np.zeros(3), np.full((3, 3), np.inf), "values are not finite"),
        (np.zeros(3, int), np.eye(3), "values are not finite"),
        (np.array([{}] * 3, dtype=object), np.eye(3), "mu holds pickled objects, which are programs"),
    ],
)
def test_mean_and_covariance_that_are_none_are_one_sentence(mu, sigma, fault, tmp_path):
    np.savez(tmp_path / "fid.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=f"fid.npz is no whole statistics file .{fault}"):
        read_statistics(tmp_path / "fid.npz")
