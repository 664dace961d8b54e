"""How a model draws: what ``scalespace sample``, ``scalespace evaluate`` and the tasks have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scalespace.commands.parsing import device_named, dtype_named
from scalespace.effects import Need
from scalespace.training.configuration import SolverName, SpacingName

__all__ = ["GUIDED", "DrawingOptions", "GuidanceOptions", "guidance_chosen"]

GUIDED = Need(lambda given: given.guidance_scale != 1, "without guidance", "give a --guidance-scale other than 1")
"""What guidance-interval and guidance-model need."""


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """How a model is guided."""

    guidance_scale: float = 1.0
    """Above 1: stronger classes, on a model trained with --label-dropout; or better pictures, with --guidance-model."""
    guidance_interval: tuple[float, float] | None = None
    """Only with --guidance-scale: smallest and largest sigma / alpha, EDM's sigma, at which there is guidance."""
    guidance_model: str | None = None
    """Only with --guidance-scale: a worse model to guide away from, smaller or earlier, of the same resolutions and noise."""


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Steps and classes."""

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


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(GuidanceOptions, _Steps):
    """Steps, classes and guidance."""


def guidance_chosen(given: Any) -> dict[str, Any]:
    """How the model that draws is guided, as arguments of its call; the guide is on its device.

    The model of the package has a guide of its own, which is taken where neither is named.

    Args:
        given: Options of ``Loading`` and ``GuidanceOptions``, whose last model is the guide where one is named.

    Raises:
        UserError: If the guide cannot be loaded.
    """
    from scalespace.pipelines.shipped import load_shipped_guide

    guide = None
    if given.guidance_model is not None:
        guide = given.loaded[-1]
    elif given.model is None and given.guidance_scale != 1:
        guide = load_shipped_guide(variant=given.variant, dtype=dtype_named(given.dtype))
    if guide is not None:
        guide.to(device_named(given.device))
    return {
        "guidance_scale": given.guidance_scale,
        "guidance_interval": given.guidance_interval,
        "guidance_model": guide,
    }
