import pytest
import torch
from tests.small_models import SIZES, small_network

from scalespace.networks.transfer import take_weights


def _outputs(network, **inputs) -> torch.Tensor:
    state = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return network(state, torch.tensor([3, 7]), SIZES[0], **inputs).sample


def test_a_network_that_takes_all_weights_computes_the_same():
    source, network = small_network(0), small_network(1)
    assert not torch.allclose(_outputs(network), _outputs(source))
    found = take_weights(network, source)
    assert torch.equal(_outputs(network), _outputs(source))
    assert (found.taken, found.anew, found.left_out, found.meanings) == (found.parameters, (), (), ())
    assert found.parameters == sum(value.numel() for value in source.parameters())


def test_other_resolutions_take_all_weights():
    source, network = small_network(0), small_network(1, sizes=((8, 8), (6, 6)))
    assert take_weights(network, source).taken == sum(value.numel() for value in source.parameters())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


def test_other_classes_are_drawn_anew_and_all_else_is_taken():
    source, network = small_network(0, num_classes=3), small_network(1, num_classes=5)
    table = network.class_embedding.weight.clone()
    found = take_weights(network, source)
    assert found.anew == found.left_out == ("the embedding of classes (3 there, 5 here)",)
    assert found.parameters - found.taken == table.numel()
    assert torch.equal(network.class_embedding.weight, table)
    assert all(
        torch.equal(value, source.state_dict()[name])
        for name, value in network.state_dict().items()
        if not name.startswith("class_embedding")
    )


def test_attention_that_only_one_has_is_told_on_its_side():
    # At 8 pixels both levels have attention; at 4, the lower one.
    more, fewer = small_network(0, attention_max_size=8), small_network(1)
    found = take_weights(small_network(2), more)
    assert (found.anew, found.left_out) == (
        (),
        ("the attention in decoder.0, encoder.0, which this network has none of",),
    )
    found = take_weights(small_network(2, attention_max_size=8), fewer)
    assert found.anew == ("the attention in decoder.0, encoder.0, which the model has none of",)
    assert found.taken == sum(value.numel() for value in fewer.parameters())


def test_weights_that_mean_something_else_are_told():
    found = take_weights(small_network(0), small_network(1, attention_heads=4))
    assert found.meanings == ("network.attention_heads is 4 there and 2 here",)
    assert found.taken == found.parameters


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"base_channels": 12}, "network.base_channels is 12 there and 8 here"),
        ({"channel_multipliers": (1, 3)}, r"network.channel_multipliers is \(1, 3\) there and \(1, 2\) here"),
        ({"blocks_per_level": 2}, "network.blocks_per_level is 2 there and 1 here"),
        ({"in_channels": 1}, "process.channels is 1 there and 3 here"),
        ({"condition_size": (4, 4)}, r"network.condition_size is \(4, 4\) there and None here"),
    ],
)
def test_what_cannot_fit_is_refused_by_the_name_of_the_option_and_nothing_is_changed(options, difference):
    network = small_network(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{difference}$"):
        take_weights(network, small_network(1, **options))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_small_pictures_of_another_size_take_all_weights():
    source, network = small_network(0, condition_size=(4, 4)), small_network(1, condition_size=(2, 2))
    assert take_weights(network, source).taken == sum(value.numel() for value in source.parameters())
