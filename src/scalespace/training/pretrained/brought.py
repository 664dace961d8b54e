"""Runs that train a pretrained network further: process and network are those of the model, and no option says otherwise.

The model is what ``scalespace accelerate`` wrote, or a run that started from one. What it brings is kept in ``run.json``, so
that a run goes on, and is loaded from, without the model.

The objective is that of every run. In a level, where the network predicts noise, it is

    w(SNR_t) |x0_hat - x_0|^2 = w(SNR_t) / SNR_t |eps_hat - eps|^2,

so that weight "snr" is the loss that such networks were trained on, and "min-snr" differs from it only above its gamma. At a
change the network predicts M x_0, and its pseudo-inverse is compared with x_0. What lies in the kernel of M adds a constant,
so that the gradient is that of predicting M x_0, and a change needs no share of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scalespace.errors import UserError, cause
from scalespace.manifest import read_manifest
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.reading import path_of, read_json
from scalespace.training.changes import field_names
from scalespace.training.configuration import ModelConfig, NetworkConfig, ProcessConfig, TrainConfig
from scalespace.training.run_directory import MODEL, RUN_FILE

__all__ = ["Brought", "brought", "kept"]

_INDEX, _REMEDY = "model_index.json", "restore it from a copy"
_WEIGHTS, _KEPT = "initial_weights", "brought"
"""Where run.json has it."""


@dataclass(frozen=True)
class Brought:
    """What a pretrained model brings to a run.

    Args:
        unet: Configuration of its ``PretrainedUNet``.
        scheduler: Configuration of its ``ScaleSpaceScheduler``.
        id2label: Names of its classes by their numbers; None where they have none.
    """

    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    id2label: Mapping[str, str] | None = None

    def network(self) -> PretrainedUNet:
        """The network, with weights that are not the model's.

        Raises:
            UserError: If there is none of this configuration.
        """
        return self._made(PretrainedUNet, self.unet)

    def process(self) -> ScaleSpaceScheduler:
        """The scheduler, which has the process to train on.

        Raises:
            UserError: If there is none of this configuration.
        """
        return self._made(ScaleSpaceScheduler, self.scheduler)

    @property
    def model(self) -> ModelConfig:
        """What it is, in the words of a run's configuration. Those of its network are only the ones that training uses.

        There are none for betas one by one and for a last step without signal: the process that is trained on is ``process``.

        Raises:
            UserError: If its noise cannot be told so.
        """
        scheduler = self.process()
        config: Any = scheduler.config
        inner = self.unet["unet"]
        noise: Any = {"squaredcos_cap_v2": "cosine"}.get(config["beta_schedule"], config["beta_schedule"])
        prediction: Any = {"v_prediction": "v"}.get(config["prediction_type"], config["prediction_type"])
        if config["process"]:
            raise UserError(
                "the model of --init-from has a process of its own (process), which training does not take; train one without"
            )
        return ModelConfig(
            ProcessConfig(
                image_size=scheduler.image_size,
                channels=inner.get("in_channels", 3),
                levels=len(scheduler.sizes),
                timesteps=scheduler.process.timesteps,
                noise=noise,
                beta_start=config["beta_start"],
                beta_end=config["beta_end"],
                degradation=config["degradation"],
                sigma_blur=config["sigma_blur"],
                shifted=config["shifted"],
                change_points=tuple(scheduler.process.degradation.change_points),
                sizes=scheduler.sizes,
            ),
            NetworkConfig(dropout=inner.get("dropout", 0.0), num_classes=inner.get("num_class_embeds")),
            prediction=prediction,
            sigma_data=config["sigma_data"],
            solver=config["solver"],
            spacing=config["timestep_spacing"],
        )

    def check(self, config: TrainConfig, class_names: tuple[str, ...] = ()) -> None:
        """Refuse a run that wants another model, or numbers classes otherwise.

        Args:
            config: The run.
            class_names: Names of the classes of its pictures, in the order of their numbers.

        Raises:
            UserError: If it does.
        """
        model = self.model
        wanted = ModelConfig(**{field.name: getattr(config, field.name) for field in fields(ModelConfig)})
        for name in field_names(model):
            here, there = _value(wanted, name), _value(model, name)
            if here != there:
                raise UserError(
                    f"{name} is {here}, and the model of --init-from {config.init_from}, which brings process and network, "
                    f"has {there}; leave it out, and from Python take brought(...).model for the configuration"
                )
        names = None if self.id2label is None else [self.id2label[number] for number in sorted(self.id2label, key=int)]
        if names is not None and class_names and names != list(class_names):
            differing = next((pair for pair in zip(names, class_names, strict=False) if pair[0] != pair[1]), ("", ""))
            raise UserError(
                f"the pictures of --data number the classes otherwise than the model of --init-from ({differing[1]} here is "
                f"{differing[0]} there); name their folders alike"
            )

    def as_dict(self) -> dict[str, Any]:
        """What ``run.json`` keeps of it."""
        return asdict(self)

    def _made(self, kind: type, config: Mapping[str, Any]) -> Any:
        try:
            return kind.from_config(dict(config))  # pyright: ignore[reportAttributeAccessIssue]
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise UserError(f"the model of --init-from is damaged ({cause(error)}); {_REMEDY}") from error


def brought(init_from: str | None, output_dir: str) -> Brought | None:
    """What the model of ``--init-from`` brings, where it is a pretrained one; only settings are read, and no weights.

    Args:
        init_from: Folder of a model or of a run, or of one of its checkpoints. One on the Hub is not looked at.
        output_dir: Folder of the run. Where that has begun, it is what the run knows.

    Returns:
        None where the model is one of this package's own networks, or there is none.

    Raises:
        UserError: If a file cannot be read.
    """
    if init_from is None:
        return None
    own, path = path_of(output_dir) / RUN_FILE, path_of(init_from)
    if own.is_file():
        return kept(read_json(own, _REMEDY))
    for folder in (path, path / MODEL):
        if (folder / _INDEX).is_file():
            return _of_model(folder)
    if (path / RUN_FILE).is_file():
        return kept(read_json(path / RUN_FILE, _REMEDY))
    # Of a checkpoint.
    manifest = read_manifest(path, _REMEDY) if path.is_dir() else None
    return None if manifest is None else kept(manifest.facts.get("run"))


def kept(run: Any) -> Brought | None:
    """What a run that started from a pretrained model knows of it; None of any other run.

    Args:
        run: What run.json or a checkpoint tells of the run. Anybody may edit them.
    """
    weights = run.get(_WEIGHTS) if isinstance(run, dict) else None
    found = weights.get(_KEPT) if isinstance(weights, dict) else None
    return Brought(**found) if isinstance(found, dict) and found.keys() == set(Brought.__annotations__) else None


def _of_model(folder: Path) -> Brought | None:
    index = read_json(folder / _INDEX, _REMEDY)
    part = index.get("unet")
    if not isinstance(part, list) or part[-1] != PretrainedUNet.__name__:
        return None
    unet, scheduler = (
        {name: value for name, value in read_json(folder / file, _REMEDY).items() if name[:1] != "_"}
        for file in ("unet/config.json", "scheduler/scheduler_config.json")
    )
    return Brought(unet, scheduler, index.get("id2label"))


def _value(model: ModelConfig, name: str) -> Any:
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return value
