"""Makes the model that comes with the package from its training run, measures it, and writes its card.

    python -m benchmarks.shipped make RUN [RUN ...] --width 0.1 --heldout emoji64-heldout.zip
    python -m benchmarks.shipped guide RUN --step 1250
    python -m benchmarks.shipped measure --data emoji64.zip --heldout emoji64-heldout.zip --calls 20 30 50 100
    python -m benchmarks.shipped measure --data emoji64.zip --heldout emoji64-heldout.zip --calls 20 30 50 --guided
    python -m benchmarks.shipped nearest --data emoji64.zip

``make`` takes the average of that width, in half precision, and a few held-out pictures for the demo. A first run that started
from the model in its place now goes on from the runs of that.
``guide`` takes the smaller model that guides it from a run of its own.
``measure`` adds the distances of its pictures to the held-out ones, at several numbers of calls, to docs/results/shipped.json,
beside those of the training pictures themselves.
``nearest`` draws 16 guided pictures and beside each the nearest training ones, in EfficientNet-Lite0's features and in pixels.
The card is written after each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME
from PIL import Image
from torch import Tensor

from scalespace.data.images import open_images
from scalespace.metrics.evaluate import Options, evaluate
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures
from scalespace.metrics.features import extract
from scalespace.pipelines.pictures import picture_grid
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import draw, sample_to_files
from scalespace.pipelines.shipped import (
    HELDOUT,
    SHIPPED,
    guide_folder,
    load_shipped,
    shipped_guidance,
)
from scalespace.planning.demo import drawing_gflops
from scalespace.reports.provenance import provenance, typed
from scalespace.training.models import averaged_model

DOCS = Path(__file__).parents[1] / "docs/results"
FIGURES, NEAREST = DOCS / "shipped.json", DOCS / "shipped-nearest.png"
METRICS = ("fid", "kid", "swd", "spectrum", "colour")
FEATURES = {"learned": "efficientnet-lite0", "built-in": None}
FLOOR = "training pictures"
GUIDED = ", guided"
CALLS_OF_NEAREST = 30
_UNSEEN = 8  # held-out pictures that come with the model


def make(given: argparse.Namespace) -> dict[str, Any]:
    """The weights in half precision, with the solver of the run, and how they were trained."""
    before = _runs_of_the_model_before(given.runs[0])
    pipeline, step = _saved(given.runs[-1], given.width, None, SHIPPED)
    unseen = open_images(str(given.heldout), pipeline.scheduler.image_size)
    chosen = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(given.seed))[:_UNSEEN]
    sheet = torch.cat(list(unseen.batch(chosen)[0]), 2)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(SHIPPED / HELDOUT)
    return {
        "width": given.width,
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()),
        "runs": [*before, *(_trained(run) for run in given.runs[:-1]), _trained(given.runs[-1], step)],
    }


def make_guide(given: argparse.Namespace) -> dict[str, Any]:
    """The weights of the guide in half precision, and how they were trained."""
    pipeline, step = _saved(given.run, given.width, given.step, guide_folder())
    (guide_folder() / "README.md").write_text((Path(__file__).parent / "shipped_guide_card.md").read_text())
    return {
        "width": given.width,
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()),
        "run": _trained(given.run, step),
    }


def _saved(run: Path, width: float, step: int | None, folder: Path) -> tuple[ScaleSpacePipeline, int]:
    """The average of a run, saved in half precision, and the step that it ends at."""
    pipeline, step, _ = averaged_model(run, width, step)
    pipeline.to(torch.float16)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(folder)
    return pipeline, step


def _runs_of_the_model_before(run: Path) -> list[dict[str, Any]]:
    started = json.loads((run / "run.json").read_text()).get("initial_weights")
    weights = SHIPPED / "unet" / SAFETENSORS_WEIGHTS_NAME
    if started is None:
        return []
    known = json.loads(FIGURES.read_text())["made"]["runs"]
    if started["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest():
        return known
    # The model in its place may be of this very run, at an earlier step.
    starts = [one["options"].get("initial_weights", {}).get("sha256") for one in known]
    return known[: starts.index(started["sha256"])] if started["sha256"] in starts else []


def _trained(run: Path, end: int | None = None) -> dict[str, Any]:
    """A run up to a step, or to its last checkpoint."""
    # Where things lay on the machine that trained it tells nobody anything.
    options = json.loads((run / "run.json").read_text().replace(f"{run.resolve().parent}/", ""))
    end = end or max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    spent = [(line["step"], line["pictures_per_second"]) for line in lines if line["step"] <= end]
    # A line tells of the steps since the one before it.
    seconds = sum(
        (at - before) * options["batch_size"] / rate
        for (at, rate), (before, _) in zip(spent, [(0, 0.0), *spent[:-1]], strict=True)
    )
    return {"steps": end, "pictures": end * options["batch_size"], "hours": seconds / 3600, "options": options}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Distances to the held-out pictures, by numbers of calls."""
    found: dict[str, Any] = {}
    pipeline = load_shipped()
    guidance = shipped_guidance() if given.guided else None
    wanted: list[Any] = given.calls if given.guided else [FLOOR, *given.calls]
    for calls in wanted:
        row: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as place:
            side = given.data
            if calls != FLOOR:
                side = Path(place) / "pictures"
                sample_to_files(
                    pipeline,
                    side,
                    num_images=given.count,
                    steps=calls,
                    seed=given.seed,
                    batch_size=32,
                    guidance=guidance,
                )
            for name, features in FEATURES.items():
                metrics = METRICS if features else METRICS[:2]
                told = evaluate(
                    str(side), str(given.heldout), Options(metrics, features=features, seed=given.seed)
                ).as_dict()
                rows = {row["key"]: [row[key] for key in ("value", "low", "high")] for row in told["metrics"]}
                row[name] = {"counts": told["metrics"][0]["counts"], **rows}
                print(calls, name, json.dumps(rows), flush=True)
        found[f"{calls}{GUIDED if given.guided else ''}"] = row
    return found


def nearest(given: argparse.Namespace) -> None:
    """A row for every drawn picture: itself, the nearest in features, the nearest in pixels."""
    pipeline, extractor = load_shipped(), EfficientNetFeatures()
    drawn = draw(pipeline, range(16), CALLS_OF_NEAREST, given.seed, guidance=shipped_guidance())
    data = open_images(str(given.data), (drawn.shape[-2], drawn.shape[-1]))
    known = data.batch(torch.arange(len(data)))[0]
    columns = [
        drawn,
        known[_nearest(extract(extractor, drawn, progress=True), extract(extractor, known, progress=True))],
        known[_nearest(drawn.flatten(1).float(), known.flatten(1).float())],
    ]
    order = [columns[kind][number] for half in (0, 8) for kind in range(3) for number in range(half, half + 8)]
    picture_grid([Image.fromarray(one.permute(1, 2, 0).numpy()) for one in order], columns=8).save(NEAREST)


def _nearest(drawn: Tensor, known: Tensor) -> Tensor:
    return torch.cdist(drawn, known).argmin(1)


def card(figures: dict[str, Any]) -> str:
    """The text of the card, of which every number is in the figures."""
    made = figures["made"]
    text = (Path(__file__).parent / "shipped_card.md").read_text()
    runs = [f"{number}. {_run(run)}" for number, run in enumerate(made["runs"], start=1)]
    guide = figures["guide"]
    guidance = shipped_guidance()
    return text.format(
        parameters=f"{made['parameters'] / 1e6:.2f}",
        pictures=f"{sum(run['pictures'] for run in made['runs']):,}",
        hours=f"{sum(run['hours'] for run in made['runs']):.1f}",
        width=made["width"],
        commit=made["commit"],
        runs="\n".join(runs),
        guide_parameters=f"{guide['parameters'] / 1e6:.2f}",
        guide_run=_run(guide["run"]),
        guide_commit=guide["commit"],
        scale=f"{guidance['guidance_scale']:g}",
        interval="{:g} {:g}".format(*guidance["guidance_interval"]),
        table=_table(figures.get("measured", {})),
        floor=FLOOR,
    )


def _run(run: dict[str, Any]) -> str:
    told = f"{run['steps']:,} steps, {run['pictures']:,} pictures, {run['hours']:.1f} hours"
    return f"{told}:\n\n```json\n{json.dumps(run['options'], indent=1, default=str)}\n```\n"


def _table(measured: dict[str, Any]) -> str:
    if not measured:
        return "Not measured yet."
    keys = [
        ("learned", "kid", "kernel distance x 1000, EfficientNet-Lite0"),
        ("learned", "fid", "Frechet distance, EfficientNet-Lite0"),
        ("built-in", "kid", "kernel distance x 1000, built-in"),
        ("learned", "swd_mean", "sliced Wasserstein x 1000"),
    ]
    titles = ["pictures", "GFLOPs a picture", *(title for *_, title in keys)]
    rows = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    pipeline, guidance = load_shipped(), shipped_guidance()
    kinds = {"": None, GUIDED: guidance}
    numbers = sorted({int(name.removesuffix(GUIDED)) for name in measured if name != FLOOR})
    names = {f"{number}{kind}": (number, kind) for kind in kinds for number in numbers}
    for name in (FLOOR, *(name for name in names if name in measured)):
        cells, title = [measured[name][kind].get(key) for kind, key, _ in keys], [name, ""]
        if name != FLOOR:
            calls, kind = names[name]
            pipeline.scheduler.set_timesteps(calls)
            title = [f"{calls} calls{kind}", f"{sum(drawing_gflops(pipeline, kinds[kind])):.1f}"]
        rows.append("| " + " | ".join([*title, *("" if c is None else _interval(c) for c in cells)]) + " |")
    return "\n".join(rows)


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("make")
    one.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="each from the weights of the one before")
    worse = parts.add_parser("guide")
    worse.add_argument("run", type=Path, metavar="RUN")
    worse.add_argument("--step", type=int, help="that the average ends at; the last of the run where none is given")
    for part in (one, worse):
        part.add_argument("--width", type=float, default=0.1, help="of the average of weights")
    others = [parts.add_parser(name) for name in ("measure", "nearest")]
    for part in (one, worse, *others):
        part.add_argument("--seed", type=int, default=0)
    for part in (one, others[0]):
        part.add_argument("--heldout", type=Path, required=True)
    for part in others:
        part.add_argument("--data", type=Path, required=True)
    others[0].add_argument("--calls", type=int, nargs="+", default=[20, 30, 50, 100])
    others[0].add_argument("--count", type=int, default=357, help="pictures to draw")
    others[0].add_argument("--guided", action="store_true", help="by the guide that comes with the package")
    given = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() and given.part != "make" else {}
    source = provenance(typed("python -m benchmarks.shipped", sys.argv[1:], folders=False), given.seed)
    if given.part == "make":
        figures["made"] = make(given) | {"commit": source.commit}
    elif given.part == "guide":
        figures["guide"] = make_guide(given) | {"commit": source.commit}
    elif given.part == "measure":
        figures["measured"] = figures.get("measured", {}) | measure(given)
        figures["guided_measured_by" if given.guided else "measured_by"] = source.as_dict()
    else:
        nearest(given)
        figures["nearest_by"] = source.as_dict()
    FIGURES.write_text(json.dumps(figures, indent=2, default=str) + "\n")
    (SHIPPED / "README.md").write_text(card(figures))


if __name__ == "__main__":
    main()
