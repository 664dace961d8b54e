"""What drew a picture: it is kept in the metadata of the file, so that drawing can go on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin

from scalespace.data.sources.drawn import DRAWN_BY, SHEETS
from scalespace.errors import UserError
from scalespace.files import PARTIAL
from scalespace.pipelines.pipeline import ScaleSpacePipeline

__all__ = ["DrawnBy", "file_name"]

_OF_SOLVER = ("solver", "eta", "bridge", "timestep_spacing")


def file_name(number: int) -> str:
    """The name of the file of a picture, for example "000012.png"."""
    return f"{number:06d}.png"


@dataclass(frozen=True)
class DrawnBy:
    """A model, a seed and options.

    Args:
        facts: What all pictures of one command have in common, for JSON.
    """

    facts: Mapping[str, Any]

    @staticmethod
    def of(
        pipeline: ScaleSpacePipeline, others: Mapping[str, ScaleSpacePipeline | None], options: Mapping[str, Any]
    ) -> DrawnBy:
        """What a model draws with its solver and these options; the model is known by its weights and configuration."""
        models = {"model": pipeline} | {name: other for name, other in others.items() if other is not None}
        facts: dict[str, Any] = {name: _digest(model) for name, model in models.items()}
        facts |= {name: pipeline.scheduler.config[name] for name in _OF_SOLVER}
        return DrawnBy(facts | dict(options))

    def as_json(self) -> str:
        """The facts as text."""
        return json.dumps(self.facts, sort_keys=True)

    def save(self, picture: Image.Image, file: Path) -> None:
        """Write a picture as PNG, and in it what drew it."""
        text = PngImagePlugin.PngInfo()
        text.add_text(DRAWN_BY, self.as_json())
        picture.save(file, pnginfo=text)

    def found(self, folder: Path, count: int) -> frozenset[int]:
        """Make a folder, or find those of the pictures 0..count - 1 in it that are of this very kind.

        Raises:
            UserError: If there are pictures of another kind, more of them, or other files and no such picture.
        """
        refusal = f"{folder} is not an empty folder; give a new one with --output"
        if folder.exists() and not folder.is_dir():
            raise UserError(refusal)
        folder.mkdir(parents=True, exist_ok=True)
        kept, foreign = set(), False
        for file in folder.iterdir():
            if file.name.startswith(PARTIAL):
                # Of a command that was killed.
                file.unlink()
            elif file.suffix == ".png" and file.stem.isdecimal():
                if (facts := _facts(file)) is not None:
                    self.check(facts, file)
                    kept.add(int(file.stem))
            else:
                foreign = foreign or file.name not in SHEETS
        if foreign and not kept:
            raise UserError(refusal)
        if kept and max(kept) >= count:
            raise UserError(
                f"{folder} holds pictures up to number {max(kept)}, which are more than {count}; give a new folder with "
                f"--output, or --num-images {max(kept) + 1}"
            )
        return frozenset(kept)

    def check(self, facts: Mapping[str, Any], file: Path) -> None:
        """Refuse pictures that were drawn by something else.

        Args:
            facts: What their file says of itself.
            file: The file.

        Raises:
            UserError: If they were.
        """
        if facts == self.facts:
            return
        name = next(name for name in sorted({*facts, *self.facts}) if facts.get(name) != self.facts.get(name))
        there, here = facts.get(name), self.facts.get(name)
        what = f"{name} is {there} there and {here} here" if facts else "nothing tells what drew it"
        raise UserError(
            f"{file} was not drawn by the same model, seed and options ({what}); give another --output, or the same options "
            "to go on"
        )


def _facts(file: Path) -> dict[str, Any] | None:
    """What a file says of itself, {} if it says nothing; None where it is damaged and has to be drawn again."""
    try:
        with Image.open(file) as picture:
            facts = json.loads(picture.info.get(DRAWN_BY, "{}"))
            picture.verify()
    except (OSError, ValueError, SyntaxError):
        return None
    return facts if isinstance(facts, dict) else {}


def _digest(pipeline: ScaleSpacePipeline) -> str:
    """The identity of a model, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (pipeline.unet, pipeline.scheduler):
        config = {
            name: value
            for name, value in dict(part.config).items()
            if not name.startswith("_") and name not in _OF_SOLVER
        }
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(pipeline.unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
