"""Training and sampling on one page, without the command line: a loop to change.

A small Flexi-UNet learns pictures of 16 pixels in two levels, and draws 64 of them in 20 calls. Out comes their grid. A
minute of one core teaches grounds and colours, and a little of where an object is: expect soft blobs, and nothing with a name.
"""

import sys
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scalespace import (
    ConvexDecay,
    FlexiUNet,
    MinSNR,
    ScaleSpacePipeline,
    ScaleSpaceScheduler,
    TimeSampler,
    open_images,
    picture_grid,
    x0_loss,
)

DATA = "synthetic:shapes:4000"  # or a folder or zip of pictures


def main(output: str = "runs/examples/train.png", *, steps: int = 250, batch: int = 32, pictures: int = 64) -> None:
    sizes = ((16, 16), (8, 8))
    scheduler = ScaleSpaceScheduler(
        sizes=sizes,
        change_points=ConvexDecay(levels=2).change_points(1000),
        shifted=True,
        solver="corrected",
        timestep_spacing="log_snr",
    )
    process, times, weight = scheduler.process, TimeSampler(scheduler.process, change_share=0.03), MinSNR(gamma=5)

    torch.manual_seed(0)
    network = FlexiUNet(
        sizes=sizes, base_channels=24, channel_multipliers=(1, 2), attention_max_size=8, blocks_per_level=1
    )
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)

    data = open_images(DATA, sizes[0])
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        images, _ = data.batch(torch.randint(len(data), (batch,), generator=generator))
        x_0 = images / 127.5 - 1
        # All pictures of a batch go from one resolution to one; each has a time of its own.
        group = times.draw(generator)
        t = times.times(group, batch, generator)
        x_t = process.marginal(x_0, t).sample(generator)
        x0_s = process.degradation.operators(0 * t, t - 1)(x_0)

        prediction = network(x_t, t - 1, group.target_size).sample  # a network's timestep is t - 1
        loss = x0_loss(prediction, x0_s, weight(process.noise.snr(t))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        if step % 50 == 0:
            print(f"step {step:4}  {group.size[0]:2} -> {group.target_size[0]:2} px  loss {loss.item():.4f}")

    pipeline = ScaleSpacePipeline(averaged.module.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(pictures, generator, num_inference_steps=20).images
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    picture_grid([picture.resize((64, 64)) for picture in drawn]).save(output)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
