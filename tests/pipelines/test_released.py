from typing import Any

import pytest
import torch
from tests.golden_vectors import GOLDEN_CASES, golden_case

from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.released import export_released_state, import_released_state, released_network


def random_network(**fields: Any) -> Any:
    torch.manual_seed(0)
    network = FlexiUNet(**fields)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network.eval()


def test_the_quirks_are_what_makes_the_difference():
    case = golden_case("small32_3L")
    released: Any = released_network(case.parameters(), levels=3)
    ours: Any = FlexiUNet(**{**released.config, "released_quirks": False})
    ours.load_state_dict(released.state_dict())
    ours.eval()
    for t in case.timesteps:
        with torch.no_grad():
            prediction = ours(case.array(t, "x_t"), t, case.array(t, "x_rs").shape[2:]).sample
        assert not torch.allclose(prediction, case.array(t, "net"), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_architecture_is_read_off_names_and_shapes(name):
    case = golden_case(name)
    network: Any = released_network(case.parameters(), levels=1)
    assert network.config.base_channels == case.base_channels
    assert network.config.channel_multipliers == case.channel_multipliers
    assert network.config.blocks_per_level == 2
    assert network.config.attention_max_size == 16
    assert network.config.num_classes is None
    assert network.config.released_quirks
    assert network.sizes == ((case.image_size, case.image_size),)
    assert not network.training


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": ((32, 32), (16, 16)), "channel_multipliers": (1, 2), "num_classes": 3},
        {"sizes": ((64, 64), (32, 32)), "channel_multipliers": (1, 1, 3), "blocks_per_level": 1, "in_channels": 1},
        {"sizes": ((32, 32),), "channel_multipliers": (2, 2, 1), "attention_max_size": 0, "blocks_per_level": 3},
    ],
)
def test_any_architecture_survives_the_released_layout(fields):
    network = random_network(base_channels=16, released_quirks=True, min_channels_per_group=1, **fields)
    state = export_released_state(network)
    assert len(state) == len(network.state_dict())
    back: Any = released_network(state, levels=len(network.sizes))
    assert back.sizes == network.sizes
    x = torch.randn(2, network.config.in_channels, *network.sizes[-1])
    labels = torch.tensor([0, 2]) if network.config.num_classes else None
    assert torch.equal(back(x, 7, class_labels=labels).sample, network(x, 7, class_labels=labels).sample)


def test_image_size_must_be_given_where_no_adapter_tells_it():
    state = export_released_state(
        random_network(sizes=((16, 16), (8, 8)), base_channels=16, channel_multipliers=(1, 1))
    )
    with pytest.raises(ValueError, match="does not tell the image size; give image_size"):
        released_network(state, levels=2)
    network: Any = released_network(state, levels=2, image_size=16)
    assert network.sizes == ((16, 16), (8, 8))


def test_states_that_do_not_fit_are_refused_with_the_first_names():
    network = random_network(sizes=((16, 16), (8, 8)), base_channels=16, channel_multipliers=(1, 2))
    state = export_released_state(network)

    with pytest.raises(ValueError, match=r"lacks time_embed\.0\.weight of this network"):
        import_released_state({name: value for name, value in state.items() if name != "time_embed.0.weight"}, network)
    without = {name: value for name, value in state.items() if not name.startswith("input_blocks.1.")}
    with pytest.raises(ValueError, match=r"lacks input_blocks.1.0.in_layers.0.weight, .* and \d+ more"):
        import_released_state(without, network)
    with pytest.raises(ValueError, match="has ema_rate, for which the network has no place"):
        import_released_state({**state, "ema_rate": torch.zeros(1)}, network)
    with pytest.raises(ValueError, match=r"out.2.bias has shape \(4,\) and the network's head.2.bias has \(3,\)"):
        import_released_state({**state, "out.2.bias": torch.zeros(4)}, network)
    with pytest.raises(ValueError, match=r"no time_embed\.0\.weight, so it is not of the released layout"):
        released_network({"weight": torch.zeros(1)}, levels=2)


def test_import_leaves_the_network_alone_and_fills_every_parameter():
    network = random_network(sizes=((16, 16), (8, 8)), base_channels=16, channel_multipliers=(1, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    doubled = import_released_state(
        {name: 2 * value for name, value in export_released_state(network).items()}, network
    )
    assert doubled.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value)
        assert torch.equal(doubled[name], 2 * value)
