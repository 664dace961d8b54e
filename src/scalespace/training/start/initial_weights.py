"""The first weights of a run that starts from those of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.manifest import checksum
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.transfer import Transfer, take_weights
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.processes import Processes
from scalespace.reading import path_of, reading
from scalespace.training.models import opened
from scalespace.training.pretrained.brought import Brought

__all__ = ["start_from"]


def start_from(
    path: str,
    network: FlexiUNet | FlexiTransformer | PretrainedUNet,
    scheduler: ScaleSpaceScheduler,
    processes: Processes,
    say: Callable[[str], None],
    progress: bool = True,
    brings: Brought | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Start the weights of a network from those of a model; one process reads it, and all get the same.

    Args:
        path: Folder of a model or of a run, as ``open_model`` takes it.
        network: The network, whose weights are changed.
        scheduler: Scheduler that the network is trained with.
        processes: Those that train together.
        say: Takes a line for the user that says what was taken, what was left out, and why.
        progress: Whether reading that takes over two seconds shows a bar on stderr.
        brings: What the model brings besides weights, where it is a pretrained one.
        trust: Whether to import the module of a degradation that the model names, as in ``load_pipeline``.

    Returns:
        What is to be known of the weights later: "path", the "file" they were read from, its "sha256", and "brought", what
        a pretrained model brings.

    Raises:
        UserError: If the model cannot be read, or its weights do not fit the network.
    """

    def read() -> tuple[dict[str, Any], dict[str, Tensor]]:
        source, file = opened(path_of(path), say, progress, trust=trust)
        with reading(file, "restore it from a copy"):
            digest = checksum(file)
        known = {"path": path, "file": os.path.abspath(file), "sha256": digest}  # noqa: PTH100
        if isinstance(source.unet, PretrainedUNet) and isinstance(network, PretrainedUNet) and brings is not None:
            network.load_state_dict(source.unet.state_dict())
            parameters = sum(value.numel() for value in network.parameters())
            say(
                f"starts from {file} (sha256 {digest[:12]}): {parameters:,} parameters, with their network and its process"
            )
            return known | {"brought": brings.as_dict()}, network.state_dict()
        if isinstance(source.unet, PretrainedUNet) or isinstance(network, PretrainedUNet):
            raise UserError(
                f"the weights of --init-from {path} are those of a {type(source.unet).__name__}, which brings process and "
                "network of its own and is taken from a folder alone; download it first, or leave --init-from out"
            )
        try:
            transfer = take_weights(network, source.unet)
        except ValueError as error:
            raise UserError(
                f"the weights of --init-from {path} do not fit this network: {cause(error)}; give the options of that "
                "model, or leave --init-from out"
            ) from error
        for line in _told(file, digest, transfer, source.scheduler, scheduler):
            say(line)
        return known, network.state_dict()

    known, weights = processes.first(read)
    if not processes.is_first:
        network.load_state_dict(weights)
    return known


def _told(
    file: Path, digest: str, transfer: Transfer, before: ScaleSpaceScheduler, now: ScaleSpaceScheduler
) -> Iterator[str]:
    """What a user wants to know of the weights that a run starts from, in one line or two."""
    yield (
        f"starts from {file} (sha256 {digest[:12]}): {transfer.taken:,} of {transfer.parameters:,} parameters are taken"
    )
    there, here = (scheduler.config["prediction_type"] for scheduler in (before, now))
    meanings = [*([f"the prediction is {there} there and {here} here"] if there != here else []), *transfer.meanings]
    parts = {
        "drawn anew": transfer.anew,
        "left out": transfer.left_out,
        "the same weights compute something else, since": meanings,
    }
    told = [
        f"{what}{'' if what.endswith('since') else ':'} {', '.join(names)}" for what, names in parts.items() if names
    ]
    if told:
        yield "; ".join(told)
