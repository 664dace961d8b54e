"""How a model draws: what ``scalespace sample`` and ``scalespace evaluate`` have in common."""

from __future__ import annotations

from dataclasses import dataclass

from scalespace.effects import Need
from scalespace.training.configuration import SolverName, SpacingName

__all__ = ["GUIDED", "DrawingOptions"]

GUIDED = Need(lambda given: given.guidance_scale != 1, "without guidance", "give a --guidance-scale other than 1")
"""What guidance-interval and guidance-model need."""


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """Steps, classes and guidance."""

    steps: int = 50
    """Number of network calls with spacing log_snr. With others, the calls at changes of resolution come on top."""
    solver: SolverName | None = None
    """Solver that takes the steps. None takes the model's own."""
    eta: float | None = None
    """Only used with solver ddim: 0 is deterministic, 1 is ancestral. None takes the model's own."""
    spacing: SpacingName | None = None
    """Steps equal in time (linspace; trailing, down to 0) or in log-SNR (best for multistep). None takes the model's own."""
    batch_size: int = 16
    """Number of pictures drawn together."""
    class_label: str | None = None
    """Class of all pictures, by name or by number; a word that is both is the name. With None, classes come in turn."""
    guidance_scale: float = 1.0
    """Above 1: stronger classes, on a model trained with --label-dropout; or better pictures, with --guidance-model."""
    guidance_interval: tuple[float, float] | None = None
    """Only with --guidance-scale: smallest and largest sigma / alpha, EDM's sigma, at which there is guidance."""
    guidance_model: str | None = None
    """Only with --guidance-scale: a worse model to guide away from, smaller or earlier, of the same resolutions and noise."""
