"""What the networks of this package have in common: the sizes that they know, and what they are told besides the state.

Times, classes and the noise of small pictures to condition on become one embedding; the small pictures themselves are enlarged
and joined to the state, as in the second model of a cascade (Ho et al. 2021, https://arxiv.org/abs/2106.15282).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn
from torch.nn import functional

from scalespace.networks.layers import time_embedding
from scalespace.networks.network import Size

__all__ = ["ConditionedNetwork", "DenoiserOutput", "checked_sizes", "resized"]

# Levels of noise in [0, 1] are embedded like times in 0..1000.
_CONDITION_TIME = 1000.0


@dataclass
class DenoiserOutput(BaseOutput):
    """Output of a network.

    Attributes:
        sample: Prediction at the target size, shape (B, out_channels, H, W).
    """

    sample: Tensor


class ConditionedNetwork(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Abstract: a network that goes from one of its sizes to the same or a larger one, told time, classes and conditions."""

    sizes: tuple[Size, ...]
    in_channels: int
    out_channels: int
    num_classes: int | None
    no_class: int | None
    condition_size: Size | None

    def forward(
        self,
        sample: Tensor,
        timestep: int | float | Tensor,
        target_size: Sequence[int] | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        condition: Tensor | None = None,
        condition_noise: Tensor | None = None,
    ) -> DenoiserOutput | tuple[Tensor]:
        """Predict the clean image at the target's resolution.

        Args:
            sample: Noisy state at one of the process's resolutions, shape (B, in_channels, h, w).
            timestep: Time as diffusers counts it, 0..T-1 (grid point minus one). A number, or a tensor of shape () or (B,).
            target_size: (height, width) of the prediction, one of `sizes` and at least the sample's. None takes the sample's.
            class_labels: Integers in 0..num_classes-1, and num_classes for no class with null_class; shape (B,). Needed if and
                only if the network has classes.
            return_dict: Whether to return a `DenoiserOutput` instead of a tuple.
            condition: Small pictures, shape (B, in_channels, *condition_size). Needed if and only if the network has a
                condition_size.
            condition_noise: Level of the noise in the small pictures, in [0, 1], shape (B,). Needed with `condition`.

        Returns:
            The prediction of shape (B, out_channels, *target_size), in a `DenoiserOutput` or a tuple of one.

        Raises:
            ValueError: If a size is unknown, if the target is smaller than the sample, or if labels or conditions are missing
                or not allowed.
        """
        entry, goal = self._path(sample, target_size)
        prediction = self._prediction(sample, timestep, entry, goal, class_labels, condition, condition_noise)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    @abstractmethod
    def _prediction(
        self,
        sample: Tensor,
        timestep: int | float | Tensor,
        entry: int,
        goal: int,
        class_labels: Tensor | None,
        condition: Tensor | None,
        condition_noise: Tensor | None,
    ) -> Tensor:
        """The prediction at the size of number `goal`, from a state at the size of number `entry`."""

    def _set_conditions(
        self,
        time_features: int,
        embedding_channels: int,
        num_classes: int | None,
        null_class: bool,
        condition_size: Sequence[int] | None,
    ) -> None:
        """Make the layers of the embedding; the sizes must be known.

        Raises:
            ValueError: If small pictures are not smaller than the largest size, or a null class has no classes beside it.
        """
        self.condition_size = None
        if condition_size is not None:
            height, width = condition_size
            self.condition_size = (int(height), int(width))
        if self.condition_size is not None and (
            min(self.condition_size) < 1 or any(c >= s for c, s in zip(self.condition_size, self.sizes[0], strict=True))
        ):
            raise ValueError(
                f"condition_size {self.condition_size} is no size of smaller pictures than {self.sizes[0]}; "
                "give a height and a width below those"
            )
        if null_class and num_classes is None:
            raise ValueError("null_class was given to a network without classes; set num_classes, or leave it out")
        self.num_classes = num_classes
        self.no_class = num_classes if null_class else None
        self.time_features = time_features
        self.time_mlp = _mlp(time_features, embedding_channels)
        self.class_embedding = nn.Embedding(num_classes, embedding_channels) if num_classes is not None else None
        # By itself, so that a table of classes is that of as many classes, whoever takes its weights.
        self.class_embedding_null = nn.Embedding(1, embedding_channels) if null_class else None
        if self.condition_size is not None:
            self.condition_mlp = _mlp(time_features, embedding_channels)

    def _path(self, sample: Tensor, target_size: Sequence[int] | None) -> tuple[int, int]:
        """Where the state enters and where the prediction leaves, as numbers of sizes."""
        if sample.shape[1] != self.in_channels:
            raise ValueError(f"sample has {sample.shape[1]} channels, and the network takes {self.in_channels}")
        entry = self._position(sample.shape[-2:], "sample")
        goal = entry if target_size is None else self._position(target_size, "target_size")
        if goal > entry:
            raise ValueError(
                f"target_size {self.sizes[goal]} is smaller than the sample's {self.sizes[entry]}; the network only "
                f"goes up, so ask for one of {self.sizes[: entry + 1]}"
            )
        return entry, goal

    def _position(self, size: Sequence[int], what: str) -> int:
        """Index of a size in `sizes`."""
        pair = tuple(size)
        if pair not in self.sizes:
            raise ValueError(
                f"{what} has height and width {pair}, which the network does not know; use one of {self.sizes}"
            )
        return self.sizes.index(pair)

    def _embedding(self, sample: Tensor, timestep: int | float | Tensor, class_labels: Tensor | None) -> Tensor:
        """Embedding of time and class, shape (B, embedding_channels)."""
        if self.class_embedding is None and class_labels is not None:
            raise ValueError("class_labels were given to a network without classes; leave them out, or set num_classes")
        if self.class_embedding is not None and class_labels is None:
            raise ValueError(
                f"class_labels are missing for a network of {self.num_classes} classes; give one per sample"
            )
        batch = sample.shape[0]
        times = torch.as_tensor(timestep, device=sample.device)
        if times.ndim > 1 or (times.ndim == 1 and times.shape[0] not in (1, batch)):
            raise ValueError(
                f"timestep has shape {tuple(times.shape)} for a batch of {batch}; give one time, or one per sample"
            )
        features = time_embedding(times.expand(batch), self.time_features)
        embedding = self.time_mlp(features.to(sample.dtype))
        if self.class_embedding is not None and class_labels is not None:
            if class_labels.shape != (batch,):
                raise ValueError(
                    f"class_labels have shape {tuple(class_labels.shape)}; expected ({batch},), one per sample"
                )
            embedding = embedding + self._classes(class_labels, self.class_embedding)
        return embedding

    def _classes(self, labels: Tensor, table: nn.Module) -> Tensor:
        if self.class_embedding_null is None:
            return table(labels)
        null = labels == self.no_class
        known = table(labels.masked_fill(null, 0))
        return torch.where(null[:, None], self.class_embedding_null(torch.zeros_like(labels)), known)

    def _joined(
        self, sample: Tensor, embedding: Tensor, condition: Tensor | None, condition_noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """State and embedding, with the small pictures and the level of their noise where the network is told them."""
        wanted = self.condition_size is not None
        if wanted != (condition is not None) or wanted != (condition_noise is not None):
            raise ValueError(
                f"small pictures to condition on, and the level of their noise, are {'missing' if wanted else 'given'} and the "
                f"network's condition_size is {self.condition_size}; give both if and only if it has one"
            )
        if condition is None or condition_noise is None:
            return sample, embedding
        if tuple(condition.shape[-2:]) != self.condition_size:
            raise ValueError(
                f"pictures to condition on have height and width {tuple(condition.shape[-2:])}, not {self.condition_size}"
                "; resize them"
            )
        features = time_embedding(_CONDITION_TIME * condition_noise, self.time_features)
        embedding = embedding + self.condition_mlp(features.to(sample.dtype))
        return torch.cat([sample, resized(condition, sample.shape[-2:])], dim=1), embedding


def checked_sizes(sizes: Sequence[Sequence[int]]) -> tuple[Size, ...]:
    """Sizes as pairs of integers.

    Raises:
        ValueError: If they are no pairs of sides of at least one pixel, or do not decrease.
    """
    if not sizes or any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(
            f"sizes {sizes} are not pairs of a height and a width in pixels; give e.g. ((64, 64), (32, 32))"
        )
    pairs = tuple((int(height), int(width)) for height, width in sizes)
    for larger, smaller in pairwise(pairs):
        if smaller == larger or smaller[0] > larger[0] or smaller[1] > larger[1]:
            raise ValueError(
                f"sizes {pairs} do not decrease from {larger} to {smaller}; give the largest first, each once"
            )
    return pairs


def resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures (B, C, h, w) at another size, bilinear and antialiased."""
    # Not every device has the antialias for half precision.
    whole = features.to(torch.promote_types(features.dtype, torch.float32))
    return functional.interpolate(whole, size=tuple(size), mode="bilinear", antialias=True).to(features.dtype)


def _mlp(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, channels), nn.SiLU(), nn.Linear(channels, channels))
