"""The precision that a run takes where the user leaves it to the machine."""

import pytest
import torch
from tests.small_models import small_config

from scalespace.errors import UserError
from scalespace.training.loop import train
from scalespace.training.run_directory import recorded
from scalespace.training.start.precision import computes_bf16


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_computes_bf16_where_its_flags_say_so(flags, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert computes_bf16(torch.device("cpu")) is expected


def test_devices_without_bf16_keep_to_float32():
    assert not computes_bf16(torch.device("mps"))


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_takes_bf16_where_it_is_fast_says_so_and_keeps_to_it(able, expected, tmp_path, monkeypatch):
    def run(can: bool, **options):
        monkeypatch.setattr("scalespace.training.start.precision.computes_bf16", lambda device: can)
        lines: list[str] = []
        config = small_config(tmp_path / "run", mixed_precision="auto", **options)
        train(config, progress=False, say=lines.append)
        return lines

    assert any(line.startswith(f"precision {expected}") for line in run(able, max_steps=2))
    assert recorded(str(tmp_path / "run"), "mixed_precision") == expected
    # On another machine the run goes on as it began.
    run(not able, max_steps=4)
    assert recorded(str(tmp_path / "run"), "mixed_precision") == expected
    with pytest.raises(UserError, match=f"mixed_precision is {expected} there"):
        train(small_config(tmp_path / "run", mixed_precision="no" if able else "bf16", max_steps=6), progress=False)
