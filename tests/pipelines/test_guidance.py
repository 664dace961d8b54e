"""Guidance: by the null class, by a worse model, in an interval of noise."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.picture_files import encoded, picture
from tests.small_models import cli_error, small_config, small_network, small_scheduler, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.guidance import ratio
from scalespace.pipelines.pictures import image_generators
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline
from scalespace.training.loop import train


def _pipeline(seed: int = 0, scheduler: Any = None, **network: Any) -> ScaleSpacePipeline:
    unet = small_network(seed, **({"num_classes": 3, "null_class": True} | network))
    if unet.class_embedding_null is not None:
        torch.nn.init.normal_(unet.class_embedding_null.weight, generator=torch.Generator().manual_seed(seed))
    pipeline = ScaleSpacePipeline(unet, scheduler or small_scheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _draw(pipeline: ScaleSpacePipeline, **options: Any) -> torch.Tensor:
    given = {
        "batch_size": 2,
        "class_labels": [1, 2],
        "generator": image_generators(0, range(2)),
        "num_inference_steps": 4,
    }
    return pipeline(**(given | options), output_type="latent").images


def _predictions(pipeline: ScaleSpacePipeline, **options: Any) -> list[torch.Tensor]:
    kept: list[torch.Tensor] = []
    _draw(
        pipeline, callback_on_step_end=lambda p, i, t, tensors: kept.append(tensors["pred_original_sample"]), **options
    )
    return kept


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_guidance_combines_the_predictions_of_the_clean_picture(prediction: str):
    pipeline = _pipeline(scheduler=small_scheduler(clip_sample=False, prediction_type=prediction))
    with_class, without = (_predictions(pipeline, class_labels=labels)[0] for labels in ([1, 2], None))
    for scale in (0.0, 0.5, 3.0):
        found = _predictions(pipeline, guidance_scale=scale)[0]
        # The first state is the same, so the formula can be seen in its prediction.
        expected = without + scale * (with_class - without)
        assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert (with_class - without).abs().max() > 1e-2


def test_without_guidance_nothing_changes_and_a_null_class_is_no_class_of_the_table():
    plain, nulled = _pipeline(null_class=False), _pipeline()
    nulled.unet.load_state_dict(plain.unet.state_dict(), strict=False)
    assert_close(_draw(nulled), _draw(plain), rtol=0, atol=0)
    assert_close(_draw(nulled, guidance_scale=1.0), _draw(plain), rtol=0, atol=0)
    assert nulled.unet.class_embedding is not None
    assert len(nulled.unet.class_embedding.weight) == 3
    # A batch may hold both.
    state, labels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3])
    both = nulled.unet(state, 3, class_labels=labels).sample
    each = [nulled.unet(state[i : i + 1], 3, class_labels=labels[i : i + 1]).sample for i in (0, 1)]
    assert_close(both, torch.cat(each))
    assert (nulled.unet(state, 3, class_labels=labels - 1).sample - both)[1].abs().max() > 1e-3


def test_guidance_keeps_to_its_interval():
    pipeline = _pipeline(scheduler=small_scheduler(clip_sample=False, shifted=True))
    pipeline.scheduler.set_timesteps(4)
    sigmas = [ratio(pipeline.scheduler.process.noise, t + 1) for t in pipeline.scheduler.timesteps.tolist()]
    # Also where the shift makes the SNR of states rise at the change, the interval is one of time.
    assert sigmas == sorted(sigmas, reverse=True)
    plain, guided = _predictions(pipeline), _predictions(pipeline, guidance_scale=3.0)
    from_second = _predictions(pipeline, guidance_scale=3.0, guidance_interval=(0.0, sigmas[1]))
    assert_close(from_second[0], plain[0], rtol=0, atol=0)
    assert (from_second[1] - plain[1]).abs().max() > 1e-3
    first_alone = _predictions(pipeline, guidance_scale=3.0, guidance_interval=(sigmas[0], 1e9))
    assert_close(first_alone[0], guided[0], rtol=0, atol=0)
    assert (first_alone[1] - guided[1]).abs().max() > 1e-3


def test_guiding_by_a_worse_model_is_autoguidance():
    pipeline, worse = _pipeline(null_class=False), _pipeline(seed=4, null_class=False)
    there, here = _predictions(worse)[0], _predictions(pipeline)[0]
    assert_close(_predictions(pipeline, guidance_scale=2.0, guidance_model=worse)[0], there + 2 * (here - there))
    assert_close(_draw(pipeline, guidance_scale=2.0, guidance_model=pipeline), _draw(pipeline), rtol=1e-4, atol=1e-4)
    unlabelled = _pipeline(seed=4, num_classes=None, null_class=False)
    there = _predictions(unlabelled, class_labels=None)[0]
    assert_close(_predictions(pipeline, guidance_scale=2.0, guidance_model=unlabelled)[0], there + 2 * (here - there))
    small = _pipeline(seed=4, null_class=False, base_channels=4, attention_heads=1)
    assert torch.isfinite(_draw(pipeline, guidance_scale=2.0, guidance_model=small)).all()


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        (
            {"null_class": False},
            {"guidance_scale": 2.0},
            "was trained without label dropout; train with --label-dropout 0.1",
        ),
        (
            {"num_classes": None, "null_class": False},
            {"guidance_scale": 2.0, "class_labels": None},
            "a model without classes",
        ),
        ({}, {"guidance_scale": -1.0}, "guidance_scale is -1.0; give 1 for no guidance, or more"),
        ({}, {"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({}, {"guidance_scale": 2.0, "class_labels": None}, "guidance_scale needs class_labels to go towards"),
        (
            {},
            {"guidance_scale": 2.0, "guidance_interval": (2.0, 1.0)},
            "guidance_interval is (2.0, 1.0); give the smallest",
        ),
        (
            {},
            {"guidance_scale": 2.0, "guidance_interval": (1e6, 1e7)},
            "steps, whose sigma / alpha goes",
        ),
        ({}, {"guidance_interval": (0.0, 1.0)}, "guidance_interval has no effect with guidance_scale 1"),
    ],
)
def test_guidance_that_cannot_be_is_one_sentence(network: dict, options: dict, words: str):
    pipeline = _pipeline(**network)
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        _draw(pipeline, **options)
    assert "\n" not in str(raised.value)


def test_a_worse_model_of_another_kind_is_one_sentence():
    pipeline = _pipeline()
    others = {
        "is of another process": _pipeline(scheduler=small_scheduler(shifted=True)),
        "has prediction_type epsilon and the model sample": _pipeline(
            scheduler=small_scheduler(prediction_type="epsilon")
        ),
        "has 2 classes and the model 3": _pipeline(num_classes=2),
    }
    for words, other in others.items():
        with pytest.raises(ValueError, match=words):
            _draw(pipeline, guidance_scale=2.0, guidance_model=other)
    with pytest.raises(TypeError, match="guidance_model is a FlexiUNet; give a ScaleSpacePipeline"):
        _draw(pipeline, guidance_scale=2.0, guidance_model=pipeline.unet)


def test_a_null_class_needs_classes():
    with pytest.raises(ValueError, match="null_class was given to a network without classes"):
        FlexiUNet(null_class=True)


# From training to pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of three classes."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(24):
        file = folder / "abc"[index % 3] / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(picture(index, (8, 8))))
    return folder


def test_training_drops_labels_at_the_rate_that_was_asked_for(photos, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    forward = FlexiUNet.forward

    def watched(
        self: FlexiUNet, sample: Any, timestep: Any, target_size: Any, class_labels: Any, **options: Any
    ) -> Any:
        # Not the outlines that only count.
        if len(class_labels) == 64 and type(class_labels) is torch.Tensor:
            seen.append(class_labels)
        return forward(self, sample, timestep, target_size, class_labels, **options)

    monkeypatch.setattr(FlexiUNet, "forward", watched)
    config = small_config(
        tmp_path / "run", {"num_classes": 3}, data=str(photos), batch_size=64, label_dropout=0.3, max_steps=20
    )
    run = train(config, progress=False)
    labels = torch.cat(seen)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    share = float((labels == 3).double().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(labels)) ** 0.5
    assert load_pipeline(run.model_path).unet.no_class == 3


def test_the_command_line_guides(photos, tmp_path, capsys):
    for name, options in {"guided": ["--label-dropout", "0.2"], "plain": []}.items():
        main(train_words(tmp_path / name, "--network.num-classes", "3", *options, data=photos))
    capsys.readouterr()
    words = ["--num-images", "2", "--steps", "4", "--quiet", "--output"]
    guided, plain = str(tmp_path / "guided" / "model"), str(tmp_path / "plain" / "model")
    interval = ["--guidance-interval", "0.01", "1000"]
    for name, model, options in (
        ("unguided", guided, []),
        ("all", guided, ["--guidance-scale", "3"]),
        ("some", guided, ["--guidance-scale", "3", *interval]),
        ("auto", plain, ["--guidance-scale", "3", "--guidance-model", guided]),
    ):
        main(["sample", model, *words, str(tmp_path / name), *options])
    drawn = {name: (tmp_path / name / "000001.png").read_bytes() for name in ("unguided", "all", "some", "auto")}
    assert drawn["unguided"] != drawn["all"]
    error = cli_error(capsys, ["sample", plain, *words, str(tmp_path / "x"), "--guidance-scale", "3"])
    assert "trained without label dropout; train with --label-dropout 0.1, give a guidance_model, or leave" in error
    assert not (tmp_path / "x").exists()
    # Pictures that were guided otherwise are others.
    error = cli_error(capsys, ["sample", guided, *words, str(tmp_path / "all"), "--guidance-scale", "2"])
    assert "guidance-scale is 3.0 there and 2.0 here" in error


def test_a_run_that_is_not_finished_keeps_its_null_class(photos, tmp_path, capsys):
    main(train_words(tmp_path / "run", "--network.num-classes", "3", "--label-dropout", "0.2", data=photos))
    for path in sorted((tmp_path / "run" / "model").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "run" / "model").rmdir()
    options = "--num-images 1 --steps 4 --guidance-scale 2 --quiet --output"
    main(["sample", str(tmp_path / "run"), *options.split(), str(tmp_path / "out")])
    assert (tmp_path / "out" / "000000.png").exists()
