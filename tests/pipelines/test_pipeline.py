import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from tests.small_models import small_network, small_pipeline, small_scheduler
from torch.testing import assert_close

from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pictures import Trajectory, image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import use_solver
from scalespace.pipelines.scheduler import ScaleSpaceScheduler


@pytest.fixture(scope="module")
def pipeline() -> ScaleSpacePipeline:
    return small_pipeline()


def test_a_picture_does_not_depend_on_its_batch(pipeline):
    together = pipeline(3, generator=image_generators(5, range(3)), num_inference_steps=6).images
    for i, picture in enumerate(together):
        alone = pipeline(1, generator=image_generators(5, [i]), num_inference_steps=6).images[0]
        difference = np.asarray(picture).astype(int) - np.asarray(alone).astype(int)
        assert np.abs(difference).max() <= 1
        assert np.asarray(picture).std() > 1


def test_seeds_reproduce_and_differ(pipeline):
    def draw(seed: int) -> torch.Tensor:
        return pipeline(2, generator=image_generators(seed, range(2)), num_inference_steps=4, output_type="pt").images

    assert_close(draw(1), draw(1), rtol=0, atol=0)
    assert (draw(1)[0] - draw(1)[1]).abs().max() > 0.01
    assert (draw(1) - draw(3)).abs().max() > 0.01


def test_one_generator_serves_a_batch_and_none_uses_the_global_one(pipeline):
    one = pipeline(2, torch.Generator().manual_seed(0), 3, output_type="pt").images
    again = pipeline(2, torch.Generator().manual_seed(0), 3, output_type="pt").images
    assert_close(one, again, rtol=0, atol=0)
    assert (one - pipeline(2, None, 3, output_type="pt").images).abs().max() > 0.01


def test_every_seed_and_index_has_noise_of_its_own():
    keys = [(seed, index) for seed in (0, 1, 2, 3, 2**31, 2**32 - 1) for index in range(50)]
    drawn = {tuple(torch.randn(2, generator=image_generators(seed, [index])[0]).tolist()) for seed, index in keys}
    assert len(drawn) == len(keys)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed {seed} is not between 0 and"):
            image_generators(seed, [0])


def test_output_types(pipeline):
    def draw(kind: str):
        return pipeline(2, image_generators(0, range(2)), 3, output_type=kind).images

    tensors, arrays, pictures = draw("pt"), draw("np"), draw("pil")
    assert tensors.shape == (2, 3, 8, 8)
    assert tensors.min() >= 0
    assert tensors.max() <= 1
    assert_close(torch.from_numpy(arrays).permute(0, 3, 1, 2), tensors, rtol=0, atol=0)
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (8, 8))] * 2
    assert np.abs(np.asarray(pictures[0]) / 255 - arrays[0]).max() <= 0.5 / 255 + 1e-6
    plain = pipeline(1, image_generators(0, [0]), 3, output_type="pt", return_dict=False)
    assert_close(plain[0], draw("pt")[:1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "ask for at least 1"),
        ({"output_type": "jpeg"}, '"jpeg" is unknown'),
        ({"num_inference_steps": 1}, "1 sampling steps; give a number from 2 to 20"),
        ({"num_inference_steps": 21}, "from 2 to 20"),
        ({"class_labels": torch.tensor([0])}, "without classes"),
    ],
)
def test_refuses_arguments_that_do_not_fit(pipeline, arguments: dict, words: str):
    with pytest.raises(ValueError, match=words):
        pipeline(**({"num_inference_steps": 2} | arguments))


def test_callback_sees_every_step_and_can_change_the_state(pipeline):
    seen = []

    def look(_, step, timestep, tensors):
        seen.append((step, timestep, tuple(tensors["latents"].shape), tuple(tensors["pred_original_sample"].shape)))
        return tensors

    pipeline(2, num_inference_steps=3, callback_on_step_end=look)
    assert [entry[0] for entry in seen] == list(range(len(seen)))
    assert [entry[1] for entry in seen] == pipeline.scheduler.timesteps.tolist()
    assert {entry[2] for entry in seen} == {(2, 3, 4, 4), (2, 3, 8, 8)}
    assert all(entry[2] == entry[3] for entry in seen)

    images = pipeline(
        1,
        num_inference_steps=3,
        callback_on_step_end=lambda *seen: {"latents": torch.ones_like(seen[3]["latents"])},
        output_type="pt",
    ).images
    assert_close(images, torch.ones(1, 3, 8, 8))


def test_classes_change_pictures():
    pipeline = small_pipeline(num_classes=3)
    images = pipeline(
        3,
        image_generators(0, [0, 0, 0]),
        3,
        class_labels=torch.tensor([0, 1, 1]),
        output_type="pt",
    ).images
    assert (images[0] - images[1]).abs().max() > 1e-3
    assert_close(images[1], images[2])
    with pytest.raises(ValueError, match="class_labels are missing"):
        pipeline(1, num_inference_steps=2)


def test_class_names_give_the_numbers_of_classes_as_in_diffusers():
    unet = small_pipeline(num_classes=3).unet
    pipeline = ScaleSpacePipeline(unet, small_scheduler(), {0: "tabby cat", 1: "dog", 2: "Owl"})
    assert pipeline.get_label_ids(["Owl", "tabby cat"]) == [2, 0]
    assert pipeline.get_label_ids("dog") == [1]
    with pytest.raises(ValueError, match=r'there is no class "owl"; the nearest is Owl$'):
        pipeline.get_label_ids(["owl"])
    with pytest.raises(ValueError, match='there is no class "zzz"; the model has tabby cat, dog, Owl'):
        pipeline.get_label_ids("zzz")
    with pytest.raises(ValueError, match='there is no class "dog"; the model knows its classes by number only'):
        small_pipeline(num_classes=3).get_label_ids("dog")


@pytest.mark.parametrize(
    "names", [{}, {0: "a", 1: "b"}, {0: "a", 1: "b", 3: "c"}, {0: "a", 1: "b", 2: "a"}, {0: "a", 1: "b", 2: None}]
)
def test_class_names_that_do_not_fit_the_network_are_refused(names):
    with pytest.raises(ValueError, match="the network has 3 classes; give every number from 0 on a name of its own"):
        ScaleSpacePipeline(small_pipeline(num_classes=3).unet, small_scheduler(), names)


def test_the_network_sees_half_precision_and_the_states_stay_whole():
    pipeline = small_pipeline()
    pipeline.unet.to(torch.bfloat16)
    kept = []
    pipeline(1, num_inference_steps=2, callback_on_step_end=lambda *seen: kept.append(seen[3]["latents"].dtype) or {})
    assert set(kept) == {torch.float32}


def test_refuses_parts_that_know_one_resolution_only(pipeline):
    with pytest.raises(TypeError, match="DDPMScheduler was given where ScaleSpaceScheduler is needed"):
        ScaleSpacePipeline(pipeline.unet, DDPMScheduler())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Linear was given where a network is needed, and it lacks sizes, in_channels"):
        ScaleSpacePipeline(torch.nn.Linear(1, 1), pipeline.scheduler)  # pyright: ignore[reportArgumentType]


def test_refuses_a_scheduler_with_other_resolutions_than_the_network():
    unet = FlexiUNet(sizes=((16, 16), (8, 8)), base_channels=8, channel_multipliers=(1, 1), attention_heads=1)
    with pytest.raises(ValueError, match=r"height and width \(4, 4\) and the network knows"):
        ScaleSpacePipeline(unet, small_scheduler())


def test_trajectory_shows_every_resolution(pipeline):
    recorder = Trajectory(pictures=2)
    pipeline(3, num_inference_steps=10, callback_on_step_end=recorder)
    assert len(recorder.states) == len(pipeline.scheduler.timesteps)
    assert {tuple(state.shape) for state, _ in recorder.states} == {(2, 3, 4, 4), (2, 3, 8, 8)}
    picture = recorder.picture(columns=4)
    # Four columns of 8 pixels and three gaps; two rows for each picture.
    assert picture.size == (4 * 8 + 3 * 2, 4 * 8 + 3 * 2)
    first, last = (np.asarray(picture.crop((left, 0, left + 8, 8))) for left in (0, 30))
    blocks = first.reshape(4, 2, 4, 2, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert not (last.reshape(4, 2, 4, 2, 3) == last.reshape(4, 2, 4, 2, 3)[:, :1, :, :1]).all()
    assert (last == np.asarray(to_picture(recorder.states[-1][0][0]))).all()


def test_grid_puts_pictures_side_by_side():
    pictures = [Image.new("RGB", (4, 3), colour) for colour in ("red", "green", "blue")]
    grid = picture_grid(pictures)
    assert grid.size == (10, 8)
    assert [grid.getpixel(at) for at in ((0, 0), (6, 0), (0, 5), (4, 0), (9, 7))] == [
        (255, 0, 0),
        (0, 128, 0),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]
    assert picture_grid(pictures, columns=3).size == (16, 3)
    with pytest.raises(ValueError, match="at least one"):
        picture_grid([])


def test_pictures_of_tensors_are_rounded_and_clamped():
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).expand(3, 1, 5)
    assert np.asarray(to_picture(image))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    grey = to_picture(image[:1])
    assert grey.mode == "L"
    assert (np.asarray(grey) == np.asarray(to_picture(image))[..., 0]).all()


# Channels


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_have_the_mode_of_their_channels(channels: int, mode: str):
    pipeline = small_pipeline(in_channels=channels, out_channels=channels)
    tensors, pictures = (pipeline(2, image_generators(0, range(2)), 3, output_type=t).images for t in ("pt", "pil"))
    assert tensors.shape == (2, channels, 8, 8)
    assert [picture.mode for picture in pictures] == [mode, mode]
    mine = to_picture(2 * tensors[0] - 1)
    assert mine.mode == mode
    assert np.abs(np.asarray(mine).astype(int) - np.asarray(pictures[0]).astype(int)).max() <= 1


@pytest.mark.parametrize("channels", [2, 5])
def test_other_numbers_of_channels_are_tensors_and_arrays_and_no_pictures(channels: int):
    pipeline = small_pipeline(in_channels=channels, out_channels=channels)
    assert pipeline(1, num_inference_steps=3, output_type="pt").images.shape == (1, channels, 8, 8)
    assert pipeline(1, num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, channels)
    sentence = rf"{channels} channels, and a picture has 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\); take tensors"
    with pytest.raises(ValueError, match=sentence):
        pipeline(1, num_inference_steps=3)
    with pytest.raises(ValueError, match=sentence):
        to_picture(torch.zeros(channels, 4, 4))


def test_a_network_that_changes_the_channels_is_refused():
    with pytest.raises(ValueError, match="turns 3 channels into 1; states and predictions need the same number"):
        small_pipeline(out_channels=1)


def test_a_grid_is_grey_where_all_pictures_are_and_white_behind_transparent_ones():
    grey, red, clear = Image.new("L", (4, 4), 77), Image.new("RGB", (4, 4), "red"), Image.new("RGBA", (4, 4))
    assert picture_grid([grey, grey]).mode == "L"
    assert picture_grid([grey, grey]).getpixel((4, 0)) == 255
    mixed = picture_grid([grey, red, clear], columns=3)
    assert [mixed.getpixel((x, 0)) for x in (0, 6, 12)] == [(77, 77, 77), (255, 0, 0), (255, 255, 255)]


def test_a_trajectory_of_grey_pictures_is_grey():
    recorder = Trajectory(pictures=1)
    small_pipeline(in_channels=1, out_channels=1)(1, num_inference_steps=4, callback_on_step_end=recorder)
    assert recorder.picture().mode == "L"


# Arguments as diffusers' users know them


def _same(first, second) -> None:
    assert_close(first, second, rtol=0, atol=0)


def _draw(pipeline: ScaleSpacePipeline, generators: int = 2, **options) -> torch.Tensor:
    given = {"generator": image_generators(0, range(generators)), "num_inference_steps": 3, "output_type": "pt"}
    return pipeline(**(given | options)).images


@pytest.fixture(scope="module")
def named() -> ScaleSpacePipeline:
    pipeline = ScaleSpacePipeline(small_pipeline(num_classes=3).unet, small_scheduler(), {0: "cat", 1: "dog", 2: "owl"})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_labels_are_numbers_names_lists_or_tensors_and_tell_the_batch_size(named):
    expected = _draw(named, class_labels=torch.tensor([2, 0]))
    assert len(expected) == 2
    for labels in (
        [2, 0],
        ["owl", "cat"],
        ["owl", 0],
        (2, 0),
        torch.tensor([2, 0], dtype=torch.int32),
        [np.int64(2), 0],
    ):
        _same(_draw(named, class_labels=labels), expected)
    both = _draw(named, class_labels=[1, 1])
    for label in (1, "dog", torch.tensor(1)):
        _same(_draw(named, class_labels=label, batch_size=2), both)
        assert _draw(named, generators=1, class_labels=label).shape[0] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_labels": 3}, "class_labels hold 3, and the model has the classes 0 to 2: cat, dog, owl"),
        ({"class_labels": [0, -1]}, "class_labels hold -1, and the model has the classes 0 to 2"),
        ({"class_labels": "ow"}, 'there is no class "ow"; the nearest is owl'),
        ({"class_labels": [0.0, 1.0]}, "class_labels hold 0.0; give numbers or names of classes"),
        ({"class_labels": [True, 1]}, "class_labels hold True; give numbers or names"),
        ({"class_labels": torch.tensor([0.0])}, "have shape (1,) and type torch.float32; give integers"),
        ({"class_labels": torch.tensor([[0]])}, "have shape (1, 1) and type torch.int64; give integers"),
        ({}, "class_labels are missing, and the model has the classes 0 to 2: cat, dog, owl"),
        ({"class_labels": [0, 1], "batch_size": 3}, "class_labels is for 2 pictures and batch_size for 3"),
        ({"class_labels": []}, "class_labels asks for 0 pictures"),
        ({"class_labels": [0, 1, 2]}, "generator is for 2 pictures and class_labels for 3"),
        (
            {"class_labels": [0, 1], "latents": torch.zeros(2, 3, 8, 8)},
            "the first timestep has states of shape (2, 3, 4, 4)",
        ),
        ({"class_labels": [0, 1], "timesteps": [3, 9]}, "timesteps are 3, 9; give numbers from 19 to 0, each smaller"),
        ({"class_labels": [0, 1], "timesteps": [20, 9]}, "timesteps are 20, 9; give numbers from 19 to 0"),
        ({"class_labels": [0, 1], "timesteps": []}, "timesteps are none"),
        ({"class_labels": [0, 1], "timesteps": [9], "num_inference_steps": 3}, "and both were given; give one of them"),
        (
            {"class_labels": [0, 1], "callback_on_step_end_tensor_inputs": ["sample"]},
            'names "sample", which a step does not',
        ),
        (
            {"class_labels": [0, 1], "output_type": "jpeg"},
            'output_type "jpeg" is unknown; use one of pil, np, pt, latent',
        ),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(options: dict, words: str, named):
    given = {"generator": image_generators(0, range(2))} | options
    if "timesteps" not in options:
        given["num_inference_steps"] = 3
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        named(**given)
    assert "\n" not in str(raised.value)


def test_latents_are_the_noise_that_a_call_starts_from(pipeline):
    # Of deterministic steps all noise is in the start but what enters at the change, whose generator is the same.
    use_solver(own := small_pipeline(), solver="ddim", eta=0.0)
    own.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    drawn = own(2, generator, 5, output_type="latent").images
    generator.manual_seed(3)
    torch.randn(2, 3, 4, 4, generator=generator)
    _same(own(latents=noise, generator=generator, num_inference_steps=5, output_type="latent").images, drawn)
    assert drawn.min() < 0
    assert_close(own(latents=noise.half(), num_inference_steps=5, output_type="pt").images.shape, (2, 3, 8, 8))


def test_timesteps_by_hand_are_those_that_are_taken(pipeline):
    pipeline.scheduler.set_timesteps(4)
    chosen = pipeline.scheduler.timesteps.tolist()
    by_number = _draw(pipeline, num_inference_steps=4, batch_size=2)
    _same(_draw(pipeline, num_inference_steps=None, timesteps=chosen, batch_size=2), by_number)
    assert pipeline.num_timesteps == len(chosen)
    # A chain that begins at the full resolution takes a state of that.
    state = torch.zeros(1, 3, 8, 8)
    drawn = pipeline(latents=state, timesteps=[9, 4, 0], output_type="latent").images
    assert pipeline.scheduler.timesteps.tolist() == [9, 4, 0]
    assert drawn.shape == state.shape


def test_the_default_number_of_steps_fits_the_solver():
    for solver, few in (("ancestral", 1000), ("ddim", 50), ("multistep", 50), ("corrected", 50)):
        scheduler = ScaleSpaceScheduler(1000, sizes=((8, 8), (4, 4)), change_points=(500,), solver=solver)
        assert ScaleSpacePipeline(small_network(), scheduler).default_steps == few
    pipeline = small_pipeline()
    pipeline(output_type="pt")
    assert pipeline.num_timesteps == 20


def test_a_callback_is_given_what_it_asks_for_and_may_end_the_call(pipeline):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(sorted(tensors))
        pipe._interrupt = step == 1
        return

    drawn = pipeline(
        callback_on_step_end=stop,
        callback_on_step_end_tensor_inputs=["latents"],
        num_inference_steps=6,
        output_type="latent",
    ).images
    assert seen == [["latents"]] * 2
    assert drawn.shape[-1] == 4
    assert pipeline(num_inference_steps=6, output_type="pt").images.shape[-1] == 8


def test_scheduler_and_pipeline_can_be_pickled_and_copied_in_the_middle_of_a_chain():
    pipeline = small_pipeline()
    use_solver(pipeline, solver="multistep", timestep_spacing="log_snr")
    pipeline.scheduler.set_timesteps(14)
    state = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    first, second = pipeline.scheduler.timesteps.tolist()[:2]
    state = pipeline.scheduler.step(0.1 * state, first, state, torch.Generator().manual_seed(1)).prev_sample
    copies = [copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))]
    expected = pipeline.scheduler.step(0.2 * state, second, state, torch.Generator().manual_seed(2)).prev_sample
    fresh = small_pipeline()
    use_solver(fresh, solver="multistep", timestep_spacing="log_snr")
    fresh.scheduler.set_timesteps(14)
    forgotten = fresh.scheduler.step(0.2 * state, second, state, torch.Generator().manual_seed(2)).prev_sample
    assert (forgotten - expected).abs().max() > 1e-4
    for other in copies:
        _same(other.scheduler.step(0.2 * state, second, state, torch.Generator().manual_seed(2)).prev_sample, expected)
        _same(_draw(other, batch_size=2), _draw(pipeline, batch_size=2))


@pytest.mark.parametrize("kind", [ScaleSpacePipeline, ScaleSpaceScheduler, FlexiUNet])
def test_the_source_of_what_is_saved_can_be_read(kind: type):
    assert inspect.getsource(kind).startswith(f"class {kind.__name__}")


def test_parts_of_other_models_are_refused_also_when_they_are_assigned_later():
    pipeline = small_pipeline()
    with pytest.raises(TypeError, match="DDPMScheduler was given where ScaleSpaceScheduler is needed"):
        pipeline.scheduler = DDPMScheduler()
    with pytest.raises(TypeError, match="Linear was given where a network is needed, and it lacks sizes, in_channels"):
        pipeline.unet = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"states of height and width \(2, 2\) and the network knows"):
        pipeline.scheduler = small_scheduler(sizes=((8, 8), (2, 2)))
    with pytest.raises(ValueError, match="turns 3 channels into 1"):
        pipeline.unet = small_network(out_channels=1)
    assert pipeline(num_inference_steps=3, output_type="pt").images.shape == (1, 3, 8, 8)
    pipeline.scheduler = small_scheduler(solver="ddim")
    assert pipeline.config["scheduler"] == ("scalespace", "ScaleSpaceScheduler")


def test_the_configuration_of_another_scheduler_makes_none(tmp_path):
    DDPMScheduler().save_pretrained(tmp_path)
    config = DDPMScheduler.from_pretrained(tmp_path).config
    for make in (
        lambda: ScaleSpaceScheduler.from_config(config),
        lambda: ScaleSpaceScheduler.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match="the configuration is of a DDPMScheduler, not of a ScaleSpaceScheduler"):
            make()
