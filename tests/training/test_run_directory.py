import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.small_models import small_config

from scalespace.errors import UserError
from scalespace.files import write_directory, write_file
from scalespace.training.configuration import ProcessConfig
from scalespace.training.loop import train
from scalespace.training.loss_plot import plot_losses
from scalespace.training.run_directory import DataIdentity, RunDirectory

DATA = DataIdentity("contents:data", 16, ("cat", "dog"), "former")
OTHERS = DataIdentity("contents:others", 17, (), "of others")


def _write(text: str):
    def write(folder):
        (folder / "content").write_text(text)

    return write


def _fail(error: Exception):
    def write(folder):
        (folder / "content").write_text("half")
        raise error

    return write


def _names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(small_config(tmp_path / "run", keep_checkpoints=2), DATA)


def test_the_same_run_is_found_again(tmp_path, run):
    again = RunDirectory(small_config(tmp_path / "run"), DATA)
    assert again.path == run.path
    assert _names(run.path) == ["run.json"]
    assert json.loads((run.path / "run.json").read_text())["process"]["image_size"] == [8, 8]


def test_what_does_not_change_the_weights_may_change(tmp_path, run):
    free = {"max_steps": 99, "log_every": 7, "sample_every": 3, "checkpoint_every": 2, "keep_checkpoints": 9}
    free |= {"checkpoint_minutes": 1.0, "max_hours": 2.0}
    free |= {"data": "elsewhere", "tracker": "tensorboard", "cache_gib": 0.0, "gradient_checkpointing": True}
    assert RunDirectory(small_config(tmp_path / "run", **free), DATA).path == run.path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 5}, "seed is 0 there and 5 here; give a new"),
        ({"network": {"dropout": 0.5}}, "network.dropout is 0.0 there and 0.5 here"),
        (
            {"process": ProcessConfig((8, 8), levels=1)},
            r"process.beta_end is 0.4 there and 0.02 here \(3 other options",
        ),
        ({"batch_size": 9, "learning_rate": 1.0}, r"batch_size is 4 there and 9 here \(1 other options differ too\)"),
    ],
)
def test_a_different_run_is_refused_by_the_name_of_the_difference(changes: dict, words: str, tmp_path, run):
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(UserError, match=f"holds a different run: .*{words}"):
        RunDirectory(small_config(tmp_path / "run", **changes), DATA)
    assert (run.path / "run.json").read_bytes() == before
    assert _names(run.path) == ["run.json"]


@pytest.mark.parametrize(("option", "value"), [("network", {"dropout": 0.5}), ("change_share", 0.5)])
def test_an_option_that_a_run_does_not_know_yet_has_its_default_there(option: str, value, tmp_path, run):
    written = json.loads((run.path / "run.json").read_text())
    del written["network"]["dropout"], written["change_share"], written["weight"]
    (run.path / "run.json").write_text(json.dumps(written))
    assert RunDirectory(small_config(run.path), DATA).path == run.path
    with pytest.raises(UserError, match=f"holds a different run: {option}"):
        RunDirectory(small_config(run.path, **{option: value}), DATA)


def test_a_directory_can_be_checked_before_the_data_are_known(tmp_path, run):
    assert RunDirectory(small_config(run.path), None).path == run.path
    with pytest.raises(UserError, match="holds a different run: seed is 0 there and 5 here"):
        RunDirectory(small_config(run.path, seed=5), None)
    RunDirectory(small_config(tmp_path / "new"), None)
    assert not (tmp_path / "new").exists()


def test_other_data_are_a_different_run(tmp_path, run):
    with pytest.raises(
        UserError, match="was trained on other pictures than those of elsewhere, whose contents, names or"
    ):
        RunDirectory(small_config(run.path, data="elsewhere"), OTHERS)
    with pytest.raises(UserError, match="differ \\(17 of them here and 16 there\\); give the same --data to resume"):
        RunDirectory(small_config(run.path), OTHERS)


def test_a_run_records_the_names_of_its_classes_in_the_order_of_their_labels(run):
    assert json.loads((run.path / "run.json").read_text())["class_names"] == ["cat", "dog"]


def _earlier(run: RunDirectory, fingerprint: str, **changes) -> None:
    """Make the run one of a version that knew pictures by names and sizes, and no classes by name."""
    written = json.loads((run.path / "run.json").read_text()) | {"data_fingerprint": fingerprint} | changes
    del written["pictures"], written["class_names"]
    (run.path / "run.json").write_text(json.dumps(written))


def test_a_run_of_an_earlier_version_goes_on_with_a_word_and_knows_contents_from_then_on(run):
    _earlier(run, "former")
    said: list[str] = []
    RunDirectory(small_config(run.path), DATA, said.append)
    assert len(said) == 1
    assert (
        "begun by an earlier version of scalespace, which knew pictures by their names and sizes; these are" in said[0]
    )
    RunDirectory(small_config(run.path), DATA, said.append)
    assert len(said) == 1
    with pytest.raises(UserError, match="was trained on other pictures"):
        RunDirectory(small_config(run.path), OTHERS)


def test_a_run_of_an_earlier_version_is_not_resumed_with_other_pictures(run):
    _earlier(run, "former")
    with pytest.raises(
        UserError, match=r"begun by an earlier version .* and those of synthetic:shapes:16 have others; give"
    ):
        RunDirectory(small_config(run.path), OTHERS)


def test_a_run_whose_classes_were_numbered_otherwise_is_not_resumed(run):
    _earlier(run, "former")
    data = dataclasses.replace(DATA, class_names=("2", "10"))
    RunDirectory(small_config(run.path), data)
    _earlier(run, "former", network=json.loads((run.path / "run.json").read_text())["network"] | {"num_classes": 2})
    with pytest.raises(UserError, match="numbered its classes in the order 10, 2, and now it is 2, 10; give a new"):
        RunDirectory(small_config(run.path, network={"num_classes": 2}), data)
    RunDirectory(small_config(run.path, network={"num_classes": 2}), DATA)


def test_every_option_is_either_part_of_the_run_or_free(tmp_path, run):
    # A new option must not slip through: whatever is not declared free is compared.
    names = {field.name for field in dataclasses.fields(small_config(tmp_path))}
    stored = set(json.loads((run.path / "run.json").read_text())) - {*("data_fingerprint", "pictures", "class_names")}
    assert names - stored == {
        *("data", "output_dir", "max_steps", "log_every", "sample_every", "sample_images", "sample_steps"),
        *("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_every", "max_hours"),
        "allow_change",
        *("tracker", "cache_gib", "gradient_checkpointing", "sharding"),
    }


def test_foreign_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no training run; give a new --output-dir"):
        RunDirectory(small_config(tmp_path), DATA)
    with pytest.raises(UserError, match="is a file; name a folder"):
        RunDirectory(small_config(tmp_path / "thesis.tex"), DATA)
    with pytest.raises(UserError, match=r"cannot write .*run.json \(Not a directory\)"):
        RunDirectory(small_config(tmp_path / "thesis.tex" / "run"), DATA)
    assert _names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", "5"])
def test_a_damaged_run_is_refused(content: str, tmp_path, run):
    (run.path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        RunDirectory(small_config(run.path), DATA)


def test_a_run_that_could_not_begin_can_begin_again(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".partial-0123abcd.json").write_text("{")
    RunDirectory(small_config(tmp_path / "run"), DATA)
    assert (tmp_path / "run" / "run.json").is_file()


def test_the_newest_checkpoints_are_kept(run):
    assert run.latest_checkpoint() is None
    for step in (5, 10, 15, 20):
        run.save_checkpoint(step, _write(str(step)))
    assert _names(run.path / "checkpoints") == ["step-00000015", "step-00000020"]
    assert run.latest_checkpoint() == (20, run.path / "checkpoints" / "step-00000020")


def test_only_whole_checkpoints_count(run):
    run.save_checkpoint(5, _write("whole"))
    for name in (".step-00000010.partial", "step-00000010.copy", "step-last"):
        (run.path / "checkpoints" / name).mkdir()
    assert run.latest_checkpoint() == (5, run.path / "checkpoints" / "step-00000005")
    run.save_checkpoint(10, _write("whole"))
    run.save_checkpoint(15, _write("whole"))
    # Copies of the user's stay, and what a crash has left is cleared by the checkpoint that takes its place.
    assert _names(run.path / "checkpoints") == ["step-00000010", "step-00000010.copy", "step-00000015", "step-last"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (RuntimeError("[enforce fail at inline_container.cc] unexpected pos\nmore"), "RuntimeError"),
    ],
)
def test_a_checkpoint_that_fails_leaves_the_earlier_one(error: Exception, words: str, run):
    with pytest.raises(UserError, match=rf"step-00000005 \(.*{words}\); free space.*there is no earlier checkpoint"):
        run.save_checkpoint(5, _fail(error))
    run.save_checkpoint(5, _write("whole"))
    with pytest.raises(UserError, match=rf"step-00000010 \(.*{words}\); .*the last good checkpoint is .*step-00000005"):
        run.save_checkpoint(10, _fail(error))
    assert _names(run.path / "checkpoints") == ["step-00000005"]
    assert (run.path / "checkpoints" / "step-00000005" / "content").read_text() == "whole"


def test_a_full_disk_is_recognised_whatever_the_writer_says(run, monkeypatch):
    def write(path: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 1989184 vs 1989072")

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"step-00000005 \(the disk is full\)"):
        run.save_checkpoint(5, write)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    write_directory(tmp_path / "model", _write("first"))
    write_directory(tmp_path / "model", _write("second"))
    assert (tmp_path / "model" / "content").read_text() == "second"
    with pytest.raises(UserError, match="cannot write"):
        write_directory(tmp_path / "model", _fail(OSError(28, "No space left on device")))
    with pytest.raises(KeyboardInterrupt):
        write_directory(tmp_path / "model", _fail(KeyboardInterrupt()))
    assert (tmp_path / "model" / "content").read_text() == "second"
    write_directory(tmp_path / "model", _write("third"))
    assert (tmp_path / "model" / "content").read_text() == "third"
    assert _names(tmp_path) == ["model"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new folder" / "log"

    def write(path: Path) -> None:
        path.write_text("whole")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    write_file(file, write)
    with pytest.raises(UserError, match=r"log \(the disk is full\)"):
        write_file(file, fail)
    assert file.read_text() == "whole"
    assert _names(file.parent) == ["log"]


def test_the_log_is_read_without_a_line_that_a_crash_cut_short(run):
    assert run.read_log() == []
    for step in (1, 2, 3):
        run.append_log({"step": step})
    with run.log_path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert run.read_log() == [{"step": 1}, {"step": 2}, {"step": 3}]
    run.rewind_log(2)
    run.append_log({"step": 3})
    assert run.log_path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


NO_RECORDS = (
    *(b"null", b"[]", b"3", b'"step"', b"{}", b'{"step": "1"}', b'{"step": true}', b'{"step": 1.0}', b'{"step": -1}'),
    *(b'{"step": 1e400}', b'{"step": ' + b"9" * 400 + b"}", b'{"step": ' + b"9" * 5000 + b"}", b'{"step": NaN}'),
    *(b"\xff\xfe{", b'{"step": 1, "x": "\xff"', b"[" * 100_000, b'{"a":' * 100_000, b"x" * (3 << 20)),
    *(b'{"step": 1, "losses": 3}', b'{"step": 1, "losses": {"x": 0.5}}', b'{"step": 1, "losses": {"8x8": "low"}}'),
    *(b'{"step": 1, "losses": {"8x8": NaN}}', b'{"step": 1, "losses": {"8x8": -1.0}}', b'{"step": 1, "losses": null}'),
    b'{"step": 1, "losses": {"' + b"9" * 5000 + b'x8": 0.5}}',
)


@pytest.mark.parametrize("line", NO_RECORDS, ids=lambda line: line[:30].decode("ascii", "replace"))
def test_a_line_of_the_log_that_is_no_record_is_left_out(line: bytes, run):
    first = {"step": 1, "losses": {"8x8": 0.5, "4x4 -> 8x8": 0.1}, "pictures_per_second": 2.0}
    run.append_log(first)
    with run.log_path.open("ab") as file:
        file.write(line + b"\n")
    run.append_log({"step": 2})
    assert run.read_log() == [first, {"step": 2}]
    run.rewind_log(1)
    assert run.read_log() == [first]


def test_losses_are_drawn_of_any_log_and_under_any_name(run, tmp_path):
    run.append_log({"step": 1})
    plot_losses(run.read_log(), tmp_path / "nothing.png", "nothing")
    run.append_log({"step": 2, "losses": {"8x8": 0.5, "4x4 -> 8x8": 0.1}})
    plot_losses(run.read_log(), tmp_path / "loss.png", "$a$ \\frac \udcff")
    assert _names(tmp_path) == ["loss.png", "nothing.png", "run"]


def test_a_log_that_is_no_file_is_one_sentence(run):
    os.mkfifo(run.log_path)
    with pytest.raises(UserError, match=r"log.jsonl is no file but a folder, a pipe or a device"):
        run.read_log()


def test_a_log_that_cannot_be_written_is_one_sentence(run):
    run.log_path.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*log.jsonl \(Is a directory\); free space"):
        run.append_log({"step": 1})


def test_a_run_from_before_narrow_networks_had_fewer_groups_goes_on_only_as_it_was(tmp_path):
    train(small_config(tmp_path, network={"min_channels_per_group": 1}, max_steps=3))
    file = tmp_path / "run.json"
    run = json.loads(file.read_text())
    del run["network"]["min_channels_per_group"]
    file.write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"network\.min_channels_per_group is 1 there and 4 here"):
        train(small_config(tmp_path))
    train(small_config(tmp_path, network={"min_channels_per_group": 1}))


def test_what_the_output_of_a_command_was_sent_to_is_no_reason_to_refuse(tmp_path):
    names = ["nohup.out", "slurm-1234.out", "slurm-1234.err", "train.log"]
    for name in names:
        (tmp_path / name).write_text("starting")
    RunDirectory(small_config(tmp_path), DATA)
    assert _names(tmp_path) == sorted([*names, "run.json"])
    assert all((tmp_path / name).read_text() == "starting" for name in names)


def test_a_folder_that_is_gone_is_not_made_again_elsewhere(run):
    run.path.rename(run.path.with_name("unmounted"))
    with pytest.raises(UserError, match=r"run is no longer there, .* the checkpoint of step 5 was not written; bring"):
        run.save_checkpoint(5, _write("5"))
    assert not run.path.exists()


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path, run):
    said: list[str] = []
    other = RunDirectory(small_config(tmp_path / "other", learning_rate=0.5), DATA)
    elsewhere = RunDirectory(small_config(tmp_path / "elsewhere"), OTHERS)
    for step, (source, words) in enumerate(((run, ""), (other, "learning_rate is 0.5 there"), (elsewhere, "on other"))):
        source.save_checkpoint(step, _write("weights"))
        if words:
            name = f"step-{step:08d}"
            (source.path / "checkpoints" / name).rename(run.path / "checkpoints" / name)
    found = RunDirectory(small_config(run.path), DATA, said.append).checkpoint_to_resume()
    assert found is not None
    assert found.step == 0
    assert [
        f"step-0000000{number}: it belongs to another run (" in line for number, line in zip((2, 1), said, strict=True)
    ]
    assert "which was trained on other pictures" in said[0]
    assert "learning_rate is 0.5 there and 0.001 here" in said[1]


def test_whatever_a_crash_has_left_in_the_log_the_run_goes_on(run):
    run.append_log({"step": 1})
    with run.log_path.open("ab") as file:
        file.write(b"\x00" * 99 + b'\n\xff\xfe\n5\n{"loss": 1}\n{"step": "7"}\n')
    run.append_log({"step": 2})
    assert run.read_log() == [{"step": 1}, {"step": 2}]
    run.rewind_log(1)
    assert run.log_path.read_text() == '{"step": 1}\n'
