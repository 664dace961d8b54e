"""Options that say which weights of a model are loaded, whether it may run code, and in what it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from scalespace.commands.parsing import dtype_named, on_hub, say
from scalespace.effects import Need, Needs
from scalespace.reading import path_of
from scalespace.training.configuration import DtypeName

__all__ = ["Loading", "trusted"]


def trusted(names: Callable[[Any], Iterable[str | None]]) -> Need:
    """What --trust-model needs: a model that names a degradation of its user's own.

    Args:
        names: Takes the options; the models that they name. None is the model of the package.
    """

    def holds(given: Any) -> bool:
        from scalespace.diffusion.degradations.own import is_own
        from scalespace.training.models import degradation_named

        # What is not known yet, as of a model on the Hub, may be one.
        found = [degradation_named(path_of(name)) for name in names(given) if name is not None]
        return any(name is None or is_own(name) for name in found)

    return Need(
        holds, "on a model whose degradation is one of this package", "name a model with a degradation of your own"
    )


@dataclass(frozen=True, kw_only=True)
class Loading(ABC):
    """Abstract: models that a command draws with."""

    variant: str | None = None
    """Name of the weights to take, where the model has several, for example fp16. None takes those without a name."""
    revision: str | None = None
    """Only with a model on the Hugging Face Hub: branch, tag or commit. None takes the main branch."""
    trust_model: bool = False
    """Import the module of a degradation that the model names, which runs it: know where model and module are from."""
    dtype: DtypeName = "float32"
    """Number format of the network. States stay in float32."""
    device: str = "auto"
    """Device to run on: cpu, cuda, mps and so on. auto takes an accelerator if there is one."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {
        "revision": (
            Need(
                lambda given: any(map(on_hub, given.named)),
                "on a model in a folder",
                "name one on the Hugging Face Hub",
            ),
        ),
        "trust_model": (trusted(lambda given: given.named),),
    }

    @property
    @abstractmethod
    def named(self) -> tuple[str | None, ...]:
        """What the user names as models. None is the model of the package."""

    @cached_property
    def loaded(self) -> tuple[Any, ...]:
        """The pipelines of all that are named, on the CPU.

        Raises:
            UserError: If one cannot be loaded.
        """
        return tuple(map(self._opened, self.named))

    def _opened(self, name: str | None) -> Any:
        from scalespace.pipelines.shipped import load_shipped
        from scalespace.training.models import open_model

        chosen = {"variant": self.variant, "dtype": dtype_named(self.dtype)}
        if name is None:
            return load_shipped(**chosen)
        return open_model(
            path_of(name),
            lambda line: say(line, error=self.json),
            not self.quiet,
            revision=self.revision if on_hub(name) else None,
            trust=self.trust_model,
            **chosen,
        )
