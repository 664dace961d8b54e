import pytest
import torch
from tests.small_models import small_pipeline
from tests.tasks.exact import COVARIANCE, data, exact_pipeline

from scalespace import vary
from scalespace.pipelines.pictures import image_generators
from scalespace.tasks import variations

PICTURES = 4000


@pytest.mark.parametrize("strength", [0.15, 0.6])
def test_variations_of_pictures_of_the_data_have_the_distribution_of_the_data(strength):
    # At 278 of 1000 the resolution changes, so one goes down in resolution and the other does not.
    given = data(PICTURES)
    drawn = 2 * vary(exact_pipeline(), given, strength, generator=torch.Generator().manual_seed(1)) - 1
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(COVARIANCE), drawn.flatten(1).double().mT, upper=False)
    covariance = white @ white.mT / PICTURES
    excess = covariance - torch.eye(64, dtype=torch.float64)
    # N times the sum over pairs i <= j is chi^2 of 64 * 65 / 2, with the deviation sqrt(2 * 2080) = 64.5.
    statistic = PICTURES * float(excess.square().sum()) / 2
    assert abs(statistic - 2080) < 5 * 64.5
    assert white.mean(1).square().sum() * PICTURES < 64 + 5 * 11.3


def test_the_further_the_less_is_left_of_the_picture():
    given, pipeline = data(300), exact_pipeline()
    left = []
    for strength in (0.0, 0.1, 0.25, 0.3, 0.6, 1.0):
        drawn = 2 * vary(pipeline, given, strength, generator=torch.Generator().manual_seed(1)) - 1
        left.append(float((drawn * given).sum() / given.square().sum()))
    assert left[0] == pytest.approx(1, abs=1e-6)
    assert left == sorted(left, reverse=True)
    assert abs(left[-1]) < 0.1


@pytest.mark.parametrize(("strength", "t", "size"), [(0.2, 200, (8, 8)), (0.2771, 278, (4, 4)), (0.5, 500, (4, 4))])
def test_a_chain_begins_at_the_marginal_of_its_timestep(strength, t, size, monkeypatch):
    pipeline, picture = exact_pipeline(), data(1)
    begun = []

    def stop(pipeline, scheduler, state, due, *others):
        begun.append((state, due))
        return torch.zeros(1, 1, 8, 8)

    monkeypatch.setattr(variations, "rest_of_chain", stop)
    vary(pipeline, picture.expand(3000, 1, 8, 8), strength, generator=torch.Generator().manual_seed(0))
    (state, due), process = begun[0], pipeline.scheduler.process
    assert due[0] == t - 1
    assert due[1:] == [index for index in due if index < t - 1]
    assert state.shape[-2:] == size
    mean = process.noise.alpha(t) * process.degradation.operator(0, t)(picture)[0]
    noise = (state - mean) / process.noise.sigma(t)
    assert noise.mean(0).abs().max() < 5 / 3000**0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_a_variation_depends_on_its_generator_alone():
    pipeline, picture = small_pipeline(), torch.zeros(1, 3, 8, 8)
    pair = vary(
        pipeline, picture.expand(2, 3, 8, 8), 0.9, generator=image_generators(0, range(2)), num_inference_steps=8
    )
    second = vary(pipeline, picture, 0.9, generator=image_generators(0, range(1, 2)), num_inference_steps=8)
    torch.testing.assert_close(pair[1:], second, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(pair[0], pair[1], atol=1e-2)


def test_what_does_not_fit_is_refused():
    pipeline, picture = small_pipeline(), torch.zeros(1, 3, 8, 8)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"strength is .*; give a number from 0"):
            vary(pipeline, picture, strength)
    for wrong in (picture[:, :1], picture[..., :4], picture[0]):
        with pytest.raises(ValueError, match=r"the model has pictures of shape \(B, 3, 8, 8\)"):
            vary(pipeline, wrong, num_inference_steps=8)
    with pytest.raises(ValueError, match="not finite"):
        vary(pipeline, picture / 0, num_inference_steps=8)
