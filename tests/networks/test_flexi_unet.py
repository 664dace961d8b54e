import copy
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scalespace.networks.blocks import Block, ResidualBlock
from scalespace.networks.flexi_unet import FlexiUNet, network_levels
from scalespace.networks.flops import path_gflops_and_products
from scalespace.networks.layers import group_norm, time_embedding

OCTAVES = ((32, 32), (16, 16), (8, 8), (4, 4))
SESQUI = ((36, 36), (24, 24), (16, 16), (11, 11))
WIDE = ((20, 30), (13, 20), (7, 9))
QUARTERS = ((32, 32), (8, 8))
PLANS = [OCTAVES, SESQUI, WIDE, QUARTERS]
PAIRS = [(sizes, i, j) for sizes in PLANS for i in range(len(sizes)) for j in range(i + 1)]


def awake(network: nn.Module, seed: int = 0) -> Any:
    """The network with random numbers for the parameters that start at zero, so that every layer shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return network


def small(sizes: Iterable[tuple[int, int]] = OCTAVES, **changes: Any) -> Any:
    torch.manual_seed(0)
    fields = {"base_channels": 16, "channel_multipliers": (1, 2, 2, 3), "attention_max_size": 8, **changes}
    return awake(FlexiUNet(sizes=tuple(sizes), **fields))


def state(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def names_that_run(network: nn.Module, call: Callable[[], Tensor]) -> tuple[set[str], Tensor]:
    """Names of the modules with parameters of their own that run in a call, and its result."""
    ran: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, __, name=name: ran.add(name))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        result = call()
    finally:
        for handle in handles:
            handle.remove()
    # The norm between the convolutions is applied through its parameters, not called.
    return ran | {name.replace("conv_out", "norm_out") for name in ran if ".residual.conv_out" in name}, result


def inputs_of(modules: Mapping[str, nn.Module], call: Callable[[], Tensor]) -> dict[str, tuple[Any, ...]]:
    seen: dict[str, tuple[Any, ...]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: seen.update({name: inputs})

    handles = [module.register_forward_pre_hook(recorder(name)) for name, module in modules.items()]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize(
    ("sides", "levels"),
    [
        ((256, 128, 64, 32, 16, 8), (0, 1, 2, 3, 4, 5)),
        ((64, 43, 28, 19), (0, 1, 2, 3)),
        ((64, 16), (0, 2)),
        ((64, 16, 12), (0, 2, 3)),
        ((64,), (0,)),
    ],
)
def test_octaves_map_to_levels_and_smaller_factors_take_one_each(sides, levels):
    assert network_levels([(side, side) for side in sides]) == levels


def test_levels_go_by_the_shorter_side():
    assert network_levels([(64, 96), (32, 24)]) == network_levels([(96, 64), (24, 32)]) == (0, 1)


@pytest.mark.parametrize(("sizes", "i", "j"), PAIRS)
def test_every_path_gives_the_target_size(sizes, i, j):
    network = small(sizes).eval()
    with torch.no_grad():
        prediction = network(state(sizes[i]), 7, sizes[j]).sample
    assert prediction.shape == (2, 3, *sizes[j])
    assert prediction.isfinite().all()
    assert prediction.std() > 0


@pytest.mark.parametrize(("sizes", "i", "j"), PAIRS)
def test_only_the_layers_that_a_path_needs_run_and_get_gradients(sizes, i, j):
    network = small(sizes)
    first, last = network_levels(sizes)[i], network_levels(sizes)[j]
    depth = 4
    expected = (
        ["time_mlp.", "conv_in", "middle.", "head.", f"adapters_in.{first}", f"adapters_out.{last}"]
        + [f"encoder.{level}." for level in range(first, depth)]
        + [f"downsamples.{level}." for level in range(first, depth - 1)]
        + [f"decoder.{level}." for level in range(last, depth)]
        + [f"upsamples.{level}." for level in range(last, depth - 1)]
    )
    needed = {name for name, _ in network.named_parameters() if name.startswith(tuple(expected))}

    ran, prediction = names_that_run(network, lambda: network(state(sizes[i]), 7, sizes[j]).sample)
    prediction.square().mean().backward()
    with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}

    assert {name for name, _ in network.named_parameters() if name.rpartition(".")[0] in ran} == needed
    assert with_gradient == needed


def test_a_batch_is_its_samples_one_by_one():
    network = small().eval()
    x, times = state((8, 8)), torch.tensor([3, 900])
    together = network(x, times, (16, 16)).sample
    for index in range(2):
        alone = network(x[index : index + 1], times[index], (16, 16)).sample
        assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", PLANS)
def test_the_last_change_never_sees_a_resized_input(sizes):
    network = small(sizes).eval()
    x, entrance = state(sizes[1]), network_levels(sizes)[1]
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    seen = inputs_of(convolutions, lambda: network(x, 7, sizes[0]).sample)

    assert seen["conv_in"][0] is x
    above = tuple(f"{part}.{level}." for level in range(entrance) for part in ("upsamples", "decoder"))
    for name, (features,) in seen.items():
        if not name.startswith((*above, "adapters_out.", "head.")):
            assert features.shape[2] <= sizes[1][0], name
            assert features.shape[3] <= sizes[1][1], name


def test_the_released_code_resizes_the_input_of_the_last_change():
    network = small(released_quirks=True).eval()
    seen = inputs_of({"conv_in": network.conv_in}, lambda: network(state((16, 16)), 7, (32, 32)).sample)
    assert seen["conv_in"][0].shape[2:] == (32, 32)
    seen = inputs_of({"conv_in": network.conv_in}, lambda: network(state((8, 8)), 7, (16, 16)).sample)
    assert seen["conv_in"][0].shape[2:] == (8, 8)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 0), (1, 1), (3, 2), (3, 3)])
def test_the_last_decoder_block_of_the_target_runs_except_in_released_networks(i, j):
    for released in (False, True):
        network = small(released_quirks=released).eval()
        ran, _ = names_that_run(network, lambda n=network: n(state(OCTAVES[i]), 7, OCTAVES[j]).sample)
        assert (f"decoder.{j}.blocks.2.residual.conv_in" in ran) is not released
        assert f"decoder.{j}.blocks.1.residual.conv_in" in ran
        # Deeper levels run to their end in both.
        assert all(f"decoder.{level}.blocks.2.residual.conv_in" in ran for level in range(j + 1, 4))


def test_above_the_entrance_skips_are_zeros_and_at_it_the_adapted_input():
    network = small().eval()
    x = state((8, 8))
    decoder = {
        f"{level}.{index}": block for level in range(4) for index, block in enumerate(network.decoder[level].blocks)
    }
    seen = inputs_of(decoder, lambda: network(x, 7, (32, 32)).sample)
    assert all(seen[f"{level}.{index}"][2] is None for level in (0, 1) for index in range(3))
    assert all(seen[f"{level}.{index}"][2] is not None for level in (2, 3) for index in range(3))
    assert_close(seen["2.2"][2], network.adapters_in[2](network.conv_in(x)))

    network = small(released_quirks=True).eval()
    seen = inputs_of({"block": network.decoder[2].blocks[2]}, lambda: network(x, 7, (16, 16)).sample)
    assert seen["block"][2] is None


@pytest.mark.parametrize(("sizes", "i", "j"), PAIRS)
def test_full_paths_run_the_plain_u_net_on_the_enlarged_state_and_shrink_its_output(sizes, i, j):
    full, plain = small(sizes, paths="full").eval(), small(sizes[:1]).eval()
    x = state(sizes[i])
    enlarged = nn.functional.interpolate(x, size=sizes[0], mode="bilinear")
    expected = nn.functional.interpolate(plain(enlarged, 7).sample, size=sizes[j], mode="bilinear", antialias=True)
    ran, prediction = names_that_run(full, lambda: full(x, 7, sizes[j]).sample)
    assert prediction.shape == (2, 3, *sizes[j])
    assert_close(prediction, expected, rtol=1e-4, atol=1e-4)
    assert {name for name in ran if not name.startswith("adapters")} == {
        name.rpartition(".")[0] for name in full.state_dict() if not name.startswith("adapters")
    }


@pytest.mark.parametrize(("sizes", "i", "j"), PAIRS)
def test_shared_paths_run_the_plain_u_net_at_the_size_of_the_target(sizes, i, j):
    shared = small(sizes, paths="shared").eval()
    # Attention is where it is at the full resolution, whatever the size.
    plain = small(sizes[:1]).eval()
    plain.sizes = (sizes[j],)
    x = state(sizes[i])
    enlarged = nn.functional.interpolate(x, size=sizes[j], mode="bilinear")
    ran, prediction = names_that_run(shared, lambda: shared(x, 7, sizes[j]).sample)
    assert prediction.shape == (2, 3, *sizes[j])
    assert_close(prediction, plain(enlarged, 7).sample, rtol=1e-4, atol=1e-4)
    assert {name for name in ran if not name.startswith("adapters")} == {
        name.rpartition(".")[0] for name in shared.state_dict() if not name.startswith("adapters")
    }


def test_shared_paths_have_more_resolutions_than_network_levels_and_a_quarter_of_the_cost_each():
    sizes = tuple((64 >> level, 64 >> level) for level in range(6))
    network = small(sizes, channel_multipliers=(1, 2), attention_max_size=0, paths="shared")
    # Without the products of attention, which grow with the square of the pixels; the layers of the time do not grow.
    costs = [whole - products for whole, products in (path_gflops_and_products(network, size, size) for size in sizes)]
    assert [costs[k] / costs[k + 1] for k in range(3)] == pytest.approx([4, 4, 4], rel=0.03)
    assert network(state((2, 2)), 7, (4, 4)).sample.shape == (2, 3, 4, 4)


def test_at_one_level_other_paths_are_the_network_itself():
    x = state((32, 32))
    for paths in ("full", "shared"):
        assert torch.equal(small(OCTAVES[:1], paths=paths)(x, 7).sample, small(OCTAVES[:1])(x, 7).sample)
    # And nowhere else.
    x = state((8, 8))
    plain, full, shared = (small(paths=paths)(x, 7).sample for paths in ("flexi", "full", "shared"))
    assert not torch.allclose(full, plain)
    assert not torch.allclose(shared, plain)


def test_parameters_are_the_same_for_any_number_of_resolutions_and_with_quirks():
    def shapes(network):
        return {name: parameter.shape for name, parameter in network.named_parameters()}

    assert shapes(small(OCTAVES)) == shapes(small(OCTAVES[:1])) == shapes(small(QUARTERS, released_quirks=True))
    assert shapes(small(OCTAVES)) == shapes(small(OCTAVES, paths="full")) == shapes(small(OCTAVES, paths="shared"))


def test_a_missing_skip_is_zeros():
    block = awake(Block(12, 8, 16, attention_heads=2))
    features, embedding = torch.randn(2, 8, 5, 3), torch.randn(2, 16)
    assert_close(block(features, embedding), block(features, embedding, torch.zeros(2, 4, 5, 3)))
    assert not torch.allclose(block(features, embedding), block(features, embedding, torch.ones(2, 4, 5, 3)))


def test_a_new_block_is_its_shortcut():
    block = Block(8, 8, 16, attention_heads=2)
    features = torch.randn(2, 8, 5, 3)
    assert torch.equal(block.residual(features, torch.randn(2, 16)), features)
    assert torch.equal(block.attention(features), features)


def test_residual_block_is_its_formula():
    torch.manual_seed(0)
    block = awake(ResidualBlock(8, 12, 16)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    x, embedding = torch.randn(2, 8, 6, 5, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)
    scale, shift = block.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
    hidden = block.norm_out(block.conv_in(nn.functional.silu(block.norm_in(x))))
    expected = block.shortcut(x) + block.conv_out(nn.functional.silu((1 + scale) * hidden + shift))
    assert_close(block(x, embedding), expected)


def test_time_embedding_has_cosines_first_and_periods_from_2_pi_up():
    embedding = time_embedding(torch.tensor([0, 3]), 8)
    assert_close(embedding[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    three = torch.tensor(3.0)
    assert_close(embedding[1, [0, 4]], torch.stack([three.cos(), three.sin()]))
    # Four frequencies, 10000^(-k / 4): the second is 1 / 10.
    assert_close(embedding[1, 1], torch.tensor(3.0 / 10).cos())


def test_a_new_network_predicts_zero():
    network = FlexiUNet(sizes=OCTAVES, base_channels=16)
    assert not network(state((8, 8)), 7, (16, 16)).sample.any()


def test_times_may_be_a_number_or_a_tensor():
    network = small().eval()
    x = state((8, 8))
    expected = network(x, torch.tensor([40, 40])).sample
    for time in (40, 40.0, torch.tensor(40), torch.tensor([40])):
        assert_close(network(x, time).sample, expected)
    assert not torch.allclose(network(x, 41).sample, expected)
    with pytest.raises(ValueError, match=r"timestep has shape \(3,\) for a batch of 2"):
        network(x, torch.tensor([1, 2, 3]))


def test_tuple_output_is_the_sample():
    network = small().eval()
    (prediction,) = network(state((8, 8)), 7, return_dict=False)
    assert_close(prediction, network(state((8, 8)), 7).sample)


@pytest.mark.parametrize("options", [{}, {"released_quirks": True}, {"paths": "full"}, {"paths": "shared"}], ids=str)
def test_saved_and_loaded_networks_are_equal_bit_for_bit(tmp_path, options):
    network = small(WIDE, num_classes=3, **options).eval()
    network.save_pretrained(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    loaded: Any = FlexiUNet.from_pretrained(tmp_path)
    assert loaded.config.sizes == network.config.sizes == WIDE
    assert loaded.state_dict().keys() == network.state_dict().keys()
    labels = torch.tensor([0, 2])
    for i, j in ((0, 0), (2, 1), (1, 0)):
        x = state(WIDE[i])
        assert torch.equal(loaded(x, 7, WIDE[j], labels).sample, network(x, 7, WIDE[j], labels).sample)


def test_gradient_checkpointing_changes_memory_and_not_gradients():
    network = small(dropout=0.2)
    recomputing = copy.deepcopy(network)
    calls = []

    def counted(module, *args):
        calls.append(module)
        return checkpoint(module, *args, use_reentrant=False)

    recomputing.enable_gradient_checkpointing(counted)
    for one in (network, recomputing):
        torch.manual_seed(3)
        one(state((16, 16)), 7, (32, 32)).sample.square().mean().backward()
    # Three encoder levels of two blocks, the middle's two, four decoder levels of three.
    assert len(calls) == 3 * 2 + 2 + 4 * 3
    for mine, theirs in zip(network.parameters(), recomputing.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)

    with torch.no_grad():
        recomputing(state((16, 16)), 7, (32, 32))
    assert len(calls) == 20
    recomputing.disable_gradient_checkpointing()
    recomputing(state((16, 16)), 7, (32, 32))
    recomputing.enable_gradient_checkpointing()
    recomputing(state((16, 16)), 7, (32, 32)).sample.sum().backward()
    assert len(calls) == 20


def test_dropout_works_in_training_only():
    network = small(dropout=0.5)
    x = state((8, 8))
    assert not torch.allclose(network(x, 7).sample, network(x, 7).sample)
    network.eval()
    assert torch.equal(network(x, 7).sample, network(x, 7).sample)


def test_classes_condition_each_sample():
    network = small(num_classes=4).eval()
    x = state((8, 8), batch=1).expand(2, -1, -1, -1)
    same, other = (
        network(x, 7, class_labels=torch.tensor([1, 1])).sample,
        network(x, 7, class_labels=torch.tensor([1, 3])).sample,
    )
    assert_close(same[0], other[0])
    assert not torch.allclose(same[1], other[1])


def test_class_labels_are_required_exactly_where_there_are_classes():
    x = state((8, 8))
    with pytest.raises(ValueError, match="missing for a network of 4 classes"):
        small(num_classes=4)(x, 7)
    with pytest.raises(ValueError, match="network without classes"):
        small()(x, 7, class_labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"class_labels have shape \(3,\); expected \(2,\)"):
        small(num_classes=4)(x, 7, class_labels=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("options", [{}, {"paths": "full"}, {"paths": "shared"}], ids=str)
def test_small_pictures_are_enlarged_and_joined_to_the_state_and_their_noise_is_told(options):
    network = small(condition_size=(6, 5), **options).eval()
    x, condition, level = state((16, 16)), state((6, 5)), torch.tensor([0.2, 0.7])
    entrance = (32, 32) if options else (16, 16)

    def predict(condition: Tensor, level: Tensor) -> Tensor:
        return network(x, 7, (32, 32), condition=condition, condition_noise=level).sample

    seen = inputs_of({"conv_in": network.conv_in}, lambda: predict(condition, level))["conv_in"][0]
    joined = [nn.functional.interpolate(part, size=entrance, mode="bilinear") for part in (x, condition)]
    assert_close(seen, torch.cat(joined, dim=1))
    expected = predict(condition, level)
    for other in (predict(condition + 0.1, level), predict(condition, level.flip(0))):
        assert (other - expected).flatten(1).norm(dim=1).min() > 1e-3


def test_small_pictures_are_required_exactly_where_they_are_known(tmp_path):
    x, condition, level = state((8, 8)), state((4, 4)), torch.zeros(2)
    network = small(condition_size=(4, 4)).eval()
    with pytest.raises(ValueError, match=r"are missing and the network's condition_size is \(4, 4\)"):
        network(x, 7)
    with pytest.raises(ValueError, match="are missing"):
        network(x, 7, condition=condition)
    with pytest.raises(ValueError, match="are given and the network's condition_size is None"):
        small()(x, 7, condition=condition, condition_noise=level)
    with pytest.raises(ValueError, match=r"have height and width \(8, 8\), not \(4, 4\); resize them"):
        network(x, 7, condition=x, condition_noise=level)
    network.save_pretrained(tmp_path)
    loaded: Any = FlexiUNet.from_pretrained(tmp_path)
    expected = network(x, 7, condition=condition, condition_noise=level).sample
    assert torch.equal(loaded(x, 7, condition=condition, condition_noise=level).sample, expected)


def test_unknown_and_smaller_sizes_are_refused_with_the_known_ones():
    network = small()
    with pytest.raises(ValueError, match=r"sample has height and width \(12, 12\).*\(32, 32\), \(16, 16\)"):
        network(state((12, 12)), 7)
    with pytest.raises(ValueError, match=r"target_size has height and width \(64, 64\).*\(32, 32\), \(16, 16\)"):
        network(state((16, 16)), 7, (64, 64))
    with pytest.raises(ValueError, match=r"target_size \(8, 8\) is smaller than the sample's \(16, 16\)"):
        network(state((16, 16)), 7, (8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sizes": ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4))},
            "need 5 network levels .* gives 4, which fit the first 4",
        ),
        ({"sizes": ((64, 64), (4, 4))}, "need 5 network levels .* gives 4, which fit the first 1"),
        ({"sizes": ((32, 32), (64, 64))}, r"do not decrease from \(32, 32\) to \(64, 64\)"),
        ({"sizes": ((32, 32), (32, 32))}, "each once"),
        ({"sizes": ()}, "not pairs"),
        ({"sizes": ((32,),)}, "not pairs"),
        ({"base_channels": 15}, "base_channels is 15"),
        ({"channel_multipliers": (1, 2, 0, 1)}, "channel_multipliers holds 0"),
        ({"blocks_per_level": 0}, "blocks_per_level holds 0"),
        ({"num_classes": 0}, "num_classes holds 0"),
        ({"attention_heads": 5}, "attention_heads 5 does not divide the .* channels"),
        ({"condition_size": (32, 8)}, r"condition_size \(32, 8\) is no size of smaller pictures than \(32, 32\)"),
        ({"condition_size": (0, 8)}, r"condition_size \(0, 8\) is no size"),
        ({"paths": "short"}, 'paths "short" are unknown; use "flexi", "shared" or "full"'),
        ({"paths": "shared", "released_quirks": True}, 'released_quirks are of paths "flexi" and "full"'),
    ],
)
def test_configurations_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize("paths", ["flexi", "shared", "full"])
def test_half_precision_runs_in_its_own_type(paths):
    network = small(SESQUI, paths=paths).eval()
    x = state((16, 16))
    with torch.no_grad():
        expected = network(x, 500, (24, 24)).sample
        with torch.autocast("cpu", torch.bfloat16):
            automatic = network(x, 500, (24, 24)).sample
        network.to(torch.bfloat16)
        half = network(x.bfloat16(), 500, (24, 24)).sample
    for prediction in (automatic, half):
        assert prediction.dtype == torch.bfloat16
        assert (prediction - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("paths", ["flexi", "shared"])
def test_a_path_compiles_to_one_graph(paths):
    network = small(SESQUI, paths=paths).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    x, times = state((16, 16)), torch.tensor([5, 6])
    assert_close(compiled(x, times, (24, 24)).sample, network(x, times, (24, 24)).sample)


MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}


def gigaflops(side: int, levels: int, released: bool) -> dict[tuple[int, int], float]:
    """GFLOPs of one sample on each path (input level, output level) that a chain takes; a multiply-add is two."""
    sizes = tuple((side >> level, side >> level) for level in range(levels))
    with torch.device("meta"):
        network: Any = FlexiUNet(sizes=sizes, channel_multipliers=MULTIPLIERS[side], released_quirks=released)
        counts = {}
        for i, j in [(0, 0), *((low, high) for low in range(1, levels) for high in (low, low - 1))]:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, *sizes[i]), torch.empty(1), sizes[j])
            counts[i, j] = counter.get_total_flops() / 1e9
    return counts


@pytest.mark.parametrize(
    ("side", "released", "expected"),
    [
        (64, False, 60.6),
        (128, False, 132.9),
        (256, False, 497.8),
        (64, True, 56.7),
        (128, True, 117.3),
        (256, True, 435.5),
    ],
)
def test_plain_networks_cost_what_adm_costs(side, released, expected):
    assert gigaflops(side, 1, released)[0, 0] == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("side", "levels", "expected"),
    [(64, 2, 51.2), (64, 4, 39.0), (128, 3, 87.9), (128, 5, 67.2), (256, 4, 273.7), (256, 6, 210.4)],
)
def test_chains_of_released_networks_cost_what_was_counted_on_average(side, levels, expected):
    steps = 1000
    # ConvexDecay(0.5): level floor(n (1 - (1 - tau)^0.5)), tau = i / (T - 1).
    level = [min(levels - 1, int(levels * (1 - (1 - i / (steps - 1)) ** 0.5))) for i in range(steps)]
    cost = gigaflops(side, levels, released=True)
    average = sum(cost[level[i], level[max(i - 1, 0)]] for i in range(steps)) / steps
    assert average == pytest.approx(expected, rel=0.005)


def test_other_channels_than_its_own_are_refused():
    network = FlexiUNet(sizes=((8, 8),), in_channels=2, out_channels=5, base_channels=8, channel_multipliers=(1,))
    assert network(torch.zeros(1, 2, 8, 8), 0).sample.shape == (1, 5, 8, 8)
    with pytest.raises(ValueError, match="sample has 3 channels, and the network takes 2"):
        network(torch.zeros(1, 3, 8, 8), 0)


def test_narrow_levels_keep_the_brightness_of_the_picture():
    """Groups of one channel would give every picture the same mean in every channel before the head."""

    @torch.no_grad()
    def brightness_kept(network: Any) -> float:
        features = torch.randn(64, 32, 8, 8) + torch.randn(64, 32, 1, 1)
        means = network.head[0](features).mean(dim=(2, 3))
        return float(means.std(dim=0).mean())

    torch.manual_seed(0)
    assert brightness_kept(small(base_channels=32, min_channels_per_group=1)) < 1e-6
    assert brightness_kept(small(base_channels=32)) > 0.5
    groups = {
        name: module for name, module in small(base_channels=32).named_modules() if isinstance(module, nn.GroupNorm)
    }
    assert all(norm.num_channels // norm.num_groups >= 4 for norm in groups.values())


@pytest.mark.parametrize("channels", [128, 256, 384, 640])
def test_wide_levels_have_the_32_groups_of_adm(channels):
    assert group_norm(channels, 4).num_groups == group_norm(channels, 1).num_groups == 32


def test_networks_saved_before_the_choice_keep_their_groups(tmp_path):
    network = small(base_channels=32, min_channels_per_group=1)
    network.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["min_channels_per_group"]
    file.write_text(json.dumps(config))
    loaded = FlexiUNet.from_pretrained(tmp_path)
    assert loaded.config["min_channels_per_group"] == 1
    assert loaded.head[0].num_groups == 32
