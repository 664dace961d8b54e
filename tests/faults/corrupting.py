"""Files that are damaged at random: a run never goes on from them, and a model is never loaded from them."""

import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.faults.small_runs import MODEL, Reference, config, named, run, step_of

from scalespace.errors import UserError
from scalespace.pipelines.saving import load_pipeline

__all__ = ["corruptions"]


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _truncate(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def _zero(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    kept = chance.randrange(len(content))
    file.write_bytes(content[:kept] + bytes(len(content) - kept))


def _delete(file: Path, chance: random.Random) -> None:
    file.unlink()


def _rename(file: Path, chance: random.Random) -> None:
    file.rename(file.with_name(f"{file.name}.old"))


def _swap(file: Path, chance: random.Random) -> None:
    others = [path / file.name for path in file.parent.parent.glob("step-*") if path != file.parent]
    if others:
        shutil.copy(chance.choice(others), file)
    else:
        _zero(file, chance)


def _rename_folder(file: Path, chance: random.Random) -> None:
    file.parent.rename(file.parent.with_name("step-00000099"))


_HARMS = (_flip, _flip, _truncate, _zero, _swap, _delete, _rename, _rename_folder)


def corruptions(reference: Reference, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Damage a random file of a run in a random way: it goes on from the newest whole checkpoint, or stops in a sentence."""
    chance, counts = random.Random(seed), {"corruptions": 0, "resumed": 0, "refused": 0, "model refused": 0}
    for number in range(count):
        place = folder / f"harmed{number}"
        reference.cut(place, 6)
        shutil.copytree(reference.folder / "model", place / "model")
        checkpoints, harm = named(place), chance.choice(_HARMS)
        in_checkpoint = chance.random() < 0.8 or harm in (_swap, _rename_folder)
        if in_checkpoint:
            # The newest most often.
            target = checkpoints[-1] if chance.random() < 0.75 else chance.choice(checkpoints)
            files = sorted(target.iterdir())
        else:
            target = None
            files = [
                place / "run.json",
                place / "log.jsonl",
                *(f for f in sorted(place.rglob("model/**/*")) if f.is_file()),
            ]
        file = chance.choice(files)
        before = file.read_bytes()
        harm(file, chance)
        counts["corruptions"] += 1
        changed = not file.exists() or file.read_bytes() != before
        expected = checkpoints[-2] if changed and target == checkpoints[-1] else checkpoints[-1]
        kept = {path.name for path in named(place)}
        # The model is looked at first, since the run writes it again.
        try:
            network = load_pipeline(place / "model").unet.state_dict()
            whole = load_file(reference.folder / MODEL)
            assert all(torch.equal(network[name], whole[name]) for name in whole), f"{harm} of {file}: other weights"
        except UserError:
            assert changed
            counts["model refused"] += 1
        said: list[str] = []
        try:
            run(config(place, keep_checkpoints=9), said.append)
        except UserError:
            # Nothing but the identity of the run makes it stop while there is a whole checkpoint.
            assert file.name == "run.json", f"{harm} of {file}"
            counts["refused"] += 1
        else:
            assert f"resuming {place} at step {step_of(expected)}" in said, (str(harm), str(file), said)
            skipped = expected != checkpoints[-1] or harm is _rename_folder
            assert sum(line.startswith("skipped") for line in said) == skipped
            reference.check_end(place)
            counts["resumed"] += 1
        assert kept <= {path.name for path in named(place)}
        shutil.rmtree(place)
    return counts
