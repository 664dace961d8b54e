"""The model that comes with the package, which draws emoji of 64x64 pixels. Its folder has a card (README.md).

A second, much smaller one guides it: predictions are taken away from those of the worse model (Karras et al. 2024, arXiv
2406.02507).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline
from scalespace.reading import reading

__all__ = [
    "HELDOUT",
    "SHIPPED",
    "guide_folder",
    "load_heldout",
    "load_shipped",
    "load_shipped_guide",
    "shipped_guidance",
]

SHIPPED = Path(__file__).parents[1] / "models" / "emoji64"
"""Its folder."""
HELDOUT = "heldout.png"
"""In it, some emoji that the model has not seen, side by side."""

_GUIDANCE_SCALE, _GUIDANCE_INTERVAL = 2.5, (0.2, 1000.0)  # with less noise it would exaggerate the finest detail

_REMEDY = (
    "install the package again (pip install --force-reinstall --no-deps .), or in a clone restore it "
    "(git checkout -- src/scalespace/models)"
)


def load_shipped(*, variant: str | None = None, dtype: torch.dtype = torch.float32) -> ScaleSpacePipeline:
    """Load the model that comes with the package.

    Args:
        variant: Name of the weights; there are only those without a name, which is None.
        dtype: Number format of the network.

    Raises:
        UserError: If its files are missing or are not those that were shipped.
    """
    return _load(SHIPPED, "the model that comes with the package", variant, dtype)


def load_shipped_guide(*, variant: str | None = None, dtype: torch.dtype = torch.float32) -> ScaleSpacePipeline:
    """Load the worse model that the one of ``load_shipped`` can be guided away from, as ``guidance_model`` of its call.

    Args:
        variant: Name of the weights; there are only those without a name, which is None.
        dtype: Number format of the network.

    Raises:
        UserError: If its files are missing or are not those that were shipped.
    """
    return _load(guide_folder(), "the guide that comes with the package", variant, dtype)


def guide_folder() -> Path:
    """Folder of the guide."""
    return SHIPPED.with_name(f"{SHIPPED.name}_guide")


def shipped_guidance(
    device: torch.device | str = "cpu", *, variant: str | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Arguments of the model's call with which its best pictures were found: scale, interval and model of the guidance.

    Args:
        device: That of the model.
        variant: As of ``load_shipped_guide``, and the next one.
        dtype: Number format of the guide's network.

    Raises:
        UserError: As ``load_shipped_guide``.
    """
    guide = load_shipped_guide(variant=variant, dtype=dtype)
    guide.to(device)
    return {
        "guidance_scale": _GUIDANCE_SCALE,
        "guidance_interval": _GUIDANCE_INTERVAL,
        "guidance_model": guide,
    }


def _load(folder: Path, what: str, variant: str | None, dtype: torch.dtype) -> ScaleSpacePipeline:
    try:
        return load_pipeline(folder, variant=variant, dtype=dtype)
    except UserError as error:
        raise UserError(f"{what} cannot be loaded ({cause(error)}); {_REMEDY}") from error


def load_heldout() -> Tensor:
    """Emoji that the model in the package has not seen, in [-1, 1], shape (N, 3, 64, 64).

    Raises:
        UserError: If the file is missing or damaged.
    """
    file = SHIPPED / HELDOUT
    with reading(file, _REMEDY, SyntaxError), Image.open(file) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).permute(2, 0, 1)
    return torch.stack(pixels.split(pixels.shape[1], 2)) / 127.5 - 1
