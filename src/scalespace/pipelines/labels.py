"""Classes as users name them: by number, by name, or a mixture, alone or for each picture."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalespace.data.classes import listed

__all__ = ["ClassLabels", "class_numbers", "number_of_name"]

ClassLabels = int | str | Sequence[int | str] | Tensor


def class_numbers(labels: ClassLabels, num_classes: int | None, names: Mapping[str, int]) -> Tensor:
    """Numbers of classes.

    Args:
        labels: Numbers or names; a tensor of integers, shape () or (B,).
        num_classes: Number of classes of the model; None if it has none.
        names: Numbers by names.

    Returns:
        int64, shape (B,), or shape () where one label is for all pictures.

    Raises:
        ValueError: If the model has no classes, or not one of those asked for, or the labels are no labels.
    """
    if num_classes is None:
        raise ValueError("class_labels were given to a model without classes; leave them out")
    if isinstance(labels, Tensor):
        if labels.ndim > 1 or labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64):
            raise ValueError(
                f"class_labels have shape {tuple(labels.shape)} and type {labels.dtype}; give integers, one for each picture"
            )
        numbers = labels.long().cpu()
    elif isinstance(labels, str) or not isinstance(labels, Sequence):
        numbers = torch.tensor(_number(labels, names))
    else:
        numbers = torch.tensor([_number(label, names) for label in labels], dtype=torch.int64)
    wrong = [number for number in numbers.flatten().tolist() if not 0 <= number < num_classes]
    if wrong:
        known = f": {listed(sorted(names, key=names.__getitem__))}" if names else ""
        raise ValueError(f"class_labels hold {wrong[0]}, and the model has the classes 0 to {num_classes - 1}{known}")
    return numbers


def number_of_name(name: str, names: Mapping[str, int]) -> int:
    """The number of a class.

    Raises:
        ValueError: If there is no class of that name; it tells the nearest ones.
    """
    if name not in names:
        raise ValueError(f'there is no class "{name}"; {_instead(name, list(names))}')
    return names[name]


def _number(label: object, names: Mapping[str, int]) -> int:
    if isinstance(label, str):
        return number_of_name(label, names)
    # True is an integer, and a number of NumPy's or a tensor of one is none of Python's.
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise ValueError(f"class_labels hold {label!r}; give numbers or names of classes")
    return label.__index__()  # pyright: ignore[reportAttributeAccessIssue]


def _instead(name: str, names: list[str]) -> str:
    if not names:
        return "the model knows its classes by number only"
    folded = {known.casefold(): known for known in names}
    near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    if not near:
        return f"the model has {listed(names)}"
    return f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"
