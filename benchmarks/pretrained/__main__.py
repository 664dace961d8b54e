r"""What levels save and cost a pretrained model: train one, accelerate it, train it further, and compare all by compute.

    python -m benchmarks.pretrained train --data cifar10-32.zip --output runs/stock --size 32 --minutes 40
    scalespace accelerate runs/stock/model --data cifar10-32.zip --output runs/fast
    scalespace train --init-from runs/fast --data cifar10-32.zip --output-dir runs/tuned --max-steps 1000 --weight snr
    python -m benchmarks.pretrained compare --model runs/stock/model --tuned runs/tuned --data cifar10-32.zip \
        --heldout cifar10-32-heldout.zip --output runs/pretrained --calls 10 20 50 100
    python -m benchmarks.pretrained table --output runs/pretrained
    python -m benchmarks.pretrained plot --output runs/pretrained --figure docs/results/pretrained.png

``train`` trains a ``UNet2DModel`` of diffusers at one resolution, by diffusers' own means, and saves a ``DDPMPipeline`` in
OUTPUT/model. The same command again goes on with a run that was stopped; so does ``compare``, a line for every arm and number
of calls. ``table`` writes the table in docs/results/pretrained.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.pretrained.arms import ARMS
from benchmarks.pretrained.comparing import Comparison, compare
from benchmarks.pretrained.results import plot, table
from benchmarks.pretrained.training import WIDTHS, Recipe, train

from scalespace.errors import UserError
from scalespace.reports.provenance import provenance


def _train(given: argparse.Namespace) -> None:
    names = ("data", "size", "seed", "batch_size", "learning_rate", "steps", "minutes")
    print(train(Recipe(**{name: getattr(given, name) for name in names}, bf16=not given.float32), given.output))


def _compare(given: argparse.Namespace) -> None:
    further = {name: path for name in ("tuned", "control") if (path := getattr(given, name)) is not None}
    names = tuple(name for name in given.arms or ARMS if name in further or name not in ("tuned", "control"))
    comparison = Comparison(
        model=given.model,
        data=given.data,
        heldout=given.heldout,
        output=given.output,
        further=further,
        arms=names,
        calls=tuple(given.calls),
        levels=given.levels,
        tolerance=given.tolerance,
        count=given.count,
        seed=given.seed,
        features=None if given.features == "built-in" else given.features,
        bf16=not given.float32,
    )
    # Where things lay on the machine tells nobody anything.
    words = [Path(word).name if word.startswith("/") else word for word in given.words]
    compare(comparison, provenance(f"python -m benchmarks.pretrained {shlex.join(words)}", given.seed))


def main(words: Sequence[str] | None = None) -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("train", help="train a model of one resolution, by diffusers' means")
    one.add_argument("--data", required=True, help="pictures to train on")
    one.add_argument("--output", type=Path, required=True, help="folder of the run; the same again goes on with it")
    one.add_argument("--size", type=int, choices=WIDTHS, default=32, help="pixels a side")
    length = one.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="minutes of training, over all starts")
    length.add_argument("--steps", type=int, help="number of steps")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--batch-size", type=int, default=32)
    one.add_argument("--learning-rate", type=float, default=1e-3)
    one.add_argument("--float32", action="store_true", help="compute in float32 and not in bf16")
    one.set_defaults(run=_train)
    two = parts.add_parser("compare", help="draw by every arm, and measure the pictures")
    two.add_argument("--model", type=Path, required=True, help="folder of the pretrained model")
    two.add_argument("--tuned", type=Path, help="model or run: accelerated, and trained further")
    two.add_argument(
        "--control", type=Path, help="model or run: accelerated with --levels 1, and trained as much further"
    )
    two.add_argument("--data", required=True, help="pictures it was trained on")
    two.add_argument("--heldout", required=True, help="pictures to compare with")
    two.add_argument("--output", type=Path, required=True, help="folder of the results; the same again goes on with it")
    two.add_argument("--calls", type=int, nargs="+", default=[10, 20, 50, 100], help="network calls a picture")
    two.add_argument("--arms", choices=ARMS, nargs="+", help="all that there are models for, unless some are named")
    two.add_argument("--levels", type=int, default=2)
    two.add_argument("--tolerance", type=float, default=0.01, help="where ours leaves a level")
    two.add_argument("--count", type=int, default=1000, help="pictures of every arm")
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--features", choices=("efficientnet-lite0", "built-in"), default="efficientnet-lite0")
    two.add_argument("--float32", action="store_true", help="compute in float32 and not in bf16")
    two.set_defaults(run=_compare)
    three, four = parts.add_parser("table", help="write the table"), parts.add_parser("plot", help="draw the figure")
    for part in (three, four):
        part.add_argument("--output", type=Path, required=True, help="folder of the results")
        part.add_argument("--seed", type=int, default=0)
    four.add_argument("--figure", type=Path, required=True, help="picture file to write")
    three.set_defaults(run=lambda given: print(table(given.output, given.seed)))
    four.set_defaults(run=lambda given: plot(given.output, given.seed, given.figure))
    given = parser.parse_args(words)
    given.words = sys.argv[1:] if words is None else list(words)
    torch.set_num_threads(1)
    try:
        given.run(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
