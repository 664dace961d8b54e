"""What launchers and accelerate's configuration say is honoured, or refused in one sentence before anything is done."""

import re

import pytest
import torch
from safetensors.torch import load_file
from tests.process_groups import run_group
from tests.small_models import cli_error, small_config, train_words

from scalespace.errors import UserError
from scalespace.launch import check_launch, check_whole, launched
from scalespace.processes import Processes
from scalespace.training.loop import train
from scalespace.training.start.precision import with_precision

GROUP = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}

# As accelerate launch --use_fsdp --fsdp_version 2 sets them.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
}


@pytest.fixture
def setting(monkeypatch):
    """Sets variables, and forgets those that the check adds."""
    for name in (*GROUP, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed .*start plain processes .* --gradient-checkpointing"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "version 2 alone is done here; give --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "give --fsdp_version 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "leave --fsdp_offload_params out"),
        ({**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "taken apart after each pass here; set it to true"),
        ({**FSDP, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "leave the policy out"),
        ({**FSDP, "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, "leave the policy out"),
        ({**FSDP, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "are whole here; set it to FULL_STATE_DICT"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "by --gradient-checkpointing; give that instead"),
        ({**FSDP, "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block"}, "FSDP_TRANSFORMER_CLS_TO_WRAP.* leave it out"),
        ({**FSDP, "FSDP_IGNORED_MODULES": "head"}, "FSDP_IGNORED_MODULES.* leave it out"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor or context parallelism"),
        ({"ACCELERATE_USE_SAGEMAKER": "true"}, "SageMaker"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "over 4 steps .*give --micro-batch"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "precision fp8 .*not supported; use bf16"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "a single process, .* use torchrun"),
        ({**GROUP, "ACCELERATE_TORCH_DEVICE": "cpu"}, "one device for 2 processes; unset it"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE says that 2 processes were started, and RANK is not set"),
        (
            {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            "mpirun started 3",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            "srun started 8 processes without MASTER",
        ),
    ],
)
def test_what_is_not_done_is_refused(variables, sentence, setting):
    setting(**variables)
    with pytest.raises(UserError, match=sentence):
        check_launch()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_USE_FSDP": "false"},
        {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"},
        FSDP,
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "here"},
    ],
)
def test_one_process_is_one_process(variables, setting):
    setting(**variables)
    check_launch()
    assert launched() == (0, 1)


def test_the_names_of_other_launchers_are_understood(setting, monkeypatch):
    setting(SLURM_STEP_NUM_TASKS="8", SLURM_PROCID="5", SLURM_LOCALID="1", MASTER_ADDR="node1")
    check_launch()
    assert launched() == (5, 8)
    import os

    assert {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")} == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_PORT": "29500",
    }


def test_training_refuses_before_anything_is_done(setting, tmp_path, capsys):
    setting(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    assert "--micro-batch" in cli_error(capsys, train_words(tmp_path / "run"))
    with pytest.raises(UserError, match="--micro-batch"):
        train(small_config(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "configured", "taken"),
    [
        ("auto", "bf16", "bf16"),
        ("auto", "no", "no"),
        ("bf16", "no", "bf16"),
        ("bf16", "bf16", "bf16"),
        ("no", "bf16", None),
        ("fp16", "bf16", None),
    ],
)
def test_the_precision_of_accelerate_is_honoured_or_refused(asked, configured, taken, setting, tmp_path):
    setting(ACCELERATE_MIXED_PRECISION=configured)
    config = small_config(tmp_path / "run", mixed_precision=asked)
    if taken is None:
        with pytest.raises(UserError, match=f"for precision {configured} .* --mixed-precision is {asked}; give both"):
            with_precision(config, lambda line: None)
    else:
        assert with_precision(config, lambda line: None).mixed_precision == taken


def test_a_compiled_network_is_the_same_run_and_can_be_saved_and_resumed(setting, tmp_path):
    # What the compiler makes of a network is its own matter; here it is left as it is, inside its wrapper.
    plain = train(small_config(tmp_path / "plain"), progress=False, say=lambda line: None)
    setting(ACCELERATE_DYNAMO_BACKEND="EAGER")
    for steps in (3, 6):
        compiled = train(small_config(tmp_path / "compiled", max_steps=steps), progress=False, say=lambda line: None)
    weights = "checkpoints/step-00000006/model.safetensors"
    left, right = (load_file(run.path / weights) for run in (plain, compiled))
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=1e-5)


def test_a_device_that_accelerate_names_is_that_of_a_process_alone(setting):
    setting(ACCELERATE_USE_CPU="1", ACCELERATE_TORCH_DEVICE="meta")
    assert Processes().own_device() == torch.device("cpu")
    setting(ACCELERATE_USE_CPU="0")
    assert Processes().own_device() == torch.device("meta")


def test_commands_that_are_not_shared_are_refused_once(tmp_path):
    ended = run_group(
        2, ["prepare", "photos", "--size", "8", "8", "--output", str(tmp_path / "out.zip")], tmp_path / "prints"
    )
    assert [process.code for process in ended] == [2, 2]
    assert re.search("2 processes were started, and each would do all of scalespace prepare", ended[0].errors)
    assert ended[1].errors == ""


def test_commands_that_share_no_network_out_refuse_to(setting):
    setting(**FSDP)
    with pytest.raises(
        UserError, match="scalespace sample has a whole network in every process; start it with torchrun"
    ):
        check_whole("sample")
    setting(ACCELERATE_USE_FSDP="false")
    check_whole("sample")
