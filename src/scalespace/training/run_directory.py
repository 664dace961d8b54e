"""The directory of a training run: what run it is, its log, and its checkpoints.

    run.json                    the configuration and the fingerprint of the data: which run this is
    log.jsonl                   losses per resolution, one line every few steps
    checkpoints/step-00005000/  everything needed to go on as if nothing had happened
    samples/step-00005000.png   pictures drawn with the averaged weights
    model/                      the trained ScaleSpacePipeline

A directory appears under its final name only when it is complete, so a checkpoint or a model is either whole or absent.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalespace.errors import UserError, cause
from scalespace.files import PARTIAL, REMEDY, why, write_directory, write_file
from scalespace.reading import read_json
from scalespace.training.configuration import TrainConfig

__all__ = ["RunDirectory", "recorded"]

# Fields that may change between two starts of one run, since they do not change its weights.
_FREE = frozenset(
    {"data", "output_dir", "max_steps", "log_every", "sample_every", "sample_images", "sample_steps"}
    | {"checkpoint_every", "keep_checkpoints", "tracker", "cache_gib", "gradient_checkpointing"}
)


class RunDirectory:
    """A run on disk, new or found there.

    Args:
        config: The run's configuration.
        fingerprint: The identity of its data; None where it is not known yet, and then nothing is written.

    Raises:
        UserError: If the directory holds a different run, or something that is not a run.
    """

    def __init__(self, config: TrainConfig, fingerprint: str | None):
        self.path = Path(config.output_dir)
        self.keep = config.keep_checkpoints
        self._awaits_data = config.process.awaits_data
        self.log_path = self.path / "log.jsonl"
        self.model_path = self.path / "model"
        self._checkpoints = self.path / "checkpoints"
        identity = _identity(config, fingerprint)
        if self._is_new() and fingerprint is None:
            return
        if self._is_new():
            text = json.dumps(identity, indent=2) + "\n"
            write_file(self.path / "run.json", lambda file: _write_text(file, text))
        else:
            self._check_identity(identity)

    def _is_new(self) -> bool:
        if self.path.is_file():
            raise UserError(f"{self.path} is a file; name a folder for the run with --output-dir")
        # A run whose first file could not be written, on a full disk, has left nothing that is worth keeping.
        return not self.path.exists() or all(file.name.startswith(PARTIAL) for file in self.path.iterdir())

    def _check_identity(self, identity: dict[str, Any]) -> None:
        file = self.path / "run.json"
        if not file.exists():
            raise UserError(f"{self.path} is not empty and holds no training run; give a new --output-dir")
        old, new = _flat(read_json(file, "restore it or give a new --output-dir")), _flat(identity)
        # A run written before an option existed was trained with what is its default.
        old = _flat(_identity(TrainConfig(data="", output_dir=""), None)) | old
        if identity["data_fingerprint"] is None:
            # Nor is it known what is read off the data.
            unknown = ["data_fingerprint", *(["process.change_points"] if self._awaits_data else [])]
            old.update((name, new[name]) for name in unknown)
        differences = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        if differences:
            name = differences[0]
            more = f" ({len(differences) - 1} other options differ too)" if len(differences) > 1 else ""
            raise UserError(
                f"{self.path} holds a different run: {name} is {old.get(name)} there and {new.get(name)} here{more}; "
                "give a new --output-dir, or the same options to resume"
            )

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint, if there is one."""
        found = self._all_checkpoints()
        return (int(found[-1].name.removeprefix("step-")), found[-1]) if found else None

    def _all_checkpoints(self) -> list[Path]:
        # Oldest first; copies that a user keeps beside them under other names are left alone.
        return sorted(path for path in self._checkpoints.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of ``step`` whole or not at all, then delete the oldest ones.

        Raises:
            UserError: If it cannot be written; what was there before is untouched.
        """
        try:
            write_directory(self._checkpoints / f"step-{step:08d}", write)
        except UserError as error:
            latest = self.latest_checkpoint()
            kept = f"the last good checkpoint is {latest[1]}" if latest else "there is no earlier checkpoint"
            raise UserError(f"{cause(error)}; {kept}") from error
        for old in self._all_checkpoints()[: -self.keep]:
            shutil.rmtree(old)

    def append_log(self, record: dict[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            UserError: If it cannot be written.
        """
        try:
            with self.log_path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.log_path} ({why(error, self.log_path)}); {REMEDY}") from error

    def read_log(self) -> list[dict[str, Any]]:
        """All lines of the log; a last line cut short by a crash is left out."""
        return list(self._log_records())

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after ``step``, since it is about to be done again."""
        if self.log_path.exists():
            lines = [json.dumps(record) + "\n" for record in self._log_records() if record["step"] <= step]
            write_file(self.log_path, lambda file: _write_text(file, "".join(lines)))

    def _log_records(self) -> Iterator[dict[str, Any]]:
        if not self.log_path.exists():
            return
        for line in self.log_path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def recorded(output_dir: str, option: str) -> Any:
    """What a run says of one of its options; None where there is no run, or it says nothing."""
    try:
        return json.loads((Path(output_dir) / "run.json").read_text()).get(option)
    except (OSError, ValueError, AttributeError):
        # What is wrong with the file is said where the run is opened.
        return None


def _identity(config: TrainConfig, fingerprint: str | None) -> dict[str, Any]:
    # Where the learning rate falls towards the end, the weights depend on where that is.
    free = _FREE - {"max_steps"} if config.cooldown_steps else _FREE
    fields = {name: value for name, value in asdict(config).items() if name not in free}
    # Through JSON, so that tuples compare equal to what is read back.
    return json.loads(json.dumps({**fields, "data_fingerprint": fingerprint}))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
