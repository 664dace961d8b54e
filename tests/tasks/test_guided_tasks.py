"""Tasks that are guided: where, by what, and that they keep what they promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.small_models import small_network, small_pipeline
from torch import Tensor

from scalespace import ScaleSpacePipeline, inpaint, upscale, vary
from scalespace.pipelines.guidance import ratio

STEPS = 8
KNOWN = torch.ones(8, 8, dtype=torch.bool)
KNOWN[2:6, 2:6] = False


def _given(side: int) -> Tensor:
    return 0.5 * torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) - 0.25


TASKS: dict[str, Callable[..., Tensor]] = {
    "upscale": lambda pipeline, **options: upscale(pipeline, _given(4), **options),
    "vary": lambda pipeline, **options: vary(pipeline, _given(8), 0.8, **options),
    "inpaint": lambda pipeline, **options: inpaint(pipeline, _given(8), KNOWN, resamplings=1, jump=2, **options),
}


def _drawn(task: str, guidance: dict[str, Any] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return TASKS[task](small_pipeline(), generator=generator, num_inference_steps=STEPS, guidance=guidance)


def _by(network: torch.nn.Module, scale: float = 3.0, low: float = 0.0) -> dict[str, Any]:
    guide = ScaleSpacePipeline(network, small_pipeline().scheduler)
    return {"guidance_scale": scale, "guidance_interval": (low, 1000.0), "guidance_model": guide}


@pytest.mark.parametrize("task", TASKS)
def test_a_guide_that_is_no_worse_changes_nothing_and_another_one_does(task: str):
    plain = _drawn(task)
    torch.testing.assert_close(_drawn(task, _by(small_pipeline().unet)), plain, atol=1e-4, rtol=0)
    guided = _drawn(task, _by(small_network(1)))
    assert (guided - plain).abs().max() > 0.05
    if task == "inpaint":
        torch.testing.assert_close(guided[..., KNOWN], _given(8)[..., KNOWN] / 2 + 0.5)


@pytest.mark.parametrize("task", TASKS)
def test_the_guide_is_called_inside_of_the_interval_alone(task: str):
    guide, called = small_network(1), []
    guide.register_forward_pre_hook(lambda _, given: called.append(int(given[1])))
    low = 0.5
    _drawn(task, _by(guide, low=low))
    noise = small_pipeline().scheduler.process.noise
    assert called
    assert min(ratio(noise, t + 1) for t in called) >= low
    # Without a stretch of the chain that has no step inside, this would be no test of one.
    scheduler = small_pipeline().scheduler
    scheduler.set_timesteps(STEPS)
    assert all(ratio(noise, t + 1) < low for t in scheduler.timesteps.tolist()[-2:])


@pytest.mark.parametrize("task", TASKS)
def test_guidance_that_would_be_none_is_refused(task: str):
    with pytest.raises(ValueError, match="holds none of the"):
        _drawn(task, _by(small_network(1), low=999.0))
    with pytest.raises(ValueError, match="which can only be guided by a worse model"):
        _drawn(task, {"guidance_scale": 2.0})
    with pytest.raises(TypeError, match="give a ScaleSpacePipeline"):
        _drawn(task, {"guidance_scale": 2.0, "guidance_model": small_network(1)})
