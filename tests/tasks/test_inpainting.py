import pytest
import torch
from tests.small_models import small_network, small_pipeline, small_scheduler
from tests.tasks.exact import COVARIANCE, data, exact_pipeline
from torch import Tensor

from scalespace import FunctionOperator, Identity, OrthonormalResize, Resize, ScaleSpacePipeline, inpaint
from scalespace.operators.linear import LinearOperator
from scalespace.operators.singular import dense
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.tasks.inpainting import known_at


def _hole(side: int, first: int, last: int) -> Tensor:
    known = torch.ones(1, 1, side, side, dtype=torch.bool)
    known[..., first:last, first:last] = False
    return known


TWICE = Resize((16, 16), (8, 8)) @ Resize((32, 32), (16, 16))
BLUR = FunctionOperator(lambda x: (x + x.roll(1, -1)) / 2, (8, 8), (8, 8))


@pytest.mark.parametrize("M", [Identity((32, 32)), Resize((32, 32), (16, 16)), TWICE, BLUR], ids=range(4))
def test_a_small_pixel_is_known_if_all_that_it_sees_is(M: LinearOperator):
    side = M.in_size[0]
    known = _hole(side, side // 2, side // 2 + 4)
    sees = dense(M).abs() > 1 / 255
    expected = ~(sees & ~known.reshape(1, -1)).any(1).reshape(M.out_size)
    assert (known_at(M, known)[0, 0] == expected).all()
    assert expected.any()
    assert not expected.all()


@pytest.mark.parametrize("M", [TWICE, OrthonormalResize((32, 32), (8, 8))])
def test_unknown_pixels_change_known_small_ones_by_less_than_half_a_level(M: LinearOperator):
    known = _hole(32, 3, 11)
    small = known_at(M, known)
    assert small.any()
    one, other = (torch.where(known, 0.3, 2 * torch.rand(200, 1, 32, 32) - 1) for _ in range(2))
    change = (M(one) - M(other)).abs()
    assert change[small.expand_as(change)].max() < 2 / 255
    assert change[~small.expand_as(change)].max() > 0.1


@pytest.mark.parametrize(("solver", "resamplings"), [("ancestral", 0), ("ddim", 0), ("corrected", 1)])
def test_known_pixels_are_as_they_were_and_the_others_are_drawn(solver, resamplings):
    pipeline = ScaleSpacePipeline(small_network(), small_scheduler(solver=solver))
    pipeline.set_progress_bar_config(disable=True)
    levels = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    known = torch.cat([_hole(8, 0, 2), _hole(8, 3, 8)])
    found = inpaint(
        pipeline,
        levels / 127.5 - 1,
        known,
        resamplings=resamplings,
        jump=3,
        generator=image_generators(0, range(2)),
        num_inference_steps=5,
    )
    given = known.expand_as(levels)
    assert (to_uint8(2 * found - 1)[given] == levels[given]).all()
    assert (to_uint8(2 * found - 1)[~given] != levels[~given]).float().mean() > 0.9
    assert isinstance(pipeline.scheduler.prediction, type(small_scheduler().prediction))


def test_what_unknown_pixels_hold_does_not_matter():
    known, results = _hole(8, 2, 6), []
    for hidden in (-1.0, 0.7):
        picture = torch.where(known, 0.2, hidden).expand(1, 3, 8, 8)
        generator = torch.Generator().manual_seed(0)
        results.append(inpaint(small_pipeline(), picture, known[0, 0], generator=generator, num_inference_steps=3))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("solver", "resamplings"), [("ancestral", 0), ("corrected", 1)])
def test_known_pixels_of_every_state_have_their_marginal(solver, resamplings, monkeypatch):
    pipeline, known = exact_pipeline(solver=solver), _hole(8, 5, 8)
    picture = data(1)
    seen = {}
    step = ScaleSpaceScheduler.step

    def recorded(self, output, timestep, sample, *others, **more):
        seen.setdefault(timestep + 1, []).append(sample)
        return step(self, output, timestep, sample, *others, **more)

    monkeypatch.setattr(ScaleSpaceScheduler, "step", recorded)
    generator = torch.Generator().manual_seed(0)
    inpaint(
        pipeline,
        picture.expand(400, 1, 8, 8),
        known,
        resamplings=resamplings,
        generator=generator,
        num_inference_steps=12,
    )
    process = pipeline.scheduler.process
    assert {process.size(t) for t in seen} == {(8, 8), (4, 4)}
    for t, states in seen.items():
        assert len(states) == 1 + resamplings
        M = process.degradation.operator(0, t)
        where = known_at(M, known).expand(400, 1, -1, -1)
        assert where.any()
        for state in states:
            noise = ((state - process.noise.alpha(t) * M(picture)) / process.noise.sigma(t))[where]
            assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5, t
            assert abs(float(noise.square().mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5, t


def test_what_is_drawn_fits_what_is_known_and_resampling_makes_it_fit_better():
    # For Gaussian pictures what the known pixels tell of the others is known in closed form.
    pipeline, known, picture = exact_pipeline(), _hole(8, 2, 5), data(1, seed=3)
    k = known.flatten()
    told = COVARIANCE[~k][:, k] @ torch.linalg.solve(COVARIANCE[k][:, k], picture.flatten()[k].double())
    scale = float(told.norm())
    misses = []
    for resamplings in (0, 3):
        generator = torch.Generator().manual_seed(1)
        drawn = inpaint(
            pipeline,
            picture.expand(200, 1, 8, 8),
            known,
            resamplings=resamplings,
            jump=4,
            generator=generator,
            num_inference_steps=20,
        )
        mean = (2 * drawn - 1).flatten(1)[:, ~k].double().mean(0)
        misses.append(float((mean - told).norm()) / scale)
    assert misses[1] < misses[0] < 1, misses


@pytest.mark.parametrize("resamplings", [0, 2])
def test_each_resampling_costs_as_much_as_a_chain(resamplings, monkeypatch):
    pipeline, calls = small_pipeline(), []
    forward = pipeline.unet.forward
    monkeypatch.setattr(pipeline.unet, "forward", lambda *given: calls.append(1) or forward(*given))
    inpaint(pipeline, torch.zeros(1, 3, 8, 8), _hole(8, 0, 4), resamplings=resamplings, jump=3, num_inference_steps=4)
    pipeline.scheduler.set_timesteps(4)
    assert len(calls) == (1 + resamplings) * len(pipeline.scheduler.timesteps)


def test_what_does_not_fit_is_refused():
    pipeline, picture, known = small_pipeline(), torch.zeros(2, 3, 8, 8), _hole(8, 0, 4)
    for wrong in (known[..., :4], known.float(), known.expand(3, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"the mask is .* of shape .*; give booleans of shape"):
            inpaint(pipeline, picture, wrong)
    with pytest.raises(ValueError, match="the mask says that everything is known; there is nothing to draw"):
        inpaint(pipeline, picture, torch.cat([known, known | True]))
    with pytest.raises(ValueError, match="the mask says that nothing is known; draw a picture without one"):
        inpaint(pipeline, picture, known & False)
    with pytest.raises(ValueError, match="resamplings is -1 and jump 5"):
        inpaint(pipeline, picture, known, resamplings=-1)
    blurring = ScaleSpaceScheduler(
        sizes=((8, 8),), change_points=(), degradation="blurring", prediction_type="epsilon", sigma_blur=2.0
    )
    with pytest.raises(ValueError, match="a blur that grows with every step leaves no pixel known"):
        inpaint(ScaleSpacePipeline(small_network(), blurring), picture, known)
