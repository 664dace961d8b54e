"""Options that were given without an effect are refused by a table, in one sentence."""

from dataclasses import dataclass

import pytest

from scalespace.effects import Need, check_effects, has_effect
from scalespace.errors import UserError


@dataclass(frozen=True)
class Group:
    dot_size: int = 1
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Options:
    colour: str = "red"
    shade: float | None = 1.0
    dotted: bool = True
    group: Group = Group()


NEVER = (Need(lambda given: False, "with --colour {colour}", "give another --colour"),)
NEEDS = {"shade": NEVER, "dotted": NEVER, "group.dot_size": NEVER, "group.sizes": NEVER}


@pytest.mark.parametrize("word", ["--group.dot-size", "--group.dot_size", "--group.dot-size=3", "--group.no-dot-size"])
def test_an_option_without_effect_is_refused_however_it_is_spelt(word: str):
    sentence = "--group.dot-size has no effect with --colour red; leave --group.dot-size out, or give another --colour"
    with pytest.raises(UserError) as error:
        check_effects(["--colour", "red", word], Options(), NEEDS)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("--shade", Options(shade=None)),
        ("--no-dotted", Options(dotted=False)),
        ("--group.sizes", Options(group=Group(sizes=()))),
        ("--colour", Options()),
        ("shade", Options()),
        ("-shade", Options()),
    ],
)
def test_what_asks_for_nothing_is_not_refused(word: str, options: Options):
    check_effects([word], options, NEEDS)


def test_zero_is_a_wish():
    with pytest.raises(UserError, match="--shade has no effect"):
        check_effects(["--shade", "0"], Options(shade=0.0), NEEDS)


def test_the_first_need_that_does_not_hold_is_told():
    holds, fails = Need(lambda given: True, "never", "nothing"), Need(lambda given: False, "without more", "give more")
    needs = {"shade": (holds, fails, *NEVER)}
    with pytest.raises(UserError, match="has no effect without more; leave --shade out, or give more"):
        check_effects(["--shade", "2"], Options(), needs)
    assert not has_effect("shade", Options(), needs)
    assert has_effect("shade", Options(), {"shade": (holds,)})
    assert has_effect("colour", Options(), needs)


@pytest.mark.parametrize(
    "words",
    [
        ("--colour", "red", "--colour", "red"),
        ("--colour=red", "--colour", "blue"),
        ("--colour", "red", "--no-colour"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(words: tuple[str, ...]):
    with pytest.raises(UserError, match=r"^--colour is given 2 times, and only one of them can hold; give it once$"):
        check_effects(words, Options(), {})
