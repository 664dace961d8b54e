"""What a table of the paper is made from."""

from __future__ import annotations

from dataclasses import dataclass

from scalespace.errors import UserError
from scalespace.paper.experiments import Experiments
from scalespace.paper.scale import TINY, Scale
from scalespace.reports.provenance import Provenance

__all__ = ["Request"]

_NO_PICTURES = "this table needs pictures; give a folder or a zip of them by --data"


@dataclass(frozen=True)
class Request:
    """What a table is made from.

    Args:
        provenance: Command, commit and seed that the table is to carry.
        progress: Whether work of more than two seconds shows a progress bar on stderr.
        scale: Settings of the table.
        data: Folder, zip or synthetic source of pictures. None if the user named none.
        experiments: The trained models. None for a table that needs no models.
    """

    provenance: Provenance
    progress: bool = True
    scale: Scale = TINY
    data: str | None = None
    experiments: Experiments | None = None

    def needs_data(self) -> str:
        """The pictures, for a table that needs them.

        Raises:
            UserError: If the user named none.
        """
        if self.data is None:
            raise UserError(_NO_PICTURES)
        return self.data

    def needs_experiments(self) -> Experiments:
        """The experiments, for a table that needs trained models.

        Raises:
            UserError: If the user named no pictures.
        """
        if self.experiments is None:
            raise UserError(_NO_PICTURES)
        return self.experiments
