"""Models on the Hugging Face Hub: which names mean one, and its files on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from scalespace.errors import UserError

__all__ = ["fetched", "is_hub_name"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".zip", ".npz", ".safetensors", ".png")
_STEM = "unet/diffusion_pytorch_model"


def is_hub_name(name: str) -> bool:
    """Whether a name means a model on the Hub, OWNER/NAME: nothing of that name is here, nor a folder of the owner's."""
    if _NAME.fullmatch(name) is None or name.endswith(_FILES):
        return False
    path = Path(name)
    # A folder that is mistyped is looked for on the Hub only where nothing at all speaks for it.
    return not path.exists() and not path.parent.exists()


def fetched(name: str, revision: str | None = None, variant: str | None = None, progress: bool = True) -> Path:
    """The folder of a model from the Hub, downloaded if it is not on this machine yet.

    Args:
        name: OWNER/NAME.
        revision: Branch, tag or commit; None takes the main branch.
        variant: The weights to take, as ``load_pipeline`` has it.
        progress: Whether downloads show bars on stderr.

    Raises:
        UserError: If there is no such model or revision, or the Hub cannot be reached.
    """
    weights = _STEM if variant is None else f"{_STEM}.{variant}"
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", f"{weights}.safetensors", f"{weights}-*.safetensors"],
            tqdm_class=tqdm if progress else _Silent,
        )
    except GatedRepoError as error:
        raise UserError(
            f"model {name} is for those who asked its owner; ask on its page, then hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"model {name} has no revision {revision} on the Hugging Face Hub; give another one") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder {name} here and no model of that name on the Hugging Face Hub, unless it is private; check "
            "the name, or log in by hf auth login"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"there is no folder {name} here, and the Hugging Face Hub, where it could be a model, cannot be reached; "
            "check the name and the network"
        ) from error
    return Path(folder)


class _Silent(tqdm):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
