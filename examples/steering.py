"""Steering a sampling from Python: an open loop over the scheduler's timesteps, with something changed on the way.

The denoiser is the exact one of 2,000 pictures, so what you see is what the process does and not how well a network was
trained; every free draw is one of them. Out comes a picture of four rows:

    an unseen picture at 32 pixels and as the thumbnail of 8 x 8 pixels that steers the last two rows
    free        noise at 8 x 8, up to 32 x 32
    started     the thumbnail, noised to the first point of the lowest level; upsampling is left to the process
    held        every prediction is moved to the nearest one whose thumbnail is the given one

A row has the state of the first draw at the start of each level, and then six finished pictures. The held ones look like two
pictures in one: none of the 2,000 has that very thumbnail, so they have its low frequencies and the detail of others.
"""

import sys
from itertools import chain, pairwise
from pathlib import Path

import torch
from PIL import Image

from scalespace import ScaleSpaceScheduler, open_images, picture_grid, to_picture


def main(output: str = "runs/examples/steering.png", *, count: int = 2000) -> None:
    data = open_images(f"synthetic:shapes:{count + 1}", (32, 32)).batch(range(count + 1))[0] / 127.5 - 1
    pictures, unseen = data[:-1], data[-1:]
    scheduler = ScaleSpaceScheduler(
        sizes=((32, 32), (16, 16), (8, 8)),
        change_points=(150, 300),
        shifted=True,
        solver="ddim",
        timestep_spacing="log_snr",
    )
    process, generator = scheduler.process, torch.Generator().manual_seed(0)
    alpha, sigma, operator = process.noise.alpha, process.noise.sigma, process.degradation.operator
    thumbnail = operator(0, 1000)(unseen)

    def denoise(x_t, t, s):
        # E[x0_s | x_t] where all pictures are equally likely. With a model: unet(x_t, t - 1, process.size(s)).sample
        states, targets = operator(0, t)(pictures), operator(0, s)(pictures)
        logits = -(torch.cdist(x_t.flatten(1), alpha(t) * states.flatten(1)) ** 2) / (2 * sigma(t) ** 2)
        return (logits.softmax(1) @ targets.flatten(1)).unflatten(1, (3, *process.size(s)))

    def draw(start, x, change=lambda x0, s: x0):
        scheduler.set_timesteps(40)
        grid = [t for t in (scheduler.timesteps + 1).tolist() if t <= start]  # a timestep is t - 1
        firsts = {}
        for t, s in pairwise([*grid, 0]):
            firsts.setdefault(process.size(t), x[0])
            x0 = change(denoise(x, t, s), s)
            x = scheduler.step(x0, t - 1, x, generator).prev_sample
        return [*firsts.values(), *x]

    def held(x0, s):
        M = operator(s, 1000)
        return x0 + M.adjoint_function(lambda e: 1 / e, thumbnail - M(x0))  # M^+ of what the thumbnail lacks

    def noise():
        return torch.randn(6, 3, 8, 8, generator=generator)

    rows = [draw(1000, noise()), draw(300, alpha(300) * thumbnail + sigma(300) * noise()), draw(1000, noise(), held)]
    shown = [unseen[0], thumbnail[0], *[torch.ones(3, 1, 1)] * 7, *chain(*rows)]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    picture_grid([to_picture(x).resize((96, 96), Image.Resampling.NEAREST) for x in shown], columns=9).save(output)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
