"""What a run tells before it starts: which pictures it has found, what it leaves out, and what it does to them."""

from __future__ import annotations

from collections.abc import Iterator

from scalespace.data.images import ImageDataset
from scalespace.training.configuration import TrainConfig

__all__ = ["announcement"]


def announcement(config: TrainConfig, data: ImageDataset) -> Iterator[str]:
    """What will be done with which pictures, one sentence a line.

    Args:
        config: Configuration of the run.
        data: The pictures. Where they are not all in memory, a few are decoded to see what they are like.
    """
    if not data.cached:
        data.look()
    yield from data.found()
    yield from data.met()
    size = "{}x{}{}".format(*data.image_size, "" if data.channels == 3 else " in grey")
    mirrored = "mirrored left to right at random (--no-flip leaves them as they are)" if config.flip else "not mirrored"
    yield f"pictures are cropped around the centre, resized to {size} and {mirrored}"
    if data.classes and config.network.num_classes is None:
        yield f"the classes are not used; --network.num-classes {len(data.classes)} trains with them"
