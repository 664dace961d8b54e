"""Many faults of every kind, as ``make faults`` does them; docs/reliability.md has the figures."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.faults.corrupting import corruptions
from tests.faults.disks import full_disks, full_file_systems, power_cuts
from tests.faults.killing import group_kills, kills
from tests.faults.small_runs import Reference


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--kills", type=int, default=100)
    words.add_argument("--group-kills", type=int, default=20, help="Number of kills of one of two processes.")
    words.add_argument("--corruptions", type=int, default=40)
    words.add_argument("--sizes", type=int, default=64, help="Number of file systems that are too small.")
    words.add_argument(
        "--resumed", type=int, default=10, help="Number of runs to finish after power cuts and full disks."
    )
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        reference = Reference(folder / "reference")
        kinds: dict[str, Callable[[Path], dict[str, int] | None]] = {
            "power cuts": lambda place: power_cuts(reference, place, given.resumed, given.seed),
            "full disks": lambda place: full_disks(reference, place, given.resumed, given.seed),
            "small disks": lambda place: full_file_systems(reference, place, given.sizes),
            "corruptions": lambda place: corruptions(reference, place, given.corruptions, given.seed),
            "kills": lambda place: kills(reference, place, given.kills, given.seed),
            "of two": lambda place: group_kills(place, given.group_kills, given.seed),
        }
        for kind, do in kinds.items():
            place, began = folder / kind.replace(" ", "-"), time.monotonic()
            place.mkdir()
            counts = do(place)
            found = "this process may not mount file systems" if counts is None else counts
            told = found if isinstance(found, str) else ", ".join(f"{count} {what}" for what, count in found.items())
            sys.stdout.write(f"{kind:12} {told} ({time.monotonic() - began:.0f} s)\n")
            sys.stdout.flush()
    sys.stdout.write("every promise was kept\n")


if __name__ == "__main__":
    main()
