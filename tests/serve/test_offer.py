"""What a visitor can ask for, and that nothing else is taken."""

import pytest
from tests.serve.served import CLASSES, WISH, classes_pipeline, guidance_of
from tests.small_models import small_network, small_pipeline, small_scheduler

from scalespace import ScaleSpacePipeline, UserError
from scalespace.serve.offer import Limits, Offer, Wish


@pytest.fixture(scope="module")
def offer() -> Offer:
    return Offer.of(classes_pipeline(), "small", Limits(pictures=4))


def test_an_offer_is_what_the_model_and_the_limits_allow(offer: Offer):
    assert offer.sizes == ((4, 4), (8, 8))
    assert offer.enlarges == ((4, 4),)
    assert offer.varies
    assert offer.solvers[0] == "corrected"
    assert set(offer.solvers) == {"ancestral", "ddim", "multistep", "corrected"}
    assert (offer.most_steps, offer.steps, offer.most_pictures) == (20, 20, 4)
    assert offer.classes == CLASSES
    assert (offer.guided, offer.optional_class) == (True, True)


def test_what_a_model_has_not_is_not_on_offer():
    plain = Offer.of(small_pipeline(), "plain", Limits())
    assert (plain.classes, plain.guided, plain.optional_class) == ((), False, False)
    numbered = Offer.of(small_pipeline(num_classes=2), "numbered", Limits())
    assert (numbered.classes, numbered.guided, numbered.optional_class) == (("0", "1"), False, False)
    one = ScaleSpacePipeline(small_network(sizes=((8, 8),)), small_scheduler(sizes=((8, 8),), change_points=()))
    assert Offer.of(one, "one", Limits()).enlarges == ()
    clear = small_pipeline(in_channels=4, out_channels=4)
    assert Offer.of(clear, "clear", Limits()).enlarges == ()
    # A picture of one resolution can still be varied; files have no more than three channels.
    assert Offer.of(one, "one", Limits()).varies
    assert not Offer.of(clear, "clear", Limits()).varies
    with pytest.raises(UserError, match="the model varies no pictures; draw some instead"):
        Offer.of(clear, "clear", Limits()).wish(WISH | {"class": None, "strength": 0.5}, "vary")
    with pytest.raises(UserError, match="the model enlarges no pictures; draw some instead"):
        Offer.of(one, "one", Limits()).wish(WISH | {"class": None}, "enlarge")


def test_the_least_steps_are_those_that_the_scheduler_takes():
    pipeline = classes_pipeline(timestep_spacing="log_snr")
    least = Offer.of(pipeline, "small", Limits()).least_steps
    pipeline.scheduler.set_timesteps(least)
    with pytest.raises(ValueError, match=f"needs at least {least} "):
        pipeline.scheduler.set_timesteps(least - 1)
    with pytest.raises(UserError, match="--max-steps is 2, and the model of 2 levels needs more"):
        Offer.of(pipeline, "small", Limits(steps=2))


def test_models_that_a_page_cannot_show_are_refused():
    second = ScaleSpacePipeline(small_network(condition_size=(4, 4)), small_scheduler())
    with pytest.raises(UserError, match="only enlarges the small pictures of another one"):
        Offer.of(second, "second", Limits())
    with pytest.raises(UserError, match="the model draws 2 channels; a page shows pictures of 1, 3 or 4"):
        Offer.of(small_pipeline(in_channels=2, out_channels=2), "two", Limits())


@pytest.mark.parametrize("limits", [{"steps": 1}, {"pictures": 0}, {"pictures": 65}, {"waiting": -1}, {"waiting": 101}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]):
    name, value = next(iter(limits.items()))
    with pytest.raises(UserError, match=f"--max-{name} is {value}; give a number from"):
        Limits(**limits)


def test_a_model_with_a_guide_offers_guidance_without_a_class():
    pipeline = small_pipeline()
    offer = Offer.of(pipeline, None, Limits(), guidance_of(pipeline))
    assert (offer.guided, offer.guidance, offer.guidance_interval) == (True, 2.0, (1.2, 1000.0))
    assert offer.wish(WISH | {"class": None, "guidance": 3, "solver": offer.solvers[0]}).guidance == 3
    assert Offer.of(pipeline, None, Limits()).guidance == 1


def test_a_wish_that_is_on_offer_is_taken(offer: Offer):
    assert offer.wish(WISH) == Wish(2, 6, "ddim", 3, 1, 1.0, (8, 8))
    assert offer.wish(WISH | {"class": None}).class_label is None
    assert offer.wish(WISH | {"guidance": 2.5}).guidance == 2.5
    assert offer.wish(WISH | {"size": "4x4"}, "enlarge").size == (4, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 21}, "the number of steps must be a whole number from 2 to 20"),
        ({"steps": 1}, "the number of steps must be a whole"),
        ({"steps": 5.0}, "the number of steps must be a whole"),
        ({"steps": True}, "the number of steps must be a whole"),
        ({"steps": None}, "the number of steps must be a whole"),
        ({"steps": "5"}, "the number of steps must be a whole"),
        ({"pictures": 5}, "the number of pictures must be a whole number from 1 to 4"),
        ({"pictures": 0}, "the number of pictures must be"),
        ({"seed": -1}, "the seed must be a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "the seed must be"),
        ({"solver": "euler"}, "the solver must be one of corrected, "),
        ({"solver": ["ddim"]}, "the solver must be one of corrected, "),
        ({"size": "16x16"}, "the size must be one of 4x4, 8x8"),
        ({"size": [8, 8]}, "the size must be one of 4x4, 8x8"),
        ({"class": 3}, "the class must be one of the 3"),
        ({"class": -1}, "the class must be one of the 3"),
        ({"class": "cat"}, "the class must be one of the 3"),
        ({"class": True}, "the class must be one of the 3"),
        ({"guidance": 0.5}, "the guidance must be a number from 1 to 20"),
        ({"guidance": 1e300}, "the guidance must be"),
        ({"guidance": "2"}, "the guidance must be"),
        ({"guidance": None}, "the guidance must be"),
        ({"guidance": 2, "class": None}, "guidance needs a class"),
        ({"path": "/etc/passwd"}, "the page does not know 'path'"),
    ],
)
def test_anything_else_is_one_sentence(change: dict[str, object], sentence: str, offer: Offer):
    with pytest.raises(UserError) as refused:
        offer.wish(WISH | change)
    assert str(refused.value).startswith(sentence)


def test_a_strength_is_of_variations_alone(offer: Offer):
    assert offer.wish(WISH | {"strength": 0.25}, "vary") == Wish(2, 6, "ddim", 3, 1, 1.0, (8, 8), 0.25)
    for strength in (0, 1):
        assert offer.wish(WISH | {"strength": strength}, "vary").strength == strength
    for strength in (-0.1, 1.1, True, "0.5", None, [0.5], 1e300):
        with pytest.raises(UserError, match="the strength must be a number from 0 to 1"):
            offer.wish(WISH | {"strength": strength}, "vary")
    with pytest.raises(UserError, match="the strength must be"):
        offer.wish(WISH, "vary")
    with pytest.raises(UserError, match="the size must be one of 8x8"):
        offer.wish(WISH | {"strength": 0.5, "size": "4x4"}, "vary")
    with pytest.raises(UserError, match="varying cannot be guided"):
        offer.wish(WISH | {"strength": 0.5, "guidance": 2}, "vary")
    with pytest.raises(UserError, match="the page does not know 'strength'"):
        offer.wish(WISH | {"strength": 0.5})


@pytest.mark.parametrize("asked", [None, [], "wish", 3])
def test_what_is_no_object_is_refused(asked: object, offer: Offer):
    with pytest.raises(UserError, match="cannot be read"):
        offer.wish(asked)


def test_wishes_that_a_model_has_no_use_for_are_refused(offer: Offer):
    plain = Offer.of(small_pipeline(), "plain", Limits())
    assert plain.wish(WISH | {"class": None}).class_label is None
    with pytest.raises(UserError, match="the model has no classes"):
        plain.wish(WISH)
    with pytest.raises(UserError, match="the model cannot be guided"):
        plain.wish(WISH | {"class": None, "guidance": 2})
    with pytest.raises(UserError, match="enlarging cannot be guided"):
        offer.wish(WISH | {"size": "4x4", "guidance": 2}, "enlarge")
    with pytest.raises(UserError, match="the size must be one of 4x4"):
        offer.wish(WISH, "enlarge")
    with pytest.raises(UserError, match="the class must be one"):
        Offer.of(small_pipeline(num_classes=2), "numbered", Limits()).wish(WISH | {"class": None})
