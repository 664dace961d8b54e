"""How far generated pictures are from reference pictures: ``scalespace evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.launch import launched
from scalespace.metrics.drawing import Sampling
from scalespace.metrics.extractors.choice import INCEPTION_VARIABLE, check_named, chosen_extractor
from scalespace.metrics.features import FeatureExtractor, Mode, ResizeRule, extract
from scalespace.metrics.frechet_distance import Moments, frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.patches import DIRECTIONS, PICTURES, Projections, project
from scalespace.metrics.picture_distances import (
    brightness_and_contrast,
    colour_distances_of,
    colour_histograms,
    radial_power,
    spectrum_distance_of,
)
from scalespace.metrics.precision_recall import prdc
from scalespace.metrics.report import Evaluation, Row
from scalespace.metrics.resampling import GROUPS, Groups, Measurement, both_sides
from scalespace.metrics.sides import Held, Side, open_sides
from scalespace.metrics.sliced_wasserstein import patches_of_pictures, sliced_wasserstein
from scalespace.metrics.statistics import Statistics, check_statistics_path

__all__ = ["INCEPTION_VARIABLE", "METRICS", "Options", "allowed_metrics", "compare", "evaluate"]

_OF_NEIGHBOURS = ("precision", "recall", "density")


@dataclass(frozen=True)
class Options:
    """What to measure and how.

    Args:
        metrics: Some of ``METRICS``; None takes all that the sides allow.
        inception_weights: File of Inception; None takes the environment's SCALESPACE_INCEPTION_WEIGHTS, if it is set.
        features: efficientnet-lite0, or the TorchScript file of another extractor. A file is a program, which is run.
        features_size: Pixels that pictures are resized to for it.
        trust: Whether to run the program that ``features`` is.
        resize: How pictures are resized for a network.
        neighbours: k of precision and recall.
        intervals: Whether to compute the intervals.
        seed: Seed of the groups that are left out for intervals, subsets, patches and directions.
        sampling: How to draw from a side that is a model.
        save_statistics: Where the statistics of the reference will be written, which ``Evaluation`` then holds.
        save_features: Whether they hold its features too.
        size: (height, width) that pictures are compared at; None takes that of the sides.
        cache: Whether what is measured of the reference is kept in the user's cache folder.
    """

    metrics: tuple[str, ...] | None = None
    inception_weights: str | None = None
    features: str | None = None
    features_size: int | None = None
    trust: bool = False
    resize: ResizeRule = "clean"
    neighbours: int = 5
    intervals: bool = True
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    save_statistics: str | None = None
    save_features: bool = False
    size: tuple[int, int] | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        if self.metrics is not None and not self.metrics:
            raise UserError(f"--metrics names none; use some of {','.join(METRICS)}, or leave it out")
        for name in self.metrics or ():
            if name not in METRICS:
                raise UserError(f'"{name}" cannot be measured; use some of {",".join(METRICS)}')
        if self.size is not None and min(self.size) < 1:
            raise UserError("--size is {} {}; give a height and a width of at least 1 pixel".format(*self.size))
        if self.neighbours < 1:
            raise UserError(f"--neighbours is {self.neighbours}; give at least 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}; give 0 to {2**32 - 1}")
        if self.features is not None and self.inception_weights is not None:
            raise UserError("--features and --inception-weights name two extractors; give one of them")


def evaluate(generated: str, reference: str, options: Options, progress: bool = True) -> Evaluation:
    """Measure how far generated pictures are from reference pictures.

    Args:
        generated: Folder or zip of pictures, .npz file of pictures or statistics, model folder, or synthetic:shapes:N.
        reference: Path of the reference side, in any of the same forms.
        options: What to measure and how.
        progress: Whether what takes over two seconds shows a bar on stderr.

    Raises:
        UserError: If a side cannot be opened, the sides do not fit each other, or an extractor or a file cannot be used.
    """
    extractor = chosen_extractor(
        options.features,
        options.inception_weights,
        size=options.features_size,
        resize=options.resize,
        trust=options.trust,
        device=options.sampling.device,
    )
    if options.save_statistics is not None:
        check_statistics_path(Path(options.save_statistics))
    check_named((generated, reference), extractor, options.save_statistics is not None)
    progress = progress and launched()[0] == 0
    sides = open_sides(generated, reference, options.sampling, options.size, options.cache, progress)
    return compare(sides, extractor, options, progress)


def compare(sides: tuple[Side, Side], extractor: FeatureExtractor, options: Options, progress: bool) -> Evaluation:
    """Measure how far the first of two sides is from the second; arguments and errors as of ``evaluate``."""
    metrics = _metrics(options, sides)
    _check(sides, metrics, options.neighbours)
    needed = options.save_statistics is not None or any(_METRICS[name].needs != "pictures" for name in metrics)
    features = [_features(side, extractor, progress) for side in sides] if needed else []
    rows: list[Row] = []
    for name in metrics:
        try:
            rows += _METRICS[name].measure(_Sets(sides, tuple(features), extractor.mode, options, progress))
        except ValueError as error:
            raise UserError(f"{name} cannot be measured, since {cause(error)}") from error
    dimensions = _dimensions(features[0]) if features else 0
    return Evaluation(
        sides[0],
        sides[1],
        extractor.mode if features else None,
        dimensions,
        tuple(rows),
        tuple(_notes(rows, metrics, sides, extractor.mode, dimensions)),
        _groups_left_out(features, sides) if options.intervals else 0,
        options.seed,
        None if options.save_statistics is None else _statistics(options, sides[1], features[1], extractor.mode),
    )


def _groups_left_out(features: Sequence[Tensor | Moments], sides: tuple[Side, Side]) -> int:
    """Number of times that a figure is computed again; a side of moments alone has no groups."""
    counts = [side.count for of, side in zip(features, sides, strict=False) if not isinstance(of, Moments)]
    return min([GROUPS, *(counts or [0])])


@dataclass(frozen=True)
class _Sets:
    """Both sides, ready to be measured."""

    sides: tuple[Side, Side]
    features: tuple[Tensor | Moments, ...]
    mode: Mode
    options: Options
    progress: bool

    @property
    def counts(self) -> tuple[int, int]:
        return self.sides[0].count, self.sides[1].count

    @property
    def drawing(self) -> dict[str, Any]:
        return {"intervals": self.options.intervals, "seed": self.options.seed}

    @property
    def groups(self) -> tuple[Groups, Groups]:
        """The groups of either side's pictures, which are left out for the intervals."""
        return both_sides(self.counts, **self.drawing)

    def of_pictures(self, what: str, measure: Callable[[Tensor, Groups, bool], Tensor]) -> tuple[Tensor, Tensor]:
        """What is measured of the pictures of either side by itself, in the sums of every group."""

        def of(side: Side, groups: Groups, number: int) -> Tensor:
            key = f"{what}, groups of seed {self.options.seed} for side {number}"
            return side.measured(key, lambda pictures: {what: measure(pictures, groups, self.progress)})[what]

        first, second = (
            of(side, groups, number) for number, (side, groups) in enumerate(zip(self.sides, self.groups, strict=True))
        )
        return first, second

    def rows(self) -> tuple[Tensor, Tensor]:
        """The features of both sides, where pairs of pictures are compared."""
        device = self.options.sampling.device
        first, second = (side.to(device) for side in self.features if isinstance(side, Tensor))
        return first, second


def _fid(sets: _Sets) -> list[Row]:
    name = "FID" if sets.mode.extractor == "inception" else f"Frechet distance, {sets.mode.extractor} features"
    first, second = sets.features
    return [Row("fid", name, frechet(first, second, **sets.drawing), sets.counts)]


def _kid(sets: _Sets) -> list[Row]:
    name = "KID" if sets.mode.extractor == "inception" else f"kernel distance, {sets.mode.extractor} features"
    found = kid(*sets.rows(), **sets.drawing)
    subsets = f"{found.subsets} subsets of {found.subset_size}"
    remark = f"{subsets}: {1e3 * found.subset_mean:.4g} with standard deviation {1e3 * found.subset_std:.2g}"
    return [
        Row("kid", f"{name}, x 1000", _scaled(found.all_pairs, 1e3), sets.counts, remark=remark),
    ]


def _prdc(sets: _Sets) -> list[Row]:
    k = sets.options.neighbours
    found = prdc(*sets.rows(), k, **sets.drawing)
    return [
        Row(key, f"{key}, {sets.mode.extractor} features, k = {k}", getattr(found, key), sets.counts, "higher")
        for key in ("precision", "recall", "density", "coverage")
    ]


def _swd(sets: _Sets) -> list[Row]:
    seed = sets.options.seed
    counts = (min(sets.counts[0], PICTURES), min(sets.counts[1], PICTURES))
    patches = patches_of_pictures(counts)

    def of(number: int) -> dict[str, Projections]:
        key = f"{patches[number]} patches in groups on {DIRECTIONS} directions of seed {seed} for side {number}"
        found = sets.sides[number].measured(
            key,
            lambda p: Projections.as_tensors(project(p, number, patches[number], seed=seed, progress=sets.progress)),
        )
        return Projections.from_tensors(found)

    found = sliced_wasserstein(of(0), of(1), counts, **sets.drawing)
    sampled = (patches[0] * counts[0], patches[1] * counts[1])
    return [
        Row(f"swd_{band}", f"sliced Wasserstein distance, {band}, x 1000", measured, counts, patches=sampled)
        for band, measured in found.items()
    ]


def _spectrum(sets: _Sets) -> list[Row]:
    found = spectrum_distance_of(*sets.of_pictures("radial power", radial_power), sets.groups)
    return [Row("spectrum", "power spectrum, dB", found, sets.counts)]


def _colour(sets: _Sets) -> list[Row]:
    found = colour_distances_of(
        sets.of_pictures("colour levels", colour_histograms),
        sets.of_pictures("brightness and contrast", lambda pictures, *_: brightness_and_contrast(pictures)),
        sets.groups,
    )
    names = {
        "channels": "colour values",
        "saturation": "saturation of pixels",
        "brightness": "brightness of pictures",
        "contrast": "contrast of pictures",
    }
    return [
        Row(f"colour_{key}", f"{name}, levels of 255", getattr(found, key), sets.counts) for key, name in names.items()
    ]


@dataclass(frozen=True)
class _Metric:
    """What a metric needs of both sides, and the function that measures it."""

    needs: Held
    measure: Callable[[_Sets], list[Row]]


_METRICS = {
    "fid": _Metric("moments", _fid),
    "kid": _Metric("features", _kid),
    "prdc": _Metric("features", _prdc),
    "swd": _Metric("pictures", _swd),
    "spectrum": _Metric("pictures", _spectrum),
    "colour": _Metric("pictures", _colour),
}
METRICS = tuple(_METRICS)


def allowed_metrics(*held: Held) -> tuple[str, ...]:
    """All that can be measured of sides of which this is known."""
    # Each can be computed from those after it.
    known = get_args(Held)[: min(map(get_args(Held).index, held)) + 1]
    return tuple(name for name, metric in _METRICS.items() if metric.needs in known)


def _metrics(options: Options, sides: tuple[Side, Side]) -> tuple[str, ...]:
    """The metrics that were asked for, or all that the sides allow."""
    asked = tuple(dict.fromkeys(options.metrics or ()))
    for name, side in product(asked, sides):
        if name not in allowed_metrics(side.held):
            lacking = _METRICS[name].needs
            other = "the pictures" if lacking == "pictures" else "a file saved with --save-features"
            raise UserError(
                f"{name} needs {lacking}, and the statistics {side.name} hold none; leave {name} out of --metrics, or give "
                f"{other}"
            )
    return asked or allowed_metrics(sides[0].held, sides[1].held)


def _check(sides: tuple[Side, Side], metrics: Sequence[str], neighbours: int) -> None:
    first, second = sides
    pictured = [side for side in sides if side.statistics is None]
    known = [side for side in sides if side.grey is not None]
    if len({side.grey for side in known}) > 1:
        grey, coloured = sorted(known, key=lambda side: not side.grey)
        raise UserError(
            f"all pictures of {grey.name} are grey and those of {coloured.name} are not; "
            "give both sides in colour or both in grey"
        )
    for side in pictured:
        if side.constant:
            raise UserError(
                f"all {side.count} pictures of {side.name} are the same, so that they have no distribution; "
                "give different ones"
            )
    for name, side in (("generated", first), ("reference", second)):
        if "prdc" in metrics and side.count <= neighbours:
            raise UserError(
                f"prdc cannot be measured, since there are {side.count} {name} pictures and {neighbours} neighbours are asked "
                "for; give more pictures, fewer --neighbours, or leave prdc out of --metrics"
            )


def _features(side: Side, extractor: FeatureExtractor, progress: bool) -> Tensor | Moments:
    if side.statistics is None:
        return side.measured(
            str(extractor.mode), lambda pictures: {"features": extract(extractor, pictures, side.name, progress)}
        )["features"]
    found = side.statistics
    if found.mode not in (None, extractor.mode):
        raise UserError(
            f"the statistics {side.name} are of {found.mode}, and this run takes {extractor.mode}; "
            "give the same extractor and resize, or make the statistics again"
        )
    return found.moments if found.features is None else found.features


def _dimensions(features: Tensor | Moments) -> int:
    return features.shape[1] if isinstance(features, Tensor) else len(features.mean)


def _statistics(options: Options, side: Side, features: Tensor | Moments, mode: Mode) -> Statistics:
    moments = features if isinstance(features, Moments) else Moments.of(features)
    kept = features if options.save_features and isinstance(features, Tensor) else None
    return Statistics(mode, side.name, side.image_size, moments, kept, side.preparation, side.grey)


def _scaled(measured: Measurement, factor: float) -> Measurement:
    ends = (None if end is None else factor * end for end in (measured.low, measured.high))
    return Measurement(factor * measured.value, *ends)


def _notes(
    rows: Sequence[Row], metrics: Sequence[str], sides: tuple[Side, Side], mode: Mode, dimensions: int
) -> Iterator[str]:
    """Sentences that a reader of the figures must know."""
    if all(side.grey for side in sides):
        yield "Both sides are grey, and features and distances are of three equal channels."
    fewest = min(side.count for side in sides if side.count)
    if "fid" in metrics:
        yield (
            "A Frechet distance is biased upwards, the more the fewer pictures there are: compare it at these counts only."
        )
        if fewest <= dimensions:
            yield (
                f"Its covariance has rank {fewest - 1} at most in {dimensions} dimensions, since there are only {fewest} "
                "pictures: use more, or the kernel distance, which has no bias."
            )
    if mode.extractor != "inception" and any(_METRICS[name].needs != "pictures" for name in metrics):
        yield (
            f"These are distances of {mode.extractor} features and no FID or KID; those need --inception-weights or "
            f"{INCEPTION_VARIABLE}."
        )
    for side in sides:
        if not side.count:
            yield f"{side.name} does not say what it is of; that it is of {mode} is what you have named."
    for row in rows:
        if row.patches is not None:
            first, second = (
                f"{patches:,} patches of {count:,}{f' of {side.count:,}' if count < side.count else ''} pictures"
                for patches, count, side in zip(row.patches, row.counts, sides, strict=True)
            )
            yield f"Sliced Wasserstein distance: in each band {first} against {second}, along {DIRECTIONS} directions."
            break
    if any(row.key in _OF_NEIGHBOURS and row.measured.low is not None and row.measured.value < 0.05 for row in rows):
        yield (
            "A precision, recall or density near 0 is decided by few pictures far from the others: such intervals held the "
            "mean in only 82 % of simulations."
        )
    if "moments" in (side.held for side in sides):
        yield "Nothing can be left out of a side of moments alone, so intervals are those of the other side's pictures."
