"""A degradation of your own at the command line: trained by its name, saved, loaded, sampled, and used to enlarge pictures.

`Mist` makes a level smaller by means over 2 x 2 pixels and takes a fifth of the contrast of what is left. It is a class in this
file, so that its name is own_degradation:Mist. The commands below are what you would type in the folder of the file. They are
run here one after the other, in half a minute of one core. Out comes a picture: eight samples above, and below them eight
pictures that were enlarged from 8 pixels. The network has hardly been trained: the samples are grey clouds, and the enlarged
pictures little more than the pixels that were given.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from scalespace import FunctionOperator, Levels, ScaleSpacePipeline, open_images, picture_grid, to_picture, upscale


def mist(x: torch.Tensor) -> torch.Tensor:
    """Any linear function that autograd can follow, (..., H, W) -> (..., H / 2, W / 2)."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    means = x.unflatten(-1, (width, 2)).unflatten(-3, (height, 2)).mean((-1, -3))
    return 0.8 * means + 0.2 * means.mean((-1, -2), keepdim=True)


class Mist(Levels):
    """Called as Mist(sizes, change_points, timesteps), as every subclass of Levels can be."""

    def next_level(self, size: tuple[int, int], next_size: tuple[int, int]) -> FunctionOperator:
        return FunctionOperator(mist, size, next_size)


def typed(words: list[str]) -> None:
    """Run a command in the folder of this file."""
    subprocess.run([sys.executable, "-m", "scalespace", *words], cwd=Path(__file__).parent, check=True)


def main(
    output: str = "runs/examples/own_degradation.png", *, steps: int = 60, run: Callable[[list[str]], None] = typed
) -> None:
    place = Path(output).absolute()
    folder = place.with_suffix("")
    # Given again to a run that is there, the first command goes on where it ended; the second draws what is missing.
    run(
        f"train --data synthetic:shapes:200 --output-dir {folder}/run --max-steps {steps} --batch-size 8 --warmup-steps 10 "
        "--process.degradation own_degradation:Mist --process.image-size 16 16 --process.levels 2 --sample-every 0 --quiet "
        "--network.base-channels 16 --network.channel-multipliers 1 2 --network.blocks-per-level 1 --mixed-precision no".split()
    )
    # The model's folder names the module, and loading it runs that: --trust-model says that it may.
    run(f"sample {folder}/run/model --trust-model --num-images 8 --steps 10 --output {folder}/drawn --quiet".split())

    # In Python, whoever has imported the module has said so.
    importlib.import_module("own_degradation")
    pipeline = ScaleSpacePipeline.from_pretrained(f"{folder}/run/model")
    pipeline.set_progress_bar_config(disable=True)
    data = open_images("synthetic:shapes:8", (16, 16)).batch(range(8))[0] / 127.5 - 1
    small = pipeline.scheduler.process.degradation.operator(0, 1000)(data)
    enlarged = upscale(pipeline, small, num_inference_steps=10)

    drawn = [Image.open(path) for path in sorted((folder / "drawn").glob("0*.png"))]
    shown = [*drawn, *(to_picture(2 * picture - 1) for picture in enlarged)]
    picture_grid([one.resize((64, 64), Image.Resampling.NEAREST) for one in shown], columns=8).save(place)
    print(place)


if __name__ == "__main__":
    main(*sys.argv[1:2])
