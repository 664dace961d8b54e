import math
from dataclasses import replace

import pytest
import torch
from tests.small_models import small_pipeline
from tests.tasks.exact import COVARIANCE, data, exact_pipeline

from scalespace import GaussianDenoiser, Inversion, ScaleSpaceScheduler, interpolate, invert, log_snr_grid, reconstruct
from scalespace.pipelines.pictures import image_generators
from scalespace.tasks.interpolation import between, slerp
from scalespace.tasks.inversion import inverted, redrawn

PROCESSES = {
    "one level": ScaleSpaceScheduler(sizes=((8, 8),), change_points=()).process,
    "paper's noise": ScaleSpaceScheduler(sizes=((8, 8), (4, 4)), change_points=(278,)).process,
    "shifted, three levels": ScaleSpaceScheduler(
        sizes=((8, 8), (6, 5), (3, 2)), change_points=(200, 500), shifted=True
    ).process,
    "orthonormal": ScaleSpaceScheduler(
        sizes=((8, 8), (4, 4), (2, 2)), change_points=(200, 500), shifted=True, degradation="orthonormal"
    ).process,
}


@pytest.mark.parametrize("name", PROCESSES)
def test_exact_predictions_bring_pictures_back_in_fifty_steps(name):
    process = PROCESSES[name]
    denoiser = GaussianDenoiser(process, COVARIANCE)
    pictures = data(20).double()
    found = inverted(process, denoiser, log_snr_grid(process, 50), pictures)
    error = (redrawn(process, denoiser, found) - pictures).square().mean().sqrt() / pictures.square().mean().sqrt()
    assert error < 1e-3
    if found.details:
        # The small picture alone does not do it.
        other = redrawn(process, denoiser, found.with_details(torch.Generator().manual_seed(0)))
        assert (other - pictures).square().mean().sqrt() / pictures.square().mean().sqrt() > 0.1


def test_noise_and_details_are_as_many_numbers_as_the_picture_and_white():
    process = PROCESSES["shifted, three levels"]
    denoiser = GaussianDenoiser(process, COVARIANCE)
    found = inverted(process, denoiser, log_snr_grid(process, 100), data(500).double())
    numbers = found.noise[0].numel()
    squares = [float(found.noise.square().mean())]
    for s, detail in found.details.items():
        M = process.degradation.operator(s, s + 1)
        # What M sees has no part in them.
        assert M(detail).abs().max() < 1e-9
        unseen = detail[0].numel() - M.out_size[0] * M.out_size[1]
        numbers += unseen
        squares.append(float(detail.square().sum()) / (len(detail) * unseen))
    assert set(found.details) == {199, 499}
    assert numbers == 64
    # Steps of first order make of the data a noise that is a little too large.
    assert all(0.95 < square < 1.2 for square in squares), squares


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_a_reconstruction_is_the_picture_and_its_remainder_what_the_chain_does_not_bring_back(start):
    pipeline, pictures = exact_pipeline(), data(4)
    found = invert(pipeline, pictures, generator=image_generators(0, range(4)), start=start)
    torch.testing.assert_close(2 * reconstruct(pipeline, found) - 1, pictures, atol=1e-5, rtol=1e-5)
    alone = 2 * reconstruct(pipeline, replace(found, remainder=None)) - 1
    assert found.remainder is not None
    torch.testing.assert_close(alone + found.remainder, pictures, atol=1e-5, rtol=1e-5)
    # With noise at the start, detail below it is lost.
    assert (found.remainder.square().mean().sqrt() < 1e-3 * pictures.square().mean().sqrt()) == (start == 0)


def test_a_trained_kind_of_network_works_and_each_picture_by_itself():
    pipeline = small_pipeline(num_classes=2)
    pictures = 0.5 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    both = invert(
        pipeline, pictures, generator=image_generators(0, range(2)), num_inference_steps=6, class_labels=[0, 1]
    )
    second = invert(
        pipeline, pictures[1:], generator=image_generators(0, range(1, 2)), num_inference_steps=6, class_labels=1
    )
    torch.testing.assert_close(both.noise[1:], second.noise, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(2 * reconstruct(pipeline, both, class_labels=[0, 1]) - 1, pictures, atol=1e-5, rtol=1e-4)


def test_the_way_begins_and_ends_at_the_pictures():
    pipeline, (first, second) = exact_pipeline(), data(2)
    way = 2 * interpolate(pipeline, first, second, 5, generator=image_generators(0, range(2)), batch_size=2) - 1
    assert way.shape == (5, 1, 8, 8)
    torch.testing.assert_close(way[0], first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(way[-1], second, atol=1e-5, rtol=1e-5)
    distances = [float((frame - first).norm()) for frame in way]
    assert distances == sorted(distances)


def test_the_middle_of_a_way_is_as_rough_as_its_ends():
    # On the straight line between two of them it would have half the variance.
    pipeline, pictures = exact_pipeline(), data(200)
    found = invert(pipeline, pictures, generator=torch.Generator().manual_seed(0), num_inference_steps=20)
    middles = [
        between(
            Inversion(found.noise[i : i + 2], {s: part[i : i + 2] for s, part in found.details.items()}, found.grid),
            torch.tensor([0.5]),
        )
        for i in range(0, 200, 2)
    ]
    joined = Inversion(
        torch.cat([one.noise for one in middles]),
        {s: torch.cat([one.details[s] for one in middles]) for s in found.details},
        found.grid,
    )
    power = (2 * reconstruct(pipeline, joined) - 1).square().mean()
    assert float(power) == pytest.approx(float(COVARIANCE.trace()) / 64, rel=0.2)


def test_slerp_stays_on_the_sphere_and_on_a_line_where_there_is_no_arc():
    a, b = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    a[0, 0, 0], b[0, 1, 1] = 2, 2
    arc = slerp(a, b, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(arc.flatten(1).norm(dim=1), torch.full((3,), 2.0))
    torch.testing.assert_close(arc[1, 0, 0, 0] / arc[1, 0, 1, 1], torch.tensor(1 / math.tan(math.pi / 8)))
    for other in (a, 3 * a, 0 * a):
        torch.testing.assert_close(slerp(a, other, torch.tensor([0.5]))[0], (a + other) / 2)


def test_what_does_not_fit_is_refused():
    pipeline, picture = small_pipeline(), torch.zeros(1, 3, 8, 8)
    for start in (-1, 2, float("nan")):
        with pytest.raises(ValueError, match="give a noise level from 0 to 0"):
            invert(pipeline, picture, num_inference_steps=6, start=start)
    with pytest.raises(ValueError, match="repetitions is 0"):
        invert(pipeline, picture, repetitions=0)
    with pytest.raises(ValueError, match="frames is 1"):
        interpolate(pipeline, picture[0], picture[0], 1)
    with pytest.raises(ValueError, match="two of one shape"):
        interpolate(pipeline, picture[0], picture[0, :1])
    with pytest.raises(ValueError, match="class_labels were given to a model without classes"):
        invert(pipeline, picture, num_inference_steps=6, class_labels=1)
    one = invert(pipeline, picture, num_inference_steps=6)
    with pytest.raises(ValueError, match="is of 1 pictures; invert two"):
        between(one, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="take it from the same model"):
        reconstruct(exact_pipeline(), replace(one, noise=one.noise[..., :2]))
