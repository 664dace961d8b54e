"""A process of the user's in the scheduler and the pipeline, which know others by name."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from tests.small_models import CHANGE, SIZES, TIMESTEPS, small_network, small_scheduler
from tests.strategies import blurred_subsample
from torch.testing import assert_close

from scalespace.diffusion.degradation import Blurring, Levels, Resizing
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import Corrected
from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.scheduler import ScaleSpaceScheduler


@dataclass(frozen=True)
class Pyramid(Levels):
    def next_level(self, size, next_size):
        return blurred_subsample(size)


PYRAMID = Pyramid(SIZES, (CHANGE,), TIMESTEPS)
OWN = ScaleSpaceProcess(Shifted(LinearBeta(TIMESTEPS, 0.02, 0.4), PYRAMID), PYRAMID)


def _draw(scheduler: ScaleSpaceScheduler, **options) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    pipeline = ScaleSpacePipeline(small_network(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(2, generators, 10, output_type="pt", **options).images


def test_a_process_is_sampled_as_it_is_by_its_name():
    levels = Resizing(SIZES, (CHANGE,), TIMESTEPS)
    process = ScaleSpaceProcess(LinearBeta(TIMESTEPS, 0.02, 0.4), levels)
    named, given = small_scheduler(), ScaleSpaceScheduler(process=process)
    assert (given.sizes, given.image_size, given.noise_size, len(given)) == (SIZES, (8, 8), (4, 4), TIMESTEPS)
    assert given.timesteps.tolist() == named.timesteps.tolist()
    assert given.config["num_train_timesteps"] == TIMESTEPS
    assert torch.equal(_draw(given), _draw(named))


def test_the_pipeline_draws_from_a_process_of_the_user_s():
    scheduler = ScaleSpaceScheduler(process=OWN, solver="corrected", timestep_spacing="log_snr")
    images = _draw(scheduler)
    # The same by hand, with the noise in the order in which the pipeline draws it.
    network, solver = small_network(), Corrected(OWN)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]

    def noise(size):
        return torch.cat([torch.randn(1, 3, *size, generator=generator) for generator in generators])

    x = noise(OWN.size(TIMESTEPS))
    for t, s in pairwise([*(scheduler.timesteps + 1).tolist(), 0]):
        with torch.no_grad():
            x0_s = network(x, t - 1, OWN.size(s)).sample.clamp(-1, 1)
        x = solver.step(x, x0_s, t, s, noise(OWN.size(s)))
    assert_close(images, (x / 2 + 0.5).clamp(0, 1))


def test_another_solver_keeps_the_process():
    pipeline = ScaleSpacePipeline(small_network(), ScaleSpaceScheduler(process=OWN, clip_sample=False))
    use_solver(pipeline, solver="ddim", eta=0.5)
    assert pipeline.scheduler.process is OWN
    assert pipeline.scheduler.config["solver"] == "ddim"
    assert pipeline.scheduler.config["clip_sample"] is False
    assert "Pyramid" in repr(pipeline.scheduler)
    assert "change_points': (439" not in repr(pipeline.scheduler)


def test_saving_a_process_of_the_user_s_is_refused_before_anything_is_written(tmp_path):
    scheduler = ScaleSpaceScheduler(process=OWN)
    for part in (scheduler, ScaleSpacePipeline(small_network(), scheduler)):
        with pytest.raises(
            UserError, match=r"was given a process with Pyramid as an object, which cannot be saved; name its degr"
        ):
            part.save_pretrained(tmp_path / "model")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifted": True, "beta_end": 0.4}, "a process was given, and beta_end, shifted besides"),
        ({"num_train_timesteps": TIMESTEPS + 1}, "and num_train_timesteps besides"),
        ({"sizes": SIZES}, "and sizes besides, which describe another; give the one or the other"),
    ],
)
def test_a_process_that_is_also_described_by_names_is_refused(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        ScaleSpaceScheduler(process=OWN, **options)


def test_a_gradual_process_needs_what_a_blur_needs():
    process = ScaleSpaceProcess(LinearBeta(TIMESTEPS, 0.02, 0.4), Blurring((8, 8), TIMESTEPS))
    with pytest.raises(ValueError, match='prediction_type "sample" does not go with blurring'):
        ScaleSpaceScheduler(process=process)
    assert ScaleSpaceScheduler(process=process, prediction_type="epsilon").sizes == ((8, 8),)
