"""The base classes of diffusers that a saved pipeline's package has to offer."""

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin

__all__ = ["ConfigMixin", "DiffusionPipeline", "ModelMixin", "SchedulerMixin"]
