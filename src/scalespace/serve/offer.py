"""What a page offers of a model, and what its visitors may ask for.

Everything that a visitor sends is looked at here, since anybody who reaches the page can send anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard, get_args

from scalespace.errors import UserError
from scalespace.pipelines.pipeline import ScaleSpacePipeline, check_picture_channels
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.pipelines.shipped import SHIPPED
from scalespace.training.configuration import SolverName

__all__ = ["Limits", "Offer", "Task", "Wish", "named"]

_LARGEST_SEED = 2**32 - 1
_LARGEST_GUIDANCE = 20.0
_UPLOADED_CHANNELS = (1, 3)  # that a picture of a visitor can be turned into

Size = tuple[int, int]


@dataclass(frozen=True)
class Limits:
    """How much a visitor can ask for.

    Args:
        steps: Largest number of steps.
        pictures: Largest number of pictures that are drawn together.
        waiting: Largest number of drawings that wait for their turn.

    Raises:
        UserError: If the page could draw nothing, or the line would be longer than the connections it can keep.
    """

    steps: int = 250
    pictures: int = 16
    waiting: int = 8

    def __post_init__(self):
        for name, value, least, most in (
            ("max-steps", self.steps, 2, 10_000),
            ("max-pictures", self.pictures, 1, 64),
            ("max-waiting", self.waiting, 0, 100),
        ):
            if not least <= value <= most:
                raise UserError(f"--{name} is {value}; give a number from {least} to {most}")


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for.

    Args:
        pictures: Number of pictures.
        steps: Number of sampling steps.
        solver: Name of the solver.
        seed: Seed of the pictures.
        class_label: Number of the class of all pictures; None without one.
        guidance: Guidance scale; 1 is no guidance.
        size: Height and width of the level to stop at; of an uploaded picture, to enlarge from, and the full one to vary it.
        strength: How far an uploaded picture is varied, in [0, 1]. Only used for that.
    """

    pictures: int
    steps: int
    solver: str
    seed: int
    class_label: int | None
    guidance: float
    size: Size
    strength: float = 0.5


Task = Literal["draw", "enlarge", "vary"]
"""What a wish is about."""


@dataclass(frozen=True)
class Offer:
    """What can be asked for.

    Args:
        name: Name of the model.
        shipped: Whether it is the model of the package, which commands take where none is named.
        sizes: Height and width of every level, the smallest first.
        solvers: Names of the solvers that fit the model, the model's own first.
        least_steps: Smallest number of steps.
        most_steps: Largest number of steps.
        steps: Number of steps that is asked for unless a visitor changes it.
        most_pictures: Largest number of pictures.
        classes: Names of the classes by their numbers; empty without classes.
        optional_class: Whether the model also draws without a class.
        guided: Whether the model can be guided.
        guidance: Guidance scale that is asked for unless a visitor changes it; 1 is none.
        guidance_interval: Smallest and largest sigma / alpha at which there is guidance; None is everywhere.
        has_guide: Whether a worse model guides it, so that guidance needs no class.
        enlarges: Levels that a picture can be enlarged from, the smallest first.
        varies: Whether variations of a picture can be drawn.
    """

    name: str
    shipped: bool
    sizes: tuple[Size, ...]
    solvers: tuple[str, ...]
    least_steps: int
    most_steps: int
    steps: int
    most_pictures: int
    classes: tuple[str, ...]
    optional_class: bool
    guided: bool
    guidance: float
    guidance_interval: tuple[float, float] | None
    has_guide: bool
    enlarges: tuple[Size, ...]
    varies: bool

    @classmethod
    def of(
        cls, pipeline: ScaleSpacePipeline, name: str | None, limits: Limits, guidance: Mapping[str, Any] | None = None
    ) -> Offer:
        """What a model has to offer.

        Args:
            pipeline: The model.
            name: Its name; None for the model of the package.
            limits: Of what is asked for.
            guidance: Arguments guidance_scale, guidance_interval and guidance_model of its call, if it has a guide.

        Raises:
            UserError: If it draws nothing that a page could show from noise alone, or not within the limits.
        """
        network, scheduler = pipeline.unet, pipeline.scheduler
        if network.condition_size is not None:
            raise UserError(
                "the model only enlarges the small pictures of another one, and a page has none; name a model that draws "
                "from noise"
            )
        channels = network.in_channels
        try:
            check_picture_channels(channels)
        except ValueError as error:
            raise UserError(f"the model draws {channels} channels; a page shows pictures of 1, 3 or 4") from error
        most = min(limits.steps, scheduler.process.timesteps)
        least = _least_steps(scheduler, most)
        if least is None:
            raise UserError(
                f"--max-steps is {limits.steps}, and the model of {len(scheduler.sizes)} levels needs more; give a larger "
                "--max-steps"
            )
        sizes = tuple(reversed(scheduler.sizes))
        classes = network.num_classes or 0
        return cls(
            name=SHIPPED.name if name is None else name,
            shipped=name is None,
            sizes=sizes,
            solvers=tuple(_solvers(scheduler)),
            least_steps=least,
            most_steps=most,
            steps=max(least, min(most, pipeline.default_steps)),
            most_pictures=limits.pictures,
            classes=tuple(pipeline.class_names) or tuple(map(str, range(classes))),
            optional_class=network.no_class is not None,
            guided=network.no_class is not None or guidance is not None,
            guidance=guidance["guidance_scale"] if guidance else 1.0,
            guidance_interval=guidance["guidance_interval"] if guidance else None,
            has_guide=guidance is not None,
            enlarges=sizes[:-1] if channels in _UPLOADED_CHANNELS else (),
            varies=channels in _UPLOADED_CHANNELS,
        )

    def as_json(self) -> dict[str, Any]:
        """Everything that the page needs, as values that JSON knows."""
        sizes = {name: [named(size) for size in getattr(self, name)] for name in ("sizes", "enlarges")}
        return asdict(self) | sizes | {"most_guidance": _LARGEST_GUIDANCE, "most_seed": _LARGEST_SEED}

    def wish(self, asked: object, task: Task = "draw") -> Wish:
        """What a visitor asks for, if it is on offer.

        Args:
            asked: What the visitor has sent, from JSON.
            task: What it is about.

        Raises:
            UserError: If it is not.
        """
        if not isinstance(asked, Mapping):
            raise UserError("what was asked for cannot be read; load the page again")
        known = {"pictures", "steps", "solver", "seed", "class", "guidance", "size"}
        known |= {"strength"} if task == "vary" else set()
        if unknown := sorted(map(str, asked.keys() - known)):
            raise UserError(f"the page does not know {unknown[0][:40]!r}; load the page again")
        offered = {"draw": self.sizes, "enlarge": self.enlarges, "vary": self.sizes[-1:] if self.varies else ()}[task]
        sizes = {named(size): size for size in offered}
        if not sizes:
            raise UserError(f"the model {'enlarges' if task == 'enlarge' else 'varies'} no pictures; draw some instead")
        label = self._class(asked.get("class"))
        guidance = asked.get("guidance", 1)
        if not _is_number(guidance) or not 1 <= guidance <= _LARGEST_GUIDANCE:
            raise UserError(f"the guidance must be a number from 1 to {_LARGEST_GUIDANCE:g}")
        if guidance != 1 and (not self.guided or task != "draw"):
            what = {"draw": "the model", "enlarge": "enlarging", "vary": "varying"}[task]
            raise UserError(f"{what} cannot be guided; set the guidance to 1")
        if guidance != 1 and label is None and not self.has_guide:
            raise UserError("guidance needs a class to go towards; choose a class, or set the guidance to 1")
        strength = asked.get("strength") if task == "vary" else 0.5
        if not _is_number(strength) or not 0 <= strength <= 1:
            raise UserError("the strength must be a number from 0 to 1")
        return Wish(
            pictures=_whole(asked, "pictures", 1, self.most_pictures),
            steps=_whole(asked, "steps", self.least_steps, self.most_steps),
            solver=_one_of(asked, "solver", self.solvers),
            seed=_whole(asked, "seed", 0, _LARGEST_SEED),
            class_label=label,
            guidance=float(guidance),
            size=sizes[_one_of(asked, "size", tuple(sizes))],
            strength=float(strength),
        )

    def _class(self, label: object) -> int | None:
        if label is None and (self.optional_class or not self.classes):
            return None
        if not self.classes:
            raise UserError("the model has no classes; load the page again")
        if not _is_whole(label) or not 0 <= label < len(self.classes):
            raise UserError(f"the class must be one of the {len(self.classes)} of the model")
        return label


def named(size: Size) -> str:
    """A height and a width as text, for example "64x64"."""
    return "{}x{}".format(*size)


def _least_steps(scheduler: ScaleSpaceScheduler, most: int) -> int | None:
    own: Any = ScaleSpaceScheduler.from_config(scheduler.config)
    for steps in range(1, most + 1):
        try:
            own.set_timesteps(steps)
        except ValueError:
            continue
        return steps
    return None


def _solvers(scheduler: ScaleSpaceScheduler) -> Iterator[str]:
    """The solvers that the process of a model can be solved with, its own first."""
    own = scheduler.config["solver"]
    yield own
    for name in get_args(SolverName):
        if name != own:
            try:
                ScaleSpaceScheduler.from_config(scheduler.config, solver=name)
            except ValueError:
                continue
            yield name


def _whole(asked: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = asked.get(name)
    if not _is_whole(value) or not least <= value <= most:
        raise UserError(f"the {_WORDS[name]} must be a whole number from {least} to {most}")
    return value


_WORDS = {"pictures": "number of pictures", "steps": "number of steps", "seed": "seed"}


def _one_of(asked: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = asked.get(name)
    if value not in choices:
        raise UserError(f"the {name} must be one of {', '.join(choices)}")
    return value


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
