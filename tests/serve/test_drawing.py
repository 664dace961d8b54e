"""Pictures that grow are those of the pipeline, and each stage has the size of its level."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.serve.served import classes_pipeline, guidance_of
from tests.small_models import small_network, small_scheduler

import scalespace
from scalespace import ScaleSpacePipeline, to_picture
from scalespace.pipelines.pictures import image_generators
from scalespace.serve.drawing import Stage, draw, enlarge, vary
from scalespace.serve.offer import Wish

WISH = Wish(pictures=2, steps=6, solver="ddim", seed=3, class_label=1, guidance=1.0, size=(8, 8))


class Recorder:
    """Keeps all stages, and wants no more after so many."""

    def __init__(self, most: int = 10**9):
        self.stages: list[Stage] = []
        self.most = most

    def __call__(self, make: Any, size: tuple[int, int]) -> bool:
        self.stages.append(make())
        assert self.stages[-1].size == size
        return len(self.stages) < self.most


@pytest.fixture(scope="module")
def pipeline() -> ScaleSpacePipeline:
    return classes_pipeline()


def _pixels(stage: Stage | None) -> list[np.ndarray]:
    assert stage is not None
    return [np.asarray(Image.open(io.BytesIO(one))) for one in stage.pictures]


def _expected(pipeline: ScaleSpacePipeline, wish: Wish, **guidance: Any) -> list[np.ndarray]:
    own = ScaleSpacePipeline(pipeline.unet, small_scheduler(solver=wish.solver))
    own.set_progress_bar_config(disable=True)
    found = own(
        wish.pictures,
        generator=image_generators(wish.seed, range(wish.pictures)),
        num_inference_steps=wish.steps,
        class_labels=wish.class_label,
        guidance_scale=wish.guidance,
        **guidance,
    )
    return [np.asarray(image) for image in found.images]


@pytest.mark.parametrize("changes", [{}, {"solver": "ancestral", "seed": 4}, {"guidance": 3.0}, {"class_label": None}])
def test_the_finished_pictures_are_those_of_the_pipeline(changes: dict[str, Any], pipeline):
    wish = replace(WISH, **changes)
    found = draw(pipeline, wish, Recorder())
    assert found is not None
    assert found.last
    np.testing.assert_array_equal(_pixels(found), _expected(pipeline, wish))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guide_guides_where_guidance_is_asked_for(scale: float, pipeline):
    wish = replace(WISH, class_label=None, guidance=scale)
    guidance = guidance_of(pipeline)
    given = {name: guidance[name] for name in ("guidance_interval", "guidance_model")} if scale != 1 else {}
    found = draw(pipeline, wish, Recorder(), guidance)
    np.testing.assert_array_equal(_pixels(found), _expected(pipeline, wish, **given))


def test_the_picture_grows_level_by_level(pipeline):
    recorder = Recorder()
    found = draw(pipeline, WISH, recorder)
    sizes = [stage.size for stage in recorder.stages]
    assert list(dict.fromkeys(sizes)) == [(4, 4), (8, 8)]
    assert [stage.step for stage in recorder.stages] == list(range(1, recorder.stages[0].steps + 1))
    assert all(pixels.shape == (*stage.size, 3) for stage in recorder.stages for pixels in _pixels(stage))
    # The last prediction is the picture.
    np.testing.assert_array_equal(_pixels(recorder.stages[-1]), _pixels(found))


def test_a_drawing_that_stops_at_a_level_gives_its_last_prediction(pipeline):
    whole, part = Recorder(), Recorder()
    draw(pipeline, WISH, whole)
    found = draw(pipeline, replace(WISH, size=(4, 4)), part)
    small = [stage for stage in whole.stages if stage.size == (4, 4)]
    assert part.stages == small
    np.testing.assert_array_equal(_pixels(found), _pixels(small[-1]))


def test_a_level_that_no_step_ends_at_is_one_sentence():
    pipeline = ScaleSpacePipeline(small_network(), small_scheduler(change_points=(20,)))
    with pytest.raises(ValueError, match="no step ends at 4x4 pixels; stop at another level"):
        draw(pipeline, replace(WISH, class_label=None, size=(4, 4)), Recorder())


def test_a_watcher_that_wants_no_more_ends_the_drawing(pipeline):
    recorder = Recorder(most=2)
    assert draw(pipeline, WISH, recorder) is None
    assert len(recorder.stages) == 2
    for most in (1, 2):
        assert enlarge(pipeline, torch.zeros(1, 3, 4, 4), replace(WISH, size=(4, 4)), Recorder(most=most)) is None
        recorder = Recorder(most=most)
        assert vary(pipeline, torch.zeros(1, 3, 8, 8), replace(WISH, strength=0.8), recorder) is None
        assert len(recorder.stages) == most


def test_the_model_stays_as_it_is(pipeline):
    before = pipeline.scheduler
    timesteps = before.timesteps.clone()
    draw(pipeline, WISH, Recorder())
    assert pipeline.scheduler is before
    assert before.config["solver"] == "corrected"
    assert torch.equal(before.timesteps, timesteps)


def test_enlarged_pictures_are_those_of_upscale_and_the_small_one_is_shown_first(pipeline):
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recorder = Recorder()
    found = enlarge(pipeline, small, replace(WISH, size=(4, 4)), recorder)
    own = ScaleSpacePipeline(pipeline.unet, small_scheduler(solver="ddim"))
    own.set_progress_bar_config(disable=True)
    expected = scalespace.upscale(
        own, small.repeat(2, 1, 1, 1), generator=image_generators(3, range(2)), num_inference_steps=6, class_labels=1
    )
    np.testing.assert_array_equal(_pixels(found), [np.asarray(to_picture(2 * one - 1)) for one in expected])
    np.testing.assert_array_equal(_pixels(recorder.stages[0])[0], np.asarray(to_picture(small[0])))
    assert found is not None
    assert not np.array_equal(*_pixels(found))
    # The steps that are taken, and the last of them shows what is finished.
    assert [stage.step for stage in recorder.stages] == list(range(found.steps + 1))
    assert {stage.size for stage in recorder.stages[1:]} == {(8, 8)}
    np.testing.assert_array_equal(_pixels(recorder.stages[-1]), _pixels(found))


@pytest.mark.parametrize(("strength", "sizes"), [(0.8, [(8, 8), (4, 4), (8, 8)]), (0.3, [(8, 8)])])
def test_variations_are_those_of_vary_and_are_shown_level_by_level(strength: float, sizes: list, pipeline):
    given = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recorder = Recorder()
    found = vary(pipeline, given, replace(WISH, strength=strength), recorder)
    own = ScaleSpacePipeline(pipeline.unet, small_scheduler(solver="ddim"))
    own.set_progress_bar_config(disable=True)
    expected = scalespace.vary(
        own,
        given.repeat(2, 1, 1, 1),
        strength,
        generator=image_generators(3, range(2)),
        num_inference_steps=6,
        class_labels=1,
    )
    np.testing.assert_array_equal(_pixels(found), [np.asarray(to_picture(2 * one - 1)) for one in expected])
    np.testing.assert_array_equal(_pixels(recorder.stages[0])[0], np.asarray(to_picture(given[0])))
    shown = [stage.size for stage in recorder.stages]
    assert [size for size, before in zip(shown, [None, *shown], strict=False) if size != before] == sizes
    assert found is not None
    assert [stage.step for stage in recorder.stages] == list(range(found.steps + 1))


def test_a_picture_that_nothing_is_done_to_is_finished_at_once(pipeline):
    given = torch.full((1, 3, 8, 8), 0.5)
    found = vary(pipeline, given, replace(WISH, strength=0.0), Recorder())
    assert found is not None
    assert (found.step, found.steps, found.last) == (1, 1, True)
    np.testing.assert_array_equal(_pixels(found)[1], np.asarray(to_picture(given[0])))
