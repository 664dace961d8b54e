"""The directory of a training run: what run it is, its log, and its checkpoints.

    run.json                    the configuration, the fingerprint of the data and the names of their classes: which run this is
    log.jsonl                   losses per resolution, one line every few steps
    checkpoints/step-00005000/  everything needed to go on as if nothing had happened, and a manifest that proves it whole
    evaluations.jsonl           distances from pictures that are held out, one line every few steps, if asked for
    samples/step-00005000.png   pictures drawn with the averaged weights
    index.html                  all of that as a page for a browser
    averages/                   snapshots of averaged weights, from which others are made
    model/                      the trained ScaleSpacePipeline

A directory appears under its final name only when it is complete, so a checkpoint or a model is either whole or absent. What
happens to it later is found by its manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scalespace.data.classes import listed
from scalespace.effects import has_effect
from scalespace.errors import UserError
from scalespace.files import PARTIAL, recover, write_file
from scalespace.manifest import read_manifest
from scalespace.reading import read_json
from scalespace.runs.checkpoints import Checkpoint, Checkpoints
from scalespace.runs.lock import LOCK
from scalespace.runs.log import Log, has_losses, has_metrics
from scalespace.training.changes import (
    CHANGES,
    FREE,
    Differences,
    allowed_names,
    check_possible,
    earlier,
    field_names,
    way_out,
    with_change,
)
from scalespace.training.configuration import TrainConfig

__all__ = ["AVERAGES", "CHECKPOINTS", "MODEL", "RUN_FILE", "DataIdentity", "RunDirectory", "completed", "recorded"]

RUN_FILE, CHECKPOINTS, MODEL, AVERAGES = "run.json", "checkpoints", "model", "averages"
"""Names in the folder of a run that others look for."""

# What run.json has besides options; data and first weights are compared by their checksums.
_OF_DATA = ("data_fingerprint", "pictures", "class_names")
_SIZES = frozenset({"process.image_size", "process.sizes"})
_RECORDED = frozenset({*_OF_DATA, "initial_weights", CHANGES})
# What networks had before there was an option, where that is not its default.
_FORMER_NETWORK = {"min_channels_per_group": 1, "paths": "flexi"}
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
        self._pending: Differences = {}
        self._config = config
        self.log_path = self.path / "log.jsonl"
        self._log = Log(self.log_path, has_losses)
        self.evaluations = Log(self.path / "evaluations.jsonl", has_metrics)
        """Figures of the run, one line every few steps."""
        self.model_path = self.path / MODEL
        self.averages_path = self.path / AVERAGES
        self._checkpoints = Checkpoints(self.path / CHECKPOINTS, config.keep_checkpoints, say, config.keep_every)
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
        found, allowed = self._differences(old), allowed_names(config.allow_change, set(field_names(config)))
        if found.keys() - allowed:
            raise UserError(
                f"{self.path} holds a different run: {_first({n: v for n, v in found.items() if n not in allowed})}; give a "
                f"new --output-dir, or the same options to resume{way_out(found)}"
            )
        check_possible(found)
        self._keep_initial_weights(old)
        if CHANGES in old:
            self._identity[CHANGES] = _history(file, old)
        known = old.get("data_fingerprint")
        if data is not None and known != data.fingerprint:
            # Pictures of another size are others, and their contents cannot be compared.
            if ("data" in allowed or _SIZES & found.keys()) and known != data.former_fingerprint:
                found |= _of_data(old, self._identity)
            else:
                self._check_former_data(config, old, data, say)
                if not found:
                    self._write_identity()
        self._pending = found

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

    def _differences(self, identity: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """In which options a run, of which run.json or a checkpoint tells, differs from this one, with both values."""
        old, new = _known_options(identity), _options(self._identity)
        if self._config.process.awaits_data:
            # Nor is it known what is read off the data.
            old["process.change_points"] = new["process.change_points"]
        # It is part of a run whose learning rate depends on it, and another rate is a difference of its own.
        alone = {"max_steps"} - (old.keys() & new.keys())
        # What has no effect is no difference: the command line refuses it, also from one who began with it.
        return {
            name: (old.get(name), new.get(name))
            for name in sorted((old.keys() | new.keys()) - alone)
            if old.get(name) != new.get(name) and has_effect(name, self._config, TrainConfig.needs)
        }

    def _of_another_run(self, identity: Mapping[str, Any]) -> str | None:
        options = self._differences(identity)
        found = options | _of_data(identity, self._identity)
        theirs = _known_options(identity) | {name: identity.get(name) for name in _OF_DATA}
        ours = _options(self._identity) | {name: self._identity.get(name) for name in _OF_DATA}
        # With changes that were allowed, a checkpoint is of this run if the run has been so once.
        history = with_change(self._identity, self._pending, 0).get(CHANGES, ())
        if any(all(theirs.get(name) == state.get(name) for name in found) for state in earlier(ours, history)):
            return None
        return _first(options) if options else "which was trained on other pictures"

    def _check_former_data(
        self, config: TrainConfig, old: dict[str, Any], data: DataIdentity, say: Callable[[str], None]
    ) -> None:
        """Refuse pictures that a run does not know by their contents, unless it was begun before contents were looked at."""
        known = str(old.get("data_fingerprint"))
        count = f"{data.pictures:,} of them here and {old.get('pictures', 'an unknown number')} there"
        if known.startswith(_CONTENTS):
            raise UserError(
                f"{self.path} was trained on other pictures than those of {config.data}, whose contents, names or number "
                f"differ ({count}); give the same --data to resume, or a new --output-dir{way_out({'data': (None, None)})}"
            )
        former = (
            f"{self.path} was begun by an earlier version of scalespace, which knew pictures by their names and sizes"
        )
        if known != data.former_fingerprint:
            raise UserError(
                f"{former}, and those of {config.data} have others; give the same --data to resume, or a new --output-dir"
            )
        if config.network.num_classes is not None and list(data.class_names) != sorted(data.class_names):
            raise UserError(
                f"{self.path} was begun by an earlier version of scalespace, which numbered its classes in the order "
                f"{listed(sorted(data.class_names))}, and now it is {listed(data.class_names)}; give a new --output-dir"
            )
        say(f"{former}; these are the same, their contents could not be compared, and run.json knows them from now on")

    @property
    def options(self) -> dict[str, Any]:
        """The options that make the run what it is, by their names at the command line, and the identity of its data."""
        return _flat({name: value for name, value in self._identity.items() if name != CHANGES})

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What has changed of the run while it was stopped, as run.json tells it."""
        return self._identity.get(CHANGES, [])

    @property
    def origin(self) -> dict[str, Any]:
        """What the trained model tells of where its weights are from, besides the data."""
        return {name: self._identity[name] for name in ("initial_weights", CHANGES) if name in self._identity}

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

    def changes_since(self, checkpoint: Checkpoint | None) -> Differences:
        """What this start changes of the run as a checkpoint knows it; None stands for the run as run.json tells of it."""
        manifest = None if checkpoint is None else read_manifest(checkpoint.path, "restore it from a copy")
        if manifest is None:
            return self._pending
        identity = manifest.facts["run"]
        return self._differences(identity) | _of_data(identity, self._identity)

    def record_changes(self, step: int) -> None:
        """Write into run.json what this start changes, from ``step`` on."""
        before = self._identity
        self._identity = with_change(before, self._pending, step)
        if self._pending or self._identity != before:
            self._write_identity()
        self._pending = {}

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
        self._log.flush()
        self.evaluations.flush()
        self._checkpoints.save(step, write, self._identity)

    def append_log(self, record: dict[str, Any]) -> None:
        """Add a line to the log; errors as of ``Log.append``."""
        self._log.append(record)

    def read_log(self) -> list[dict[str, Any]]:
        """All records of the log."""
        return self._log.read()

    def rewind_log(self, step: int) -> None:
        """Drop what was logged and measured after ``step``, since it is about to be done again."""
        self._log.rewind(step)
        self.evaluations.rewind(step)


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


def _identity(config: TrainConfig, data: DataIdentity | None) -> dict[str, Any]:
    # Where the learning rate falls towards the end, the weights depend on where that is.
    ends = config.cooldown_steps or config.learning_rate_schedule == "cosine"
    free = FREE - {"max_steps"} if ends else FREE
    fields = {name: value for name, value in asdict(config).items() if name not in free}
    # Through JSON, so that tuples compare equal to what is read back.
    if data is not None:
        fields |= {
            "data_fingerprint": data.fingerprint,
            "pictures": data.pictures,
            "class_names": data.class_names,
        }
    return json.loads(json.dumps(fields))


def _history(file: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changes that run.json tells of. Anybody may edit it."""
    history = identity[CHANGES]
    if not isinstance(history, list) or not all(
        isinstance(change, dict)
        and type(change.get("step")) is int
        and isinstance(change.get("changed"), dict)
        and all(isinstance(value, dict) and {"before", "now"} <= value.keys() for value in change["changed"].values())
        for change in history
    ):
        raise UserError(f"{file} is damaged (its {CHANGES} are none); restore it or give a new --output-dir")
    return history


def _of_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs of the pictures of two runs."""
    if old.get("data_fingerprint") == new.get("data_fingerprint"):
        return {}
    return {name: (old.get(name), new.get(name)) for name in _OF_DATA if old.get(name) != new.get(name)}


def _first(differences: Differences) -> str:
    name, (before, now) = next(iter(differences.items()))
    more = f" ({len(differences) - 1} other options differ too)" if len(differences) > 1 else ""
    return f"{name} is {before} there and {now} here{more}"


def _known_options(identity: Mapping[str, Any]) -> dict[str, Any]:
    # A run written before an option existed was trained with what is its default.
    return _options(_identity(TrainConfig(data="", output_dir=""), None)) | _options(completed(identity))


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
