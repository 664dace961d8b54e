"""``scalespace evaluate``."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scalespace.commands.parsing import device_named, fields, read
from scalespace.training.configuration import SolverName, SpacingName

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the command takes."""

    generated: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GENERATED")]
    """Folder or zip of pictures, statistics (.npz), or a model folder (RUN/model) to draw from."""
    reference: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REFERENCE")]
    """The same; the pictures it should look like."""
    metrics: str | None = None
    """Comma list of fid, kid, prdc, swd, spectrum, colour; left out, all that the two sides allow."""
    inception_weights: str | None = None
    """inception-2015-12-05.pt, for FID and KID; left out, SCALESPACE_INCEPTION_WEIGHTS, or else built-in features."""
    features: str | None = None
    """TorchScript file of another extractor: float pictures in 0..255, (B, 3, H, W), to (B, d). Needs --trust."""
    features_size: int | None = None
    """With --features: side in pixels that pictures are resized to for it."""
    trust: bool = False
    """Run the program that --features is. It can do whatever you can; know where it is from, and compare its hash."""
    resize: Literal["clean", "legacy"] = "clean"
    """How pictures are resized for a network: antialiased bicubic, or bilinear without antialiasing as the first FID."""
    neighbours: int = 5
    """Nearest neighbours of precision, recall, density and coverage."""
    intervals: bool = True
    """Tell with every figure how sure it is at these numbers of pictures."""
    size: tuple[int, int] | None = None
    """Height and width to compare at. None takes the size of the model or, for pictures of one size, theirs."""
    cache: bool = True
    """Keep what is measured of the reference in the user's cache folder, so that the next comparison is quicker."""
    num_images: int = 1000
    """Pictures to draw from a side that is a model."""
    steps: int = 50
    """Its sampling steps."""
    solver: SolverName | None = None
    """How it takes a step; the model's own if left out."""
    eta: float | None = None
    """Of ddim: 0 is deterministic, 1 is ancestral; the model's own if left out."""
    spacing: SpacingName | None = None
    """Equal steps of time or of log-SNR; the model's own if left out."""
    batch_size: int = 16
    """Pictures drawn together."""
    seed: int = 0
    """Of drawn pictures and of everything else that is random."""
    save_statistics: str | None = None
    """File (.npz) for the statistics of the reference, to give in its place the next time."""
    save_features: bool = False
    """With --save-statistics: keep the features of all pictures too, which kid and prdc need."""
    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator where there is one."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""


def run(words: list[str]) -> None:
    """Measure how far pictures are from reference pictures; every figure with its counts and a 95 % interval.

    example: scalespace evaluate runs/photos/model photos.zip --num-images 1000 --metrics fid,kid,swd

    example: scalespace evaluate pictures/ photos.zip --inception-weights inception-2015-12-05.pt --json
    """
    given = read(Arguments, words, run)
    from scalespace.metrics.drawing import Sampling
    from scalespace.metrics.evaluate import Options, evaluate, leads
    from scalespace.metrics.statistics import write_statistics
    from scalespace.reports.provenance import provenance

    metrics = None if given.metrics is None else tuple(filter(None, given.metrics.replace(" ", "").split(",")))
    sampling = Sampling(**fields(Sampling, given) | {"device": device_named(given.device)})
    shared = {name: value for name, value in vars(given).items() if name in Options.__dataclass_fields__}
    options = Options(**shared | {"metrics": metrics, "sampling": sampling})
    found = evaluate(given.generated, given.reference, options, not given.quiet)
    if not leads():
        return
    source = provenance(f"scalespace evaluate {shlex.join(words)}", given.seed)
    # First what was found, so that it is not lost where the file cannot be written.
    print(json.dumps(found.as_dict() | {"source": source.as_dict()}) if given.json else found.as_text(), flush=True)
    if found.statistics is not None:
        write_statistics(Path(given.save_statistics), found.statistics)
        if not given.json:
            print(f"statistics of the reference are in {given.save_statistics}")
