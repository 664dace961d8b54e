"""What EfficientNet-Lite0's features see in real pictures, which the built-in features do not."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from benchmarks.features import CHANGES, changed_sets
from torch import Tensor

from scalespace.data.images import ImageDataset, open_images
from scalespace.metrics.extractors import efficientnet
from scalespace.metrics.extractors.efficientnet import EfficientNetFeatures, installed
from scalespace.metrics.features import BuiltInFeatures, FeatureExtractor, extract
from scalespace.metrics.kernel_distance import kid

pytestmark = pytest.mark.skipif(not installed(), reason='the extra "features" is not installed')

SHARED = Path(os.environ.get("SCALESPACE_SHARED", Path(__file__).parents[3] / "shared"))
COUNT = 60  # The sets are changes of the same pictures, so that their order is sure where single distances are not.
NOTHING, BLUR, NOISE, TURN, FOUR, SIXTEEN = CHANGES
# Numbers of ImageNet's classes.
CLASSES = {
    "accordion": [401],
    "airplanes": [404, 895],
    "dalmatian": [251],
    "electric_guitar": [546],
    "flamingo": [130],
    "grand_piano": [579],
    "laptop": [620, 681],
    "Leopards": [288, 289, 290],
    "lobster": [122, 123],
    "Motorbikes": [665, 670],
    "panda": [388],
    "pizza": [963],
    "schooner": [780],
    "soccer_ball": [805],
    "starfish": [327],
    "stop_sign": [919],
    "sunflower": [985],
    "trilobite": [69],
    "umbrella": [879],
}


def _opened(name: str, side: int) -> ImageDataset:
    path = SHARED / "data" / f"{name}.zip"
    if not path.is_file():
        pytest.skip(f"{path} is not there; SCALESPACE_SHARED names the folder of the packs")
    return open_images(str(path), (side, side), progress=False)


def _heldout(pack: str, side: int) -> Tensor:
    """Some held-out pictures of all kinds; files are sorted by their class."""
    data = _opened(f"{pack}-heldout", side)
    return data.batch(torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:COUNT])[0]


def _distances(extractor: FeatureExtractor, sets: dict[str, Tensor], heldout: Tensor) -> dict[str, float]:
    reference = extract(extractor, heldout)
    return {
        name: kid(extract(extractor, x), reference, subsets=1, subset_size=2, intervals=False).all_pairs.value
        for name, x in sets.items()
    }


@cache
def _learned(pack: str, side: int) -> dict[str, float]:
    """Distances of all changes in EfficientNet-Lite0's features."""
    sets = {name: x for name, x in changed_sets(_opened(pack, side), COUNT, seed=0) if name in CHANGES}
    return _distances(EfficientNetFeatures(), sets, _heldout(pack, side))


@pytest.mark.parametrize(("pack", "side"), [("photos64", 64), ("emoji64", 64), ("cifar10-32", 32)])
def test_heldout_pictures_are_nearest_and_shuffled_tiles_are_farthest(pack, side):
    found = _learned(pack, side)
    assert min(found, key=found.__getitem__) == NOTHING
    assert max(found, key=found.__getitem__) == SIXTEEN
    assert found[NOTHING] < found[TURN] < found[SIXTEEN]
    assert found[BLUR] < found[FOUR] < found[SIXTEEN]


def test_a_light_blur_is_farther_than_shuffled_tiles_for_the_built_in_features_alone():
    heldout = _heldout("photos64", 64)
    sets = {name: x for name, x in changed_sets(_opened("photos64", 64), COUNT, seed=0) if name in (BLUR, FOUR)}
    built_in, learned = _distances(BuiltInFeatures(), sets, heldout), _learned("photos64", 64)
    assert built_in[BLUR] > built_in[FOUR]
    assert learned[BLUR] < learned[FOUR] / 2


def test_the_network_names_what_is_in_photographs_and_more_often_with_its_own_normalisation(monkeypatch):
    data = _opened("photos64-heldout", 64)
    names = [Path(name).parent.name for name in data.names]
    chosen = [k for name in CLASSES for k in [i for i, found in enumerate(names) if found == name][:5]]
    x = data.batch(chosen)[0]

    def right() -> float:
        extractor = EfficientNetFeatures()
        with torch.no_grad():
            scores = extractor._network._fc(extract(extractor, x))
        best = torch.stack([scores[:, numbers].amax(1) for numbers in CLASSES.values()], 1).argmax(1)
        return sum(list(CLASSES)[b] == names[k] for b, k in zip(best.tolist(), chosen, strict=True)) / len(chosen)

    own = right()
    assert own > 0.75
    # ImageNet's mean and deviation of colours, which most other networks take.
    monkeypatch.setattr(efficientnet, "_MEAN", 255 * torch.tensor([0.485, 0.456, 0.406])[:, None, None])
    monkeypatch.setattr(efficientnet, "_DEVIATION", 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None])
    assert right() < own
