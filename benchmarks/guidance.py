"""What guidance does to the pictures of a small model of ten classes: how often the class is right, and at what price.

    python -m benchmarks.guidance train --data cifar10-32.zip --output runs/guidance --steps 6000
    python -m benchmarks.guidance measure --data cifar10-32.zip --heldout cifar10-32-heldout.zip --output runs/guidance
    python -m benchmarks.guidance page

``train`` trains a model of the classes that are the folders of the data, with label dropout; a run that was stopped goes on
where it was. ``measure`` draws as many pictures of every class without guidance and with guidance of every scale: everywhere,
inside an interval of noise, and away from an earlier checkpoint of the same run. Logistic regression on EfficientNet-Lite0's
features of the training pictures tells their classes, and held-out pictures tell how well it does so. It writes
docs/results/guidance.json and guidance.png. What was drawn is kept under --output, so that it goes on too. ``page`` writes
docs/results/guidance.md from these.

Scale w takes a prediction to worse + w (better - worse): 1 is no guidance.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.features import features_of
from benchmarks.trained import NETWORK
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalespace.data.images import ImageDataset, open_images
from scalespace.errors import Stopped
from scalespace.files import write_file
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures
from scalespace.metrics.frechet_distance import frechet
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.precision_recall import prdc
from scalespace.pipelines.pictures import image_generators, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.reports.provenance import Provenance, provenance
from scalespace.reports.table import Column, markdown, write_text
from scalespace.training.configuration import ProcessConfig, TrainConfig
from scalespace.training.loop import train
from scalespace.training.models import open_model

DOCS = Path(__file__).parents[1] / "docs/results"
FIGURES, PICTURE, PAGE = (DOCS / f"guidance.{ending}" for ending in ("json", "png", "md"))
SIZE = (32, 32)
LEVELS = 3
CHECKPOINTS = 8
"""Checkpoints of a run that are kept, evenly spaced; the first of them is the earlier model."""
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
INTERVAL = (0.2, 5.0)
"""Sigma / alpha between which there is guidance."""
EVERYWHERE, INSIDE, EARLIER = "everywhere", "inside the interval", "by an earlier checkpoint"
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_TOGETHER = 50  # pictures


def configuration(given: argparse.Namespace) -> TrainConfig:
    process = ProcessConfig(SIZE, levels=LEVELS, shifted=True, resolution="auto")
    network = replace(NETWORK, base_channels=given.base_channels, num_classes=given.classes)
    return TrainConfig(
        process=process,
        network=network,
        label_dropout=0.1,
        data=str(given.data),
        output_dir=str(given.output / "run"),
        max_steps=given.steps,
        batch_size=given.batch_size,
        seed=given.seed,
        learning_rate=1e-3,
        warmup_steps=min(200, given.steps // 10),
        cooldown_steps=round(0.4 * given.steps),
        ema_decay=0.999,
        weight_offset=1.0,
        change_share=0.02,
        mixed_precision=given.mixed_precision,
        sample_every=0,
        checkpoint_every=max(1, given.steps // CHECKPOINTS),
        keep_every=max(1, given.steps // CHECKPOINTS),
        log_every=max(1, min(50, given.steps // 10)),
    )


@dataclass(frozen=True)
class Classifier:
    """Logistic regression on features (N, d) that are brought to mean 0 and deviation 1.

    Args:
        mean: Mean of the features it was fitted to, shape (d,).
        deviation: Their standard deviation, shape (d,).
        weight: Shape (d, classes).
        bias: Shape (classes,).
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor, decay: float) -> Classifier:
        """Minimise the mean cross entropy + decay / 2 |W|^2 over all pictures at once, which is convex."""
        mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
        x, classes = (features - mean) / deviation, int(labels.max()) + 1
        weight = torch.zeros(x.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        search = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            error = torch.nn.functional.cross_entropy(x @ weight + bias, labels) + decay / 2 * weight.square().sum()
            error.backward()
            return error

        search.step(loss)  # pyright: ignore
        return cls(mean, deviation, weight.detach(), bias.detach())

    @classmethod
    def chosen(cls, features: Tensor, labels: Tensor) -> tuple[Classifier, float]:
        """The classifier by the weight decay that does best on every tenth picture when it is fitted to the others."""
        tenth = torch.arange(len(labels)) % 10 == 0
        right = {
            decay: share(cls.fitted(features[~tenth], labels[~tenth], decay)(features[tenth]) == labels[tenth])
            for decay in DECAYS
        }
        best = max(right, key=right.__getitem__)
        return cls.fitted(features, labels, best), best

    def __call__(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.deviation @ self.weight + self.bias).argmax(1)


def share(right: Tensor) -> float:
    return float(right.double().mean())


def wilson(right: Tensor) -> list[float]:
    """A share of independent pictures with the ends of its 95 % interval (Wilson 1927)."""
    p, n, z = share(right), len(right), 1.96
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return [p, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]


@dataclass(frozen=True)
class Setting:
    """One way of guiding."""

    kind: str
    scale: float

    @property
    def name(self) -> str:
        return "no guidance" if self.scale == 1 else f"{self.kind}, {self.scale:g}"

    def options(self, earlier: ScaleSpacePipeline | None, interval: tuple[float, float]) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        if self.scale == 1:
            return {}
        return {
            "guidance_scale": self.scale,
            "guidance_interval": interval if self.kind == INSIDE else None,
            "guidance_model": earlier if self.kind == EARLIER else None,
        }


def settings(scales: Sequence[float], earlier: bool) -> Iterator[Setting]:
    """No guidance first; then every other scale of every kind."""
    yield Setting(EVERYWHERE, 1.0)
    for kind in (EVERYWHERE, INSIDE, *([EARLIER] if earlier else [])):
        yield from (Setting(kind, scale) for scale in scales if scale != 1)


def drawn(pipeline: ScaleSpacePipeline, count: int, calls: int, seed: int, options: Mapping[str, Any]) -> Tensor:
    """Pictures whose classes come in turn, uint8 of shape (count, 3, H, W). Picture i starts from the noise of number i."""
    parts = []
    for first in range(0, count, _TOGETHER):
        numbers = torch.arange(first, min(first + _TOGETHER, count))
        images = pipeline(
            len(numbers),
            generator=image_generators(seed, numbers.tolist()),
            num_inference_steps=calls,
            class_labels=numbers % pipeline.unet.num_classes,
            output_type="pt",
            return_dict=False,
            **options,
        )[0]
        parts.append(to_uint8(2 * images - 1))
    return torch.cat(parts)


def kept(file: Path, about: str, make: Any) -> Tensor:
    """Pictures from a file of an earlier command, or else made and kept there."""
    if file.exists():
        return load_file(file)["pictures"]
    pictures = make()
    write_file(file, lambda path: save_file({"pictures": pictures.contiguous()}, path, {"about": about}))
    return pictures


def whole(data: ImageDataset) -> tuple[Tensor, Tensor]:
    return data.batch(torch.arange(len(data)))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All figures; the pictures of the table's columns are drawn into ``PICTURE``."""
    progress = not given.quiet
    quietly = lambda line: None  # noqa: E731
    data, heldout = (open_images(str(path), SIZE, progress=progress) for path in (given.data, given.heldout))
    if data.classes != heldout.classes:
        raise SystemExit(f"{given.data} and {given.heldout} have other classes")
    (known, labels), (unseen, truth) = whole(data), whole(heldout)
    extractor = EfficientNetFeatures()
    features = features_of(extractor, known, "training pictures", progress)
    reference = features_of(extractor, unseen, "held-out pictures", progress)
    classifier, decay = Classifier.chosen(features, labels)
    run = given.output / "run"
    dtype = getattr(torch, given.dtype)
    pipeline = open_model(run, quietly, progress, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    step = min(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    earlier = open_model(run / "checkpoints" / f"step-{step:08d}", quietly, progress, dtype=dtype)
    classes, options = len(data.classes), json.loads((run / "run.json").read_text())
    # As many training pictures of every class, for what distances between equal sets are.
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(given.seed))
    places = [order[labels[order] == label][: given.count // classes] for label in range(classes)]
    rows = [
        {"name": "training pictures", "accuracy": wilson(classifier(reference) == truth)}
        | distances(features[torch.cat(places)], reference, given.seed)
    ]
    asked = torch.arange(given.count) % classes
    columns = []
    for setting in settings(given.scales, earlier=True):
        about = f"{setting.kind}-{setting.scale:g}-{given.count}-{given.calls}-{given.dtype}-{given.seed}"
        if setting.kind == INSIDE:
            about += "-{:g}-{:g}".format(*given.interval)
        file = given.output / "pictures" / f"{about.replace(' ', '-')}.safetensors"
        guided = setting.options(earlier, given.interval)
        pictures = kept(file, about, lambda o=guided: drawn(pipeline, given.count, given.calls, given.seed, o))
        found = features_of(extractor, pictures, setting.name, progress)
        right = classifier(found) == asked
        rows.append(
            {
                "name": setting.name,
                "kind": setting.kind,
                "scale": setting.scale,
                "accuracy": wilson(right),
                "accuracies": {name: share(right[asked == number]) for number, name in enumerate(data.classes)},
            }
            | distances(found, reference, given.seed)
        )
        print(json.dumps(rows[-1]), flush=True)
        columns.append((setting, pictures[:classes]))
    write_file(given.picture, sheet([column for column in columns if column[0].kind != EARLIER], data.classes).save)
    return {
        "pictures": given.count,
        "classes": classes,
        "known": len(data),
        "heldout": len(heldout),
        "calls": given.calls,
        "dtype": given.dtype,
        "interval": list(given.interval),
        "earlier_step": step,
        "steps": options["max_steps"],
        "batch_size": options["batch_size"],
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()),
        "change_points": list(pipeline.scheduler.process.degradation.change_points),
        "classifier": {"decay": decay, "heldout": wilson(classifier(reference) == truth)},
        "rows": rows,
    }


def distances(found: Tensor, reference: Tensor, seed: int) -> dict[str, list[float | None]]:
    """Distances to the held-out pictures, precision and recall, each with its interval."""
    pairs = kid(found, reference, subsets=1, subset_size=2, seed=seed).all_pairs
    neighbours = prdc(found, reference, seed=seed)
    measured = {
        "kernel": pairs,
        "frechet": frechet(found, reference, seed=seed),
        "precision": neighbours.precision,
        "recall": neighbours.recall,
    }
    return {name: [one.value, one.low, one.high] for name, one in measured.items()}


def sheet(columns: Sequence[tuple[Setting, Tensor]], classes: Sequence[str], enlarged: int = 2) -> Image.Image:
    """Rows are classes and columns are settings, all of a row from the same noise."""
    side, gap, left, top = SIZE[0] * enlarged, 4, 76, 34
    picture = Image.new("RGB", (left + len(columns) * (side + gap), top + len(classes) * (side + gap)), "white")
    pen = ImageDraw.Draw(picture)
    for number, name in enumerate(classes):
        pen.text((4, top + number * (side + gap) + side // 2 - 6), name, fill="black")
    for place, (setting, pictures) in enumerate(columns):
        x = left + place * (side + gap)
        what = (
            ("none", "")
            if setting.scale == 1
            else (f"w = {setting.scale:g}", {INSIDE: "interval"}.get(setting.kind, ""))
        )
        for line, text in enumerate(what):
            pen.text((x + 4, 4 + 13 * line), text, fill="black")
        for number, pixels in enumerate(pictures):
            one = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(one, (x, top + number * (side + gap)))
    return picture


def table(figures: Mapping[str, Any]) -> str:
    """The table of docs/results/guidance.md, of which every number is in the figures."""
    keys: dict[str, tuple[str, float, str]] = {
        "accuracy": ("class right, %", 100, ".1f"),
        "kernel": ("kernel distance x 1000", 1000, ".3g"),
        "frechet": ("Frechet distance", 1, ".4g"),
        "precision": ("precision", 1, ".2f"),
        "recall": ("recall", 1, ".2f"),
    }

    def cell(values: Sequence[float], factor: float, form: str) -> str:
        value, low, high = (format(factor * one, form) for one in values)
        return f"{value} ({low} to {high})"

    rows = [
        [row["name"], *(cell(row[key], factor, form) for key, (_, factor, form) in keys.items())]
        for row in figures["rows"]
    ]
    columns = [Column("name", "guidance"), *(Column(key, heading) for key, (heading, *_) in keys.items())]
    return markdown(columns, rows)


def page(figures: Mapping[str, Any]) -> str:
    """The text of docs/results/guidance.md, of which every number is in the figures."""
    right, *ends = (100 * one for one in figures["classifier"]["heldout"])
    low, high = figures["interval"]
    own = {
        "table": table(figures),
        "low": low,
        "high": high,
        "told": "{:.1f} % ({:.1f} to {:.1f})".format(right, *ends),
        "parameters": f"{figures['parameters'] / 1e6:.1f}",
        "changes": " and ".join(map(str, figures["change_points"])),
        "caption": Provenance(**figures["source"]).caption(),
    }
    return (Path(__file__).parent / "guidance_page.md").read_text().format(**dict(figures) | own).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "measure", "page"))
    parser.add_argument("--data", type=Path, help="training pictures, in folders by class")
    parser.add_argument("--heldout", type=Path, help="pictures to compare with, of the same classes")
    parser.add_argument("--output", type=Path, default=Path("runs/guidance"), help="folder of the run and its pictures")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--base-channels", type=int, default=48)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="1 is no guidance")
    parser.add_argument("--interval", type=float, nargs=2, default=INTERVAL, help="of sigma / alpha")
    parser.add_argument("--count", type=int, default=500, help="pictures drawn, over all classes")
    parser.add_argument("--calls", type=int, default=20, help="sampling steps")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the network that draws"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="file that measure writes and page reads")
    parser.add_argument("--page", type=Path, default=PAGE, help="file that page writes")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="file that measure writes")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    for option in {"train": ("data",), "measure": ("data", "heldout"), "page": ()}[given.command]:
        if getattr(given, option) is None:
            parser.error(f"{given.command} needs --{option}")
    given.interval = tuple(given.interval)
    if given.command == "train":
        try:
            train(configuration(given), progress=not given.quiet)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(75) from stopped
    elif given.command == "measure":
        words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        source = provenance(f"python -m benchmarks.guidance {shlex.join(words)}", given.seed)
        found = measure(given) | {"source": source.as_dict()}
        write_text(given.figures, json.dumps(found, indent=1))
    else:
        write_text(given.page, page(json.loads(given.figures.read_text())))


if __name__ == "__main__":
    main()
