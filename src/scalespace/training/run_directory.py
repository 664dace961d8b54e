"""The directory of a training run: what run it is, its log, and its checkpoints.

    run.json                    the configuration, the fingerprint of the data and the names of their classes: which run this is
    log.jsonl                   losses per resolution, one line every few steps
    checkpoints/step-00005000/  everything needed to go on as if nothing had happened, and a manifest that proves it whole
    samples/step-00005000.png   pictures drawn with the averaged weights
    index.html                  all of that as a page for a browser
    averages/                   snapshots of averaged weights, from which others are made
    model/                      the trained ScaleSpacePipeline

A directory appears under its final name only when it is complete, so a checkpoint or a model is either whole or absent. What
happens to it later is found by its manifest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scalespace.data.classes import listed
from scalespace.effects import has_effect
from scalespace.errors import UserError
from scalespace.files import PARTIAL, REMEDY, flush, recover, why, write_file
from scalespace.reading import check_readable, parse_json, read_json
from scalespace.runs.checkpoints import Checkpoint, Checkpoints
from scalespace.runs.lock import LOCK
from scalespace.training.configuration import TrainConfig

__all__ = ["AVERAGES", "CHECKPOINTS", "MODEL", "RUN_FILE", "DataIdentity", "RunDirectory", "completed", "recorded"]

RUN_FILE, CHECKPOINTS, MODEL, AVERAGES = "run.json", "checkpoints", "model", "averages"
"""Names in the folder of a run that others look for."""

# Fields that may change between two starts of one run, since they do not change its weights.
_FREE = frozenset(
    {"data", "output_dir", "max_steps", "log_every", "sample_every", "sample_images", "sample_steps"}
    | {"checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "max_hours"}
    | {"tracker", "cache_gib", "gradient_checkpointing"}
)
# What run.json has besides options; data and first weights are compared by their checksums.
_RECORDED = frozenset({"data_fingerprint", "pictures", "class_names", "initial_weights"})
# What networks had before there was an option, where that is not its default.
_FORMER_NETWORK = {"min_channels_per_group": 1}
_LONGEST_LINE, _LARGEST = 1 << 20, 1e30  # characters of the log read at once, and no step or loss of it
_GROUP = re.compile(r"\d{1,9}x\d{1,9}( -> \d{1,9}x\d{1,9})?")  # of steps whose losses are logged together
_CONTENTS = "contents:"  # of a fingerprint that tells contents apart
# What may lie in the folder before a run begins: what a first start has left, and where its output is sent to.
_NO_RUN = (LOCK, f"{PARTIAL}*", "*.log", "*.out", "*.err")


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
        initial_weights: What ``start_from`` tells of the weights that the run starts from; None where it was not asked.

    Raises:
        UserError: If the directory holds a different run, or something that is not a run.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DataIdentity | None,
        say: Callable[[str], None] = lambda line: None,
        initial_weights: Mapping[str, str] | None = None,
    ):
        self.path = Path(config.output_dir)
        self._identity = _identity(config, data)
        if initial_weights is not None:
            self._identity["initial_weights"] = dict(initial_weights)
        self._config = config
        self.log_path = self.path / "log.jsonl"
        self.model_path = self.path / MODEL
        self.averages_path = self.path / AVERAGES
        self._checkpoints = Checkpoints(self.path / CHECKPOINTS, config.keep_checkpoints, say)
        self._say = say
        if self._is_new():
            if data is not None:
                self._write_identity()
        else:
            self._check_identity(config, data, say)

    def _is_new(self) -> bool:
        if self.path.is_file():
            raise UserError(f"{self.path} is a file; name a folder for the run with --output-dir")
        return not self.path.exists() or all(
            any(fnmatch(entry.name, pattern) for pattern in _NO_RUN) for entry in self.path.iterdir()
        )

    def _write_identity(self) -> None:
        text = json.dumps(self._identity, indent=2) + "\n"
        write_file(self.path / RUN_FILE, lambda file: _write_text(file, text), durable=True)

    def _check_identity(self, config: TrainConfig, data: DataIdentity | None, say: Callable[[str], None]) -> None:
        file = self.path / RUN_FILE
        if not file.exists():
            raise UserError(f"{self.path} is not empty and holds no training run; give a new --output-dir")
        old = read_json(file, "restore it or give a new --output-dir")
        if (difference := self._difference(old)) is not None:
            raise UserError(
                f"{self.path} holds a different run: {difference}; give a new --output-dir, or the same options to resume"
            )
        self._keep_initial_weights(old)
        if data is not None and old.get("data_fingerprint") != data.fingerprint:
            self._check_former_data(config, old, data, say)
            self._write_identity()

    def _keep_initial_weights(self, old: Mapping[str, Any]) -> None:
        """Know the weights that the run started from; where they were read again, they must be the same."""
        known, now = (identity.get("initial_weights") for identity in (old, self._identity))
        if known is None:
            return
        if now is not None and now["sha256"] != known.get("sha256"):
            raise UserError(
                f"{self.path} was begun from other weights than those of {now['file']} now (sha256 {known.get('sha256')} "
                f"there and {now['sha256']} here); restore them, or give a new --output-dir"
            )
        self._identity["initial_weights"] = known

    def _difference(self, identity: Mapping[str, Any]) -> str | None:
        """In which options a run, of which run.json or a checkpoint tells, differs from this one; None where in none."""
        # A run written before an option existed was trained with what is its default.
        old = _options(_identity(TrainConfig(data="", output_dir=""), None)) | _options(completed(identity))
        new = _options(self._identity)
        if self._config.process.awaits_data:
            # Nor is it known what is read off the data.
            old["process.change_points"] = new["process.change_points"]
        options = sorted(old.keys() | new.keys())
        # What has no effect is no difference: the command line refuses it, also from one who began with it.
        effective = (name for name in options if has_effect(name, self._config, TrainConfig.needs))
        differences = [name for name in effective if old.get(name) != new.get(name)]
        if not differences:
            return None
        name = differences[0]
        more = f" ({len(differences) - 1} other options differ too)" if len(differences) > 1 else ""
        return f"{name} is {old.get(name)} there and {new.get(name)} here{more}"

    def _of_another_run(self, identity: Mapping[str, Any]) -> str | None:
        known, here = identity.get("data_fingerprint"), self._identity.get("data_fingerprint")
        return self._difference(identity) or (None if known == here else "which was trained on other pictures")

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

    @property
    def options(self) -> dict[str, Any]:
        """The options that make the run what it is, by their names at the command line, and the identity of its data."""
        return _flat(self._identity)

    @property
    def origin(self) -> dict[str, Any]:
        """What the trained model tells of where its weights are from, besides the data."""
        return {name: self._identity[name] for name in ("initial_weights",) if name in self._identity}

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint of which nothing is known that speaks against it; None without any."""
        return self._checkpoints.latest()

    def checkpoint_to_resume(self, progress: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole; what is left out, and why, is said in a line each.

        It also clears what a start that was killed has left half written, so the run must be locked.

        Args:
            progress: Whether reading that takes over two seconds shows a bar on stderr.

        Returns:
            The checkpoint; None where the run has none yet.

        Raises:
            UserError: If there are checkpoints, or a model that was trained, and no checkpoint is whole.
        """
        for folder in (self.path, self._checkpoints.folder):
            recover(folder)
        found = self._checkpoints.newest_whole(self._of_another_run, progress)
        if found is None and self.model_path.exists():
            raise UserError(
                f"{self.path} has a model and no checkpoint to go on from; restore one from a copy, or give a new "
                "--output-dir to train anew"
            )
        if found is None and self.log_path.exists():
            self._say(f"{self.path} was stopped before its first checkpoint and begins again at step 0")
        return found

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of ``step`` whole or not at all, then delete the oldest whole ones.

        Raises:
            UserError: If it cannot be written; what was there before is untouched.
        """
        # Making the folder again would write to whatever disk is where its own was.
        if not (self.path / RUN_FILE).exists():
            raise UserError(
                f"{self.path} is no longer there, or its run.json, and the checkpoint of step {step} was not written; "
                "bring the folder back and give the same command again"
            )
        with contextlib.suppress(OSError):
            flush(self.log_path)
        self._checkpoints.save(step, write, self._identity)

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
        """All records of the log. What is none is left out, such as a last line that a crash has cut short."""
        return list(self._log_records())

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after ``step``, since it is about to be done again."""
        if self.log_path.exists():
            lines = [json.dumps(record) + "\n" for record in self._log_records() if record["step"] <= step]
            write_file(self.log_path, lambda file: _write_text(file, "".join(lines)), durable=True)

    def _log_records(self) -> Iterator[dict[str, Any]]:
        if not self.log_path.exists():
            return
        check_readable(self.log_path)
        with self.log_path.open(encoding="utf-8", errors="replace") as file:
            for line in iter(lambda: file.readline(_LONGEST_LINE), ""):
                with contextlib.suppress(ValueError):
                    record = parse_json(line)
                    if _is_record(record):
                        yield record


def recorded(output_dir: str, option: str) -> Any:
    """What a run says of one of its options; None where there is no run, or it says nothing."""
    try:
        return read_json(Path(output_dir) / RUN_FILE, "").get(option)
    except UserError:
        # What is wrong with the file is said where the run is opened.
        return None


def completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json or a checkpoint tells of a run, with the options that it is too old to tell where they differ from now."""
    network = identity.get("network")
    former = {"network": _FORMER_NETWORK | network} if isinstance(network, dict) else {}
    return {**identity, **former}


def _is_record(line: Any) -> bool:
    """Whether a line is one that ``Recorder`` writes, as far as others rely on it. Anybody may edit the log."""
    if not isinstance(line, dict) or not _is_number(line.get("step"), int):
        return False
    losses = line.get("losses", {})
    return isinstance(losses, dict) and all(
        _GROUP.fullmatch(name) and _is_number(loss, float) for name, loss in losses.items()
    )


def _is_number(value: Any, kind: type) -> bool:
    return type(value) is kind and 0 <= value < _LARGEST


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


def _options(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The options among what run.json tells, by their names at the command line."""
    return _flat({name: value for name, value in identity.items() if name not in _RECORDED})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
