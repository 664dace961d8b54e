import pytest
import torch
from tests.small_models import CHANGE, small_network, small_pipeline, small_scheduler
from torch import Tensor

from scalespace import ScaleSpacePipeline
from scalespace.diffusion.prediction import Sample
from scalespace.pipelines.pictures import image_generators
from scalespace.tasks.upscaling import Consistent, upscale


def _small(count: int = 2, channels: int = 3) -> Tensor:
    return 0.5 * torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.25


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("degradation", ["bilinear", "orthonormal"])
def test_the_result_brought_down_again_is_the_small_picture(prediction: str, degradation: str):
    # Not clipped, since random networks predict beyond the range of pixels.
    scheduler = small_scheduler(
        prediction_type=prediction, degradation=degradation, clip_sample=False, solver="ddim", shifted=True
    )
    pipeline = ScaleSpacePipeline(small_network(), scheduler)
    given = _small()
    process = scheduler.process
    found = []
    last = Consistent.x0

    def recorded(self, *arguments):
        found.append(last(self, *arguments))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Consistent, "x0", recorded)
        upscale(pipeline, given, generator=torch.Generator().manual_seed(0), num_inference_steps=8)
    down = process.degradation.operator(0, CHANGE)(found[-1])
    torch.testing.assert_close(down, given, atol=1e-4, rtol=1e-4)


def test_the_correction_is_the_nearest_picture_in_dense_float64():
    process = small_scheduler().process
    A = process.degradation.operator(0, CHANGE)
    x, y = torch.randn(1, 1, 8, 8).double(), torch.randn(1, 1, 4, 4).double()
    dense = torch.stack([A(unit.view(1, 1, 8, 8)).flatten() for unit in torch.eye(64).double()], 1)
    nearest = x.flatten() + torch.linalg.pinv(dense) @ (y.flatten() - dense @ x.flatten())
    corrected = Consistent(process.noise, Sample(process.noise), process.degradation, y, CHANGE)
    for s, M in ((0, process.degradation.operator(0, 5)), (0, process.degradation.operator(0, CHANGE))):
        t = 5 if M.out_size == (8, 8) else CHANGE
        found = corrected.x0(x, torch.zeros(1, 1, *M.out_size).double(), t, M)
        torch.testing.assert_close(found.flatten(), nearest, msg=f"from {s}")


def test_a_picture_depends_on_its_generator_alone_and_variations_differ():
    pipeline, given = small_pipeline(), _small(1).expand(3, 3, 4, 4)
    all_three = upscale(pipeline, given, generator=image_generators(0, range(3)), num_inference_steps=8)
    third = upscale(pipeline, given[:1], generator=image_generators(0, range(2, 3)), num_inference_steps=8)
    torch.testing.assert_close(all_three[2:], third, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(all_three[0], all_three[1], atol=1e-2)
    assert all_three.shape == (3, 3, 8, 8)
    assert 0 <= all_three.min() <= all_three.max() <= 1
    # The model's own scheduler is as it was.
    assert isinstance(pipeline.scheduler.prediction, Sample)


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (torch.zeros(1, 3, 5, 5), r"\(1, 3, 5, 5\); the model enlarges shapes \(B, 3, 4, 4\)"),
        (torch.zeros(1, 3, 8, 8), r"the model enlarges shapes \(B, 3, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), r"the model enlarges shapes \(B, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4), r"\(3, 4, 4\); the model enlarges"),
        (torch.full((1, 3, 4, 4), float("nan")), "not finite"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(pictures, sentence):
    with pytest.raises(ValueError, match=sentence):
        upscale(small_pipeline(), pictures)
    with pytest.raises(ValueError, match="class"):
        upscale(small_pipeline(num_classes=3), _small(), num_inference_steps=8)
