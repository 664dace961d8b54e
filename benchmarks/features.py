"""What features see: distances of pictures that were changed in a known way, and how many pictures a distance needs.

    python -m benchmarks.features changes --data photos64.zip --heldout photos64-heldout.zip
    python -m benchmarks.features counts --data cifar10-32.zip --heldout cifar10-32-heldout.zip
    python -m benchmarks.features sides --data photos64.zip --heldout photos64-heldout.zip

``changes`` compares training pictures, as they are and changed, with held-out pictures, in the built-in features and in
EfficientNet-Lite0's. ``counts`` does it with more and more pictures. ``sides`` compares the sides, in pixels, that
EfficientNet-Lite0 may see pictures at. The features of all pictures are kept in the user's cache folder, so that what was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.measurements import measured_once
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures
from scalespace.metrics.features import BuiltInFeatures, FeatureExtractor, extract
from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.resampling import Measurement
from scalespace.reports.provenance import provenance, typed
from scalespace.reports.table import Cell, Column, Table

Change = Callable[[Tensor, torch.Generator], Tensor]

COUNTS = (250, 500, 1000, 2500, 5000, 10000)
MOST_CHANGED = 1000
"""Pictures that are turned upside down at most for ``counts``."""
SIDES = (64, 96, 128)
PART = 1000
"""Pictures whose features are kept together."""


def blurred(pictures: Tensor, generator: torch.Generator, sigma: float = 0.6) -> Tensor:
    """Convolved with a Gaussian of so many pixels."""
    weights = torch.exp(-(torch.arange(-3, 4.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    x = pad(pictures.float(), (3, 3, 3, 3), mode="reflect").flatten(0, 1)[:, None]
    x = conv2d(conv2d(x, weights.view(1, 1, 1, 7)), weights.view(1, 1, 7, 1))
    return x.view(pictures.shape).round().byte()


def noisy(pictures: Tensor, generator: torch.Generator, sigma: float = 6.0) -> Tensor:
    """With Gaussian noise of so many levels of 255."""
    noise = torch.randn(pictures.shape, generator=generator)
    return (pictures + sigma * noise).round().clamp(0, 255).byte()


def upside_down(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by 180 degrees."""
    return pictures.flip(2, 3)


def shuffled(pictures: Tensor, generator: torch.Generator, tiles: int = 4) -> Tensor:
    """Cut into ``tiles`` times ``tiles`` tiles, which are put together in another order."""
    side = pictures.shape[-1] // tiles
    cut = pictures.unflatten(3, (tiles, side)).unflatten(2, (tiles, side)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    cut = torch.stack([picture[torch.randperm(tiles**2, generator=generator)] for picture in cut])
    return cut.unflatten(1, (tiles, tiles)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


CHANGES: dict[str, Change] = {
    "nothing": lambda pictures, _: pictures,
    "a light blur (0.6 pixels)": blurred,
    "noise (6 levels of 255)": noisy,
    "upside down": upside_down,
    "4 tiles shuffled": lambda pictures, generator: shuffled(pictures, generator, 2),
    "16 tiles shuffled": shuffled,
}
HALF = "half of the classes only"


def changed_sets(data: ImageDataset, count: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Training pictures changed in each way, and as many others of every second class if there are classes."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    pictures = data.batch(order[:count])[0]
    for name, change in CHANGES.items():
        yield name, change(pictures, torch.Generator().manual_seed(seed))
    classes = [Path(name).parent.name for name in data.names]
    kept = set(sorted(set(classes))[::2])
    if len(kept) > 1:
        yield HALF, data.batch([k for k in order[count:].tolist() if classes[k] in kept][:count])[0]


def features_of(extractor: FeatureExtractor, pictures: Tensor, name: str, progress: bool = True) -> Tensor:
    """Features of pictures, shape (N, d), kept in the user's cache folder."""

    def measure(part: Tensor) -> Tensor:
        content = hashlib.sha256(part.contiguous().numpy().tobytes()).hexdigest()
        made = lambda: {"features": extract(extractor, part, name, progress)}  # noqa: E731
        return measured_once(f"{content} {tuple(part.shape)}", str(extractor.mode), made)["features"]

    return torch.cat([measure(part) for part in pictures.split(PART)])


def distances(first: Tensor, second: Tensor, seed: int) -> tuple[Measurement, Measurement]:
    """Frechet distance and kernel distance of all pairs, with intervals."""
    return frechet(first, second, seed=seed), kid(first, second, subsets=1, subset_size=2, seed=seed).all_pairs


def cells(measured: Measurement, factor: float = 1.0) -> str:
    assert measured.low is not None
    assert measured.high is not None
    return f"{factor * measured.value:.3g} ({factor * measured.low:.3g} to {factor * measured.high:.3g})"


def extractors() -> dict[str, FeatureExtractor]:
    return {"built-in": BuiltInFeatures(), "EfficientNet-Lite0": EfficientNetFeatures()}


def opened(arguments: argparse.Namespace) -> tuple[ImageDataset, Tensor]:
    size = (arguments.size, arguments.size)
    data, heldout = (
        open_images(str(path), size, progress=not arguments.quiet) for path in (arguments.data, arguments.heldout)
    )
    return data, heldout.batch(torch.arange(len(heldout)))[0]


def changes(arguments: argparse.Namespace) -> Table:
    """Distances of training pictures, changed in every way, to the held-out pictures."""
    data, heldout = opened(arguments)
    sets = dict(changed_sets(data, arguments.count, arguments.seed))
    rows: dict[str, list[Cell]] = {name: [name] for name in sets}
    columns = [Column("change", "what was done to training pictures")]
    for kind, extractor in extractors().items():
        columns += [Column(f"frechet {kind}", f"Frechet, {kind}"), Column(f"kernel {kind}", f"kernel x 1000, {kind}")]
        reference = features_of(extractor, heldout, "held-out pictures", not arguments.quiet)
        for name, pictures in sets.items():
            found = features_of(extractor, pictures, name, not arguments.quiet)
            first, second = distances(found, reference, arguments.seed)
            rows[name] += [cells(first), cells(second, 1000)]
    title = f"{arguments.data.stem}: {arguments.count} pictures against {len(heldout)} held-out ones"
    return table(arguments, title, columns, rows.values())


def counts(arguments: argparse.Namespace) -> Table:
    """Distances of more and more training pictures, as they are and upside down, to the held-out pictures."""
    data, heldout = opened(arguments)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(arguments.seed))
    pictures = data.batch(order[: max(COUNTS)])[0]
    turned = upside_down(pictures[:MOST_CHANGED], torch.Generator())
    rows: dict[int, list[Cell]] = {count: [count] for count in COUNTS if count <= len(pictures)}
    columns = [Column("count", "pictures", ",")]
    for kind, extractor in extractors().items():
        reference = features_of(extractor, heldout, "held-out pictures", not arguments.quiet)
        for what, some in (("as they are", pictures), ("upside down", turned)):
            heading = f"{kind}, {what}"
            columns += [
                Column(f"frechet {heading}", f"Frechet, {heading}"),
                Column(f"kernel {heading}", f"kernel x 1000, {heading}"),
            ]
            found = features_of(extractor, some, what, not arguments.quiet)
            for count, row in rows.items():
                if count > len(found):
                    row += [None, None]
                    continue
                first, second = distances(found[:count], reference, arguments.seed)
                row += [cells(first), cells(second, 1000)]
    title = f"{arguments.data.stem}: training pictures against {len(heldout)} held-out ones"
    return table(arguments, title, columns, rows.values())


def sides(arguments: argparse.Namespace) -> Table:
    """Kernel distances in standard errors at every side that EfficientNet-Lite0 may see pictures at."""
    data, heldout = opened(arguments)
    sets = dict(changed_sets(data, arguments.count, arguments.seed))
    rows: list[list[Cell]] = []
    for side in SIDES:
        extractor = EfficientNetFeatures(side=side)
        started = time.process_time()
        extract(extractor, heldout[:32])
        row: list[Cell] = [side, 32 / (time.process_time() - started)]
        reference = features_of(extractor, heldout, f"held-out pictures at {side}", not arguments.quiet)
        for name, some in sets.items():
            found = features_of(extractor, some, f"{name} at {side}", not arguments.quiet)
            measured = distances(found, reference, arguments.seed)[1]
            assert measured.low is not None
            assert measured.high is not None
            error = (measured.high - measured.low) / (2 * 1.96)
            row.append(f"{1000 * measured.value:.3g} ({measured.value / error:.1f})")
        rows.append(row)
    columns = [Column("side", "side"), Column("speed", "pictures a second of processor time", ".0f")]
    columns += [Column(name, name) for name in sets]
    title = f"{arguments.data.stem}: kernel distance x 1000 (in standard errors), {arguments.count} pictures"
    return table(arguments, title, columns, rows)


def table(arguments: argparse.Namespace, title: str, columns: list[Column], rows: object) -> Table:
    command = typed("python -m benchmarks.features", sys.argv[1:], folders=False)
    rows = tuple(tuple(row) for row in rows)  # pyright: ignore
    return Table(arguments.command, title, tuple(columns), rows, (), provenance(command, arguments.seed))


COMMANDS: dict[str, Callable[[argparse.Namespace], Table]] = {"changes": changes, "counts": counts, "sides": sides}


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--data", type=Path, required=True, help="training pictures")
    parser.add_argument("--heldout", type=Path, required=True, help="pictures to compare with")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--count", type=int, default=700, help="training pictures, for changes and sides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()
    print(COMMANDS[arguments.command](arguments).as_markdown())


if __name__ == "__main__":
    main()
