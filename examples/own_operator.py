"""A linear operator of your own as the degradation, from the function to drawn pictures.

The operator is a step of Burt and Adelson's Gaussian pyramid (1983): blur by (1, 4, 6, 4, 1) / 16, take every second pixel.
It is a plain function; its transpose, its norm and the noise at a change follow from it. A small network is trained on that
process for half a minute of one core. Out comes a picture: a row of data, the same after the operator, four rows of samples.
They are soft blobs: so short a training teaches grounds and colours, and no shapes.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import conv2d, pad
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scalespace import (
    FlexiUNet,
    FunctionOperator,
    Levels,
    LinearBeta,
    MinSNR,
    ScaleSpacePipeline,
    ScaleSpaceProcess,
    ScaleSpaceScheduler,
    Shifted,
    TimeSampler,
    open_images,
    picture_grid,
    to_picture,
    x0_loss,
)


def pyramid_step(x: torch.Tensor) -> torch.Tensor:
    """Any linear function that autograd can follow, (..., H, W) -> (..., H / 2, W / 2)."""
    weights = x.new_tensor([1, 4, 6, 4, 1]) / 16
    padded = pad(x.reshape(-1, 1, *x.shape[-2:]), (2, 2, 2, 2), mode="reflect")
    blurred = conv2d(padded, torch.outer(weights, weights)[None, None], stride=2)
    return blurred.reshape(*x.shape[:-2], *blurred.shape[-2:])


class Pyramid(Levels):
    """One pyramid step from every level to the next."""

    def next_level(self, size: tuple[int, int], next_size: tuple[int, int]) -> FunctionOperator:
        return FunctionOperator(pyramid_step, size, next_size)


def main(output: str = "runs/examples/own_operator.png", *, steps: int = 250) -> None:
    degradation = Pyramid(sizes=((16, 16), (8, 8)), change_points=(500,))
    process = ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)  # refuses what cannot be a process
    print("SNR_s / (SNR_t lambda_max) at the changes, at least 1:", process.margins())

    torch.manual_seed(0)
    network = FlexiUNet(
        degradation.sizes, base_channels=24, channel_multipliers=(1, 2), blocks_per_level=1, attention_max_size=8
    )
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    times, weight, generator = TimeSampler(process, change_share=0.03), MinSNR(), torch.Generator().manual_seed(0)
    data = open_images("synthetic:shapes:2000", degradation.size(0))
    for _ in range(steps):
        x_0 = data.batch(torch.randint(len(data), (32,), generator=generator))[0] / 127.5 - 1
        group = times.draw(generator)
        t = times.times(group, 32, generator)
        x_t = process.marginal(x_0, t).sample(generator)
        x0_s = degradation.operators(0 * t, t - 1)(x_0)
        prediction = network(x_t, t - 1, group.target_size).sample
        optimizer.zero_grad()
        x0_loss(prediction, x0_s, weight(process.noise.snr(t))).mean().backward()
        optimizer.step()
        averaged.update_parameters(network)

    scheduler = ScaleSpaceScheduler(process=process, solver="corrected", timestep_spacing="log_snr")
    pipeline = ScaleSpacePipeline(averaged.module.eval(), scheduler)
    drawn = pipeline(batch_size=32, generator=generator, num_inference_steps=20).images

    pictures = [to_picture(x) for x in (*x_0[:8], *degradation.operator(0, 1000)(x_0[:8]))]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    shown = [picture.resize((64, 64), Image.Resampling.NEAREST) for picture in (*pictures, *drawn)]
    picture_grid(shown, columns=8).save(output)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
