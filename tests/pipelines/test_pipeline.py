import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from tests.small_models import small_pipeline, small_scheduler
from torch.testing import assert_close

from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pictures import Trajectory, image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline


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
        seen.append((step, timestep, tuple(tensors["sample"].shape), tuple(tensors["pred_original_sample"].shape)))
        return tensors

    pipeline(2, num_inference_steps=3, callback_on_step_end=look)
    assert [entry[0] for entry in seen] == list(range(len(seen)))
    assert [entry[1] for entry in seen] == pipeline.scheduler.timesteps.tolist()
    assert {entry[2] for entry in seen} == {(2, 3, 4, 4), (2, 3, 8, 8)}
    assert all(entry[2] == entry[3] for entry in seen)

    images = pipeline(
        1,
        num_inference_steps=3,
        callback_on_step_end=lambda *seen: {"sample": torch.ones_like(seen[3]["sample"])},
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
    pipeline(1, num_inference_steps=2, callback_on_step_end=lambda *seen: kept.append(seen[3]["sample"].dtype) or {})
    assert set(kept) == {torch.float32}


def test_refuses_parts_that_know_one_resolution_only(pipeline):
    with pytest.raises(TypeError, match="DDPMScheduler was given where ScaleSpaceScheduler is needed"):
        ScaleSpacePipeline(pipeline.unet, DDPMScheduler())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Linear was given where FlexiUNet is needed"):
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
