"""Data sets of Hugging Face's library, saved to disk and as Parquet, are the pictures and classes of a folder."""

import os
import pickle
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.picture_files import encoded, picture

from scalespace.data.images import ImageDataset, open_images
from scalespace.data.sources import hugging_face
from scalespace.data.sources.opening import open_source
from scalespace.errors import UserError

datasets: Any = pytest.importorskip("datasets", reason="the extra datasets is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CLASSES = ["cat", "dog", "a/b", "empty"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def rows(numbers: range = range(30), **columns: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)} | columns
    entries = [{"image": {"bytes": encoded(picture(number)), "path": None}, "label": number % 3} for number in numbers]
    return datasets.Dataset.from_list(
        [
            entry
            | {name: entry["image"] if isinstance(feature, datasets.Image) else 0 for name, feature in columns.items()}
            for entry in entries
        ],
        features=datasets.Features(features),
    )


def saved(place: Path, made: Any) -> Path:
    made.save_to_disk(str(place))
    return place


def parquet(place: Path, made: Any, split: str = "train") -> Path:
    place.mkdir(exist_ok=True)
    made.to_parquet(str(place / f"{split}-00000-of-00001.parquet"))
    return place


def opened(path: str | Path, **options: object) -> ImageDataset:
    return open_images(str(path), (16, 16), progress=False, **options)  # type: ignore[arg-type]  # passed on


def refused(path: str | Path) -> str:
    with pytest.raises(UserError) as error:
        open_source(str(path), progress=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(params=["saved", "parquet", "file"])
def data(request, tmp_path) -> ImageDataset:
    if request.param == "saved":
        return opened(saved(tmp_path / "data", rows()))
    folder = parquet(tmp_path / "data", rows())
    return opened(folder if request.param == "parquet" else next(folder.iterdir()))


def test_pictures_and_classes_are_those_of_a_folder(tmp_path, data):
    for number in range(30):
        folder = tmp_path / "folder" / CLASSES[number % 3].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}").with_suffix(".png").write_bytes(encoded(picture(number)))
    expected = opened(tmp_path / "folder", cache_bytes=0)
    assert data.classes == expected.classes == ("a-b", "cat", "dog")
    assert [f"{name}.png" for name in data.names] == list(expected.names)
    for mine, others in zip(data.batch(range(30)), expected.batch(range(30)), strict=True):
        assert torch.equal(mine, others)
    assert "no pictures in empty" in data.found()


def test_another_process_reads_the_same(data):
    assert torch.equal(pickle.loads(pickle.dumps(data)).batch([17])[0], data.batch([17])[0])


def test_the_form_on_disk_makes_no_difference(tmp_path):
    one, other = opened(saved(tmp_path / "a", rows())), opened(parquet(tmp_path / "b", rows()))
    assert one.fingerprint == other.fingerprint
    assert opened(f"hf:{tmp_path / 'b'}").fingerprint == one.fingerprint


def test_a_changed_file_is_noticed_also_with_its_old_time(tmp_path):
    (file,) = parquet(tmp_path / "data", rows()).iterdir()
    state, before = file.stat(), opened(tmp_path / "data")
    parquet(tmp_path / "data", rows(range(40, 70)))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = opened(tmp_path / "data")
    assert before.fingerprint != after.fingerprint
    assert not torch.equal(before.batch([0])[0], after.batch([0])[0])


def test_splits_are_named(tmp_path):
    splits = datasets.DatasetDict(train=rows(range(20)), test=rows(range(20, 30)))
    path = saved(tmp_path / "data", splits)
    assert len(opened(f"hf:{path}:test")) == 10
    assert f"{path} names none of its splits: train, test; give one of them" in refused(path)
    assert "names the split val, which it does not have: train, test" in refused(f"hf:{path}:val")
    parquet(parquet(tmp_path / "files", rows(range(20))), rows(range(20, 30)), "test")
    assert len(opened(f"hf:{tmp_path / 'files'}:test")) == 10
    assert "names none of its splits: train, test" in refused(tmp_path / "files")


def test_bytes_that_other_programs_wrote_are_pictures(tmp_path):
    made = rows().remove_columns("label").cast_column("image", datasets.Image(decode=False))
    raw = datasets.Dataset.from_dict({"image": [entry["image"]["bytes"] for entry in made]})
    assert raw.features["image"].dtype == "binary"
    plain, nested = opened(parquet(tmp_path / "plain", raw)), opened(saved(tmp_path / "nested", made))
    assert plain.fingerprint == nested.fingerprint
    assert plain.classes == ()


def test_rows_without_a_label_lie_beside_the_classes(tmp_path):
    made = datasets.Dataset.from_list(
        [
            {"image": {"bytes": encoded(picture(n)), "path": None}, "label": label}
            for n, label in enumerate((0, 1, -1, None))
        ],
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}),
    )
    data = opened(saved(tmp_path / "data", made))
    assert data.names == ("2", "3", "cat/0", "dog/1")
    assert data.classes == ()


def test_a_row_without_a_picture_and_one_that_does_not_decode_are_skipped(tmp_path):
    made = [{"bytes": encoded(picture(number)), "path": None} for number in range(200)]
    made[3], made[7] = None, {"bytes": b"no picture", "path": None}
    features = datasets.Features({"image": datasets.Image()})
    data = opened(saved(tmp_path / "data", datasets.Dataset.from_dict({"image": made}, features=features)))
    told = [(bad.name, bad.reason) for bad in data.bad]
    assert told == [("003", "the row holds no picture"), ("007", "not a PNG, JPEG, WebP or BMP picture")]


# Faults


def test_columns_that_are_missing_or_many_are_named(tmp_path):
    path = saved(tmp_path / "none", rows().remove_columns("image"))
    assert f"{path} has no column of pictures, only label; give" in refused(path)
    made = rows(left=datasets.Image(), right=datasets.Image())
    assert len(opened(saved(tmp_path / "three", made))) == 30
    path = saved(tmp_path / "two", made.remove_columns("image"))
    assert "has several columns of pictures (left, right); rename the one to be read to image" in refused(path)


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    assert "junk.parquet cannot be read as a data set (ArrowInvalid); save or" in refused(tmp_path / "junk.parquet")
    path = saved(tmp_path / "data", rows())
    (arrow,) = path.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:1000])
    assert f"{path} cannot be read as a data set" in refused(path)
    (path / "state.json").write_text("{")
    assert f"{path} cannot be read as a data set" in refused(path)
    (tmp_path / "empty").mkdir()
    assert "neither a folder that datasets.save_to_disk wrote nor holds Parquet" in refused(f"hf:{tmp_path / 'empty'}")
    for nothing in ("hf:", f"hf:{tmp_path}/none", "hf:./none"):
        assert "there is no data at" in refused(nothing)


def test_pictures_that_lie_elsewhere_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    features = datasets.Features({"image": datasets.Image(decode=False)})
    made = datasets.Dataset.from_list([{"image": {"bytes": None, "path": str(tmp_path / "a.png")}}], features=features)
    made.data.table  # noqa: B018 - it is in memory, and saving it would put the bytes into it
    import pyarrow.parquet

    pyarrow.parquet.write_table(made.data.table, tmp_path / "paths.parquet")
    assert "holds paths and no pictures; give the folder of the pictures" in refused(tmp_path / "paths.parquet")


def test_streams_are_refused_with_the_reason(tmp_path):
    assert "is a stream, which has neither a number of pictures" in refused("hf-stream:cifar10")


def test_only_formats_that_hold_no_code_are_taken_from_elsewhere(monkeypatch):
    class Builder:
        def download_and_prepare(self):
            raise AssertionError("it was downloaded")

    Builder.__module__ = "datasets.packaged_modules.pandas.pandas"
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: Builder())
    assert "hf:some/set is stored as pandas, and only data sets" in refused("hf:some/set")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    told = "needs the library datasets; run pip install 'scale-space-diffusion[datasets]'"
    monkeypatch.setattr(hugging_face, "find_spec", lambda name: None)
    assert told in refused("hf:cifar10")
    # A folder of that name, where the command is run, looks like a package without anything in it.
    monkeypatch.setattr(hugging_face, "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
    assert told in refused("hf:cifar10")
