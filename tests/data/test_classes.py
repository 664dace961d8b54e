"""Classes by folder: which there are, in which order, and what stands in their way."""

import random

import pytest

from scalespace.data.classes import find_classes, listed, natural_order, wrapping_folders
from scalespace.errors import UserError


def test_numbers_in_names_are_sorted_as_people_count():
    expected = ("", "0", "1", "2", "10", "11", "a", "a1b2", "a1b10", "a02", "a2", "a10", "b007x", "b7y", "ä1")
    names = list(expected)
    random.Random(0).shuffle(names)
    assert natural_order(names) == expected


def test_a_number_may_have_more_digits_than_python_reads():
    assert natural_order(["9" * 5000, "1" + "0" * 5000, "8" * 5000]) == ("8" * 5000, "9" * 5000, "1" + "0" * 5000)


def test_labels_follow_the_natural_order():
    classes = find_classes("data", [f"{number}/a.png" for number in sorted(map(str, range(12)))])
    assert classes.names == tuple(map(str, range(12)))
    assert classes.labels == (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)


def test_the_first_folder_is_the_class_and_it_is_told_where_others_lie_below():
    flat, deep = (find_classes("data", ["a/1.png", *more, "b/1.png"]) for more in ([], ["a/x/2.png"]))
    assert (flat.names, deep.names) == (("a", "b"), ("a", "b"))
    assert flat.lines() == ("classes: a (1), b (1)",)
    assert deep.lines() == ("classes: a (2), b (1); pictures in folders further down belong to the first folder",)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["1.png", "2.png"], "its pictures lie in no folder (1.png)"),
        (["cat/1.png", "cat/2.png"], "all its pictures lie in one folder, cat"),
        (["p/cat/1.png", "p/cat/2.png"], "all its pictures lie in one folder, p/cat"),
        (["a/1.png", "b/1.png", "preview.png"], "preview.png lies beside the folders a, b"),
        (["p/1.png", "p/2.png", "p/a/1.png"], "p/1.png and 1 more lie beside the folders a"),
    ],
)
def test_the_name_of_what_stands_in_the_way_of_classes_is_told(names: list[str], sentence: str):
    classes = find_classes("data", names)
    assert (classes.names, set(classes.labels), classes.obstacle) == ((), {0}, sentence)
    with pytest.raises(UserError, match=r"--network\.num-classes is 2, and data has no classes, since") as error:
        classes.check("data", 2)
    assert sentence in str(error.value)
    # A flat folder is what most people have; a picture beside folders may be a mistake.
    assert classes.lines() == ((f"no classes, since {sentence}",) if "beside" in sentence else ())


def test_other_numbers_of_classes_are_refused_with_their_names_and_what_is_empty():
    classes = find_classes("data", ["a/1.png", "b/1.png"], ["a", "b", "c", "c/below", "a/x"])
    assert classes.empty == ("a/x", "c")
    classes.check("data", 2)
    for number in (1, 3):
        with pytest.raises(
            UserError, match=r"has 2 class folders: a, b \(no pictures in a/x, c\); give --network.num-"
        ):
            classes.check("data", number)
    assert classes.lines()[-1] == "no pictures in a/x, c"


def test_folders_that_wrap_all_pictures_are_no_classes():
    assert wrapping_folders(["p/train/a/1.png", "p/train/b/1.png"]) == ("p", "train")
    assert wrapping_folders(["a/1.png", "b.png"]) == ()
    assert wrapping_folders([]) == ()


def test_of_many_names_the_first_are_told_and_how_many_there_are_besides():
    assert listed(list("abc")) == "a, b, c"
    long = ["x" * 100, "y" * 100, "z" * 100, "w"]
    assert listed(long) == f"{long[0]}, {long[1]} and 2 more"
    assert listed(["x" * 1000, "y"]) == f"{'x' * 1000} and 1 more"
    assert listed([str(number) for number in range(1012)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,002 more"
