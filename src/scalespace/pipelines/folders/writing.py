"""Saving a pipeline: what diffusers saves, the code by which it finds the classes, a manifest, and a card.

Everything is written beside the folder's contents first and then moved to its place, so that it is known which files were
written. Weights that these replace are removed, other variants stay, and the manifest keeps what it said of them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import create_repo, file_exists

from scalespace.errors import UserError
from scalespace.files import PARTIAL, allow
from scalespace.manifest import read_manifest, write_manifest
from scalespace.pipelines.folders.card import CARD, GRID, UNKNOWN, model_card
from scalespace.pipelines.folders.lora import LoraWeights
from scalespace.pipelines.folders.registration import CODE, CODE_FILE, PACKAGE
from scalespace.pipelines.folders.weights import VARIANT, of_variant

__all__ = ["SavedPipeline"]


class SavedPipeline(LoraWeights, DiffusionPipeline):
    """Saving of a pipeline whose parts are "unet" and "scheduler"."""

    made = UNKNOWN
    """What the card says of how the model was made."""

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        *,
        facts: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Save as diffusers does, with a manifest of the files, by which ``load_pipeline`` finds out what happened to them.

        A card that lies in the folder stays as it is. A model that was loaded from a folder takes its card along.

        Args:
            save_directory: Folder; it is made if absent.
            safe_serialization: Always True.
            variant: Name of the weights, for example "fp16"; those of other names stay in the folder.
            max_shard_size: Largest size of a file of weights, for example "5GB"; larger weights are cut into several.
            push_to_hub: Whether to upload the model afterwards.
            facts: What else the manifest tells of the model; anything that JSON holds.
            **options: Options of ``push_to_hub``; without a repo_id it is the name of the folder.

        Raises:
            UserError: If weights were to be pickled, the variant has an odd name, or the network is of a class of your own.
        """
        if not safe_serialization:
            raise UserError(
                "weights are saved as safetensors alone, since a pickle can run any code; leave that option out"
            )
        module, network = self.config["unet"]
        if module != PACKAGE:
            raise UserError(
                f"a pipeline with a network of your own ({network}) cannot be saved, since no other program would find "
                "its class; save its weights, and build network and pipeline again"
            )
        if variant is not None and VARIANT.fullmatch(variant) is None:
            raise UserError(f'variant "{variant}" is no name of weights; give letters and digits, for example fp16')
        folder = Path(save_directory).absolute()
        # On the same disk, so that files can be moved; nothing is made where saving is refused.
        place = next(path for path in (folder, *folder.parents) if path.is_dir())
        with tempfile.TemporaryDirectory(dir=place, prefix=PARTIAL) as partial:
            super().save_pretrained(partial, variant=variant, max_shard_size=max_shard_size)
            index = (Path(partial) / "model_index.json").stat()
            for file in filter(Path.is_file, Path(partial).rglob("*")):
                allow(file, index.st_mode)
            self._write_code(Path(partial))
            if not (folder / CARD).exists():
                self._write_card(Path(partial), options.get("repo_id"))
            written = _moved(Path(partial), folder, variant)
        manifest = read_manifest(folder, "delete it to save another model there")
        before = {} if manifest is None else manifest.files
        kept = {name: entry for name, entry in before.items() if name not in written and (folder / name).is_file()}
        # People write into the card.
        write_manifest(folder, written - {CARD, GRID}, facts, kept)
        if push_to_hub:
            self._push(folder, options.pop("repo_id", folder.name), **options)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face Hub, with its card and manifest, as diffusers does.

        Args:
            repo_id: OWNER/NAME.
            commit_message: Of the upload.
            private: Whether a new repository is private.
            token: Of the Hub; None takes that of hf auth login.
            create_pr: Whether to open a pull request in the place of a commit.
            safe_serialization: Always True.
            variant: As in ``save_pretrained``.
            subfolder: Folder in the repository.

        Returns:
            Address of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant, repo_id=repo_id)
            return self._push(Path(folder), repo_id, commit_message, private, token, create_pr, subfolder)

    def to_json_string(self) -> str:
        # A list names the file of code that diffusers loads the class from, if it is allowed to.
        content = json.loads(super().to_json_string())
        name = [CODE_FILE, type(self).__name__]
        return json.dumps(content | {"_class_name": name}, indent=2, sort_keys=True) + "\n"

    def describe(self) -> dict[str, Any]:
        """What the model is, by name, for its card."""
        raise NotImplementedError

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        raise NotImplementedError

    def _push(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        # Somebody may have written the card that is there.
        if file_exists(repo_id, CARD, token=token):
            (folder / CARD).unlink(missing_ok=True)
        return self._upload_folder(folder, repo_id, token, commit_message, create_pr, subfolder)

    def _write_code(self, folder: Path) -> None:
        # One content in all, since diffusers copies them to one place and may read one for the other.
        for name in (CODE_FILE, f"unet/{PACKAGE}", f"scheduler/{PACKAGE}"):
            (folder / f"{name}.py").write_text(CODE, encoding="utf-8")

    def _write_card(self, folder: Path, name: str | None) -> None:
        source = Path(str(self.config.get("_name_or_path") or ""))
        if self.made == UNKNOWN and (source / "model_index.json").is_file() and (source / CARD).is_file():
            for file in filter(Path.is_file, (source / CARD, source / GRID)):
                shutil.copyfile(file, folder / file.name)
            return
        text = model_card(self.describe(), self.class_names, self.made, self.default_steps, name)
        (folder / CARD).write_text(text, encoding="utf-8")
        if self.made.grid is not None:
            shutil.copyfile(self.made.grid, folder / GRID)


def _moved(partial: Path, folder: Path, variant: str | None) -> set[str]:
    """Move what was written to its place, and remove the weights that it replaces; the names of what was written."""
    written = {file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file()}
    for name in sorted(written):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).replace(folder / name)
    for name in of_variant((file.name for file in (folder / "unet").iterdir()), variant):
        if f"unet/{name}" not in written:
            (folder / "unet" / name).unlink()
    return written
