import copy
import math
from typing import Any

import pytest
import torch
from tests.networks.test_flexi_unet import awake, state
from tests.small_models import SIZES, small_transformer
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flops import path_gflops
from scalespace.networks.tokens import PLACE_FEATURES, Grid, TokenUpsampling, place_features, rotary, turned
from scalespace.networks.transformer_blocks import (
    HeadNorm,
    RotaryAttentionProcessor,
    TransformerBlock,
    swiglu_features,
)

OCTAVES = ((16, 16), (8, 8), (4, 4))
SESQUI = ((18, 18), (12, 12), (8, 8))
WIDE = ((12, 20), (6, 10), (2, 4))
PAIRS = [(sizes, i, j) for sizes in (OCTAVES, SESQUI, WIDE) for i in range(3) for j in range(i + 1)]


def _predicted(network: Any, size=SIZES[1], target=SIZES[0], **options: Any) -> Tensor:
    with torch.no_grad():
        return network(state(size), torch.tensor([3, 7]), target, **options).sample


@pytest.mark.parametrize(("sizes", "i", "j"), PAIRS)
def test_every_path_gives_the_target_s_size_and_a_batch_is_its_samples_one_by_one(sizes, i, j):
    network, x, times = small_transformer(sizes=sizes), state(sizes[i]), torch.tensor([3, 900])
    with torch.no_grad():
        together = network(x, times, sizes[j]).sample
        assert together.shape == (2, 3, *sizes[j])
        for k in range(2):
            assert_close(together[k : k + 1], network(x[k : k + 1], times[k], sizes[j]).sample, rtol=1e-4, atol=1e-5)


def test_a_new_network_predicts_zero_and_its_blocks_are_the_identity():
    network: Any = FlexiTransformer(sizes=SIZES, patch_size=2, width=16, depth=2, heads=2)
    assert not network(state(SIZES[1]), 7, SIZES[0]).sample.any()
    tokens, turns = torch.randn(2, 5, 16), rotary(torch.rand(5, 2), 8, 4)
    assert torch.equal(TransformerBlock(16, 2)(tokens, torch.zeros(1, 6, 16), turns), tokens)


# Places


@pytest.mark.parametrize(("whole", "small"), [((24, 24), (8, 8)), ((36, 12), (12, 4)), ((40, 60), (8, 12))])
def test_the_same_place_of_the_picture_is_the_same_position_at_both_levels(whole, small):
    # By an odd factor the middle one of the small tokens' parts is the token's own centre.
    factor = whole[0] // small[0]
    large, coarse = (Grid.of(size, whole, 2) for size in (whole, small))
    places = large.places().unflatten(0, (large.rows, large.columns))
    assert_close(places[factor // 2 :: factor, factor // 2 :: factor].flatten(0, 1), coarse.places())
    # The picture's longer side is 1, at all levels.
    assert places.amax() < 1
    assert places.amax() == pytest.approx(1 - 1 / max(whole))


def test_halving_the_sides_leaves_a_token_in_the_middle_of_its_four():
    large, coarse = Grid.of((16, 24), (16, 24), 4), Grid.of((8, 12), (16, 24), 4)
    fours = large.places().reshape(coarse.rows, 2, coarse.columns, 2, 2).mean(dim=(1, 3))
    assert_close(fours.flatten(0, 1), coarse.places())


def test_places_are_told_apart_by_their_features():
    features = place_features(Grid.of((32, 32), (32, 32), 1).places())
    assert features.shape == (1024, PLACE_FEATURES)
    assert torch.cdist(features, features).fill_diagonal_(9).min() > 0.1


def test_products_of_turned_queries_and_keys_know_the_difference_of_places_alone():
    places, (query, key) = torch.rand(6, 2), torch.randn(2, 1, 6, 2, 8)

    def products(moved: Tensor) -> Tensor:
        turns = rotary(moved, 8, 16)
        return torch.einsum("bnhd,bmhd->bhnm", turned(query, *turns), turned(key, *turns))

    assert_close(products(places), products(places + torch.tensor([0.3, -0.2])), rtol=1e-4, atol=1e-4)
    for stretched in ([1.5, 1.0], [1.0, 1.5]):
        assert not torch.allclose(products(places), products(places * torch.tensor(stretched)), atol=0.1)
    assert_close(turned(query, *rotary(places, 8, 16)).norm(dim=-1), query.norm(dim=-1))


def test_angles_run_from_half_a_turn_over_the_picture_to_a_quarter_over_a_patch():
    cosines, _ = rotary(torch.tensor([[1.0, 0.0], [1 / 16, 0.0]]), 16, 16)
    assert cosines.shape == (2, 8)
    assert_close(cosines[:, 0], torch.tensor([-1.0, math.cos(math.pi / 16)]))
    assert_close(cosines[1, 3], torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(cosines[:, 4:], torch.ones(2, 4))


def test_blocks_do_not_care_about_the_order_of_tokens_and_care_about_their_places():
    block: Any = awake(TransformerBlock(16, 2))
    tokens, modulation, places = torch.randn(2, 6, 16), torch.randn(2, 6, 16), torch.rand(6, 2)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    found = block(tokens, modulation, rotary(places, 8, 4))
    assert_close(block(tokens[:, order], modulation, rotary(places[order], 8, 4)), found[:, order])
    assert not torch.allclose(block(tokens, modulation, rotary(places[order], 8, 4)), found, atol=1e-3)


# From a smaller picture to a larger one


def test_a_new_upsampling_repeats_the_token_that_a_place_lies_in():
    tokens = torch.randn(1, 6, 4)
    found = TokenUpsampling(4)(tokens, Grid(2, 3, 1, 1), Grid(4, 6, 1, 1))
    square = tokens.unflatten(1, (2, 3))
    assert torch.equal(found.unflatten(1, (4, 6)), square.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_where_the_sides_double_each_of_the_four_can_have_any_map():
    wanted = torch.randn(2, 2, 4, 4)
    upsampling = TokenUpsampling(4)
    signs = torch.tensor([[1.0, y, x, y * x] for y in (-1, 1) for x in (-1, 1)])
    with torch.no_grad():
        maps = torch.einsum("pq,qij->pij", torch.linalg.inv(signs), (wanted - torch.eye(4)).flatten(0, 1))
        upsampling.maps.weight.copy_(maps.flatten(0, 1))
    tokens = torch.randn(1, 6, 4)
    found = upsampling(tokens, Grid(2, 3, 1, 1), Grid(4, 6, 1, 1)).unflatten(1, (4, 6))
    for y in range(2):
        for x in range(2):
            assert_close(found[:, y::2, x::2], tokens.unflatten(1, (2, 3)) @ wanted[y, x].T)


def test_for_any_ratio_a_token_is_the_polynomial_of_where_it_lies():
    torch.manual_seed(0)
    upsampling: Any = awake(TokenUpsampling(3))
    source, target = Grid(2, 4, 1, 1), Grid(3, 5, 1, 1)
    tokens = torch.randn(2, 8, 3)
    found = upsampling(tokens, source, target)
    parts = upsampling.maps(tokens).unflatten(2, (4, 3))
    for i in range(3):
        for j in range(5):
            y, x = (i + 0.5) * 2 / 3, (j + 0.5) * 4 / 5
            parent, oy, ox = int(y) * 4 + int(x), 4 * (y % 1 - 0.5), 4 * (x % 1 - 0.5)
            a, b, c, d = parts[:, parent].unbind(1)
            assert_close(found[:, i * 5 + j], tokens[:, parent] + a + oy * b + ox * c + oy * ox * d)


@pytest.mark.parametrize("target", [(8, 8), (16, 16)])
def test_without_attention_a_patch_reaches_its_own_part_of_the_picture_alone(target):
    network = small_transformer(sizes=((16, 16), (8, 8)))
    for block in network.blocks:
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.attention.output.bias)
    x = state((8, 8))
    other = x.clone()
    other[:, :, 2:4, 4:6] += 1
    with torch.no_grad():
        change = (network(other, 7, target).sample - network(x, 7, target).sample).abs().amax(dim=(0, 1))
    factor = target[0] // 8
    expected = torch.zeros(target, dtype=torch.bool)
    expected[2 * factor : 4 * factor, 4 * factor : 6 * factor] = True
    assert torch.equal(change > 1e-6, expected)
    with torch.no_grad():
        change = small_transformer(sizes=((16, 16), (8, 8)))(other, 7, target).sample - (
            small_transformer(sizes=((16, 16), (8, 8)))(x, 7, target).sample
        )
    assert (change.abs().amax(dim=(0, 1)) > 1e-6).all()


def test_a_picture_comes_back_from_its_patches():
    network = small_transformer(sizes=WIDE)
    pictures = state(WIDE[0])
    # (channel, row, column) of a patch become (row, column, channel).
    patches = (
        nn.functional.unfold(pictures, 2, stride=2).transpose(1, 2).unflatten(2, (3, 4)).transpose(2, 3).flatten(2)
    )
    assert torch.equal(network._picture(patches, Grid.of(WIDE[0], WIDE[0], 2)), pictures)


# All paths


def test_a_path_trains_all_but_the_upsampling_and_a_change_trains_that_too():
    network = small_transformer(num_classes=3, null_class=True, condition_size=(4, 4))
    labels, small = torch.tensor([0, 3]), {"condition": state((4, 4)), "condition_noise": torch.rand(2)}
    reached = []
    for size, target in ((SIZES[0], SIZES[0]), (SIZES[1], SIZES[1]), (SIZES[1], SIZES[0])):
        network.zero_grad(set_to_none=True)
        network(state(size), torch.tensor([3, 7]), target, labels, **small).sample.square().mean().backward()
        reached.append({n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()})
    names = {name for name, _ in network.named_parameters()}
    assert reached[0] == reached[1] == {name for name in names if not name.startswith("upsampling.")}
    assert reached[2] == names


def test_levels_and_times_are_told():
    network = small_transformer()
    expected = _predicted(network, SIZES[1], SIZES[1])
    nn.init.zeros_(network.level_mlp[0].weight)
    assert not torch.allclose(_predicted(network, SIZES[1], SIZES[1]), expected, atol=1e-4)
    x = state(SIZES[0])
    with torch.no_grad():
        assert not torch.allclose(network(x, 3).sample, network(x, 700).sample, atol=1e-4)
    # The shapes of no parameter know the sizes.
    other = small_transformer(sizes=((12, 20), (6, 10), (2, 4)))
    assert {n: p.shape for n, p in other.named_parameters()} == {n: p.shape for n, p in network.named_parameters()}


@pytest.mark.parametrize(("sizes", "i", "j"), [(OCTAVES, 0, 0), (OCTAVES, 1, 1), (OCTAVES, 2, 1), (SESQUI, 1, 0)])
def test_flops_are_those_of_the_tokens(sizes, i, j):
    width, depth, patch = 24, 3, 2
    with torch.device("meta"):
        network = FlexiTransformer(sizes=sizes, patch_size=patch, width=width, depth=depth, heads=2)
    below, above = ((size[0] // patch) * (size[1] // patch) for size in (sizes[i], sizes[j]))
    inside = swiglu_features(width)

    def blocks(tokens: int, count: int) -> tuple[int, int]:
        """Linear layers, and the products of queries and keys and of weights and values."""
        return count * tokens * (4 * width**2 + 3 * width * inside), count * 2 * tokens**2 * width

    linear = sum(blocks(below, depth // 2) + blocks(above, depth - depth // 2))
    ends = 12 * width * (below + above) + below * PLACE_FEATURES * width
    picture = 256 * width + width**2 + 64 * width + width**2 + 8 * width**2
    change = 0 if i == j else 4 * width**2 * below
    assert path_gflops(network, sizes[i], sizes[j]) * 1e9 == 2 * (linear + ends + picture + change)


def test_half_the_side_costs_a_sixteenth_in_attention_s_products_and_a_quarter_elsewhere():
    with torch.device("meta"):
        networks = [FlexiTransformer(depth=depth) for depth in (2, 3)]

    def block(side: int) -> float:
        more, fewer = (path_gflops(network, (side, side), (side, side)) for network in reversed(networks))
        return more - fewer

    def products(side: int) -> float:
        return 4 * (side / 4) ** 4 * 768 / 1e9

    assert products(64) / products(32) == 16
    assert (block(64) - products(64)) / (block(32) - products(32)) == pytest.approx(4)


def test_a_network_is_compiled_whole_once_for_each_pair_of_sizes():
    network = small_transformer(depth=1)
    counter = CompileCounter()
    compiled: Any = torch.compile(network, backend=counter, fullgraph=True, dynamic=False)
    for size, target in 2 * [(SIZES[0], SIZES[0]), (SIZES[1], SIZES[1]), (SIZES[1], SIZES[0])]:
        assert_close(_predicted(compiled, size, target), _predicted(network, size, target))
    assert counter.frame_count == 3


# Conditions


def test_classes_and_no_class_condition_each_sample():
    network = small_transformer(num_classes=3, null_class=True)
    assert network.no_class == 3
    x = state(SIZES[0], 1)
    with torch.no_grad():
        outputs = [network(x, 7, None, torch.tensor([label])).sample for label in (0, 2, 3)]
        together = network(x.expand(3, -1, -1, -1), 7, None, torch.tensor([0, 2, 3])).sample
    assert_close(together, torch.cat(outputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-3)
    with pytest.raises(ValueError, match="missing for a network of 3 classes"):
        network(x, 7)
    with pytest.raises(ValueError, match="network without classes"):
        small_transformer()(x, 7, None, torch.tensor([0]))


def test_small_pictures_are_joined_to_the_state_and_needed_where_they_are_known():
    network = small_transformer(condition_size=(4, 4))
    small, level = state((4, 4)), torch.tensor([0.2, 0.7])
    expected = _predicted(network, SIZES[0], condition=small, condition_noise=level)
    for other in ((small + 0.1, level), (small, level.flip(0))):
        assert not torch.allclose(
            _predicted(network, SIZES[0], condition=other[0], condition_noise=other[1]), expected, atol=1e-4
        )
    with pytest.raises(ValueError, match=r"are missing and the network's condition_size is \(4, 4\)"):
        network(state(SIZES[0]), 7)


# What diffusers asks


def test_gradient_checkpointing_changes_memory_and_not_gradients():
    network = small_transformer(dropout=0.2).train()
    recomputing: Any = copy.deepcopy(network)
    calls = []

    def counted(module, *args):
        calls.append(module)
        return checkpoint(module, *args, use_reentrant=False)

    recomputing.enable_gradient_checkpointing(counted)
    for one in (network, recomputing):
        torch.manual_seed(3)
        one(state(SIZES[1]), 7, SIZES[0]).sample.square().mean().backward()
    assert calls == list(recomputing.blocks)
    for mine, theirs in zip(network.parameters(), recomputing.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)
    _predicted(recomputing)
    assert len(calls) == 2


def test_processors_of_attention_are_exchanged():
    class Counting(RotaryAttentionProcessor):
        calls = 0

        def __call__(self, *arguments: Any) -> Tensor:
            Counting.calls += 1
            return super().__call__(*arguments)

    network: Any = small_transformer()
    expected = _predicted(network)
    assert set(network.attn_processors) == {f"blocks.{k}.attention.processor" for k in range(2)}
    network.set_attn_processor(Counting())
    assert torch.equal(_predicted(network), expected)
    assert Counting.calls == 2
    network.fuse_qkv_projections()
    assert torch.equal(_predicted(network), expected)


def test_half_precision_runs_in_its_own_type_and_trains():
    network = small_transformer()
    expected = _predicted(network)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = _predicted(network)
        network(state(SIZES[1]), 7, SIZES[0]).sample.float().square().mean().backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
    network.to(torch.bfloat16)
    with torch.no_grad():
        half = network(state(SIZES[1]).bfloat16(), torch.tensor([3, 7]), SIZES[0]).sample
    for prediction in (automatic, half):
        assert prediction.dtype == torch.bfloat16
        assert (prediction - expected).norm() < 0.1 * expected.norm()


def test_weights_may_lie_elsewhere_or_in_few_bits():
    expected = _predicted(small_transformer())
    network: Any = small_transformer()
    network.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(_predicted(network), expected)
    network = small_transformer()
    whole = network.get_memory_footprint()
    network.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert network.get_memory_footprint() < 0.8 * whole
    assert (_predicted(network) - expected).norm() < 0.02 * expected.norm()


def test_a_saved_network_is_the_same_bit_for_bit(tmp_path):
    network = small_transformer(sizes=WIDE, num_classes=2)
    network.save_pretrained(tmp_path)
    loaded: Any = FlexiTransformer.from_pretrained(tmp_path)
    assert loaded.config.sizes == network.config.sizes == WIDE
    with torch.no_grad():
        mine, theirs = (one(state(WIDE[1]), 7, WIDE[0], torch.tensor([0, 1])).sample for one in (network, loaded))
    assert torch.equal(mine, theirs)


def test_head_norm_is_the_root_mean_square_and_a_weight():
    norm: Any = HeadNorm(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.randn(2, 5, 3, 4)
    assert_close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt() * norm.weight, rtol=1e-4, atol=1e-4)
    assert norm(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, r"patches of 3x3 pixels do not divide 16x16 pixels; .*\(the largest is 4\), fewer levels"),
        ({"sizes": ((16, 18), (8, 9))}, r"patches of 2x2 pixels do not divide 8x9 pixels; .*\(the largest is 1\)"),
        ({"sizes": ((8, 8), (16, 16))}, "do not decrease"),
        ({"heads": 3}, "heads 3 do not divide the width 16 into multiples of 4 features"),
        ({"heads": 8}, "heads 8 do not divide the width 16 into multiples of 4"),
        ({"width": 0}, "width holds 0"),
        ({"depth": 0}, "depth holds 0"),
        ({"patch_size": 0}, "patch_size holds 0"),
        ({"depth": 1000}, "can have 256 at most"),
        ({"null_class": True}, "null_class was given to a network without classes"),
        ({"condition_size": (16, 8)}, "is no size of smaller pictures"),
    ],
)
def test_configurations_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_transformer(**{"sizes": OCTAVES} | changes)


def test_unknown_and_smaller_sizes_are_refused_with_the_known_ones():
    network = small_transformer(sizes=OCTAVES)
    with pytest.raises(ValueError, match=r"sample has height and width \(12, 12\).*\(16, 16\), \(8, 8\)"):
        network(state((12, 12)), 7)
    with pytest.raises(ValueError, match=r"target_size \(4, 4\) is smaller than the sample's \(8, 8\)"):
        network(state((8, 8)), 7, (4, 4))
