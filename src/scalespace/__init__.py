"""Scale Space Diffusion: one pixel-space diffusion model whose noisy steps run on small tensors.

Mukhopadhyay, Udhayanan, Shrivastava, Scale Space Diffusion, CVPR 2026, arXiv 2603.08709.

Everything here is loaded when it is first used, so that importing the package costs nothing but itself; what type
checkers need to know of it is in ``__init__.pyi``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "scalespace.diffusion.bridges": (
        "Isotropic",
        "UpsampledPrediction",
        "UpsampledState",
    ),
    "scalespace.diffusion.degradation": (
        "Blurring",
        "Degradation",
        "OrthonormalResizing",
        "Resizing",
        "Unchanged",
    ),
    "scalespace.diffusion.denoiser": (
        "Denoiser",
        "GaussianDenoiser",
        "GaussianMixture",
        "GaussianMixtureDenoiser",
    ),
    "scalespace.diffusion.gaussian": ("Gaussian",),
    "scalespace.diffusion.loss": (
        "ConstantWeight",
        "MaxSNR",
        "MinSNR",
        "SNRWeight",
        "VelocityWeight",
        "x0_loss",
    ),
    "scalespace.diffusion.noise": (
        "Cosine",
        "LinearBeta",
        "NoiseSchedule",
        "Shifted",
    ),
    "scalespace.diffusion.prediction": (
        "Epsilon",
        "Prediction",
        "Sample",
        "Velocity",
    ),
    "scalespace.diffusion.process": ("ScaleSpaceProcess",),
    "scalespace.diffusion.resolution": (
        "ChangesAt",
        "ConvexDecay",
        "Equal",
        "FromSpectrum",
        "ResolutionSchedule",
        "SigmoidLike",
        "TanhLike",
    ),
    "scalespace.diffusion.solvers": (
        "Ancestral",
        "Corrected",
        "DDIM",
        "Multistep",
    ),
    "scalespace.errors": ("UserError",),
    "scalespace.networks.flexi_unet": ("FlexiUNet",),
    "scalespace.operators.linear": (
        "Composition",
        "FunctionOperator",
        "Identity",
        "LinearOperator",
    ),
    "scalespace.operators.resize": (
        "OrthonormalResize",
        "Resize",
    ),
    "scalespace.pipelines.pipeline": ("ScaleSpacePipeline",),
    "scalespace.pipelines.scheduler": ("ScaleSpaceScheduler",),
    # A saved pipeline names this package, and diffusers looks for its base classes where a pipeline's parts come from.
    "diffusers": (
        "ConfigMixin",
        "DiffusionPipeline",
        "ModelMixin",
        "SchedulerMixin",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [name for name, module in _HOME.items() if module != "diffusers"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scalespace' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
