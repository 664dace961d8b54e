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
        provenance: Goes into the table.
        progress: Whether what takes over two seconds shows a bar on stderr.
        scale: The settings.
        data: Folder, zip or synthetic source of pictures, if one was named.
        experiments: Models trained on them, of a table that draws from models.
    """

    provenance: Provenance
    progress: bool = True
    scale: Scale = TINY
    data: str | None = None
    experiments: Experiments | None = None

    def needs_data(self) -> str:
        """The pictures, of a table that cannot do without.

        Raises:
            UserError: If none were named.
        """
        if self.data is None:
            raise UserError(_NO_PICTURES)
        return self.data

    def needs_experiments(self) -> Experiments:
        """The experiments, of a table that cannot do without.

        Raises:
            UserError: If no pictures were named.
        """
        if self.experiments is None:
            raise UserError(_NO_PICTURES)
        return self.experiments
