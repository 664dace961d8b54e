"""The public names, listed once: type checkers read this file, and so does the package when a name is first used."""

__version__: str

from .diffusion.bridges import Isotropic as Isotropic
from .diffusion.bridges import UpsampledPrediction as UpsampledPrediction
from .diffusion.bridges import UpsampledState as UpsampledState
from .diffusion.degradation import Blurring as Blurring
from .diffusion.degradation import Degradation as Degradation
from .diffusion.degradation import OrthonormalResizing as OrthonormalResizing
from .diffusion.degradation import Resizing as Resizing
from .diffusion.degradation import Unchanged as Unchanged
from .diffusion.denoiser import Denoiser as Denoiser
from .diffusion.denoiser import GaussianDenoiser as GaussianDenoiser
from .diffusion.denoiser import GaussianMixture as GaussianMixture
from .diffusion.denoiser import GaussianMixtureDenoiser as GaussianMixtureDenoiser
from .diffusion.gaussian import Gaussian as Gaussian
from .diffusion.loss import ConstantWeight as ConstantWeight
from .diffusion.loss import MaxSNR as MaxSNR
from .diffusion.loss import MinSNR as MinSNR
from .diffusion.loss import SNRWeight as SNRWeight
from .diffusion.loss import VelocityWeight as VelocityWeight
from .diffusion.loss import x0_loss as x0_loss
from .diffusion.noise import Cosine as Cosine
from .diffusion.noise import LinearBeta as LinearBeta
from .diffusion.noise import NoiseSchedule as NoiseSchedule
from .diffusion.prediction import Epsilon as Epsilon
from .diffusion.prediction import Prediction as Prediction
from .diffusion.prediction import Sample as Sample
from .diffusion.prediction import Velocity as Velocity
from .diffusion.process import ScaleSpaceProcess as ScaleSpaceProcess
from .diffusion.resolution import ChangesAt as ChangesAt
from .diffusion.resolution import ConvexDecay as ConvexDecay
from .diffusion.resolution import Equal as Equal
from .diffusion.resolution import ResolutionSchedule as ResolutionSchedule
from .diffusion.resolution import SigmoidLike as SigmoidLike
from .diffusion.resolution import TanhLike as TanhLike
from .diffusion.shifted import Shifted as Shifted
from .diffusion.solvers import DDIM as DDIM
from .diffusion.solvers import Ancestral as Ancestral
from .diffusion.solvers import Corrected as Corrected
from .diffusion.solvers import Multistep as Multistep
from .diffusion.spectral import FromSpectrum as FromSpectrum
from .errors import UserError as UserError
from .networks.flexi_unet import FlexiUNet as FlexiUNet
from .operators.linear import Composition as Composition
from .operators.linear import FunctionOperator as FunctionOperator
from .operators.linear import Identity as Identity
from .operators.linear import LinearOperator as LinearOperator
from .operators.resize import OrthonormalResize as OrthonormalResize
from .operators.resize import Resize as Resize

# A saved pipeline names this package, and diffusers looks for its base classes where a pipeline's parts come from.
from .pipelines.bases import ConfigMixin as ConfigMixin
from .pipelines.bases import DiffusionPipeline as DiffusionPipeline
from .pipelines.bases import ModelMixin as ModelMixin
from .pipelines.bases import SchedulerMixin as SchedulerMixin
from .pipelines.pipeline import ScaleSpacePipeline as ScaleSpacePipeline
from .pipelines.scheduler import ScaleSpaceScheduler as ScaleSpaceScheduler
