"""Draws by every arm with several numbers of calls, and measures how far the pictures are from held-out ones.

A line for each is added to results.jsonl as soon as it is known, and what is there already is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.pretrained.arms import Arm, arms, chain_gflops, in_bf16
from torch import Tensor

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.measurements import measured_once
from scalespace.data.spectrum import mean_spectrum
from scalespace.metrics.extractors.choice import chosen_extractor
from scalespace.metrics.features import FeatureExtractor, extract
from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.pipelines.pictures import picture_grid, to_picture
from scalespace.pipelines.pretrained.source import read_pretrained
from scalespace.pipelines.sampling import draw
from scalespace.reports.provenance import Provenance

__all__ = ["RESULTS", "TRUTH", "Comparison", "compare"]

RESULTS, TRUTH, BATCH = "results.jsonl", "training pictures", 50
_KEY = ("arm", "calls", "seed", "count", "features", "heldout", "weights", "changes", "bf16")
"""What two lines share that are of the same pictures."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        model: Folder of the pretrained model.
        data: Pictures that it was trained on, of which the spectrum is taken.
        heldout: Pictures that drawn ones are compared with.
        output: Folder of the results.
        further: Folders of models that were trained further, by the names of their arms.
        arms: Names of the arms.
        calls: Numbers of network calls a picture.
        levels: Number of resolutions of the progressive arms.
        tolerance: Where ours leaves a level.
        count: Number of pictures.
        seed: Of the noise, and of the groups that are left out for intervals.
        features: "efficientnet-lite0"; None takes the built-in ones.
        bf16: Whether networks compute in bf16.
    """

    model: Path
    data: str
    heldout: str
    output: Path
    further: dict[str, Path]
    arms: tuple[str, ...]
    calls: tuple[int, ...] = (10, 20, 50, 100)
    levels: int = 2
    tolerance: float = 0.01
    count: int = 1000
    seed: int = 0
    features: str | None = "efficientnet-lite0"
    bf16: bool = True


def compare(given: Comparison, source: Provenance) -> None:
    """Measure what is not in the results yet.

    Args:
        given: What is compared.
        source: What its lines tell of where they come from.

    Raises:
        UserError: If a model or pictures cannot be read.
    """
    size = read_pretrained(given.model).size
    data, heldout = (open_images(path, size, progress=False) for path in (given.data, given.heldout))
    extractor = chosen_extractor(given.features, None, size=None, resize="clean", trust=False, device="cpu")
    reference = _features(extractor, heldout, torch.arange(len(heldout)))
    known = {_key(json.loads(line)) for line in _lines(given.output / RESULTS)}
    facts = {
        "seed": given.seed,
        "count": given.count,
        "features": given.features or "built-in",
        "data": Path(given.data).name,
        "heldout": Path(given.heldout).name,
        "bf16": given.bf16,
    }

    def add(record: dict[str, Any], features: Tensor) -> None:
        options = {"intervals": True, "seed": given.seed}
        pairs = kid(features, reference, subsets=1, subset_size=2, **options).all_pairs
        whole = {"kid": [1e3 * end for end in asdict(pairs).values()]}
        whole["fid"] = list(asdict(frechet(features, reference, **options)).values())
        with (given.output / RESULTS).open("a") as file:
            file.write(json.dumps(record | whole | {"by": source.as_dict()}) + "\n")
        print(json.dumps(record | whole), flush=True)

    given.output.mkdir(parents=True, exist_ok=True)
    record = facts | {"arm": TRUTH, "calls": 0, "gflops": 0.0, "weights": "", "changes": []}
    if _key(record) not in known:
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(given.seed))[: given.count]
        add(record, _features(extractor, data, chosen))
    for arm, calls in _planned(given, data):
        pipeline = arm.pipeline
        pipeline.scheduler.set_timesteps(calls)
        record = facts | {
            "arm": arm.name,
            "calls": len(pipeline.scheduler.timesteps),
            "gflops": round(chain_gflops(pipeline), 3),
            "weights": arm.weights,
            "changes": list(pipeline.scheduler.process.degradation.change_points),
        }
        if _key(record) not in known:
            pictures = _drawn(pipeline, calls, given)
            grid = picture_grid([to_picture(one / 127.5 - 1) for one in pictures[:64]])
            grid.save(given.output / f"{arm.name}-{calls}-{given.seed}.png")
            add(record, extract(extractor, pictures, "pictures", progress=False))


def _planned(given: Comparison, data: ImageDataset) -> Iterator[tuple[Arm, int]]:
    """All cells, few calls first, so that a comparison that is stopped has every arm."""
    found = arms(
        given.model,
        given.levels,
        given.tolerance,
        lambda size: mean_spectrum(data, False),
        given.further,
        given.arms,
    )
    for arm in found:
        arm.pipeline.set_progress_bar_config(disable=True)
        if given.bf16:
            in_bf16(arm.pipeline)
    for calls in given.calls:
        for arm in found:
            yield arm, calls


def _drawn(pipeline: Any, calls: int, given: Comparison) -> Tensor:
    parts = [range(first, min(first + BATCH, given.count)) for first in range(0, given.count, BATCH)]
    return torch.cat([draw(pipeline, part, calls, given.seed) for part in parts])


def _features(extractor: FeatureExtractor, data: ImageDataset, numbers: Tensor) -> Tensor:
    def measure() -> dict[str, Tensor]:
        return {"features": extract(extractor, data.batch(numbers)[0], "pictures", progress=False)}

    return measured_once(f"{data.fingerprint_of(numbers.tolist())}", str(extractor.mode), measure)["features"]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record[name] for name in _KEY])
