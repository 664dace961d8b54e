"""How much of a training step is spent waiting for data, and how long opening the data takes.

    python -m benchmarks.waiting photos/
    python -m benchmarks.waiting photos/ --preset shifted64-4l --steps 50 --batch-size 64

Three ways in turn: the first start, which decodes all pictures and keeps them; a later start, which maps what is kept; and
decoding on every use (`--cache-gib 0`). The decoded pictures go to a folder of their own, which is removed afterwards. The
numbers mean nothing on a machine that does something else at the same time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from scalespace.data.images import open_images
from scalespace.processes import Processes
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import PRESETS, TrainConfig
from scalespace.training.loop import accelerator_for
from scalespace.training.trainer import Trainer


class Waiting(Trainer):
    """Knows how long its steps have waited for their pictures."""

    waited = 0.0

    def _batches(self, *arguments: Any) -> Iterator[Any]:
        batches = super()._batches(*arguments)
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begun
            if batch is None:
                return
            yield batch


def measure(config: TrainConfig, cache_gib: float) -> tuple[float, float, float]:
    """Seconds to open the data, seconds a step, and the share of these that is waiting."""
    scheduler = build_scheduler(config)
    begun = time.perf_counter()
    data = open_images(config.data, scheduler.image_size, cache_bytes=int(cache_gib * 2**30), progress=False)
    opened = time.perf_counter() - begun
    network = build_network(config, scheduler.sizes)
    trainer = Waiting(config, accelerator_for(config), scheduler, network, Processes())
    steps = trainer.steps(data, 0)
    # The first step waits for the thread that reads ahead to start.
    next(steps)
    trainer.waited, begun = 0.0, time.perf_counter()
    for _ in steps:
        pass
    taken = time.perf_counter() - begun
    return opened, taken / (config.max_steps - 1), trainer.waited / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--cache-gib", type=float, default=4.0)
    given = parser.parse_args()
    options = {"max_steps": given.steps, "batch_size": given.batch_size, "mixed_precision": "no", "sample_every": 0}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        config = TrainConfig(**vars(PRESETS[given.preset]), data=given.data, output_dir=folder, **options)
        print("pictures              open the data     a step  waiting for data", flush=True)
        for name, gib in (
            ("decoded and kept", given.cache_gib),
            ("kept before", given.cache_gib),
            ("decoded on every use", 0.0),
        ):
            opened, step, share = measure(config, gib)
            print(f"{name:20}  {opened:11.2f} s  {1000 * step:6.0f} ms  {share:16.2%}", flush=True)


if __name__ == "__main__":
    main()
