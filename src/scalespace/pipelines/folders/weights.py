"""The files that hold the weights of a saved network, as diffusers names them.

One file, or several (shards) with an index that tells which of them has which tensor. A variant, for example weights in half
precision, has files of its own beside the others, with its name in theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scalespace.errors import UserError
from scalespace.reading import check_readable, read_json, reading

__all__ = ["PICKLES", "VARIANT", "WeightFiles", "of_variant"]

VARIANT = re.compile(r"[A-Za-z0-9_]+")
"""What the name of a variant may be."""
PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")
"""How the names of files end that are never opened."""
_PART = "unet"
_STEM = "diffusion_pytorch_model"
_SHARD = r"-\d{5}-of-\d{5}"
_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has put in the place of a large one


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a saved network.

    Args:
        files: Paths inside the model's folder, of the index too if there is one.
        shapes: Shapes of the tensors by their names.
    """

    files: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def find(folder: Path, variant: str | None, remedy: str) -> WeightFiles:
        """Look for the weights in a model's folder, and at the heads of their files.

        Args:
            folder: Folder of the model.
            variant: Name of the variant; None for the weights that have no such name.
            remedy: What to do if a file is damaged.

        Raises:
            UserError: If there are none, the variant among them, or they are a pickle or damaged.
        """
        whole, index = (f"{_PART}/{name}" for name in _names(variant))
        if not (folder / index).exists():
            if not (folder / whole).exists():
                raise UserError(_lacking(folder, variant, whole))
            return WeightFiles((whole,), _shapes(folder / whole, remedy))
        placed = read_json(folder / index, remedy).get("weight_map")
        shard = re.compile(re.escape(_STEM + _dotted(variant)) + _SHARD + r"\.safetensors")
        # Names alone, since a path could lead out of the folder.
        if not isinstance(placed, dict) or not all(isinstance(n, str) and shard.fullmatch(n) for n in placed.values()):
            raise UserError(f"{folder / index} is damaged (no map of tensors to files beside it); {remedy}")
        shapes: dict[str, tuple[int, ...]] = {}
        names = sorted(set(placed.values()))
        for name in names:
            if not (folder / _PART / name).exists():
                raise UserError(f"model {folder} lacks {_PART}/{name}, one of {len(names)} files of weights; {remedy}")
            found = _shapes(folder / _PART / name, remedy)
            if stray := next((tensor for tensor in found if placed.get(tensor) != name), None):
                raise UserError(f"{folder / index} does not belong to {name}, which has {stray}; {remedy}")
            shapes |= found
        return WeightFiles((index, *(f"{_PART}/{name}" for name in names)), shapes)


def of_variant(names: Iterable[str], variant: str | None) -> set[str]:
    """Those of the file names in a network's folder that are weights of a variant, with its index."""
    whole, index = _names(variant)
    shard = re.compile(re.escape(_STEM + _dotted(variant)) + _SHARD + r"\.safetensors")
    return {name for name in names if name in (whole, index) or shard.fullmatch(name)}


def _names(variant: str | None) -> tuple[str, str]:
    """Of the file with all weights, and of the index in its place."""
    dotted = _dotted(variant)
    return f"{_STEM}{dotted}.safetensors", f"{_STEM}.safetensors.index{dotted}.json"


def _dotted(variant: str | None) -> str:
    return "" if variant is None else f".{variant}"


def _lacking(folder: Path, variant: str | None, whole: str) -> str:
    part = folder / _PART
    names = sorted(path.name for path in part.iterdir()) if part.is_dir() else []
    stem = re.compile(rf"{_STEM}(\.safetensors\.index)?\.({VARIANT.pattern})(\.safetensors|\.json)")
    variants = sorted({found[2] for found in map(stem.fullmatch, names) if found} - {"safetensors"})
    plain = any(name in _names(None) for name in names)
    if variants or (variant is not None and plain):
        missing = f"variant {variant}" if variant is not None else "weights but those of variants"
        ways = [*(["leave --variant out"] if plain else []), *(f"give --variant {name}" for name in variants)]
        return f"model {folder} has no {missing}; {' or '.join(ways)}"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"{part} holds its weights as a pickle ({pickles[0]}), which can run any code when it is loaded, and "
            "is refused; save the model as safetensors"
        )
    return f"model {folder} lacks {whole}; train or download it again"


def _shapes(file: Path, remedy: str) -> dict[str, tuple[int, ...]]:
    check_readable(file)
    with file.open("rb") as content:
        if content.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{file} is a pointer of Git LFS to the weights; run git lfs pull in its repository")
    with reading(file, remedy, SafetensorError), safe_open(file, framework="pt") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
