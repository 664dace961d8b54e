"""A network of your own, from the module to drawn pictures; the part between the two lines is what you write.

A network is a module that says which sizes, channels and classes it takes, and predicts from a state and its time. This one is
a plain stack of convolutions without any notion of resolution: it answers at the size of the state, and at a change of
resolution the process carries its prediction up. It is trained for half a minute of one core. Out comes a picture: two rows of
data and two rows of samples. So small a network finds colours and soft blobs, and no shapes.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from scalespace import (
    MinSNR,
    ScaleSpacePipeline,
    ScaleSpaceScheduler,
    TimeSampler,
    clean_image,
    open_images,
    picture_grid,
    to_picture,
    x0_loss,
)

SIZES = ((16, 16), (8, 8))


# ------------------------------------------------------------------------------------------------------------------------
class OwnNetwork(nn.Module):
    """Convolutions, shifted by what time it is and by the mean of the picture."""

    sizes, in_channels = SIZES, 3
    num_classes = no_class = condition_size = None  # it is told nothing besides

    def __init__(self, width: int = 32, depth: int = 4):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(width) / 100, requires_grad=False)
        self.time = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, depth * width))
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))

    def forward(self, sample, timestep, target_size=None, class_labels=None):
        angles = timestep.expand(len(sample)).float()[:, None] * self.frequencies
        shifts = self.time(torch.cat([angles.sin(), angles.cos()], 1)).unflatten(1, (len(self.layers), -1))
        hidden = self.first(sample)
        for layer, shift in zip(self.layers, shifts.unbind(1), strict=True):
            pooled = hidden.mean((-2, -1), keepdim=True)  # what is far away
            hidden = hidden + layer(nn.functional.silu(hidden + pooled + shift[..., None, None]))
        return self.last(nn.functional.silu(hidden))


# ------------------------------------------------------------------------------------------------------------------------


def main(output: str = "runs/examples/own_network.png", *, steps: int = 300) -> None:
    torch.manual_seed(0)
    scheduler = ScaleSpaceScheduler(sizes=SIZES, change_points=(300,), shifted=True, solver="ddim")
    process, network = scheduler.process, OwnNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    times, weight, generator = TimeSampler(process), MinSNR(), torch.Generator().manual_seed(0)
    data = open_images("synthetic:shapes:2000", SIZES[0])
    for _ in range(steps):
        x_0 = data.batch(torch.randint(len(data), (32,), generator=generator))[0] / 127.5 - 1
        group = times.draw(generator)
        t = times.times(group, 32, generator)
        x_t = process.marginal(x_0, t).sample(generator)
        x0_s = process.degradation.operators(0 * t, t - 1)(x_0)
        M = process.degradation.operators(t - 1, t)
        prediction = clean_image(scheduler.prediction, network(x_t, t - 1), x_t, t, M)
        optimizer.zero_grad()
        x0_loss(prediction, x0_s, weight(process.noise.snr(t))).mean().backward()
        optimizer.step()

    pipeline = ScaleSpacePipeline(network.eval(), scheduler)
    drawn = pipeline(batch_size=16, generator=generator, num_inference_steps=20).images
    shown = [picture.resize((64, 64), Image.Resampling.NEAREST) for picture in (*map(to_picture, x_0[:16]), *drawn)]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    picture_grid(shown, columns=8).save(output)
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
