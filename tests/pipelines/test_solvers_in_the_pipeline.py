"""Scheduler and command line with other solvers than the paper's."""

from itertools import pairwise

import pytest
import torch
from tests.small_models import cli_error, small_pipeline, small_scheduler
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.diffusion.bridges import Isotropic, UpsampledPrediction, UpsampledState
from scalespace.diffusion.degradation import OrthonormalResizing
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.pipelines.scheduler import ScaleSpaceScheduler


def chain(scheduler, step):
    state = torch.randn(2, 3, *scheduler.noise_size, generator=torch.Generator().manual_seed(0))
    grid = [int(i) + 1 for i in scheduler.timesteps]
    for t, s in pairwise([*grid, 0]):
        x0_s = torch.tanh(torch.nn.functional.interpolate(state, size=scheduler.process.size(s)) * (1 + t / 20))
        state = step(x0_s, t, s, state)
    return state


@pytest.mark.parametrize(("name", "solver"), [("ddim", DDIM), ("multistep", Multistep), ("corrected", Corrected)])
@pytest.mark.parametrize("spacing", ["linspace", "log_snr"])
def test_scheduler_steps_are_the_solver_s(name, solver, spacing):
    scheduler = small_scheduler(solver=name, timestep_spacing=spacing, shifted=True, degradation="orthonormal")
    scheduler.set_timesteps(8)
    generator, same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    reference = solver(scheduler.process)
    ours = chain(scheduler, lambda x0_s, t, s, x: scheduler.step(x0_s, t - 1, x, generator).prev_sample)
    expected = chain(
        scheduler, lambda x0_s, t, s, x: reference.step(x, x0_s, t, s, torch.randn(x0_s.shape, generator=same))
    )
    assert_close(ours, expected, rtol=0, atol=0)


BRIDGES = {"isotropic": Isotropic, "upsampled-prediction": UpsampledPrediction, "upsampled-state": UpsampledState}


@pytest.mark.parametrize("name", BRIDGES)
@pytest.mark.parametrize("solver", ["ancestral", "multistep"])
def test_scheduler_takes_the_bridge_at_changes_and_the_solver_elsewhere(name, solver):
    options = {"sizes": ((8, 8), (4, 4)), "change_points": (400,), "shifted": True, "clip_sample": False}
    scheduler = ScaleSpaceScheduler(**options, bridge=name, solver=solver)
    process = scheduler.process
    reference = BRIDGES[name](process, Multistep(process) if solver == "multistep" else Ancestral(process))
    scheduler.set_timesteps(6)
    generator, same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    ours = chain(scheduler, lambda x0_s, t, s, x: scheduler.step(x0_s, t - 1, x, generator).prev_sample)
    expected = chain(
        scheduler, lambda x0_s, t, s, x: reference.step(x, x0_s, t, s, torch.randn(x0_s.shape, generator=same))
    )
    assert_close(ours, expected, rtol=0, atol=0)
    exact = ScaleSpaceScheduler(**options, solver=solver)
    exact.set_timesteps(6)
    generator.manual_seed(1)
    other = chain(exact, lambda x0_s, t, s, x: exact.step(x0_s, t - 1, x, generator).prev_sample)
    assert (other - ours).abs().max() > 1e-3


def test_set_timesteps_begins_a_new_chain():
    scheduler = small_scheduler(solver="multistep")
    results = []
    for _ in range(2):
        scheduler.set_timesteps(6)
        generator = torch.Generator().manual_seed(1)
        results.append(chain(scheduler, lambda x0, t, s, x, g=generator: scheduler.step(x0, t - 1, x, g).prev_sample))
    assert torch.equal(*results)


def test_log_snr_spacing_takes_the_calls_asked_for():
    scheduler = small_scheduler(timestep_spacing="log_snr")
    scheduler.set_timesteps(7)
    assert (scheduler.timesteps + 1).tolist() == list(log_snr_grid(scheduler.process, 7))
    assert len(scheduler.timesteps) == 7


def test_shift_and_degradation_survive_saving(tmp_path):
    scheduler = small_scheduler(shifted=True, degradation="orthonormal", solver="ddim", eta=0.5)
    scheduler.save_pretrained(tmp_path)
    loaded = ScaleSpaceScheduler.from_pretrained(tmp_path)
    assert isinstance(loaded.process.noise, Shifted)
    assert isinstance(loaded.process.degradation, OrthonormalResizing)
    assert torch.equal(loaded.process.noise.log_snr_table, scheduler.process.noise.log_snr_table)
    assert {name: loaded.config[name] for name in ("solver", "eta")} == {"solver": "ddim", "eta": 0.5}


@pytest.mark.parametrize("option", ["degradation", "solver", "bridge", "timestep_spacing"])
def test_unknown_choices_are_refused(option):
    with pytest.raises(ValueError, match=f'{option} "other" is unknown; use one of'):
        small_scheduler(**{option: "other"})


@pytest.fixture
def model(tmp_path):
    small_pipeline().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_sample_takes_another_solver(model, tmp_path, capsys):
    words = ["sample", model, "--num-images", "1", "--quiet", "--steps", "6"]
    main([*words, "--output", str(tmp_path / "a"), "--solver", "multistep", "--spacing", "log_snr"])
    assert "6 network calls each" in capsys.readouterr().out
    main([*words, "--output", str(tmp_path / "b")])
    main([*words, "--output", str(tmp_path / "c"), "--bridge", "isotropic"])
    pictures = [(tmp_path / name / "000000.png").read_bytes() for name in "abc"]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "2", "--spacing", "log_snr"], "2 sampling steps; a process of 2 levels needs at least 3"),
        (["--solver", "ddim", "--eta", "2"], "eta is 2.0; give a number from 0"),
        (["--bridge", "upsampled-state"], "upsampled-state needs an SNR 4 times higher at t = 11 than before it"),
    ],
)
def test_bad_choices_are_one_sentence(words, sentence, model, tmp_path, capsys):
    error = cli_error(capsys, ["sample", model, "--output", str(tmp_path / "out"), *words])
    assert sentence in error
