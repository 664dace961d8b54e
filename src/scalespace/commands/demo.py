"""``scalespace demo``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scalespace.commands.parsing import device_named, read, say
from scalespace.effects import Needs
from scalespace.files import OutputFolder

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

    output: OutputFolder = "demo"
    """Folder for the pictures, which must be new."""
    num_images: int = 64
    """Number of pictures, drawn together."""
    steps: int = 30
    """Number of network calls."""
    seed: int = 0
    """Seed of the pictures."""
    guidance: bool = True
    """Guide the model by the smaller one that comes with it, for clearer pictures."""
    device: str = "auto"
    """Device to run on: cpu, cuda, mps and so on. auto takes an accelerator if there is one."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {}


def run(words: list[str]) -> None:
    """Draw emoji with the model that comes with the package, and tell what they cost.

    Beside the pictures it writes how they grew, as a picture and as an animation, and other emoji enlarged from small ones.

    example: scalespace demo

    example: scalespace demo --output more --seed 1 --steps 50
    """
    given = read(Arguments, words, run)
    import torch

    from scalespace.pipelines.shipped import (
        SHIPPED,
        guide_folder,
        load_heldout,
        load_shipped,
        shipped_guidance,
    )
    from scalespace.planning.demo import show
    from scalespace.planning.speed import readable_seconds
    from scalespace.training.start.precision import computes_bf16

    device = device_named(given.device)
    precision = torch.bfloat16 if computes_bf16(device) else torch.float32
    pipeline = load_shipped(dtype=precision)
    pipeline.to(device)
    guidance = shipped_guidance(device, dtype=precision) if given.guidance else None
    demo = show(
        pipeline,
        Path(given.output),
        load_heldout(),
        num_images=given.num_images,
        steps=given.steps,
        seed=given.seed,
        guidance=guidance,
        progress=not given.quiet,
    )
    if given.json:
        say(json.dumps(demo.as_json()))
        return
    sizes = ", ".join("{} at {}x{}".format(count, *size) for size, count in demo.calls.items())
    parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters()) / 1e6
    say(
        f"model      {SHIPPED.name}: {parameters:.2f} million parameters, {precision} on {device}".replace("torch.", "")
    )
    say(
        f"pictures   {demo.pictures} in {demo.seconds:.1f} s, {demo.gflops:.1f} GFLOPs and {sum(demo.calls.values())} "
        f"network calls each: {sizes}"
    )
    if given.guidance:
        say(f"guide      {guide_folder().name}: {100 * demo.guide_gflops / demo.gflops:.1f} % of these GFLOPs")
    otherwise = readable_seconds(demo.one_level_seconds)
    say(
        f"one level  {demo.one_level_calls} calls at the full resolution would take {otherwise}, "
        f"{demo.one_level_seconds / demo.seconds:.0f} times as long ({demo.one_level_gflops / demo.gflops:.0f} times the "
        "GFLOPs); a few were timed"
    )
    say(f"grid       {demo.grid}")
    say(f"growth     {demo.growth}, {demo.animation}")
    say(
        f"enlarged   {demo.enlarged}: emoji that it has not seen, given small; brought down again, what it draws differs by "
        f"{demo.enlarged_error:.2g} levels of 255"
    )
