import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.metrics.extractors import Blind, Canary, Inception, Layers, Maps, Means, Needs32, saved
from tests.metrics.sets import pictures
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.metrics.builtin_features import builtin_features, builtin_fingerprint
from scalespace.metrics.features import (
    INCEPTION_SHA256,
    BuiltInFeatures,
    InceptionFeatures,
    Mode,
    TorchScriptFeatures,
    extract,
    resized,
)


def test_built_in_features_say_what_they_are():
    x = pictures(70, (16, 16))
    assert BuiltInFeatures().mode == Mode("built-in", "none", builtin_fingerprint())
    # More pictures than go through at once.
    assert_close(extract(BuiltInFeatures(), x), builtin_features(x), rtol=1e-4, atol=1e-4)


def test_a_torchscript_file_is_used_and_known_by_its_hash(tmp_path):
    path, sha256 = saved(Means(), tmp_path / "means.pt")
    extractor = TorchScriptFeatures(path, trust=True)
    assert extractor.mode == Mode("torchscript", "none", sha256)
    x = pictures(5)
    assert_close(extract(extractor, x), Means()(x.float()))
    assert TorchScriptFeatures(path, 24, "legacy", trust=True).mode.resize == "legacy 24"
    assert_close(extract(TorchScriptFeatures(path, 24, trust=True), x), Means()(resized(x, 24, "clean")))


@pytest.mark.parametrize(
    ("module", "side", "sentence"),
    [
        (Maps(), None, r"gave shape \(3, 3, 16, 16\) for 3 pictures; give one whose output is one row"),
        (Blind(), None, "the torchscript features of pictures are not all finite"),
        (Needs32(), None, r"fails on float pictures of shape \(3, 3, 16, 16\); give one .* or another --features-size"),
        (Means(), 0, "--features-size is 0"),
    ],
)
def test_an_extractor_that_does_not_fit_is_one_sentence(module, side, sentence, tmp_path):
    path, _ = saved(module, tmp_path / "module.pt")
    with pytest.raises(UserError, match=sentence):
        extract(TorchScriptFeatures(path, side, trust=True), pictures(3, (16, 16)))


def test_what_is_no_torchscript_is_refused_and_never_unpickled(tmp_path):
    pickle, text = tmp_path / "pickle.pt", tmp_path / "text.pt"
    torch.save({"weights": torch.ones(2)}, pickle)
    text.write_text("hello")
    for path in (pickle, text):
        with pytest.raises(UserError, match="is no TorchScript file"):
            TorchScriptFeatures(str(path))
    with pytest.raises(UserError, match="there is no feature extractor at"):
        TorchScriptFeatures(str(tmp_path / "nothing.pt"))


def test_torchscript_is_opened_only_if_it_is_trusted_or_known(tmp_path):
    marker = tmp_path / "it ran"
    path, sha256 = saved(Canary(marker), tmp_path / "canary.pt")
    assert not marker.exists()
    with pytest.raises(UserError, match=rf"\(sha256 {sha256}\) is TorchScript, a program .* add --trust if"):
        TorchScriptFeatures(path)
    with pytest.raises(UserError, match="is not the Inception of FID"):
        InceptionFeatures(path)
    assert not marker.exists()
    TorchScriptFeatures(path, trust=True)
    assert marker.exists()
    marker.unlink()
    InceptionFeatures(path, sha256=sha256)
    assert marker.exists()


def test_archives_of_torch_export_and_damaged_files_are_never_opened(tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("the file was opened")

    saved(Means(), tmp_path / "means.pt")
    whole = (tmp_path / "means.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Means(), (torch.rand(1, 3, 16, 16),)), tmp_path / "means.pt2")
    monkeypatch.setattr("torch.jit.load", opened)
    for name in ("cut.pt", "means.pt2"):
        with pytest.raises(UserError, match="is no TorchScript file"):
            TorchScriptFeatures(str(tmp_path / name), trust=True)


def test_what_is_run_is_what_was_hashed(tmp_path, monkeypatch):
    path, sha256 = saved(Means(), tmp_path / "means.pt")
    marker = tmp_path / "it ran"
    canary, _ = saved(Canary(marker), tmp_path / "canary.pt")
    hashed = hashlib.sha256

    def exchanged(content):
        Path(path).write_bytes(Path(canary).read_bytes())
        return hashed(content)

    monkeypatch.setattr("hashlib.sha256", exchanged)
    assert TorchScriptFeatures(path, trust=True).mode.fingerprint == sha256
    assert not marker.exists()


def test_inception_is_resized_by_itself_or_by_pillow(tmp_path):
    path, sha256 = saved(Inception(), tmp_path / "inception.pt")
    x = pictures(3)
    legacy, clean = (InceptionFeatures(path, rule, sha256=sha256) for rule in ("legacy", "clean"))
    assert (legacy.mode, clean.mode) == (
        Mode("inception", "legacy 299", sha256),
        Mode("inception", "clean 299", sha256),
    )
    assert_close(extract(legacy, x), Inception()(x.float(), return_features=True))
    assert_close(extract(clean, x), Layers()((resized(x, 299, "clean") - 128) / 128))


def test_weights_that_are_not_inceptions_are_refused_with_their_name_and_source(tmp_path):
    path, sha256 = saved(Inception(), tmp_path / "other.pt")
    with pytest.raises(UserError, match=f"has sha256 {sha256} and is not the Inception of FID") as refused:
        InceptionFeatures(path)
    assert f"inception-2015-12-05.pt (sha256 {INCEPTION_SHA256}) from https://" in str(refused.value)
    with pytest.raises(UserError, match=r"there are no Inception weights at .*nothing\.pt; download inception-2015"):
        InceptionFeatures(str(tmp_path / "nothing.pt"))


def test_clean_is_pillows_bicubic_in_floating_point():
    x = pictures(1, (40, 24))
    whole = Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((17, 17), Image.Resampling.BICUBIC)
    rounded = resized(x, 17, "clean")[0].round().clamp(0, 255)
    assert_close(rounded, torch.from_numpy(np.array(whole)).permute(2, 0, 1).float(), rtol=0, atol=1)
    assert bool((resized(x, 17, "clean") % 1 > 0).any())


def test_clean_is_what_clean_fid_computes():
    # Its make_resizer("PIL", False, "bicubic", ...): each channel as mode F, and then clip(0, 255).
    x = torch.randint(0, 2, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)) * 255
    found = resized(x, 47, "clean")
    for picture, values in zip(x, found, strict=True):
        for channel, expected in zip(picture, values, strict=True):
            image = Image.fromarray(channel.numpy().astype(np.float32), mode="F")
            resampled = np.asarray(image.resize((47, 47), resample=Image.Resampling.BICUBIC))
            assert resampled.max() > 260
            assert (expected.numpy() == resampled.clip(0, 255)).all()


def test_legacy_lets_through_what_clean_averages_out():
    # Of white noise, four by four pixels averaged leave a sixteenth of the variance, two by two a quarter.
    x = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    variance = float(x.float().var())
    assert float(resized(x, 16, "legacy").var()) == pytest.approx(variance / 4, rel=0.1)
    assert float(resized(x, 16, "clean").var()) < variance / 8
    flat = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    for rule in ("legacy", "clean"):
        assert_close(resized(flat, 16, rule), torch.full((1, 3, 16, 16), 77.0))


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    path, sha256 = saved(Means(), tmp_path / "means.pt")
    assert sha256 == hashlib.sha256((tmp_path / "means.pt").read_bytes()).hexdigest()
    assert TorchScriptFeatures(path, trust=True).mode.fingerprint == sha256
