"""Scale Space Diffusion: one pixel-space diffusion model whose noisy steps run on small tensors.

Mukhopadhyay, Udhayanan, Shrivastava, Scale Space Diffusion, CVPR 2026, arXiv 2603.08709.

``__init__.pyi`` lists the public names. Each is loaded when it is first used, so that importing the package costs nothing but
itself.
"""

import lazy_loader

from scalespace.pipelines.folders.registration import register_with_diffusers

__version__ = "0.1.0"

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
register_with_diffusers()


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
