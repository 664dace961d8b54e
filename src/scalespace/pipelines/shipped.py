"""The model that comes with the package, which draws emoji of 64x64 pixels. Its folder has a card (README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline
from scalespace.reading import reading

__all__ = ["HELDOUT", "SHIPPED", "load_heldout", "load_shipped"]

SHIPPED = Path(__file__).parents[1] / "models" / "emoji64"
"""Its folder."""
HELDOUT = "heldout.png"
"""In it, some emoji that the model has not seen, side by side."""

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
    try:
        return load_pipeline(SHIPPED, variant=variant, dtype=dtype)
    except UserError as error:
        raise UserError(
            f"the model that comes with the package cannot be loaded ({cause(error)}); {_REMEDY}"
        ) from error


def load_heldout() -> Tensor:
    """Emoji that the model in the package has not seen, in [-1, 1], shape (N, 3, 64, 64).

    Raises:
        UserError: If the file is missing or damaged.
    """
    file = SHIPPED / HELDOUT
    with reading(file, _REMEDY, SyntaxError), Image.open(file) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).permute(2, 0, 1)
    return torch.stack(pixels.split(pixels.shape[1], 2)) / 127.5 - 1
