"""Models and runs that are small enough for a test, and commands that must fail as the command line promises."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from scalespace.cli import main
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.configuration import NetworkConfig, ProcessConfig, TrainConfig

__all__ = [
    "SMALL_OPTIONS",
    "TRANSFORMER_OPTIONS",
    "cli_error",
    "given_once",
    "small_config",
    "small_network",
    "small_pipeline",
    "small_scheduler",
    "small_transformer",
    "train_words",
    "transformer_words",
]

SIZES = ((8, 8), (4, 4))
TIMESTEPS = 20
CHANGE = 11

_SHAPE = {
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_max_size": 4,
    "attention_heads": 2,
}

_PROCESS = (
    "--process.image-size 8 8 --process.levels 2 --process.timesteps 20 --process.resolution equal "
    "--process.beta-start 0.02 --process.beta-end 0.4 "
)
SMALL_OPTIONS = shlex.split(
    _PROCESS + "--network.base-channels 8 --network.channel-multipliers 1 2 "
    "--network.blocks-per-level 1 --network.attention-max-size 4 --network.attention-heads 2"
)
"""The same model at the command line."""
TRANSFORMER_OPTIONS = shlex.split(
    _PROCESS + "--backbone transformer --transformer.patch-size 2 --transformer.width 16 --transformer.depth 2 "
    "--transformer.heads 2"
)
"""The same process with a transformer."""


def small_scheduler(**options: Any) -> ScaleSpaceScheduler:
    """Two levels, 8 and 4 pixels, 20 timesteps."""
    options = {"sizes": SIZES, "change_points": (CHANGE,)} | options
    return ScaleSpaceScheduler(num_train_timesteps=TIMESTEPS, beta_start=0.02, beta_end=0.4, **options)


def small_network(seed: int = 0, **options: Any) -> FlexiUNet:
    """Random weights everywhere, so that predictions depend on all of them."""
    torch.manual_seed(seed)
    unet = FlexiUNet(**({"sizes": SIZES} | _SHAPE | options))
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return unet.eval()


def small_transformer(seed: int = 0, **options: Any) -> FlexiTransformer:
    """Random weights everywhere, as of ``small_network``."""
    torch.manual_seed(seed)
    network = FlexiTransformer(**({"sizes": SIZES, "patch_size": 2, "width": 16, "depth": 2, "heads": 2} | options))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 or not parameter.any():
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network.eval()


def small_pipeline(seed: int = 0, **network: Any) -> ScaleSpacePipeline:
    """Of a ``small_network``."""
    pipeline = ScaleSpacePipeline(small_network(seed, **network), small_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def small_config(output_dir: Path, network: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """A run of six steps on 16 pictures."""
    options: dict[str, Any] = {
        "data": "synthetic:shapes:16",
        "output_dir": str(output_dir),
        "process": ProcessConfig(
            (8, 8), levels=2, timesteps=TIMESTEPS, resolution="equal", beta_start=0.02, beta_end=0.4
        ),
        "network": NetworkConfig(**(_SHAPE | (network or {}))),
        # The same on every machine, in arithmetic that can be compared closely.
        "mixed_precision": "no",
        "max_steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "log_every": 1,
        "sample_every": 0,
        "checkpoint_every": 3,
    }
    return TrainConfig(**(options | changes))


def train_words(output_dir: Path, *words: str, data: str | Path = "synthetic:shapes:16") -> list[str]:
    """The command of a run of two steps."""
    return given_once(*_run_words(output_dir, SMALL_OPTIONS, data), *words)


def transformer_words(output_dir: Path, *words: str) -> list[str]:
    """The command of a run of two steps of a transformer."""
    return given_once(*_run_words(output_dir, TRANSFORMER_OPTIONS), *words)


def _run_words(output_dir: Path, options: list[str], data: str | Path = "synthetic:shapes:16") -> list[str]:
    run = shlex.split("--max-steps 2 --batch-size 4 --warmup-steps 0 --sample-every 0 --log-every 1 --quiet")
    return ["train", "--data", str(data), "--output-dir", str(output_dir), *options, *run]


def given_once(*words: str) -> list[str]:
    """The words of a command, without those of an option that is given again further on."""
    groups: dict[str, list[str]] = {"": []}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].replace("_", "-").replace("no-", "")
            groups.pop(name, None)
        groups.setdefault(name, []).append(word)
    if groups.get("--process.levels", [])[1:] == ["1"]:
        # One level has no schedule.
        groups.pop("--process.resolution", None)
    return [word for group in groups.values() for word in group]


def cli_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one sentence on stderr of a command that must fail with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert errors.startswith("scalespace: error: ")
    assert errors.count("\n") == 1, errors
    return errors
