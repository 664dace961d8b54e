"""The tasks with a network that cannot go up: the process carries its predictions, and what is given stays as it is."""

import pytest
import torch
from tests.pretrained_models import SIZE, stock_folder
from torch.testing import assert_close

from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.source import read_pretrained
from scalespace.tasks.inpainting import inpaint
from scalespace.tasks.interpolation import interpolate
from scalespace.tasks.upscaling import brought_down, upscale
from scalespace.tasks.variations import vary

SIZES = ((SIZE, SIZE), (SIZE // 2, SIZE // 2))
CHANGE, STEPS = 400, {"num_inference_steps": 6}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    source = read_pretrained(stock_folder(tmp_path_factory.mktemp("stock"), "ddim"))
    made = ScaleSpacePipeline(source.network(SIZES), source.scheduler(SIZES, (CHANGE,)))
    made.set_progress_bar_config(disable=True)
    return made


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(count: int = 2) -> torch.Tensor:
    # Smooth and well inside the range, so that nothing is clipped.
    return 0.2 * torch.randn(count, 3, 4, 4, generator=_generator()).repeat_interleave(4, -1).repeat_interleave(4, -2)


def test_an_enlarged_picture_is_the_given_one_when_it_is_brought_down(pipeline):
    small = brought_down(pipeline, _pictures(), SIZES[1])
    first, second = (2 * upscale(pipeline, small, generator=_generator(seed), **STEPS) - 1 for seed in (0, 1))
    inside = (first.abs() < 0.999).all() & (second.abs() < 0.999).all()
    assert (first - second).abs().max() > 0.01
    for large in (first, second):
        error = (brought_down(pipeline, large, SIZES[1]) - small).abs()
        # Where the range of pixels cuts, it is only as near as that allows.
        assert error.max() < 1e-4 if inside else error.median() < 0.1


def test_known_pixels_stay_and_the_others_are_drawn(pipeline):
    pictures, known = _pictures(), torch.zeros(SIZES[0], dtype=torch.bool)
    known[:, :10] = True
    drawn = 2 * inpaint(pipeline, pictures, known, generator=_generator(), resamplings=1, jump=3, **STEPS) - 1
    assert_close(drawn[..., known], pictures[..., known], rtol=0, atol=1e-5)
    assert (drawn - pictures)[..., ~known].abs().mean() > 0.01


def test_variations_leave_the_picture_at_strength_0_and_more_of_it_the_smaller_the_strength(pipeline):
    pictures = _pictures()
    distances = []
    for strength in (0.0, 0.05, 0.9):
        drawn = 2 * vary(pipeline, pictures, strength, generator=_generator(), num_inference_steps=20) - 1
        distances.append(float((drawn - pictures).square().mean()))
    assert distances[0] < 1e-12
    assert distances[0] < distances[1] < 0.5 * distances[2]


def test_both_ends_of_a_way_are_the_given_pictures(pipeline):
    first, second = _pictures()
    way = interpolate(pipeline, first, second, 3, generator=_generator(), num_inference_steps=10, repetitions=1)
    assert_close(2 * way[0] - 1, first, rtol=0, atol=1e-3)
    assert_close(2 * way[-1] - 1, second, rtol=0, atol=1e-3)


def test_sampling_stops_at_the_small_size_with_the_prediction_of_the_network(pipeline):
    seen = []
    drawn = pipeline(
        1,
        generator=_generator(),
        output_type="latent",
        stop_at_size=SIZES[1],
        callback_on_step_end=lambda _, step, timestep, tensors: seen.append(tensors["pred_original_sample"]),
        **STEPS,
    ).images
    assert tuple(drawn.shape[-2:]) == SIZES[1]
    # Carried up and brought down again it is what the network has predicted.
    M = pipeline.scheduler.process.degradation.operator(CHANGE - 1, CHANGE)
    assert_close(drawn, M(seen[-1]), rtol=0, atol=1e-5)
    assert drawn.abs().max() <= 1 + 1e-5
