"""What levels cost with trained networks: the same network and the same training FLOPs for every process.

    python -m benchmarks.trained run --data cifar10-32.zip --heldout cifar10-32-heldout.zip --arm shifted --seed 0
    python -m benchmarks.trained truth --data cifar10-32.zip --heldout cifar10-32-heldout.zip
    python -m benchmarks.trained table                           tables of all runs so far, and what arms have over DDPM
    python -m benchmarks.trained pictures --data cifar10-32.zip  first pictures of the four processes, as one PNG

A run trains one arm (``--help`` lists them) until it has spent the FLOPs that ``--steps`` steps of DDPM spend, draws pictures
by each sampler, and adds a line for each to --output/results.jsonl with their distances to the held-out pictures. A run that
was stopped goes on where it was. ``truth`` adds what as many training pictures have in the place of drawn ones. Distances in
EfficientNet-Lite0's features are there if the extra "features" is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.measurements import measured_once
from scalespace.data.spectrum import mean_spectrum
from scalespace.metrics.builtin_features import builtin_features
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures, installed
from scalespace.metrics.features import extract
from scalespace.metrics.frechet_distance import Moments, frechet_distance
from scalespace.metrics.kernel_distance import kid
from scalespace.metrics.sliced_wasserstein import sliced_wasserstein_bands
from scalespace.networks.flops import path_gflops
from scalespace.pipelines.pictures import picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import draw, use_solver
from scalespace.pipelines.saving import load_pipeline
from scalespace.training.build import build_network, build_scheduler, build_times, with_data
from scalespace.training.configuration import NetworkConfig, ProcessConfig, TrainConfig, TransformerConfig
from scalespace.training.loop import train

LEVELS = {16: 3, 32: 3, 64: 4}
NETWORK = NetworkConfig(
    base_channels=32,
    channel_multipliers=(1, 2, 2),
    blocks_per_level=1,
    attention_max_size=8,
    attention_heads=4,
    paths="flexi",
)
DEPTHS = {16: (1, 2, 2), 32: (1, 2, 2), 64: (1, 2, 2, 2)}
"""Widths of the network's levels, of which four resolutions need four."""
TRANSFORMER = {"backbone": "transformer", "transformer": TransformerConfig(width=192, depth=8, heads=6)}
"""At 32 pixels and one level 0.48 GFLOPs a call, where NETWORK takes 0.50."""
SAMPLERS = {
    "multistep-50": ("multistep", "log_snr", 50),
    "corrected-50": ("corrected", "log_snr", 50),
    "corrected-20": ("corrected", "log_snr", 20),
}
TRUTH = "training pictures"
PROCESSES = {
    "ddpm": "DDPM",
    "paper": "the paper's noise",
    "shifted": "shifted",
    "shifted-auto": "shifted, levels read off the data",
}
LEARNED = {
    "frechet_efficientnet_lite0": "Frechet, EfficientNet-Lite0",
    "kernel_efficientnet_lite0": "kernel distance, EfficientNet-Lite0",
}
"""Distances that a record has if the extra "features" was installed."""
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
"""Half width of a 95 % interval in standard errors, by the number of values."""

AUTO: dict[str, Any] = {"shifted": True, "resolution": "auto"}
OFFSET = {"weight_offset": 1.0}
SHARED: dict[str, Any] = {"network": replace(NETWORK, paths="shared")}
V: dict[str, Any] = {"prediction": "v", "sigma_data": 0.5, "weight": "v"}
Changes = tuple[dict[str, Any], dict[str, Any]]
"""What an arm changes in the process, and in the rest of the run. What an arm is called after is
named here, whatever the package's defaults are."""
ARMS: dict[str, Changes] = {
    "ddpm": ({"levels": 1}, {"change_share": None}),
    "paper": ({"shifted": False}, {}),
    "shifted": ({"shifted": True}, {}),
    "shifted-auto": (AUTO, {}),
    "orthonormal": ({"shifted": True, "degradation": "orthonormal"}, {}),
    "orthonormal-auto": ({"shifted": True, "degradation": "orthonormal", "resolution": "auto"}, {}),
    # What the training does.
    "paper-share-0.1": ({"shifted": False}, {"change_share": 0.1}),
    "share-0.001": ({"shifted": True}, {"change_share": 0.001}),
    "share-0.1": ({"shifted": True}, {"change_share": 0.1}),
    "share-0.1-weighed": ({"shifted": True}, {"change_share": 0.1, "weigh_changes": True}),
    "base-snr": ({"shifted": True}, {"weight_snr": "base"}),
    "constant": ({"shifted": True}, {"weight": "constant"}),
    # How many pictures a step takes, which times, and their weights, with the levels read off the data.
    "constant-compute": (AUTO, {"level_sampling": "constant-compute"}),
    "least-variance": (AUTO, {"level_sampling": "least-variance"}),
    "base-snr-auto": (AUTO, {"weight_snr": "base"}),
    "even": (AUTO, {"level_shares": (1.0, 1.0, 1.0)}),
    "high": (AUTO, {"level_shares": (4.0, 2.0, 1.0)}),
    "offset": (AUTO, OFFSET),
    "offset-high": (AUTO, OFFSET | {"level_shares": (4.0, 2.0, 1.0)}),
    # All levels run all layers, each at its own size.
    "shared": (AUTO, SHARED),
    "shared-offset": (AUTO, SHARED | OFFSET),
    "shared-offset-even": (AUTO, SHARED | OFFSET | {"level_shares": (1.0, 1.0, 1.0)}),
    "shared-offset-high": (AUTO, SHARED | OFFSET | {"level_shares": (4.0, 2.0, 1.0)}),
    "shared-offset-constant-compute": (AUTO, SHARED | OFFSET | {"level_sampling": "constant-compute"}),
    "shared-offset-constant-memory": (AUTO, SHARED | OFFSET | {"level_sampling": "constant-memory"}),
    "shared-offset-least-variance": (AUTO, SHARED | OFFSET | {"level_sampling": "least-variance"}),
    "shared-offset-log-snr": (AUTO, SHARED | OFFSET | {"times": "log-snr"}),
    "shared-offset-log-normal": (AUTO, SHARED | OFFSET | {"times": "log-normal"}),
    "shared-sigmoid": (AUTO, SHARED | {"weight": "sigmoid"}),
    "ddpm-offset": ({"levels": 1}, {"change_share": None} | OFFSET),
    # How small the detail is that a resolution is kept for, and down to how few pixels.
    "shared-offset-tolerance-0.003": (AUTO | {"tolerance": 0.003}, SHARED | OFFSET),
    "shared-offset-tolerance-0.03": (AUTO | {"tolerance": 0.03}, SHARED | OFFSET),
    "shared-offset-tolerance-0.1": (AUTO | {"tolerance": 0.1}, SHARED | OFFSET),
    "shared-offset-six-levels": (AUTO | {"levels": 6}, SHARED | OFFSET),
    "v": ({"shifted": True}, V),
    "v-auto": (AUTO, V),
    # The other network. The unit of compute is a step of one level of the U-Net for these too.
    "transformer-offset": (AUTO, TRANSFORMER | OFFSET),
    "transformer-ddpm-offset": ({"levels": 1}, {"change_share": None} | TRANSFORMER | OFFSET),
    "ddpm-v": ({"levels": 1}, {"change_share": None} | V),
}


def network_of(arm: str, size: int) -> NetworkConfig:
    """The network of an arm for pictures of a size."""
    return replace(ARMS[arm][1].get("network", NETWORK), channel_multipliers=DEPTHS[size])


def configuration(arguments: argparse.Namespace, run: Path) -> TrainConfig:
    process, rest = ARMS[arguments.arm]
    size = arguments.size
    return TrainConfig(
        **{
            "process": replace(ProcessConfig((size, size), levels=LEVELS[size]), **process),
            "data": str(arguments.data),
            "output_dir": str(run),
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "learning_rate": 1e-3,
            "warmup_steps": 50,
            "ema_decay": 0.998,
            "change_share": 0.02,
            "weight_offset": 0.0,
            "mixed_precision": arguments.mixed_precision,
            "flip": not arguments.no_flip,
            "sample_every": 0,
            "checkpoint_every": 200,
            "log_every": 20,
            **rest,
            "network": network_of(arguments.arm, size),
        }
    )


def equal_compute(config: TrainConfig, steps: int, data: ImageDataset) -> tuple[TrainConfig, float]:
    """The run with as many steps as cost what ``steps`` steps of the U-Net's one level cost, and its share of that a step."""
    model = with_data(config, mean_spectrum(data, False)) if config.process.awaits_data else config
    scheduler = build_scheduler(model)
    process, times = scheduler.process, build_times(model, scheduler.process)
    with torch.device("meta"):
        network, unet = (build_network(m, scheduler.sizes) for m in (model, replace(model, backbone="unet")))
    full = path_gflops(unet, process.size(0), process.size(0))
    costs = [path_gflops(network, group.size, group.target_size) for group in times.groups]
    share = sum(float(p) * cost for p, cost in zip(times.probabilities, costs, strict=True)) / full
    steps = round(steps / share)
    return replace(config, max_steps=steps, cooldown_steps=round(0.4 * steps)), share


def drawn(pipeline: ScaleSpacePipeline, count: int, steps: int, seed: int, quiet: bool) -> tuple[Tensor, int]:
    """Pictures as uint8, shape (count, 3, H, W), and the network calls of each."""
    parts = []
    for first in range(0, count, 250):
        numbers = range(first, min(first + 250, count))
        pipeline.set_progress_bar_config(desc=f"pictures {first + 1}-{numbers.stop} of {count}", disable=quiet)
        parts.append(draw(pipeline, numbers, steps, seed))
    return torch.cat(parts), len(pipeline.scheduler.timesteps)


def distances(pictures: Tensor, heldout: Tensor, progress: bool = True) -> dict[str, float]:
    """Distances to the held-out pictures in built-in features, in pixels, by band, and in EfficientNet-Lite0's features."""
    features = [torch.cat([builtin_features(part) for part in side.split(250)]) for side in (pictures, heldout)]
    pixels = [side.flatten(1).double() / 127.5 - 1 for side in (pictures, heldout)]
    bands = sliced_wasserstein_bands(pictures, heldout[: len(pictures)], directions=128, intervals=False)
    return {
        "frechet_features": frechet_distance(*map(Moments.of, features)),
        "frechet_pixels": frechet_distance(*map(Moments.of, pixels)),
        **{f"swd_{band}": measured.value for band, measured in bands.items()},
        **learned_distances(pictures, heldout, progress),
    }


def learned_distances(pictures: Tensor, heldout: Tensor, progress: bool = True) -> dict[str, float]:
    """Distances to the held-out pictures in EfficientNet-Lite0's features; none if the extra "features" is not installed."""
    if not installed():
        return {}
    extractor = EfficientNetFeatures()
    content = hashlib.sha256(heldout.numpy().tobytes()).hexdigest()

    def of_heldout() -> dict[str, Tensor]:
        return {"features": extract(extractor, heldout, "held-out pictures", progress)}

    # The held-out pictures are those of all arms and seeds.
    reference = measured_once(content, str(extractor.mode), of_heldout)["features"]
    found = extract(extractor, pictures, "pictures", progress)
    # Of the two kernel distances only that of all pairs counts.
    pairs = kid(found, reference, subsets=1, subset_size=2, intervals=False).all_pairs
    return dict(zip(LEARNED, (frechet_distance(Moments.of(found), Moments.of(reference)), pairs.value), strict=True))


def run(arguments: argparse.Namespace) -> None:
    size = (arguments.size, arguments.size)
    data, heldout = (
        open_images(str(p), size, progress=not arguments.quiet) for p in (arguments.data, arguments.heldout)
    )
    truth = heldout.batch(torch.arange(len(heldout)))[0]
    folder = arguments.output / f"{arguments.data.stem}-{arguments.size}-{arguments.arm}-{arguments.seed}"
    if arguments.mixed_precision != "no":
        folder = folder.with_name(f"{folder.name}-{arguments.mixed_precision}")
    config, share = equal_compute(configuration(arguments, folder / "run"), arguments.steps, data)
    started = time.perf_counter()
    trained = train(config, progress=not arguments.quiet)
    seconds = time.perf_counter() - started
    for name in arguments.samplers:
        solver, spacing, steps = SAMPLERS[name]
        pipeline = load_pipeline(str(trained.model_path))
        use_solver(pipeline, solver=solver, timestep_spacing=spacing)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.drawing_precision == "bf16"):
            pictures, calls = drawn(pipeline, arguments.samples, steps, arguments.seed, arguments.quiet)
        record = {
            "data": arguments.data.stem,
            "size": arguments.size,
            "arm": arguments.arm,
            "seed": arguments.seed,
            "sampler": name,
            "calls": calls,
            "samples": arguments.samples,
            "steps": config.max_steps,
            "steps_of_one_level": arguments.steps,
            "batch_size": arguments.batch_size,
            "mixed_precision": arguments.mixed_precision,
            "drawing_precision": arguments.drawing_precision,
            "share": share,
            "training_seconds": seconds,
            "changes": list(pipeline.scheduler.process.degradation.change_points),
        } | distances(pictures, truth, not arguments.quiet)
        grid = picture_grid([to_picture(picture / 127.5 - 1) for picture in pictures[:64]])
        grid.save(folder / f"{name}.png")
        add(arguments.output, record)


def truth(arguments: argparse.Namespace) -> None:
    size = (arguments.size, arguments.size)
    data, heldout = (
        open_images(str(p), size, progress=not arguments.quiet) for p in (arguments.data, arguments.heldout)
    )
    generator = torch.Generator().manual_seed(arguments.seed)
    chosen = torch.randperm(len(data), generator=generator)[: arguments.samples]
    truth = heldout.batch(torch.arange(len(heldout)))[0]
    found = distances(data.batch(chosen)[0], truth, not arguments.quiet)
    for sampler in arguments.samplers:
        record = {"data": arguments.data.stem, "size": arguments.size, "arm": TRUTH, "seed": arguments.seed}
        add(arguments.output, record | {"sampler": sampler, "samples": arguments.samples} | found)


def add(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def table(arguments: argparse.Namespace) -> None:
    lines = (arguments.output / "results.jsonl").read_text().splitlines()
    # The last line of a run that was repeated counts.
    records = list({(*place(r), r["arm"], r["seed"]): r for r in map(json.loads, lines)}.values())
    parts = []
    for data, size, sampler in dict.fromkeys(map(place, records)):
        chosen = [r for r in records if place(r) == (data, size, sampler)]
        bands = [key for key in chosen[0] if key.startswith("swd_")]
        # The mean of one band is that band.
        bands = bands[:-1] if len(bands) == 2 else bands
        learned = those_with_all(chosen)
        keys = ["frechet_features", "frechet_pixels", *learned, *bands]
        rows = []
        for arm in [arm for arm in (TRUTH, *ARMS) if any(r["arm"] == arm for r in chosen)]:
            runs = [r for r in chosen if r["arm"] == arm]
            cells = [interval([r[key] for r in runs]) for key in keys]
            spent = ["", ""] if arm == TRUTH else [str(runs[0]["steps"]), f"{runs[0]['share']:.2f}"]
            rows.append([arm, str(len(runs)), *spent, *cells])
        header = ["arm", "seeds", "steps", "compute a step", "Frechet, features", "Frechet, pixels"]
        header += [LEARNED[key] for key in learned]
        header += [f"SWD {band.removeprefix('swd_')}" for band in bands]
        parts.append(
            f"{data} at {size} pixels, {sampler}, {chosen[0]['samples']} pictures:\n\n{markdown(header, rows)}"
        )
    print("\n\n".join([*parts, over_ddpm(records)]))


def those_with_all(records: list[dict[str, Any]]) -> list[str]:
    """The learned distances that all records have."""
    return [key for key in LEARNED if all(key in r for r in records)]


def place(record: dict[str, Any]) -> tuple[str, int, str]:
    """What records must share to be compared."""
    return record["data"], record["size"], record["sampler"]


def over_ddpm(records: list[dict[str, Any]]) -> str:
    """Distances as multiples of those of DDPM with the same pictures and seed, over all of them."""
    # A kernel distance may be zero or less, and then has no logarithm.
    learned = those_with_all(records)[:1]
    keys = ["frechet_features", "frechet_pixels", *learned, "swd_mean"]
    ddpm = {(*place(r), r["seed"]): r for r in records if r["arm"] == "ddpm"}
    rows = []
    for arm in [arm for arm in PROCESSES if arm != "ddpm"]:
        pairs = [(r, ddpm[*place(r), r["seed"]]) for r in records if r["arm"] == arm and (*place(r), r["seed"]) in ddpm]
        if not pairs:
            continue
        cells = []
        for key in keys:
            logs = [math.log(r[key] / base[key]) for r, base in pairs]
            mean, half = statistics.mean(logs), half_width(logs)
            ends = "" if half is None else f" ({math.exp(mean - half):.2f} to {math.exp(mean + half):.2f})"
            cells.append(f"{math.exp(mean):.2f}{ends}")
        rows.append([arm, str(len(pairs)), *cells])
    header = ["arm", "runs", "Frechet, features", "Frechet, pixels", *(LEARNED[key] for key in learned), "SWD"]
    title = "Geometric mean of the distance over DDPM's, same pictures and seed (95 % interval):"
    return f"{title}\n\n{markdown(header, rows)}"


def interval(values: list[float]) -> str:
    """Mean, and half the width of its 95 % interval by Student's t."""
    half = half_width(values)
    return f"{statistics.mean(values):.3g}" + ("" if half is None else f" ± {half:.2g}")


def half_width(values: list[float]) -> float | None:
    if len(values) == 1:
        return None
    return STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def pictures(arguments: argparse.Namespace) -> None:
    """The upper halves of the grids of every process, enlarged and with their names."""
    name, enlarged = arguments.samplers[0], 3 if arguments.size == 16 else 2
    panels = []
    for arm, title in PROCESSES.items():
        folder = arguments.output / f"{arguments.data.stem}-{arguments.size}-{arm}-{arguments.seed}"
        with Image.open(folder / f"{name}.png") as grid:
            upper = grid.convert("RGB").crop((0, 0, grid.width, grid.height // 2))
        upper = upper.resize((upper.width * enlarged, upper.height * enlarged), Image.Resampling.NEAREST)
        panel = Image.new("RGB", (upper.width + 20, upper.height + 30), "white")
        panel.paste(upper, (10, 22))
        ImageDraw.Draw(panel).text((10, 6), title, fill="black")
        panels.append(panel)
    width, height = panels[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height), "white")
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index % 2 * width, index // 2 * height))
    path = arguments.output / f"{arguments.data.stem}-{arguments.size}-{arguments.seed}.png"
    sheet.save(path)
    print(path)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": run,
    "truth": truth,
    "table": table,
    "pictures": pictures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--output", type=Path, default=Path("runs/trained"), help="folder of all runs")
    parser.add_argument("--data", type=Path, help="pictures to train on")
    parser.add_argument("--heldout", type=Path, help="pictures to compare with")
    parser.add_argument("--arm", choices=ARMS, default="shifted")
    parser.add_argument("--size", type=int, choices=LEVELS, default=16, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900, help="steps of DDPM whose FLOPs every arm may spend")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--drawing-precision", choices=("no", "bf16"), default="no", help="of the network's calls")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1000, help="pictures drawn")
    parser.add_argument("--no-flip", action="store_true", help="do not mirror pictures")
    parser.add_argument("--samplers", choices=SAMPLERS, nargs="+", default=["corrected-50"])
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()
    needed = {"run": ("data", "heldout"), "truth": ("data", "heldout"), "pictures": ("data",), "table": ()}
    for option in needed[arguments.command]:
        if getattr(arguments, option) is None:
            parser.error(f"{arguments.command} needs --{option}")
    COMMANDS[arguments.command](arguments)


if __name__ == "__main__":
    sys.exit(main())
