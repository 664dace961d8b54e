"""Low-rank adapters (LoRA) of a pipeline's network, in diffusers' conventions and by peft, which has to be installed.

Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor

__all__ = ["LoraWeights"]

_PART = "unet"


class LoraWeights(LoraBaseMixin):
    """Loading and saving of adapters; fusing, scaling and removing them is diffusers' own."""

    _lora_loadable_modules = [_PART]  # noqa: RUF012  # As diffusers declares it.

    def load_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        **options: Any,
    ) -> None:
        """Lay an adapter over the network.

        Args:
            pretrained_model_name_or_path_or_dict: Folder or name on the Hub of what ``save_lora_weights`` has written, or its
                tensors.
            adapter_name: Name to call it by. None takes the next of "default_0", "default_1".
            **options: Options of diffusers' ``load_lora_adapter``. Pickled weights are refused.

        Raises:
            TypeError: If the network takes no adapters.
            ImportError: If peft is not installed.
        """
        self._adaptable().load_lora_adapter(
            pretrained_model_name_or_path_or_dict,
            prefix=_PART,
            adapter_name=adapter_name,
            **options | {"use_safetensors": True},
        )

    @classmethod
    def save_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        save_directory: str | Path,
        unet_lora_layers: Mapping[str, Tensor],
        unet_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save an adapter of the network as safetensors, as other pipelines of diffusers save theirs.

        Args:
            save_directory: Folder; it is made if absent.
            unet_lora_layers: Tensors of the adapter, as ``peft.get_peft_model_state_dict`` gives them.
            unet_lora_adapter_metadata: Configuration of the adapter, its ``to_dict()``. Without it ranks are read off the
                tensors, and the scale is taken to be 1.
        """
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers={_PART: dict(unet_lora_layers)},
            lora_metadata={_PART: dict(unet_lora_adapter_metadata or {})},
            is_main_process=True,
            safe_serialization=True,
        )

    def fuse_lora(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Add the adapters to the network's own weights.

        Args:
            components: Parts whose adapters are fused; there is one, "unet".
            lora_scale: Factor of the adapters.
            safe_fusing: Whether to look for values that are not finite first.
            adapter_names: Adapters to fuse. None takes those that are active.
            **options: Options that diffusers has besides.
        """
        super().fuse_lora(components or [_PART], lora_scale, safe_fusing, adapter_names, **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Take the adapters out of the network's own weights again.

        Args:
            components: As of ``fuse_lora``.
            **options: Options that diffusers has besides.
        """
        super().unfuse_lora(components or [_PART], **options)

    def _adaptable(self) -> Any:
        network = getattr(self, _PART)
        if not hasattr(network, "load_lora_adapter"):
            raise TypeError(
                f"a {type(network).__name__} takes no LoRA; lay one over a FlexiUNet, or use peft by itself"
            )
        if find_spec("peft") is None:
            raise ImportError("LoRA needs peft, which is not installed; run pip install peft")
        return network
