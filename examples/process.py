"""The process on one picture, and its exact reverse.

A scene of 64 pixels goes down to 8 x 8 noise, and comes back by draws of the posterior, which here is told the clean
picture, as a network would have to guess it. Out comes one picture of three rows, every column a grid point t:

    what is left of the picture   M_{0->t} x_0, smaller at every change of resolution
    down, by the marginal         x_t = alpha_t M_{0->t} x_0 + sigma_t eps
    back up, by the posterior     x_s drawn given x_t and x_0, from t = 1000 to the picture itself

The columns come in pairs at a change: its last point at the larger size and its first at the smaller one. The noise is
shifted, so that the small state of a pair shows more of the picture than the large one: averaging removes noise.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from scalespace import (
    ChangesAt,
    LinearBeta,
    Resizing,
    ScaleSpaceProcess,
    Shifted,
    open_images,
    picture_grid,
    to_picture,
)


def main(output: str = "runs/examples/process.png", *, size: int = 64) -> None:
    levels = Resizing.octaves((size, size), ChangesAt((150, 250, 350)))
    process = ScaleSpaceProcess(Shifted(LinearBeta(), levels), levels)
    shown = [0, 149, 150, 249, 250, 349, 350, 600, 1000]

    x_0 = open_images("synthetic:shapes:4", (size, size))[3]["image"][None] / 127.5 - 1  # (1, 3, 64, 64) in [-1, 1]
    generator = torch.Generator().manual_seed(0)

    clean = {t: process.degradation.operator(0, t)(x_0) for t in shown}
    down = {t: process.marginal(x_0, t).sample(generator) for t in shown}

    up = {1000: down[1000]}
    x_t = down[1000]
    for t in range(1000, 0, -1):
        s = t - 1
        x0_s = process.degradation.operator(0, s)(x_0)  # a network predicts this from x_t
        x_t = process.posterior(x_t, x0_s, t, s).sample(generator)
        up[s] = x_t

    print("  t   size    SNR")
    for t in shown:
        print(f"{t:4}  {process.size(t)[0]:2} px  {process.noise.snr(t):8.2g}")
    print(f"the way back ends at the picture itself: {torch.equal(up[0], x_0)}")

    rows = [clean, down, up]
    enlarged = [to_picture(row[t][0]).resize((128, 128), Image.Resampling.NEAREST) for row in rows for t in shown]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    picture_grid(enlarged, columns=len(shown)).save(output)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
