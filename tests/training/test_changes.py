"""Options that change on purpose while a run is stopped: what may, what takes effect, and what is known of it afterwards."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.process_groups import run_group
from tests.small_models import cli_error, small_config, train_words
from torch.testing import assert_close

from scalespace.cli import main
from scalespace.errors import UserError
from scalespace.training.changes import allowed_names, check_possible, field_names, way_out
from scalespace.training.configuration import ProcessConfig
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory
from scalespace.training.trainer import Trainer


def _train(folder: Path, **options: Any) -> tuple[RunDirectory, list[str]]:
    said: list[str] = []
    return train(small_config(folder, **options), progress=False, say=said.append), said


def _run_file(run: RunDirectory) -> dict[str, Any]:
    return json.loads((run.path / "run.json").read_text())


def _checkpoint(run: RunDirectory, step: int, name: str) -> Path:
    return run.path / "checkpoints" / f"step-{step:08d}" / name


def _weights(run: RunDirectory, step: int) -> dict[str, torch.Tensor]:
    return load_file(_checkpoint(run, step, "model.safetensors"))


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A run of three steps."""
    return _train(tmp_path / "run", max_steps=3)[0]


def test_an_option_that_is_allowed_to_change_takes_effect_is_said_and_recorded(run):
    before = _run_file(run)
    again, said = _train(run.path, learning_rate=1e-30, allow_change=("learning-rate",))
    # No weight moves in float32 at such a rate.
    assert_close(_weights(again, 6), _weights(again, 3), rtol=0, atol=1e-20)
    assert "learning_rate is 1e-30 from step 3 on, and was 0.001" in said
    changes = [{"step": 3, "changed": {"learning_rate": {"before": 1e-3, "now": 1e-30}}}]
    assert _run_file(run) == before | {"learning_rate": 1e-30, "changes": changes}
    assert json.loads((run.model_path / "manifest.json").read_text())["changes"] == changes
    assert "learning_rate from step 3 on</th><td>1e-30, before 0.001" in (run.path / "index.html").read_text()
    # The same command goes on, and so does one that no longer names the change.
    for allowed in (("learning_rate",), ()):
        _, said = _train(run.path, learning_rate=1e-30, allow_change=allowed, max_steps=7)
        assert not [line for line in said if line.startswith("learning_rate")]
        assert _run_file(run)["changes"] == changes


def test_what_differs_and_is_not_allowed_is_refused_with_the_way_out(run, capsys):
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(
        UserError, match=r"learning_rate is 0\.001 there and 0\.002 here.*, or add --allow-change learning-rate"
    ):
        _train(run.path, learning_rate=2e-3)
    with pytest.raises(UserError, match=r"seed is 0 there and 1 here; give .* --allow-change learning-rate seed to"):
        _train(run.path, learning_rate=2e-3, seed=1, allow_change=("learning-rate",))
    with pytest.raises(UserError, match=r"was trained on other pictures .*, or add --allow-change data to go on"):
        _train(run.path, data="synthetic:shapes:17")
    # What cannot change has no such way out.
    for options in ({"network": {"attention_heads": 4}}, {"prediction": "v"}, {"average_every": 2}):
        with pytest.raises(UserError, match="holds a different run") as refused:
            _train(run.path, **options)
        assert "allow-change" not in str(refused.value)
    assert (run.path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("lerning-rate", 'names "lerning-rate", and there is no such option; did you mean learning-rate'),
        ("zzzzzz", "there is no such option; scalespace train --help tells all"),
        ("log-every", "log_every may change at any time; leave it out of --allow-change"),
        (
            "network.base-channels",
            "network.base_channels cannot change while a run goes on, since it decides which network",
        ),
        ("--process.channels", "process.channels cannot change"),
        ("prediction", "prediction cannot change while a run goes on, since the weights were trained to predict"),
        ("init-from", "init_from cannot change while a run goes on, since the run has gone on from its first weights"),
    ],
)
def test_names_that_cannot_change_are_refused_before_anything_else(word: str, sentence: str, tmp_path, capsys):
    assert sentence in cli_error(capsys, train_words(tmp_path / "run", f"--allow-change={word}"))
    assert not (tmp_path / "run").exists()


def test_every_option_is_free_can_be_allowed_or_is_fixed_with_a_reason(tmp_path):
    names = set(field_names(small_config(tmp_path)))
    assert {"data", "max_steps", "process.gamma", "network.dropout", "learning_rate", "seed", "flip"} <= names
    fixed = set()
    for name in names:
        try:
            assert allowed_names([name], names) == {name}
        except UserError as error:
            if "may change at any time" not in str(error):
                fixed.add(name)
    networks = {name for name in names if name.startswith(("network.", "transformer."))} - {"network.dropout"}
    assert fixed == networks | {"backbone"} | {"process.channels", "released_quirks", "prediction", "init_from"}


def test_a_change_that_is_impossible_in_this_direction_is_refused(run):
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(
        UserError, match="average_every cannot change from 0 to 2 while a run goes on, since the averages"
    ):
        _train(run.path, average_every=2, allow_change=("average_every",))
    differences = {"label_dropout": (0.0, 0.1)}
    with pytest.raises(UserError, match="since it decides whether the network knows a label for no class"):
        check_possible(differences)
    assert way_out(differences) == ""
    check_possible({"label_dropout": (0.2, 0.1)})
    with pytest.raises(UserError, match="mixed_precision cannot change from no to fp16"):
        _train(run.path, mixed_precision="fp16", allow_change=("mixed-precision",))
    assert (run.path / "run.json").read_bytes() == before


def test_the_batch_size_changes_from_the_next_step_on(run):
    # Sizes of batches and the optimizer's options lie in the checkpoint too, and must not come back from there.
    again, _ = _train(run.path, batch_size=8, weight_decay=0.25, allow_change=("batch-size", "weight-decay"))
    assert json.loads(_checkpoint(again, 6, "progress.json").read_text())["pictures"] == 3 * 4 + 3 * 8
    state = torch.load(_checkpoint(again, 6, "optimizer.bin"), weights_only=True)
    assert state["param_groups"][0]["weight_decay"] == 0.25


def test_other_pictures_are_gone_on_with_if_they_are_allowed(run):
    again, said = _train(run.path, data="synthetic:shapes:20", allow_change=("data",))
    assert "the run has other pictures from step 3 on: 20, and it had 16" in said
    (change,) = _run_file(again)["changes"]
    assert (change["step"], change["changed"]["pictures"]) == (3, {"before": 16, "now": 20})
    assert change["changed"]["data_fingerprint"]["now"] == _run_file(again)["data_fingerprint"]
    with pytest.raises(UserError, match="was trained on other pictures"):
        _train(run.path)


def test_a_process_changes_where_the_weights_fit_and_is_refused_where_they_do_not(run):
    def process(size: int, **options: Any) -> ProcessConfig:
        fixed = {"levels": 2, "timesteps": 20, "resolution": "equal", "beta_start": 0.02}
        return ProcessConfig((size, size), **(fixed | {"beta_end": 0.4} | options))

    before = (run.path / "run.json").read_bytes()
    # At 16 pixels the lower level has 8, and no attention.
    with pytest.raises(
        UserError, match=r"process.image_size cannot change so while the run goes on, since decoder\.1\..*atte"
    ):
        _train(run.path, process=process(16), allow_change=("process.image-size",))
    assert (run.path / "run.json").read_bytes() == before
    again, said = _train(
        run.path, process=process(7, beta_end=0.3), allow_change=("process.image-size", "process.beta-end")
    )
    assert "process.image_size is [7, 7] from step 3 on, and was [8, 8]" in said
    assert any("7x7" in record["losses"] for record in again.read_log())


def test_a_start_that_was_killed_before_its_first_checkpoint_goes_on(run, monkeypatch):
    options: dict[str, Any] = {"learning_rate": 2e-3, "allow_change": ("learning-rate",)}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _train(run.path, **options)
    assert len(_run_file(run)["changes"]) == 1
    again, said = _train(run.path, **options)
    assert "learning_rate is 0.002 from step 3 on, and was 0.001" in said
    assert not [line for line in said if "skipped" in line]
    assert len(_run_file(again)["changes"]) == 1


def test_checkpoints_from_before_several_changes_are_still_the_runs(run):
    _train(run.path, learning_rate=2e-3, allow_change=("learning-rate",))
    again, _ = _train(run.path, learning_rate=1e-3, seed=7, allow_change=("learning-rate", "seed"), max_steps=9)
    assert [change["step"] for change in _run_file(again)["changes"]] == [3, 6]
    shutil.rmtree(run.path / "checkpoints" / "step-00000009")
    shutil.rmtree(run.path / "checkpoints" / "step-00000006")
    shutil.rmtree(run.model_path)
    # The one of step 3 is gone by now, and a copy of it comes back under its name.
    _train(run.path.parent / "copy", max_steps=3)
    shutil.copytree(run.path.parent / "copy" / "checkpoints", run.path / "checkpoints", dirs_exist_ok=True)
    again, said = _train(run.path, learning_rate=1e-3, seed=7, max_steps=4)
    assert f"resuming {run.path} at step 3" in said
    assert "seed is 7 from step 3 on, and was 0" in said
    # The second change, which was of step 6, counts from there too.
    assert [change["step"] for change in _run_file(again)["changes"]] == [3, 3]


def test_a_history_that_is_none_is_one_sentence(run):
    for damage in (5, [{}], [{"step": 3, "changed": {"seed": 4}}]):
        (run.path / "run.json").write_text(json.dumps(_run_file(run) | {"changes": damage}))
        with pytest.raises(UserError, match=r"run\.json is damaged \(its changes are none\); restore it"):
            _train(run.path)


def test_processes_go_on_with_a_change(run):
    words = train_words(run.path, "--learning-rate", "1e-30", "--allow-change", "learning-rate")
    fixed = ("--warmup-steps", "2", "--mixed-precision", "no", "--max-steps", "6", "--checkpoint-every", "3")
    ended = run_group(
        2, train_words(run.path, *words[words.index("--learning-rate") :], *fixed), run.path.parent / "prints"
    )
    assert [process.code for process in ended] == [0, 0], ended
    assert ended[0].out.count("learning_rate is 1e-30 from step 3 on") == 1
    assert_close(_weights(run, 6), _weights(run, 3), rtol=0, atol=1e-20)


def test_the_command_names_what_it_wants_and_goes_on(tmp_path, capsys):
    main(train_words(tmp_path / "run"))
    words = train_words(tmp_path / "run", "--max-steps", "3", "--gradient-clip", "2")
    assert "--allow-change gradient-clip" in cli_error(capsys, words)
    main([*words, "--allow-change", "gradient-clip"])
    assert "gradient_clip is 2.0 from step 2 on, and was 1.0" in capsys.readouterr().out
