"""``scalespace evaluate``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from scalespace.commands.options.drawing import GUIDED, DrawingOptions
from scalespace.commands.options.loading import Loading
from scalespace.commands.parsing import device_named, dtype_named, fields, metrics_named, read, say
from scalespace.effects import Need, Needs
from scalespace.files import OutputFile
from scalespace.launch import launched

__all__ = ["Arguments", "run"]


def _draws(*sides: str) -> bool:
    from scalespace.metrics.sides import may_be_model

    return any(map(may_be_model, sides))


def _held(given: Any) -> tuple[Any, Any]:
    from scalespace.metrics.sides import held_at

    return held_at(given.generated), held_at(given.reference)


def _named(metrics: str | None) -> tuple[str, ...] | None:
    return None if metrics is None else metrics_named(metrics)


def _measures(given: Any, *metrics: str) -> bool:
    """Whether one of these metrics is measured."""
    from scalespace.metrics.evaluate import allowed_metrics

    return not set(metrics).isdisjoint(_named(given.metrics) or allowed_metrics(*_held(given)))


def _draws_lots(given: Any) -> bool:
    intervals = given.intervals and _held(given) != ("moments", "moments")
    return intervals or _draws(given.generated, given.reference) or _measures(given, "kid", "swd")


def _resizes(given: Any) -> bool:
    """Whether the extractor takes pictures of one size."""
    from scalespace.metrics.extractors.choice import INCEPTION_VARIABLE
    from scalespace.metrics.extractors.efficientnet import EFFICIENTNET

    if given.features is None:
        return bool(given.inception_weights or os.environ.get(INCEPTION_VARIABLE))
    return given.features == EFFICIENTNET or given.features_size is not None


def _runs_file(given: Any) -> bool:
    from scalespace.metrics.extractors.efficientnet import EFFICIENTNET

    return given.features not in (None, EFFICIENTNET)


_MODEL = Need(
    lambda given: _draws(given.generated, given.reference),
    "where no pictures are drawn, since neither side is a model",
    "give a model as a side",
)
_NETWORK = Need(
    lambda given: given.save_statistics is not None or _measures(given, "fid", "kid", "prdc"),
    "on --metrics {metrics}, none of which is of features",
    "name fid, kid or prdc too",
)
_FILE = Need(_runs_file, "without a file of an extractor", "give a TorchScript file by --features")


@dataclass(frozen=True, kw_only=True)
class _Measuring(DrawingOptions):
    """What is compared, and how."""

    generated: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GENERATED")]
    """Folder, zip or .npz of pictures, statistics (.npz), or a model (RUN/model, or OWNER/NAME on the Hub) to draw from."""
    reference: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REFERENCE")]
    """The pictures to compare with, in any of the same forms."""
    metrics: str | None = None
    """List of fid, kid, prdc, swd, spectrum and colour, with commas. None measures all that the two sides allow."""
    inception_weights: str | None = None
    """File inception-2015-12-05.pt, for FID and KID. None takes SCALESPACE_INCEPTION_WEIGHTS, or else built-in features."""
    features: str | None = None
    """efficientnet-lite0 (extra features), or a TorchScript file, pictures 0..255 (B, 3, H, W) to (B, d), with --trust."""
    features_size: int | None = None
    """Only with a file for --features: side in pixels that pictures are resized to for the extractor."""
    trust: bool = False
    """Run the program in the --features file. It can do whatever you can: know where it is from, and compare its hash."""
    resize: Literal["clean", "legacy"] = "clean"
    """How pictures are resized for a network: antialiased bicubic, or bilinear without antialiasing as the first FID."""
    neighbours: int = 5
    """Number of nearest neighbours for precision, recall, density and coverage."""
    intervals: bool = True
    """Print an interval with every figure, which tells how sure it is with so many pictures."""
    size: tuple[int, int] | None = None
    """Height and width to compare at. None takes the size of the model or, for pictures of one size, theirs."""
    cache: bool = True
    """Keep what is measured of the reference in the user's cache folder, so that the next comparison is quicker."""
    num_images: int = 1000
    """Number of pictures to draw from a side that is a model."""
    seed: int = 0
    """Seed of the drawn pictures and of everything else that is random."""
    save_statistics: OutputFile | None = None
    """File (.npz) for the statistics of the reference, which can be given in its place the next time."""
    save_features: bool = False
    """Only with --save-statistics: keep the features of all pictures too, which kid and prdc need."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Loading, _Measuring):
    """The options of the command."""

    needs: ClassVar[Needs] = {
        "inception_weights": (_NETWORK,),
        "features": (_NETWORK,),
        "features_size": (_FILE,),
        "trust": (_FILE,),
        "resize": (
            _NETWORK,
            Need(
                _resizes,
                "on an extractor that takes pictures as they are",
                "give --inception-weights, or --features with --features-size",
            ),
        ),
        "neighbours": (
            Need(
                lambda given: _measures(given, "prdc"),
                "where prdc is not measured",
                "let prdc be among --metrics, which needs pictures or features on both sides",
            ),
        ),
        "cache": (
            Need(
                lambda given: _held(given)[1] == "pictures" and not _draws(given.reference),
                "on a reference that is no folder or zip of pictures",
                "give the pictures themselves",
            ),
        ),
        "num_images": (_MODEL,),
        "steps": (_MODEL,),
        "solver": (_MODEL,),
        "eta": (_MODEL,),
        "spacing": (_MODEL,),
        "class_label": (_MODEL,),
        "guidance_scale": (_MODEL,),
        "guidance_interval": (_MODEL, GUIDED),
        "guidance_model": (_MODEL, GUIDED),
        "variant": (_MODEL,),
        "revision": (_MODEL, *Loading.needs["revision"]),
        "trust_model": (_MODEL, *Loading.needs["trust_model"]),
        "dtype": (_MODEL,),
        "batch_size": (_MODEL,),
        "seed": (Need(_draws_lots, "where nothing is random", "measure kid or swd"),),
        "save_features": (
            Need(lambda given: given.save_statistics is not None, "without --save-statistics", "name that file too"),
            Need(
                lambda given: _held(given)[1] != "moments",
                "on a reference whose features were not kept",
                "give the pictures themselves",
            ),
        ),
    }

    @property
    def named(self) -> tuple[str | None, ...]:
        sides = tuple(side for side in (self.generated, self.reference) if _draws(side))
        return sides if self.guidance_model is None else (*sides, self.guidance_model)


def run(words: list[str]) -> None:
    """Measure how far pictures are from reference pictures; every figure with its counts and a 95 % interval.

    example: scalespace evaluate runs/photos/model photos.zip --num-images 1000 --metrics fid,kid,swd

    example: scalespace evaluate pictures/ photos.zip --features efficientnet-lite0 --metrics fid,kid,prdc

    example: scalespace evaluate runs/animals animals.zip --guidance-scale 2 --guidance-interval 0.2 5

    example: scalespace evaluate pictures/ photos.zip --inception-weights inception-2015-12-05.pt --json
    """
    given = read(Arguments, words, run)
    from scalespace.metrics.drawing import Sampling
    from scalespace.metrics.evaluate import Options, evaluate
    from scalespace.metrics.statistics import write_statistics
    from scalespace.reports.provenance import provenance, typed

    sampling = Sampling(
        **fields(Sampling, given) | {"device": device_named(given.device), "dtype": dtype_named(given.dtype)}
    )
    shared = {name: value for name, value in vars(given).items() if name in Options.__dataclass_fields__}
    options = Options(**shared | {"metrics": _named(given.metrics), "sampling": sampling})
    found = evaluate(given.generated, given.reference, options, not given.quiet)
    if launched()[0] > 0:
        return
    source = provenance(typed("scalespace evaluate", words), given.seed)
    # First what was found, so that it is not lost where the file cannot be written.
    say(json.dumps(found.as_dict() | {"source": source.as_dict()}) if given.json else found.as_text())
    if found.statistics is not None:
        write_statistics(Path(given.save_statistics), found.statistics)
        if not given.json:
            say(f"statistics of the reference are in {given.save_statistics}")
