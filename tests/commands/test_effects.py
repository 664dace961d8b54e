"""Every option has an effect or is refused, and what it is said to need is what the built model uses."""

import dataclasses
import math
from importlib import import_module
from operator import attrgetter
from typing import Any, get_type_hints

import pytest
import torch
import tyro
from tests.picture_files import encoded, picture
from tests.small_models import cli_error, small_config, small_network, small_pipeline, train_words

from scalespace.cli import _COMMANDS, main
from scalespace.commands import module_of
from scalespace.commands.evaluate import Arguments as EvaluateArguments
from scalespace.commands.reproduce import Arguments as ReproduceArguments
from scalespace.effects import has_effect
from scalespace.errors import UserError
from scalespace.metrics.extractors.choice import INCEPTION_VARIABLE
from scalespace.paper.reproduce import TABLES
from scalespace.paper.tables import JOBS
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.build import build_network, build_scheduler, build_times, loss_weight
from scalespace.training.configuration import NetworkConfig, ProcessConfig, TrainConfig, TransformerConfig
from scalespace.training.level_sampling import batch_sizes
from scalespace.training.run_directory import DataIdentity, RunDirectory

# Options that change something whatever the others are. What only has to be told so, such as --quiet, is among them.
_ALWAYS_OF_A_MODEL = {
    *(f"process.{name}" for name in ("channels", "timesteps", "noise", "change_points", "sizes")),
    *(f"network.{name}" for name in ("dropout", "num_classes", "condition_size")),
    *("prediction", "solver", "spacing", "released_quirks", "backbone", "preset", "quiet"),
}
_ALWAYS_OF_A_TASK = {
    *("model", "output", "steps", "seed", "batch_size", "variant", "dtype", "device", "json", "quiet"),
    *("variations", "solver"),
}
ALWAYS = {
    "plan": {*_ALWAYS_OF_A_MODEL, "data", "speed", "json"},
    "analyze": {*_ALWAYS_OF_A_MODEL, "output", "json"},
    # What is said of a model has none where a pretrained one is trained further.
    "train": {
        "quiet",
        *("data", "output_dir", "max_steps", "batch_size", "micro_batch", "times", "seed", "learning_rate"),
        *(
            "learning_rate_schedule",
            "average_every",
            "init_from",
            "allow_change",
            "warmup_steps",
            "cooldown_steps",
            "weight_decay",
            "gradient_clip",
            "ema_decay",
            "weight",
            "weight_offset",
            "flip",
        ),
        *("mixed_precision", "gradient_checkpointing", "sharding", "log_every", "sample_every", "checkpoint_every"),
        *("checkpoint_minutes", "max_hours"),
        *("keep_checkpoints", "keep_every", "tracker", "cache_gib"),
    },
    "sample": {
        *("output", "num_images", "steps", "solver", "spacing", "upsample", "seed", "batch_size"),
        *("guidance_scale", "preview", "variant", "dtype", "device", "json", "quiet"),
    },
    "upscale": _ALWAYS_OF_A_TASK | {"guidance_scale"},
    "vary": _ALWAYS_OF_A_TASK | {"guidance_scale", "strength"},
    "inpaint": _ALWAYS_OF_A_TASK | {"guidance_scale", "resamplings"},
    "restore": (_ALWAYS_OF_A_TASK - {"solver"}) | {"operator", "noise", "guidance", "spectrum_of"},
    "interpolate": (_ALWAYS_OF_A_TASK - {"variations", "solver"}) | {"frames", "repetitions"},
    "evaluate": {"metrics", "intervals", "size", "save_statistics", "device", "json", "quiet"},
    "serve": {
        *("host", "port", "max_steps", "max_pictures", "max_waiting", "variant", "dtype", "device", "json", "quiet"),
    },
    "average": {"output", "width", "step"},
    "convert": {"to", "json", "quiet"},
    "accelerate": {"levels", "plan", "json", "quiet"},
    "demo": {"output", "num_images", "steps", "seed", "guidance", "device", "json", "quiet"},
    "bench": {*_ALWAYS_OF_A_MODEL, "batch_size", "seconds", "json"},
    "prepare": {"size", "output", "held_out", "json", "quiet"},
    "reproduce": {"output", "json", "quiet"},
}


def _options(kind: type, group: str = "") -> set[str]:
    """The names of all options of a command, without its positional arguments."""
    found: set[str] = set()
    types = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        declared = types[field.name]
        if dataclasses.is_dataclass(declared):
            found |= _options(declared, f"{group}{field.name}.")  # pyright: ignore[reportArgumentType]
        elif tyro.conf.Positional not in _markers(declared):
            found.add(group + field.name)
    return found


def _markers(declared: Any) -> tuple[Any, ...]:
    positional = get_type_hints(EvaluateArguments, include_extras=True)["generated"].__metadata__
    return tuple(tyro.conf.Positional for marker in getattr(declared, "__metadata__", ()) if marker == positional[0])


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_option_says_what_it_needs_or_is_known_to_need_nothing(command: str):
    arguments = import_module(module_of(command)).Arguments
    assert set(arguments.needs) | ALWAYS[command] == _options(arguments)
    assert not set(arguments.needs) & ALWAYS[command]


def _refused(capsys: pytest.CaptureFixture[str], words: list[str], start: str) -> None:
    found = cli_error(capsys, words)
    option = start.partition(" ")[0]
    assert found.startswith(f"scalespace: error: {start}"), found
    # What, why, and both ways out.
    assert f"; leave {option} out, or " in found


MODEL = [
    ("--process.gamma 0.7 --process.resolution equal", "--process.gamma has no effect with --process.resolution equal"),
    ("--process.gamma=2 --process.change-points 9 40", "--process.gamma has no effect with --process.change-points"),
    ("--process.gamma 2 --process.levels 1", "--process.gamma has no effect on a model of one resolution"),
    ("--process.change-points 9 40 --process.resolution tanh", "--process.resolution has no effect with --process.ch"),
    ("--preset celeba64-1l --process.resolution auto", "--process.resolution has no effect on a model of one"),
    ("--process.beta_start 0.1 --process.noise cosine", "--process.beta-start has no effect with --process.noise co"),
    ("--process.beta-end 0.1 --process.noise cosine", "--process.beta-end has no effect with --process.noise cosine"),
    ("--process.sigma-blur 3", "--process.sigma-blur has no effect with --process.degradation bilinear"),
    ("--process.sizes 8 8 4 4 --process.image-size 8 8", "--process.image-size has no effect with --process.sizes"),
    ("--process.levels 3 --process.change-points 40", "--process.levels has no effect with --process.change-points"),
    ("--process.levels 2 --process.sizes 8 8 4 4", "--process.levels has no effect with --process.sizes"),
    ("--process.sizes 8 8 --process.shifted", "--process.shifted has no effect on a model of one resolution"),
    ("--process.degradation orthonormal --process.levels 1", "--process.degradation has no effect on a model of one"),
    ("--network.paths full --process.levels 1", "--network.paths has no effect on a model of one resolution"),
    ("--sigma-data 0.5", "--sigma-data has no effect with --prediction sample"),
    ("--transformer.patch-size 2", "--transformer.patch-size has no effect with --backbone unet"),
    *(
        (
            f"--backbone transformer --network.{option}",
            f"--network.{option.split()[0]} has no effect with --backbone tr",
        )
        for option in ("base-channels 8", "channel-multipliers 1 2 2", "min-channels-per-group 1", "paths full")
    ),
    ("--preset transformer64-4l --network.attention-heads 2", "--network.attention-heads has no effect with --backb"),
]
PLANS = [
    ("--process.tolerance 0.1", "--process.tolerance has no effect without --data"),
    ("--process.tolerance 1 --tolerance 1 --data D", "--process.tolerance has no effect with --tolerance"),
    ("--tolerance 0.1", "--tolerance has no effect without --data"),
    ("--data D --tolerance 0.1 --process.levels 1", "--tolerance has no effect on a model of one resolution"),
    ("--plot a.png", "--plot has no effect without --data"),
]
TRAININGS = [
    ("--process.tolerance 0.1", "--process.tolerance has no effect with --process.resolution convex"),
    ("--process.gamma 2 --process.resolution auto", "--process.gamma has no effect with --process.resolution auto"),
    ("--sigma-data 0.5 --weight snr", "--sigma-data has no effect with --prediction sample and --weight snr"),
    ("--weight snr --weight-gamma 3", "--weight-gamma has no effect with --weight snr"),
    ("--weight constant --weight-snr base", "--weight-snr has no effect with --weight constant"),
    ("--process.no-shifted --weight-snr base", "--weight-snr has no effect with --process.no-shifted"),
    ("--weigh-changes", "--weigh-changes has no effect without --change-share"),
    ("--process.levels 1 --change-share 0.1", "--change-share has no effect on a model of one resolution"),
    ("--process.levels 1 --level-sampling natural", "--level-sampling has no effect on a model of one resolution"),
    ("--condition-noise 0.3", "--condition-noise has no effect without --network.condition-size"),
    ("--full-rate-steps 9", "--full-rate-steps has no effect with --learning-rate-schedule constant"),
    ("--label-dropout 0.1", "--label-dropout has no effect without --network.num-classes"),
    ("--ema-decay 0 --ema-power 0.5", "--ema-power has no effect with --ema-decay 0"),
    ("--sample-every 0 --sample-images 4", "--sample-images has no effect with --sample-every 0"),
    ("--sample-every 0 --sample-steps 9", "--sample-steps has no effect with --sample-every 0"),
]
OTHERS = [
    ("analyze D --process.levels 1 --process.tolerance 1", "--process.tolerance has no effect on a model of one"),
    ("analyze D --process.gamma 1 --process.resolution equal", "--process.gamma has no effect with --process.resol"),
    ("bench sample --max-steps 9", "--max-steps has no effect on the drawing of pictures"),
    ("bench sample --micro-batch 9", "--micro-batch has no effect on the drawing of pictures"),
    ("bench sample --level-sampling natural", "--level-sampling has no effect on the drawing of pictures"),
    ("bench sample --mixed-precision no", "--mixed-precision has no effect on the drawing of pictures"),
    ("bench sample --gradient-checkpointing", "--gradient-checkpointing has no effect on the drawing of pictures"),
    ("bench train --preset celeba64-1l --level-sampling natural", "--level-sampling has no effect on a model of one"),
    ("bench train --steps 9", "--steps has no effect on training"),
    ("bench train --device cpu", "--device has no effect on training"),
    ("convert D OUT --to released --preset celeba64-2l", "--preset has no effect with --to released"),
    ("accelerate M --levels 1 --data D --plan", "--data has no effect with --levels 1"),
    ("accelerate M --levels 1 --tolerance 0.1 --plan", "--tolerance has no effect with --levels 1"),
    ("accelerate M --data D --plan --output OUT", "--output has no effect with --plan"),
    ("accelerate M --data D --plan --variant fp16", "--variant has no effect with --plan"),
    ("prepare D --size 8 8 --output OUT --seed 3", "--seed has no effect where no pictures are held out"),
    ("prepare D --size 8 8 --output OUT --held-out-share 0.2", "--held-out-share has no effect where no pictures"),
    ("reproduce gflops --data D", "--data has no effect on the table gflops"),
    ("reproduce gflops --scale paper", "--scale has no effect on the table gflops"),
    ("serve x --revision v1", "--revision has no effect on a model in a folder"),
    ("serve --revision v1", "--revision has no effect on a model in a folder"),
    ("reproduce gflops --device cpu", "--device has no effect on the table gflops"),
    ("reproduce gflops --dataset celeba64 --yes", "--dataset has no effect on the table gflops"),
    ("reproduce information --data D --seed 3", "--seed has no effect on the table information"),
    ("reproduce main --data D --yes", "--yes has no effect with --scale tiny"),
    ("reproduce main --data D --tflops 9", "--tflops has no effect with --scale tiny"),
    ("reproduce main --data D --inception-weights i", "--inception-weights has no effect with --scale tiny"),
    ("reproduce main --data D --dataset celeba128", "--dataset has no effect with --scale tiny"),
    ("reproduce main --data D --scale paper --heldout D", "--heldout has no effect with --scale paper"),
    ("reproduce main --data D --scale paper --features built-in", "--features has no effect with --scale paper"),
    ("reproduce information --data D --features built-in", "--features has no effect on the table information"),
    ("evaluate D D --num-images 3", "--num-images has no effect where no pictures are drawn"),
    ("evaluate D D --steps 3", "--steps has no effect where no pictures are drawn"),
    ("evaluate D D --batch-size 3", "--batch-size has no effect where no pictures are drawn"),
    ("evaluate D D --solver ddim", "--solver has no effect where no pictures are drawn"),
    ("evaluate D D --eta 0", "--eta has no effect where no pictures are drawn"),
    ("evaluate D D --variant fp16", "--variant has no effect where no pictures are drawn"),
    ("evaluate D D --revision v1", "--revision has no effect where no pictures are drawn"),
    ("evaluate D D --dtype float16", "--dtype has no effect where no pictures are drawn"),
    ("evaluate D D --spacing linspace", "--spacing has no effect where no pictures are drawn"),
    ("evaluate D D --class-label cat", "--class-label has no effect where no pictures are drawn"),
    ("evaluate D D --guidance-scale 2", "--guidance-scale has no effect where no pictures are drawn"),
    ("evaluate D D --guidance-interval 1 2", "--guidance-interval has no effect where no pictures are drawn"),
    ("evaluate D D --guidance-model M", "--guidance-model has no effect where no pictures are drawn"),
    ("evaluate D D --neighbours 3 --metrics fid,kid", "--neighbours has no effect where prdc is not measured"),
    ("evaluate D D --resize legacy", "--resize has no effect on an extractor that takes pictures as they are"),
    ("evaluate D D --resize clean --features e --trust", "--resize has no effect on an extractor that takes"),
    ("evaluate D D --resize legacy --metrics colour", "--resize has no effect on --metrics colour"),
    ("evaluate D D --features e.pt --metrics swd,colour", "--features has no effect on --metrics swd,colour"),
    ("evaluate D D --inception-weights i --metrics swd", "--inception-weights has no effect on --metrics swd"),
    ("evaluate D D --features-size 32", "--features-size has no effect without a file of an e"),
    ("evaluate D D --trust --features efficientnet-lite0", "--trust has no effect without a file of an extractor"),
    ("evaluate D D --trust", "--trust has no effect without a file of an extractor"),
    ("evaluate D D --save-features", "--save-features has no effect without --save-statistics"),
    ("evaluate D D --seed 3 --no-intervals --metrics fid", "--seed has no effect where nothing is random"),
]


@pytest.mark.parametrize(
    ("command", "words", "start"),
    [
        *(("plan", *case) for case in (*MODEL, *PLANS)),
        *(("train --data D --output-dir OUT", *case) for case in (*MODEL, *TRAININGS)),
        *(("", *case) for case in OTHERS),
    ],
)
def test_an_option_without_effect_is_one_sentence(command, words, start, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    names = {"D": "synthetic:shapes:8", "OUT": str(tmp_path / "out")}
    _refused(capsys, [names.get(word, word) for word in f"{command} {words}".split()], start)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("plan --preset tiny --preset celeba64-4l", "--preset"),
        ("plan --process.levels 2 --process.levels=3", "--process.levels"),
        ("train --data D --output-dir OUT --flip --no-flip", "--flip"),
        ("evaluate D D --seed 1 --seed 1", "--seed"),
    ],
)
def test_an_option_given_twice_is_one_sentence(words: str, option: str, capsys):
    sentence = f"scalespace: error: {option} is given 2 times, and only one of them can hold; give it once\n"
    assert cli_error(capsys, words.split()) == sentence


def test_a_value_of_the_preset_is_no_wish(capsys):
    main(["plan", "--preset", "celeba64-1l", "--process.noise", "cosine"])
    assert "levels              1" in capsys.readouterr().out


# Models and sets of pictures that have to be looked into


@pytest.fixture
def model(tmp_path) -> str:
    """A model of one resolution without classes."""
    pipeline = small_pipeline()
    scheduler = ScaleSpaceScheduler(20, sizes=((8, 8),), change_points=())
    ScaleSpacePipeline(pipeline.unet, scheduler).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_options_that_a_loaded_model_has_no_use_for_are_refused(model: str, tmp_path, capsys):
    words = ["sample", model, "--output", str(tmp_path / "out"), "--num-images", "1", "--steps", "3", "--quiet"]
    for option, why in (
        ("--bridge isotropic", "on a model of one resolution"),
        ("--class-label 0", "on a model without classes"),
        ("--eta 0.5", "where the solver is not ddim"),
        ("--revision v1", "on a model in a folder"),
        ("--guidance-interval 0.1 1", "without guidance"),
        ("--guidance-model x", "without guidance"),
    ):
        _refused(capsys, [*words, *option.split()], f"{option.split()[0]} has no effect {why}")
    assert not (tmp_path / "out").exists()
    main([*words, "--bridge", "exact", "--solver", "ddim", "--eta", "0.5"])
    capsys.readouterr()


def test_a_bridge_that_one_model_of_a_cascade_uses_is_not_refused(tmp_path, capsys):
    small_pipeline().save_pretrained(tmp_path / "low")
    network = small_network(condition_size=(8, 8), sizes=((16, 16),))
    scheduler = ScaleSpaceScheduler(20, sizes=((16, 16),), change_points=())
    ScaleSpacePipeline(network, scheduler).save_pretrained(tmp_path / "high")
    words = f"--num-images 1 --steps 4 --bridge isotropic --upsample {tmp_path}/high --output {tmp_path}/out --quiet"
    main(["sample", str(tmp_path / "low"), *words.split()])
    assert "pictures   1 " in capsys.readouterr().out


def test_statistics_are_looked_into_for_what_they_allow(tmp_path, capsys):
    folders = []
    for start, name in enumerate(("some", "others")):
        (tmp_path / name).mkdir()
        for index in range(8):
            (tmp_path / name / f"{index}.png").write_bytes(encoded(picture(8 * start + index, (16, 16))))
        folders.append(str(tmp_path / name))
    moments, features = str(tmp_path / "moments.npz"), str(tmp_path / "features.npz")
    main(["evaluate", *folders, "--metrics", "fid", "--save-statistics", moments, "--quiet"])
    main(["evaluate", *folders, "--metrics", "fid", "--save-statistics", features, "--save-features", "--quiet"])
    start = ["evaluate", folders[0]]
    _refused(capsys, [*start, moments, "--neighbours", "3"], "--neighbours has no effect where prdc is not measured")
    _refused(capsys, [*start, moments, "--cache"], "--cache has no effect on a reference that is no folder")
    more = ["--save-statistics", str(tmp_path / "new.npz"), "--save-features"]
    _refused(capsys, [*start, moments, *more], "--save-features has no effect on a reference whose features were not")
    assert not (tmp_path / "new.npz").exists()
    _refused(capsys, ["evaluate", moments, moments, "--seed", "1"], "--seed has no effect where nothing is random")
    main([*start, features, "--neighbours", "3", "--seed", "1", "--quiet"])
    assert "k = 3" in capsys.readouterr().out


def test_a_side_that_is_not_there_is_told_as_such(tmp_path, capsys):
    # Its name may be a mistyped model's.
    missing = str(tmp_path / "mdoel")
    assert f"no data at {missing!r}" in cli_error(capsys, ["evaluate", missing, "synthetic:shapes:8", "--steps", "9"])


def test_the_tables_that_train_no_models_are_those_that_the_command_says():
    for table in TABLES:
        given = ReproduceArguments(table=table)
        assert has_effect("seed", given, given.needs) == (table in JOBS)


# Resuming


def _run(config: TrainConfig) -> RunDirectory:
    return RunDirectory(config, DataIdentity("contents:1", 16, (), ""))


def test_a_run_that_began_with_an_option_without_effect_goes_on_without_it(tmp_path, capsys):
    config = small_config(tmp_path / "run", weight="snr")
    process = dataclasses.replace(config.process, gamma=0.7, tolerance=0.3)
    _run(dataclasses.replace(config, process=process, weight_gamma=2.0))
    _run(config)
    _refused(capsys, train_words(tmp_path / "run", "--process.gamma", "0.7"), "--process.gamma has no effect with")
    # What has an effect is compared, whatever the run began with.
    for other in (
        dataclasses.replace(config, weight="min-snr"),
        dataclasses.replace(config, process=dataclasses.replace(config.process, resolution="convex", gamma=0.7)),
        dataclasses.replace(config, process=dataclasses.replace(config.process, levels=1)),
    ):
        with pytest.raises(UserError, match="holds a different run"):
            _run(other)


# Whether it is true

# For every option of the table values of which the first that a run has not is given.
_VALUES: dict[str, tuple[Any, ...]] = {
    "process.image_size": ((32, 32),),
    "process.levels": (3,),
    "process.beta_start": (2e-4,),
    "process.beta_end": (3e-2,),
    "process.resolution": ("convex", "sigmoid"),
    "process.gamma": (3.0,),
    "process.degradation": ("orthonormal",),
    "process.sigma_blur": (3.0,),
    "process.shifted": (False, True),
    "network.paths": ("full",),
    "sigma_data": (0.5,),
    "level_sampling": ("constant-compute",),
    "weight_gamma": (2.0,),
    "weight_snr": ("base",),
    "change_share": (0.5,),
    "level_shares": ((1.0, 3.0),),
    "weigh_changes": (True,),
}
# Of the networks; they are looked at by themselves.
_NETWORKS: dict[str, Any] = {
    "network.base_channels": 16,
    "network.channel_multipliers": (1, 2, 1),
    "network.blocks_per_level": 2,
    "network.attention_max_size": 8,
    "network.attention_heads": 4,
    "network.min_channels_per_group": 2,
    "network.paths": "full",
    "transformer.patch_size": 4,
    "transformer.width": 24,
    "transformer.depth": 3,
    "transformer.heads": 1,
}
_UNTOLD = {
    *(_NETWORKS.keys() - {"network.paths"}),
    "label_dropout",
    "process.tolerance",
    "full_rate_steps",
    "ema_power",
    "condition_noise",
    "sample_images",
    "sample_steps",
}


def _runs() -> list[TrainConfig]:
    network = NetworkConfig(base_channels=8, channel_multipliers=(1, 1, 1), attention_heads=2, blocks_per_level=1)
    process = ProcessConfig((16, 16), levels=2, timesteps=100, gamma=2.0)
    two = TrainConfig(data="", output_dir="", process=process, network=network)
    one = _with(two, "process.levels", 1)
    blurring = dataclasses.replace(one.process, degradation="blurring")
    return [
        *(one, dataclasses.replace(one, process=blurring, prediction="epsilon", solver="ancestral")),
        *(_with(one, name, value) for name, value in (("change_share", 0.3), ("process.sizes", ((16, 16),)))),
        two,
        _with(_with(two, "process.noise", "cosine"), "process.resolution", "equal"),
        _with(_with(two, "process.shifted", False), "process.change_points", (40,)),
        _with(one, "process.change_points", (40,)),
        _with(two, "process.sizes", ((16, 16), (8, 8))),
        _with(two, "change_share", 0.3),
        _with(two, "prediction", "v"),
        *(_with(two, "weight", weight) for weight in ("constant", "snr", "max-snr", "v", "sigmoid")),
    ]


def _with(run: TrainConfig, name: str, value: Any) -> TrainConfig:
    group, _, field = name.rpartition(".")
    if group:
        return dataclasses.replace(run, **{group: dataclasses.replace(getattr(run, group), **{field: value})})
    return dataclasses.replace(run, **{field: value})


def _built(run: TrainConfig) -> Any:
    """What a run is, as far as its process, its objective and its network tell; the reason where it cannot be built."""
    try:
        scheduler = build_scheduler(run)
    except UserError as error:
        return str(error)
    process = scheduler.process
    times = build_times(run, process)
    t = torch.arange(1, process.timesteps + 1)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = build_network(run, scheduler.sizes).eval()
    for parameter in network.parameters():
        # Drawn weights leave the last layer at zero.
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    told: list[Any] = [scheduler.image_size, scheduler.sizes, times.groups, times.probabilities.tolist()]
    told += [process.noise.snr(t).tolist(), loss_weight(run, process)(t).tolist()]
    pixels = [math.prod(group.size) for group in times.groups]
    told.append(batch_sizes(run.level_sampling, 64, times.probabilities.tolist(), pixels, pixels))
    told.append([times.weight(group) for group in times.groups])
    for group in times.groups:
        M = process.degradation.operator(group.first - 1, group.first)
        x_t = torch.randn(1, 3, *group.size, generator=generator)
        with torch.no_grad():
            output = network(x_t, group.first - 1, group.target_size).sample
        told += [M(output).flatten()[:20].tolist(), output.flatten()[:20].tolist()]
        told.append(scheduler.prediction.x0(output, x_t, group.first, M).flatten()[:20].tolist())
    return told


@pytest.mark.parametrize("run", _runs(), ids=range(len(_runs())))
def test_what_an_option_needs_is_what_the_built_run_uses(run: TrainConfig):
    built = _built(run)
    for name, values in _VALUES.items():
        # Of the two it is the other one in which the option was given. No preset is to be brought back from a blur.
        other = _with(run, name, next(value for value in values if value != attrgetter(name)(run)))
        if name == "process.degradation" and run.process.degradation == "blurring":
            continue
        changed = _built(other) != built
        assert changed == has_effect(name, other, TrainConfig.needs), name
    assert set(_VALUES) | _UNTOLD == set(TrainConfig.needs)


@pytest.mark.parametrize("backbone", ["unet", "transformer"])
def test_only_the_options_of_the_network_that_is_built_change_it(backbone: str):
    run = dataclasses.replace(
        _runs()[5], backbone=backbone, transformer=TransformerConfig(patch_size=2, width=16, depth=2, heads=2)
    )
    built = _built(run)
    for name, value in _NETWORKS.items():
        other = _with(run, name, value)
        assert (
            (_built(other) != built)
            == has_effect(name, other, TrainConfig.needs)
            == name.startswith({"unet": "network.", "transformer": "transformer."}[backbone])
        ), name
