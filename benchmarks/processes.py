"""Pictures a second of one training, shared by 1, 2, ... processes, each with one thread.

    python -m benchmarks.processes
    python -m benchmarks.processes --processes 1 2 4 --steps 400 --batch-size 64 -- --preset shifted64-4l

Every count trains the same run, with the same batches, for --rounds times in turn, so that whatever else the machine does falls
on all of them alike; the best round of each counts. The last column is how much of a core's pace is left where several share
the work.
What follows "--" goes to `scalespace train`. The numbers mean nothing on a machine that does something else at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = ("--preset", "tiny")


def pace(processes: int, steps: int, batch_size: int, options: list[str]) -> float:
    """Pictures a second over all processes: the median of the windows of the log after the first half of the run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        window = max(1, steps // 10)
        words = f"--data synthetic:shapes:256 --output-dir {run} --max-steps {steps} --batch-size {batch_size}".split()
        words += (
            f"--log-every {window} --sample-every 0 --checkpoint-every {steps} --mixed-precision no --quiet".split()
        )
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        subprocess.run(
            [sys.executable, *launcher, "-m", "scalespace", "train", *words, *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return statistics.median(line["pictures_per_second"] for line in log[len(log) // 2 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32, help="of all processes together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("train", nargs="*", help="options of scalespace train, after --")
    given = parser.parse_args()
    best = dict.fromkeys(given.processes, 0.0)
    for _ in range(given.rounds):
        for count in given.processes:
            best[count] = max(best[count], pace(count, given.steps, given.batch_size, given.train or list(MODEL)))
    first, *_ = given.processes
    print("processes  pictures/s  of the pace of a core")
    for count, found in best.items():
        print(f"{count:9}  {found:10.1f}  {found / count / (best[first] / first):21.3f}")


if __name__ == "__main__":
    main()
