"""Any network: a module with a few attributes is one, whether it goes up or not."""

import copy

import pytest
import torch
from tests.small_models import CHANGE, SIZES, small_network, small_pipeline, small_scheduler
from torch import nn
from torch.nn.functional import interpolate
from torch.testing import assert_close

from scalespace.errors import UserError
from scalespace.networks.network import ask, lacking
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch


class Own(nn.Module):
    """Predicts a fixed map of the state, at the size of the target or, if it stays, of the state."""

    sizes = SIZES
    in_channels = 3
    num_classes = no_class = condition_size = None

    def __init__(self, stays: bool):
        super().__init__()
        torch.manual_seed(0)
        self.stays, self.convolution = stays, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, sample, timestep, target_size=None, class_labels=None):
        output = self.convolution(sample)
        return output if self.stays else interpolate(output, size=target_size)


def _drawn(network, **options) -> torch.Tensor:
    pipeline = ScaleSpacePipeline(network, small_scheduler(**options))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return pipeline(2, generator=generator, num_inference_steps=6, output_type="latent").images


def test_a_flexi_unet_is_a_network_as_it_is():
    network = small_network()
    assert lacking(network) == ()
    state, time = torch.randn(1, 3, *SIZES[1]), torch.tensor(CHANGE - 1)
    expected = network(state, CHANGE - 1, SIZES[0]).sample
    assert torch.equal(ask(network, state, time, torch.tensor(0.0), SIZES[0]), expected)


@pytest.mark.parametrize("stays", [True, False])
def test_a_plain_module_is_a_network_if_it_says_what_it_takes(stays):
    assert lacking(nn.Linear(1, 1)) == ("sizes", "in_channels", "num_classes", "no_class", "condition_size")
    network = Own(stays)
    assert lacking(network) == ()
    drawn = _drawn(network, solver="ddim")
    assert drawn.shape == (2, 3, *SIZES[0])
    assert drawn.std() > 0.01
    check_batch(network, 10**6, "cpu", "nothing is known of its memory")


def test_predictions_that_stay_are_those_of_a_network_that_carries_them_up_itself():
    network, scheduler = Own(stays=True), small_scheduler(clip_sample=False)
    M = scheduler.process.degradation.operator(CHANGE - 1, CHANGE)

    class Carried(Own):
        def forward(self, sample, timestep, target_size=None, class_labels=None):
            output = self.convolution(sample)
            stays = tuple(target_size) == tuple(sample.shape[-2:])
            return output if stays else M.adjoint_function(lambda e: 1 / e, output)

    carried = Carried(stays=False)
    carried.load_state_dict(network.state_dict())
    assert_close(_drawn(network, clip_sample=False), _drawn(carried, clip_sample=False))


def test_a_network_with_times_of_its_own_is_told_those():
    class Timed(Own):
        def time_of(self, log_snr):
            return 100 + log_snr

    network = Timed(stays=True)
    told = []
    network.register_forward_pre_hook(lambda module, arguments: told.append(float(arguments[1])))
    _drawn(network)
    noise = small_scheduler().process.noise
    assert told[0] == pytest.approx(100 + noise.log_snr(noise.timesteps), abs=1e-4)
    assert told == sorted(told)
    guide = small_pipeline()
    before = guide.unet
    guide.unet = copy.deepcopy(before)
    with pytest.raises(TypeError, match="was given where a network is needed, and it lacks sizes"):
        guide.unet = nn.Linear(1, 1)


def test_a_pipeline_with_a_network_of_ones_own_moves_and_is_not_saved(tmp_path):
    pipeline = ScaleSpacePipeline(Own(stays=True), small_scheduler())
    assert (pipeline.device, pipeline.dtype) == (torch.device("cpu"), torch.float32)
    assert pipeline.to(torch.float64).dtype == torch.float64
    with pytest.raises(UserError, match=r"a network of your own \(Own\) cannot be saved"):
        pipeline.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_subclass_of_a_network_of_the_package_is_saved_as_that(tmp_path):
    class Mine(type(small_network())):
        pass

    network = small_network()
    network.__class__ = Mine
    ScaleSpacePipeline(network, small_scheduler()).save_pretrained(tmp_path)
    assert '"FlexiUNet"' in (tmp_path / "model_index.json").read_text()
