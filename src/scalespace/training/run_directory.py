"""The directory of a training run: what run it is, its log, and its checkpoints.

    run.json                    the configuration, the fingerprint of the data and the names of their classes: which run this is
    log.jsonl                   losses per resolution, one line every few steps
    checkpoints/step-00005000/  everything needed to go on as if nothing had happened
    samples/step-00005000.png   pictures drawn with the averaged weights
    averages/                   snapshots of averaged weights, from which others are made
    model/                      the trained ScaleSpacePipeline

A directory appears under its final name only when it is complete, so a checkpoint or a model is either whole or absent.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalespace.data.classes import listed
from scalespace.errors import UserError, cause
from scalespace.files import PARTIAL, REMEDY, why, write_directory, write_file
from scalespace.reading import read_json
from scalespace.training.configuration import TrainConfig

__all__ = ["DataIdentity", "RunDirectory", "recorded"]

# Fields that may change between two starts of one run, since they do not change its weights.
_FREE = frozenset(
    {"data", "output_dir", "max_steps", "log_every", "sample_every", "sample_images", "sample_steps"}
    | {"checkpoint_every", "keep_checkpoints", "tracker", "cache_gib", "gradient_checkpointing"}
)
# What run.json has of the data, which are compared by the fingerprint alone.
_OF_DATA = frozenset({"data_fingerprint", "pictures", "class_names"})
# Options that did not always have their default's effect: what runs had before they existed.
_FORMER = {"network.min_channels_per_group": 1}
_CONTENTS = "contents:"  # of a fingerprint that tells contents apart


@dataclass(frozen=True)
class DataIdentity:
    """Which pictures a run is trained on.

    Args:
        fingerprint: Identity from ``ImageDataset``; different for different contents, names or orders.
        pictures: Number of pictures.
        class_names: Names of the classes in the order of their labels.
        former_fingerprint: What earlier versions of this package knew the pictures by.
    """

    fingerprint: str
    pictures: int
    class_names: tuple[str, ...]
    former_fingerprint: str


class RunDirectory:
    """A run on disk, new or found there.

    Args:
        config: The run's configuration.
        data: The identity of its data; None where it is not known yet, and then nothing is written.
        say: Takes a line for the user where something is worth telling.

    Raises:
        UserError: If the directory holds a different run, or something that is not a run.
    """

    def __init__(self, config: TrainConfig, data: DataIdentity | None, say: Callable[[str], None] = lambda line: None):
        self.path = Path(config.output_dir)
        self.keep = config.keep_checkpoints
        self._awaits_data = config.process.awaits_data
        self.log_path = self.path / "log.jsonl"
        self.model_path = self.path / "model"
        self.averages_path = self.path / "averages"
        self._checkpoints = self.path / "checkpoints"
        if self._is_new():
            if data is not None:
                self._write_identity(_identity(config, data))
        else:
            self._check_identity(config, data, say)

    def _is_new(self) -> bool:
        if self.path.is_file():
            raise UserError(f"{self.path} is a file; name a folder for the run with --output-dir")
        # A run whose first file could not be written, on a full disk, has left nothing that is worth keeping.
        return not self.path.exists() or all(file.name.startswith(PARTIAL) for file in self.path.iterdir())

    def _write_identity(self, identity: dict[str, Any]) -> None:
        text = json.dumps(identity, indent=2) + "\n"
        write_file(self.path / "run.json", lambda file: _write_text(file, text))

    def _check_identity(self, config: TrainConfig, data: DataIdentity | None, say: Callable[[str], None]) -> None:
        file = self.path / "run.json"
        if not file.exists():
            raise UserError(f"{self.path} is not empty and holds no training run; give a new --output-dir")
        identity = _identity(config, data)
        old, new = _flat(read_json(file, "restore it or give a new --output-dir")), _flat(identity)
        # A run written before an option existed was trained with what is its default.
        old = _flat(_identity(TrainConfig(data="", output_dir=""), None)) | _FORMER | old
        if data is None and self._awaits_data:
            # Nor is it known what is read off the data.
            old["process.change_points"] = new["process.change_points"]
        options = sorted((old.keys() | new.keys()) - _OF_DATA)
        differences = [name for name in options if old.get(name) != new.get(name)]
        if differences:
            name = differences[0]
            more = f" ({len(differences) - 1} other options differ too)" if len(differences) > 1 else ""
            raise UserError(
                f"{self.path} holds a different run: {name} is {old.get(name)} there and {new.get(name)} here{more}; "
                "give a new --output-dir, or the same options to resume"
            )
        if data is not None and old.get("data_fingerprint") != data.fingerprint:
            self._check_former_data(config, old, data, say)
            self._write_identity(identity)

    def _check_former_data(
        self, config: TrainConfig, old: dict[str, Any], data: DataIdentity, say: Callable[[str], None]
    ) -> None:
        """Refuse pictures that a run does not know by their contents, unless it was begun before contents were looked at."""
        known = str(old.get("data_fingerprint"))
        count = f"{data.pictures:,} of them here and {old.get('pictures', 'an unknown number')} there"
        if known.startswith(_CONTENTS):
            raise UserError(
                f"{self.path} was trained on other pictures than those of {config.data}, whose contents, names or number "
                f"differ ({count}); give the same --data to resume, or a new --output-dir"
            )
        earlier = (
            f"{self.path} was begun by an earlier version of scalespace, which knew pictures by their names and sizes"
        )
        if known != data.former_fingerprint:
            raise UserError(
                f"{earlier}, and those of {config.data} have others; give the same --data to resume, or a new --output-dir"
            )
        if config.network.num_classes is not None and list(data.class_names) != sorted(data.class_names):
            raise UserError(
                f"{self.path} was begun by an earlier version of scalespace, which numbered its classes in the order "
                f"{listed(sorted(data.class_names))}, and now it is {listed(data.class_names)}; give a new --output-dir"
            )
        say(f"{earlier}; these are the same, their contents could not be compared, and run.json knows them from now on")

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


def _identity(config: TrainConfig, data: DataIdentity | None) -> dict[str, Any]:
    # Where the learning rate falls towards the end, the weights depend on where that is.
    ends = config.cooldown_steps or config.learning_rate_schedule == "cosine"
    free = _FREE - {"max_steps"} if ends else _FREE
    fields = {name: value for name, value in asdict(config).items() if name not in free}
    # Through JSON, so that tuples compare equal to what is read back.
    if data is not None:
        fields |= {
            "data_fingerprint": data.fingerprint,
            "pictures": data.pictures,
            "class_names": data.class_names,
        }
    return json.loads(json.dumps(fields))


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
