"""A few of each kind of fault; ``make faults`` does many."""

from pathlib import Path

import pytest
from tests.faults.corrupting import corruptions
from tests.faults.disks import full_disks, full_file_systems, power_cuts
from tests.faults.killing import kills
from tests.faults.small_runs import Reference


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference") / "run")


def test_a_run_that_is_killed_at_any_moment_goes_on_from_its_newest_checkpoint(reference, tmp_path: Path):
    assert kills(reference, tmp_path, 4, seed=1)["kills"] >= 4


def test_a_damaged_file_is_never_gone_on_from(reference, tmp_path: Path):
    assert corruptions(reference, tmp_path, 6, seed=1)["corruptions"] == 6


def test_what_was_saved_outlives_a_power_cut(reference, tmp_path: Path):
    assert power_cuts(reference, tmp_path, 1)["states of the disk"] > 50


def test_a_disk_that_becomes_full_during_a_save_leaves_the_checkpoint_before_it(reference, tmp_path: Path):
    assert full_disks(reference, tmp_path, 0)["operations that failed"] > 10
    full_file_systems(reference, tmp_path, 4)
